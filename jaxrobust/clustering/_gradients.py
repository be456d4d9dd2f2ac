"""Clusters of examples by their gradients."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxrobust import per_example, trees
from jaxrobust.clustering import _rank_one as rank_one
from jaxrobust.clustering._checks import (
    check_points,
    check_tolerance,
)
from jaxrobust.clustering._exact import LossFn, descend, squared_norms
from jaxrobust.clustering._fit import check_init, fit, start_from
from jaxrobust.clustering._gradient_sketches import gradient_sketches
from jaxrobust.clustering._result import Clustering
from jaxrobust.clustering._seeding import SEEDINGS

Method = Literal["sketch", "exact", "rank1", "gram"]
METHODS = ("sketch", "exact", "rank1", "gram")


def gradient_clusters(
    loss_fn: Callable[[Any, Any], jax.Array],
    params: Any,
    data: Any,
    num_clusters: int,
    *,
    key: jax.Array,
    method: Method = "sketch",
    dim: int = 256,
    num_landmarks: int | None = None,
    batch_size: int = 128,
    **options: Any,
) -> Clustering:
    r"""Clusters examples by their gradients :math:`g_i = \nabla_\theta\ell(\theta, x_i)`.

    The objective that is minimised, :math:`J = \sum_k N_k S_k`, is :math:`N^2` times the variance
    of the gradient estimate that draws one example of each cluster. The methods, what they cost,
    and what their :class:`Clustering` says:

    ===========  ===================================================================================
    ``sketch``   Sketches of ``dim`` numbers by one pass over the data, then :func:`fit` on them;
                 memory ``(N, dim)``. With landmarks, where these are cheap, the sketches are exact
                 for what gradients have in common with those of some examples. ``centers (K,
                 dim)``, ``spreads`` and ``objective`` are those of the sketches. Distances of two
                 sketches are unbiased, squared; those to centers that were fitted to them come out
                 too small where there are many more parameters than ``dim``: to judge the clusters
                 take sketches of another key, or the gradients. Where a refresh must be quick:
                 ``dim=128, num_landmarks=16, tolerance=0.01, batch_size=2048``; the experiment
                 `clustering_quality` shows its J and its time beside others.
    ``exact``    Means of clusters and assignments in turn, by the gradients themselves; neither
                 step raises J. ``centers`` are mean gradients, leaves ``(K, *leaf)``; ``spreads``
                 and ``objective`` are exact up to rounding errors of order ``eps`` of the squared
                 norms. Params and data in half precision are widened to float32, and the gradients
                 are those of the loss there. A pass reads the data twice: once for the distances,
                 at the cost of K forward passes in forward mode and the memory of
                 ``batch_size * K`` examples, once for the means, at that of the gradient. Before:
                 one pass for the norms, one for sketches to seed by, one for the means. Memory
                 besides: ``(N, K)``.
    ``rank1``    The published method: a center is :math:`c_k d_k^T` for every matrix or kernel, and
                 for every block of one that has several, with :math:`c_k` the mean of
                 :math:`\frac1T\sum_t a_{it}` and :math:`d_k` that of :math:`\sum_t d_{it}` over
                 the members, for gradients :math:`\sum_{t\le T} a_{it} d_{it}^T`. Biases, scales,
                 tables and whatever else :func:`per_example.factors` leaves out does not count.
                 Examples go, one after the other, to the least
                 :math:`(N_k+1)\|g_i-C_k\|^2` with :math:`N_k` counted from zero in every pass
                 (``assignment="running"``); ``"frozen"`` takes :math:`N_k \|g_i-C_k\|^2` with the
                 last sizes, as the equation reads, which is no descent and ends worse than no
                 clusters. Then, if the smallest cluster has less than ``min_size`` members, it
                 gets a random half of the one with the largest share of J. A pass reads the data
                 twice. ``centers`` has for every leaf, by its path, a tuple of ``(c, d)``, ``(K,
                 blocks, rows)`` and ``(K, blocks, columns)``; ``spreads`` and ``objective`` are at
                 these centers, for the leaves that count; ``converged`` says that the last pass
                 moved nothing.
    ``gram``     All inner products of pairs, exact, then :func:`fit`; time and memory :math:`N^2`,
                 the oracle for small N. ``centers (K, N)`` are in coordinates of their own.
    ===========  ===================================================================================

    Args:
      loss_fn: ``loss_fn(params, example) -> ()``, the loss of one example. Give the same function
        every time: a new one is compiled anew.
      params: pytree of floating arrays.
      data: pytree of arrays ``(N, ...)``, all examples.
      num_clusters: K, 1 to N.
      key: PRNG key of the sketches and of the seeding.
      method: see the table.
      dim: length of a sketch, also of those that ``exact`` begins with.
      num_landmarks: of these sketches, as in :func:`gradient_sketches`.
      batch_size: examples whose gradients are looked at in one go; by ``gram`` all are.
      **options: for ``sketch`` and ``gram`` the further options of :func:`fit`; for ``exact`` its
        ``init``, ``max_passes`` (10) and ``tolerance`` (1e-3); for ``rank1`` ``init`` (``"zero"``,
        random centers near zero), ``max_passes`` (10, all of which are made), ``min_size`` (1) and
        ``assignment``. ``init=last.assignments`` starts from the last clustering.

    Returns:
      :class:`Clustering` of the N examples. Data that are sharded over explicit mesh axes are
      brought together on every device.

    Raises:
      ValueError: for data without examples or of different lengths, an unknown method, a
        ``batch_size`` below 1, gradients that are not finite (the message says of which examples;
        not when traced), and as :func:`fit`.
      TypeError: for an option that the method does not have, or a loss that does not take what
        ``exact`` has widened.
      ValueError, TypeError: as :func:`per_example.sketches`, for what cannot be differentiated.

    Source:
      Faghri et al., arXiv:2007.04532, which clusters with two passes over the data for each of 3
      to 10 iterations; sketches, and the moves that never raise J, are this library's. ``rank1``
      follows its code but for two things: the gradients are those of the single losses, where it
      divides by the size of the batch, so that those of a smaller last batch were larger; and the
      squared norms, which do not change, are found once.
    """
    num_clusters = trees.check_count(
        "num_clusters", num_clusters, most=trees.check_examples("data", data)
    )
    batch_size = trees.check_count("batch_size", batch_size)
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    sketch_key, fit_key = jax.random.split(key)
    data = trees.bring_together(data)

    def sketches():
        found = gradient_sketches(
            loss_fn, params, data, key=sketch_key, dim=dim, num_landmarks=num_landmarks,
            batch_size=batch_size,
        )  # fmt: skip
        return check_points("gradients", found)

    if method == "sketch":
        return fit(sketches(), num_clusters, key=fit_key, **options)
    if method == "gram":
        gram = _gram(loss_fn, params, data)
        squared = jnp.diagonal(gram)[:, None]
        check_points("gradients", squared, distances=False)  # of which an entry is not finite
        return fit(_coordinates(gram), num_clusters, key=fit_key, **options)
    if method == "rank1":
        return _rank_one(loss_fn, params, data, num_clusters, fit_key, batch_size, **options)
    return _exact(loss_fn, params, data, num_clusters, fit_key, sketches, batch_size, **options)


def _exact(
    loss_fn: LossFn,
    params: Any,
    data: Any,
    num_clusters: int,
    key: jax.Array,
    sketches: Callable[[], jax.Array],
    batch_size: int,
    *,
    init: Any = "k-means++",
    max_passes: int = 10,
    tolerance: float = 1e-3,
) -> Clustering:
    init = check_init(init, SEEDINGS, trees.check_examples("data", data), num_clusters)
    max_passes = trees.check_count("max_passes", max_passes)
    check_tolerance("tolerance", tolerance)
    # Means in a narrow dtype would be as far off as members of a cluster are from each other.
    params, data = _widened(loss_fn, params, data)
    squared = squared_norms(loss_fn, batch_size, params, data)
    check_points("gradients", squared[:, None], distances=False)
    points = sketches() if isinstance(init, str) else squared[:, None]
    start = start_from(init, key, points, num_clusters)
    return descend(
        loss_fn, num_clusters, batch_size, params, data, squared, start, max_passes, tolerance
    )


def _widened(loss_fn: LossFn, params: Any, data: Any) -> Any:
    """Params and data in float32 at least, if the loss takes them."""
    widen = lambda leaf: trees.promote(leaf) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
    wide = jax.tree.map(widen, (params, data))
    given = [leaf.dtype for leaf in jax.tree.leaves((params, data))]
    if given != [leaf.dtype for leaf in jax.tree.leaves(wide)]:
        example = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), wide[1]
        )
        try:
            jax.eval_shape(loss_fn, wide[0], example)
        except TypeError as error:
            raise TypeError(
                "loss_fn must take params and data in float32 with method='exact', which widens "
                f"those in half precision: {error}"
            ) from error
    return wide


def _rank_one(
    loss_fn: LossFn,
    params: Any,
    data: Any,
    num_clusters: int,
    key: jax.Array,
    batch_size: int,
    *,
    init: Any = "zero",
    max_passes: int = 10,
    min_size: int = 1,
    assignment: rank_one.Assignment = "running",
) -> Clustering:
    num_examples = trees.check_examples("data", data)
    init = check_init(init, ("zero",), num_examples, num_clusters)
    max_passes = trees.check_count("max_passes", max_passes)
    min_size = trees.check_count("min_size", min_size, most=num_examples)
    if assignment not in ("running", "frozen"):
        raise ValueError(f"assignment must be 'running' or 'frozen', got {assignment!r}")
    squared = rank_one.squared_norms(loss_fn, batch_size, params, data)
    check_points("gradients", squared[:, None], distances=False)
    start = None if isinstance(init, str) else init
    return rank_one.iterate(
        loss_fn, num_clusters, assignment, batch_size, params, data, squared, start, key,
        max_passes, min_size,
    )  # fmt: skip


@functools.partial(jax.jit, static_argnums=0)
def _gram(loss_fn: LossFn, params: Any, data: Any) -> jax.Array:
    return per_example.gram(loss_fn)(params, data)


@jax.jit
def _coordinates(gram: jax.Array) -> jax.Array:
    """Points ``(N, N)`` with these inner products."""
    values, vectors = jnp.linalg.eigh(trees.promote(gram))
    # Rounding makes some of the zero eigenvalues negative.
    return vectors * jnp.sqrt(jnp.maximum(values, 0))[None, :]
