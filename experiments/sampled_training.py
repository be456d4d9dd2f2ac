"""Does training get faster, on the clock, by a choice of examples?

First a training set of which 90 % are noisy copies of few images. `redundancy_removed` finds the
groups by sketches of gradients, before the first step, and lets each count once. It changes the
objective; what is compared is the accuracy on clean test images, against steps and against seconds,
detection included. On data without copies it must change nothing.

Then samplers that are unbiased for the same objective: steps and seconds to the same training loss,
for several batch sizes, on a convex problem and a network, each method at its own best rate. Noise
is not what limits these runs, but for the smallest batches; so they save little, and pay for
refreshes. The automatic mode looks at the noise first and stays with uniform sampling.

Every rate is run for every seed. The clock counts steps and refreshes, and stops for evaluations;
compilation is measured by itself, in runs that are not counted.

Presets:
    quick: 1 min on 2 cores; digits, 5 seeds, batch sizes 8 and 64
    full: 30 min on 2 cores; MNIST with 50 images x 360 copies and 2,000 others, 5 seeds, batch
        sizes 8 to 256 (needs the MNIST files, see `jaxrobust.data.mnist`)
    cnn: 20 min on 2 cores; the first part with a small CNN on MNIST
"""

import dataclasses
import time
from typing import Any

from experiments import sampled_training_claims, sampled_training_plots, silent
from experiments.report import Result
from experiments.sampled_training_runs import (
    FOUND,
    KNOWN,
    UNBIASED,
    UNIFORM,
    Curve,
    Redundancy,
    problem,
    run_once,
)

# Runs of one method by rate, then by seed.
Runs = dict[float, list[Curve]]


@dataclasses.dataclass(frozen=True)
class Config:
    """Data, model, and what is compared."""

    source: str = "digits"
    """`digits` or `mnist`."""
    model: str = "mlp"
    """`mlp` or `cnn`, of the first part."""
    copied: int = 40
    """Images of which there are copies."""
    copies: int = 60
    """Copies of each."""
    distinct: int = 400
    """Images of which there is one."""
    clean: int = 1_400
    """Examples of the set without copies."""
    batch_size: int = 32
    """Of the first part."""
    steps: int = 800
    """Training steps of a run."""
    evaluate_every: int = 20
    """Steps between two points of a curve."""
    rates: tuple[float, ...] = (0.03, 0.1)
    """Learning rates; each method is shown at its best."""
    seeds: int = 5
    """Number of initial weights, choices of images, and orders of batches."""
    batch_sizes: tuple[int, ...] = (8, 64)
    """Of the second part; none to leave it out."""
    unbiased_steps: int = 600
    """Steps of its runs."""

    def __post_init__(self):
        for name, known in (("source", ("digits", "mnist")), ("model", ("mlp", "cnn"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        if self.seeds < 2:
            raise ValueError(f"seeds must be at least 2, for an error bar, got {self.seeds}")
        if min((*self.batch_sizes, self.batch_size), default=2) < 2:
            raise ValueError("batch sizes must be at least 2")


_MNIST = Config(
    source="mnist",
    copied=50,
    copies=360,
    distinct=2_000,
    clean=20_000,
    batch_size=64,
    steps=4_000,
    evaluate_every=50,
    rates=(0.01, 0.03, 0.1),
    batch_sizes=(8, 32, 64, 256),
    unbiased_steps=3_000,
)
PRESETS = {
    "full": _MNIST,
    "cnn": dataclasses.replace(_MNIST, model="cnn", steps=2_000, rates=(0.03, 0.1), batch_sizes=()),
}


def run(config: Config, progress=silent) -> Result:
    """Both parts; the first on redundant and on clean data."""
    redundant = Redundancy(config.copied, config.copies, config.distinct)
    clean = Redundancy(0, 1, config.clean)
    compiling: dict[str, float] = {}
    series = {}
    share = 0.5 if config.batch_sizes else 1.0
    for number, (name, kind, methods) in enumerate(
        (("copies", redundant, (UNIFORM, FOUND, KNOWN)), ("clean", clean, (UNIFORM, FOUND)))
    ):
        progress(share * number / 2, f"training on data, {name}")
        series[name] = {
            method: repeat(
                config, config.model, kind, method, config.batch_size, config.steps, compiling
            )
            for method in methods
        }
    unbiased = {}
    for number, batch_size in enumerate(config.batch_sizes):
        for kind in ("linear", "mlp"):
            progress(
                0.5 + 0.5 * number / len(config.batch_sizes), f"{kind}, batches of {batch_size}"
            )
            unbiased[kind, batch_size] = {
                method: repeat(
                    config, kind, redundant, method, batch_size, config.unbiased_steps, compiling
                )
                for method in UNBIASED
            }
    progress(1.0)
    return sampled_training_claims.result(config, series, unbiased, compiling)


def repeat(
    config: Config,
    model: str,
    redundancy: Redundancy,
    method: str,
    batch_size: int,
    steps: int,
    compiling: dict[str, float],
) -> Runs:
    """All rates and seeds of a method; one run before them is for compiling."""
    options = {"batch_size": batch_size, "evaluate_every": config.evaluate_every}
    refresh_every = max(50, steps // 4)
    first = problem(config.source, model, redundancy, 0)
    # As many steps as to the second refresh, so that all programs are compiled.
    warm = min(steps, refresh_every + 60)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        run_once(
            first,
            method,
            config.rates[0],
            seed=0,
            steps=warm,
            refresh_every=refresh_every,
            **options,
        )
        seconds.append(time.perf_counter() - start)
    name = f"{method}, {model}"
    compiling[name] = max(compiling.get(name, 0.0), seconds[0] - seconds[1])
    found: Runs = {rate: [] for rate in config.rates}
    for seed in range(config.seeds):
        one = problem(config.source, model, redundancy, seed)
        for rate in config.rates:
            curve = run_once(
                one, method, rate, seed=seed, steps=steps, refresh_every=refresh_every, **options
            )
            found[rate].append(curve)
    return found


def plot(result: Result):
    """Accuracy against steps and seconds; ratios of the unbiased samplers."""
    figures: dict[str, Any] = {"redundancy": sampled_training_plots.redundancy(result)}
    if result.series["unbiased"]:
        figures["unbiased"] = sampled_training_plots.unbiased(result)
    return figures
