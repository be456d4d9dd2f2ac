"""Batches that are spread over devices by explicit mesh axes: each device takes its own."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxrobust import trees
from jaxrobust.contrastive._pairs import check_ids

P = ParamSpec("P")
R = TypeVar("R")
_OF_ITEMS = ("x", "y", "z", "positives", "labels", "valid", "weights")
_IDS = ("positives", "labels")


def over_devices(loss: Callable[P, R]) -> Callable[P, R]:
    """A loss with ``axis_name`` that finds the axes by itself where JAX knows them.

    Arrays that are sharded over Auto axes are the compiler's affair; over explicit ones, JAX
    refuses most of what a loss does, and each device has to be told its part.
    """
    signature = inspect.signature(loss)

    @functools.wraps(loss)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind(*args, **kwargs).arguments
        if given.get("axis_name") is not None:
            return loss(*args, **kwargs)
        spread = [
            array for name in _OF_ITEMS if (array := _spread(name, given.get(name))) is not None
        ]
        if not spread:
            return loss(*args, **kwargs)
        # Those that are there whole are spread as the first one that is not.
        return _on_each(
            loss, jax.typeof(spread[0]).sharding.mesh, trees.first_axis(spread[0]), given
        )

    return wrapped


def _spread(name: str, array: Any) -> Any:
    """The array if it is sharded over explicit axes, otherwise None."""
    if not isinstance(array, jax.Array):
        return None
    sharding = getattr(jax.typeof(array), "sharding", None)
    if sharding is not None and any(axes is not None for axes in sharding.spec[1:]):
        raise ValueError(
            f"{name} must be sharded over its first axis alone, that of items, where mesh axes are "
            f"explicit; got {sharding.spec}"
        )
    return array if trees.is_sharded(array) else None


def _on_each(loss: Callable[..., Any], mesh: Any, axes: Any, given: dict[str, Any]) -> Any:
    of_items = {
        name: _as_array(name, given[name]) for name in _OF_ITEMS if given.get(name) is not None
    }
    others = {name: value for name, value in given.items() if name not in of_items}
    leaves, structure = jax.tree.flatten(others)
    is_array = [isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves]
    arrays = [leaf for leaf, array in zip(leaves, is_array, strict=True) if array]
    # With their types, for 1 and True and 1.0 are equal.
    static = tuple(
        None if array else (type(leaf), leaf) for leaf, array in zip(leaves, is_array, strict=True)
    )
    return _program(loss, mesh, axes, structure, static)(of_items, arrays)


def _as_array(name: str, given: Any) -> Any:
    """Of lists and arrays of NumPy; ids that JAX would cut off are an error."""
    if isinstance(given, jax.Array):
        return given
    return check_ids(name, given) if name in _IDS else jnp.asarray(given)


@functools.lru_cache(maxsize=256)  # one function for equal options, which is compiled once
def _program(
    loss: Callable[..., Any], mesh: Any, axes: Any, structure: Any, static: tuple[Any, ...]
) -> Callable[..., Any]:
    """From the arrays of items, and the others, to the loss; ``None`` in ``static``: an array."""

    def local(of_items, arrays):
        rest = iter(arrays)
        filled = [next(rest) if leaf is None else leaf[1] for leaf in static]
        options = structure.unflatten(filled) | {"axis_name": axes}
        return loss(**of_items, **options)

    @jax.jit
    def whole(of_items, arrays):
        rows = NamedSharding(mesh, PartitionSpec(axes))
        of_items = jax.tree.map(lambda leaf: jax.sharding.reshard(leaf, rows), of_items)
        mapped = jax.shard_map(
            local, mesh=mesh, in_specs=(PartitionSpec(axes), PartitionSpec()),
            out_specs=PartitionSpec(), check_vma=False,
        )  # fmt: skip
        return mapped(of_items, trees.bring_together(arrays))

    return whole
