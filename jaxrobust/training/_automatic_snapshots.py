"""Snapshots where noise holds the loss up, and where they take it away."""

import dataclasses
import math
from typing import Any

import numpy as np

from jaxrobust.training import _looks as looks
from jaxrobust.training import _snapshot_memory as in_memory
from jaxrobust.training._costs import SnapshotCosts, snapshot_costs_of
from jaxrobust.training._plans import NEVER, Report, scheduled
from jaxrobust.training._state import TrainState
from jaxrobust.training._steps import LossFn
from jaxrobust.training._strata import spent

_ERRORS = 2.0  # standard errors by which a loss must be lower to be so surely
_MOST_LEFT = 0.5  # of the variance, with a snapshot as old as one gets
# A small gain is told from none by many losses; a ratio of variances by few gradients.
_LOSSES_PER_GRADIENT, _LEAST_GRADIENTS = 8, 64
_LEAST_FALL = 1e-3  # of the loss, that is told from none
# In the memory as long as there is a snapshot, besides the params in the middle between those of
# the two looks before it: the mean loss then, and whether it is the first one.
_START, _IS_TRIAL = "start_loss", "is_trial"
_WAIT = "longer"  # steps until the next look after one, or a trial, that found no gain


@dataclasses.dataclass(frozen=True)
class AutomaticSnapshots:
    """See :func:`snapshots`."""

    loss_fn: LossFn
    every: int
    plateau: float
    overhead: float
    num_probes: int
    batch_size: int

    def call(self, state: TrainState, data: Any) -> tuple[TrainState, Report]:
        """A look, a snapshot, or the end of snapshots."""
        losses, gradients = self._probes(state)
        costs = snapshot_costs_of(
            self.loss_fn, state, data, num_losses=losses, num_gradients=gradients
        )
        if in_memory.has_snapshot(state.memory):
            state, report = self._with_snapshot(state, data, costs)
        else:
            look = costs.look if int(state.step) else 0.0  # no loop of steps is left for the first
            state, report = self._without(spent(state, look), data, costs)
        return state, {"snapshot": int(in_memory.has_snapshot(state.memory))} | report

    def _with_snapshot(
        self, state: TrainState, data: Any, costs: SnapshotCosts
    ) -> tuple[TrainState, Report]:
        """Another one, or their end."""
        if not state.memory[_IS_TRIAL] and state.recent_loss <= state.memory[_START]:
            return self._taken(state, data), {}
        middle = looks.params_before(state)
        # Of all examples, which takes less than a snapshot does.
        fallen = self._fall(state, middle, state.params, data, state.sampler.num_examples).mean
        report: Report = {"fallen": fallen}
        if fallen > 0:  # NaN is not
            return self._taken(state, data), report
        state = in_memory.dropped(looks.forgotten(state))
        rest = {key: v for key, v in state.memory.items() if key not in (_START, _IS_TRIAL)}
        state = state._replace(memory=rest)
        return self._after_longer(spent(state, costs.trial(self.every)), costs), report

    def _without(
        self, state: TrainState, data: Any, costs: SnapshotCosts
    ) -> tuple[TrainState, Report]:
        """Looks, the cheapest first: one that remembers the params, and one soon after it."""
        is_second = 0 < looks.steps_since(state) <= 2 * self.every
        if not is_second and self._due(state, costs.all(self.every)) > int(state.step):
            return self._later(state, costs), {}
        state, fall = looks.fall(state, self.every)
        last, state = state, looks.remembered(state)
        before = looks.params_before(last)
        report: Report = {} if fall is None else {"fall": fall}
        if not is_second or fall is None or before is None:
            return scheduled(state, self.every), report
        if not fall <= self.plateau:
            return self._later(state, costs), report
        middle = looks.middle(state.params, before)
        losses, gradients = self._probes(state)
        gain = self._fall(state, state.params, middle, data, losses)
        state = spent(state, costs.between)
        report |= {"gain_between": gain.mean}
        # In the middle there is half of the noise: without any, the loss is lower by twice as much.
        fall_of_step = float(state.recent_loss) * max(fall, _LEAST_FALL) / self.every
        of_trial = costs.trial(self.every) * fall_of_step
        if not gain.mean > _ERRORS * gain.error:
            return self._after_longer(state, costs), report
        if 2 * gain.mean < of_trial:
            return self._later(state, costs), report
        state = spent(state, costs.probes)
        left = looks.ratio_of_differences(
            self.loss_fn, state, before, data, number=gradients, batch_size=self.batch_size
        )
        report |= {"ratio_ahead": left}
        if not left <= _MOST_LEFT:
            return self._after_longer(state, costs), report
        memory = {_START: state.recent_loss}
        state = looks.remembered(looks.forgotten(state), middle)
        return self._taken(state._replace(memory=state.memory | memory), data, 1), report

    def _fall(
        self, state: TrainState, before: Any, after: Any, data: Any, number: int
    ) -> looks.Fall:
        return looks.fall_between(
            self.loss_fn, state, before, after, data, number=number, batch_size=self.batch_size
        )

    def _probes(self, state: TrainState) -> tuple[int, int]:
        """Of how many examples the losses are looked at, and of how many the gradients."""
        number = state.sampler.num_examples
        gradients = max(self.num_probes // _LOSSES_PER_GRADIENT, _LEAST_GRADIENTS)
        return min(self.num_probes, number), min(gradients, number)

    def _taken(self, state: TrainState, data: Any, is_trial: int = 0) -> TrainState:
        """With another snapshot."""
        state = in_memory.taken(self.loss_fn, state, data, self.batch_size)
        memory = state.memory | {_IS_TRIAL: np.int32(is_trial)}
        return scheduled(state._replace(memory=memory), self.every)

    def _due(self, state: TrainState, cost: float) -> int:
        """The step at which this and all before make no more than the overhead."""
        steps = (float(state.memory["spent"]) + cost) / self.overhead
        return math.ceil(min(steps, NEVER))

    def _later(self, state: TrainState, costs: SnapshotCosts) -> TrainState:
        """The next look after ``every`` steps, or when all of it can be afforded."""
        due = self._due(state, costs.look + costs.all(self.every)) - int(state.step)
        return scheduled(state, max(self.every, due))

    def _after_longer(self, state: TrainState, costs: SnapshotCosts) -> TrainState:
        """The next look later by ``every`` steps than after the last one that found no gain."""
        wait = min(int(state.memory.get(_WAIT, self.every)) + self.every, NEVER)
        state = self._later(state, costs)
        later = max(int(state.memory["wait"]), wait)
        return scheduled(state._replace(memory=state.memory | {_WAIT: np.int32(wait)}), later)
