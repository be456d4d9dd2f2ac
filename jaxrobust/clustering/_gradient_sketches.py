"""Sketches of the gradients of a whole data set: points that can be clustered."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxrobust import per_example, trees
from jaxrobust.clustering._batches import batch_at, batch_starts, join_batches, map_batches
from jaxrobust.per_example import Landmarks

LossFn = Callable[[Any, Any], jax.Array]


def gradient_sketches(
    loss_fn: LossFn,
    params: Any,
    data: Any,
    *,
    key: jax.Array,
    dim: int = 256,
    num_landmarks: int | None = 0,
    batch_size: int = 128,
) -> jax.Array:
    """Sketches of the gradients of all examples, by one pass over the data.

    :func:`per_example.sketches`, batch by batch, in one program that is compiled once per loss
    function and shapes: another key or other params compile nothing. The points for :func:`fit` and
    :func:`duplicates`. With landmarks, :func:`per_example.landmark_sketches`: nearly always closer
    to the gradients, at the cost of inner products with those of ``num_landmarks`` random examples.

    Args:
      loss_fn: ``loss_fn(params, example) -> ()``, the loss of one example. Give the same function
        every time: a new one is compiled anew.
      params: pytree of floating arrays.
      data: pytree of arrays ``(N, ...)``, all examples.
      key: PRNG key of the maps, and of the choice of landmarks. Without landmarks, sketches of one
        key may be compared, also those of other data and params.
      dim: length of a sketch.
      num_landmarks: 0 to ``dim``, at most N; None for a quarter of ``dim`` if the inner products
        cost no more than the gradient, else 0.
      batch_size: examples whose gradients are sketched at once.

    Returns:
      ``(N, dim)``, float32 at least.

    Raises:
      ValueError: for data without examples or of different lengths, a ``dim`` or ``batch_size``
        below 1, a ``num_landmarks`` out of range.
      ValueError, TypeError: as :func:`per_example.sketches`, for what cannot be differentiated.
    """
    num_examples = trees.check_examples("data", data)
    batch_size = trees.check_count("batch_size", batch_size)
    dim = trees.check_count("dim", dim)
    data = trees.bring_together(data)
    number = _num_landmarks(loss_fn, params, data, dim, num_examples, num_landmarks)
    landmarks = _prepare(loss_fn, params, data, key, dim, number) if number else None
    known = not isinstance(key, Tracer)
    if known and per_example.slow_in_loops(loss_fn)(params, data):
        return _one_by_one(loss_fn, params, data, key, landmarks, dim, batch_size)
    return _sketch_all(loss_fn, params, data, key, landmarks, dim, batch_size)


def _num_landmarks(
    loss_fn: LossFn, params: Any, data: Any, dim: int, num_examples: int, wanted: int | None
) -> int:
    if wanted is None:
        number = min(dim // 4, num_examples)
        return number if number and per_example.landmarks_pay(loss_fn, params, data, number) else 0
    return trees.check_count("num_landmarks", wanted, least=0, most=min(dim, num_examples))


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def _prepare(
    loss_fn: LossFn, params: Any, data: Any, key: jax.Array, dim: int, number: int
) -> Landmarks:
    """Random different examples as landmarks."""
    place_key, key = jax.random.split(key)
    _, places = jax.lax.top_k(jax.random.uniform(place_key, _leading(data)), number)
    examples = trees.take(data, places)
    return per_example.landmark_sketches(loss_fn, key=key, dim=dim).prepare(params, examples)


def _leading(data: Any) -> tuple[int, ...]:
    return jnp.shape(jax.tree.leaves(data)[0])[:1]


def _sketcher(
    loss_fn: LossFn, params: Any, key: jax.Array, landmarks: Landmarks | None, dim: int
) -> Callable[[Any], jax.Array]:
    """Sketches of a batch."""
    if landmarks is None:
        sketch = per_example.sketches(loss_fn, key=key, dim=dim)
        return lambda batch: sketch(params, batch)
    _, key = jax.random.split(key)  # as in `_prepare`
    with_landmarks = per_example.landmark_sketches(loss_fn, key=key, dim=dim).sketch
    return lambda batch: with_landmarks(params, batch, landmarks)


def _one_by_one(
    loss_fn: LossFn,
    params: Any,
    data: Any,
    key: jax.Array,
    landmarks: Landmarks | None,
    dim: int,
    batch_size: int,
) -> jax.Array:
    """A program per batch, see :func:`per_example.slow_in_loops`."""
    (num_examples,) = _leading(data)
    starts, size = batch_starts(num_examples, batch_size)
    found = [
        _sketch_batch(loss_fn, params, data, start, key, landmarks, dim, size) for start in starts
    ]
    others = jnp.stack(found[:-1]) if found[:-1] else jnp.zeros((0, *found[-1].shape))
    return join_batches(others, found[-1], num_examples)


@functools.partial(jax.jit, static_argnums=(0, 6, 7))
def _sketch_batch(
    loss_fn: LossFn,
    params: Any,
    data: Any,
    start: jax.Array,
    key: jax.Array,
    landmarks: Landmarks | None,
    dim: int,
    size: int,
) -> jax.Array:
    batch = batch_at(data, start, size)
    return _sketcher(loss_fn, params, key, landmarks, dim)(batch)


@functools.partial(jax.jit, static_argnums=(0, 5, 6))
def _sketch_all(
    loss_fn: LossFn,
    params: Any,
    data: Any,
    key: jax.Array,
    landmarks: Landmarks | None,
    dim: int,
    batch_size: int,
) -> jax.Array:
    # Params and key are arguments of one program, so that a later refresh compiles nothing.
    return map_batches(_sketcher(loss_fn, params, key, landmarks, dim), data, batch_size)
