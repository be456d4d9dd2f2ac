"""Batches that are spread over devices: by explicit mesh axes, or inside of `shard_map`."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec


def is_sharded(array: jax.Array) -> bool:
    """Whether the first axis is sharded over explicit mesh axes."""
    return _first_axis(array) is not None


def check_mesh(batch: list[jax.Array]) -> None:
    """Raises a ValueError for a batch on explicit mesh axes where no mesh is set."""
    if is_sharded(batch[0]) and jax.sharding.get_abstract_mesh().empty:
        raise ValueError(
            f"batch is sharded over the explicit mesh axes {_first_axis(batch[0])!r}, but no mesh "
            "is set: call it within `with jax.set_mesh(mesh):`"
        )


def bring_together(tree: Any) -> Any:
    """Arrays ``(B, ...)`` with all examples whole on every device, where that must be said."""

    def whole(array):
        sharding = jax.typeof(array).sharding
        if all(axes is None for axes in sharding.spec):
            return array
        return jax.sharding.reshard(array, NamedSharding(sharding.mesh, PartitionSpec()))

    return jax.tree.map(whole, tree)


def on_each_device(
    function: Callable[..., tuple[Any, Any]], batched: Any, shared: Any
) -> tuple[Any, Any]:
    """``function`` of the examples that each device has, if the batch is sharded explicitly.

    JAX gives up on many a reshape or product of an array that is sharded over explicit axes, and
    on its own each device needs none of these axes. Nothing but the sums is communicated.

    Args:
      function: from ``(batched, shared)`` to ``(sums over the examples, results for each)``. It may
        close over no array that is typed by the mesh.
      batched: tree of arrays ``(B, ...)``.
      shared: tree of arrays that every device needs whole.

    Returns:
      The sums over all examples, and the results ``(B, ...)``, sharded as the batch is.
    """
    first = jax.tree.leaves(batched)[0]
    if not is_sharded(first):
        return function(batched, shared)
    mesh, axes = jax.typeof(first).sharding.mesh, _first_axis(first)
    names = axes if isinstance(axes, tuple) else (axes,)
    others = tuple(
        name
        for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if kind == jax.sharding.AxisType.Explicit and name not in names
    )

    def local(batched, shared):
        summed, kept = _automatically(function, others)(batched, shared)
        return jax.lax.psum(summed, names), kept

    mapped = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(PartitionSpec(axes), PartitionSpec()),
        out_specs=(PartitionSpec(), PartitionSpec(axes)),
        axis_names=set(names),
        check_vma=False,  # for arrays that are made in the function do not vary
    )
    batched = jax.tree.map(lambda array: _sharded_over(array, axes), batched)
    return jax.jit(mapped)(batched, shared)  # without jit, axes besides these are an error


def _automatically(function: Callable[..., Any], axes: tuple[str, ...]) -> Callable[..., Any]:
    """The function with axes that XLA takes care of; its results are whole along them."""
    if not axes:
        return function
    return jax.sharding.auto_axes(function, axes=axes, out_sharding=PartitionSpec())


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


def _first_axis(array: jax.Array) -> Any:
    """The explicit mesh axes over which the first axis is sharded, as in a spec."""
    spec = jax.typeof(array).sharding.spec
    return spec[0] if len(spec) > 0 else None


def _sharded_over(array: jax.Array, axes: Any) -> jax.Array:
    """With the first axis sharded over these mesh axes."""
    sharding = jax.typeof(array).sharding
    if _first_axis(array) == axes:
        return array
    spec = PartitionSpec(axes, *sharding.spec[1:])
    return jax.sharding.reshard(array, NamedSharding(sharding.mesh, spec))
