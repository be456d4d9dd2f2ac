"""Arrays of examples that are spread over devices by explicit mesh axes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec


def is_sharded(array: Any) -> bool:
    """Whether the first axis is sharded over explicit mesh axes."""
    return first_axis(array) is not None


def first_axis(array: Any) -> Any:
    """The explicit mesh axes over which the first axis is sharded, as in a spec; or None."""
    sharding = getattr(jax.typeof(array), "sharding", None)
    return sharding.spec[0] if sharding is not None and len(sharding.spec) > 0 else None


def bring_together(tree: Any) -> Any:
    """The arrays, whole on every device if they are sharded over explicit mesh axes.

    For what looks at all examples in any order, which explicit axes do not allow.
    """

    def whole(array):
        sharding = getattr(jax.typeof(array), "sharding", None)
        if sharding is None or all(axes is None for axes in sharding.spec):
            return array
        return jax.sharding.reshard(array, NamedSharding(sharding.mesh, PartitionSpec()))

    return jax.tree.map(whole, tree)


def gather(tree: Any, axis_name: Any) -> Any:
    """Inside of ``shard_map``, the rows of all devices along these mesh axes, in their order.

    Unlike those of ``jax.lax.all_gather``, JAX knows them to be the same on all devices, so that
    they can leave ``shard_map`` as such, and enter a loop that carries what is. It is for what has
    no gradient: the sum over devices, of parts that are zero elsewhere, moves twice the bytes.

    Args:
      tree: pytree of arrays ``(n, ...)``.
      axis_name: a mesh axis, or a tuple of some.

    Returns:
      Like ``tree``, with leaves ``(n * number of devices, ...)``.
    """
    size, index = jax.lax.axis_size(axis_name), jax.lax.axis_index(axis_name)

    def whole(array):
        array = jnp.asarray(array)
        numbers = array.astype(jnp.int32) if array.dtype == jnp.bool_ else array
        shape = (array.shape[0] * size, *array.shape[1:])
        empty = vary_like(jnp.zeros(shape, numbers.dtype), (numbers, index))
        start = index * array.shape[0]
        part = jax.lax.dynamic_update_slice_in_dim(empty, numbers, start, 0)
        return jax.lax.psum(part, axis_name).astype(array.dtype)

    return jax.tree.map(whole, tree)


def take(tree: Any, indices: Any) -> Any:
    """The rows of arrays ``(N, ...)`` at these indices, ``(n, ...)``.

    Of arrays that are sharded over explicit mesh axes, rows that are sharded in the same way if
    there is the same number for each device, otherwise whole on every device.

    Args:
      tree: pytree of arrays ``(N, ...)``.
      indices: ``(n,)`` int.

    Returns:
      Like ``tree``, with leaves ``(n, ...)``.
    """
    return jax.tree.map(lambda leaf: _rows(jnp.asarray(leaf), indices), tree)


def _rows(array: jax.Array, indices: Any) -> jax.Array:
    axes = first_axis(array)
    if axes is None:
        return array[indices]
    mesh, spec = jax.typeof(array).sharding.mesh, jax.typeof(array).sharding.spec
    parts = 1
    for name in axes if isinstance(axes, tuple) else (axes,):
        parts *= mesh.shape[name]
    rows = axes if jnp.shape(indices)[0] % parts == 0 else None
    target = NamedSharding(mesh, PartitionSpec(rows, *spec[1:]))
    return array.at[bring_together(indices)].get(out_sharding=target)


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
    # Some leaves may be there whole, such as weights: they are spread as the others are.
    leaves = jax.tree.leaves(batched)
    first = next((leaf for leaf in leaves if is_sharded(leaf)), None)
    if first is None:
        return function(batched, shared)
    mesh, axes = jax.typeof(first).sharding.mesh, first_axis(first)
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

    @jax.jit  # without it, axes besides these are an error, and so are arrays without a mesh
    def whole(batched, shared):
        return mapped(jax.tree.map(lambda a: _sharded_over(a, mesh, axes), batched), shared)

    return whole(batched, shared)


def _automatically(function: Callable[..., Any], axes: tuple[str, ...]) -> Callable[..., Any]:
    """The function with axes that XLA takes care of; its results are whole along them."""
    if not axes:
        return function
    return jax.sharding.auto_axes(function, axes=axes, out_sharding=PartitionSpec())


def _sharded_over(array: jax.Array, mesh: Any, axes: Any) -> jax.Array:
    """With the first axis sharded over these mesh axes."""
    if first_axis(array) == axes:
        return array
    # Of an array that has not been told of the mesh the spec is empty.
    spec = PartitionSpec(axes, *jax.typeof(array).sharding.spec[1:])
    return jax.sharding.reshard(array, NamedSharding(mesh, spec))


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
