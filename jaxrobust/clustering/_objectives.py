"""The two objectives of a clustering, and what one move changes about them."""

from typing import Literal

import jax
import jax.numpy as jnp

from jaxrobust.clustering._sums import Sums

Objective = Literal["pairwise", "kmeans"]
OBJECTIVES = ("pairwise", "kmeans")


def by_cluster(sums: Sums, objective: Objective) -> jax.Array:
    """The share of each cluster, ``(K,)``: ``N S``, or ``S`` for k-means."""
    return sums.counts * sums.spreads if objective == "pairwise" else sums.spreads


def cost_of_joining(sums: Sums, distances: jax.Array, objective: Objective) -> jax.Array:
    """What each point adds if it joins each cluster, ``(n, K)``; ``distances`` are squared.

    With N members and spread S, joining at a squared distance D makes the spread
    ``S + D N/(N+1)``. So the objective grows by ``S + N D``, or by ``D N/(N+1)`` for k-means.
    """
    counts = sums.counts[None, :]
    if objective == "pairwise":
        return sums.spreads[None, :] + counts * distances
    return distances * counts / (counts + 1)


def gain_of_leaving(
    sums: Sums, cluster: jax.Array, distance: jax.Array, objective: Objective
) -> jax.Array:
    """What each point takes away if it leaves its cluster, ``(n,)``; ``distance`` is squared.

    Leaving makes the spread ``S - D N/(N-1)``: the objective falls by ``S + N D``, or by
    ``D N/(N-1)`` for k-means; by nothing if the point is alone.
    """
    counts = sums.counts[cluster]
    if objective == "pairwise":
        gain = sums.spreads[cluster] + counts * distance
    else:
        gain = distance * counts / jnp.maximum(counts - 1, 1)
    return jnp.where(counts > 1, gain, 0)


def assign_in_turn(
    sizes: jax.Array, spreads: jax.Array, distances: jax.Array, weight: float, block_size: int = 1
) -> jax.Array:
    """Point after point to where ``sum_k s_k S_k`` grows least, about centers that stay.

    Each counts at once, with its weight: all by the same sizes would run to the smallest cluster.

    Args:
      sizes: ``(K,)`` floating, before.
      spreads: ``(K,)``, before.
      distances: ``(n, K)``, squared.
      weight: of every point.
      block_size: so many points at a time by the same sizes, which is faster.

    Returns:
      ``(n,)`` int32.
    """
    number, num_clusters = distances.shape
    blocks = -(-number // block_size)
    padded = jnp.pad(distances, ((0, blocks * block_size - number), (0, 0)))
    weights = jnp.pad(jnp.full(number, weight, distances.dtype), (0, len(padded) - number))

    def step(state, block):
        (sizes, spreads), (distances, weights) = state, block
        # (s + w) (S + w D) - s S, over w.
        costs = spreads[None, :] + (sizes[None, :] + weight) * distances
        targets = jnp.argmin(costs, axis=1).astype(jnp.int32)
        added = weights[:, None] * jax.nn.one_hot(targets, num_clusters, dtype=distances.dtype)
        sizes, spreads = sizes + added.sum(axis=0), spreads + jnp.sum(added * distances, axis=0)
        return (sizes, spreads), targets

    split = (padded.reshape(blocks, block_size, num_clusters), weights.reshape(blocks, block_size))
    return jax.lax.scan(step, (sizes, spreads), split)[1].reshape(-1)[:number]
