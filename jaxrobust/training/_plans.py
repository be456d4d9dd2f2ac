"""Plans: when and how training changes the way it samples."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import clustering, sampling, trees
from jaxrobust.training._copies import copy_tolerance
from jaxrobust.training._state import TrainState
from jaxrobust.training._steps import LossFn

# What a call of a plan reports, for the log.
Report = dict[str, float | int | str]


class Plan(NamedTuple):
    """A way to sample that follows training; see :func:`remove_redundancy` and :func:`resample`.

    Both functions depend on the state alone, so that a resumed run does what the first would have
    done. The state of a plan is in ``state.memory``, a dict of arrays, under names of its own: a
    run that goes on with a plan of another kind leaves that of the first alone.
    """

    # From the state to the step of the next call, or None if there is none to come.
    next_call: Callable[[TrainState], int | None]
    # (state, data) -> the state with another sampler or memory, and a report.
    call: Callable[[TrainState, Any], tuple[TrainState, Report]]


def remove_redundancy(
    loss_fn: LossFn,
    *,
    tolerance: float | None = None,
    first: int = 0,
    every: int | None = None,
    num_probes: int = 1000,
    least: float = 0.05,
    dim: int = 256,
    batch_size: int = 128,
) -> Plan:
    r"""Finds groups of near-duplicates by their gradients, and lets each group count once.

    **This changes the objective**, from the mean loss over examples to that over groups: see
    :func:`sampling.redundancy_removed`. Two examples are near-duplicates if the cosine distance of
    the sketches of their gradients is at most the tolerance; one whose gradient is zero has no
    copies. By default the tolerance is found from the data: in the spanning tree of ``num_probes``
    random examples, edges between copies are much shorter than the others, and it is put into that
    gap; without a gap nothing is redundant. If less than a share ``least`` of the probes is
    redundant the call goes no further, which costs next to nothing. So copies are found if two of
    them are likely among the probes: in groups of r they must be a share of about
    ``least * N / (num_probes * r)`` of the data, or more. Otherwise all examples are sketched, in
    one pass, and grouped: first large groups, and if at least a share ``least`` of others of those
    that are left is redundant, all groups.

    Args:
      loss_fn: ``loss_fn(params, example) -> ()``, the loss of one example.
      tolerance: cosine distance, in [0, 2]; None to find it from the data. In the beginning of
        training, copies of an MNIST image with pixel noise 0.02 are at about 0.05 of each other,
        different images seldom below 0.1.
      first: step of the first call. Gradients are most telling early: after some hundred steps
        those of copies are small and their directions mostly noise.
      every: steps between calls; None for a single call.
      num_probes: examples that are looked at first, and among which groups are sought.
      least: least share of the probes that must be redundant.
      dim: length of a sketch.
      batch_size: examples whose gradients are sketched at once.

    Returns:
      :class:`Plan`. Reports ``redundancy``, the share of examples that another stands for,
      ``tolerance``, and ``num_groups`` if all were looked at.

    Raises:
      ValueError: for numbers out of range.
    """
    if tolerance is not None and not 0 <= tolerance <= 2:
        raise ValueError(f"tolerance must be in [0, 2], got {tolerance}")
    if not 0 <= least <= 1:
        raise ValueError(f"least must be in [0, 1], got {least}")
    check_schedule(first, every)
    _check_counts(num_probes=num_probes, dim=dim, batch_size=batch_size)

    def call(state: TrainState, data: Any) -> tuple[TrainState, Report]:
        sketch_key, probe_key, group_key = jax.random.split(_call_key(state), 3)
        sketches = _sketcher(loss_fn, state, sketch_key, dim, batch_size)
        rows = _some_rows(probe_key, state.sampler.num_examples, num_probes)
        probes = _with_directions(group_key, sketches(_at(data, rows), rows))
        limit = copy_tolerance(probes) if tolerance is None else jnp.float32(tolerance)
        near: dict[str, Any] = {"tolerance": limit, "metric": "cosine"}
        state = scheduled(state, every)
        redundancy = 0.0
        if tolerance is not None or float(limit) > 0:
            found = int(clustering.duplicates(probes, **near).num_groups)
            redundancy = 1 - found / probes.shape[0]
        if redundancy < least:
            state = _with_sampler(state, _uniform_like(state.sampler))
            return state, {"redundancy": redundancy, "tolerance": float(limit)}
        points = _with_directions(group_key, sketches(data))
        among = {"num_probes": num_probes, "key": group_key}
        groups = clustering.duplicates(points, **near, **among)
        # Groups of which no two were among the probes are not found yet. Others of the points that
        # are still alone tell whether there are any.
        others = _some_of(group_key, points, groups.counts == 1, max(4, num_probes // 2))
        if int(clustering.duplicates(others, **near).num_groups) <= (1 - least) * len(others):
            groups = clustering.duplicates(points, **near, **among, rest=True)
        number = int(groups.num_groups)
        sampler = sampling.redundancy_removed(groups, state.sampler.batch_size)
        redundancy = 1 - number / state.sampler.num_examples
        report: Report = {"redundancy": redundancy, "tolerance": float(limit), "num_groups": number}
        return _with_sampler(state, sampler), report

    return with_own_memory("redundancy", Plan(next_call_from(first), call))


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
    cost: float = 1.5,
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
    nothing was gained the plan waits twice as long as before.

    Args:
      loss_fn: ``loss_fn(params, example) -> ()``, the loss of one example.
      num_clusters: K; None for scores instead of clusters.
      allocation: of the draws to clusters, as in :func:`sampling.stratified`.
      first: step of the first call.
      every: steps between refreshes.
      check_every: steps between looks at whether the strata or scores are stale; None for none.
        Then ``num_probes`` random examples tell the ratio of the variances that the sampler has
        now, and if it is above ``stale`` there is a refresh at once.
      stale: the ratio, relative to uniform sampling.
      automatic: whether to return to uniform sampling, and to spare refreshes that cannot pay.
      plateau: with ``automatic``, the largest fall of the loss in ``every`` steps, relative to the
        loss, at which training counts as limited by noise; 1 for always. For losses that are 0 or
        more.
      cost: c, what a refresh costs relative to a pass of training steps over the data.
      num_probes: examples that tell the noise share.
      max_passes: of :func:`clustering.fit`.
      dim: length of a sketch.
      batch_size: examples whose gradients are sketched at once.

    Returns:
      :class:`Plan`. Reports ``fall`` of the loss and ``noise_share``, of a refresh ``ratio`` and
      ``sampler``, and of a look ``ratio_now``.

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
        if not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value}")
    _check_counts(
        num_probes=num_probes, dim=dim, batch_size=batch_size, max_passes=max_passes,
        num_clusters=1 if num_clusters is None else num_clusters,
    )  # fmt: skip
    if allocation not in ("equal", "proportional", "neyman"):
        raise ValueError(
            f"allocation must be 'equal', 'proportional' or 'neyman', got {allocation!r}"
        )

    def call(state: TrainState, data: Any) -> tuple[TrainState, Report]:
        sketch_key, probe_key, fit_key = jax.random.split(_call_key(state), 3)
        sketches = _sketcher(loss_fn, state, sketch_key, dim, batch_size)
        size, number = state.sampler.batch_size, state.sampler.num_examples
        price = cost * number / size / every  # of a refresh, relative to the steps it is for
        report: Report = {}
        noise = 1.0
        rows = _some_rows(probe_key, number, num_probes)
        refresh = int(state.memory.get("next_refresh", first))
        if int(state.step) < refresh:
            probes = sketches(_at(data, rows), rows)
            report["ratio_now"] = ratio = _ratio_of_some(probes, state.sampler, rows)
            if ratio <= stale:
                return _looked(state, check_every, refresh), report
        if automatic:
            if plateau < 1 and _is_uniform(state.sampler):
                state, fall = _fall(loss_fn, state, data, num_probes, every)
                report |= {} if fall is None else {"fall": fall}
                if fall is None or fall > plateau:
                    state = _looked(state, None, int(state.step) + every)
                    return state, report | {"sampler": "uniform"}
            probes = sketches(_at(data, rows), rows)
            report["noise_share"] = noise = float(_noise_share(probes, size))
            if noise <= price:
                return _uniform_for_longer(state, every), report | {"sampler": "uniform"}
        points = sketches(data)
        sampler, memory = _refreshed(points, state, num_clusters, allocation, max_passes, fit_key)
        report["ratio"] = ratio = _ratio(points, sampler)
        if automatic and (1 - ratio) * noise <= price:
            state = state._replace(memory=state.memory | memory)
            return _uniform_for_longer(state, every), report | {"sampler": "uniform"}
        kind = "importance" if num_clusters is None else "stratified"
        state = scheduled(state._replace(memory=state.memory | memory), every)
        state = _looked(state, check_every, int(state.step) + every)
        return _with_sampler(state, sampler), report | {"sampler": kind}

    return with_own_memory("resample", Plan(next_call_from(first), call))


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
    rows = _some_rows(state.key, state.sampler.num_examples, num_probes)
    loss = _mean_loss(loss_fn, state.params, _at(data, rows))
    seen = {"probe_loss": loss, "probe_step": state.step}
    fall = None
    if "probe_loss" in state.memory:
        before, steps = float(state.memory["probe_loss"]), state.step - state.memory["probe_step"]
        fall = (before - float(loss)) / max(abs(before), 1e-30) * every / max(int(steps), 1)
    return state._replace(memory=state.memory | seen), fall


@functools.partial(jax.jit, static_argnums=0)
def _mean_loss(loss_fn: LossFn, params: Any, examples: Any) -> jax.Array:
    return jnp.mean(trees.promote(jax.vmap(loss_fn, (None, 0))(params, examples)))


@jax.jit
def _noise_share(sketches: jax.Array, batch_size: int) -> jax.Array:
    """tr/B over signal + tr/B; 1 if no signal is seen."""
    number = sketches.shape[0]
    mean = jnp.mean(sketches, axis=0)
    trace = jnp.sum((sketches - mean[None, :]) ** 2) / (number - 1)
    signal = jnp.maximum(jnp.sum(mean**2) - trace / number, 0)
    noise = trace / batch_size
    return jnp.where(noise > 0, noise / jnp.where(noise > 0, signal + noise, 1), 0)


# Schedules ----------------------------------------------------------------------------------------


def with_own_memory(name: str, plan: Plan) -> Plan:
    """The plan with a part of the memory to itself, of names that begin with ``name/``."""

    def next_call(state: TrainState) -> int | None:
        return plan.next_call(state._replace(memory=own_memory(name, state)))

    def call(state: TrainState, data: Any) -> tuple[TrainState, Report]:
        after, report = plan.call(state._replace(memory=own_memory(name, state)), data)
        others = {key: v for key, v in state.memory.items() if not key.startswith(f"{name}/")}
        own = {f"{name}/{key}": value for key, value in after.memory.items()}
        return after._replace(memory=others | own), report

    return Plan(next_call, call)


def own_memory(name: str, state: TrainState) -> dict[str, jax.Array]:
    """The part of the memory of one kind of plan, by short names."""
    prefix = f"{name}/"
    return {k[len(prefix) :]: v for k, v in state.memory.items() if k.startswith(prefix)}


def next_call_from(first: int) -> Callable[[TrainState], int | None]:
    """A plan's ``next_call``: what its memory says, or ``first`` before the first call."""

    def next_call(state: TrainState) -> int | None:
        step = int(state.memory.get("next_call", first))
        return None if step < 0 else step

    return next_call


