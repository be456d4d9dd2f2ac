"""Pairs that are spread over devices by explicit mesh axes: each device takes its own."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxrobust import trees

P = ParamSpec("P")
R = TypeVar("R")
_OF_PAIRS = ("x", "y", "positives", "valid", "weights")


def over_devices(loss: Callable[P, R]) -> Callable[P, R]:
    """A loss of pairs with ``axis_name`` that finds the axes by itself where JAX knows them.

    Arrays that are sharded over Auto axes are the compiler's affair; over explicit ones, JAX
    refuses most of what a loss does, and each device has to be told its part.
    """
    signature = inspect.signature(loss)

    @functools.wraps(loss)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind(*args, **kwargs).arguments
        x = given["x"]
        if given.get("axis_name") is not None or not hasattr(x, "dtype") or not _spread(x):
            return loss(*args, **kwargs)
        return _on_each(loss, jax.typeof(x).sharding.mesh, trees.first_axis(x), given)

    return wrapped


def _spread(x: Any) -> bool:
    return not isinstance(x, np.ndarray) and trees.is_sharded(x)


def _on_each(loss: Callable[..., Any], mesh: Any, axes: Any, given: dict[str, Any]) -> Any:
    of_pairs = {name: given[name] for name in _OF_PAIRS if given.get(name) is not None}
    others = {name: value for name, value in given.items() if name not in of_pairs}
    leaves, structure = jax.tree.flatten(others)
    is_array = [isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves]
    arrays = [leaf for leaf, array in zip(leaves, is_array, strict=True) if array]

    def local(of_pairs, arrays):
        rest = iter(arrays)
        filled = [
            next(rest) if array else leaf for leaf, array in zip(leaves, is_array, strict=True)
        ]
        options = structure.unflatten(filled) | {"axis_name": axes}
        return loss(**of_pairs, **options)

    @jax.jit
    def whole(of_pairs, arrays):
        rows = NamedSharding(mesh, PartitionSpec(axes))
        of_pairs = jax.tree.map(lambda leaf: jax.sharding.reshard(leaf, rows), of_pairs)
        mapped = jax.shard_map(
            local, mesh=mesh, in_specs=(PartitionSpec(axes), PartitionSpec()),
            out_specs=PartitionSpec(), check_vma=False,
        )  # fmt: skip
        return mapped(of_pairs, trees.bring_together(arrays))

    return whole(of_pairs, arrays)
