"""Leaves sharded over explicit mesh axes: brought together where an operation needs whole axes.

With Auto axes the compiler moves the data by itself, and both functions return their input.
"""

from collections.abc import Iterable

import jax
from jax.sharding import NamedSharding, PartitionSpec


def unshard(x: jax.Array, axes: Iterable[int] | None = None) -> jax.Array:
    """`x` with `axes` (all if None) whole on every device, as sort, FFT and SVD require."""
    sharding = jax.typeof(x).sharding
    whole = set(range(x.ndim) if axes is None else axes)
    spec = [None if axis in whole else entry for axis, entry in enumerate(sharding.spec)]
    return _reshard(x, sharding.mesh, spec)


def shard_like(x: jax.Array, other: jax.Array) -> jax.Array:
    """`x` in the sharding of `other`, an array of the same shape."""
    sharding = jax.typeof(other).sharding
    return _reshard(x, sharding.mesh, sharding.spec)


def _reshard(x: jax.Array, mesh, spec: Iterable) -> jax.Array:
    spec = PartitionSpec(*spec)
    if jax.typeof(x).sharding.spec == spec:
        return x
    return jax.sharding.reshard(x, NamedSharding(mesh, spec))
