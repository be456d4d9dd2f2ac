r"""Solutions in closed form, each of one mode: s its singular value, d the variance of its input.

Time is in units of tau: gradient descent with rate :math:`\eta` makes :math:`\tau/\eta` steps in a
unit. All are functions of arrays, and run under jit, vmap and grad, but for those that invert a
time by iteration or sum over roots.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_BISECTIONS = 200  # of a time that is inverted: more than there are digits


def two_layer(t: Any, s: Any, u0: Any, d: Any = 1.0, tau: float = 1.0) -> jax.Array:
    r"""Two layers of equal strength, :math:`\tau \dot u = 2u(s - du)`, from :math:`u_0 > 0`.

    .. math:: u(t) = \frac{s/d}{1 + (s/(d u_0) - 1) e^{-2st/\tau}}.

    Source:
      Saxe, McClelland & Ganguli, arXiv:1312.6120.
    """
    t, s, u0, d = (jnp.asarray(z, float) for z in (t, s, u0, d))
    return s / d / (1 + (s / (d * u0) - 1) * jnp.exp(-2 * s * t / tau))


def two_layer_time(u: Any, s: Any, u0: Any, d: Any = 1.0, tau: float = 1.0) -> jax.Array:
    r"""When :func:`two_layer` is at u: :math:`\frac{\tau}{2s}\ln\frac{u(s-du_0)}{u_0(s-du)}`."""
    u, s, u0, d = (jnp.asarray(z, float) for z in (u, s, u0, d))
    return tau / (2 * s) * jnp.log(u * (s - d * u0) / (u0 * (s - d * u)))


def two_layer_unbalanced(
    t: Any, s: Any, a0: Any, b0: Any, d: Any = 1.0, tau: float = 1.0
) -> jax.Array:
    r"""Two layers of unequal strengths, :math:`\tau\dot a = b(s-dab),\ \tau\dot b = a(s-dab)`.

    The product ab at t. With :math:`c = |a_0^2 - b_0^2| > 0`, which is conserved, and the larger
    strength :math:`\pm\sqrt c\cosh(\theta/2)`, the smaller :math:`\sqrt c\sinh(\theta/2)`,
    :math:`z = \tanh(\theta/2)` obeys a Riccati equation with constant coefficients.

    Source:
      derived; the aligned case of Domine et al., arXiv:2409.14623, which was not read.
    """
    t, s, a0, b0, d = (jnp.asarray(z, float) for z in (t, s, a0, b0, d))
    c = jnp.abs(a0**2 - b0**2)
    is_first = jnp.abs(a0) > jnp.abs(b0)
    larger, smaller = jnp.where(is_first, a0, b0), jnp.where(is_first, b0, a0)
    sign = jnp.sign(larger)  # of the larger one, which never changes
    # With (a, b) -> (sign a, sign b) the equations are the same.
    first = jnp.arcsinh(sign * smaller / jnp.sqrt(c))  # theta / 2
    root = jnp.sqrt(d**2 * c**2 + 4 * s**2)
    high, low = (-d * c + root) / (2 * s), (-d * c - root) / (2 * s)
    z0 = jnp.tanh(first)
    q = (z0 - high) / (z0 - low) * jnp.exp(-root * t / tau)
    z = (high - low * q) / (1 - q)
    return c * z / (1 - z**2)


def deep_time(u: Any, s: Any, u0: Any, depth: int, rate: Any = 1.0, tau: float = 1.0) -> jax.Array:
    r"""When :math:`\tau\dot u = \text{rate}\, L u^{2-2/L}(s-u)`, of depth L, comes from u0 to u.

    .. math:: t = \frac{\tau}{L\,\text{rate}}\,[F(u) - F(u_0)], \quad
       F(u) = \frac{u^k}{sk}\;{}_2F_1(1, k; k+1; u/s), \quad k = 2/L - 1

    for L > 2; for L = 2 as :func:`two_layer_time`. Times of layers of equal strength and white
    inputs; ``rate`` is that of :func:`race_rate`.

    Source:
      derived; the equation is that of Saxe, McClelland & Ganguli, arXiv:1312.6120.
    """
    if depth < 2:
        raise ValueError(f"depth must be 2 or more, got {depth}")
    u, s, u0, rate = (jnp.asarray(z, float) for z in (u, s, u0, rate))
    if depth == 2:
        return two_layer_time(u, s, u0, tau=tau) / rate
    k = 2 / depth - 1
    whole = lambda u: u**k / (s * k) * _hypergeometric(k, u / s)
    return tau / (depth * rate) * (whole(u) - whole(u0))


def _hypergeometric(k: float, x: Any) -> Any:
    """2F1(1, k; k+1; x) by SciPy, for JAX's series is slow near 1; not under jit."""
    from scipy.special import hyp2f1

    return jnp.asarray(hyp2f1(1.0, k, k + 1.0, np.asarray(x)))


