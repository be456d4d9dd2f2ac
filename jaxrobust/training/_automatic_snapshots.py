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

_ERRORS = 2.0  # standard errors by which something must be above 0 to be so surely
# Of two looks, how long ago the first one is, as a share of all steps.
_LEAST_AGE, _MOST_AGE = 0.25, 0.75
_SAFETY = 2.0  # by how much the noise must be more than the progress that is delayed
_OF_LOOKS = 0.4  # of the overhead, until which there may be another look
_WINDOWS = 16  # of progress that is seen, for which it may be taken to go on
_MOST_CHARGED = 4  # of the snapshots that ended; more have brought something
_WAIT = "longer"  # steps until the next look after one, or a trial, that found no gain
# In the memory as long as there are snapshots: how many there were, the mean training loss before
# the first, what noise added to the loss, the loss to be below, that at one of them, and at which.
_OF_SNAPSHOTS = ("number", "start_loss", "noise", "goal", "loss_there", "number_there")


@dataclasses.dataclass(frozen=True)
class AutomaticSnapshots:
    """See :func:`snapshots`."""

    loss_fn: LossFn
    every: int
    overhead: float
    num_probes: int
    batch_size: int

    def call(self, state: TrainState, data: Any) -> tuple[TrainState, Report]:
        """A look, a snapshot, or the end of snapshots."""
        costs = snapshot_costs_of(self.loss_fn, state, data, num_probes=self._num_probes(state))
        if in_memory.has_snapshot(state.memory):
            state, report = self._with_snapshot(state, data, costs)
        else:
            look = costs.look if int(state.step) else 0.0  # no loop of steps is left for the first
            state, report = self._without(spent(state, look), data, costs)
        return state, {"snapshot": int(in_memory.has_snapshot(state.memory))} | report

    # Without a snapshot ---------------------------------------------------------------------------

    def _without(
        self, state: TrainState, data: Any, costs: SnapshotCosts
    ) -> tuple[TrainState, Report]:
        """Remembers the params, and later holds the loss in the middle against both ends."""
        step, before = int(state.step), looks.params_before(state)
        age = looks.steps_since(state)
        if before is None or age > _MOST_AGE * step:
            # Half of the steps before the second look can be afforded.
            if step + self.every < self._due(state, costs, num_looks=1) // 2:
                first = self._due(state, costs, num_looks=2) // 2
                return scheduled(state, first - step), {}
            return self._soon(looks.remembered(looks.seen(state)), costs), {}
        if age < self._least_age(step) or self._due(state, costs, num_looks=0) > step:
            return self._soon(state, costs), {}
        middle = looks.middle(state.params, before)
        found = looks.noise_and_progress(
            self.loss_fn, state, before, middle, data, delay=self._delay(costs) * step / age,
            errors=_ERRORS, number=self._num_probes(state), batch_size=self.batch_size,
        )  # fmt: skip
        state = spent(state, costs.between)
        report: Report = {"noise": found.noise, "progress": found.progress}
        if not found.margin > 0:
            return self._after_longer(state, costs), report
        level = looks.mean_loss(self.loss_fn, middle, data, self.batch_size)
        begin = {
            "start_loss": state.recent_loss, "noise": np.float32(found.noise),
            "goal": np.float32(level - max(found.progress, 0) / 2),
        }  # fmt: skip
        return self._taken(looks.forgotten(state), data, 1, begin), report

    def _least_age(self, step: int) -> int:
        return max(self.every, math.ceil(_LEAST_AGE * step))

    # With one -------------------------------------------------------------------------------------

    def _with_snapshot(
        self, state: TrainState, data: Any, costs: SnapshotCosts
    ) -> tuple[TrainState, Report]:
        """Another one, or their end."""
        memory = {name: state.memory[name] for name in _OF_SNAPSHOTS if name in state.memory}
        number = int(memory["number"])
        is_verdict = number & (number - 1) == 0  # after the first, the second, the fourth, ...
        if not is_verdict and state.recent_loss <= memory["start_loss"]:
            return self._taken(state, data, number + 1, {}), {}
        loss = looks.mean_loss(self.loss_fn, state.params, data, self.batch_size)
        fallen = float(memory["goal"]) - loss
        report: Report = {"fallen": fallen}
        goes_on = fallen > looks.ROUNDING * abs(loss)  # NaN is not
        if number >= 4 and is_verdict:  # until then noise was still going
            steps = (number - int(memory["number_there"])) * self.every
            ahead = min(int(state.step), _WINDOWS * steps)
            progress = (float(memory["loss_there"]) - loss) / steps * ahead
            report |= {"progress": progress}
            goes_on = goes_on and self._delay(costs) * progress < float(memory["noise"])
        if goes_on:
            there = {"loss_there": np.float32(loss), "number_there": np.int32(number)}
            return self._taken(state, data, number + 1, there if is_verdict else {}), report
        rest = {name: v for name, v in state.memory.items() if name not in _OF_SNAPSHOTS}
        state = in_memory.dropped(state._replace(memory=rest))
        state = spent(state, costs.trial(self.every) * min(number, _MOST_CHARGED))
        return self._after_longer(state, costs), report

    def _taken(self, state: TrainState, data: Any, number: int, more: dict[str, Any]) -> TrainState:
        """With another snapshot, which is their ``number`` since the trial began, and more."""
        state = in_memory.taken(self.loss_fn, state, data, self.batch_size)
        memory = state.memory | more | {"number": np.int32(number)}
        return scheduled(state._replace(memory=memory), self.every)

    # Both -----------------------------------------------------------------------------------------

    def _delay(self, costs: SnapshotCosts) -> float:
        """Twice the share of progress that snapshots delay, for noise gets less in training."""
        return _SAFETY * costs.trial(self.every) / self.every

    def _num_probes(self, state: TrainState) -> int:
        """Of examples that are looked at."""
        return min(self.num_probes, state.sampler.num_examples)

    def _due(self, state: TrainState, costs: SnapshotCosts, num_looks: int) -> int:
        """The step at which what may come, and all before, makes no more than the overhead.

        So many stops, a look at losses, and a trial; and all but the trial its share of that.
        """
        look = float(state.memory["spent"]) + num_looks * costs.look + costs.between
        steps = max(look / _OF_LOOKS, look + costs.trial(self.every)) / self.overhead
        return math.ceil(min(steps, NEVER))

    def _soon(self, state: TrainState, costs: SnapshotCosts, wait: int = 1) -> TrainState:
        """The next look when it can be afforded, and the params of before are old enough."""
        step = int(state.step)
        # As much older as a fourth of the steps until then, of which they are now `age`.
        age = looks.steps_since(state)
        old = max(self.every - age, math.ceil((_LEAST_AGE * step - age) / (1 - _LEAST_AGE)))
        old = old if looks.params_before(state) is not None else 1
        return scheduled(state, max(wait, old, self._due(state, costs, num_looks=1) - step))

    def _after_longer(self, state: TrainState, costs: SnapshotCosts) -> TrainState:
        """The next look later by ``every`` steps than after the last one that found no gain."""
        wait = min(int(state.memory.get(_WAIT, self.every)) + self.every, NEVER)
        state = state._replace(memory=state.memory | {_WAIT: np.int32(wait)})
        return self._soon(state, costs, wait)