def scheduled(state: TrainState, wait: int | None) -> TrainState:
    """With the next call so many steps from now, or none."""
    step = -1 if wait is None else int(state.step) + wait
    memory = {"next_call": jnp.int32(step), "wait": jnp.int32(0 if wait is None else wait)}
    return state._replace(memory=state.memory | memory)


def _uniform_for_longer(state: TrainState, every: int) -> TrainState:
    """Uniform, and twice as long as the last time that nothing was gained."""
    was_uniform = isinstance(state.sampler, sampling.Sampler) and _is_uniform(state.sampler)
    wait = 2 * int(state.memory["wait"]) if was_uniform and "wait" in state.memory else every
    state = _looked(scheduled(state, wait), None, int(state.step) + wait)
    return _with_sampler(state, _uniform_like(state.sampler))


def _is_uniform(sampler: sampling.Sampler) -> bool:
    return sampler.sizes.size == 1 and sampler.running is None


def _uniform_like(sampler: Any) -> Any:
    """Uniform over the same examples; the sampler itself if it is."""
    if isinstance(sampler, sampling.Sampler) and _is_uniform(sampler):
        return sampler
    return sampling.uniform(sampler.num_examples, sampler.batch_size)


def _with_sampler(state: TrainState, sampler: Any) -> TrainState:
    if sampler is state.sampler:
        return state
    key = jax.random.fold_in(state.sampler_state.key, state.step)
    return state._replace(sampler=sampler, sampler_state=sampler.init(key))


