"""Inner products of per-example gradients with given directions."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust import trees
from jaxrobust.per_example._trace import LossFn, check_loss


def dots(loss_fn: LossFn) -> Callable[[Any, Any, Any], jax.Array]:
    r"""Inner products :math:`\langle g_i, v\rangle` of every example's gradient with a direction.

    The directional derivative of the vector of losses, exact and in forward mode: no gradient is
    formed, and one direction costs about as much as the losses do. Several directions share one
    linearisation.

    Args:
      loss_fn: ``loss_fn(params, example) -> ()``, the loss of one example.

    Returns:
      A function of ``(params, batch, direction)``. ``direction`` is a tree like ``params``, or has
      leaves ``(K, *leaf)`` for K directions. It returns ``(B,)``, or ``(B, K)``, in the dtype of
      the loss.

    Raises:
      ValueError: at the call, as :func:`gradients`, and if ``direction`` fits neither way.
      TypeError: at the call, as :func:`gradients`.
    """

    def per_example_dots(params: Any, batch: Any, direction: Any) -> jax.Array:
        check_loss(loss_fn, params, batch, has_aux=False)
        stacked = _is_stacked(params, direction)
        direction = trees.cast_like(direction, params)

        def losses(params):
            return jax.vmap(loss_fn, in_axes=(None, 0))(params, batch)

        if not stacked:
            return jax.jvp(losses, (params,), (direction,))[1]
        _, derivative = jax.linearize(losses, params)
        return jax.vmap(derivative, out_axes=1)(direction)

    return per_example_dots


def _is_stacked(params: Any, direction: Any) -> bool:
    """Whether there is one more leading axis than in the params, of one length in all leaves."""
    trees.check_floating("direction", direction)
    ours, theirs = jax.tree.structure(params), jax.tree.structure(direction)
    if ours != theirs:
        raise ValueError(f"direction must have the structure of params, {ours}, got {theirs}")
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(params)]
    found = [jnp.shape(leaf) for leaf in jax.tree.leaves(direction)]
    if shapes == found:
        return False
    lengths = {shape[:1] for shape in found}
    if len(lengths) == 1 and [shape[1:] for shape in found] == shapes:
        return True
    raise ValueError(
        "direction must have the shapes of params, or these with one leading axis of one length, "
        f"got {found} for params of {shapes}"
    )
