"""The step 1 / (B^2 L): as long as the curvature of an exponential-tailed loss allows."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxrobust import norms, trees
from jaxrobust.optim._arguments import check_scalar
from jaxrobust.optim._learning_rate import descend
from jaxrobust.optim._steepest import scale_by_steepest


def scale_by_inverse_loss(
    bound: float | jax.Array, *, max_learning_rate: float | jax.Array = math.inf
) -> optax.GradientTransformationExtraArgs:
    r"""Scales the updates by :math:`\min(\eta_{\max},\ 1/(B^2 L(w)))`, L(w) being the current loss.

    For a linear model with the exponential or the logistic loss
    :math:`v^T \nabla^2 L\, v \le B^2 L\,\|v\|^2` with :math:`B=\max_i\|x_i\|_*`. The curvature
    falls with the loss, so the step may grow as the loss falls. Behind :func:`scale_by_steepest`
    every such step decreases the loss.

    ``update`` needs the keyword ``value``: the loss at the *current* parameters, of the very
    function whose gradient is passed (a sum or a mean over the examples makes no difference).
    Leaving it out is a ``TypeError``; there is no default. This is Optax's own convention for a
    step that depends on the loss, as in ``optax.scale_by_polyak`` and the line searches; a
    schedule could not do it, for it sees the count alone.

    In float32 the gradient underflows to zero when all margins exceed about 87, and *the run stands
    still without a sign*. The same step without that limit is a constant one on log L: as
    :math:`\nabla \log L = \nabla L / L` and the direction of steepest ascent is homogeneous, ::

        optim.steepest_descent(1 / bound**2, norm)  # fed with the gradient of log L(w)

    takes the same trajectory, and still trains at margins of 1000 (compute log L by
    ``jax.nn.logsumexp``).

    Args:
      bound: B, the largest dual norm of an input: ``jnp.max(jax.vmap(norm.dual.value)(x))``, which
        for ``linf`` descent is the largest l1 norm. A larger value is safe and slower.
      max_learning_rate: :math:`\eta_{\max}`; infinity means no limit.

    Returns:
      A stateless transform. Updates keep structure, shapes and dtypes.

      ===============  =========================================================================
      value            updates are multiplied by
      ===============  =========================================================================
      positive         the factor above
      0 (underflow)    ``max_learning_rate``; where that is infinite, zero entries become NaN
      negative, NaN    NaN: such a loss has no such bound, and a wrong sign would pass unseen
      ===============  =========================================================================

    Raises:
      ValueError: if ``bound`` is not positive and finite, or ``max_learning_rate`` not positive;
        at ``update``, if ``value`` is not a scalar.
      TypeError: if one of them is no real number; at ``update``, if ``value`` is missing or not
        real floating.

    Source:
      Gunasekar, Lee, Soudry, Srebro, "Characterizing Implicit Bias in Terms of Optimization
      Geometry", ICML 2018, Theorem 5 (as recalled, not checked against the paper); used by Faghri
      et al., arXiv:2102.08868. The bound on the curvature holds since :math:`\ell''\le\ell` for
      both losses and :math:`\langle x_i, v\rangle\le\|x_i\|_*\|v\|`.
    """
    check_scalar("bound", bound, lambda b: 0 < b < math.inf, "positive and finite")
    check_scalar("max_learning_rate", max_learning_rate, lambda a: a > 0, "positive")

    def init_fn(params):
        del params
        return optax.EmptyState()

    def update_fn(updates, state, params=None, *, value, **extra_args):
        del params, extra_args
        rate = _inverse_loss(value, bound, max_learning_rate)
        return trees.scale(rate, updates), state

    # Optax's type for `update` has no way to say that a keyword is required.
    return optax.GradientTransformationExtraArgs(init_fn, update_fn)  # type: ignore[arg-type]


def loss_scaled_steepest_descent(
    norm: norms.Norm | str,
    bound: float | jax.Array,
    *,
    learning_rate: float | jax.Array | optax.Schedule = 1.0,
    max_learning_rate: float | jax.Array = math.inf,
) -> optax.GradientTransformationExtraArgs:
    r"""Steepest descent with the step :math:`\eta\,\min(\eta_{\max},\ 1/(B^2 L(w)))`.

    Under this rule the margin of a linear classifier on separable data tends to the largest one in
    ``norm``, with nothing to tune, and it is the fastest rule of this room. Measured for l2, the
    gap falls as 1/t, against :math:`1/\sqrt t` for :func:`normalized_steepest_descent` with
    :func:`inverse_sqrt` and 1/log t for a constant step. ::

        bound = jnp.max(jax.vmap(norms.linf.dual.value)(x))
        optimizer = optim.loss_scaled_steepest_descent(norms.linf, bound)
        value, grad = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grad, state, params, value=value)

    Args:
      norm: a :class:`~jaxrobust.norms.Norm`, or a name that :func:`~jaxrobust.norms.as_norm` knows.
      bound: B, the largest dual norm of an input; see :func:`scale_by_inverse_loss`.
      learning_rate: relaxation :math:`\eta`, a number or a schedule; the theorem covers (0, 1].
      max_learning_rate: :math:`\eta_{\max}`; infinity means no limit.

    Returns:
      The optimizer. Its ``update`` needs the keyword ``value``, the loss at the current parameters.
      What a zero, negative or NaN value does, and how to go on in float32 beyond margins of 87,
      says :func:`scale_by_inverse_loss`.

    Raises:
      ValueError: as :func:`scale_by_inverse_loss` and :func:`steepest_descent`.
      TypeError: as :func:`scale_by_inverse_loss` and :func:`steepest_descent`.

    Source:
      As :func:`scale_by_inverse_loss`.
    """
    return optax.chain(
        scale_by_steepest(norm),
        scale_by_inverse_loss(bound, max_learning_rate=max_learning_rate),
        descend(learning_rate),
    )


def _inverse_loss(value: Any, bound: Any, max_learning_rate: Any) -> jax.Array:
    trees.check_floating("value", value)
    if jnp.ndim(value) != 0:
        raise ValueError(f"value must be the loss, a scalar, got shape {jnp.shape(value)}")
    loss = trees.promote(value)
    # Not 1 / bound**2 / loss: this order stays in range for a tiny loss and a large bound.
    rate = jnp.minimum(1 / (bound * loss) / bound, max_learning_rate)
    return jnp.where(loss >= 0, rate, jnp.nan)
