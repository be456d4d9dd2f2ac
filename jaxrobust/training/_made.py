"""The sampler of a refresh, and what it brings: told by other sketches than those it was made of.

Clusters are fitted to sketches, errors of these among them, and look the tighter for it: with many
more parameters than a sketch has numbers, by half and more. So does a score by the norm of a
sketch. The variance of the new sampler is that of other sketches, of some members of each stratum.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import clustering, sampling
from jaxrobust.training import _looks as looks
from jaxrobust.training._costs import of_each, sample_size
from jaxrobust.training._plans import some_rows
from jaxrobust.training._state import TrainState

# From rows ``(n,)`` of the data to other sketches of their gradients, ``(n, dim)``.
Judge = Callable[[jax.Array], jax.Array]


class Made(NamedTuple):
    """What a refresh makes."""

    sampler: sampling.Sampler
    ratio: float  # variance relative to uniform sampling
    error: float  # standard error of the ratio, as far as it is of some members of strata
    memory: dict[str, jax.Array]  # what the next refresh starts from


def by_scores(points: jax.Array, judge: Judge | None, state: TrainState, num_probes: int,
              key: jax.Array) -> Made:  # fmt: skip
    """Importance sampling; without a judge the points are exact, and tell the ratio themselves."""
    scores = jnp.linalg.norm(points, axis=1)
    scores = jnp.where(jnp.max(scores) > 0, scores, 1)  # nothing to tell them apart by: uniform
    sampler = sampling.importance(scores, state.sampler.batch_size)
    if judge is None:
        return Made(sampler, looks.ratio(points, sampler), 0.0, {})
    rows = some_rows(key, sampler.num_examples, num_probes)
    return Made(sampler, looks.ratio_of_some(judge(rows), sampler, rows), 0.0, {})


def by_clusters(
    points: jax.Array,
    judge: Judge | None,
    state: TrainState,
    num_clusters: int,
    allocation: sampling.Allocation,
    max_passes: int,
    num_probes: int,
    key: jax.Array,
) -> Made:
    """Strata; likewise."""
    clusters = clustering.fit(
        points, num_clusters, key=key, objective=looks.objective_of(allocation),
        init=_start_of_clusters(state, num_clusters), max_passes=max_passes, tolerance=0.01,
        sample_size=sample_size(num_clusters),
    )  # fmt: skip
    make = functools.partial(
        sampling.stratified, clusters.assignments, state.sampler.batch_size,
        allocation=allocation, num_clusters=num_clusters,
    )  # fmt: skip
    memory = {"assignments": clusters.assignments}
    most = of_each(num_probes, num_clusters)
    are_few = 2 * num_clusters * most >= points.shape[0]  # they might as well be all
    if judge is None or are_few:
        others = points if judge is None else judge(jnp.arange(points.shape[0]))
        spreads = _spreads(others, clusters.assignments, num_clusters)
        sampler = make(spread=spreads if allocation == "neyman" else None)
        return Made(sampler, looks.ratio(others, sampler), 0.0, memory)
    rows, there = _some_of_each(jax.random.fold_in(key, 1), clusters, most)
    probes = judge(rows.reshape(-1)).reshape(*rows.shape, -1)
    found = _like(probes, there, clusters.assignments, clusters.sizes)
    sampler = make(spread=found.spreads if allocation == "neyman" else None)
    ratio = looks.ratio(found.points, sampler) / float(found.share)
    return Made(sampler, ratio, ratio * float(_relative_error(found, sampler)), memory)


@functools.partial(jax.jit, static_argnums=2)
def _spreads(points: jax.Array, assignments: jax.Array, number: int) -> jax.Array:
    """Summed squared distances to the means of clusters, ``(K,)``."""
    sizes = jnp.zeros(number, points.dtype).at[assignments].add(1)
    sums = jnp.zeros((number, points.shape[1]), points.dtype).at[assignments].add(points)
    off = points - (sums / jnp.maximum(sizes, 1)[:, None])[assignments]
    return jnp.zeros(number, points.dtype).at[assignments].add(jnp.sum(off**2, axis=1))


def _start_of_clusters(state: TrainState, num_clusters: int) -> Any:
    """The last ones, unless there were more of them; for many examples none.

    There a sample is fitted first, which costs little; and few passes from clusters of old
    gradients on end at a higher objective, ever more so from one refresh to the next.
    """
    last = state.memory.get("assignments")
    if last is None or state.sampler.num_examples > 2 * sample_size(num_clusters):
        return "k-means++"
    return "k-means++" if int(jnp.max(last)) >= num_clusters else last


@functools.partial(jax.jit, static_argnums=2)
def _some_of_each(key: jax.Array, clusters: Any, most: int) -> tuple[jax.Array, jax.Array]:
    """Different random members of every cluster ``(K, most)``, and which of them there are."""
    sizes = clusters.sizes.astype(jnp.int32)
    shuffled = jax.random.permutation(key, clusters.assignments.size)
    order = jnp.argsort(clusters.assignments[shuffled], stable=True)
    members = shuffled[order].astype(jnp.int32)
    starts = jnp.cumsum(sizes) - sizes
    numbers = jnp.arange(most, dtype=jnp.int32)[None, :]
    places = starts[:, None] + jnp.minimum(numbers, jnp.maximum(sizes[:, None] - 1, 0))
    return members[jnp.minimum(places, members.size - 1)], numbers < sizes[:, None]


class _Like(NamedTuple):
    """Clusters as some of their members tell."""

    points: jax.Array  # (N, d): for every example one of the probes of its cluster
    spreads: jax.Array  # (K,): summed squared distances to the mean
    errors: jax.Array  # (K,): standard errors of these
    share: jax.Array  # (): of the variance of these points, what is not by chance


@jax.jit
def _like(
    probes: jax.Array, there: jax.Array, assignments: jax.Array, sizes: jax.Array
) -> _Like:  # fmt: skip
    """From probes ``(K, m, d)`` of every cluster, as far as they are there.

    Deviations from the mean of these few are smaller than from that of all members, which is made
    up for: the variance within a cluster is then unbiased. Means of few differ more than those of
    all members do: that is the variance by chance. (Variances of all examples would be no help: the
    sketches of one key may all be too large by a tenth.)
    """
    sizes = sizes.astype(jnp.int32)
    number = jnp.sum(there, axis=1)
    counted = jnp.where(there[:, :, None], probes, 0)
    means = jnp.sum(counted, axis=1) / jnp.maximum(number, 1)[:, None]
    off = jnp.where(there[:, :, None], probes - means[:, None, :], 0)
    several = jnp.maximum(number, 2)  # of one member it is zero in any case
    lengths = jnp.sum(off**2, axis=2)
    squares = jnp.sum(lengths, axis=1) / (several - 1)  # mean square of a larger cluster
    rest = (jnp.maximum(sizes, 1) - 1) / jnp.maximum(sizes, 1)
    spreads = sizes * rest * squares
    scatter = jnp.where(there, lengths - jnp.sum(lengths, axis=1, keepdims=True) / several[:, None],
                        0)  # fmt: skip
    of_mean = jnp.sqrt(jnp.sum(scatter**2, axis=1) / (several - 1) / several)
    errors = jnp.where(sizes > number, sizes * of_mean, 0)  # none if all members are there
    factor = jnp.sqrt(several / (several - 1) * rest)
    points = means[:, None, :] + factor[:, None, None] * off
    share_of = sizes / jnp.sum(sizes)
    middle = jnp.sum(share_of[:, None] * means, axis=0)
    between = jnp.sum(share_of * jnp.sum((means - middle[None, :]) ** 2, axis=1))
    of_few = squares * (1 / several - 1 / jnp.maximum(sizes, several))
    too_much = jnp.minimum(jnp.sum(share_of * (1 - share_of) * of_few), between)
    total = between + jnp.sum(spreads) / jnp.sum(sizes)
    share = jnp.where(total > 0, 1 - too_much / jnp.where(total > 0, total, 1), 1)
    which = _places(assignments, sizes) % jnp.maximum(number, 1)[assignments]
    return _Like(points[assignments, which], spreads, errors, share)


@jax.jit
def _relative_error(found: _Like, sampler: sampling.Sampler) -> jax.Array:
    """Of the variance of the sampler, which is a weighted sum of the spreads."""
    expected = jnp.where(sampler.shares > 0, sampler.shares, 1)
    weights = jnp.where(sampler.shares > 0, sampler.sizes / expected, 0)
    total = jnp.sum(weights * found.spreads)
    error = jnp.sqrt(jnp.sum((weights * found.errors) ** 2))
    return jnp.where(total > 0, error / jnp.where(total > 0, total, 1), 0)


def _places(assignments: jax.Array, sizes: jax.Array) -> jax.Array:
    """The number of every example among the members of its cluster, ``(N,)`` int32."""
    order = jnp.argsort(assignments, stable=True)
    starts = jnp.cumsum(sizes) - sizes
    numbers = jnp.arange(assignments.size, dtype=jnp.int32) - starts[assignments[order]]
    return jnp.zeros(assignments.size, jnp.int32).at[order].set(numbers)
