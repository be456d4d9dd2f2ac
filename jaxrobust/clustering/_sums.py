"""What a clustering objective needs to know of every cluster, kept up to date as points move."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import trees
from jaxrobust.clustering._batches import batch_at, batch_starts

_HIGHEST = jax.lax.Precision.HIGHEST
_ROWS = 1024  # points that are summed at once: they stay in the cache


class Sums(NamedTuple):
    """Sums over the members x of each of K clusters, relative to a point c of its own.

    Members may have weights: then all are weighted sums, and counts are sums of weights. Relative
    to a point close by, so that the spread of a tight cluster far from the origin is no difference
    of large numbers.
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
    def middle(self) -> jax.Array:
        """The mean of all members ``(d,)``."""
        return self.counts @ self.centers / jnp.sum(self.counts)

    @property
    def spreads(self) -> jax.Array:
        """``S = sum ||x - mean||^2``, ``(K,)``."""
        shift = jnp.sum(self.offsets**2, axis=1) / jnp.maximum(self.counts, 1)
        return jnp.maximum(self.squares - shift, 0)  # rounding must not make it negative

    def moved(
        self, points: jax.Array, source: jax.Array, target: jax.Array, weight: jax.Array
    ) -> "Sums":
        """After points ``(n, d)`` of these weights ``(n,)`` went from one cluster to another."""
        return self.added(points, target, weight).added(points, source, -weight)

    def added(self, points: jax.Array, assignments: jax.Array, weight: jax.Array) -> "Sums":
        """With points ``(n, d)`` counted in, summed by themselves before; weights are ``(n,)``."""
        relative = points - self.origins[assignments]
        weighted = relative * weight[:, None]
        # A CPU adds row by row in half the time of a product with indicators. Elsewhere that is
        # fast, and has the same order of additions every time.
        total = lambda values: jax.lax.platform_dependent(
            assignments, values, cpu=self._by_rows, default=self._by_products
        )
        return self._replace(
            counts=self.counts + total(weight),
            offsets=self.offsets + total(weighted),
            squares=self.squares + total(jnp.sum(relative * weighted, axis=1)),
        )

    def _by_rows(self, assignments: jax.Array, values: jax.Array) -> jax.Array:
        zero = jnp.zeros((self.counts.size, *values.shape[1:]), values.dtype)
        return zero.at[assignments].add(values)

    def _by_products(self, assignments: jax.Array, values: jax.Array) -> jax.Array:
        members = jax.nn.one_hot(assignments, self.counts.size, dtype=values.dtype, axis=0)
        return jnp.matmul(members, values, precision=_HIGHEST)


def sums_of(
    points: jax.Array, assignments: jax.Array, origins: jax.Array, weights: jax.Array | None = None
) -> Sums:
    """The sums of a partition, relative to given origins ``(K, d)``."""
    if weights is None:
        weights = jnp.ones(points.shape[0], points.dtype)
    zero = jnp.zeros(origins.shape[0], points.dtype)
    start = Sums(origins, zero, jnp.zeros_like(origins), zero)
    starts, size = batch_starts(points.shape[0], _ROWS)
    if len(starts) == 1:
        return start.added(points, assignments, weights)

    def step(sums, batch):
        number, begin = batch
        rows, assigned, weight = batch_at((points, assignments, weights), begin, size)
        # The last slice begins early enough to be full.
        new = begin + jnp.arange(size) >= number * size
        return sums.added(rows, assigned, jnp.where(new, weight, 0)), None

    return jax.lax.scan(step, start, (np.arange(len(starts)), starts))[0]


def centered_sums(points: jax.Array, assignments: jax.Array, num_clusters: int) -> Sums:
    """The sums of a partition, relative to its own means: in two passes, exact up to rounding."""
    return sums_of(
        points, assignments, sums_about_members(points, assignments, num_clusters).centers
    )


def sums_about_members(
    points: jax.Array, assignments: jax.Array, num_clusters: int, weights: jax.Array | None = None
) -> Sums:
    """The sums of a partition, in one pass, relative to one member of each cluster.

    A member is as close to the others as the mean, up to their spread: a cluster that is tight and
    far from the origin loses no digits. One that is far from all N others loses N times eps.
    """
    numbers = jnp.arange(points.shape[0])
    member = jnp.full(num_clusters, -1).at[assignments].max(numbers)
    origins = jnp.where(member[:, None] >= 0, points[member], jnp.mean(points, axis=0)[None, :])
    return sums_of(points, assignments, origins, weights)


def squared_distances(
    points: jax.Array, centers: jax.Array, middle: jax.Array | None = None
) -> jax.Array:
    """``||x_i - c_k||^2``, ``(n, K)``, by one matrix product; to eps of the squared norms.

    With ``middle (d,)``, of the squared norms about it: best the mean of all points.
    """
    if middle is not None:
        points, centers = points - middle[None, :], centers - middle[None, :]
    dtype = trees.accumulator(points.dtype)
    products = jnp.matmul(points, centers.T, precision=_HIGHEST, preferred_element_type=dtype)
    norms = jnp.sum(points**2, axis=1)[:, None] + jnp.sum(centers**2, axis=1)[None, :]
    return jnp.maximum(norms - 2 * products, 0)
