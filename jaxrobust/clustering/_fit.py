"""Clusters of points."""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import trees
from jaxrobust.clustering._checks import (
    check_and_sum,
    check_assignments,
    check_points,
    check_tolerance,
)
from jaxrobust.clustering._hartigan import pass_until
from jaxrobust.clustering._lloyd import alternate
from jaxrobust.clustering._objectives import (
    OBJECTIVES,
    Objective,
    assign_in_turn,
    by_cluster,
)
from jaxrobust.clustering._result import Clustering
from jaxrobust.clustering._sample import check_sample_size, draw, join
from jaxrobust.clustering._seeding import SEEDINGS, Seeding, assign_to_seeds
from jaxrobust.clustering._smallest import smallest
from jaxrobust.clustering._sums import (
    Sums,
    centered_sums,
    squared_distances,
)

Algorithm = Literal["hartigan", "lloyd"]
ALGORITHMS = ("hartigan", "lloyd")


def fit(
    points: Any,
    num_clusters: int,
    *,
    key: jax.Array,
    objective: Objective = "pairwise",
    algorithm: Algorithm = "hartigan",
    init: Seeding | jax.Array | np.ndarray = "k-means++",
    max_passes: int = 30,
    tolerance: float = 1e-3,
    block_size: int | None = None,
    sample_size: int | None = None,
) -> Clustering:
    r"""Clusters points so that one of two objectives is small.

    With clusters of :math:`N_k` members, mean :math:`\mu_k` and spread
    :math:`S_k = \sum_{i\in k}\|x_i-\mu_k\|^2`:

    - ``"pairwise"``: :math:`J = \sum_k N_k S_k`, the sum of the squared distances of all pairs
      within clusters. For gradients, :math:`J/N^2` is the variance of the stratified estimator
      that draws one example of each cluster.
    - ``"kmeans"``: :math:`\sum_k S_k`.

    From seeds (``init``) every point goes to the closest; then passes over the points lower the
    objective, by one of two algorithms.

    ``"hartigan"``: a point moves to the cluster where the objective, by its exact change, becomes
    smallest. Points are looked at in blocks; moves of a block that together would raise the
    objective are not made, so that no pass raises it. After the first pass, points that would gain
    nothing at the beginning of a pass are left out of it. With ``block_size=1`` a pass is
    Hartigan's method point by point, the slow twin. An empty cluster is filled by the first point
    that gains by being alone; if none does, after the pass by the one farthest from its mean.

    ``"lloyd"``, for ``"kmeans"`` only: all points go to the closest mean, then means are taken. The
    means to which points go lag behind the moves, so it ends in optima that a single move improves,
    but a pass is one product. Every empty cluster is filled by the point that is farthest from its
    mean. For ``"pairwise"`` there is no such step: to the least ``N_k`` times the squared distance,
    with sizes as they were, is no descent, for all points run to the smallest cluster.

    Args:
      points: ``(N, d)`` floating.
      num_clusters: K, 1 to N.
      key: PRNG key of the seeding. The same key, points and options give the same clustering.
      objective: ``"pairwise"`` or ``"kmeans"``.
      algorithm: ``"hartigan"`` or ``"lloyd"``.
      init: ``"k-means++"``, ``"farthest"`` (the next seed is the point farthest from all before:
        finds K groups of identical points), or assignments ``(N,)`` int in 0..K-1 to start from,
        as those of the last clustering.
      max_passes: passes over the points, at most.
      tolerance: passes end when one lowers the objective by less than this share of it.
      block_size: for ``"hartigan"``, points whose moves are decided at once; None for about as many
        as a cluster has members, at most 1024. More are not faster, and end higher.
      sample_size: with ``"k-means++"``, if there are more than twice as many points: they are
        seeded and fitted among so many random ones first, those far from the mean more likely than
        others and counting less, by up to 30 passes or ``max_passes`` if that is more, until one
        gains less than 0.1 %; then all join these clusters where they cost least, and move the
        centers. So one pass over all points is nearly enough. Seeding among all takes K passes,
        which would be most of the time. The sample is fitted by moves with both algorithms.
        None for 4096, or 64 per cluster if that is more.

    Returns:
      :class:`Clustering`. Works under ``jit`` with ``num_clusters`` and the options static; sums
      are in float32 at least. Points so small that squared distances would vanish are scaled by a
      power of two (unless traced); spreads and objective may vanish, and do for
      :func:`objective` and :func:`assign`, which scale nothing.

    Raises:
      ValueError: for points that are not ``(N, d)`` or not finite (unless traced), a
        ``num_clusters`` not in 1..N, an unknown name, ``"lloyd"`` with ``"pairwise"`` or a
        ``block_size``, assignments of another shape or out of range, ``max_passes`` or
        ``block_size`` below 1, a ``sample_size`` below K, a negative tolerance.
      TypeError: for points that are not floating, or assignments that are not integers.

    Source:
      The objective: Faghri et al., arXiv:2007.04532, Eq. 3, whose assignment step freezes N_k and
      can raise J; the exact change of a move is derived here. Hartigan, *Clustering Algorithms*,
      1975; Lloyd, 1982.
    """
    points, total = check_and_sum("points", points)
    num_clusters = trees.check_count("num_clusters", num_clusters, most=points.shape[0])
    if objective not in OBJECTIVES:
        raise ValueError(f"objective must be one of {OBJECTIVES}, got {objective!r}")
    _check_algorithm(algorithm, objective, block_size)
    max_passes = trees.check_count("max_passes", max_passes)
    if block_size is not None:
        block_size = trees.check_count("block_size", block_size)
    check_tolerance("tolerance", tolerance)
    init = check_init(init, SEEDINGS, points.shape[0], num_clusters)
    sample_size = check_sample_size(sample_size, num_clusters)

    unit = _unit_of_small(points, total)
    if unit != 1:
        again = fit(
            points / unit, num_clusters, key=key, objective=objective, algorithm=algorithm,
            init=init, max_passes=max_passes, tolerance=tolerance, block_size=block_size,
            sample_size=sample_size,
        )  # fmt: skip
        return _in_units(again, unit)

    limits = {"max_passes": max_passes, "tolerance": tolerance}
    sums = None
    if isinstance(init, str) and init == "k-means++" and points.shape[0] > 2 * sample_size:
        start, sums = _from_sample(
            points, num_clusters, key, objective, sample_size, block_size, max_passes
        )
    else:
        start = start_from(init, key, points, num_clusters)
    if algorithm == "lloyd":
        return alternate(points, start, num_clusters, **limits)
    size = _block_size(block_size, points, num_clusters)
    found = pass_until(
        points, None, start, sums, num_clusters, objective, block_size=size, **limits
    )
    return Clustering(
        assignments=found.assignments,
        sizes=found.sums.counts.astype(jnp.int32),
        centers=found.sums.centers,
        spreads=found.sums.spreads,
        objective=found.objective,
        num_passes=found.number,
        converged=found.converged,
    )


