"""The exact variance of a sampled gradient, without simulation."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust import trees
from jaxrobust.sampling._checks import some
from jaxrobust.sampling._one_cluster import ClusterSampler
from jaxrobust.sampling._redundancy import GroupSampler
from jaxrobust.sampling._sampler import Sampler

_HIGHEST = jax.lax.Precision.HIGHEST


class _Strata(NamedTuple):
    """The gradients, stratum by stratum."""

    within: jax.Array  # (K,): variance of what one draw contributes for the mean of its stratum
    # One of both: the means (K, d), or their inner products (K, K).
    means: jax.Array | None
    products: jax.Array | None

    def squares(self, combinations: jax.Array) -> jax.Array:
        r""":math:`\|\sum_k c_k \mu_k\|^2` for every row of ``(S, K)``, ``(S,)``."""
        if self.means is None:
            assert self.products is not None
            products = jnp.matmul(combinations, self.products, precision=_HIGHEST)
            return jnp.maximum(jnp.sum(products * combinations, axis=1), 0)
        # What all have in common apart: coefficients of sum 0 take it away without rounding.
        middle = jnp.mean(self.means, axis=0)
        off = jnp.matmul(combinations, self.means - middle[None, :], precision=_HIGHEST)
        common = jnp.sum(combinations, axis=1)[:, None] * middle[None, :]
        return jnp.sum((off + common) ** 2, axis=1)

    def scatter(self, shares: jax.Array) -> jax.Array:
        """The variance of the mean of a random stratum, drawn with these shares, of sum 1."""
        if self.means is None:
            assert self.products is not None
            squares = jnp.sum(shares * jnp.diagonal(self.products))
            return jnp.maximum(squares - self.squares(shares[None, :])[0], 0)
        middle = jnp.matmul(shares, self.means, precision=_HIGHEST)
        off = jnp.sum((self.means - middle[None, :]) ** 2, axis=1)
        return jnp.sum(shares * off)


def variance(
    gradients: Any, sampler: Sampler | GroupSampler | ClusterSampler, *, gram: bool = False
) -> jax.Array:
    r"""Trace of the covariance of the batch gradient :math:`\frac1B\sum_j w_j g_{i_j}`.

    It is exact, for the distribution of one draw of the sampler: allocations that are not whole,
    scores, and draws without replacement (then of a batch at the start of a pass; one that goes
    over the end of a pass has a little more). For the estimators of the literature:

    ======================  ===================================================================
    mini-batch, double one  ``uniform(N, B, replacement=True)``, ``uniform(N, 2 * B, ...)``
    gradient clustering     ``stratified(assignments, B)``
    importance sampling     ``importance(norms, B, uniform_share=0)``
    SVRG, and SVRG with     any sampler, with ``gradients`` replaced by their differences to the
    any of these            gradients at the snapshot
    ======================  ===================================================================

    Args:
      gradients: of all N examples: a pytree of arrays ``(N, ...)``, or with ``gram`` their inner
        products ``(N, N)``.
      sampler: of N examples.
      gram: what ``gradients`` is.

    Returns:
      ``()``, float32 at least; with ``gram`` to rounding errors of the squared norms, for the
      inner products have these already. Divided by the number of entries it is the paper's "average
      variance". For :func:`redundancy_removed` it is the variance about the mean that sampler
      has; with more draws than groups it is NaN if the number of groups is traced.

    Raises:
      ValueError: if N is not the sampler's, for gradients that are not finite (unless traced), or
        more draws than groups.

    Source:
      Faghri et al., arXiv:2007.04532, Proposition 3.1, for equal draws of one each; the general
      form is derived here from Cochran, *Sampling Techniques*, 1977, chapters 2 and 5.
    """
    trees.check_floating("gradients", gradients)
    if gram:
        points, products = None, trees.promote(trees.bring_together(jnp.asarray(gradients)))
        if products.ndim != 2 or products.shape[0] != products.shape[1]:
            raise ValueError(f"gradients must be (N, N) with gram=True, got {products.shape}")
        rows = products
    else:
        points, products = _rows(gradients), None
        rows = points
    _check_rows(rows, sampler.num_examples)
    if isinstance(sampler, GroupSampler):
        number = sampler.num_groups
        if not isinstance(number, Tracer) and sampler.batch_size > int(number):
            raise ValueError(
                f"the variance is known for at most as many draws as groups, {int(number)}; the "
                f"sampler draws {sampler.batch_size}"
            )
        return _of_groups(sampler, points, products)
    if isinstance(sampler, ClusterSampler):
        return _of_one_cluster(sampler, points, products)
    return _of_strata(sampler, points, products)


def _rows(gradients: Any) -> jax.Array:
    """All leaves side by side, ``(N, d)``."""
    leaves = [trees.bring_together(jnp.asarray(leaf)) for leaf in jax.tree.leaves(gradients)]
    if len({leaf.shape[:1] for leaf in leaves}) != 1 or leaves[0].ndim == 0:
        shapes = [leaf.shape for leaf in leaves]
        raise ValueError(f"gradients must be arrays (N, ...) of one length, got shapes {shapes}")
    flat = [trees.promote(leaf).reshape(leaf.shape[0], -1) for leaf in leaves]
    return jnp.concatenate(flat, axis=1)


def _check_rows(rows: jax.Array, num_examples: int) -> None:
    if rows.shape[0] != num_examples:
        raise ValueError(
            f"gradients must be of the {num_examples} examples of the sampler, got {rows.shape[0]}"
        )
    if not isinstance(rows, Tracer):
        (bad,) = np.nonzero(~np.asarray(jnp.all(jnp.isfinite(rows), axis=1)))
        if bad.size:
            raise ValueError(
                f"gradients must be finite; {bad.size} of {num_examples} are not: {some(bad)}"
            )


@jax.jit
def _of_strata(sampler: Sampler, points: jax.Array | None, products: jax.Array | None) -> jax.Array:
    members = sampler.members
    order = jnp.arange(sampler.num_examples) if members is None else members
    places = jnp.arange(sampler.num_examples)
    stratum = jnp.searchsorted(jnp.cumsum(sampler.sizes), places, side="right")
    stratum = jnp.zeros_like(order).at[order].set(stratum.astype(order.dtype))
    chances = _chances(sampler, stratum, order, _dtype(points, products))
    strata = _summarize(points, products, stratum, chances, sampler.sizes)

    # The number of draws from each stratum is a step function of the random offset.
    unit = sampler.unit
    ends = jnp.array([0, unit], jnp.int32)
    steps = jnp.sort(jnp.concatenate([ends[:1], sampler.edges % unit, ends[1:]]))
    lengths = jnp.diff(steps) / unit
    counts = jax.vmap(lambda u: sampler.allocate(u)[1])(steps[:-1])
    factors = jax.vmap(lambda c: c * sampler.weights_of_strata(c))(counts) / sampler.batch_size
    spreads = _of_mean(counts, sampler.sizes[None, :], sampler.replacement)
    within = jnp.sum(factors**2 * spreads * strata.within[None, :], axis=1)
    # What the mean of the estimate, given the numbers of draws, varies by.
    shifts = factors - jnp.sum(lengths[:, None] * factors, axis=0)[None, :]
    return jnp.sum(lengths * (within + strata.squares(shifts)))


def _chances(sampler: Sampler, stratum: jax.Array, order: jax.Array, dtype: Any) -> jax.Array:
    """The probability of every example among those of its stratum, ``(N,)``."""
    if sampler.running is None:
        return 1 / sampler.sizes[stratum].astype(dtype)
    score = jnp.diff(sampler.running, prepend=0).astype(dtype)
    score = jnp.zeros_like(score).at[order].set(score)
    totals = jnp.zeros(sampler.sizes.shape, score.dtype).at[stratum].add(score)
    return score / totals[stratum]


def _summarize(
    points: jax.Array | None,
    products: jax.Array | None,
    stratum: jax.Array,
    chances: jax.Array,
    sizes: jax.Array,
) -> _Strata:
    """Of every stratum, the mean, and the variance of one draw from it that estimates the mean."""
    num_strata = sizes.size
    factor = 1 / (sizes[stratum] * chances)  # a draw contributes factor * g
    share = 1 / jnp.maximum(sizes, 1)
    if points is not None:
        middle = jnp.mean(points, axis=0)[None, :]  # sums of what is left of it are more exact
        sums = jnp.zeros((num_strata, points.shape[1]), points.dtype)
        means = middle + sums.at[stratum].add(points - middle) * share[:, None]
        distances = jnp.sum((points * factor[:, None] - means[stratum]) ** 2, axis=1)
        of_means = None
    else:
        means = None
        assert products is not None
        with_means = jnp.zeros((num_strata, stratum.size), products.dtype).at[stratum].add(products)
        with_means = with_means * share[:, None]  # <mean_k, g_i>
        of_means = jnp.zeros((num_strata, num_strata), products.dtype)
        of_means = of_means.at[stratum].add(with_means.T) * share[:, None]
        own = with_means[stratum, jnp.arange(stratum.size)]
        distances = jnp.diagonal(products) * factor**2 - 2 * factor * own
        distances = jnp.maximum(distances + jnp.diagonal(of_means)[stratum], 0)
    within = jnp.zeros(num_strata, distances.dtype).at[stratum].add(chances * distances)
    return _Strata(within, means, of_means)


def _dtype(points: jax.Array | None, products: jax.Array | None) -> Any:
    given = products if points is None else points
    assert given is not None
    return given.dtype


def _of_mean(draws: jax.Array, sizes: jax.Array, replacement: bool) -> jax.Array:
    """Variance of the mean of so many draws, relative to that of one; 0 for none.

    Without replacement from the start of a pass: whole passes have none, and r further draws of N
    members (N - r)/(N - 1) of what independent ones have.
    """
    rest = draws if replacement else draws % jnp.maximum(sizes, 1)
    left = 1 if replacement else (sizes - rest) / jnp.maximum(sizes - 1, 1)
    return rest * left / jnp.maximum(draws, 1) ** 2


@jax.jit
def _of_groups(
    sampler: GroupSampler, points: jax.Array | None, products: jax.Array | None
) -> jax.Array:
    """One member of each of B groups, which are drawn without replacement."""
    number = sampler.num_groups
    places = jnp.arange(sampler.num_examples)
    group = jnp.searchsorted(jnp.cumsum(sampler.sizes), places, side="right")
    group = jnp.zeros_like(sampler.members).at[sampler.members].set(group.astype(jnp.int32))
    chances = 1 / sampler.sizes[group].astype(_dtype(points, products))
    groups = _summarize(points, products, group, chances, sampler.sizes)
    is_there = (sampler.sizes > 0).astype(groups.within.dtype) / number
    within = jnp.sum(is_there * groups.within)
    between = groups.scatter(is_there)
    left = (number - sampler.batch_size) / jnp.maximum(number - 1, 1)
    total = (within + left * between) / sampler.batch_size
    return jnp.where(sampler.batch_size <= number, total, jnp.nan)


@jax.jit
def _of_one_cluster(
    sampler: ClusterSampler, points: jax.Array | None, products: jax.Array | None
) -> jax.Array:
    """B independent members of one cluster."""
    places = jnp.arange(sampler.num_examples)
    cluster = jnp.searchsorted(jnp.cumsum(sampler.sizes), places, side="right")
    cluster = jnp.zeros_like(sampler.members).at[sampler.members].set(cluster.astype(jnp.int32))
    chances = 1 / sampler.sizes[cluster].astype(_dtype(points, products))
    clusters = _summarize(points, products, cluster, chances, sampler.sizes)
    shares = sampler.shares.astype(clusters.within.dtype)
    within = jnp.sum(shares * clusters.within) / sampler.batch_size
    return within + clusters.scatter(shares)
