"""Ways to sample: uniformly, by strata, by scores."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust import trees
from jaxrobust.sampling._checks import (
    check_clusters,
    check_count,
    check_scores,
    check_share,
)
from jaxrobust.sampling._sampler import Sampler, widths_of

Allocation = Literal["equal", "proportional", "neyman"]
ALLOCATIONS = ("equal", "proportional", "neyman")
# Scores become integers that add up to about this, so that sums are exact.
_SCORE_TOTAL = 2.0**30
_PART = 2**16  # of scores that are added up in float32
# A share that is rounded up to the least that can be drawn.
_LEAST_SHARE = 1e-30


def uniform(num_examples: int, batch_size: int, *, replacement: bool = False) -> Sampler:
    r"""Every example with the same probability, all weights 1.

    Variance of the gradient: :math:`\sigma^2/B` with replacement,
    :math:`\sigma^2 = \frac1N\sum_i\|g_i-\bar g\|^2`; times :math:`(N-B)/(N-1)` within a pass.

    Args:
      num_examples: N, 1 to 2**30.
      batch_size: B. It may exceed N: then a batch holds more than one pass.
      replacement: whether draws are independent. If not, every example is visited once in each
        pass over the data, in random order; a batch may end one pass and begin the next.

    Returns:
      :class:`Sampler`.

    Raises:
      ValueError: if a number is out of range.
    """
    num_examples = check_count("num_examples", num_examples)
    batch_size = check_count("batch_size", batch_size)
    return Sampler(
        members=None,
        starts=jnp.zeros(1, jnp.int32),
        sizes=jnp.full(1, num_examples, jnp.int32),
        shares=jnp.ones(1, jnp.float32),
        widths=widths_of(jnp.ones(1, jnp.float32), batch_size),
        running=None,
        num_examples=num_examples,
        batch_size=batch_size,
        replacement=bool(replacement),
    )


def importance(scores: Any, batch_size: int, *, uniform_share: float = 0.1) -> Sampler:
    r"""Examples in proportion to their scores, with weights that undo it.

    .. math:: p_i = (1-\lambda)\, s_i/\textstyle\sum_j s_j + \lambda/N, \qquad w_i = 1/(N p_i)

    Draws are independent. The variance is least for :math:`s_i = \|g_i\|`:
    :math:`\frac1B\big(\frac1N\sum_i\|g_i\|\big)^2 - \frac1B\|\bar g\|^2` at :math:`\lambda=0`. A
    share :math:`\lambda` of uniform draws bounds the weights by :math:`1/\lambda`, so stale scores
    cost at most a factor :math:`1/\lambda` in the second moment.

    Args:
      scores: ``(N,)`` real, 0 or more, not all 0.
      batch_size: B.
      uniform_share: :math:`\lambda` in [0, 1]. With 0 an example of score 0 has the probability
        of about ``2**-30``, not 0, so that the estimate stays unbiased.

    Returns:
      :class:`Sampler`.

    Raises:
      ValueError: for scores that are negative, not finite or all zero (unless traced), or a number
        out of range.
      TypeError: for scores that are not real numbers.
    """
    scores = check_scores("scores", scores)
    batch_size = check_count("batch_size", batch_size)
    return Sampler(
        members=None,
        starts=jnp.zeros(1, jnp.int32),
        sizes=jnp.full(1, scores.size, jnp.int32),
        shares=jnp.ones(1, jnp.float32),
        widths=widths_of(jnp.ones(1, jnp.float32), batch_size),
        running=_running(
            scores,
            check_share("uniform_share", uniform_share),
            jnp.full(1, scores.size, jnp.int32),
            jnp.zeros(scores.size, jnp.int32),
        ),
        num_examples=scores.size,
        batch_size=batch_size,
        replacement=True,
    )


def stratified(
    assignments: Any,
    batch_size: int,
    *,
    allocation: Allocation = "equal",
    spread: Any = None,
    num_clusters: int | None = None,
    scores: Any = None,
    uniform_share: float = 0.1,
    cover: bool = True,
    replacement: bool = False,
) -> Sampler:
    r"""A fixed share of the batch from each cluster, weighted by the cluster's size.

    With clusters of :math:`N_k` members, mean gradient :math:`\mu_k` and variance
    :math:`\sigma_k^2`, of which :math:`b_k` are drawn, the estimate
    :math:`\sum_k \frac{N_k}{N} \frac1{b_k}\sum_j g_{kj}` is unbiased for any partition and has the
    variance :math:`\sum_k (N_k/N)^2\sigma_k^2/b_k`.

    ================  ============================================================================
    ``equal``         the same number from each: the published method. Least variance for clusters
                      that minimise the pairwise objective; up to K times that of uniform draws
                      for bad ones
    ``proportional``  :math:`b_k \propto N_k`: never above uniform draws with replacement, if the
                      :math:`b_k` are whole
    ``neyman``        :math:`b_k \propto N_k\sigma_k`: the least variance for given clusters
    ================  ============================================================================

    Where the expected number :math:`Bq_k` is not whole it is rounded up or down at random
    (systematic sampling). With :math:`Bq_k=n+f` draws between two whole numbers its part of the
    variance is :math:`1+f(1-f)/(n(n+1))` times that of as many draws: at most an eighth more, from
    one draw on. A cluster with :math:`Bq_k<1` is left out of some batches, and weighs
    :math:`N_k/(N q_k)` in the others: unbiased, but its mean adds to the variance
    (:func:`variance` counts it). Which of these clusters come together depends on their order: of
    2B clusters with half a draw each, a batch has all the even ones or all the odd ones. If
    neighbours differ in a regular way that may be worse than uniform draws; number clusters at
    random then, or so that neighbours are alike.

    Args:
      assignments: ``(N,)`` int, the cluster of every example. Clusters may be empty.
      batch_size: B.
      allocation: see the table.
      spread: ``(K,)`` for ``"neyman"``: :math:`S_k=N_k\sigma_k^2`, the summed squared distances to
        the mean, as in :attr:`Clustering.spreads`.
      num_clusters: K; None for the largest assignment + 1, which must be known while tracing.
      scores: ``(N,)``, to draw by score within the clusters as :func:`importance` does; in one
        whose scores are all 0, uniformly.
      uniform_share: of the draws, this share ignores ``scores`` and ``spread``: of those within
        each cluster as in :func:`importance`, so that scores add a factor of at most
        :math:`1/\lambda` to the weights there; of those among clusters, for ``"neyman"``, it is
        proportional. With 0 a cluster without spread is still drawn, with the least probability
        there is, so that the estimate stays unbiased.
      cover: for ``"neyman"``: whether every cluster is drawn from at every step, if the batch is
        large enough. With as many draws as clusters that leaves one for each, as ``"equal"`` does.
      replacement: whether draws within a cluster are independent. If not, its members are visited
        in passes, in random order; with ``scores`` draws are always independent.

    Returns:
      :class:`Sampler`.

    Raises:
      ValueError: for assignments or spreads of another shape or out of range, a spread missing or
        not wanted, an unknown allocation, a batch smaller than the number of clusters with
        ``"equal"``, a number out of range, as far as they are not traced.
      TypeError: for assignments that are not integers.

    Source:
      Faghri et al., arXiv:2007.04532, Eq. 1, with equal draws; the other allocations: Cochran,
      *Sampling Techniques*, 1977, section 5.5; for SGD, Zhao and Zhang, arXiv:1405.3080.
    """
    assignments, num_clusters = check_clusters(assignments, num_clusters)
    batch_size = check_count("batch_size", batch_size)
    uniform_share = check_share("uniform_share", uniform_share)
    sizes = jnp.zeros(num_clusters, jnp.int32).at[assignments].add(1)
    shares = _shares(sizes, batch_size, allocation, spread, uniform_share, cover)
    shares = shares.astype(jnp.float32)
    members = jnp.argsort(assignments, stable=True).astype(jnp.int32)
    running = None
    if scores is not None:
        scores = check_scores("scores", scores, assignments.size)
        running = _running(scores[members], uniform_share, sizes, assignments[members])
    return Sampler(
        members=members,
        starts=jnp.cumsum(sizes) - sizes,
        sizes=sizes,
        shares=shares,
        widths=widths_of(shares, batch_size),
        running=running,
        num_examples=assignments.size,
        batch_size=batch_size,
        replacement=bool(replacement) or scores is not None,
    )


def _shares(
    sizes: jax.Array,
    batch_size: int,
    allocation: Allocation,
    spread: Any,
    uniform_share: float,
    cover: bool,
) -> jax.Array:
    """The expected share of the draws of every cluster, sum 1, 0 for empty ones."""
    if allocation not in ALLOCATIONS:
        raise ValueError(f"allocation must be one of {ALLOCATIONS}, got {allocation!r}")
    if (spread is not None) != (allocation == "neyman"):
        raise ValueError(
            f'spread must be given for allocation="neyman", and for no other; got '
            f"allocation={allocation!r} and spread={'None' if spread is None else 'an array'}"
        )
    proportional = sizes / jnp.sum(sizes)
    if allocation == "proportional":
        return proportional
    each = (sizes > 0) / jnp.sum(sizes > 0)
    if allocation == "equal":
        _check_equal(sizes, batch_size)
        return each
    wanted = jnp.sqrt(sizes) * jnp.sqrt(_check_spread(spread, sizes))  # N_k sigma_k
    total = jnp.sum(wanted)
    wanted = jnp.where(total > 0, wanted / jnp.where(total > 0, total, 1), proportional)
    shares = (1 - uniform_share) * wanted + uniform_share * proportional
    # Above 0 where there are members: a stratum that is never drawn would bias the estimate.
    shares = jnp.where(sizes > 0, jnp.maximum(shares, _LEAST_SHARE), 0)
    if cover:
        needed = jnp.sum(sizes > 0) / batch_size
        shares = jnp.where(needed <= 1, needed * each + (1 - needed) * shares, shares)
    return shares / jnp.sum(shares)


def _check_equal(sizes: jax.Array, batch_size: int) -> None:
    if (
        not isinstance(sizes, Tracer)
        and (number := int(np.sum(np.asarray(sizes) > 0))) > batch_size
    ):
        raise ValueError(
            f'with allocation="equal" the batch_size must be at least the number of clusters that '
            f'have members, {number}, got {batch_size}; allocation="proportional" needs no more '
            "than one draw"
        )


def _check_spread(spread: Any, sizes: jax.Array) -> jax.Array:
    spread = trees.bring_together(jnp.asarray(spread))
    spread = spread.astype(jnp.promote_types(spread.dtype, jnp.float32))
    if spread.shape != sizes.shape:
        raise ValueError(f"spread must be of shape {sizes.shape}, got {spread.shape}")
    if not isinstance(spread, Tracer):
        wrong = ~(np.isfinite(np.asarray(spread)) & (np.asarray(spread) >= 0))
        if wrong.any():
            raise ValueError(
                f"spread must be finite and 0 or more; it is not for clusters "
                f"{np.nonzero(wrong)[0].tolist()}"
            )
    return spread


def _running(
    scores: jax.Array, uniform_share: float, sizes: jax.Array, strata: jax.Array
) -> jax.Array:
    """Running sums of the probabilities within strata, times their sizes, as integers.

    Mixed with uniform draws in each stratum by itself: what scores others have changes nothing.
    """
    # Relative to the largest: no sum of them overflows, and no reciprocal underflows.
    largest = jnp.zeros(sizes.shape, scores.dtype).at[strata].max(scores)[strata]
    scores = jnp.where(largest > 0, scores / jnp.where(largest > 0, largest, 1), 1)
    share = scores / _sums(scores, strata, sizes)[strata]
    of_all = sizes[strata] / scores.size
    mixed = of_all * (1 - uniform_share) * share + uniform_share / scores.size
    # At least 1: an example that is never drawn would bias the estimate.
    return jnp.cumsum(jnp.floor(mixed * _SCORE_TOTAL).astype(jnp.int32) + 1, dtype=jnp.int32)


def _sums(values: jax.Array, strata: jax.Array, sizes: jax.Array) -> jax.Array:
    """Of every stratum, ``(K,)``; values in the order of their strata.

    Added one after the other, more than 2**24 ones would stay 2**24 in float32, and the integers
    that they are made into would overflow: sums of parts of strata first.
    """
    num_parts = -(-sizes // _PART)
    ends = jnp.cumsum(num_parts)
    place = jnp.arange(values.size, dtype=jnp.int32) - (jnp.cumsum(sizes) - sizes)[strata]
    part = (ends - num_parts)[strata] + place // _PART
    most = sizes.size + values.size // _PART
    sums = jnp.zeros(most, values.dtype).at[part].add(values)
    of_part = jnp.searchsorted(ends, jnp.arange(most), side="right")
    return jnp.zeros(sizes.size, values.dtype).at[of_part].add(sums)  # of none: out of bounds