def _in_units(found: Clustering, unit: float) -> Clustering:
    """A clustering of points that were divided by this unit, as one of the points themselves."""
    return found._replace(
        centers=unit * found.centers,
        spreads=unit * (unit * found.spreads),
        objective=unit * (unit * found.objective),
    )


def _unit_of_small(points: jax.Array, total: float | None) -> float:
    """A power of two, to divide points by whose squared distances would vanish; 1 for others."""
    if total is None or total > float(jnp.finfo(points.dtype).tiny) ** 0.5:
        return 1.0
    largest = float(jnp.max(jnp.abs(points)))
    return 2.0 ** round(np.log2(largest)) if largest >= jnp.finfo(points.dtype).tiny else 1.0


def _from_sample(
    points: jax.Array,
    num_clusters: int,
    key: jax.Array,
    objective: Objective,
    sample_size: int,
    block_size: int | None,
    max_passes: int,
) -> tuple[jax.Array, Sums]:
    """Assignments of all points, and their sums, from the clusters of a random sample."""
    key, sample_key = jax.random.split(key)
    sample, weights = draw(sample_key, points, sample_size)
    # Seeds by the sample as it is, with many points that are far away, so that these are found.
    start = assign_to_seeds(key, sample, num_clusters, "k-means++")
    few = pass_until(
        sample, weights, start, None, num_clusters, objective,
        max_passes=max(max_passes, _PASSES_OF_SAMPLE), tolerance=_TOLERANCE_OF_SAMPLE,
        block_size=_block_size(block_size, sample, num_clusters),
    )  # fmt: skip
    return join(few.sums, points, objective)