def deep(t: Any, s: float, u0: float, depth: int, rate: float = 1.0, tau: float = 1.0) -> jax.Array:
    """What :func:`deep_time` is the time of, at times t: by halving, to rounding errors."""
    t = np.asarray(t, float)
    if depth == 2:
        return two_layer(t * rate, s, u0, tau=tau)
    low, high = np.full(t.shape, float(u0)), np.full(t.shape, float(s))
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        is_later = np.asarray(deep_time(middle, s, u0, depth, rate, tau)) > t
        low, high = np.where(is_later, low, middle), np.where(is_later, middle, high)
    return jnp.asarray(0.5 * (low + high))


def riccati(t: Any, w1: Any, w2: Any, sigma_yx: Any, tau: float = 1.0) -> jax.Array:
    r"""Two layers with white inputs from balanced matrices, :math:`W_1W_1^\top = W_2^\top W_2`.

    No alignment is needed. With :math:`Q = [W_1^\top; W_2]` and
    :math:`F = [[0, \Sigma^\top], [\Sigma, 0]]`,

    .. math:: QQ^\top(t) = e^{Ft/\tau} Q_0 \big[I + Q_0^\top J Q_0\big]^{-1} Q_0^\top e^{Ft/\tau},
       \quad J = \tfrac1\tau \int_0^t e^{2Fs/\tau} ds.

    Args:
      t: a time, 0 or more.
      w1: ``(hidden, in)``, at time 0.
      w2: ``(out, hidden)``, at time 0.
      sigma_yx: ``(out, in)``.
      tau: the unit of time.

    Returns:
      :math:`QQ^\top(t)`, ``(in + out, in + out)``; its lower left block is :math:`W_2 W_1`.

    Source:
      Fukumizu 1998, and Braun et al., "Exact learning dynamics of deep linear networks with prior
      knowledge" (PMC10955603), from memory.
    """
    w1, w2, sigma = (jnp.asarray(z, float) for z in (w1, w2, sigma_yx))
    out, size = sigma.shape
    whole = jnp.zeros((size + out, size + out)).at[:size, size:].set(sigma.T)
    values, vectors = jnp.linalg.eigh(whole.at[size:, :size].set(sigma))
    rotated = vectors.T @ jnp.concatenate([w1.T, w2])
    # e^{Ft} overflows, and long before that the smaller modes are lost beside the largest one. So
    # in parts, each from where the last one ended, in which no mode grows by more than e.
    x = values * jnp.asarray(t, float) / tau
    parts = jnp.maximum(jnp.ceil(jnp.max(jnp.abs(x))), 1)
    x = x / parts
    is_zero = jnp.abs(x) < 1e-8
    # (e^{2x} - 1) / 2x times the time of a part.
    quotient = jnp.expm1(2 * x) / jnp.where(is_zero, 1, 2 * x)
    integral = jnp.where(is_zero, 1 + x, quotient) * jnp.asarray(t, float) / tau / parts

    def part(_, square):
        # Q (I + Q^T J Q)^-1 Q^T = (I + Q Q^T J)^-1 Q Q^T
        inner = jnp.eye(len(x)) + square * integral[None, :]
        middle = jnp.linalg.solve(inner, square)
        grown = jnp.exp(x)[:, None] * middle * jnp.exp(x)[None, :]
        return (grown + grown.T) / 2

    end = jax.lax.fori_loop(0, parts.astype(int), part, rotated @ rotated.T)
    return vectors @ end @ vectors.T


