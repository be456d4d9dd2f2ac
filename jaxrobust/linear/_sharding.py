"""Operations on examples that may be sharded over explicit mesh axes.

There JAX asks what sharding the result of a gather, or of a sum over the examples, should have;
with Auto axes, or on one device, all of this is the plain operation.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

_HIGHEST = jax.lax.Precision.HIGHEST


def on_one_device(array: Any) -> Any:
    """A known array that is spread over several devices, as one on none in particular."""
    spread = isinstance(array, jax.Array) and len(array.sharding.device_set) > 1
    return np.asarray(array) if spread and array.is_fully_addressable else array


def gather(x: jax.Array) -> jax.Array:
    """``x`` whole on every device."""
    sharding = jax.typeof(x).sharding
    if all(entry is None for entry in sharding.spec):
        return x
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, PartitionSpec(*[None] * x.ndim)))


def rows(table: jax.Array, index: jax.Array | np.ndarray) -> jax.Array:
    """``table[index]``, sharded like ``index (n,)``."""
    sharding = jax.typeof(index).sharding
    if all(entry is None for entry in sharding.spec):
        return table[index]
    spec = PartitionSpec(*sharding.spec, *[None] * (table.ndim - 1))
    return table.at[index].get(out_sharding=NamedSharding(sharding.mesh, spec))


def combine(weights: jax.Array, x: jax.Array) -> jax.Array:
    """``sum_i weights[i] * x[i]``, sharded like the other axes of ``x``."""
    sharding = jax.typeof(x).sharding
    if all(entry is None for entry in (*sharding.spec, *jax.typeof(weights).sharding.spec)):
        return jnp.tensordot(weights, x, axes=1, precision=_HIGHEST)
    out = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
    return jnp.tensordot(weights, x, axes=1, precision=_HIGHEST, out_sharding=out)


def smallest(x: jax.Array) -> jax.Array:
    """``min(x)``, ``()``, and NaN if any entry is.

    On the CPU the minimum over the shards of an array drops NaN; an ``or`` over them does not.
    """
    return jnp.where(jnp.any(jnp.isnan(x)), jnp.nan, jnp.min(x))


def scores(x: Any, w: Any) -> jax.Array:
    """``<w, x[i]>`` over all features: (n,), or (n, C) of ``w (C, *features)``; sharded like n."""
    w, num_classes = features_like(w, x), w.ndim - x.ndim + 1
    axes = (tuple(range(1, x.ndim)), tuple(range(num_classes, w.ndim)))
    sharding = jax.typeof(x).sharding
    if all(entry is None for entry in sharding.spec):
        return jnp.tensordot(x, w, axes=axes, precision=_HIGHEST)
    # The examples stay where they are: each device sums over its own features, then all add up.
    out = NamedSharding(sharding.mesh, PartitionSpec(sharding.spec[0], *[None] * num_classes))
    return jnp.tensordot(x, w, axes=axes, precision=_HIGHEST, out_sharding=out)


def features_like(w: jax.Array, x: jax.Array) -> jax.Array:
    """``w (..., *features)`` with its features sharded like those of ``x``, all else whole."""
    sharding = jax.typeof(x).sharding
    mesh = jax.typeof(w).sharding.mesh if sharding.mesh.empty else sharding.mesh
    spec = PartitionSpec(*[None] * (w.ndim - x.ndim + 1), *sharding.spec[1:])
    if mesh.empty or jax.typeof(w).sharding.spec == spec:
        return w
    return jax.sharding.reshard(w, NamedSharding(mesh, spec))


def like(result: jax.Array, x: jax.Array) -> jax.Array:
    """``result``, of the shape of ``x``, sharded as ``x`` is."""
    sharding = jax.typeof(x).sharding
    if sharding.mesh.empty or jax.typeof(result).sharding.spec == sharding.spec:
        return result
    return jax.sharding.reshard(result, sharding)