def _block_size(wanted: int | None, points: jax.Array, num_clusters: int) -> int:
    """Points whose moves are decided at once; None for as many as a cluster has, about."""
    usual = max(1, min(_MOST_AT_ONCE, len(points) // num_clusters))
    return min(wanted or usual, len(points))


_PASSES_OF_SAMPLE = 30
_TOLERANCE_OF_SAMPLE = 1e-3  # what passes gain there, the passes over all need not
_MOST_AT_ONCE = 1024


def objective(
    points: Any, assignments: Any, num_clusters: int, *, objective: Objective = "pairwise"
) -> jax.Array:
    r""":math:`\sum_k N_k S_k` or :math:`\sum_k S_k` of a partition, see :func:`fit`.

    Args:
      points: ``(N, d)`` floating.
      assignments: ``(N,)`` int in 0..K-1.
      num_clusters: K, at least 1.
      objective: ``"pairwise"`` or ``"kmeans"``.

    Returns:
      ``()``, float32 at least.

    Raises:
      ValueError, TypeError: as :func:`fit`.
    """
    points = check_points("points", points)
    num_clusters = trees.check_count("num_clusters", num_clusters)
    if objective not in OBJECTIVES:
        raise ValueError(f"objective must be one of {OBJECTIVES}, got {objective!r}")
    assignments = check_assignments("assignments", assignments, points.shape[0], num_clusters)
    return _value(points, assignments, num_clusters, objective)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _value(
    points: jax.Array, assignments: jax.Array, num_clusters: int, objective: Objective
) -> jax.Array:
    sums = centered_sums(points, assignments, num_clusters)
    return jnp.sum(by_cluster(sums, objective))


def assign(clusters: Clustering, points: Any, *, objective: Objective = "pairwise") -> jax.Array:
    r"""Clusters of points that they were not fitted to, about the same centers.

    For ``"kmeans"`` the closest center. For ``"pairwise"``, one point after the other, where
    :math:`\sum_k N_k S_k` grows least with the sizes and spreads changed by those before: the least
    :math:`S_k + (N_k+1) D_k`, with :math:`D_k` the squared distance to the center. By the sizes
    that there were all would run to the smallest clusters. The first of equal ones.

    Args:
      clusters: of :func:`fit`, or of :func:`gradient_clusters` by sketches. To compare, the
        sketches of ``points`` must be of the same key and landmarks.
      points: ``(n, d)`` floating.
      objective: the one that the clusters were fitted by.

    Returns:
      ``(n,)`` int32.

    Raises:
      ValueError: for points that are not ``(n, d)`` with the d of the centers, or not finite
        (unless traced), centers that are not ``(K, d)``, an unknown objective.
      TypeError: for points that are not floating.
    """
    points = check_points("points", points)
    if objective not in OBJECTIVES:
        raise ValueError(f"objective must be one of {OBJECTIVES}, got {objective!r}")
    shape = getattr(clusters.centers, "shape", None)
    if shape is None or len(shape) != 2 or shape[1] != points.shape[1]:
        raise ValueError(
            f"points must be of the length of the centers, got {points.shape} and centers "
            f"{'by leaf' if shape is None else shape}"
        )
    return _assign(clusters, points, objective)


@functools.partial(jax.jit, static_argnums=2)
def _assign(clusters: Clustering, points: jax.Array, objective: Objective) -> jax.Array:
    # About the centers' mean, for distances are found from products.
    middle = jnp.mean(clusters.centers, axis=0)
    distances = squared_distances(points, clusters.centers, middle)
    if objective == "kmeans":
        return smallest(distances)[0]
    sizes = clusters.sizes.astype(distances.dtype)
    spreads = clusters.spreads.astype(distances.dtype)
    return assign_in_turn(sizes, spreads, distances, 1.0)


def _check_algorithm(algorithm: str, objective: str, block_size: int | None) -> None:
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm must be one of {ALGORITHMS}, got {algorithm!r}")
    if algorithm == "lloyd" and objective != "kmeans":
        raise ValueError(
            f"algorithm 'lloyd' is for objective 'kmeans' alone, got {objective!r}: an "
            "assignment of all points at the sizes that clusters had may raise sum_k N_k S_k; use "
            "'hartigan'"
        )
    if algorithm == "lloyd" and block_size is not None:
        raise ValueError("block_size is for algorithm 'hartigan' alone")


def check_init(init: Any, names: tuple[str, ...], num_points: int, num_clusters: int) -> Any:
    """One of the names, or assignments."""
    if not isinstance(init, str):
        return check_assignments("init", init, num_points, num_clusters)
    if init not in names:
        raise ValueError(f"init must be one of {names} or assignments, got {init!r}")
    return init


def start_from(init: Any, key: jax.Array, points: jax.Array, num_clusters: int) -> jax.Array:
    """Assignments to start with, from a seeding or from themselves."""
    if isinstance(init, str):
        return assign_to_seeds(key, points, num_clusters, init)
    return init
