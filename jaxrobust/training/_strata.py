"""What the plan `resample` remembers: whose strata these are, what was spent, what is next."""

import numpy as np

from jaxrobust import sampling
from jaxrobust.training._plans import NEVER, is_uniform
from jaxrobust.training._state import TrainState


def has_strata(state: TrainState) -> bool:
    """Or scores: whether the sampler is one that a refresh made."""
    sampler = state.sampler
    is_other = isinstance(sampler, sampling.Sampler) and not is_uniform(sampler)
    return is_other and "made_at" in state.memory


def spent(state: TrainState, steps: float, looked: bool = False) -> TrainState:
    """With what was looked at or refreshed; ``looked`` for looks at strata or scores."""
    names = ("spent", "looked") if looked else ("spent",)
    more = {name: np.float32(float(state.memory.get(name, 0.0)) + steps) for name in names}
    return state._replace(memory=state.memory | more)


def with_next(state: TrainState, check_every: int | None, refresh: int) -> TrainState:
    """With the next look, or the next refresh if that comes first."""
    refresh = min(refresh, NEVER)
    due = refresh if check_every is None else min(refresh, int(state.step) + check_every)
    memory = {"next_call": np.int32(due), "next_refresh": np.int32(refresh)}
    return state._replace(memory=state.memory | memory)


def strata_made(state: TrainState, only_once: bool) -> TrainState:
    """With strata or scores of this step, which nobody has looked at."""
    memory = {
        "only_once": np.int32(only_once), "made_at": np.int32(state.step), "looked": np.float32(0),
    }  # fmt: skip
    return state._replace(memory=state.memory | memory)
