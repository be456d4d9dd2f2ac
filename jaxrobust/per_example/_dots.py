"""Inner products of per-example gradients with given directions."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from jaxrobust import trees
from jaxrobust.per_example import _algebra
from jaxrobust.per_example._backward import Pass, factors_of, map_chunks, recorded, run
from jaxrobust.per_example._batching import map_examples
from jaxrobust.per_example._norms import aux_of
from jaxrobust.per_example._trace import LossFn, Traced, check_loss, explained, trace
from jaxrobust.per_example._uses import from_leaf


def dots(loss_fn: LossFn, *, has_aux: bool = False) -> Callable[[Any, Any, Any], Any]:
    r"""Inner products :math:`\langle g_i, v\rangle` of every example's gradient with a direction.

    The directional derivative of the vector of losses, exact and in forward mode: no gradient is
    formed, and one direction costs about as much as the losses do. Several directions share one
    linearisation. A loss with a ``custom_vjp`` in it has no forward mode; its inner products come
    from the factors of the gradients in one backward pass, as the norms do.

    Args:
      loss_fn: ``loss_fn(params, example) -> ()``, the loss of one example.
      has_aux: whether ``loss_fn`` returns ``(loss, aux)``.

    Returns:
      A function of ``(params, batch, direction)``. ``direction`` is a tree like ``params``, or has
      leaves ``(K, *leaf)`` for K directions. It returns ``(B,)``, or ``(B, K)``, in the dtype of
      the loss; with ``has_aux``, ``(dots, aux)``, the leaves of ``aux`` with a leading axis B.

    Raises:
      ValueError: at the call, as :func:`gradients`, and if ``direction`` fits neither way.
      TypeError: at the call, as :func:`gradients`.
    """

    def per_example_dots(params: Any, batch: Any, direction: Any) -> Any:
        _, closed = check_loss(loss_fn, params, batch, has_aux=has_aux)
        stacked = _is_stacked(params, direction)
        direction = trees.cast_like(direction, params)
        params, batch, direction = trees.vary_alike((params, batch, direction))
        derive = _by_factors if _has_custom_vjp(closed.jaxpr) else _by_linearisation
        along, aux = derive(loss_fn, params, batch, has_aux)
        found = jax.vmap(along, out_axes=1)(direction) if stacked else along(direction)
        return (found, aux) if has_aux else found

    return per_example_dots


def _by_linearisation(
    loss_fn: LossFn, params: Any, batch: Any, has_aux: bool
) -> tuple[Callable[[Any], jax.Array], Any]:
    """The derivative of the losses along a direction, and what the loss returns besides."""

    def losses(params):
        found = jax.vmap(loss_fn, in_axes=(None, 0))(params, batch)
        return found if has_aux else (found, None)

    with explained():
        _, derivative, aux = jax.linearize(losses, params, has_aux=True)
    return derivative, aux


def _by_factors(
    loss_fn: LossFn, params: Any, batch: Any, has_aux: bool
) -> tuple[Callable[[Any], jax.Array], Any]:
    """As `_by_linearisation`, by reverse mode alone."""
    traced = trace(loss_fn, params, batch, has_aux=has_aux)
    done = run(traced)

    def along(direction):
        leaves = jax.tree.leaves(direction)
        total = jnp.zeros((traced.batch_size,), done.losses.dtype)
        for leaf in traced.plan.leaves_by("expand"):
            total += jax.vmap(trees.dot, (0, None))(done.expanded[leaf], leaves[leaf])
        for leaf in traced.plan.leaves_by("factors", "instantiate"):
            total += _of_leaf(traced, done, leaf, leaves[leaf])
        if traced.plan.leaves_by("chunks"):
            total += map_chunks(
                traced, lambda grads: sum(trees.dot(g, leaves[i]) for i, g in grads.items())
            )
        return total.astype(done.losses.dtype)

    return along, aux_of(traced, done) if has_aux else None


def _of_leaf(traced: Traced, done: Pass, leaf: int, direction: jax.Array) -> jax.Array:
    """Inner products of one leaf's gradients with a direction for it, ``(B,)``."""
    parts = [
        from_leaf(direction, group[0].layout, group[0].sizes)
        for group in traced.plan.leaves[leaf].groups
    ]

    def one(inputs, cotangents, parts):
        groups = zip(factors_of(traced, leaf, inputs, cotangents), parts, strict=True)
        products = [_algebra.inner_with(use, part) for group, part in groups for use in group]
        return functools.reduce(jnp.add, products)

    return map_examples(one, *recorded(traced, done, leaf), shared=parts)


def _has_custom_vjp(jaxpr: core.Jaxpr) -> bool:
    return any(
        "custom_vjp" in eqn.primitive.name or any(map(_has_custom_vjp, trees.bodies(eqn)))
        for eqn in jaxpr.eqns
    )


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
