"""The two objectives of a clustering, and what one move changes about them."""

from typing import Literal

import jax
import jax.numpy as jnp

from jaxrobust.clustering._sums import Sums

Objective = Literal["pairwise", "kmeans"]
OBJECTIVES = ("pairwise", "kmeans")
_ALONE = 1e-5  # relative: sums of weights are rounded


def by_cluster(sums: Sums, objective: Objective) -> jax.Array:
    """The share of each cluster, ``(K,)``: ``N S``, or ``S`` for k-means."""
    return sums.counts * sums.spreads if objective == "pairwise" else sums.spreads


def cost_of_joining(
    sums: Sums, distances: jax.Array, weight: jax.Array, objective: Objective
) -> jax.Array:
    """What each point adds if it joins each cluster, ``(n, K)``, over its weight ``(n,)``.

    With N members and spread S, a point of weight w at a squared distance D makes the spread
    ``S + D w N/(N+w)``. So the objective grows by ``w (S + N D)``, or for k-means by
    ``w D N/(N+w)``.
    """
    counts = sums.counts[None, :]
    if objective == "pairwise":
        return sums.spreads[None, :] + counts * distances
    return distances * counts / (counts + weight[:, None])


def gain_of_leaving(
    sums: Sums, cluster: jax.Array, distance: jax.Array, weight: jax.Array, objective: Objective
) -> jax.Array:
    """What each point takes away if it leaves its cluster, ``(n,)``, over its weight ``(n,)``.

    Leaving makes the spread ``S - D w N/(N-w)``, with D the squared distance: the objective falls
    by ``w (S + N D)``, or by ``w D N/(N-w)`` for k-means; by nothing if the point is alone.
    """
    counts = sums.counts[cluster]
    alone = counts <= weight * (1 + _ALONE)
    if objective == "pairwise":
        gain = sums.spreads[cluster] + counts * distance
    else:
        gain = distance * counts / jnp.where(alone, 1, counts - weight)
    return jnp.where(alone, 0, gain)


def assign_in_turn(
    sizes: jax.Array, spreads: jax.Array, distances: jax.Array, weight: float
) -> jax.Array:
    """Point after point to where ``sum_k s_k S_k`` grows least, about centers that stay.

    Each counts at once, with its weight: all by the same sizes would run to the smallest cluster.

    Args:
      sizes: ``(K,)`` floating, before.
      spreads: ``(K,)``, before.
      distances: ``(n, K)``, squared.
      weight: of every point.

    Returns:
      ``(n,)`` int32.
    """

    def step(state, distances):
        sizes, spreads = state
        # (s + w) (S + w D) - s S, over w.
        target = jnp.argmin(spreads + (sizes + weight) * distances).astype(jnp.int32)
        sizes = sizes.at[target].add(weight)
        return (sizes, spreads.at[target].add(weight * distances[target])), target

    return jax.lax.scan(step, (sizes, spreads), distances)[1]
