"""When does the hardest negative teach best, and when does it hurt?

Two towers embed two views of the same things, so that each view retrieves its partner. In every
batch a loss pushes away negatives: all of them, the hardest, the 10 hardest, those that are
semi-hard, or all by a softmax. Recall on pairs that were not seen tells what was learned.

*Views* are noisy functions of points around 100 centers: no other item fits as well as the partner.
*Digits* are the left and right halves of handwritten digits: many right halves fit a left one, so
the hardest negative is often as good as a positive. Then views are embedded by deep narrow towers,
in which everything looks alike at the start: under the hardest negative they stay collapsed.

Presets:
    quick: 70 s on 2 cores; views for 30 epochs, digits for 30, 3 seeds
    full: 3 min on 2 cores; views for 60, digits for 60, 5 seeds
"""

import dataclasses
import time

import jax
import numpy as np

from experiments import hard_negatives_claims as told
from experiments import hard_negatives_plots, silent
from experiments.hard_negatives_runs import (
    ALL,
    HARDEST,
    METHODS,
    PROBLEMS,
    SOFT,
    WARM,
    Run,
    Setting,
    train,
    views,
)
from experiments.report import Result

TOUR = False
DEEP = (64,) * 8 + (64,)  # of the towers that collapse
DEEP_METHODS = (ALL, HARDEST, WARM, SOFT)


@dataclasses.dataclass(frozen=True)
class Config:
    """Training."""

    seeds: int = 3
    """Number of data sets, initial weights and orders of batches."""
    batch: int = 128
    """Pairs of a batch."""
    epochs_of_views: int = 30
    """Passes over the 4,000 pairs of views."""
    epochs_of_digits: int = 30
    """Passes over the 1,297 pairs of halves."""
    epochs_of_deep: int = 12
    """Passes over 2,000 pairs of views, with deep towers."""

    def __post_init__(self):
        if self.seeds < 2:
            raise ValueError(f"seeds must be at least 2, for an error bar, got {self.seeds}")
        for name in ("epochs_of_views", "epochs_of_digits", "epochs_of_deep"):
            if getattr(self, name) < 4:
                raise ValueError(f"{name} must be at least 4, got {getattr(self, name)}")
        if not 2 <= self.batch <= 1_000:
            raise ValueError(f"batch must be in 2..1000, got {self.batch}")


PRESETS = {
    "full": Config(seeds=5, epochs_of_views=60, epochs_of_digits=60, epochs_of_deep=20),
}


def run(config: Config, progress=silent) -> Result:
    """All ways to choose negatives on both problems, and four of them with deep towers."""
    epochs = {"views": config.epochs_of_views, "digits": config.epochs_of_digits}
    found: dict[str, dict[str, Run]] = {}
    seconds: dict[str, float] = {}
    for number, (name, make) in enumerate(PROBLEMS.items()):
        progress(number / 3, name)
        begin = time.perf_counter()
        setting = Setting(epochs=epochs[name], batch=config.batch)
        pairs = [make(seed) for seed in range(config.seeds)]
        found[name] = {method: repeated(method, setting, pairs) for method in METHODS}
        seconds[name] = time.perf_counter() - begin
    progress(2 / 3, "deep towers")
    begin = time.perf_counter()
    deep = Setting(DEEP, 0.1, config.epochs_of_deep, config.batch, warm=3)
    pairs = [views(seed, 2_000, 500) for seed in range(config.seeds)]
    found["deep"] = {method: repeated(method, deep, pairs) for method in DEEP_METHODS}
    seconds["deep towers"] = time.perf_counter() - begin
    return Result(
        summary=told.summary(found),
        claims=told.claims(found),
        series={
            name: {method: one._asdict() for method, one in by.items()}
            for name, by in found.items()
        },
        tables=told.tables(found),
        words=told.WORDS,
        wall_time=seconds,
    )


def repeated(method: str, setting: Setting, pairs: list) -> Run:
    """The runs of all seeds, ``(seeds, epochs)``."""
    runs = [train(method, setting, one, jax.random.key(seed)) for seed, one in enumerate(pairs)]
    return Run(*(np.stack(part) for part in zip(*runs, strict=True)))


def plot(result: Result):
    """Learning curves, and what becomes of deep towers."""
    return {
        "curves": hard_negatives_plots.curves(result),
        "collapse": hard_negatives_plots.collapse(result),
    }
