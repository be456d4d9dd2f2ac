"""Classification losses of margins, in the log domain so that a margin of 1000 still trains in float32."""

from typing import Literal

import jax
import jax.numpy as jnp

Loss = Literal["exponential", "logistic"]
LOSSES = ("exponential", "logistic")


def log_loss(margins: jax.Array, loss: Loss = "logistic", *, where: jax.Array | None = None) -> jax.Array:
    r"""Logarithm of the *mean* loss, :math:`\log \frac1n\sum_i \ell(m_i)`.

    :math:`\ell(m)=e^{-m}` (exponential) or :math:`\log(1+e^{-m})` (logistic). In float32 the loss itself vanishes at
    m = 104 and its gradient with it; the logarithm keeps both exact for any finite margin. Its gradient is
    :math:`\nabla L/L`, so a constant step on it is a step of :math:`\eta/L` on the loss.

    Args:
      margins: ``(n,)`` floating.
      loss: ``"exponential"`` or ``"logistic"``.
      where: optional ``(n,)`` boolean; examples outside are left out of the mean (at least one must be in).

    Returns:
      ``()``, dtype of ``margins``.

    Raises:
      ValueError: for an unknown loss, an empty batch, or another shape of ``where``.
    """
    _check(margins, loss, where)
    log_terms = -margins if loss == "exponential" else _log_softplus(-margins)
    if where is None:
        return jax.nn.logsumexp(log_terms) - jnp.log(jnp.asarray(margins.size, margins.dtype))
    count = jnp.sum(where, dtype=margins.dtype)
    return jax.nn.logsumexp(log_terms, where=where) - jnp.log(count)


def dual_weights(margins: jax.Array, loss: Loss = "logistic", *, where: jax.Array | None = None) -> jax.Array:
    r"""Weights :math:`q_i = |\ell'(m_i)| / \sum_j |\ell'(m_j)|` that the gradient gives the examples; they sum to 1.

    Args:
      margins: ``(n,)`` floating.
      loss: ``"exponential"`` or ``"logistic"``.
      where: optional ``(n,)`` boolean; examples outside get weight 0.

    Returns:
      ``(n,)`` on the simplex. Computed as a softmax of logarithms: no underflow to 0/0 at large margins.

    Raises:
      ValueError: as :func:`log_loss`.
    """
    _check(margins, loss, where)
    log_slopes = -margins if loss == "exponential" else jax.nn.log_sigmoid(-margins)
    return jax.nn.softmax(log_slopes, where=where)


def _log_softplus(t: jax.Array) -> jax.Array:
    """log(log(1 + e^t)) for any t: for t -> -inf it is t, where log(softplus(t)) would be log(0)."""
    # Below the cut log1p(e^t) = e^t (1 - e^t/2 + e^2t/3 - ...): two terms leave an error of e^2t, under rounding.
    cut = 0.6 * jnp.log(jnp.finfo(t.dtype).eps)
    small = t < cut
    direct = jnp.log(jax.nn.softplus(jnp.where(small, 0, t)))
    return jnp.where(small, t - 0.5 * jnp.exp(jnp.minimum(t, cut)), direct)


def _check(margins: jax.Array, loss: str, where: jax.Array | None) -> None:
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {LOSSES}, got {loss!r}")
    if jnp.ndim(margins) != 1 or jnp.size(margins) == 0:
        raise ValueError(f"margins must be a non-empty vector (n,), got shape {jnp.shape(margins)}")
    if where is not None and jnp.shape(where) != jnp.shape(margins):
        raise ValueError(f"where must have the shape of margins {jnp.shape(margins)}, got {jnp.shape(where)}")