def xor_loss(t: Any, u0: Any, tau: float = 1.0) -> jax.Array:
    r"""XoR by four pathways of two layers, each gated on for one point.

    :math:`\tfrac12(1 - \sqrt2\,u(t))^2` with :func:`two_layer` of s = sqrt(2)/4, d = 1/2, the loss
    being a mean over the four points.
    """
    u = two_layer(t, 2**0.5 / 4, u0, 0.5, tau)
    return 0.5 * (1 - 2**0.5 * u) ** 2


def race_rate(counts: Any, weight: Any, depth: int) -> jax.Array:
    r"""How fast equal pathways learn together, :math:`c\,(\prod_e n_e)^{1/L}`.

    ``n_e`` is the number of trained paths through an edge of a path, ``c`` what the examples of one
    path weigh together. Alone, of weight 1, a path has rate 1; see :func:`deep_time`.

    Args:
      counts: ``(.., L)``: paths through the edges of a path.
      weight: c.
      depth: L, the number of edges of a path.

    Source:
      derived.
    """
    counts = jnp.asarray(counts, float)
    if counts.shape[-1] != depth:
        raise ValueError(f"counts must have {depth} numbers, one for each edge, got {counts.shape}")
    return weight * jnp.prod(counts, axis=-1) ** (1 / depth)


def max_stable_rate(counts: Any, weight: Any, depth: int, s: Any) -> jax.Array:
    r"""The largest rate at which gradient descent is stable at the minimum of equal pathways.

    :math:`2 / (c L (\prod_e n_e)^{1/L} s_{\max}^{2 - 2/L})`; s may hold several values.

    Source:
      derived.
    """
    top = jnp.max(jnp.asarray(s, float))
    return 2 / (depth * race_rate(counts, weight, depth) * top ** (2 - 2 / depth))


def routing_time(
    b2: Any,
    s: float,
    num_domains: float,
    num_trained: float,
    b0: float,
    weight: float | None = None,
) -> np.ndarray:
    r"""When the shared edge of a routing network is at b2, all edges beginning with b0.

    .. math:: \dot b_2 = c K (b_2^2 + C)\big(s - b_2 (b_2^2 + C)/M\big), \quad C = (M - 1) b_0^2,

    by partial fractions over the roots of both factors.

    Args:
      b2: strengths of the shared edge, between b0 and the end.
      s: singular value of the mode.
      num_domains: M, of inputs and of outputs.
      num_trained: K outputs that each input is trained with.
      b0: strength of all edges at time 0.
      weight: c, of each trained pair in the loss; 1 / M^2 by default.

    Source:
      derived from the equations of Saxe, Sodhani & Lewallen's supplement, with the sign of its
      hyperbolic form corrected.
    """
    if num_domains < 2:
        raise ValueError(f"num_domains must be 2 or more, got {num_domains}")
    c = 1 / num_domains**2 if weight is None else weight
    offset = (num_domains - 1) * b0**2
    # dt = db M / (c K (b^2 + C)(M s - b^3 - C b))
    below = np.polymul([1.0, 0.0, offset], [-1.0, 0.0, -offset, num_domains * s])
    roots = np.roots(below)
    residues = 1 / np.polyval(np.polyder(below), roots)
    b2 = np.asarray(b2, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log((b2[..., None] - roots) / (b0 - roots))
        found = np.real(np.sum(residues * logs, axis=-1)) * num_domains / (c * num_trained)
    return np.where(np.isnan(found), np.inf, found)  # at the end


def routing_modes(
    t: Any, s: float, num_domains: float, num_trained: float, b0: float, weight: float | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Strengths of the edges of a routing network at times t: into, shared, and out of the middle.

    The inverse of :func:`routing_time`, by halving.
    """
    t = np.asarray(t, float)
    offset = (num_domains - 1) * b0**2
    end = np.roots([1.0, 0.0, offset, -num_domains * s])
    low, high = np.full(t.shape, b0), np.full(t.shape, end[np.abs(end.imag) < 1e-9].real.max())
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        is_later = routing_time(middle, s, num_domains, num_trained, b0, weight) > t
        low, high = np.where(is_later, low, middle), np.where(is_later, middle, high)
    shared = 0.5 * (low + high)
    outer = np.sqrt((shared**2 + offset) / num_domains)
    return outer, shared, outer