# Helpers ------------------------------------------------------------------------------------------


def _call_key(state: TrainState) -> jax.Array:
    return jax.random.fold_in(state.key, state.step)


def _sketcher(
    loss_fn: LossFn, state: TrainState, key: jax.Array, dim: int, batch_size: int
) -> Callable[..., jax.Array]:
    """Sketches of examples, all of them finite; of which, ``rows`` says for a message."""

    def sketches(data: Any, rows: jax.Array | None = None) -> jax.Array:
        found = clustering.gradient_sketches(
            loss_fn, state.params, data, key=key, dim=dim, batch_size=batch_size
        )
        spoiled = _zero_or_nan(found)
        if not bool(jnp.all(spoiled == 0)):
            (bad,) = np.nonzero(np.asarray(spoiled) != 0)
            names = np.sort(bad if rows is None else np.asarray(rows)[bad])
            shown = ", ".join(map(str, names[:10])) + (", ..." if names.size > 10 else "")
            raise ValueError(
                f"gradients must be finite at step {int(state.step)}; {bad.size} of {len(found)} "
                f"that were looked at are not, of examples {shown}"
            )
        return found

    return sketches


def _some_rows(key: jax.Array, num_examples: int, number: int) -> jax.Array:
    """Different random examples."""
    return jax.random.permutation(key, num_examples)[: min(number, num_examples)]


