"""Lloyd's method: all points to the closest mean, then new means."""

import functools

import jax
import jax.numpy as jnp

from jaxrobust.clustering._repair import fill_empty
from jaxrobust.clustering._result import Clustering
from jaxrobust.clustering._smallest import smallest
from jaxrobust.clustering._sums import centered_sums, squared_distances


@functools.partial(jax.jit, static_argnums=2)
def alternate(
    points: jax.Array,
    start: jax.Array,
    num_clusters: int,
    max_passes: int,
    tolerance: float,
) -> Clustering:
    """Passes until they gain little; none raises the sum of squared distances to the means.

    A cluster that runs empty gets the point farthest from its mean, which lowers the sum as well.
    """
    # About the mean, for distances are found from products: their error is eps of the norms.
    middle = jnp.mean(points, axis=0)
    points = points - middle[None, :]

    def summed(assignments):
        sums = centered_sums(points, assignments, num_clusters)
        return sums, jnp.sum(sums.spreads)

    def one_pass(state):
        _, sums, value, num_passes, _ = state
        distances = squared_distances(points, sums.centers)
        distances = jnp.where(sums.counts[None, :] > 0, distances, jnp.inf)  # no center to go to
        assignments, own = smallest(distances)
        assignments = fill_empty(own, assignments, num_clusters)
        sums, after = summed(assignments)
        return assignments, sums, after, num_passes + 1, value - after <= tolerance * value

    state = (start, *summed(start), jnp.int32(0), jnp.bool_(False))
    assignments, sums, value, num_passes, converged = jax.lax.while_loop(
        lambda state: ~state[4] & (state[3] < max_passes), one_pass, state
    )
    return Clustering(
        assignments=assignments,
        sizes=sums.counts.astype(jnp.int32),
        centers=sums.centers + middle[None, :],
        spreads=sums.spreads,
        objective=value,
        num_passes=num_passes,
        converged=converged,
    )
