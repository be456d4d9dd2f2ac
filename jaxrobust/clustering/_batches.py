"""All examples, batch by batch, in one program for any number of them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def map_batches(function: Callable[[Any], Any], data: Any, batch_size: int) -> Any:
    """``function`` of all examples, batch by batch; results ``(N, ...)``, as from a single batch.

    The last batch is filled up with copies of the last example, so that one program does for all;
    what comes of them is dropped.
    """
    num_examples = jax.tree.leaves(data)[0].shape[0]
    places, _ = batch_places(num_examples, batch_size)
    found = jax.lax.map(lambda index: function(_at(data, index)), places)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:num_examples], found)


def sum_batches(function: Callable[[Any, jax.Array], Any], data: Any, batch_size: int) -> Any:
    """The sum of ``function(batch, weights)`` over batches; ``weights (n,)`` are 0 for padding."""
    places, weights = batch_places(jax.tree.leaves(data)[0].shape[0], batch_size)

    def step(total, batch):
        index, weight = batch
        return jax.tree.map(jnp.add, total, function(_at(data, index), weight)), None

    shapes = jax.eval_shape(function, _at(data, places[0]), jnp.asarray(weights[0]))
    start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(step, start, (places, weights))[0]


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
        return cluster, function(_at(data, index), weight)

    def step(number, total):
        cluster, found = one_batch(number)
        return jax.tree.map(lambda leaf, new: leaf.at[cluster].add(new), total, found)

    shapes = jax.eval_shape(one_batch, jnp.int32(0))[1]
    start = jax.tree.map(lambda leaf: jnp.zeros((num_clusters, *leaf.shape), leaf.dtype), shapes)
    return jax.lax.fori_loop(0, ends[-1], step, start)


def batch_places(num_examples: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The examples of every batch, ``(batches, n)``, and weights: 1, and 0 for the padding."""
    batch_size = min(batch_size, num_examples)
    places = np.arange(-(-num_examples // batch_size) * batch_size).reshape(-1, batch_size)
    return np.minimum(places, num_examples - 1), (places < num_examples).astype(np.float32)


def _at(data: Any, index: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], data)
