"""Clusters of gradients themselves: dense centers, found in passes over the data."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust import per_example, trees
from jaxrobust.clustering._batches import map_batches, sum_by_cluster
from jaxrobust.clustering._repair import fill_empty
from jaxrobust.clustering._result import Clustering

LossFn = Callable[[Any, Any], jax.Array]


@functools.partial(trees.compiled, num_static=2)
def squared_norms(loss_fn: LossFn, batch_size: int, params: Any, data: Any) -> jax.Array:
    """Squared norms of all gradients, ``(N,)``."""
    norms = per_example.norms(loss_fn)
    return map_batches(lambda batch: norms(params, batch) ** 2, data, batch_size)


@functools.partial(trees.compiled, num_static=3)
def descend(
    loss_fn: LossFn,
    num_clusters: int,
    batch_size: int,
    params: Any,
    data: Any,
    squared: jax.Array,
    start: jax.Array,
    max_passes: int,
    tolerance: float,
) -> Clustering:
    """Means and assignments in turn, none of which raises ``J``, from given assignments.

    A pass finds the distances of all examples to all centers, moves examples at these centers, and
    takes the means of the clusters: it reads the data twice.
    """

    def means(assignments):
        return _means(loss_fn, params, data, assignments, num_clusters, batch_size)

    def distances(centers):
        along = per_example.dots(loss_fn)
        products = map_batches(lambda batch: along(params, batch, centers), data, batch_size)
        return squared_to_centers(squared, products, _squares(centers))

    def spreads(assignments, centers):
        # About its mean, a cluster has the squares of its members less those of the mean.
        counts, total = _by_cluster(squared, assignments, num_clusters)
        return counts, jnp.maximum(total - counts * _squares(centers), 0)

    def one_pass(state):
        assignments, centers, value, num_passes, _ = state
        to_centers = distances(centers)
        assignments = reassign(to_centers, assignments)
        own = jnp.take_along_axis(to_centers, assignments[:, None], axis=1)[:, 0]
        assignments = fill_empty(own, assignments, to_centers.shape[1])
        centers = means(assignments)
        after = jnp.sum(jnp.prod(jnp.stack(spreads(assignments, centers)), axis=0))
        return assignments, centers, after, num_passes + 1, value - after <= tolerance * value

    centers = means(start)
    value = jnp.sum(jnp.prod(jnp.stack(spreads(start, centers)), axis=0))
    state = (start, centers, value, jnp.int32(0), jnp.bool_(False))
    assignments, centers, value, num_passes, converged = jax.lax.while_loop(
        lambda state: ~state[4] & (state[3] < max_passes), one_pass, state
    )
    counts, by_cluster = spreads(assignments, centers)
    sizes = counts.astype(jnp.int32)
    return Clustering(assignments, sizes, centers, by_cluster, value, num_passes, converged)


def reassign(distances: jax.Array, assignments: jax.Array) -> jax.Array:
    r"""Example after example to the cluster that makes ``J`` smallest, at fixed centers.

    With N members at squared distances D from the center, together S, a cluster's share of J is
    ``N S``. An example that joins adds ``S + (N+1) D``, one that leaves takes ``S + (N-1) D`` away.
    Both change with every move, so no move raises J.

    Args:
      distances: squared, ``(N, K)``.
      assignments: ``(N,)`` int32.

    Returns:
      Assignments; of equal clusters that of the lowest index, unless staying is as good.
    """

    def step(state, example):
        counts, sums = state
        own, distance = example
        stays = sums[own] + (counts[own] - 1) * distance[own]
        joins = (sums + (counts + 1) * distance).at[own].set(stays)
        target = jnp.argmin(joins).astype(own.dtype)
        target = jnp.where(joins[target] < stays, target, own)
        counts = counts.at[own].add(-1).at[target].add(1)
        sums = sums.at[own].add(-distance[own]).at[target].add(distance[target])
        return (counts, sums), target

    own = jnp.take_along_axis(distances, assignments[:, None], axis=1)[:, 0]
    start = _by_cluster(own, assignments, distances.shape[1])
    return jax.lax.scan(step, start, (assignments, distances))[1]


def squared_to_centers(squared: jax.Array, products: jax.Array, centers: jax.Array) -> jax.Array:
    """``||g - C||^2 (N, K)`` from squared norms and products; to rounding errors of the norms."""
    return jnp.maximum(squared[:, None] - 2 * products + centers[None, :], 0)


def _means(
    loss_fn: LossFn, params: Any, data: Any, assignments: jax.Array, number: int, batch_size: int
) -> Any:
    """Mean gradients of the clusters, leaves ``(K, *leaf)``; zero for clusters without members."""

    def gradient(batch, weights):
        def total(params):
            losses = jax.vmap(loss_fn, (None, 0))(params, batch)
            return jnp.sum(losses * weights.astype(losses.dtype))

        return trees.promote(jax.grad(total)(params))

    sums = sum_by_cluster(gradient, data, assignments, number, batch_size)
    counts = jnp.maximum(jnp.zeros(number).at[assignments].add(1), 1)
    divide = lambda leaf: leaf / counts.astype(leaf.dtype).reshape(-1, *[1] * (leaf.ndim - 1))
    return trees.cast_like(jax.tree.map(divide, sums), params)


def _squares(centers: Any) -> jax.Array:
    """``||C_k||^2``, ``(K,)``."""
    return jax.vmap(lambda center: trees.dot(center, center))(centers)


def _by_cluster(values: jax.Array, assignments: jax.Array, number: int):
    """Members of every cluster, and the sums of their values, ``(K,)``."""
    zero = jnp.zeros(number, values.dtype)
    return zero.at[assignments].add(1), zero.at[assignments].add(values)
