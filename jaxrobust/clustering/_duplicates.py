"""Groups of points that coincide to a tolerance."""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import trees
from jaxrobust.clustering._checks import check_rows, check_tolerance
from jaxrobust.clustering._leaders import find_leaders, join_leaders, numbers_where

Metric = Literal["euclidean", "cosine"]
METRICS = ("euclidean", "cosine")


class Groups(NamedTuple):
    """Groups of N points. They are numbered by their first members."""

    assignments: jax.Array  # (N,) int32: group of every point
    leaders: jax.Array  # (N,) int32: first member of every point's group
    counts: jax.Array  # (N,) int32: members of every point's group
    num_groups: jax.Array  # () int32


def duplicates(
    points: Any,
    *,
    tolerance: float | jax.Array,
    metric: Metric = "euclidean",
    num_probes: int | None = None,
    key: jax.Array | None = None,
    rest: bool = False,
) -> Groups:
    r"""Groups of points that coincide to a tolerance: the redundancy of a data set.

    Point after point joins the group of the first *leader* that is within the tolerance of it; if
    there is none, it becomes the leader of a group of its own. So two leaders are never within the
    tolerance of each other, and two members of a group are within twice the tolerance. The points
    may be sketches of gradients, or the inputs themselves.

    With ``num_probes`` only groups that are large are found, in less time: leaders are sought among
    that many random points, and those that no other of these joins are dropped. Then all points
    join the first leader within the tolerance, every leader gives way to the mean of those that
    joined it (of their directions, for ``"cosine"``), and all points join the first such mean
    within the tolerance: copies with noise are closer to their mean than to each other. The others
    are groups of one; or with ``rest``, groups are sought among these as without probes, which
    takes the more time the fewer of them have copies. Of a group with a share s of the points, two
    are among M probes with probability :math:`1-(1-s)^M-Ms(1-s)^{M-1}` (0.96 for ``s = 5 / M``).

    Args:
      points: ``(N, d)``, or a pytree of arrays ``(N, ...)`` that together are N points. Integers
        count as numbers; above 2^24 some are equal in float32.
      tolerance: largest distance to a leader, at least 0. At 0 exactly equal points form groups.
      metric: ``"euclidean"``, or ``"cosine"``: :math:`1 - \cos(x, y)` in 0..2, for the direction
        alone. Zero has no direction and is equal to zero only.
      num_probes: None for the exact leaders; or M, the number of random points among which they are
        sought (all points if there are fewer).
      key: PRNG key of the probes; only and always with ``num_probes``.
      rest: with ``num_probes``, whether groups are sought among the points that joined none.

    Returns:
      :class:`Groups`. Works under ``jit``, with ``metric`` and ``num_probes`` static. Joins are
      decided by the sum of squared differences, in float32 at least, to a relative rounding error
      of order ``eps``; for ``"cosine"`` of rows scaled to length 1, so to an absolute one of order
      ``eps * sqrt(tolerance)``. Differences below 1e-19 of the largest entry count as zero unless
      the tolerance is 0. Time: N x d for each leader, at most, and less as points find a group;
      with probes M x d for each of theirs, then N x d for each leader that is kept. No memory
      beyond a few blocks of points.

    Raises:
      ValueError: for arrays of different lengths or none, points that are not finite (the message
        says which; unless traced), a tolerance that is negative or NaN, an unknown metric,
        ``num_probes`` below 1, ``num_probes`` without ``key`` or the other way round.
      TypeError: for leaves that are not real numbers.

    Source:
      The leader algorithm: Hartigan, *Clustering Algorithms*, 1975, chapter 3. What copies of
      images look like in sketches of their gradients, and the means, are this library's.
    """
    rows = check_rows("points", points)
    check_tolerance("tolerance", tolerance)
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {METRICS}, got {metric!r}")
    if (num_probes is None) != (key is None):
        raise ValueError("num_probes and key are given together or not at all")
    if rest and num_probes is None:
        raise ValueError("rest=True is for num_probes alone: without, all groups are found anyway")
    limit = jnp.asarray(tolerance, rows.dtype)
    if num_probes is None:
        return _all_groups(rows, limit, metric)
    num_probes = min(trees.check_count("num_probes", num_probes), rows.shape[0])
    return _large_groups(rows, limit, metric, num_probes, key, bool(rest))


