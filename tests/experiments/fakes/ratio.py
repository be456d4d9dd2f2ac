"""Does the ratio reach one?

A sequence that approaches one from below, `1 - 1/t`, stands in for a margin.

- First thing measured: the ratio at the end.
- Second thing: nothing.

Presets:
    quick: 1 s on 1 core; three seeds, and
        a second line
    full: 2 s on 1 core; more steps
"""

import dataclasses

import numpy as np

from experiments import plots, silent
from experiments.claims import Claim
from experiments.report import Result, Table


@dataclasses.dataclass(frozen=True)
class Config:
    """How long to run."""

    seeds: int = 3
    """How many seeds."""
    steps: int = 1000
    """Number of steps."""

    def __post_init__(self):
        if self.seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {self.seeds}")


PRESETS = {"full": Config(seeds=3, steps=10_000)}


def run(config, progress=silent):
    progress(0.5, "halfway")
    steps = np.arange(1, config.steps + 1)
    ratio = 1 - 1 / steps
    return Result(
        summary="The ratio rises to one. Nothing else happens.",
        claims=[
            Claim.at_least("Fake 2020, Theorem 1", "The ratio reaches 0.99", ratio[-1], 0.99),
            Claim.at_most(
                "Fake 2021 <b>",
                "The ratio stays below a half & is small",
                ratio,
                0.5,
                should_hold=False,
                reason="it never was <small>",
            ),
        ],
        series={"step": steps[::100], "ratio": {"mean": ratio[::100], "bad": [np.nan, np.inf]}},
        tables=[Table("Ends", ["seed", "ratio"], [[0, float(ratio[-1])], [1, None]], "By seed.")],
        wall_time={"loop": 0.001},
    )


def plot(result):
    figure, ax = plots.subplots()
    x, y = result.series["step"], result.series["ratio"]["mean"]
    plots.line(ax, x, y, label="ratio", index=0)
    plots.describe(ax, title="Ratio", x="step", y="ratio")
    return {"ratio": (plots.finish(figure), "The ratio, step by step.")}
