"""The plan that refreshes strata or scores, and returns to uniform draws where they do not pay."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust import clustering, sampling, trees
from jaxrobust.training._plans import (
    NEVER,
    Plan,
    Report,
    call_key,
    check_counts,
    check_schedule,
    is_uniform,
    next_call_from,
    scheduled,
    sketcher,
    some_rows,
    uniform_like,
    with_own_memory,
    with_sampler,
)
from jaxrobust.training._state import TrainState
from jaxrobust.training._steps import LossFn


def resample(
    loss_fn: LossFn,
    *,
    num_clusters: int | None = None,
    allocation: sampling.Allocation = "neyman",
    first: int = 100,
    every: int = 500,
    check_every: int | None = None,
    stale: float = 1.0,
    automatic: bool = True,
    plateau: float = 0.1,
    cost: float | None = None,
    num_probes: int = 512,
    max_passes: int = 3,
    dim: int = 256,
    batch_size: int = 128,
) -> Plan:
    r"""Strata by gradient clusters, or scores by gradient norms, refreshed as training goes on.

    Unbiased for the mean loss. A refresh sketches the gradients of all examples in one pass and
    clusters the sketches, from the last clusters on; without ``num_clusters`` it draws by the norms
    of the sketches. From the sketches follows the *ratio* of the variances of the new sampler and
    of uniform sampling.

    With ``automatic``, sampling is uniform unless the refresh pays. As long as the mean loss of
    ``num_probes`` random examples falls by more than a share ``plateau`` in ``every`` steps,
    training is limited by how far a step goes, not by noise, and less variance saves nothing. On a
    plateau it is noise that holds the loss up. With noise share
    :math:`\nu = \frac{\mathrm{tr}/B}{\mathrm{signal} + \mathrm{tr}/B}`, steps that are limited by
    noise take :math:`1+\frac{\mathrm{tr}}{B\,\mathrm{signal}}\cdot\mathrm{ratio}` times as many as
    without noise, so a ratio saves a share :math:`(1-\mathrm{ratio})\,\nu` of them. A refresh costs
    as much as :math:`cN/B` steps. Before one, the same examples tell :math:`\nu`, and if
    :math:`\nu\cdot\mathrm{every}\le cN/B` no ratio could pay and none is made. Sampling returns
    to uniform where the ratio is not below 1 or saves less than the refresh costs. Each time that
    nothing was gained the plan waits twice as long as before; so it does if the strata or scores
    of before would have done nearly as well, and the refresh saved less than it cost.

    Args:
      loss_fn: ``loss_fn(params, example) -> ()``, the loss of one example.
      num_clusters: K; None for scores instead of clusters.
      allocation: of the draws to clusters, as in :func:`sampling.stratified`.
      first: step of the first call.
      every: steps between refreshes; with ``automatic`` the least number of them.
      check_every: steps between looks at whether the strata or scores are stale; None for none.
        Then ``num_probes`` random examples tell the ratio of the variances that the sampler has
        now, and if it is above ``stale`` there is a refresh at once.
      stale: the ratio, relative to uniform sampling.
      automatic: whether to return to uniform sampling, and to spare refreshes that cannot pay.
      plateau: with ``automatic``, the largest fall of the loss in ``every`` steps, relative to the
        loss, at which training counts as limited by noise; 1 for always. For losses that are 0 or
        more.
      cost: c, what a refresh costs relative to a pass of training steps over the data. None to
        count operations: 1.25 for the sketches, and what :func:`clustering.fit` takes over the 6
        per example and parameter of a gradient: little for all but the smallest models.
      num_probes: examples that tell the noise share.
      max_passes: of :func:`clustering.fit`.
      dim: length of a sketch.
      batch_size: examples whose gradients are sketched at once.

    Returns:
      :class:`Plan`. Reports ``fall`` of the loss and ``noise_share``, of a refresh ``ratio``,
      ``ratio_before`` (that of the last strata or scores) and ``sampler``, and of a look
      ``ratio_now``.

    Raises:
      ValueError: for numbers out of range.

    Source:
      Steps under noise: McCandlish et al., arXiv:1812.06162; switching on where it pays:
      Katharopoulos and Fleuret, arXiv:1803.00942, whose rule counts examples, not the share of
      noise.
    """
    check_schedule(first, every)
    check_schedule(first, check_every)
    for name, value in (("cost", cost), ("stale", stale), ("plateau", plateau)):
        if value is not None and not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value}")
    check_counts(
        num_probes=num_probes, dim=dim, batch_size=batch_size, max_passes=max_passes,
        num_clusters=1 if num_clusters is None else num_clusters,
    )  # fmt: skip
    if allocation not in ("equal", "proportional", "neyman"):
        raise ValueError(
            f"allocation must be 'equal', 'proportional' or 'neyman', got {allocation!r}"
        )

    def call(state: TrainState, data: Any) -> tuple[TrainState, Report]:
        size, number = state.sampler.batch_size, state.sampler.num_examples
        of_pass = cost
        if of_pass is None:
            of_pass = _counted_cost(trees.size(state.params), num_clusters, dim, max_passes)
        price = of_pass * number / size / every  # of a refresh, relative to the steps it is for
        report: Report = {}
        noise = 1.0
        refresh = int(state.memory.get("next_refresh", first))
        # What another plan put in place of the strata or scores has no ratio: a refresh is due.
        has_ratio = isinstance(state.sampler, sampling.Sampler)
        is_look = int(state.step) < refresh and has_ratio
        if automatic and not is_look and plateau < 1 and is_uniform(state.sampler):
            # The most frequent look, and the cheapest: a forward pass of some examples.
            state, fall = _fall(loss_fn, state, data, num_probes, every)
            report |= {} if fall is None else {"fall": fall}
            if fall is None or fall > plateau:
                state = _looked(state, None, int(state.step) + every)
                return state, report | {"sampler": "uniform"}
        sketch_key, probe_key, fit_key = jax.random.split(call_key(state), 3)
        sketches = sketcher(loss_fn, state, sketch_key, dim, batch_size)
        rows = some_rows(probe_key, number, num_probes)
        if is_look:
            probes = sketches(trees.take(data, rows), rows)
            report["ratio_now"] = ratio = _ratio_of_some(probes, state.sampler, rows)
            if ratio <= stale:
                return _looked(state, check_every, refresh), report
        if automatic:
            probes = sketches(trees.take(data, rows), rows)
            report["noise_share"] = noise = float(_noise_share(probes, size))
            if noise <= price:
                return _uniform_for_longer(state, every), report | {"sampler": "uniform"}
        points = sketches(data)
        sampler, memory = _refreshed(points, state, num_clusters, allocation, max_passes, fit_key)
        report["ratio"] = ratio = _ratio(points, sampler)
        if automatic and (1 - ratio) * noise <= price:
            state = state._replace(memory=state.memory | memory)
            return _uniform_for_longer(state, every), report | {"sampler": "uniform"}
        wait = every
        if automatic and "wait" in state.memory and has_ratio and not is_uniform(state.sampler):
            report["ratio_before"] = before = _ratio(points, state.sampler)
            last = int(state.memory["wait"])
            wait = every if (before - ratio) * noise * last > price * every else 2 * last
            wait = min(wait, NEVER)
        kind = "importance" if num_clusters is None else "stratified"
        state = scheduled(state._replace(memory=state.memory | memory), wait)
        state = _looked(state, check_every, int(state.step) + wait)
        return with_sampler(state, sampler), report | {"sampler": kind}

    return with_own_memory("resample", Plan(next_call_from(first), call))


def _counted_cost(num_params: int, num_clusters: int | None, dim: int, max_passes: int) -> float:
    """Operations of a refresh over those of a pass of gradients."""
    # Seeding and the last assignment are as much as a pass each.
    fitting = 0 if num_clusters is None else 2 * num_clusters * dim * (max_passes + 2)
    return 1.25 + fitting / (6 * num_params)


def _refreshed(
    points: jax.Array,
    state: TrainState,
    num_clusters: int | None,
    allocation: sampling.Allocation,
    max_passes: int,
    key: jax.Array,
) -> tuple[sampling.Sampler, dict[str, jax.Array]]:
    """A sampler of the current gradients, and what the next refresh starts from."""
    size = state.sampler.batch_size
    if num_clusters is None:
        return sampling.importance(jnp.linalg.norm(points, axis=1), size), {}
    objective = "pairwise" if allocation == "equal" else "kmeans"
    clusters = clustering.fit(
        points,
        num_clusters,
        key=key,
        objective=objective,
        init=_last_clusters(state, num_clusters),
        max_passes=max_passes,
        tolerance=0.01,
    )
    sampler = sampling.stratified(
        clusters.assignments,
        size,
        allocation=allocation,
        spread=clusters.spreads if allocation == "neyman" else None,
        num_clusters=num_clusters,
    )
    return sampler, {"assignments": clusters.assignments}


def _last_clusters(state: TrainState, num_clusters: int) -> Any:
    """What clusters start from: the last ones, unless there were more of them."""
    last = state.memory.get("assignments")
    return "k-means++" if last is None or int(jnp.max(last)) >= num_clusters else last


def _ratio(points: jax.Array, sampler: sampling.Sampler) -> float:
    """Variance relative to uniform sampling, without replacement, in batches of the same size."""
    plain = sampling.uniform(sampler.num_examples, sampler.batch_size)
    ours, uniform = (float(sampling.variance(points, s)) for s in (sampler, plain))
    return ours / uniform if uniform > 0 else float(ours > 0)


def _ratio_of_some(points: jax.Array, sampler: sampling.Sampler, rows: jax.Array) -> float:
    """The same, estimated from the gradients of some of the examples.

    As if draws were independent: without replacement, a batch would be a large part of these few.
    What draws without replacement gain among all examples is put in afterwards.
    """
    few = dataclasses.replace(sampling.restrict(sampler, rows), replacement=True)
    plain = sampling.uniform(few.num_examples, few.batch_size, replacement=True)
    ours, uniform = (float(sampling.variance(points, s)) for s in (few, plain))
    if sampler.replacement:  # the uniform sampler that it is held against gains, it does not
        number, size = sampler.num_examples, min(sampler.batch_size, sampler.num_examples)
        uniform *= (number - size) / max(number - 1, 1)
    return ours / uniform if uniform > 0 else float(ours > 0)


def _looked(state: TrainState, check_every: int | None, refresh: int) -> TrainState:
    """With the next look, or the next refresh if that comes first."""
    refresh = min(refresh, NEVER)
    due = refresh if check_every is None else min(refresh, int(state.step) + check_every)
    memory = {"next_call": jnp.int32(due), "next_refresh": jnp.int32(refresh)}
    return state._replace(memory=state.memory | memory)


def _fall(
    loss_fn: LossFn, state: TrainState, data: Any, num_probes: int, every: int
) -> tuple[TrainState, float | None]:
    """How much the mean loss of some examples fell in so many steps, relative to what it was.

    The same examples at every look, so that it is not their choice that is seen. None at the first
    look.
    """
    loss = _mean_loss(loss_fn, state.params, data, state.key, num_probes)
    seen = {"probe_loss": loss, "probe_step": state.step}
    fall = None
    if "probe_loss" in state.memory:
        before, steps = float(state.memory["probe_loss"]), state.step - state.memory["probe_step"]
        fall = (before - float(loss)) / max(abs(before), 1e-30) * every / max(int(steps), 1)
    return state._replace(memory=state.memory | seen), fall


@functools.partial(jax.jit, static_argnums=(0, 4))
def _mean_loss(
    loss_fn: LossFn, params: Any, data: Any, key: jax.Array, num_probes: int
) -> jax.Array:
    """Of some examples; one program, for a look should cost little more than they do."""
    rows = some_rows(key, jax.tree.leaves(data)[0].shape[0], num_probes)
    losses = jax.vmap(loss_fn, (None, 0))(params, trees.take(data, rows))
    return jnp.mean(trees.promote(losses))


@jax.jit
def _noise_share(sketches: jax.Array, batch_size: int) -> jax.Array:
    """tr/B over signal + tr/B; 1 if no signal is seen."""
    number = sketches.shape[0]
    mean = jnp.mean(sketches, axis=0)
    trace = jnp.sum((sketches - mean[None, :]) ** 2) / (number - 1)
    signal = jnp.maximum(jnp.sum(mean**2) - trace / number, 0)
    noise = trace / batch_size
    return jnp.where(noise > 0, noise / jnp.where(noise > 0, signal + noise, 1), 0)


def _uniform_for_longer(state: TrainState, every: int) -> TrainState:
    """Uniform, and twice as long as the last time that nothing was gained."""
    was_uniform = is_uniform(state.sampler)
    wait = 2 * int(state.memory["wait"]) if was_uniform and "wait" in state.memory else every
    wait = min(wait, NEVER)
    state = _looked(scheduled(state, wait), None, int(state.step) + wait)
    return with_sampler(state, uniform_like(state.sampler))
