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
