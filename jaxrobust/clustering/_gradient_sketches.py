"""Sketches of the gradients of a whole data set: points that can be clustered."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxrobust import per_example
from jaxrobust.clustering._batches import batch_places, map_batches
from jaxrobust.clustering._checks import bring_together, check_count, check_data


def gradient_sketches(
    loss_fn: Callable[[Any, Any], jax.Array],
    params: Any,
    data: Any,
    *,
    key: jax.Array,
    dim: int = 256,
    batch_size: int = 128,
) -> jax.Array:
    """Sketches of the gradients of all examples, by one pass over the data.

    :func:`per_example.sketches`, batch by batch, in one program that is compiled once per loss
    function and shapes: another key or other params compile nothing. The points for :func:`fit` and
    :func:`duplicates`.

    Args:
      loss_fn: ``loss_fn(params, example) -> ()``, the loss of one example. Give the same function
        every time: a new one is compiled anew.
      params: pytree of floating arrays.
      data: pytree of arrays ``(N, ...)``, all examples.
      key: PRNG key of the maps; sketches of one key may be compared.
      dim: length of a sketch.
      batch_size: examples whose gradients are sketched at once.

    Returns:
      ``(N, dim)``, float32 at least.

    Raises:
      ValueError: for data without examples or of different lengths, a ``dim`` or ``batch_size``
        below 1.
      ValueError, TypeError: as :func:`per_example.sketches`, for what cannot be differentiated.
    """
    check_data("data", data)
    batch_size = check_count("batch_size", batch_size)
    data = bring_together(data)
    known = not isinstance(key, Tracer)
    if known and per_example.slow_in_loops(loss_fn)(params, data):
        return _one_by_one(loss_fn, params, data, key, dim, batch_size)
    return _sketch_all(loss_fn, params, data, key, dim, batch_size)


def _one_by_one(
    loss_fn: Callable[[Any, Any], jax.Array],
    params: Any,
    data: Any,
    key: jax.Array,
    dim: int,
    batch_size: int,
) -> jax.Array:
    """A program per batch, see :func:`per_example.slow_in_loops`."""
    places, _ = batch_places(jax.tree.leaves(data)[0].shape[0], batch_size)
    found = [_sketch_rows(loss_fn, params, data, rows, key, dim) for rows in places]
    return jnp.concatenate(found)[: jax.tree.leaves(data)[0].shape[0]]


@functools.partial(jax.jit, static_argnums=(0, 5))
def _sketch_rows(
    loss_fn: Callable[[Any, Any], jax.Array],
    params: Any,
    data: Any,
    rows: jax.Array,
    key: jax.Array,
    dim: int,
) -> jax.Array:
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], data)
    return per_example.sketches(loss_fn, key=key, dim=dim)(params, batch)


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def _sketch_all(
    loss_fn: Callable[[Any, Any], jax.Array],
    params: Any,
    data: Any,
    key: jax.Array,
    dim: int,
    batch_size: int,
) -> jax.Array:
    # Params and key are arguments of one program, so that a later refresh compiles nothing.
    sketch = per_example.sketches(loss_fn, key=key, dim=dim)
    return map_batches(lambda batch: sketch(params, batch), data, batch_size)
