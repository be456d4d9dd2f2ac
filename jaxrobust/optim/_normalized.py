"""The unit vector of steepest ascent in a norm, as an Optax link, with momentum on request."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrobust import norms, trees
from jaxrobust.optim._arguments import check_scalar


class MomentumState(NamedTuple):
    """State of :func:`scale_by_normalized_steepest` with momentum."""

    momentum: Any  # like the params, float32 at least: sum over past steps s of mu^(t-s) g_s


def scale_by_normalized_steepest(
    norm: norms.Norm | str,
    *,
    momentum: float | jax.Array | None = None,
    nesterov: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Replaces the gradient by the unit vector of steepest ascent.

    .. math:: u = \arg\max_{\|u\|\le 1} \langle u, m\rangle

    Here m is the gradient, or its momentum :math:`m_t = g_t + \mu m_{t-1}` (with ``nesterov``,
    :math:`g_t + \mu m_t`). ``l2`` gives the normalised gradient, ``linf`` its sign, ``spectral``
    its polar factor; the list at :func:`scale_by_steepest` applies without the factor
    :math:`\|g\|_*`, and so does what is said there about trees, dtypes, zeros and empty trees.
    A NaN comes out as a NaN, at least in the entry it came in.

    Args:
      norm: a :class:`~jaxrobust.norms.Norm`, or a name that :func:`~jaxrobust.norms.as_norm` knows.
      momentum: :math:`\mu` in [0, 1), or None for none. The link is part of this one, and not
        ``optax.trace``, so that bfloat16 gradients are summed in float32.
      nesterov: whether to look one step ahead; without momentum it changes nothing.

    Returns:
      A transform, stateless without momentum; the sign is that of ascent.

    Raises:
      ValueError: as :func:`scale_by_steepest`, and if ``momentum`` is out of range or NaN.
      TypeError: as :func:`scale_by_steepest`, and if ``momentum`` is no real number.

    Source:
      As :func:`scale_by_steepest`.
    """
    norm = norms.as_norm(norm)
    if momentum is not None:
        check_scalar("momentum", momentum, lambda mu: 0 <= mu < 1, "in [0, 1)")

    def init_fn(params):
        if momentum is None:
            return optax.EmptyState()
        return MomentumState(jax.tree.map(jnp.zeros_like, trees.promote(params)))

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        if not jax.tree.leaves(updates):
            return updates, state
        trees.check_floating("updates", updates)
        ascent = trees.promote(updates)
        if momentum is not None:
            accumulated = trees.add(ascent, state.momentum, weight=momentum)
            state = MomentumState(trees.cast_like(accumulated, state.momentum))
            ascent = trees.add(ascent, accumulated, weight=momentum) if nesterov else accumulated
        return trees.cast_like(norm.lmo(ascent), updates), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
