"""All examples, batch by batch, in one program for any number of them.

Batches are slices, which are copied many times faster than rows are gathered. The last one begins
early enough to be full: its first examples have been seen before.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import trees


def map_batches(function: Callable[[Any], Any], data: Any, batch_size: int) -> Any:
    """``function`` of all examples, batch by batch; results ``(N, ...)`` as from a single one."""
    num_examples = jax.tree.leaves(data)[0].shape[0]
    starts, size = batch_starts(num_examples, batch_size)

    def step(number, found):
        # Written where they belong: batches that are joined afterwards are all copied.
        start = jnp.minimum(number * size, num_examples - size)
        write = lambda whole, part: jax.lax.dynamic_update_slice_in_dim(whole, part, start, 0)
        return jax.tree.map(write, found, function(batch_at(data, start, size)))

    shapes = jax.eval_shape(function, jax.eval_shape(lambda: batch_at(data, 0, size)))
    empty = lambda leaf: jnp.zeros((num_examples, *leaf.shape[1:]), leaf.dtype)
    return jax.lax.fori_loop(0, len(starts), step, jax.tree.map(empty, shapes))


def join_batches(others: jax.Array, last: jax.Array, num_examples: int) -> jax.Array:
    """Results ``(N, ...)`` from those of all batches but the last, and those of the last."""
    new = num_examples - others.shape[0] * last.shape[0]
    others = others.reshape(-1, *last.shape[1:])
    return jnp.concatenate([others, last[last.shape[0] - new :]])


def sum_batches(function: Callable[[Any, jax.Array], Any], data: Any, batch_size: int) -> Any:
    """The sum of ``function(batch, weights)``; ``weights (n,)`` are 0 for what was seen before."""
    num_examples = jax.tree.leaves(data)[0].shape[0]
    starts, size = batch_starts(num_examples, batch_size)
    weights = (starts[:, None] + np.arange(size) >= np.arange(len(starts))[:, None] * size).astype(
        np.float32
    )

    def step(total, batch):
        start, weight = batch
        return jax.tree.map(jnp.add, total, function(batch_at(data, start, size), weight)), None

    first = batch_at(data, starts[0], size)
    shapes = jax.eval_shape(function, first, jnp.asarray(weights[0]))
    start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(step, start, (starts, weights))[0]


def sum_by_cluster(
    function: Callable[[Any, jax.Array], Any],
    data: Any,
    assignments: jax.Array,
    num_clusters: int,
    batch_size: int,
) -> Any:
    """The sum of ``function(batch, weights)`` over the members of every cluster, ``(K, ...)``.

    The examples are read in the order of their clusters, in batches of one cluster each. Their
    number depends on the clusters, their size does not: ``batch_size``, or the mean size of a
    cluster if that is less, for a smaller cluster fills no larger batch.
    """
    num_examples = assignments.size
    size = max(1, min(batch_size, num_examples // num_clusters))
    order = jnp.argsort(assignments)
    counts = jnp.zeros(num_clusters, jnp.int32).at[assignments].add(1)
    ends = jnp.cumsum(-(-counts // size))  # of the batches of every cluster
    firsts = jnp.cumsum(counts) - counts  # examples

    def one_batch(number):
        cluster = jnp.searchsorted(ends, number, side="right")
        begin = (number - ends[cluster]) * size + -(-counts[cluster] // size) * size
        place = begin + jnp.arange(size)
        index = order[jnp.minimum(firsts[cluster] + place, num_examples - 1)]
        weight = (place < counts[cluster]).astype(jnp.float32)
        return cluster, function(trees.take(data, index), weight)

    def step(number, total):
        cluster, found = one_batch(number)
        return jax.tree.map(lambda leaf, new: leaf.at[cluster].add(new), total, found)

    shapes = jax.eval_shape(one_batch, jnp.int32(0))[1]
    start = jax.tree.map(lambda leaf: jnp.zeros((num_clusters, *leaf.shape), leaf.dtype), shapes)
    return jax.lax.fori_loop(0, ends[-1], step, start)


def batch_starts(num_examples: int, batch_size: int) -> tuple[np.ndarray, int]:
    """The first example of every batch, and how many a batch has."""
    size = min(batch_size, num_examples)
    starts = np.arange(-(-num_examples // size), dtype=np.int32) * size
    return np.minimum(starts, num_examples - size), size


def batch_at(data: Any, start: Any, size: int) -> Any:
    """The batch that begins at an example."""
    take = lambda leaf: jax.lax.dynamic_slice_in_dim(jnp.asarray(leaf), start, size)
    return jax.tree.map(take, data)
