"""Losses of margins in the log domain, so that a margin of 1000 still trains in float32."""

from typing import Literal

import jax
import jax.numpy as jnp

from jaxrobust import trees
from jaxrobust.linear._checks import Array, check_array

Loss = Literal["exponential", "logistic"]
LOSSES = ("exponential", "logistic")


def log_loss(margins: Array, loss: Loss = "logistic", *, where: Array | None = None) -> jax.Array:
    r"""Logarithm of the *mean* loss, :math:`\log \frac1n\sum_i \ell(m_i)`.

    :math:`\ell(m)=e^{-m}` (exponential) or :math:`\log(1+e^{-m})` (logistic). In float32 the loss
    itself vanishes at m = 104 and its gradient with it; the logarithm keeps both exact for any
    finite margin. Its gradient is :math:`\nabla L/L`, so a constant step on it is a step of
    :math:`\eta/L` on the loss.

    Args:
      margins: ``(n,)`` floating.
      loss: ``"exponential"`` or ``"logistic"``.
      where: optional ``(n,)`` boolean; examples outside are left out of the mean. With none inside
        there is no mean: NaN.

    Returns:
      ``()``, dtype of ``margins``.

    Raises:
      ValueError: for an unknown loss, an empty batch, or another shape of ``where``.
    """
    m = _checked(margins, loss, where)
    log_terms = -m if loss == "exponential" else _log_softplus(-m)
    count = m.size if where is None else jnp.sum(where)
    mean = jax.nn.logsumexp(log_terms, where=where) - jnp.log(jnp.asarray(count, m.dtype))
    return trees.cast_like(mean, margins)


def dual_weights(
    margins: Array, loss: Loss = "logistic", *, where: Array | None = None
) -> jax.Array:
    r"""The weights that the loss's gradient gives the examples; they sum to 1 if there are any.

    .. math:: q_i = |\ell'(m_i)| \Big/ \sum_j |\ell'(m_j)|

    Args:
      margins: ``(n,)`` floating.
      loss: ``"exponential"`` or ``"logistic"``.
      where: optional ``(n,)`` boolean; examples outside get weight 0.

    Returns:
      ``(n,)`` on the simplex, or all zero if ``where`` selects no example (a batch of padding alone
      adds nothing). Computed as a softmax of logarithms: no underflow to 0/0 at large margins.

    Raises:
      ValueError: as :func:`log_loss`.
    """
    m = _checked(margins, loss, where)
    log_slopes = -m if loss == "exponential" else jax.nn.log_sigmoid(-m)
    return trees.cast_like(jax.nn.softmax(log_slopes, where=where), margins)


def _log_softplus(t: jax.Array) -> jax.Array:
    """log(log(1 + e^t)) for any t: t itself where log(softplus(t)) would be log(0)."""
    # Below the cut log1p(e^t) = e^t (1 - e^t/2 + e^2t/3 - ...): two terms leave an error of e^2t,
    # under rounding.
    cut = 0.6 * jnp.log(jnp.finfo(t.dtype).eps)
    small = t < cut
    direct = jnp.log(jax.nn.softplus(jnp.where(small, 0, t)))
    return jnp.where(small, t - 0.5 * jnp.exp(jnp.minimum(t, cut)), direct)


def _checked(margins: Array, loss: str, where: Array | None) -> jax.Array:
    """The margins in float32 at least, zero where they do not count."""
    check_loss(loss)
    check_array("margins", margins)
    if margins.ndim != 1:
        raise ValueError(f"margins must be a vector (n,), got shape {margins.shape}")
    if where is not None and jnp.shape(where) != margins.shape:
        shape = jnp.shape(where)
        raise ValueError(f"where must have the shape of margins {margins.shape}, got {shape}")
    m = trees.promote(margins)
    # Whatever stands in the place of an example that is left out, even NaN, has no part.
    return m if where is None else jnp.where(where, m, 0)


def check_loss(loss: str) -> None:
    """Raises unless the loss is a known one."""
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {LOSSES}, got {loss!r}")
