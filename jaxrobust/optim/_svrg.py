"""Stochastic variance-reduced gradients: the gradient at a snapshot as control variate."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxrobust import trees
from jaxrobust.optim._arguments import check_scalar, required_tree

_EXAMPLE = "update(grad(params, batch), ..., {}={})"
_HOW = {
    "snapshot_gradient": (
        "the gradient of the same batch at the snapshot of the parameters, as in "
        + _EXAMPLE.format("snapshot_gradient", "grad(snapshot, batch)")
    ),
    "snapshot_mean": (
        "the mean gradient of all examples at the snapshot of the parameters, as in "
        + _EXAMPLE.format("snapshot_mean", "grad(snapshot, all_examples)")
    ),
}


def svrg(
    coefficient: float | jax.Array | optax.Schedule = 1.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Subtracts what the batch's noise was at a snapshot of the parameters (SVRG, alpha-SVRG).

    .. math:: v = u - a\,(s - \bar s)

    u is the gradient of the batch at the parameters, s that of the *same batch* at the snapshot
    and :math:`\bar s` the mean gradient of all examples at the snapshot. ``update`` needs both as
    keywords, ``snapshot_gradient`` and ``snapshot_mean``. As :math:`E\,s = \bar s`, v has the mean
    of u for every a, also of one that changes by a schedule. ::

        gradient = jax.jit(jax.grad(mean_loss))
        optimizer = optax.chain(optim.svrg(), optax.sgd(0.1))
        state, update = optimizer.init(params), jax.jit(optimizer.update)
        for _ in range(num_epochs):
            snapshot, snapshot_mean = params, gradient(params, data)
            for batch in batches(data):
                extras = {"snapshot_gradient": gradient(snapshot, batch)}
                extras["snapshot_mean"] = snapshot_mean
                updates, state = update(gradient(params, batch), state, params, **extras)
                params = optax.apply_updates(params, updates)

    A step costs two gradients of the batch, a snapshot one pass over the data. With :math:`g_i`,
    :math:`s_i` the gradients of the examples and B independent draws, the trace of the covariance
    of v is

    .. math::

       \tfrac1B\,\bigl(V_g - 2a\,C + a^2 V_s\bigr), \qquad
       V_g = \tfrac1N \sum_i \|g_i - \bar g\|^2, \quad
       C = \tfrac1N \sum_i \langle g_i - \bar g, s_i - \bar s\rangle, \quad
       V_s = \tfrac1N \sum_i \|s_i - \bar s\|^2 .

    The best constant is the covariance over the variance, :math:`a^* = C / V_s`, which leaves
    :math:`(1-\rho^2)\,V_g/B` with :math:`\rho^2 = C^2/(V_g V_s)`: never more than the plain
    gradient has. At the snapshot itself :math:`a^* = 1` and nothing is left; away from it
    :math:`\rho` falls, and ``coefficient=1`` does harm where :math:`a^* < 1/2`. In deep networks
    :math:`a^*` is small and falls in training, hence the schedule.

    Args:
      coefficient: a, a number (1: SVRG; 0: the gradient as it is) or a schedule of the number of
        updates made, as ``optax.linear_schedule(0.75, 0.0, num_steps)``.

    Returns:
      A transform, stateless unless the coefficient is a schedule. Updates keep structure, shapes
      and dtypes; the computation is in float32 at least. Of keywords that cover more than the
      updates, since ``optax.masked`` or ``optax.partition`` shows a part of these, the same part is
      used. Inside ``optax.MultiSteps`` both keywords must be those of all accumulated batches
      together.

    Raises:
      ValueError: if ``coefficient`` is infinite or NaN; at ``update``, if a keyword differs from
        the updates in structure or shapes.
      TypeError: if ``coefficient`` is neither a real number nor a schedule; at ``update``, if a
        keyword is missing or a leaf is not real floating.

    Source:
      Johnson and Zhang, NIPS 2013, for a = 1; Yin et al., "A Coefficient Makes SVRG Effective",
      arXiv:2311.05589, for the coefficient and its decay. Theirs has a best value for every
      coordinate; the one for all coordinates is derived here in the same way.
    """
    if not callable(coefficient):
        check_scalar("coefficient", coefficient, math.isfinite, "finite")

    def init_fn(params):
        del params
        if callable(coefficient):
            return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))
        return optax.EmptyState()

    def update_fn(updates, state, params=None, **extra_args):
        del params
        amount: Any = coefficient
        if callable(coefficient):
            amount = coefficient(state.count)
            state = optax.ScaleByScheduleState(optax.safe_increment(state.count))
        if not jax.tree.leaves(updates):
            return updates, state
        trees.check_floating("updates", updates)
        gradient, mean = (required_tree(extra_args, n, how, updates) for n, how in _HOW.items())
        noise = jax.tree.map(jnp.subtract, gradient, mean)
        corrected = trees.add(trees.promote(updates), noise, weight=-amount)
        return trees.cast_like(corrected, updates), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
