"""What a clustering objective needs to know of every cluster, kept up to date as points move."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import trees

_HIGHEST = jax.lax.Precision.HIGHEST


class Sums(NamedTuple):
    """Sums over the members x of each of K clusters, relative to a point c of its own.

    Relative to a point close by, so that the spread of a tight cluster far from the origin is no
    difference of large numbers.
    """

    origins: jax.Array  # (K, d): c
    counts: jax.Array  # (K,) float: N
    offsets: jax.Array  # (K, d): sum of x - c
    squares: jax.Array  # (K,): sum of ||x - c||^2

    @property
    def centers(self) -> jax.Array:
        """Means ``(K, d)``; the origin of a cluster without members."""
        return self.origins + self.offsets / jnp.maximum(self.counts, 1)[:, None]

    @property
    def spreads(self) -> jax.Array:
        """``S = sum ||x - mean||^2``, ``(K,)``."""
        shift = jnp.sum(self.offsets**2, axis=1) / jnp.maximum(self.counts, 1)
        return jnp.maximum(self.squares - shift, 0)  # rounding must not make it negative

    def moved(
        self, points: jax.Array, source: jax.Array, target: jax.Array, moves: jax.Array
    ) -> "Sums":
        """After those points ``(n, d)`` that move went from one cluster to another."""
        weight = moves.astype(points.dtype)
        return self.added(points, target, weight).added(points, source, -weight)

    def added(self, points: jax.Array, assignments: jax.Array, weight: jax.Array) -> "Sums":
        """With points ``(n, d)`` counted in, each with a weight ``(n,)``."""
        relative = points - self.origins[assignments]
        weighted = relative * weight[:, None]
        return self._replace(
            counts=self.counts.at[assignments].add(weight),
            offsets=self.offsets.at[assignments].add(weighted),
            squares=self.squares.at[assignments].add(jnp.sum(relative * weighted, axis=1)),
        )


def sums_of(points: jax.Array, assignments: jax.Array, weight: jax.Array, origins: jax.Array):
    """The sums of a partition, relative to given origins ``(K, d)``."""
    zero = jnp.zeros(origins.shape[0], points.dtype)
    return Sums(origins, zero, jnp.zeros_like(origins), zero).added(points, assignments, weight)


def centered_sums(
    points: jax.Array, assignments: jax.Array, weight: jax.Array, num_clusters: int
) -> Sums:
    """The sums of a partition, relative to its own means: in two passes, exact up to rounding."""
    start = jnp.zeros((num_clusters, points.shape[1]), points.dtype)
    rough = sums_of(points, assignments, weight, start)
    return sums_of(points, assignments, weight, rough.centers)


def squared_distances(points: jax.Array, centers: jax.Array) -> jax.Array:
    """``||x_i - c_k||^2``, ``(n, K)``, by one matrix product; to eps of the squared norms."""
    dtype = trees.accumulator(points.dtype)
    products = jnp.matmul(points, centers.T, precision=_HIGHEST, preferred_element_type=dtype)
    norms = jnp.sum(points**2, axis=1)[:, None] + jnp.sum(centers**2, axis=1)[None, :]
    return jnp.maximum(norms - 2 * products, 0)