@functools.partial(jax.jit, static_argnums=2)
def _all_groups(rows: jax.Array, tolerance: jax.Array, metric: Metric) -> Groups:
    return _groups(find_leaders(*_scaled(rows, tolerance, metric)))


@functools.partial(jax.jit, static_argnums=(2, 3, 5))
def _large_groups(
    rows: jax.Array,
    tolerance: jax.Array,
    metric: Metric,
    num_probes: int,
    key: jax.Array,
    rest: bool,
) -> Groups:
    rows, limit = _scaled(rows, tolerance, metric)
    places = _probes(key, rows.shape[0], num_probes)
    leaders = find_leaders(rows[places], limit)
    joined = jnp.zeros(num_probes, jnp.int32).at[leaders].add(1)
    centers = rows[places.at[numbers_where(joined > 1)].get(mode="clip")]
    number = jnp.sum(joined > 1)
    first = join_leaders(rows, centers, number, limit)
    means = _means(rows, centers, first)
    joined = join_leaders(rows, means, number, limit)
    alone = jnp.arange(len(rows), dtype=jnp.int32)
    if rest:
        none = jnp.full(len(rows), len(rows), jnp.int32)
        alone = find_leaders(rows, limit, _first_members(joined, num_probes, none))
    return _groups(_first_members(joined, num_probes, alone))


def _probes(key: jax.Array, num_points: int, num_probes: int) -> jax.Array:
    """Different random numbers below ``num_points``, the smallest first."""
    draws = jax.random.uniform(key, (num_points,))
    least = jax.lax.top_k(draws, num_probes)[0][-1]
    return numbers_where(draws >= least)[:num_probes]


def _scaled(rows: jax.Array, tolerance: jax.Array, metric: Metric) -> tuple[jax.Array, jax.Array]:
    """Rows with Euclidean distances that are in the range of squares, and their tolerance."""
    if metric == "cosine":
        # For rows of length 1, 1 - cos is half of the squared distance.
        return _directions(rows), jnp.sqrt(2 * jnp.minimum(tolerance, 2))
    # By a power of two, which changes no digit.
    _, exponent = jnp.frexp(jnp.max(jnp.abs(rows)))
    return jnp.ldexp(rows, -exponent), jnp.ldexp(tolerance, -exponent)


def _directions(rows: jax.Array) -> jax.Array:
    """Rows of length 1 and one more entry of 0; zero goes to a point farther off than any other."""
    largest = jnp.max(jnp.abs(rows), axis=1, keepdims=True)
    rows = rows / jnp.where(largest > 0, largest, 1)
    length = jnp.sqrt(jnp.sum(rows**2, axis=1, keepdims=True))
    rows = rows / jnp.where(length > 0, length, 1)
    return jnp.concatenate([rows, jnp.where(length > 0, 0, 3).astype(rows.dtype)], axis=1)


def _means(rows: jax.Array, centers: jax.Array, joined: jax.Array) -> jax.Array:
    """Means of the rows that joined each center; ``joined`` is ``len(centers)`` for none."""
    counts = jnp.zeros(len(centers), rows.dtype).at[joined].add(1, mode="drop")
    # Relative to the center, so that the mean of copies is exactly the copy.
    relative = rows - centers.at[joined].get(mode="clip")
    sums = jnp.zeros_like(centers).at[joined].add(relative, mode="drop")
    return centers + sums / jnp.maximum(counts, 1)[:, None]


def _first_members(joined: jax.Array, num_centers: int, alone: jax.Array) -> jax.Array:
    """The first member of every point's group; what ``alone`` says for points of none.

    ``joined`` is ``num_centers`` for these.
    """
    places = jnp.arange(joined.size, dtype=jnp.int32)
    first = jnp.full(num_centers, joined.size, jnp.int32).at[joined].min(places, mode="drop")
    return jnp.where(joined < num_centers, first.at[joined].get(mode="clip"), alone)


def _groups(leaders: jax.Array) -> Groups:
    """Groups, from the first member of every point's."""
    is_leader = leaders == jnp.arange(leaders.size)
    numbers = jnp.cumsum(is_leader, dtype=jnp.int32) - 1
    counts = jnp.zeros(leaders.size, jnp.int32).at[leaders].add(1)
    return Groups(numbers[leaders], leaders, counts[leaders], numbers[-1] + 1)
