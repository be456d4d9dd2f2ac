"""Batches that are spread over devices: by explicit mesh axes, or inside of `shard_map`."""

from typing import Any

import jax

from jaxrobust import trees


def check_mesh(batch: list[jax.Array]) -> None:
    """Raises a ValueError for a batch on explicit mesh axes where no mesh is set."""
    if trees.is_sharded(batch[0]) and jax.sharding.get_abstract_mesh().empty:
        raise ValueError(
            f"batch is sharded over the explicit mesh axes {trees.first_axis(batch[0])!r}, but no "
            "mesh is set: call it within `with jax.set_mesh(mesh):`"
        )


def type_of_example(leaf: Any) -> Any:
    """What one example of a leaf ``(B, ...)`` looks like to a trace.

    With its mesh and the mesh axes it varies over: a program that is traced without them cannot be
    run on arrays that have them, if there are programs inside of it (a `cond`, a `jit`).
    """
    found = []
    jax.eval_shape(jax.vmap(lambda example: found.append(jax.typeof(example))), leaf)
    return found[0]


def vary_alike(tree: Any) -> Any:
    """The arrays, as such that vary over all mesh axes over which any of them varies.

    Inside of `shard_map` arrays are known to be equal on all devices or not. The cotangent of one
    that is equal is summed over the devices, which would add up gradients of different examples.
    """
    axes = frozenset().union(*map(_varying, jax.tree.leaves(tree)))
    return jax.tree.map(lambda array: _vary(array, axes), tree)


def vary_like(tree: Any, like: Any) -> Any:
    """The arrays, as such that vary over the mesh axes over which any of ``like`` varies."""
    return vary_alike((tree, like))[0]


def _vary(array: Any, axes: frozenset[str]) -> Any:
    missing = tuple(sorted(axes - _varying(array)))
    return jax.lax.pcast(array, missing, to="varying") if missing else array


def _varying(array: Any) -> frozenset[str]:
    if isinstance(array, jax.ShapeDtypeStruct):
        return frozenset()
    kind = jax.typeof(array)
    manual = getattr(kind, "manual_axis_type", None)  # up to JAX 0.9 the type itself has `vma`
    return getattr(kind, "vma", frozenset()) if manual is None else manual.varying
