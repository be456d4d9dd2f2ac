"""What a plain gradient costs, which the cost of everything else is held against."""

import functools
import math
from typing import Any

import jax

from jaxrobust import trees
from jaxrobust.per_example._plan import Leaf
from jaxrobust.per_example._sketches import (
    FOLDED_SIZE,
    cost_of_group,
    frames_of_leaf,
    is_kept_whole,
    sketch_shapes,
)
from jaxrobust.per_example._trace import LossFn, Traced, trace


def gradient_cost(loss_fn: LossFn, params: Any, batch: Any) -> int:
    """Multiply-adds of the gradient of one example, with respect to all params.

    Three times those of the products with params: forward, back to the inputs, and back to the
    params. For a leaf that is used in other ways, three times its size. What is done without
    params, or with such as have no gradient, does not count. It looks once per loss function and
    shapes, and may be asked of arrays that are traced.

    Args:
      loss_fn: ``loss_fn(params, example) -> ()``, the loss of one example.
      params: pytree of floating arrays.
      batch: pytree of arrays ``(B, ...)``; B does not matter.

    Raises:
      ValueError, TypeError: as :func:`norms`, for what cannot be differentiated.
    """
    return _gradient_cost(loss_fn, *shapes_of(params, batch))


@functools.lru_cache(maxsize=256)
def _gradient_cost(loss_fn: LossFn, structure: Any, types: Any) -> int:
    return cost_of_gradient(trace_shapes(loss_fn, structure, types))


def sketch_cost(loss_fn: LossFn, params: Any, batch: Any, dim: int) -> int:
    """Multiply-adds of the sketch of one example, of ``dim`` numbers by :func:`sketches`.

    The products with params, forward and back to the inputs, and the random maps. Otherwise as
    :func:`gradient_cost`.
    """
    dim = trees.check_count("dim", dim)
    return _sketch_cost(loss_fn, *shapes_of(params, batch), dim)


@functools.lru_cache(maxsize=256)
def _sketch_cost(loss_fn: LossFn, structure: Any, types: Any, dim: int) -> int:
    return cost_of_sketch(trace_shapes(loss_fn, structure, types), dim)


def shapes_of(params: Any, batch: Any) -> tuple[Any, Any]:
    """Structure and types of the arguments of a loss, which can be the key of a cache."""
    leaves, structure = jax.tree.flatten((params, batch))
    return structure, tuple((jax.typeof(leaf).shape, jax.typeof(leaf).dtype) for leaf in leaves)


def trace_shapes(loss_fn: LossFn, structure: Any, types: Any) -> Traced:
    """The loss, traced for the arguments that :func:`shapes_of` describes."""
    params, batch = structure.unflatten([jax.ShapeDtypeStruct(*of_leaf) for of_leaf in types])
    return trace(loss_fn, params, batch, has_aux=False)


def cost_of_gradient(traced: Traced) -> int:
    """Multiply-adds per example."""
    total = 0
    for leaf, how in enumerate(traced.plan.leaves):
        if how.method == "unused":
            continue
        total += _products(how) or math.prod(traced.leaves[leaf].shape)
    return 3 * total


def _products(leaf: Leaf) -> int:
    """Multiply-adds of the products with a leaf; a row that is looked up is only copied."""
    total = 0
    for use in (use for group in leaf.groups for use in group):
        sizes = use.sizes
        rows = 1 if use.site.kind == "lookup" else sizes.rows
        total += sizes.blocks * sizes.positions * rows * sizes.columns
    return total


def cost_of_sketch(traced: Traced, dim: int) -> int:
    """Multiply-adds per example: a pass without the products that give the gradient, and the maps.

    Gradients that are formed and then sketched entry by entry count as often as they are read.
    """
    total, shapes = 0, sketch_shapes(traced, dim)
    for leaf, how in enumerate(traced.plan.leaves):
        if how.method == "unused":
            continue
        size = math.prod(traced.leaves[leaf].shape)
        products = _products(how)
        total += 2 * (products or size)
        if how.method in ("expand", "chunks") or is_kept_whole(traced.leaves[leaf], dim):
            total += products + size * (1 if size <= FOLDED_SIZE else 16)
            continue
        for frame in frames_of_leaf(traced, leaf):
            shape = shapes[leaf, frame.parts[0].number]
            for part in frame.parts:
                total += cost_of_group(how.groups[part.number], shape)
    return total
