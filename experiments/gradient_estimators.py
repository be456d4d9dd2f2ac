"""Variances of the gradient estimators of the literature, exact, by their closed formulas.

What the experiments on the variance of gradients share. With gradients g_i of N examples at fixed
weights, clusters of N_k members with means mu_k and S_k the sum of squared distances to them, an
estimator that draws B examples has as its variance the trace of its covariance:

    SG-B                 sigma^2 / B, with sigma^2 the mean of |g_i - mean|^2
    SG-2B                half of that, at twice the cost
    importance           ((mean of |g_i|)^2 - |mean|^2) / B, drawn in proportion to |g_i|
    equal draws          (K / B) sum_k N_k S_k / N^2: the published gradient clustering
    proportional draws   sum_k S_k / (B N)
    Neyman draws         (sum_k sqrt(N_k S_k) / N)^2 / B: the least for given clusters
    Neyman, importance   the same with drawing in proportion to |g_i| within clusters
    SVRG                 SG-B of the differences to the gradients at a snapshot

`jaxrobust.sampling.variance` gives the same for draws in whole numbers, which these are not always.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SG, DOUBLE, IMPORTANCE, SVRG = "SG-B", "SG-2B", "importance", "SVRG"
GC = "GC (equal draws)"
PROPORTIONAL, NEYMAN, BOTH = "GC, proportional", "GC, Neyman", "GC, Neyman + importance"
HARTIGAN, HARTIGAN_NEYMAN = "Hartigan, equal draws", "Hartigan, Neyman"
STRATA_SVRG = "SVRG, equal draws"  # the control variate, and one example of each cluster
LARGE_BATCH = 100  # in which the draws of every cluster are many
EQUAL_SAMPLER, NEYMAN_SAMPLER = "equal, sampler", f"Neyman, sampler of {LARGE_BATCH}"


class Moments(NamedTuple):
    """What the closed formulas need to know of all gradients and of a partition of them."""

    variance: jax.Array  # (): mean squared distance to the mean gradient
    signal: jax.Array  # (): squared norm of the mean gradient
    norm: jax.Array  # (): mean norm
    sizes: jax.Array  # (K,): members
    spreads: jax.Array  # (K,): sum of the squared distances to the mean of the cluster
    norms: jax.Array  # (K,): mean norm of the members
    signals: jax.Array  # (K,): squared norm of the mean of the cluster


class Sums(NamedTuple):
    """What is summed over examples, of gradients less a center."""

    squares: jax.Array  # (K,): squared distances to the center
    norms: jax.Array  # (K,)
    gradients: jax.Array  # (K, d), less the center


@functools.partial(jax.jit, static_argnums=2)
def moments(gradients: jax.Array, assignments: jax.Array, num_clusters: int) -> Moments:
    """Of gradients ``(N, d)`` and their clusters."""
    center = jnp.mean(gradients, axis=0)
    return summarize(sums(gradients, center, assignments, num_clusters), assignments, center)


def sums(
    gradients: jax.Array, center: jax.Array, assignments: jax.Array, num_clusters: int
) -> Sums:
    """Of some gradients ``(n, d)``; a cluster out of range is left out."""
    # About the center, or the difference of two large sums would be left at the end.
    relative = gradients - center[None, :]
    members = jax.nn.one_hot(assignments, num_clusters, axis=0)
    total = functools.partial(jnp.matmul, members, precision=jax.lax.Precision.HIGHEST)
    norms = jnp.linalg.norm(gradients, axis=1)
    return Sums(total(jnp.sum(relative**2, axis=1)), total(norms), total(relative))


def summarize(found: Sums, assignments: jax.Array, center: jax.Array) -> Moments:
    """Moments from the sums over all examples; the center is the mean gradient, about."""
    sizes = jnp.zeros(len(found.squares)).at[assignments].add(1)
    share = 1 / jnp.maximum(sizes, 1)
    shifts = found.gradients * share[:, None]
    shift = jnp.sum(found.gradients, axis=0) / jnp.sum(sizes)
    means = center[None, :] + shifts
    spreads = jnp.maximum(found.squares - sizes * jnp.sum(shifts**2, axis=1), 0)
    return Moments(
        variance=jnp.sum(found.squares) / jnp.sum(sizes) - jnp.sum(shift**2),
        signal=jnp.sum((center + shift) ** 2),
        norm=jnp.sum(found.norms) / jnp.sum(sizes),
        sizes=sizes,
        spreads=spreads,
        norms=found.norms * share,
        signals=jnp.sum(jnp.where(sizes[:, None] > 0, means, 0) ** 2, axis=1),
    )


def of_all(m: Moments, batch: int) -> dict[str, float]:
    """Variances of the estimators that need no clusters."""
    variance, signal, norm = (float(v) for v in (m.variance, m.signal, m.norm))
    return {
        SG: variance / batch,
        DOUBLE: variance / (2 * batch),
        IMPORTANCE: max(norm**2 - signal, 0.0) / batch,
    }


def equal(m: Moments, batch: int) -> float:
    """Of equal draws from the clusters that have members."""
    sizes, spreads = _members(m)
    return float(len(sizes) / batch * np.sum(sizes * spreads) / np.sum(sizes) ** 2)


def proportional(m: Moments, batch: int) -> float:
    """Of draws in proportion to the sizes, as if they could be divided."""
    sizes, spreads = _members(m)
    return float(np.sum(spreads) / (batch * np.sum(sizes)))


def neyman(m: Moments, batch: int) -> float:
    """Of the best draws from given clusters, as if they could be divided."""
    sizes, spreads = _members(m)
    return float((np.sum(np.sqrt(sizes * spreads)) / np.sum(sizes)) ** 2 / batch)


def neyman_with_importance(m: Moments, batch: int) -> float:
    """Of the best draws from given clusters, by norm within them."""
    return neyman(m._replace(spreads=importance_spreads(m)), batch)


def importance_spreads(m: Moments) -> jax.Array:
    """What `spreads` are for draws by norm within clusters, ``(K,)``."""
    return m.sizes * jnp.maximum(m.norms**2 - m.signals, 0)


def of_clusters(m: Moments, batch: int) -> dict[str, float]:
    """Variances with the published clusters."""
    return {
        GC: equal(m, batch),
        PROPORTIONAL: proportional(m, batch),
        NEYMAN: neyman(m, batch),
        BOTH: neyman_with_importance(m, batch),
    }


def normalised(variance: float, m: Moments) -> float:
    """Variance over second moment, in 0..1: 1 for pure noise."""
    return variance / (variance + float(m.signal))


def _members(m: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Sizes and spreads of the clusters that have members, in float64."""
    sizes, spreads = (np.asarray(v, np.float64) for v in (m.sizes, m.spreads))
    return sizes[sizes > 0], spreads[sizes > 0]
