"""The plan that refreshes strata or scores, and returns to uniform draws where they do not pay."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust import sampling, trees
from jaxrobust.training import _looks as looks
from jaxrobust.training import _made as made
from jaxrobust.training._costs import PROBES_PER_CLUSTER, Costs, costs_of, sketches_are_exact
from jaxrobust.training._plans import (
    NEVER,
    Plan,
    Report,
    call_keys,
    check_counts,
    check_schedule,
    next_call_from,
    scheduled,
    sketcher,
    some_of,
    uniform_like,
    with_own_memory,
    with_sampler,
)
from jaxrobust.training._state import TrainState
from jaxrobust.training._steps import LossFn
from jaxrobust.training._strata import (
    check_options,
    has_strata,
    kind_of,
    rise_with_strata,
    spent,
    strata_made,
    with_next,
)

_ERRORS = 2.0  # standard errors by which the loss must be lower in the middle
_UNIFORM: Report = {"sampler": "uniform"}


def resample(
    loss_fn: LossFn,
    *,
    num_clusters: int | None = None,
    allocation: sampling.Allocation = "proportional",
    first: int = 100,
    every: int = 500,
    check_every: int | None = None,
    stale: float = 1.0,
    automatic: bool = True,
    plateau: float = 0.1,
    cost: float | None = None,
    overhead: float = 0.03,
    num_probes: int = 512,
    max_passes: int = 3,
    dim: int = 256,
    batch_size: int = 128,
) -> Plan:
    r"""Strata by gradient clusters, or scores by gradient norms, refreshed as training goes on.

    Unbiased for the mean loss. A refresh sketches the gradients of all examples in one pass and
    clusters the sketches, of few examples from the last clusters on; without ``num_clusters`` it
    draws by the norms of the sketches. From the sketches follows the *ratio* of the variances of
    the new sampler and of uniform sampling.

    With ``automatic``, sampling is uniform unless the refresh pays. As long as the mean training
    loss (``recent_loss`` of the state) falls by more than a share ``plateau`` in ``every`` steps,
    training is limited by how far a step goes, not by noise, and less variance saves nothing. On a
    plateau it may be noise that holds the loss up: if so, the loss is lower in the middle between
    the params of this look and of the last one, in which noise has half the variance. If it is not,
    by two standard errors over some examples, or the last look is more than twice ``every`` steps
    ago, there is another look after ``every`` steps. With noise share
    :math:`\nu = \frac{\mathrm{tr}/B}{\mathrm{signal} + \mathrm{tr}/B}`, steps that are limited by
    noise take :math:`1+\frac{\mathrm{tr}}{B\,\mathrm{signal}}\cdot\mathrm{ratio}` times as many as
    without noise, so a ratio saves a share :math:`(1-\mathrm{ratio})\,\nu` of them. A refresh costs
    as much as :math:`cN/B` steps. Before one, on a plateau, the gradients of some examples tell
    :math:`\nu` and, by clusters of one half and how far the other half is from them, about the
    ratio; if :math:`(1-\mathrm{ratio})\,\nu` of the steps until another refresh can be afforded are
    not more than that, none is made. One that was made is used if its ratio is below 1; if it will
    save less than it cost, sampling returns to uniform at the next call. Each time that uniform
    draws gained nothing the plan waits twice as long as before; so it does if the strata or scores
    of before would have done nearly as well, and looks at them meanwhile: if they are ``stale``,
    there is a refresh or the return to uniform; so there is at any call if the mean training loss
    has risen by a share ``plateau`` since they were made. All looks and refreshes, counted in full,
    are at most a share ``overhead`` of the steps (but for the first stop): each waits until it can
    be afforded, a refresh from uniform draws with all looks before it. What a refresh promises does
    not count against its cost, for at a learning rate that stays as it is less noise saves only
    part of the promise. Samplers of others are left alone until a refresh is used.

    Args:
      loss_fn: ``loss_fn(params, example) -> ()``, the loss of one example.
      num_clusters: K; None for scores instead of clusters.
      allocation: of the draws to clusters, as in :func:`sampling.stratified`. With
        ``"proportional"`` the variance is at most that of uniform draws wherever training goes, if
        clusters have whole numbers of draws; from one draw on at most an eighth above it. The
        others are fitted to the params of the refresh; as these move, examples of large clusters
        with their large weights may turn the loss up (MNIST with wrong labels, B=8, equal: from 0.6
        to 1.0 in 800 steps).
      first: step of the first call.
      every: steps between refreshes; with ``automatic`` the least number of them.
      check_every: steps between looks at whether the strata or scores are stale; None for none, or
        with ``automatic`` for as many as can be afforded, ``every`` steps apart at least.
        Then ``num_probes`` random examples tell the ratio of the variances that the sampler has
        now, and if it is above ``stale`` there is a refresh at once; with ``automatic``, if it
        cannot be afforded, the return to uniform.
      stale: the ratio, relative to uniform sampling.
      automatic: whether to return to uniform sampling, and to spare refreshes that cannot pay.
      plateau: with ``automatic``, the largest fall of the loss in ``every`` steps, relative to the
        loss, at which training may be limited by noise. A loss that is not above 0 never is. 1 to
        take every training for limited by noise, whatever its loss, here and in the middle.
      cost: c, what a refresh costs relative to a pass of training steps over the data. None to
        count multiply-adds (:func:`per_example.sketch_cost` and what :func:`clustering.fit` takes,
        over :func:`per_example.gradient_cost`), with an allowance for calls and loops, which are
        most of the cost where models are small: of a CPU. On an accelerator say what was measured.
      overhead: with ``automatic``, what looks and refreshes may take, in training steps, as a share
        of the steps so far, counted as ``cost`` is; looks at strata or scores at most half of it.
        The looks of ``check_every`` are asked for, and do not count. Above 0; more for long runs
        whose strata are known to pay, ``inf`` for no limit.
      num_probes: examples whose gradients are looked at; at least 8 for every cluster.
      max_passes: of :func:`clustering.fit`.
      dim: length of a sketch.
      batch_size: examples whose gradients are sketched at once.

    Returns:
      :class:`Plan`. With ``automatic`` its memory, and so a checkpoint, has the params of the last
      look, as long as draws are uniform. Reports ``fall`` of the loss, ``gain_between`` (how much
      lower it is in the middle), ``noise_share`` and ``ratio_ahead``; of a refresh ``ratio`` (by
      sketches of another key, of ``num_probes`` examples or 8 of every cluster, for those that
      clusters are fitted to promise too much), ``ratio_before`` (that of the last strata or scores)
      and ``sampler``; of a look at those that there are ``ratio_now``, and ``rise`` of the loss if
      they are given up for it.

    Raises:
      ValueError: for numbers out of range; before the first step, for more clusters than examples,
        or than draws with equal allocation.

    Source:
      Steps under noise: McCandlish et al., arXiv:1812.06162; switching on where it pays:
      Katharopoulos and Fleuret, arXiv:1803.00942, whose rule counts examples, not the share of
      noise.
    """
    check_schedule(first, every)
    check_schedule(first, check_every)
    check_options(cost, stale, plateau, overhead, allocation)
    check_counts(
        num_probes=num_probes, dim=dim, batch_size=batch_size, max_passes=max_passes,
        num_clusters=1 if num_clusters is None else num_clusters,
    )  # fmt: skip
    plan = _Resample(
        loss_fn, num_clusters, allocation, first, every, check_every, stale, automatic, plateau,
        cost, overhead, num_probes, max_passes, dim, batch_size,
    )  # fmt: skip
    return with_own_memory("resample", Plan(plan.next_call, plan.call))


@dataclasses.dataclass(frozen=True)
class _Resample:
    """See :func:`resample`."""

    loss_fn: LossFn
    num_clusters: int | None
    allocation: sampling.Allocation
    first: int
    every: int
    check_every: int | None
    stale: float
    automatic: bool
    plateau: float
    cost: float | None
    overhead: float
    num_probes: int
    max_passes: int
    dim: int
    batch_size: int

    def next_call(self, state: TrainState) -> int | None:
        number, size = state.sampler.num_examples, state.sampler.batch_size
        if self.num_clusters is not None:  # before the first step, not when a refresh is due
            if self.num_clusters > number:
                raise ValueError(
                    f"num_clusters must be at most the {number} examples, got {self.num_clusters}"
                )
            if self.allocation == "equal" and size < self.num_clusters:
                raise ValueError(
                    f"num_clusters must be at most the batch size, {size}, with allocation='equal',"
                    f" got {self.num_clusters}"
                )
        return next_call_from(self.first)(state)

    def call(self, state: TrainState, data: Any) -> tuple[TrainState, Report]:
        if self.automatic and (rise := rise_with_strata(state)) > self.plateau:
            look = self._costs(state, data).look
            return self._uniform_for_longer(spent(state, look), look), _UNIFORM | {"rise": rise}
        refresh = int(state.memory.get("next_refresh", 0))
        # What another plan put in place of the strata or scores has no ratio: a refresh is due.
        if int(state.step) < refresh and isinstance(state.sampler, sampling.Sampler):
            return self._looked_at_strata(state, data, refresh)
        if not self.automatic:
            return self._refreshed(state, data, None)
        if not has_strata(state):
            return self._refreshed_if_it_may_pay(state, data)
        costs = self._costs(state, data)
        state = spent(state, costs.look)
        if int(state.memory.get("only_once", 0)):
            return self._uniform_for_longer(state, costs.look), dict(_UNIFORM)
        rest = costs.probes + costs.refresh
        if self._due(state, rest) > int(state.step):
            # The strata or scores stay, unless a look finds them stale.
            due = max(self._due(state, costs.look + rest), int(state.step) + self.every)
            return self._looked_again(state, data, due), {"sampler": kind_of(self.num_clusters)}
        state = spent(state, costs.probes)
        return self._refreshed(state, data, self._probes(state, data)[0])

    def _looked_at_strata(
        self, state: TrainState, data: Any, refresh: int
    ) -> tuple[TrainState, Report]:
        """Or scores: whether they are stale."""
        costs = self._costs(state, data)
        if self.check_every is None:  # nobody asked for this look
            state = spent(state, costs.look + costs.probes, looked=True)
        probes, rows = self._probes(state, data)
        now = looks.ratio_of_some(probes, state.sampler, rows)
        report: Report = {"ratio_now": now}
        if now <= self.stale or not bool(jnp.any(probes)):  # nothing to be stale about
            return self._looked_again(state, data, refresh), report
        if self.automatic and int(state.memory.get("only_once", 0)):
            return self._uniform_for_longer(state, costs.look), report | _UNIFORM
        if self.automatic and self._due(state, costs.refresh) > int(state.step):
            return self._uniform(state, self.every, costs.refresh), report | _UNIFORM
        after, found = self._refreshed(state, data, probes)
        return after, report | found

    def _refreshed_if_it_may_pay(self, state: TrainState, data: Any) -> tuple[TrainState, Report]:
        """From uniform draws on: looks, the cheapest first, if all can be afforded."""
        costs = self._costs(state, data)
        report: Report = dict(_UNIFORM)
        state = spent(state, costs.look)
        if costs.refresh >= self._lasts(costs):  # no ratio could save as much
            return self._uniform_for_longer(state, costs.look), report
        rest = costs.probes + costs.refresh
        if self.plateau < 1:
            rest += costs.between
            # Over a long time even slow progress is more than what noise holds up: then there is
            # another look first.
            is_new = not 0 < looks.steps_since(state) <= 2 * self.every
            if self._due(state, rest + is_new * costs.look) > int(state.step):
                return self._uniform(state, self.every, rest + 2 * costs.look), report
            state, fall = looks.fall(state, self.every)
            report |= {} if fall is None else {"fall": fall}
            state, last = looks.remembered(state), state
            if is_new or fall is None or fall > self.plateau:
                return self._uniform(state, self.every, costs.look), report
            found = looks.gain_between(
                self.loss_fn, state, last, data, number=self._num_probes(state),
                batch_size=self.batch_size,
            )  # fmt: skip
            if found is None:
                return self._uniform(state, self.every, costs.look), report
            state = spent(state, costs.between)
            gain, error = found
            report |= {"gain_between": gain}
            if not gain > _ERRORS * error:
                return self._uniform(state, self.every, costs.look), report
        elif self._due(state, rest) > int(state.step):
            return self._uniform(state, self.every, costs.look + rest), report
        state = spent(state, costs.probes)
        probes, _ = self._probes(state, data)
        after, found = self._refreshed(state, data, probes)
        return after, report | found

    def _refreshed(
        self, state: TrainState, data: Any, probes: jax.Array | None
    ) -> tuple[TrainState, Report]:
        """A refresh; with probes, as far as it promises to save what it costs."""
        report: Report = {}
        costs = self._costs(state, data)
        noise, lasts = 1.0, self._lasts(costs)
        if self.automatic and probes is not None:
            price = costs.refresh / lasts  # relative to the steps it is for
            noise = float(looks.noise_share(probes, state.sampler.batch_size))
            ahead = self._ratio_ahead(state, probes) if noise > price else None
            report |= {"noise_share": noise} | ({} if ahead is None else {"ratio_ahead": ahead})
            if not (1 - (ahead or 0)) * noise > price:  # NaN is not
                state = self._uniform_for_longer(state, costs.look)
                return state, report | _UNIFORM
        points = self._sketches(state)(data)
        sampler, ratio, error, memory = self._made(state, data, points)
        report["ratio"] = ratio
        had_ratio, once = has_strata(state), False
        if self.automatic:
            state = spent(state, costs.refresh)
            # What it cost is gone: it is used if it saves a bit, but then not made again.
            once = max(1 - ratio, 0) * noise * lasts <= costs.refresh
            if ratio >= 1:
                state = self._uniform_for_longer(state, costs.look)
                return state, report | _UNIFORM
        wait = self.every
        if self.automatic and had_ratio:
            report["ratio_before"] = before = looks.ratio(points, state.sampler)
            last = int(state.step) - int(state.memory["made_at"])
            gained = (before - ratio - 2 * error) * noise * last > costs.refresh
            wait = self.every if gained else min(2 * last, NEVER)
        state = looks.forgotten(state)
        state = strata_made(state._replace(memory=state.memory | memory), once)
        state = self._looked_again(scheduled(state, wait), data, int(state.step) + wait)
        return with_sampler(state, sampler), report | {"sampler": kind_of(self.num_clusters)}

    def _lasts(self, costs: Costs) -> float:
        """For how many steps a refresh is made: until another one can be afforded."""
        return max(self.every, costs.refresh / self.overhead)

    def _made(self, state: TrainState, data: Any, points: jax.Array) -> made.Made:
        judge = None
        if not sketches_are_exact(state.params, self.dim):
            others = self._sketches(state, number=3)
            judge = lambda rows: others(trees.take(data, rows), rows)
        key = self._keys(state)[2]
        if self.num_clusters is None:
            return made.by_scores(points, judge, state, self.num_probes, key)
        return made.by_clusters(
            points, judge, state, self.num_clusters, self.allocation, self.max_passes,
            self.num_probes, key,
        )  # fmt: skip

    # What is looked at ----------------------------------------------------------------------------

    def _keys(self, state: TrainState) -> tuple[jax.Array, ...]:
        """Of the sketches, of the choice of probes, of the clusters, and of other sketches."""
        return call_keys(state.key, state.step)

    def _sketches(self, state: TrainState, number: int = 0):
        key = self._keys(state)[number]
        return sketcher(self.loss_fn, state, key, self.dim, self.batch_size)

    def _num_probes(self, state: TrainState) -> int:
        """Some of each cluster: a stratum of which there is one looks as if it had no variance."""
        number, enough = self.num_probes, 0
        if self.num_clusters is not None:
            enough = PROBES_PER_CLUSTER * self.num_clusters
        return min(max(number, enough), state.sampler.num_examples)

    def _probes(self, state: TrainState, data: Any) -> tuple[jax.Array, jax.Array]:
        """Sketches of random examples, and which they are."""
        batch, rows = some_of(self._num_probes(state), state.key, state.step, data)
        return self._sketches(state)(batch, rows), rows

    def _ratio_ahead(self, state: TrainState, probes: jax.Array) -> float | None:
        """About what a refresh would bring; None if all that there is was needed to tell."""
        if has_strata(state) or 2 * len(probes) > state.sampler.num_examples:
            return None
        if self.num_clusters is None:
            norms = jnp.linalg.norm(probes, axis=1)
            return looks.ratio_of_scores(probes, norms, state.sampler)
        key = self._keys(state)[2]
        return looks.ratio_ahead(
            probes, self.num_clusters, self.allocation, state.sampler.batch_size, key=key
        )

    # What it costs, and when the next look is -----------------------------------------------------

    def _costs(self, state: TrainState, data: Any) -> Costs:
        return costs_of(
            self.loss_fn, state, data, num_probes=self._num_probes(state),
            num_clusters=self.num_clusters, dim=self.dim, max_passes=self.max_passes,
            cost=self.cost,
        )  # fmt: skip

    def _looked_again(self, state: TrainState, data: Any, refresh: int) -> TrainState:
        """With the next look at the strata or scores, or the next refresh if that comes first."""
        wait = self.check_every
        if wait is None and self.automatic:  # strata that are kept for long may become stale
            # Half of what can be afforded since they were made, but all for the first look.
            costs = self._costs(state, data)
            looked = 2 * float(state.memory["looked"]) + costs.look + costs.probes
            due = int(state.memory["made_at"]) + math.ceil(looked / self.overhead)
            wait = max(self.every, due - int(state.step))
        return with_next(state, wait, refresh)

    def _due(self, state: TrainState, cost: float) -> int:
        """The step at which this and all before make no more than the overhead of all steps."""
        step = (float(state.memory.get("spent", 0.0)) + cost) / self.overhead
        return int(min(math.ceil(step), NEVER))

    def _uniform(self, state: TrainState, wait: int, cost: float) -> TrainState:
        """Uniform draws until the next look, of this cost: in so many steps or later."""
        due = min(max(int(state.step) + wait, self._due(state, cost)), NEVER)
        state = with_next(state, None, due)
        # The sampler of another plan is none of its business.
        plain = uniform_like(state.sampler) if has_strata(state) else state.sampler
        return with_sampler(state, plain)

    def _uniform_for_longer(self, state: TrainState, cost: float) -> TrainState:
        """Uniform, and twice as long as the last time that nothing was gained."""
        again = not has_strata(state) and "wait" in state.memory
        wait = min(2 * int(state.memory["wait"]), NEVER) if again else self.every
        return self._uniform(scheduled(state, wait), wait, cost)
