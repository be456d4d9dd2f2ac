r"""A certified gap to the most robust linear classifier, from what training computes anyway.

By minimax duality (see :func:`jaxrobust.linear.max_margin`)

.. math:: \max_{\|w\|\le1}\min_i y_i\langle w, x_i\rangle
          = \min_{q\in\Delta_n}\Big\|\sum_i q_i y_i x_i\Big\|_*,

so *any* w gives a lower bound of the optimum and *any* weights q an upper bound. A training
gradient is such a weighted sum: :math:`\sum_i q_i y_i x_i = -\nabla L / \sum_i|\ell'_i|`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import trees
from jaxrobust.linear import _sharding
from jaxrobust.linear._checks import (
    Array,
    check_array,
    check_nonnegative,
    check_problem,
    is_concrete,
)
from jaxrobust.linear._losses import Loss, check_loss, dual_weights
from jaxrobust.linear._margins import margin, margins
from jaxrobust.norms import Norm, as_norm


class Certificate(NamedTuple):
    """Bounds of the largest normalised margin: that of the best linear classifier is between."""

    lower: jax.Array  # () the margin of the weights at hand
    upper: jax.Array  # () dual norm of a convex combination of the signed examples


class CertificateState(NamedTuple):
    """Best bounds so far, and an average of dual vectors; see :func:`update_certificate`.

    All in float32 at least. Each sum is that of its two fields: what the additions so far have
    rounded off is kept apart, or after 100,000 steps the average would no longer be one, and its
    dual norm no upper bound.
    """

    lower: jax.Array  # () best lower bound so far
    upper: jax.Array  # () best upper bound so far, of single dual vectors and of their average
    dual_sum: jax.Array  # (*features) weighted sum of the dual vectors sum_i q_i y_i x_i
    dual_rest: jax.Array  # (*features) what rounding has taken from dual_sum
    weight_sum: jax.Array  # () sum of the weights
    weight_rest: jax.Array  # () what rounding has taken from weight_sum


def certificate(
    w: Array,
    x: Array,
    y: Array,
    norm: Norm | str,
    *,
    loss: Loss = "logistic",
    weights: Array | None = None,
) -> Certificate:
    r"""Lower and upper bound of the optimal margin, ``lower <= max_margin <= upper``.

    Args:
      w: ``(*features)`` weights of a binary classifier.
      x: ``(n, *features)`` examples.
      y: ``(n,)`` labels, -1 and +1.
      norm: norm of the weights (the dual of the perturbation's norm), or its name.
      loss: whose gradient gives the dual weights, if none are given.
      weights: optional ``(n,)`` dual weights, non-negative with a positive sum; they are
        normalised.

    Returns:
      ``Certificate(lower, upper)``; both are valid for any w and any weights, up to rounding of
      order ``eps * max_i ||x_i||_*``. ``lower`` may be negative.

    Raises:
      ValueError, TypeError: as :func:`jaxrobust.linear.margins`; for multiclass weights or an
        unknown loss.
    """
    norm, several = as_norm(norm), check_problem(w, x, y)
    dtype = jnp.result_type(w, x)
    if several:
        shape = x.shape[1:]
        raise ValueError(
            f"w must have the shape of one example {shape}, got {w.shape}: the certificate is for "
            "binary problems"
        )
    _check_weights(weights, y)
    w, x = trees.promote((w, x))
    q = dual_weights(margins(w, x, y), loss) if weights is None else weights / jnp.sum(weights)
    signed_weights = jnp.asarray(q, x.dtype) * jnp.asarray(y, x.dtype)
    upper = norm.dual.value(_sharding.combine(signed_weights, jnp.asarray(x)))
    return Certificate(margin(w, x, y, norm).astype(dtype), upper.astype(dtype))


def dual_vector(
    log_loss_gradient: Array,
    margins: Array,
    loss: Loss = "logistic",
    *,
    where: Array | None = None,
) -> jax.Array:
    r"""The convex combination :math:`\sum_i q_i y_i x_i` of signed examples in a training gradient.

    From the gradient g of :func:`jaxrobust.linear.log_loss` it is
    :math:`-g\,\sum_i \ell(m_i)/\sum_i|\ell'(m_i)|`; the factor is 1 for the exponential loss. Its
    dual norm is an upper bound of the optimal margin, at no product with the data.

    Args:
      log_loss_gradient: ``(*features)`` gradient of ``log_loss(margins(w, x, y), loss)`` with
        respect to w.
      margins: ``(n,)`` margins at the same w.
      loss: the loss that was differentiated.
      where: optional ``(n,)`` boolean, as given to :func:`jaxrobust.linear.log_loss`.

    Returns:
      ``(*features)``.

    Raises:
      ValueError: as :func:`jaxrobust.linear.log_loss`.
    """
    check_loss(loss)
    gradient = jnp.asarray(log_loss_gradient)
    if loss == "exponential":
        return -gradient
    # sum l / sum |l'| as the mean of l_i / |l'_i| = (1 + u) log(1 + u) / u, u = e^-m, weighted by
    # q. A difference of logarithms would, at a margin of 1000, be off by the rounding of 1000.
    m = trees.promote(margins)
    u = jnp.exp(-jnp.abs(m))
    safe_u = jnp.where(u > 0, u, 1)
    right = (1 + u) * jnp.where(u > 0, jnp.log1p(safe_u) / safe_u, 1)
    ratios = jnp.where(m > 0, right, (1 + u) * jax.nn.softplus(-m))
    q = dual_weights(m, loss, where=where)
    factor = jnp.sum(q * (ratios if where is None else jnp.where(where, ratios, 0)))
    return -gradient * factor.astype(gradient.dtype)


def init_certificate(w: Array) -> CertificateState:
    """State before the first step, for weights of the shape and dtype of ``w``."""
    zero = trees.promote(jnp.zeros_like(w))
    number = jnp.zeros((), zero.dtype)
    return CertificateState(number - jnp.inf, number + jnp.inf, zero, zero, number, number)


def update_certificate(
    state: CertificateState,
    w: Array,
    margins: Array,
    dual: Array,
    norm: Norm | str,
    *,
    weight: float | Array = 1.0,
) -> CertificateState:
    """Takes one training step's margins and dual vector into account.

    Pure, for use inside ``lax.scan``. Besides the bounds of the step itself it tries the weighted
    average of all dual vectors so far: with l1 and linf the bound of a single gradient oscillates.

    Args:
      state: from :func:`init_certificate` or the last update.
      w: ``(*features)`` weights.
      margins: ``(n,)`` margins of w.
      dual: ``(*features)``, from :func:`dual_vector` at the same w.
      norm: norm of the weights.
      weight: weight of this step in the average, 0 or more. Growing weights, such as the number of
        the step, let the average forget the beginning.

    Returns:
      The new state; ``state.lower <= optimum <= state.upper`` at all times up to some roundings
      of float32 (float64) and of ``w``, ``margins`` and ``dual`` as given, however many the steps;
      both monotone. Bounds that are NaN or infinite (of a run that diverges) change nothing.

    Raises:
      ValueError: for an unknown norm, or a known ``weight`` that is negative or NaN.
    """
    norm = as_norm(norm)
    check_nonnegative("weight", weight)
    dtype = state.dual_sum.dtype
    # In the state's dtype from here on: a weight of 0.1 is another number in bfloat16.
    w, margins, dual, weight = (jnp.asarray(a, dtype) for a in (w, margins, dual, weight))
    length, smallest = norm.value(w), _sharding.smallest(margins)
    proves = (length > 0) & jnp.isfinite(smallest)  # margins that overflowed prove nothing
    lower = jnp.where(proves, smallest / jnp.where(proves, length, 1), -jnp.inf)
    single = norm.dual.value(dual)
    usable = jnp.isfinite(single)  # else the average would be lost for good
    term = jnp.where(usable, weight * dual, 0)
    dual_sum, dual_rest = _add(state.dual_sum, state.dual_rest, term)
    weight = jnp.where(usable, weight, 0)
    weight_sum, weight_rest = _add(state.weight_sum, state.weight_rest, weight)
    total = weight_sum + weight_rest
    average = norm.dual.value((dual_sum + dual_rest) / jnp.where(total > 0, total, 1))
    average = jnp.where(total > 0, average, jnp.inf)
    # fmax and fmin pass over NaN: what was proved before a run diverged stays proved.
    return CertificateState(
        jnp.fmax(state.lower, lower),
        jnp.fmin(state.upper, jnp.fmin(single, average)),
        dual_sum,
        dual_rest,
        weight_sum,
        weight_rest,
    )


def _add(total: jax.Array, rest: jax.Array, term: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``total + rest + term`` as a rounded sum and what the rounding took (Knuth's two-sum)."""
    rounded = total + term
    added = rounded - total
    rest = rest + ((total - (rounded - added)) + (term - added))
    # The rest goes back into the sum as soon as it can. Left to grow, its own roundings would
    # reach 100 eps after a million steps.
    total = rounded + rest
    return total, rest - (total - rounded)


def _check_weights(weights: Array | None, y: Array) -> None:
    if weights is None:
        return
    check_array("weights", weights)
    if weights.shape != y.shape:
        raise ValueError(f"weights must have shape {y.shape}, one per example, got {weights.shape}")
    check_nonnegative("weights", weights)
    if is_concrete(weights) and not 0 < float(np.sum(np.asarray(weights, np.float64))) < np.inf:
        raise ValueError("weights must have a positive, finite sum")
