"""Norms of per-example gradients, alone or along with the mean gradient."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust import trees
from jaxrobust.per_example import _algebra
from jaxrobust.per_example._backward import Pass, factors_of, map_chunks, recorded, run
from jaxrobust.per_example._batching import reduce_examples
from jaxrobust.per_example._trace import LossFn, Traced, trace
from jaxrobust.per_example._uses import Factors, to_leaf


def norms(
    loss_fn: LossFn, *, has_aux: bool = False, by_leaf: bool = False
) -> Callable[[Any, Any], Any]:
    r"""Euclidean norms :math:`\|\nabla_\theta \ell(\theta, x_i)\|_2` of all gradients of a batch.

    One forward and one backward pass, cheaper than the mean gradient where the weights enter by
    products, for the products that give the gradient are left out. Exact for every loss that JAX
    can differentiate; :func:`explain` says how each leaf is done.

    Args:
      loss_fn: ``loss_fn(params, example) -> ()``, the loss of one example, without the batch axis;
        with ``has_aux``, ``(loss, aux)``. Parameters used several times (tied embeddings,
        recurrence) are combined before the norm is taken.
      has_aux: whether ``loss_fn`` returns something else along with the loss.
      by_leaf: whether each leaf's norm is wanted, instead of the norm of all together.

    Returns:
      A function of ``(params, batch)``; the leaves of ``batch`` are ``(B, ...)``. It returns
      ``(B,)`` in float32 at least, or with ``by_leaf`` a tree like ``params`` of such; with
      ``has_aux``, ``(norms, aux)``. In float32 norms between 1e-18 and 1e18 come out, if the norms
      of the inputs of products are in that range as well; the squares of others are out of range.
      For a leaf done by "factors" at several positions, both the inputs of its products and the
      cotangents of their outputs are to be in that range at every position. Where the positions of
      a sequence cancel, so that the gradient is c times smaller than its parts, a leaf done by
      "factors" has a relative error of order ``eps / c**2``; one that is instantiated, of order
      ``eps / c``.

    Raises:
      ValueError: at the call, if ``batch`` is empty, has leaves of different lengths or a scalar, a
        leaf of ``params`` has no entries, or the loss is not a scalar array; and if ``batch`` is
        sharded over explicit mesh axes, but no mesh is set (``jax.set_mesh``), under ``jit`` too.
      TypeError: at the call, if a leaf of ``params`` or the loss is not real floating, or a leaf of
        ``batch`` or of aux is no array of numbers.

    Source:
      For single products Goodfellow, arXiv:1510.01799; for sequences and convolutions the "ghost
      norm" of Li et al., arXiv:2110.05679, and Bu et al., arXiv:2205.10683.
    """

    def per_example_norms(params: Any, batch: Any) -> Any:
        traced = trace(loss_fn, params, batch, has_aux=has_aux)
        done = run(traced)
        squared, _ = squared_norms(traced, done)
        if by_leaf:
            leaves = [jnp.sqrt(_clamped(squared[i])) for i in range(len(traced.leaves))]
            result = traced.params_structure.unflatten(leaves)
        else:
            result = jnp.sqrt(total(squared))
        return (result, aux_of(traced, done)) if has_aux else result

    return per_example_norms


def value_grad_and_norms(
    loss_fn: LossFn, *, has_aux: bool = False
) -> Callable[[Any, Any], tuple[Any, Any, jax.Array]]:
    r"""Losses, *mean* gradient and per-example gradient norms, in one backward pass.

    What a training step needs that weights, clips or samples examples by their gradients, at about
    the price of the mean gradient alone.

    Args:
      loss_fn: as for :func:`norms`.
      has_aux: whether ``loss_fn`` returns ``(loss, aux)``.

    Returns:
      A function of ``(params, batch)`` that returns ``(losses, gradient, norms)``: the losses
      ``(B,)``, with ``has_aux`` ``(losses, aux)``; the gradient of their mean, like ``params``; the
      norms ``(B,)`` of the gradients of the single losses (not divided by B). The mean is summed in
      float32 for leaves in float16, in which the sum may be out of range; of other leaves it is
      what differentiation gives.
      Inside of ``jax.shard_map`` the mean is that over the examples of the device.

    Raises:
      ValueError, TypeError: at the call, as :func:`norms`.
    """

    def per_example_value_grad_and_norms(params: Any, batch: Any) -> tuple[Any, Any, jax.Array]:
        traced = trace(loss_fn, params, batch, has_aux=has_aux)
        done, squared, mean = run_with_mean(traced)
        gradient = trees.cast_like(mean, params)
        values = (done.losses, aux_of(traced, done)) if has_aux else done.losses
        return values, gradient, jnp.sqrt(total(squared))

    return per_example_value_grad_and_norms


def aux_of(traced: Traced, done: Pass) -> Any:
    """What the loss returned besides, with a leading axis B."""
    return traced.aux_structure.unflatten(done.aux)


def total(squared: dict[int, jax.Array]) -> jax.Array:
    """The sum over the leaves, ``(B,)``."""
    return _clamped(functools.reduce(jnp.add, squared.values()))


def _clamped(squared: jax.Array) -> jax.Array:
    # Pairs of positions can cancel to a rounding error below zero.
    return jnp.maximum(squared, 0)


def run_with_mean(
    traced: Traced, *, precisely: bool = False
) -> tuple[Pass, dict[int, jax.Array], Any]:
    """A pass, each leaf's squared norms ``(B,)``, and the mean gradient, float32 at least.

    Differentiation sums over a batch in the dtype of the leaf. ``precisely`` asks for sums in
    float32 of leaves in float16 and bfloat16 too.
    """
    candidates = traced.plan.leaves_by("factors", "chunks")
    apart = [leaf for leaf in candidates if _is_summed_apart(traced, leaf, precisely)]
    done = run(traced, differentiate=[leaf for leaf in candidates if leaf not in apart])
    squared, sums = squared_norms(traced, done, with_sums=True)
    sums = {**sums, **done.gradients, **_sums_apart(traced, done, apart)}
    means = [
        trees.promote(sums.get(number, jnp.zeros_like(leaf))) / traced.batch_size
        for number, leaf in enumerate(traced.leaves)
    ]
    return done, squared, traced.params_structure.unflatten(means)


def _is_summed_apart(traced: Traced, leaf: int, precisely: bool) -> bool:
    # The sum over a batch may be out of range where the mean is not; in float16, of which 65504 is
    # the largest.
    dtype = traced.leaves[leaf].dtype
    return dtype == jnp.float16 or (precisely and dtype != trees.accumulator(dtype))


def _sums_apart(traced: Traced, done: Pass, leaves: Sequence[int]) -> dict[int, jax.Array]:
    """The sums over the batch of these leaves' gradients, in float32 at least."""
    chunks = traced.plan.leaves_by("chunks")
    sums = {leaf: _sum_by_products(traced, done, leaf) for leaf in leaves if leaf not in chunks}
    if any(leaf in chunks for leaf in leaves):
        sums.update(map_chunks(traced, trees.promote, summed=True))
    return sums


