"""What the plan `resample` remembers: whose strata these are, what was spent, what is next."""

import math

import numpy as np

from jaxrobust import sampling
from jaxrobust.training._plans import NEVER, is_uniform
from jaxrobust.training._state import TrainState


def has_strata(state: TrainState) -> bool:
    """Or scores: whether the sampler is one that a refresh made."""
    sampler = state.sampler
    is_other = isinstance(sampler, sampling.Sampler) and not is_uniform(sampler)
    return is_other and "made_at" in state.memory


def kind_of(num_clusters: int | None) -> str:
    """What a report calls the sampler of a refresh."""
    return "importance" if num_clusters is None else "stratified"


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
        "made_loss": state.recent_loss,
    }  # fmt: skip
    return state._replace(memory=state.memory | memory)


def rise_with_strata(state: TrainState) -> float:
    """By which share the mean training loss has risen since they were made; 0 without any.

    Of a loss that was not above 0 no share says anything.
    """
    if not has_strata(state):
        return 0.0
    before, now = float(state.memory["made_loss"]), float(state.recent_loss)
    return (now - before) / before if before > 0 else 0.0  # not if NaN


def check_options(
    cost: float | None, stale: float, plateau: float, overhead: float, allocation: str
) -> None:
    """Raises for options of `resample` out of range."""
    check_overhead(overhead)
    for name, value in (("cost", cost), ("stale", stale), ("plateau", plateau)):
        if value is not None and not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value}")
    if cost is not None and not math.isfinite(cost):
        raise ValueError(f"cost must be finite, got {cost}")
    if allocation not in ("equal", "proportional", "neyman"):
        raise ValueError(
            f"allocation must be 'equal', 'proportional' or 'neyman', got {allocation!r}"
        )


def check_overhead(overhead: float) -> None:
    """Raises for a share of the steps that is not above 0."""
    if not overhead > 0:
        raise ValueError(f"overhead must be positive, got {overhead}")
