r"""A certified gap to the most robust linear classifier, from what training computes anyway.

By minimax duality (see :func:`jaxrobust.linear.max_margin`)

.. math:: \max_{\|w\|\le1}\min_i y_i\langle w, x_i\rangle = \min_{q\in\Delta_n}\Big\|\sum_i q_i y_i x_i\Big\|_*,

so *any* w gives a lower bound of the optimum and *any* weights q an upper bound. A training gradient is such a weighted
sum: :math:`\sum_i q_i y_i x_i = -\nabla L / \sum_i|\ell'_i|`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.linear._checks import check_problem
from jaxrobust.linear._losses import LOSSES, Loss, dual_weights, log_loss
from jaxrobust.linear._margins import margins
from jaxrobust.norms import Norm, as_norm

_HIGHEST = jax.lax.Precision.HIGHEST


class Certificate(NamedTuple):
    """Bounds on the largest normalised margin any linear classifier can have; the optimum lies between them."""

    lower: jax.Array  # () the margin of the weights at hand
    upper: jax.Array  # () dual norm of a convex combination of the signed examples


class CertificateState(NamedTuple):
    """Best bounds so far, and a running average of the dual vectors; see :func:`update_certificate`."""

    lower: jax.Array  # () best lower bound so far
    upper: jax.Array  # () best upper bound so far, of single dual vectors and of their average
    dual_sum: jax.Array  # (*features) weighted sum of the dual vectors sum_i q_i y_i x_i
    weight_sum: jax.Array  # () sum of the weights


def certificate(
    w: jax.Array,
    x: jax.Array,
    y: jax.Array,
    norm: Norm | str,
    *,
    loss: Loss = "logistic",
    weights: jax.Array | None = None,
) -> Certificate:
    r"""Lower and upper bound of the optimal margin, ``lower <= max_margin <= upper``.

    Args:
      w: ``(*features)`` weights of a binary classifier.
      x: ``(n, *features)`` examples.
      y: ``(n,)`` labels, -1 and +1.
      norm: norm of the weights (the dual of the perturbation's norm), or its name.
      loss: whose gradient gives the dual weights, if none are given.
      weights: optional ``(n,)`` dual weights, non-negative with a positive sum; they are normalised.

    Returns:
      ``Certificate(lower, upper)``; both are valid for any w and any weights, up to rounding of order
      ``eps * max_i ||x_i||_*``. ``lower`` may be negative.

    Raises:
      ValueError, TypeError: as :func:`jaxrobust.linear.margins`; for multiclass weights or an unknown loss.
    """
    norm = as_norm(norm)
    if check_problem(w, x, y):
        raise ValueError(f"w must have the shape of one example {x.shape[1:]}: the certificate is for binary problems")
    m = margins(w, x, y)
    length = norm.value(w)
    lower = jnp.where(length > 0, jnp.min(m) / jnp.where(length > 0, length, 1), jnp.min(m))
    q = dual_weights(m, loss) if weights is None else weights / jnp.sum(weights)
    return Certificate(lower, norm.dual.value(jnp.tensordot(q * y.astype(x.dtype), x, axes=1, precision=_HIGHEST)))


def dual_vector(log_loss_gradient: jax.Array, margins: jax.Array, loss: Loss = "logistic", **kwargs) -> jax.Array:
    r"""The convex combination :math:`\sum_i q_i y_i x_i` of signed examples that a training gradient contains.

    From the gradient g of :func:`jaxrobust.linear.log_loss` it is :math:`-g\,\sum_i \ell(m_i)/\sum_i|\ell'(m_i)|`; the
    factor is 1 for the exponential loss. Its dual norm is an upper bound of the optimal margin, at no product with the
    data.

    Args:
      log_loss_gradient: ``(*features)`` gradient of ``log_loss(margins(w, x, y), loss)`` with respect to w.
      margins: ``(n,)`` margins at the same w.
      loss: the loss that was differentiated.
      **kwargs: ``where``, as given to :func:`jaxrobust.linear.log_loss`.

    Returns:
      ``(*features)``.

    Raises:
      ValueError: for an unknown loss.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {LOSSES}, got {loss!r}")
    if loss == "exponential":
        return -log_loss_gradient
    where = kwargs.get("where")
    log_slopes = jax.nn.log_sigmoid(-margins)
    log_slope_sum = jax.nn.logsumexp(log_slopes, where=where)
    count = margins.size if where is None else jnp.sum(where)
    log_loss_sum = log_loss(margins, loss, **kwargs) + jnp.log(jnp.asarray(count, margins.dtype))
    return -log_loss_gradient * jnp.exp(log_loss_sum - log_slope_sum)


def init_certificate(w: jax.Array) -> CertificateState:
    """State before the first step, for weights of the shape and dtype of ``w``."""
    infinity = jnp.full((), jnp.inf, w.dtype)
    return CertificateState(-infinity, infinity, jnp.zeros_like(w), jnp.zeros((), w.dtype))


def update_certificate(
    state: CertificateState,
    w: jax.Array,
    margins: jax.Array,
    dual: jax.Array,
    norm: Norm | str,
    *,
    weight: float | jax.Array = 1.0,
) -> CertificateState:
    """Takes one training step's margins and dual vector into account; pure, for use inside ``lax.scan``.

    Besides the bounds of the step itself it tries the weighted average of all dual vectors. For l1 and linf a single
    gradient's bound oscillates and only the average converges.

    Args:
      state: from :func:`init_certificate` or the last update.
      w: ``(*features)`` weights.
      margins: ``(n,)`` margins of w.
      dual: ``(*features)``, from :func:`dual_vector` at the same w.
      norm: norm of the weights.
      weight: weight of this step in the average, e.g. the length of the step in ``norm``.

    Returns:
      The new state; ``state.lower <= optimum <= state.upper`` at all times, both monotone.
    """
    norm = as_norm(norm)
    length = norm.value(w)
    lower = jnp.where(length > 0, jnp.min(margins) / jnp.where(length > 0, length, 1), -jnp.inf)
    dual_sum = state.dual_sum + weight * dual
    weight_sum = state.weight_sum + weight
    upper = jnp.minimum(norm.dual.value(dual), norm.dual.value(dual_sum) / weight_sum)
    return CertificateState(
        jnp.maximum(state.lower, lower).astype(state.lower.dtype),
        jnp.minimum(state.upper, upper).astype(state.upper.dtype),
        dual_sum,
        weight_sum.astype(state.weight_sum.dtype),
    )
