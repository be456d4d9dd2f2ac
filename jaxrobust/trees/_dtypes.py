"""Which dtype a sum is computed in, and which one the caller gets back."""

from typing import Any

import jax
import jax.numpy as jnp


def accumulator(dtype: Any) -> Any:
    """The dtype that sums over ``dtype`` are computed in: float32 at least, float64 for float64."""
    return jnp.promote_types(dtype, jnp.float32)


def promote(tree: Any) -> Any:
    """Casts leaves to their :func:`accumulator` dtype; float32 and float64 pass unchanged."""
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf).astype(accumulator(jnp.result_type(leaf))), tree
    )


def cast_like(tree: Any, like: Any) -> Any:
    """Casts every leaf of ``tree`` to the dtype of the same leaf in ``like`` (same structure)."""
    return jax.tree.map(
        lambda leaf, other: jnp.asarray(leaf).astype(jnp.result_type(other)), tree, like
    )


def check_floating(name: str, tree: Any) -> None:
    """Raises unless there are leaves, all of them real floating arrays with at least one entry.

    Args:
      name: the argument's name, as the caller's user knows it; it opens the message.
      tree: pytree to check. Only shapes and dtypes are read, so it works on tracers.

    Raises:
      ValueError: if the tree has no leaves or a leaf has no entries.
      TypeError: if a leaf is not of a real floating dtype.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if not leaves:
        raise ValueError(f"{name} has no array leaves: got {tree!r}")
    for path, leaf in leaves:
        check_floating_leaf(name, path, leaf)
        shape = getattr(leaf, "shape", ())
        if 0 in shape:
            raise ValueError(f"{name}{jax.tree_util.keystr(path)} is empty: shape {shape}")


def check_floating_leaf(name: str, path: Any, leaf: Any) -> None:
    """Raises TypeError unless this leaf, empty or not, is of a real floating dtype."""
    where = f"{name}{jax.tree_util.keystr(path)}"
    # Asked first, for jnp.result_type takes the string "float32" for a dtype.
    if not (hasattr(leaf, "dtype") or isinstance(leaf, (int, float, complex))):
        raise TypeError(f"{where} must be a floating array, got {type(leaf).__name__}")
    dtype = jnp.result_type(leaf)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{where} must have a real floating dtype, got {dtype}")
