"""Vector-space operations on pytrees of floating arrays."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust.trees._dtypes import accumulator, check_floating, check_floating_leaf, promote


def dot(a: Any, b: Any) -> jax.Array:
    r"""Euclidean inner product :math:`\sum_{l}\sum_i a_{l,i} b_{l,i}` over all leaves (not a mean).

    Args:
      a: pytree of floating arrays.
      b: pytree of the same structure and leaf shapes.

    Returns:
      ``()`` array in the accumulator dtype (float32 at least) of the leaves together.

    Raises:
      ValueError: if the structures or the shapes of two leaves differ, or there are no leaves.
      TypeError: if a leaf is not floating.
    """
    check_floating("a", a)
    check_floating("b", b)
    _check_alike(a, b)

    def leaf_dot(x, y):
        dtype = accumulator(jnp.result_type(x, y))
        # Full contraction over every axis: no reshape, so a sharded leaf is reduced where it lies.
        return jnp.sum(jnp.asarray(x).astype(dtype) * jnp.asarray(y).astype(dtype))

    return sum(jax.tree.leaves(jax.tree.map(leaf_dot, a, b)))  # type: ignore[return-value]


def l2_norm(tree: Any) -> jax.Array:
    """Euclidean norm over all leaves, ``()``, in the accumulator dtype (float32 at least).

    Scaled by the largest entry, so 1e30 in float32 does not overflow. Infinite if an entry is and
    none is NaN. Its gradient at the zero tree is zero. For other norms see :mod:`jaxrobust.norms`.

    Raises:
      ValueError: if there are no leaves or one is empty. TypeError: if a leaf is not floating.
    """
    check_floating("tree", tree)
    leaves = jax.tree.leaves(promote(tree))
    top = [jnp.max(jnp.abs(leaf)) for leaf in leaves]
    largest = jax.lax.stop_gradient(jnp.max(jnp.stack(top)))
    # Where there is nothing to scale, the norm is the largest entry itself: 0, infinite or NaN.
    # There 1 is divided by and the root taken of 1, so that the gradient is not NaN.
    scalable = (largest > 0) & (largest < jnp.inf)
    divisor = jnp.where(scalable, largest, 1)
    total = sum(jnp.sum((leaf / divisor) ** 2) for leaf in leaves)
    return jnp.where(scalable, divisor * jnp.sqrt(jnp.where(scalable, total, 1)), largest)


def add(a: Any, b: Any, *, weight: float | jax.Array = 1.0) -> Any:
    """``a + weight * b`` leaf by leaf, computed in float32 at least, in the dtypes of ``a``.

    Args:
      a: pytree of floating arrays.
      b: pytree of the same structure and leaf shapes.
      weight: scalar.

    Raises:
      ValueError: if structures or the shapes of two leaves differ, or ``weight`` is no scalar.
      TypeError: if a leaf is not floating.
    """
    _check_alike(a, b)
    _check_scalar("weight", weight)

    def leaf_add(path, x, y):
        check_floating_leaf("a", path, x)
        check_floating_leaf("b", path, y)
        dtype = accumulator(jnp.result_type(x, y))
        total = jnp.asarray(x).astype(dtype) + weight * jnp.asarray(y).astype(dtype)
        return total.astype(jnp.result_type(x))

    return jax.tree_util.tree_map_with_path(leaf_add, a, b)


def scale(factor: float | jax.Array, tree: Any) -> Any:
    """``factor * tree`` leaf by leaf, computed in float32 at least, in the dtypes of ``tree``.

    Raises:
      ValueError: if ``factor`` is no scalar. TypeError: if a leaf is not floating.
    """
    _check_scalar("factor", factor)

    def leaf_scale(path, x):
        check_floating_leaf("tree", path, x)
        dtype = jnp.result_type(x)
        return (jnp.asarray(x).astype(accumulator(dtype)) * factor).astype(dtype)

    return jax.tree_util.tree_map_with_path(leaf_scale, tree)


def size(tree: Any) -> int:
    """Number of scalar entries over all leaves."""
    return sum(jnp.size(leaf) for leaf in jax.tree.leaves(tree))


def stack(trees: Sequence[Any]) -> Any:
    """Stacks trees of one structure along a new leading axis of every leaf.

    Raises:
      ValueError: if ``trees`` is empty or two trees differ in structure or in a leaf's shape.
    """
    if not trees:
        raise ValueError("trees is empty: nothing to stack")
    for index, tree in enumerate(trees):
        _check_alike(trees[0], tree, "trees[0]", f"trees[{index}]")
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack(tree: Any) -> list[Any]:
    """Undoes :func:`stack`: a list of trees, one per entry of the leading axis.

    Raises:
      ValueError: if there are no leaves, a leaf is a scalar, or the leading sizes differ.
    """
    leaves, structure = jax.tree.flatten(tree)
    lengths = {jnp.shape(leaf)[0] if jnp.ndim(leaf) else None for leaf in leaves}
    if len(lengths) != 1 or None in lengths:
        found = sorted(map(str, lengths))
        raise ValueError(f"tree must have leaves of one common leading size, got {found}")
    (length,) = lengths
    return [structure.unflatten([leaf[i] for leaf in leaves]) for i in range(length)]  # type: ignore[arg-type]


def _check_alike(a: Any, b: Any, a_name: str = "a", b_name: str = "b") -> None:
    """Raises unless two trees have one structure and, leaf by leaf, one shape."""
    first, second = jax.tree.structure(a), jax.tree.structure(b)
    if first != second:
        raise ValueError(f"{a_name} and {b_name} differ in structure: {first} and {second}")
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        if jnp.shape(x) != jnp.shape(y):
            where = jax.tree_util.keystr(path)
            shapes = f"{jnp.shape(x)} and {jnp.shape(y)}"
            raise ValueError(f"{a_name}{where} and {b_name}{where} differ in shape: {shapes}")


def _check_scalar(name: str, scalar: Any) -> None:
    if jnp.ndim(scalar) != 0:
        raise ValueError(f"{name} must be a scalar, got shape {jnp.shape(scalar)}")
