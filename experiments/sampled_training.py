"""Does training get faster, on the clock, by a choice of examples?

First a training set of which 90 % are noisy copies of few images. `redundancy_removed` finds the
groups by sketches of gradients, before the first step, and lets each count once. It changes the
objective; what is compared is the accuracy on clean test images, against steps and against seconds,
detection included. On data without copies it must change nothing.

Then samplers that are unbiased for the same objective: steps and seconds to the training loss that
uniform sampling has in the end, and to a test loss close to its lowest, for several batch sizes,
each method at its own best rate. A loss counts as reached when the median of a tenth of the curve
is there, for the noise of a small batch touches any level sooner or later. With
small batches, on a convex problem whose loss cannot go to zero, as a tenth of the labels is wrong,
noise is what limits training; elsewhere it is the size of a step, so less variance saves little and
refreshes cost. The automatic modes look at this first: strata stay away, as they gain less than
they cost; SVRG begins where noise holds the loss up, if the run is long enough to see that.

Every rate is run for every seed. The clock counts steps and refreshes, and stops for evaluations;
compilation is measured by itself, in runs that are not counted. Where there are automatic modes,
which are to differ from uniform sampling by few percent, these, uniform sampling and SVRG run three
times in turn, seven times where a run is shorter than a second, and the fastest counts.

Presets:
    quick: 2 min on 2 cores; digits, 5 seeds, batch size 8
    sizes: (estimated) 70 min on one core; digits, 5 seeds, batch sizes 8 to 256, convex and not,
        with copies and without
    long: 21 min on one core; digits, 5 seeds, 20,000 steps by the automatic modes, SVRG
        and uniform sampling, batch sizes 8 and 64
    mnist: 3 min on 2 cores; the first part on MNIST, 50 images x 360 copies and 2,000 others, 5
        seeds (needs the MNIST files, see `jaxrobust.data.mnist`)
    cnn: 16 min on one core; the first part with a small CNN on MNIST
    noise: 21 min on one core; the second part alone on 5,000 images of MNIST, 10 % wrong labels
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from experiments import sampled_training_claims, sampled_training_plots, silent
from experiments.report import Result
from experiments.sampled_training_runs import (
    AUTOMATICS,
    FOUND,
    KNOWN,
    NOISY,
    SVRG,
    UNBIASED,
    UNIFORM,
    Curve,
    Redundancy,
    fastest,
    problem,
    run_once,
)

TOUR = False
MOST_POINTS = 200  # of a curve
# Of runs whose time is compared closely: short ones are disturbed by more, as a share of them.
REPEATS, REPEATS_SHORT, SHORT_STEPS = 3, 7, 10_000
DISTINCT = "mlp, no copies"
PROBLEMS = ("linear", NOISY, "mlp", DISTINCT)
WRONG = 0.1  # share of wrong labels
NEEDED = (UNIFORM, SVRG, *AUTOMATICS)  # for what is claimed
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
    """Training steps of a run of the first part; 0 to leave it out."""
    evaluate_every: int = 20
    """Least number of steps between two points of a curve."""
    rates: tuple[float, ...] = (0.03, 0.1, 0.3)
    """Learning rates; each method is shown at its best."""
    seeds: int = 5
    """Number of initial weights, choices of images, and orders of batches."""
    batch_sizes: tuple[int, ...] = (8,)
    """Of the second part; none to leave it out."""
    problems: tuple[str, ...] = (NOISY,)
    """Of the second part: `linear` and `mlp` on the copies, `linear, wrong labels` and `mlp, no
    copies` without any."""
    unbiased_steps: int = 20_000
    """Steps of its runs."""
    unbiased_rates: tuple[float, ...] = (0.03, 0.1)
    """Its learning rates."""
    methods: tuple[str, ...] = UNBIASED
    """Its ways to sample, of these; uniform sampling, SVRG and the automatic modes among them."""

    def __post_init__(self):
        for name, known in (("source", ("digits", "mnist")), ("model", ("mlp", "cnn"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        if set(self.problems) - set(PROBLEMS):
            raise ValueError(f"problems must be of {PROBLEMS}, got {self.problems}")
        if set(NEEDED) - set(self.methods) or set(self.methods) - set(UNBIASED):
            raise ValueError(f"methods must be of {UNBIASED} and have {NEEDED}, got {self.methods}")
        if self.steps < 0 or not (self.steps or (self.batch_sizes and self.problems)):
            raise ValueError(
                f"steps must be positive, or 0 with batch_sizes and problems, got {self.steps}"
            )
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
    steps=2_000,
    evaluate_every=25,
    batch_sizes=(),
    unbiased_rates=(0.01, 0.03, 0.1),
)
PRESETS = {
    "sizes": Config(batch_sizes=(8, 32, 64, 256), problems=PROBLEMS, unbiased_steps=3_000),
    "long": Config(steps=0, batch_sizes=(8, 64), problems=PROBLEMS, methods=NEEDED),
    "mnist": _MNIST,
    "cnn": dataclasses.replace(_MNIST, model="cnn", steps=1_000),
    "noise": dataclasses.replace(
        _MNIST,
        clean=5_000,
        steps=0,
        problems=(NOISY,),
        batch_sizes=(8,),
        unbiased_steps=60_000,
        evaluate_every=300,
    ),
}


def run(config: Config, progress=silent) -> Result:
    """Both parts; the first on redundant and on clean data."""
    copies = Redundancy(config.copied, config.copies, config.distinct)
    clean = Redundancy(0, 1, config.clean)
    first = Comparison(
        config.model, copies, config.batch_size, config.steps, "accuracy", config.rates
    )
    settings: dict[str, tuple[Comparison, Sequence[str]]] = {}
    if config.steps:
        settings["copies"] = (first, (UNIFORM, FOUND, KNOWN))
        settings["clean"] = (first._replace(redundancy=clean), (UNIFORM, FOUND))
    for size in config.batch_sizes:
        for name in config.problems:
            data = {NOISY: clean._replace(wrong=WRONG), DISTINCT: clean}.get(name, copies)
            compare = Comparison(
                name.partition(",")[0], data, size, config.unbiased_steps, "loss",
                config.unbiased_rates,
            )  # fmt: skip
            settings[f"{name}, B = {size}"] = (compare, config.methods)
    compiling: dict[str, float] = {}
    found: dict[str, dict[str, Runs]] = {}
    for number, (name, (compare, methods)) in enumerate(settings.items()):
        progress(number / len(settings), name)
        found[name] = compare_methods(config, compare, methods, compiling)
        # The next setting has programs of its own, and every one takes memory mappings, of which
        # Linux allows a process 65,530: those of a dozen settings do not fit.
        jax.clear_caches()
    progress(1.0)
    parts = {name: found.pop(name) for name in ("copies", "clean") if name in found}
    return sampled_training_claims.result(config, parts, found, compiling)


class Comparison(NamedTuple):
    """What the methods of one setting have in common."""

    model: str
    redundancy: Redundancy
    batch_size: int
    steps: int
    watch: str  # "accuracy" on the test set, or "loss" on the training set
    rates: tuple[float, ...]  # learning rates


def compare_methods(
    config: Config, compare: Comparison, methods: Sequence[str], compiling: dict[str, float]
) -> dict[str, Runs]:
    """All rates and seeds, the methods in turn, so that all see the same state of the machine."""
    options: dict[str, Any] = {
        "batch_size": compare.batch_size,
        "evaluate_every": max(config.evaluate_every, compare.steps // MOST_POINTS),
        "refresh_every": max(50, compare.steps // 4),
        "watch": compare.watch,
    }
    first = problem(config.source, compare.model, compare.redundancy, 0)
    # As many steps as to the second refresh, so that all programs are compiled.
    second = min(compare.steps, 2 * options["refresh_every"] + 20)
    for method in methods:
        seconds, warm = [], compare.steps if method in AUTOMATICS else second
        for _ in range(2):
            start = time.perf_counter()
            run_once(first, method, compare.rates[0], seed=0, steps=warm, **options)
            seconds.append(time.perf_counter() - start)
        name = f"{method}, {compare.model}"
        compiling[name] = max(compiling.get(name, 0.0), seconds[0] - seconds[1])
    found: dict[str, Runs] = {method: {rate: [] for rate in compare.rates} for method in methods}
    turns = in_turn(methods, REPEATS_SHORT if compare.steps < SHORT_STEPS else REPEATS)
    for seed in range(config.seeds):
        one = problem(config.source, compare.model, compare.redundancy, seed)
        for rate in compare.rates:
            curves: dict[str, list[Curve]] = {method: [] for method in methods}
            for method in turns:
                curve = run_once(one, method, rate, seed=seed, steps=compare.steps, **options)
                curves[method].append(curve)
            for method, several in curves.items():
                found[method][rate].append(fastest(several))
    return found


def in_turn(methods: Sequence[str], repeats: int) -> list[str]:
    """All methods; those of which something is claimed side by side, several times.

    The machine is slower at one time than at another, by more than what is claimed of them.
    """
    if not set(AUTOMATICS) & set(methods):
        return list(methods)
    alike = [method for method in methods if method in NEEDED]
    return [*(alike * repeats), *(method for method in methods if method not in alike)]


def plot(result: Result):
    """Accuracy against steps and seconds; ratios of the unbiased samplers."""
    figures: dict[str, Any] = {}
    if result.series["accuracy"]:
        figures["redundancy"] = sampled_training_plots.redundancy(result)
    if result.series["unbiased"]:
        figures["unbiased"] = sampled_training_plots.unbiased(result)
    return figures