def _at(data: Any, rows: jax.Array) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], data)


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        least = 4 if name == "num_probes" else 1  # a mean and a variance, at least
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


@jax.jit
def _zero_or_nan(points: jax.Array) -> jax.Array:
    """0 for finite points, NaN for the others, ``(N,)``: a sum is faster than an "all"."""
    return jnp.sum(points * 0, axis=1)


def _with_directions(key: jax.Array, points: jax.Array) -> jax.Array:
    """The points, and a random direction for those that have none: it is close to no other."""
    there = jnp.any(points != 0, axis=1)
    if bool(jnp.all(there)):  # drawing directions for nothing would take as long as the groups
        return points
    return jnp.where(there[:, None], points, jax.random.normal(key, points.shape, points.dtype))


@functools.partial(jax.jit, static_argnums=3)
def _some_of(key: jax.Array, points: jax.Array, wanted: jax.Array, number: int) -> jax.Array:
    """So many of the wanted points; random directions if there are not enough."""
    order = jnp.where(wanted, jax.random.uniform(key, wanted.shape), 2)
    _, rows = jax.lax.top_k(-order, min(number, len(points)))
    others = jax.random.normal(key, (len(rows), points.shape[1]), points.dtype)
    return jnp.where(wanted[rows][:, None], points[rows], others)


def check_schedule(first: int, every: int | None) -> None:
    """Both are steps."""
    if not isinstance(first, int) or first < 0:
        raise ValueError(f"first must be an integer of at least 0, got {first!r}")
    if every is not None and (not isinstance(every, int) or every < 1):
        raise ValueError(f"every must be an integer of at least 1, got {every!r}")