def _sum_by_products(traced: Traced, done: Pass, leaf: int) -> jax.Array:
    """The sum over the batch of a leaf's gradients: the examples are as many more positions."""
    groups = traced.plan.leaves[leaf].groups

    def of_example(inputs, cotangents):
        found = factors_of(traced, leaf, inputs, cotangents)
        return [
            [(use.d, use.rows() if use.index is None else use.index) for use in uses]
            for uses in found
        ]

    def of_batch(found, _):
        parts = jax.vmap(of_example)(*found)
        return [
            _algebra.instantiate([_joined(*part, group[0].sizes.rows) for part in uses])
            for group, uses in zip(groups, parts, strict=True)
        ], ()

    sums, _ = trees.on_each_device(of_batch, recorded(traced, done, leaf), None)
    return sum_of_groups(traced, leaf, sums)


def _joined(d: jax.Array, rows: jax.Array, num_rows: int) -> Factors:
    """Factors of all examples, ``(B, ...)``, as those of one."""

    def join(array):  # (B, blocks, positions, ...)
        return jnp.moveaxis(array, 0, 1).reshape(array.shape[1], -1, array.shape[-1])

    if rows.ndim == 2:  # numbers of rows
        return Factors(join(d), num_rows, index=rows.reshape(-1))
    return Factors(join(d), num_rows, join(rows))


def squared_norms(
    traced: Traced, done: Pass, *, with_sums: bool = False
) -> tuple[dict[int, jax.Array], dict[int, jax.Array]]:
    """Squared norms of each leaf's gradients, ``(B,)``, and the sums of those that were formed."""
    squared: dict[int, jax.Array] = {}
    sums: dict[int, jax.Array] = {}
    plan = traced.plan
    for leaf in plan.leaves_by("unused"):
        dtype = trees.accumulator(traced.leaves[leaf].dtype)
        squared[leaf] = jnp.zeros((traced.batch_size,), dtype)
    for leaf in plan.leaves_by("expand"):
        squared[leaf] = jax.vmap(square)(done.expanded[leaf])
        sums[leaf] = jnp.sum(trees.promote(done.expanded[leaf]), axis=0)
    for leaf in plan.leaves_by("factors", "instantiate"):
        formed, squared[leaf] = _norms_of_leaf(traced, done, leaf, with_sum=with_sums)
        sums.update(formed)
    if plan.leaves_by("chunks"):
        squared.update(map_chunks(traced, lambda grads: {i: square(g) for i, g in grads.items()}))
    return squared, sums


def _norms_of_leaf(
    traced: Traced, done: Pass, leaf: int, *, with_sum: bool
) -> tuple[dict[int, jax.Array], jax.Array]:
    """The sum over the batch of a leaf's gradients, if they are formed, and their squared norms."""
    plan = traced.plan.leaves[leaf]
    has_sum = with_sum and all(plan.formed)

    def one(inputs, cotangents):
        gradients, squared = [], []
        for uses, formed in zip(
            factors_of(traced, leaf, inputs, cotangents), plan.formed, strict=True
        ):
            if formed:
                gradients.append(_algebra.instantiate(uses))
                squared.append(square(gradients[-1]))
            else:
                squared.append(_algebra.squared_norm(uses))
        return gradients if has_sum else [], functools.reduce(jnp.add, squared)

    found = recorded(traced, done, leaf)
    matrices = any(plan.formed) or plan.num_positions > 1
    sums, squared = reduce_examples(one, *found, matrices=matrices)
    return {leaf: sum_of_groups(traced, leaf, sums)} if has_sum else {}, squared


def sum_of_groups(traced: Traced, leaf: int, gradients: list[jax.Array]) -> jax.Array:
    """The gradients of a leaf's groups of uses, as one array of the leaf's shape."""
    groups, shape = traced.plan.leaves[leaf].groups, traced.leaves[leaf].shape
    placed = [
        to_leaf(g, group[0].layout, shape) for g, group in zip(gradients, groups, strict=True)
    ]
    return sum(placed[1:], placed[0])


def square(gradient: jax.Array) -> jax.Array:
    """``||g||^2`` of one leaf, ``()``."""
    return jnp.sum(trees.promote(gradient) ** 2)
