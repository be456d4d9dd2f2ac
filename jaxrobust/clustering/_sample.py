"""Clusters of many points, begun from those of a random sample."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import trees
from jaxrobust.clustering._batches import batch_at, batch_starts
from jaxrobust.clustering._objectives import Objective
from jaxrobust.clustering._smallest import smallest
from jaxrobust.clustering._sums import Sums, squared_distances

_POINTS = 128  # that join by the same sums


def check_sample_size(sample_size: int | None, num_clusters: int) -> int:
    """The default, for None."""
    if sample_size is None:
        return max(4096, 64 * num_clusters)
    sample_size = trees.check_count("sample_size", sample_size)
    if sample_size < num_clusters:
        raise ValueError(
            f"sample_size must be at least num_clusters, {num_clusters}, got {sample_size}"
        )
    return sample_size


@functools.partial(jax.jit, static_argnums=2)
def draw(key: jax.Array, points: jax.Array, number: int) -> tuple[jax.Array, jax.Array]:
    """Different random points, about half of them by their squared distance to the mean.

    So that few points that are far away, which cost much, are seen (Bachem et al., 2016). Their
    weights make every sum over points that of the sample, in expectation.

    Returns:
      The points, and their weights ``(number,)``.
    """
    middle = jnp.mean(points, axis=0)
    distances = jnp.sum((points - middle[None, :]) ** 2, axis=1)
    total = jnp.sum(distances)
    shares = jnp.where(total > 0, distances / jnp.where(total > 0, total, 1), 0)
    # Draws without replacement in proportion: the largest logarithms with Gumbel noise.
    logits = jnp.log(shares + 1 / points.shape[0])
    scores = logits + jax.random.gumbel(key, points.shape[:1], points.dtype)
    # The barrier keeps XLA from making a slice of a whole sort of them, which takes longer.
    scores, chosen = jax.lax.optimization_barrier(jax.lax.top_k(scores, number + 1))
    chosen = chosen[:number]
    # Given the best score that is not in the sample, those in it are larger with probability
    # 1 - exp(-exp(logit - score)), so 1 over that is an unbiased weight (Vieira, 2017).
    return points[chosen], -1 / jnp.expm1(-jnp.exp(logits[chosen] - scores[number]))


@functools.partial(jax.jit, static_argnums=2)
def join(few: Sums, points: jax.Array, objective: Objective) -> tuple[jax.Array, Sums]:
    """All points join the clusters of a sample, block by block, where they cost least.

    Blocks come in random order. Centers, sizes and spreads are those of the sample and of the
    points that have joined.

    Returns:
      Assignments ``(N,)`` int32 and the sums of all points, relative to the centers of the sample.
    """
    number = points.shape[0]
    start = Sums(few.centers, few.counts, jnp.zeros_like(few.centers), few.spreads)
    starts, size = batch_starts(number, _POINTS)
    # In no order: the first blocks of sorted points would move all centers to their side.
    order = np.random.default_rng(0).permutation(len(starts)).astype(np.int32)

    def step(state, batch):
        sums, assignments = state
        count, begin = batch
        rows = batch_at(points, begin, size)
        # The last slice begins early enough to be full.
        new = begin + jnp.arange(size) >= count * size
        weights = new.astype(rows.dtype)
        distances = squared_distances(rows, sums.centers, few.middle)
        if objective == "pairwise":  # clusters have many more members than a block
            distances = sums.spreads[None, :] + (sums.counts[None, :] + 1) * distances
        targets, _ = smallest(distances)
        targets = jnp.where(new, targets, batch_at(assignments, begin, size))
        assignments = jax.lax.dynamic_update_slice_in_dim(assignments, targets, begin, 0)
        return (sums.added(rows, targets, weights), assignments), None

    state = (start, jnp.zeros(number, jnp.int32))
    (sums, assignments), _ = jax.lax.scan(step, state, (order, starts[order]))
    # Without the sample, that has been counted twice. About its own centers its offsets are zero.
    sums = sums._replace(
        counts=sums.counts - start.counts, squares=jnp.maximum(sums.squares - start.squares, 0)
    )
    return assignments, sums
