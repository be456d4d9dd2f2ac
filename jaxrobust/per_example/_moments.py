"""Moments of the distribution of per-example gradients, over any number of batches."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import trees
from jaxrobust.per_example import _algebra
from jaxrobust.per_example._backward import Pass, factors_of, map_chunks, recorded
from jaxrobust.per_example._batching import reduce_examples
from jaxrobust.per_example._norms import (
    aux_of,
    run_with_mean,
    sum_of_groups,
    total,
)
from jaxrobust.per_example._trace import LossFn, Traced, trace


class MomentsState(NamedTuple):
    """What has been summed up so far; see :func:`update_moments`."""

    count: jax.Array  # () float: examples seen
    mean: Any  # like the params, float32 at least: mean gradient
    scatter: jax.Array  # (): sum over examples of ||g_i - mean||^2
    squares: Any  # like the params: sum over examples of g_i^2, entry by entry; None if not kept


class Moments(NamedTuple):
    """Moments of the gradients of single examples (batch size 1)."""

    count: jax.Array  # () float: examples seen, n
    mean: Any  # like the params: mean gradient
    trace: jax.Array  # (): of the covariance, unbiased: sum ||g_i - mean||^2 / (n - 1)
    signal: jax.Array  # (): squared norm of the true mean, unbiased: ||mean||^2 - trace/n
    noise_scale: jax.Array  # (): trace / signal, infinite where signal is not positive
    average_variance: jax.Array  # (): trace / number of entries
    normalized_variance: jax.Array  # (): trace / (trace + signal), in [0, 1]
    # (): mean over entries of variance / second moment; None if squares are not kept
    entrywise_normalized_variance: jax.Array | None
    dead_entries: jax.Array | None  # (): share of entries whose gradients were 0 up to rounding


def moments(
    loss_fn: LossFn, *, entrywise: bool = False, has_aux: bool = False
) -> Callable[[Any, Any], Any]:
    r"""Mean gradient, noise and signal of one batch; see :func:`summarize_moments`.

    Args:
      loss_fn: ``loss_fn(params, example) -> ()``, the loss of one example.
      entrywise: whether the variance of every entry is wanted as well; it takes as much time again
        as the mean gradient, and memory for one more tree like the params.
      has_aux: whether ``loss_fn`` returns ``(loss, aux)``.

    Returns:
      A function of ``(params, batch)`` that returns :class:`Moments`; with ``has_aux``,
      ``(moments, aux)``, the leaves of ``aux`` with a leading axis B. Inside of
      ``jax.shard_map`` they are those of the examples of the device.

    Raises:
      ValueError, TypeError: at the call, as :func:`norms`.
    """
    update = update_moments(loss_fn, has_aux=has_aux)

    def moments_of(params: Any, batch: Any) -> Any:
        updated = update(init_moments(params, entrywise=entrywise), params, batch)
        if not has_aux:
            return summarize_moments(updated)
        state, aux = updated
        return summarize_moments(state), aux

    return moments_of


def init_moments(params: Any, *, entrywise: bool = False) -> MomentsState:
    """The state before the first batch, for params of these shapes."""
    trees.check_floating("params", params)
    zeros = jax.tree.map(jnp.zeros_like, trees.promote(params))
    dtype = jnp.result_type(*jax.tree.leaves(zeros))
    zero = jnp.zeros((), dtype)
    return MomentsState(zero, zeros, zero, zeros if entrywise else None)


def update_moments(
    loss_fn: LossFn, *, has_aux: bool = False
) -> Callable[[MomentsState, Any, Any], Any]:
    """Takes one more batch into account, at the same params; one backward pass.

    Args:
      loss_fn: ``loss_fn(params, example) -> ()``, the loss of one example.
      has_aux: whether ``loss_fn`` returns ``(loss, aux)``.

    Returns:
      A pure function of ``(state, params, batch)`` that returns the new state, or with ``has_aux``
      ``(state, aux)``; for use inside ``lax.scan``. Batches may differ
      in size; the order does not matter up to rounding. The scatter within a batch is
      ``sum ||g_i||^2 - B ||mean||^2``, so where the signal exceeds the noise by a factor f it loses
      ``log10(f)`` of its digits.

    Raises:
      ValueError, TypeError: at the call, as :func:`norms`.
    """

    def update(state: MomentsState, params: Any, batch: Any) -> Any:
        traced = trace(loss_fn, params, batch, has_aux=has_aux)
        # A mean rounded to 8 bits would leave nothing of a variance below 1/256 of its square.
        done, squared, mean = run_with_mean(traced, precisely=True)
        size = jnp.asarray(traced.batch_size, state.count.dtype)
        scatter = jnp.sum(total(squared)) - size * trees.dot(mean, mean)
        # Two groups with means apart by `shift` (Chan, Golub and LeVeque).
        shift = jax.tree.map(jnp.subtract, mean, state.mean)
        count = state.count + size
        between = trees.dot(shift, shift) * (state.count * size / count)
        squares = state.squares
        if squares is not None:
            squares = jax.tree.map(jnp.add, squares, _sum_of_squares(traced, done))
        updated = MomentsState(
            count,
            trees.add(state.mean, shift, weight=size / count),
            state.scatter + jnp.maximum(scatter, 0) + between,
            squares,
        )
        # The loss may compute in wider dtypes than the params are of; a loop keeps its state's.
        updated = trees.cast_like(updated, state)
        return (updated, aux_of(traced, done)) if has_aux else updated

    return update


def summarize_moments(state: MomentsState) -> Moments:
    r"""What the sums say about the distribution of the gradient of one example.

    With n examples, mean :math:`\bar g` and d entries:

    .. math::

       \mathrm{trace} = \tfrac{1}{n-1}\sum_i\|g_i-\bar g\|^2, \qquad
       \mathrm{signal} = \|\bar g\|^2 - \mathrm{trace}/n, \qquad
       \mathrm{noise\ scale} = \mathrm{trace}/\mathrm{signal}.

    Both are unbiased for examples drawn independently. The variance of a mini-batch gradient of
    size B is ``trace / B``, and the noise scale the batch size at which signal and noise are equal.

    Args:
      state: sums over at least 2 examples; with one the trace is NaN.

    Returns:
      :class:`Moments`. ``normalized_variance`` is 1 where the signal is not positive. Entries
      whose gradients are zero up to rounding (root mean square at most 16 eps times the largest
      of an entry) are left out of ``entrywise_normalized_variance``, which is in
      ``[0, n/(n-1)]`` and so ends a little above 1 for pure noise. With one example all but
      ``count``, ``mean`` and ``dead_entries`` is NaN.

    Source:
      Faghri et al., arXiv:2007.04532, for average and normalised variance (their estimators are
      biased and use an absolute epsilon; these do not); McCandlish et al., arXiv:1812.06162, for
      the (simple) noise scale.
    """
    several = state.count > 1
    variance = jnp.where(several, state.scatter / jnp.where(several, state.count - 1, 1), jnp.nan)
    mean_square = trees.dot(state.mean, state.mean)
    signal = mean_square - variance / state.count
    positive = signal > 0
    safe = jnp.where(positive, signal, 1)
    everything = variance + jnp.maximum(signal, 0)
    entrywise, dead = _entrywise(state) if state.squares is not None else (None, None)
    return Moments(
        count=state.count,
        mean=state.mean,
        trace=variance,
        signal=signal,
        noise_scale=jnp.where(positive | ~several, variance / safe, jnp.inf),
        average_variance=variance / trees.size(state.mean),
        normalized_variance=variance / jnp.where(everything > 0, everything, 1),
        entrywise_normalized_variance=entrywise,
        dead_entries=dead,
    )


def _entrywise(state: MomentsState) -> tuple[jax.Array, jax.Array]:
    """Mean over the live entries of variance over second moment, and the share of dead ones."""
    largest = functools.reduce(jnp.maximum, map(jnp.max, jax.tree.leaves(state.squares)))
    floor = largest * (16 * jnp.finfo(largest.dtype).eps) ** 2
    ratios, dead = [], []
    for mean, squares in zip(
        jax.tree.leaves(state.mean), jax.tree.leaves(state.squares), strict=True
    ):
        live = squares > floor
        second = jnp.where(live, squares / state.count, 1)
        spread = jnp.maximum(second - mean**2, 0) * state.count / (state.count - 1)
        ratios.append(jnp.sum(jnp.where(live, spread / second, 0)))
        dead.append(jnp.sum(~live))
    size = trees.size(state.mean)
    num_dead = jnp.sum(jnp.stack(dead))
    mean_ratio = sum(ratios) / jnp.maximum(size - num_dead, 1)
    # One example divides by its count less 1: 0/0, or by rounding a little/0.
    return jnp.where(state.count > 1, mean_ratio, jnp.nan), num_dead / size


def _sum_of_squares(traced: Traced, done: Pass) -> Any:
    """Sum over the batch of the squares of all entries of the gradients, like the params."""
    found: dict[int, jax.Array] = {}
    plan = traced.plan
    for leaf in plan.leaves_by("unused"):
        found[leaf] = jnp.zeros_like(trees.promote(traced.leaves[leaf]))
    for leaf in plan.leaves_by("expand"):
        found[leaf] = jnp.sum(trees.promote(done.expanded[leaf]) ** 2, axis=0)
    for leaf in plan.leaves_by("factors", "instantiate"):
        found[leaf] = _squares_of_leaf(traced, done, leaf)
    if plan.leaves_by("chunks"):
        squares = map_chunks(
            traced, lambda grads: {i: trees.promote(g) ** 2 for i, g in grads.items()}, summed=True
        )
        found.update(squares)
    return traced.params_structure.unflatten([found[i] for i in range(len(traced.leaves))])


def _squares_of_leaf(traced: Traced, done: Pass, leaf: int) -> jax.Array:
    plan = traced.plan.leaves[leaf]

    def one(inputs, cotangents):
        factors = factors_of(traced, leaf, inputs, cotangents)
        gradients = [_algebra.instantiate(group) for group in factors]
        return sum_of_groups(traced, leaf, gradients) ** 2, ()

    found = recorded(traced, done, leaf)
    if sum(map(len, plan.groups)) > 1 or plan.num_positions != 1:
        return reduce_examples(one, *found, matrices=plan.num_positions > 1)[0]

    # (a_i d_o)^2 = a_i^2 d_o^2: one matrix product for the whole batch.
    def squared(inputs, cotangents):
        ((use,),) = factors_of(traced, leaf, inputs, cotangents)
        return trees.promote(use.rows())[:, 0] ** 2, trees.promote(use.d)[:, 0] ** 2

    def summed(found, _):
        a, d = jax.vmap(squared)(*found)
        return jnp.einsum("bgi,bgo->gio", a, d, precision=jax.lax.Precision.HIGHEST), ()

    product, _ = trees.on_each_device(summed, found, None)
    return sum_of_groups(traced, leaf, [product])
