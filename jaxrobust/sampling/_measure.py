"""Noise and signal of any gradient estimator, by drawing from it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import per_example, trees
from jaxrobust.sampling._checks import check_count

# The absolute constant of the published protocol.
_PAPER_EPSILON = 1e-7


class Measurement(NamedTuple):
    """Statistics of a gradient estimator, from T draws."""

    mean: Any  # like the estimate: mean of the draws
    trace: jax.Array  # (): of the covariance
    signal: jax.Array  # (): squared norm of the true mean
    average_variance: jax.Array  # (): trace / number of entries
    noise_to_signal: jax.Array  # (): trace / signal, infinite where signal is not positive
    noise_scale: jax.Array  # (): batch_size * noise_to_signal
    normalized_variance: jax.Array  # (): trace / (trace + signal)
    entrywise_normalized_variance: jax.Array  # (): mean over entries of variance / second moment
    dead_entries: jax.Array  # (): share of entries that were zero in all draws, up to rounding


def measure(
    estimator: Callable[[jax.Array], Any],
    key: jax.Array,
    num_draws: int,
    *,
    batch_size: int = 1,
    paper: bool = False,
) -> Measurement:
    r"""Average and normalised variance of an estimator, signal and noise scale.

    With T independent draws :math:`\hat g_t`, their mean :math:`m` and d entries:

    ==================================  ==========================  ==============================
    field                               here                        with ``paper``
    ==================================  ==========================  ==============================
    ``trace``                           sum ||g_t - m||^2 / (T-1)   sum ||g_t - e||^2 / T
    ``signal``                          ||m||^2 - trace / T         ||m||^2 - trace / T
    ``normalized_variance``             trace / (trace + signal)    the same
    ``entrywise_normalized_variance``   of live entries:            of all entries:
                                        variance / second moment,   sum (g_t - e)^2 over
                                        both unbiased               sum g_t^2 + 1e-7
    ==================================  ==========================  ==============================

    The published protocol takes the deviation from the mean e of T other draws: its variance is too
    large by the factor 1 + 1/T, its normalised variance ends at 1 + 1/(T-2) for pure noise, and its
    absolute constant lowers it where gradients are small.

    Args:
      estimator: from a PRNG key to a gradient estimate, a pytree; all at the same params.
      key: PRNG key.
      num_draws: T, at least 2 (3 with ``paper``). With ``paper`` twice as many are drawn.
      batch_size: examples per estimate, for the noise scale alone.
      paper: whether to follow the published protocol.

    Returns:
      :class:`Measurement`. Runs under ``jit``; the draws are made one after the other.

    Raises:
      ValueError: if ``num_draws`` or ``batch_size`` is too small.

    Source:
      Faghri et al., arXiv:2007.04532, section 4 and its code; noise scale: McCandlish et al.,
      arXiv:1812.06162.
    """
    if check_count("num_draws", num_draws) < 2 + paper:
        raise ValueError(f"num_draws must be at least {2 + paper}, got {num_draws}")
    batch_size = check_count("batch_size", batch_size)
    first_key, key = jax.random.split(key)
    keys = jax.random.split(key, num_draws)
    sums = _sums(estimator, keys)
    moments = per_example.summarize_moments(sums.moments)
    entrywise = moments.entrywise_normalized_variance
    trace, signal = moments.trace, moments.signal
    assert entrywise is not None
    assert moments.dead_entries is not None
    if paper:
        elsewhere = _sums(estimator, jax.random.split(first_key, num_draws)).moments.mean
        trace, entrywise = _as_published(sums, elsewhere, num_draws)
        signal = trees.dot(moments.mean, moments.mean) - trace / num_draws
    positive = signal > 0
    ratio = jnp.where(positive, trace / jnp.where(positive, signal, 1), jnp.inf)
    everything = trace + jnp.maximum(signal, 0)
    return Measurement(
        mean=moments.mean,
        trace=trace,
        signal=signal,
        average_variance=trace / trees.size(moments.mean),
        noise_to_signal=ratio,
        noise_scale=batch_size * ratio,
        normalized_variance=trace / jnp.where(everything > 0, everything, 1),
        entrywise_normalized_variance=entrywise,
        dead_entries=moments.dead_entries,
    )


class _Sums(NamedTuple):
    """What the moments are made of."""

    moments: per_example.MomentsState
    scatter: Any  # like the estimate: sum of squared distances to the mean, entry by entry


def _sums(estimator: Callable[[jax.Array], Any], keys: jax.Array) -> _Sums:
    """The sums over draws, in one pass (Welford)."""

    def step(sums: _Sums, key):
        state = sums.moments
        draw = trees.promote(estimator(key))
        count = state.count + 1
        shift = jax.tree.map(jnp.subtract, draw, state.mean)
        mean = trees.add(state.mean, shift, weight=1 / count)
        scatter = state.scatter + trees.dot(shift, shift) * (state.count / count)
        squares = jax.tree.map(lambda total, g: total + g**2, state.squares, draw)
        weight = state.count / count
        entries = jax.tree.map(lambda total, g: total + weight * g**2, sums.scatter, shift)
        return _Sums(per_example.MomentsState(count, mean, scatter, squares), entries), None

    shapes = jax.eval_shape(estimator, keys[0])
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    start = _Sums(per_example.init_moments(zeros, entrywise=True), trees.promote(zeros))
    return jax.lax.scan(step, start, keys)[0]


def _as_published(sums: _Sums, center: Any, num_draws: int) -> tuple[jax.Array, jax.Array]:
    """Trace and entrywise normalised variance about the mean of other draws."""

    def deviations(scatter, mean, center):
        # sum (g_t - e)^2 = sum (g_t - m)^2 + T (m - e)^2
        return scatter + num_draws * (mean - center) ** 2

    moments = sums.moments
    found = jax.tree.map(deviations, sums.scatter, moments.mean, center)
    ratios = jax.tree.map(
        lambda above, below: jnp.sum(above / (below + _PAPER_EPSILON)), found, moments.squares
    )
    size = trees.size(moments.mean)
    trace = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(found)) / num_draws
    return jnp.asarray(trace), jnp.asarray(sum(jax.tree.leaves(ratios)) / size)
