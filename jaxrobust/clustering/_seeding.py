"""First centres: among the points, far from each other."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp

Seeding = Literal["k-means++", "farthest"]
SEEDINGS = ("k-means++", "farthest")


@functools.partial(jax.jit, static_argnums=(2, 3))
def assign_to_seeds(
    key: jax.Array, points: jax.Array, num_clusters: int, seeding: Seeding
) -> jax.Array:
    """Every point to the closest seed, the first of equal ones, ``(N,)`` int32."""
    return _seeded(key, points, num_clusters, seeding)[1]


def seed_centers(
    key: jax.Array, points: jax.Array, num_clusters: int, seeding: Seeding
) -> jax.Array:
    """Indices ``(num_clusters,)`` of points to begin with.

    The first at random; every next one with probability proportional to the squared distance to
    the closest of those before (k-means++: Arthur and Vassilvitskii, 2007), or the one that is
    farthest (Gonzalez, 1985). If all points coincide with those before, any of them.
    """
    return _seeded(key, points, num_clusters, seeding)[0]


def _seeded(
    key: jax.Array, points: jax.Array, num_clusters: int, seeding: Seeding
) -> tuple[jax.Array, jax.Array]:
    """The seeds, and ``(N,)`` int32 which of them is closest to each point."""
    first_key, key = jax.random.split(key)
    first = jax.random.randint(first_key, (), 0, points.shape[0])

    def distances_to(index):
        # By differences: copies of a point are at a distance of exactly zero.
        return jnp.sum((points - points[index][None, :]) ** 2, axis=1)

    def step(state, given):
        nearest, closest = state
        number, key = given
        if seeding == "farthest":
            index = jnp.argmax(nearest)
        else:
            index = _draw(key, nearest)
        distances = distances_to(index)
        closest = jnp.where(distances < nearest, number, closest)
        return (jnp.minimum(nearest, distances), closest), index

    nearest = distances_to(first)
    numbers = jnp.arange(1, num_clusters, dtype=jnp.int32)
    keys = jax.random.split(key, num_clusters - 1)
    start = (nearest, jnp.zeros_like(nearest, jnp.int32))
    (_, closest), others = jax.lax.scan(step, start, (numbers, keys))
    return jnp.concatenate([first[None], others]), closest


def _draw(key: jax.Array, weights: jax.Array) -> jax.Array:
    """An index with probability proportional to its weight; one of weight zero only if all are."""
    running = jnp.cumsum(weights)
    place = jax.random.uniform(key, (), weights.dtype) * running[-1]
    # The first whose running sum exceeds the place, so never one of weight zero.
    index = jnp.searchsorted(running, place, side="right")
    last = jnp.max(jnp.where(weights > 0, jnp.arange(weights.size), 0))
    return jnp.minimum(index, last)  # rounding may put the place at the end
