"""What a plan looks at before it acts: falls of the loss, noise, and ratios of variances."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust import clustering, sampling, trees
from jaxrobust.training._plans import some_rows
from jaxrobust.training._state import TrainState
from jaxrobust.training._steps import LossFn


def fall(
    loss_fn: LossFn, state: TrainState, data: Any, num_probes: int, every: int
) -> tuple[TrainState, float | None]:
    """How much the mean loss of some examples fell in so many steps, relative to what it was.

    The same examples at every look, so that it is not their choice that is seen. None at the first
    look.
    """
    loss = _mean_loss(loss_fn, state.params, data, state.key, num_probes)
    seen = {"probe_loss": loss, "probe_step": state.step}
    fallen = None
    if "probe_loss" in state.memory:
        before, steps = float(state.memory["probe_loss"]), state.step - state.memory["probe_step"]
        fallen = (before - float(loss)) / max(abs(before), 1e-30) * every / max(int(steps), 1)
    return state._replace(memory=state.memory | seen), fallen


@functools.partial(jax.jit, static_argnums=(0, 4))
def _mean_loss(
    loss_fn: LossFn, params: Any, data: Any, key: jax.Array, num_probes: int
) -> jax.Array:
    """Of some examples; one program, for a look should cost little more than they do."""
    rows = some_rows(key, jax.tree.leaves(data)[0].shape[0], num_probes)
    losses = jax.vmap(loss_fn, (None, 0))(params, trees.take(data, rows))
    return jnp.mean(trees.promote(losses))


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
    What draws without replacement gain among all examples is put in afterwards.
    """
    few = dataclasses.replace(sampling.restrict(sampler, rows), replacement=True)
    plain = sampling.uniform(few.num_examples, few.batch_size, replacement=True)
    ours, uniform = (float(sampling.variance(points, s)) for s in (few, plain))
    # If the sampler does not gain by it, the uniform one that it is held against still does.
    return _over(ours, _without_replacement(uniform, sampler) if sampler.replacement else uniform)


def _without_replacement(variance: float, like: sampling.Sampler) -> float:
    """Of uniform draws in passes over all examples, from that of independent ones."""
    number, size = like.num_examples, min(like.batch_size, like.num_examples)
    return variance * (number - size) / max(number - 1, 1)


def _over(ours: float, uniform: float) -> float:
    return ours / uniform if uniform > 0 else float(ours > 0)


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
    max_passes: int,
) -> float:
    """About the ratio that clusters of all examples would have, from the gradients of some.

    Clusters of one half, and how far from their centers the other half is. Few points are always
    close to centers that were fitted to them; others are not. As if draws were independent.
    """
    half = points.shape[0] // 2
    objective = objective_of(allocation)
    clusters = clustering.fit(
        points[:half], num_clusters, key=key, objective=objective, max_passes=max_passes,
        tolerance=0.01,
    )  # fmt: skip
    others = points[half:]
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
    uniform = float(sampling.variance(others, plain))
    return _over(float(sampling.variance(mirrored, sampler)), uniform)


def objective_of(allocation: sampling.Allocation) -> clustering.Objective:
    """What is least for the strata that draws are so allocated to."""
    return "pairwise" if allocation == "equal" else "kmeans"
