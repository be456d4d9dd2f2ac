"""Clusters of a stream of points, which forget what is long ago."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxrobust import trees
from jaxrobust.clustering._checks import check_points
from jaxrobust.clustering._objectives import OBJECTIVES, Objective, assign_in_turn
from jaxrobust.clustering._seeding import seed_centers
from jaxrobust.clustering._smallest import smallest
from jaxrobust.clustering._sums import squared_distances

# How far the two halves of a cluster are put apart, in standard deviations: a beginning only.
_APART = 0.1


class OnlineState(NamedTuple):
    """Clusters of a stream, by sums in which a batch counts the less the longer it is ago."""

    sizes: jax.Array  # (K,): points; together about as many as there are in a batch
    centers: jax.Array  # (K, d): means of the points
    spreads: jax.Array  # (K,): sums of squared distances to the centers that there were
    step: jax.Array  # () int32: batches
    key: jax.Array  # of the splits


@dataclasses.dataclass(frozen=True)
class Online:
    """See :func:`online`."""

    num_clusters: int
    decay: float
    min_size: float
    objective: Objective

    def init(self, key: jax.Array, points: Any) -> OnlineState:
        """Centers among the first points ``(n, d)``, by k-means++; all clusters of one size.

        Raises:
          ValueError: for points that are not ``(n, d)``, fewer than K, or not finite (unless
            traced). TypeError: for points that are not floating.
        """
        points = check_points("points", points)
        trees.check_count("num_clusters", self.num_clusters, most=points.shape[0])
        return _init(self, key, points)

    def update(self, state: OnlineState, points: Any) -> tuple[OnlineState, jax.Array]:
        """The state after the next points ``(n, d)``, and their clusters, ``(n,)`` int32.

        Raises:
          ValueError: for points that are not ``(n, d)`` with the d of the centers, or not finite
            (unless traced). TypeError: for points that are not floating.
        """
        points = check_points("points", points)
        if points.shape[1] != state.centers.shape[1]:
            raise ValueError(
                f"points must be of shape (n, {state.centers.shape[1]}), as those of init, got "
                f"{points.shape}"
            )
        return _update(self, state, points)


def online(
    num_clusters: int,
    *,
    decay: float = 0.99,
    min_size: float | None = None,
    objective: Objective = "pairwise",
) -> Online:
    r"""Clusters of a stream of points, as of sketches of the gradients of every batch.

    With :math:`\beta` the decay, and of a batch :math:`n_k` points with mean :math:`m_k` and
    squared distances D in cluster k,

    .. math:: s_k' = \beta s_k + (1-\beta) n_k,\quad
              c_k' = \frac{\beta s_k c_k + (1-\beta) n_k m_k}{s_k'},\quad
              S_k' = \beta S_k + (1-\beta) \sum D.

    A point goes to the cluster in which :math:`\sum_k s_k S_k` grows least, one after the other,
    with the sizes and spreads changed by those before it (``"pairwise"``), or to the closest center
    (``"kmeans"``). After a batch the smallest cluster, if it has less than a share ``min_size`` of
    all, is given up: the cluster with the largest share of the objective is split, and both halves
    have half its size and spread, and centers a little apart in a random direction.

    Args:
      num_clusters: K, at least 1.
      decay: :math:`\beta`, 0 to below 1. About ``1 / (1 - decay)`` batches are remembered.
      min_size: share of the points, 0 to below 1; None for ``0.1 / K``, 0 for no splits.
      objective: ``"pairwise"`` or ``"kmeans"``, as for :func:`fit`.

    Returns:
      :class:`Online` with ``init(key, points) -> state`` and ``update(state, points) -> (state,
      assignments)``: pure functions, for ``jit`` and ``scan``. The same key and points give the
      same clusters; on an accelerator up to rounding, for its additions have no fixed order.

    Raises:
      ValueError: for a ``num_clusters`` below 1, a ``decay`` or ``min_size`` out of range, an
        unknown objective.

    Source:
      The decayed sums and the splits: the code of Faghri et al., arXiv:2007.04532, where both
      halves have the same center. The assignment by what the objective grows is derived here.
    """
    num_clusters = trees.check_count("num_clusters", num_clusters)
    min_size = 0.1 / num_clusters if min_size is None else min_size
    for name, value in (("decay", decay), ("min_size", min_size)):
        if isinstance(value, Tracer) or not 0 <= value < 1:
            raise ValueError(f"{name} must be a number in 0..1, and less than 1, got {value}")
    if objective not in OBJECTIVES:
        raise ValueError(f"objective must be one of {OBJECTIVES}, got {objective!r}")
    return Online(num_clusters, float(decay), float(min_size), objective)


@functools.partial(jax.jit, static_argnums=0)
def _init(method: Online, key: jax.Array, points: jax.Array) -> OnlineState:
    seed_key, key = jax.random.split(key)
    number = method.num_clusters
    seeds = seed_centers(seed_key, points, number, "k-means++")
    sizes = jnp.full(number, points.shape[0] / number, points.dtype)
    return OnlineState(sizes, points[seeds], jnp.zeros_like(sizes), jnp.int32(0), key)


@functools.partial(jax.jit, static_argnums=0)
def _update(method: Online, state: OnlineState, points: jax.Array) -> tuple[OnlineState, jax.Array]:
    points = points.astype(state.centers.dtype)
    middle = jnp.mean(state.centers, axis=0)  # distances are found from products
    distances = squared_distances(points - middle[None, :], state.centers - middle[None, :])
    new = 1 - method.decay
    sizes, spreads = method.decay * state.sizes, method.decay * state.spreads
    if method.objective == "kmeans":
        assignments, _ = smallest(distances)
    else:
        assignments = assign_in_turn(sizes, spreads, distances, new)
    own = jnp.take_along_axis(distances, assignments[:, None], axis=1)[:, 0]
    after = sizes.at[assignments].add(new)
    # Relative to the center: what does not change is not lost to rounding.
    relative = points - state.centers[assignments]
    moved = new * jnp.zeros_like(state.centers).at[assignments].add(relative)
    centers = state.centers + moved / jnp.where(after > 0, after, 1)[:, None]
    spreads = spreads.at[assignments].add(new * own)
    state = OnlineState(after, centers, spreads, state.step + 1, state.key)
    return _split_if_small(method, state), assignments


def _split_if_small(method: Online, state: OnlineState) -> OnlineState:
    """Gives up the smallest cluster, if it is too small, for half of the one worth splitting."""
    sizes, centers, spreads, step, key = state
    share = sizes * spreads if method.objective == "pairwise" else spreads
    smallest, largest = jnp.argmin(sizes), jnp.argmax(share)
    splits = (sizes[smallest] < method.min_size * jnp.sum(sizes)) & (smallest != largest)
    deviation = jnp.sqrt(spreads[largest] / jnp.where(sizes[largest] > 0, sizes[largest], 1))
    normal = jax.random.normal(jax.random.fold_in(key, step), centers.shape[1:], centers.dtype)
    shift = _APART * deviation * normal / jnp.sqrt(jnp.sum(normal**2))

    def halved(values):
        return values.at[smallest].set(values[largest] / 2).at[largest].multiply(0.5)

    center = centers[largest]
    apart = centers.at[smallest].set(center + shift).at[largest].set(center - shift)
    split = OnlineState(halved(sizes), apart, halved(spreads), step, key)
    return jax.tree.map(lambda new, old: jnp.where(splits, new, old), split, state)
