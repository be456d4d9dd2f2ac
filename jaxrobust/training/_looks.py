"""What a plan looks at before it acts: falls of the loss, noise, and ratios of variances.

And whether noise is what holds the loss up.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import clustering, per_example, sampling, trees
from jaxrobust.training._plans import some_of
from jaxrobust.training._state import TrainState
from jaxrobust.training._steps import LossFn

# Of the clusters that tell a ratio ahead.
PASSES_AHEAD, BLOCK_AHEAD = 2, 64


def fall(state: TrainState, every: int) -> tuple[TrainState, float | None]:
    """How much the mean training loss fell in so many steps, relative to what it was.

    Since the last look, as if it had fallen evenly; None at the first look, and for losses that are
    not above 0, of which no share says anything.
    """
    fallen = None
    if "seen_loss" in state.memory:
        before, now = float(state.memory["seen_loss"]), float(state.recent_loss)
        steps = max(int(state.step) - int(state.memory["seen_step"]), 1)
        fallen = (before - now) / before * every / steps if before > 0 else None  # not if NaN
    return seen(state), fallen


def seen(state: TrainState) -> TrainState:
    """With the step and the mean training loss as they are."""
    now = {"seen_loss": state.recent_loss, "seen_step": state.step}
    return state._replace(memory=state.memory | now)


ROUNDING = 1e-6  # of losses, relative to them
_BEFORE = "before/"  # the params of the last look, in the memory of a plan


def remembered(state: TrainState) -> TrainState:
    """With the params as they are, for :func:`params_before` at the next look."""
    leaves = {
        f"{_BEFORE}{number}": leaf for number, leaf in enumerate(jax.tree.leaves(state.params))
    }
    return state._replace(memory=state.memory | leaves)


def forgotten(state: TrainState) -> TrainState:
    """Without those params, and without what was seen with them."""
    memory = {
        name: value
        for name, value in state.memory.items()
        if not name.startswith((_BEFORE, "seen_"))
    }
    return state._replace(memory=memory)


def steps_since(state: TrainState) -> int:
    """Since the last look; 0 if there was none."""
    return int(state.step) - int(state.memory.get("seen_step", state.step))


def gain_between(
    loss_fn: LossFn, state: TrainState, last: TrainState, data: Any, *, number: int, batch_size: int
) -> tuple[float, float] | None:
    """How much lower the loss is in the middle between these params and those of the last look.

    The mean over so many random examples and its standard error, by the choice of these examples:
    0 if they are all there are. None without params of before, or with others.

    The noise of two looks that are far apart is about independent, so that its mean has half the
    variance: where noise holds the loss up it is lower in the middle. Where steps are too short to
    get further, it is higher than at the end. After the learning rate has fallen a lot the noise of
    the last look is in the middle, and hides what is left: the answer is no, and again at the next
    look.
    """
    before = params_before(last._replace(params=state.params))
    if before is None:
        return None
    chosen = _some_or_all(number, state, data)
    points = (state.params, middle(state.params, before))
    now, half = _losses(loss_fn, points, chosen, batch_size)
    return _mean_and_error(now - half, data)


@jax.jit
def middle(params: Any, others: Any) -> Any:
    """Halfway between both."""
    halfway = lambda a, b: ((trees.promote(a) + trees.promote(b)) / 2).astype(a.dtype)
    return jax.tree.map(halfway, params, others)


class NoiseAndProgress(NamedTuple):
    r"""What noise adds to the loss, and what it fell by, between two looks that are far apart.

    By the losses at the params of both and in the middle. Noise of both is independent, and has
    half the variance in the middle: :math:`f(\theta_1)+f(\theta_2)-2f(m)` is what noise adds, if
    f is about quadratic, and more by at most half of the progress
    :math:`f(\theta_1)-f(\theta_2)` where that is steady.
    """

    noise: float
    progress: float
    # What is surely left: the least of the noise, of the noise less the progress, and of the noise
    # less what is delayed of it, each less some standard errors by the choice of examples.
    margin: float


def noise_and_progress(
    loss_fn: LossFn, state: TrainState, before: Any, middle: Any, data: Any, *, delay: float,
    errors: float, number: int, batch_size: int,
) -> NoiseAndProgress:  # fmt: skip
    """Since the params before, over so many random examples, the same ones at all params."""
    points = (before, middle, state.params)
    chosen = _some_or_all(number, state, data)
    first, between, last = _losses(loss_fn, points, chosen, batch_size)
    noise, progress = first + last - 2 * between, first - last
    left = (_mean_and_error(noise - share * progress, data) for share in (0, 1, delay))
    margin = min(mean - errors * error for mean, error in left)
    # Losses are rounded, and where nothing moves they differ by that.
    margin -= ROUNDING * float(np.mean(np.abs(last)))
    return NoiseAndProgress(float(np.mean(noise)), float(np.mean(progress)), margin)


def _some_or_all(number: int, state: TrainState, data: Any) -> Any:
    """So many random examples; all of them as they are, for to draw them is to copy them."""
    if number >= len(jax.tree.leaves(data)[0]):
        return data
    return some_of(number, state.key, state.step, data)[0]


def _mean_and_error(values: np.ndarray, data: Any) -> tuple[float, float]:
    """Of random examples, drawn without replacement from all."""
    left = 1 - values.size / len(jax.tree.leaves(data)[0])
    error = np.std(values, ddof=1) * np.sqrt(left / values.size) if left else 0.0
    return float(np.mean(values)), float(error)


def mean_loss(loss_fn: LossFn, params: Any, data: Any, batch_size: int) -> float:
    """Of all examples."""
    return float(np.mean(_losses(loss_fn, (params,), data, batch_size)))


def _losses(
    loss_fn: LossFn, points: tuple[Any, ...], data: Any, batch_size: int
) -> list[np.ndarray]:
    """Of all examples at several params, ``(N,)`` float64: for small differences of their means."""
    number = len(jax.tree.leaves(data)[0])
    is_slow = per_example.slow_in_loops(loss_fn)(points[0], data)
    program = _losses_in_pieces if is_slow else _losses_in_a_loop
    found = program(loss_fn, min(batch_size, number), points, data)
    return [np.asarray(one, np.float64).reshape(-1)[:number] for one in found]


# One program for all params: a call takes longer than a batch.
def _losses_of_batches(
    loss_fn: LossFn, size: int, points: tuple[Any, ...], data: Any
) -> list[jax.Array]:
    number = len(jax.tree.leaves(data)[0])

    def step(_, start):
        # The last batch is filled up with copies of the last example.
        rows = jnp.minimum(start + jnp.arange(size), number - 1)
        batch = trees.bring_together(trees.take(data, rows))
        return None, [trees.promote(jax.vmap(loss_fn, (None, 0))(p, batch)) for p in points]

    return jax.lax.scan(step, None, jnp.arange(0, number, size, dtype=jnp.int32))[1]


_losses_in_a_loop = jax.jit(_losses_of_batches, static_argnums=(0, 1))
_losses_in_pieces = trees.compiled(_losses_of_batches, num_static=2)


def params_before(state: TrainState) -> Any | None:
    """Those of the last look; None if there was none, or with others."""
    leaves, structure = jax.tree.flatten(state.params)
    kept = [state.memory.get(f"{_BEFORE}{number}") for number in range(len(leaves))]
    if any(old is None or old.shape != new.shape for old, new in zip(kept, leaves, strict=True)):
        return None
    return structure.unflatten(kept)


@jax.jit
def noise_share(sketches: jax.Array, batch_size: int) -> jax.Array:
    """tr/B over signal + tr/B; 1 if no signal is seen."""
    number = sketches.shape[0]
    mean = jnp.mean(sketches, axis=0)
    trace = jnp.sum((sketches - mean[None, :]) ** 2) / (number - 1)
    signal = jnp.maximum(jnp.sum(mean**2) - trace / number, 0)
    noise = trace / batch_size
    return jnp.where(noise > 0, noise / jnp.where(noise > 0, signal + noise, 1), 0)


def ratio(points: jax.Array, sampler: sampling.Sampler) -> float:
    """Variance relative to uniform sampling, without replacement, in batches of the same size."""
    plain = sampling.uniform(sampler.num_examples, sampler.batch_size)
    ours, uniform = (float(sampling.variance(points, s)) for s in (sampler, plain))
    return _over(ours, uniform)


def ratio_of_some(points: jax.Array, sampler: sampling.Sampler, rows: jax.Array) -> float:
    """The same, estimated from the gradients of some of the examples.

    As if draws were independent: without replacement, a batch would be a large part of these few.
    What draws without replacement gain among all examples is put in afterwards. Strata of which
    there is but one look as if they had no variance.
    """
    few = dataclasses.replace(sampling.restrict(sampler, rows), replacement=True)
    plain = sampling.uniform(few.num_examples, few.batch_size, replacement=True)
    uniform = float(sampling.variance(points, plain))
    uniform *= float(_correction(jnp.asarray(len(points)), jnp.asarray(sampler.num_examples)))
    ours = float(sampling.variance(_as_of_all(points, few, sampler.sizes), few))
    # If the sampler does not gain by it, the uniform one that it is held against still does.
    return _over(ours, _without_replacement(uniform, sampler) if sampler.replacement else uniform)


def _correction(number: jax.Array, of: jax.Array) -> jax.Array:
    """The mean square distance to the mean of all, over that of so many of them to their own mean.

    Where there is one of several it says nothing, and stays 0.
    """
    of = jnp.maximum(of, 1)
    return jnp.where(number > 1, number / jnp.maximum(number - 1, 1) * (of - 1) / of, 1)


@jax.jit
def _as_of_all(points: jax.Array, few: sampling.Sampler, sizes: jax.Array) -> jax.Array:
    """With the deviations from the means of strata as they are in the whole ones, on average."""
    if few.running is not None:  # draws by score are independent: no mean is left out
        return points
    ends = jnp.cumsum(few.sizes)
    of_places = jnp.searchsorted(ends, jnp.arange(len(points)), side="right")
    strata = jnp.zeros(len(points), of_places.dtype).at[few.members].set(of_places)
    sums = jnp.zeros((sizes.size, points.shape[1]), points.dtype).at[strata].add(points)
    means = (sums / jnp.maximum(few.sizes, 1)[:, None])[strata]
    factor = jnp.sqrt(_correction(few.sizes, sizes))[strata]
    return means + factor[:, None] * (points - means)


def _without_replacement(variance: float, like: sampling.Sampler) -> float:
    """Of uniform draws in passes over all examples, from that of independent ones."""
    number, size = like.num_examples, min(like.batch_size, like.num_examples)
    return variance * (number - size) / max(number - 1, 1)


def _over(ours: float, uniform: float) -> float:
    # Where uniform draws have no variance others are no better: 1, or worse.
    return ours / uniform if uniform > 0 else math.inf if ours > 0 else 1.0


def ratio_of_scores(points: jax.Array, scores: jax.Array, like: sampling.Sampler) -> float:
    """The same for scores of some of the examples, instead of the sampler ``like`` of all."""
    ours = sampling.importance(scores, like.batch_size)
    plain = sampling.uniform(points.shape[0], like.batch_size, replacement=True)
    uniform = _without_replacement(float(sampling.variance(points, plain)), like)
    return _over(float(sampling.variance(points, ours)), uniform)


def ratio_ahead(
    points: jax.Array,
    num_clusters: int,
    allocation: sampling.Allocation,
    size: int,
    *,
    key: jax.Array,
) -> float:
    """About the ratio that clusters of all examples would have, from the gradients of some.

    Clusters of one half, and how far from their centers the other half is; the worse of both ways
    round, for where few gradients are most of the variance one half may have none of them. Few
    points are always close to centers that were fitted to them; others are not. As if draws were
    independent.
    """
    return float(_ratio_ahead(points, num_clusters, allocation, size, key))


# One program, for the many small ones that it is made of would take longer to call than to run.
@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _ratio_ahead(
    points: jax.Array, num_clusters: int, allocation: sampling.Allocation, size: int, key: jax.Array
) -> jax.Array:
    half = points.shape[0] // 2
    ways = ((points[:half], points[half:]), (points[half:], points[:half]))
    found = [_ratio_of_others(*way, num_clusters, allocation, size, key) for way in ways]
    return jnp.maximum(*found)


def _ratio_of_others(
    points: jax.Array,
    others: jax.Array,
    num_clusters: int,
    allocation: sampling.Allocation,
    size: int,
    key: jax.Array,
) -> jax.Array:
    """Of the others, with clusters of the points."""
    objective = objective_of(allocation)
    # From random seeds and in large blocks: what is cheap is good enough here.
    clusters = clustering.fit(
        points, num_clusters, key=key, objective=objective, tolerance=0.01,
        init=_closest(points, num_clusters), max_passes=PASSES_AHEAD,
        block_size=min(BLOCK_AHEAD, points.shape[0]),
    )  # fmt: skip
    strata = clustering.assign(clusters, others, objective=objective)
    off = others - clusters.centers[strata]
    # Points on both sides of the centers have these for their means.
    mirrored = jnp.concatenate([others, others - 2 * off])
    strata = jnp.concatenate([strata, strata])
    squared = jnp.concatenate([jnp.sum(off**2, axis=1)] * 2)
    spread = jnp.zeros(num_clusters, squared.dtype).at[strata].add(squared)
    sampler = sampling.stratified(
        strata, size, allocation=allocation, num_clusters=num_clusters, replacement=True,
        spread=spread if allocation == "neyman" else None,
    )  # fmt: skip
    plain = sampling.uniform(others.shape[0], size, replacement=True)
    ours, uniform = sampling.variance(mirrored, sampler), sampling.variance(others, plain)
    nothing = jnp.where(ours > 0, jnp.inf, 1.0)  # as `_over`
    return jnp.where(uniform > 0, ours / jnp.where(uniform > 0, uniform, 1), nothing)


@functools.partial(jax.jit, static_argnums=1)
def _closest(points: jax.Array, number: int) -> jax.Array:
    """Which of the first points each is closest to, up to rounding."""
    seeds = points[:number]
    products = jnp.matmul(points, seeds.T)
    return jnp.argmin(jnp.sum(seeds**2, axis=1)[None, :] - 2 * products, axis=1).astype(jnp.int32)


def objective_of(allocation: sampling.Allocation) -> clustering.Objective:
    """What is least for the strata that draws are so allocated to."""
    return "pairwise" if allocation == "equal" else "kmeans"
