"""How far from the most robust classifier is a model in training, provably?

The most robust linear classifier need not be known to say how far training still is from it. The
weights at hand have a robust radius, a lower bound of the largest one. The gradient at hand is a
convex combination of the signed examples, and by duality the norm of such a combination is an
upper bound. Both come out of what a training step computes anyway, without another product with
the data; the best bounds so far are kept, and those of the average of all gradients.

Five threats, each with the optimizer that theory calls matched (steepest descent in the dual norm)
and with a mismatched one (gradient descent; against l2 perturbations coordinate descent), on
Gaussian data, 50 examples in 100 dimensions, and on the digits 3 and 8 (8x8 images). In float32.
The optimum to compare with is computed apart, by `max_margin` to a relative gap of 1e-7.

Presets:
    quick: 30 s on 2 cores; 3 Gaussian data sets, 10,000 steps
    full: 5 min on 2 cores; 10 Gaussian data sets, 100,000 steps
"""

import dataclasses
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import certificate_plots, linear_training, silent
from experiments.claims import Claim
from experiments.linear_training import (
    METHODS,
    THREAT_NAMES,
    Problems,
    certified_step,
    descend_certified,
)
from experiments.report import Result, Table
from jaxrobust import data, linear
from jaxrobust.norms import Norm

GAUSSIAN, DIGITS = "Gaussian data", "digits 3 and 8"
DUALITY = "minimax duality (exact)"
OWN = "this library: measured, no paper"
THEOREM = "Gunasekar et al. 2018 (optimization geometry), Theorem 5 as recalled"
TABLE_SOURCE = "our specification, section 5.2 (measured before, with NumPy)"
MISMATCHED = dict.fromkeys(METHODS, "gradient descent")
MISMATCHED["gradient descent"] = "coordinate descent"
# Fractions of the optimum on the draw that the table stems from: the upper bound after 100, 1000
# and 10,000 steps, and the margin after 10,000.
TABLE = {
    "gradient descent": ((1.045, 1.0003, 1.0), 0.995),
    "sign descent": ((1.11, 1.004, 1.001), 0.993),
    "coordinate descent": ((1.264, 1.049, 1.013), 0.973),
}
TABLE_TIMES = (100, 1_000, 10_000)
# Largest certified gap of matched runs after 10,000 steps, (upper - lower) / upper.
GAPS = {name: 0.07 if "coordinate" in name.lower() else 0.02 for name in METHODS}
TIMED_STEPS = 2_000


@dataclasses.dataclass(frozen=True)
class Config:
    """Data and length of training."""

    seeds: int = 3
    """Number of Gaussian data sets."""
    steps: int = 10_000
    """Training steps of every run; at least 1000."""

    def __post_init__(self):
        for name, least in (("seeds", 1), ("steps", 1_000)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


PRESETS = {"full": Config(seeds=10, steps=100_000)}


class Run(NamedTuple):
    """An optimizer, and the method whose norm the certificate is in."""

    target: str
    optimizer: str

    @property
    def matched(self) -> bool:
        """Whether the optimizer descends in the norm of the certificate."""
        return self.target == self.optimizer

    @property
    def fit(self) -> str:
        """The same in a word."""
        return "matched" if self.matched else "mismatched"

    @property
    def title(self) -> str:
        """How the report calls it."""
        return f"{self.optimizer} against {THREAT_NAMES[self.target]}"


RUNS = tuple(Run(name, other) for name in METHODS for other in (name, MISMATCHED[name]))


class Bounds(NamedTuple):
    """Bounds of the optimal radius, in fractions of the optimum."""

    lower: np.ndarray  # (problems, times)
    upper: np.ndarray  # (problems, times)

    @classmethod
    def of(cls, state: linear.CertificateState, optimum: np.ndarray) -> "Bounds":
        """Relative to the optima ``(problems,)``, in float64."""
        both = (np.asarray(side, np.float64) for side in (state.lower, state.upper))
        return cls(*(side / optimum[:, None] for side in both))

    def of_problems(self, chosen: slice) -> "Bounds":
        """The bounds of some of the problems."""
        return Bounds(self.lower[chosen], self.upper[chosen])

    @property
    def gap(self) -> np.ndarray:
        """The certified relative gap: what is known without the optimum, ``(problems, times)``."""
        return (self.upper - self.lower) / self.upper

    @property
    def violation(self) -> float:
        """By how much a bound is on the wrong side of the optimum; negative if none is."""
        return float(max(np.max(self.lower - 1), np.max(1 - self.upper)))


def run(config: Config, progress=silent) -> Result:
    """Trains with the certificate, and compares it with the optimum."""
    times = linear_training.log_spaced(10, config.steps, 100, include=TABLE_TIMES)
    plane = {name: linear_training.as_plane(norm) for name, norm in METHODS.items()}
    suites = {GAUSSIAN: (gaussian(config), METHODS), DIGITS: (digits(), plane)}
    bounds, optima, shares, seconds = {}, {}, {}, {}
    for number, (name, (problems, methods)) in enumerate(suites.items()):
        progress(number / 2, f"{name}: certified optimum")
        begin = time.perf_counter()
        optima[name] = optimum(problems, methods)
        shares[name] = relative_margins(problems, methods, optima[name])
        progress((number + 0.7) / 2, f"{name}: training")
        bounds[name] = certify(problems, methods, times, optima[name])
        seconds[name] = time.perf_counter() - begin
    every = [b for by in bounds.values() for b in by.values()]
    # The last of the Gaussian problems is the draw that the table stems from.
    on_table = {run: b.of_problems(slice(-1, None)) for run, b in bounds[GAUSSIAN].items()}
    bounds[GAUSSIAN] = {run: b.of_problems(slice(-1)) for run, b in bounds[GAUSSIAN].items()}
    return Result(
        summary=summarise(config, bounds),
        claims=[
            order_claim(every),
            *matched_claims(config, bounds, shares),
            *upper_claims(times, bounds),
            table_claim(times, on_table),
            product_claim(*suites[DIGITS]),
        ],
        series={
            "steps": times,
            "optimum against linf": optima[GAUSSIAN]["coordinate descent"][0],
            "bounds": {
                name: {r.title: b._asdict() for r, b in by.items()} for name, by in bounds.items()
            },
        },
        tables=[
            *(bounds_table(name, by) for name, by in bounds.items()),
            cost_table(suites[DIGITS][0], METHODS["coordinate descent"]),
        ],
        wall_time=seconds,
    )


def gaussian(config: Config) -> Problems:
    """The Gaussian data of every seed and, last, the draw that the table stems from."""
    sets = [data.logistic_gaussian(50, num_test=1, seed=seed) for seed in range(config.seeds)]
    return linear_training.stack([*sets, linear_training.gaussian_of_the_tables(50)])


def digits() -> Problems:
    """The digits 3 and 8 as 8x8 images, 80 % of them."""
    return linear_training.stack([linear_training.digit_pair(3, 8, seed=0)])


def certify(
    problems: Problems, methods: dict[str, Norm], times: np.ndarray, optima: dict[str, np.ndarray]
) -> dict[Run, Bounds]:
    """Trains all runs in one program; their best bounds so far over the optimum."""
    found = descend_certified(problems, jnp.asarray(times), pairs(methods))
    return {
        run: Bounds.of(state, optima[run.target])
        for run, (_, state) in zip(RUNS, found, strict=True)
    }


def pairs(methods: dict[str, Norm]) -> tuple[tuple[Norm, Norm], ...]:
    """For every run the norm to descend in and the norm of the certificate."""
    return tuple((methods[run.optimizer], methods[run.target]) for run in RUNS)


def optimum(problems: Problems, methods: dict[str, Norm]) -> dict[str, np.ndarray]:
    """Largest radius against each threat, ``(problems,)``, by the name of the matched optimizer."""
    found = linear_training.optimal_margins_by_norm(
        problems, list(methods.values()), tolerance=1e-7
    )
    return {name: best.margin for name, best in zip(methods, found, strict=True)}


def relative_margins(
    problems: Problems, methods: dict[str, Norm], optima: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The same over the largest example, as `linear_training.relative_margins`."""
    return {
        name: linear_training.relative_margins(problems, norm, optima[name])
        for name, norm in methods.items()
    }


def order_claim(bounds: list[Bounds]) -> Claim:
    """lower <= optimum <= upper."""
    count = sum(b.lower.size for b in bounds)
    return Claim.at_most(
        DUALITY,
        "lower bound ≤ optimum ≤ upper bound at every logged step of every run "
        f"({count:,} pairs of bounds; largest violation relative to the optimum, by run)",
        [b.violation for b in bounds],
        0.0,
        tolerance=1e-5,  # float32, and the gap of the optimum
    )


def matched_claims(
    config: Config,
    bounds: dict[str, dict[Run, Bounds]],
    shares: dict[str, dict[str, np.ndarray]],
) -> list[Claim]:
    """How far the certified gap of matched runs closes; `shares` as of `relative_margins`."""
    slack = max(1.0, 10_000 / config.steps)  # the gap falls about as 1/steps
    made = []
    for suite, by in bounds.items():
        for name, share in shares[suite].items():
            gap = by[Run(name, name)].gap
            enough = linear_training.enough(config.steps, share)
            made.append(
                Claim.at_most(
                    f"{THEOREM}; the size: {OWN}",
                    f"{suite}: {name} is certified to be close to the most robust classifier "
                    f"against {THREAT_NAMES[name]} after {config.steps:,} steps (certified gap, "
                    "every data set)",
                    gap[:, -1],
                    slack * (GAPS[name] if suite == GAUSSIAN else 0.12),
                    should_hold=enough,
                    reason="" if enough else linear_training.why_short(config.steps, share),
                )
            )
    return made


def upper_claims(times: np.ndarray, bounds: dict[str, dict[Run, Bounds]]) -> list[Claim]:
    """How soon the upper bound is sharp, and that a mismatched optimizer proves less."""
    l2 = bounds[GAUSSIAN][Run("gradient descent", "gradient descent")]
    runs = [b for by in bounds.values() for r, b in by.items() if not r.matched]
    return [
        Claim.at_most(
            TABLE_SOURCE,
            "gradient descent against l2: after 1000 steps the upper bound is within 1 % of the "
            "optimum (upper bound over optimum, Gaussian data, every seed)",
            l2.upper[:, times == 1_000],
            1.01,
        ),
        Claim.at_most(
            OWN,
            "mismatched optimizers stay away from the optimum: lower bound over optimum at the "
            "end, all threats, Gaussian data and digits",
            np.concatenate([b.lower[:, -1] for b in runs]),
            0.9,
        ),
        Claim.at_least(
            OWN,
            "and the upper bounds of their gradients do not close: upper bound over optimum",
            np.concatenate([b.upper[:, -1] for b in runs]),
            1.05,
        ),
    ]


def table_claim(times: np.ndarray, bounds: dict[Run, Bounds]) -> Claim:
    """The bounds measured before, on the same data, at the steps that this run has."""
    shown = [t for t in TABLE_TIMES if t <= times[-1]]
    ratios = []
    for name, (upper, margin) in TABLE.items():
        found = bounds[Run(name, name)]
        ratios += [*(found.upper[0, np.isin(times, shown)] / upper[: len(shown)])]
        ratios += [*(found.lower[0, times == TABLE_TIMES[-1]] / margin)]
    return Claim.close(
        TABLE_SOURCE,
        "an independent program found the same upper bounds after 100, 1000 and 10,000 steps, and "
        "the same margins after 10,000, for gradient, sign and coordinate descent on the same data "
        f"(ratio of the two; up to {times[-1]:,} steps)",
        ratios,
        1.0,
        atol=0.005,  # half a unit of the last digit of 1.11
    )


def product_claim(problems: Problems, methods: dict[str, Norm]) -> Claim:
    """What the certificate costs, counted in the program of one step."""

    def count(descent, target) -> int:
        problem = jax.tree.map(lambda leaf: leaf[0], problems)
        step, start = certified_step(descent, target, problem)
        return str(jax.make_jaxpr(step)(start)).count("dot_general[")

    return Claim.close(
        OWN,
        "the certificate costs no product with the data beyond those of the gradient (matrix "
        "products in a training step with it, minus without it, every run)",
        [count(*pair) - count(pair[0], None) for pair in pairs(methods)],
        0,
    )


def cost_table(problems: Problems, norm: Norm) -> Table:
    """Time of a training step in `norm` with and without its certificate."""
    rows = []
    for name, target in (("without", None), ("with", norm)):
        seconds = []
        for steps in (1, *3 * [TIMED_STEPS]):  # the first compiles
            begin = time.perf_counter()
            jax.block_until_ready(
                descend_certified(problems, jnp.array([steps]), ((norm, target),))
            )
            seconds.append(time.perf_counter() - begin)
        rows.append([f"{name} certificate", float(1e6 * np.median(seconds[1:]) / TIMED_STEPS)])
    return Table(
        "Time of a step (microseconds)",
        ["coordinate descent on the digits", "time"],
        rows,
        "Median of 3, for information: on so little data the fixed cost of each small operation "
        "counts, not the products.",
    )


def summarise(config: Config, bounds: dict[str, dict[Run, Bounds]]) -> str:
    """What was found, in words and numbers."""
    found = " ".join(closed(f"On {suite}", by) for suite, by in bounds.items())
    return (
        "While it trains, a linear classifier proves how close it is to the most robust one, "
        "without knowing that one, and without a product with the data beyond those of the "
        f"gradient.\n\nThe certified gaps after {config.steps:,} steps, worst data sets: {found}"
    )


def closed(where: str, by: dict[Run, Bounds]) -> str:
    """The largest certified gaps of the matched runs, and the smallest of the others."""
    gaps = {run: 100 * b.gap[:, -1] for run, b in by.items()}
    *_, (second, _), (worst, title) = sorted(
        (g.max(), r.title) for r, g in gaps.items() if r.matched
    )
    others = min(gap.min() for run, gap in gaps.items() if not run.matched)
    return (
        f"{where} the matched optimizers come to within {second:.1f} % of the optimum, but for "
        f"{title} with {worst:.1f} %; mismatched ones leave at least {others:.1f} %."
    )


def bounds_table(name: str, bounds: dict[Run, Bounds]) -> Table:
    """Final bounds of every run, the worst of the data sets."""
    rows = [
        [run.title, run.fit, b.lower[:, -1].min(), b.upper[:, -1].max(), b.gap[:, -1].max()]
        for run, b in bounds.items()
    ]
    (count,) = {len(b.lower) for b in bounds.values()}
    over = "One data set." if count == 1 else f"Each the worst over {count} data sets."
    return Table(
        f"{name}: bounds of the optimal radius at the end of training",
        ["optimizer and threat", "", "lower / optimum", "upper / optimum", "certified gap"],
        [[float(cell) if not isinstance(cell, str) else cell for cell in row] for row in rows],
        f"{over} The certified gap, (upper - lower) / upper, is what a user sees, who does not "
        "know the optimum.",
    )


def plot(result: Result) -> dict:
    """Bounds against steps for one threat; certified gaps of all matched runs."""
    shown = [run for run in RUNS if run.target == "coordinate descent"]
    return {
        "bounds": certificate_plots.bounds(result, {run.title: run.fit for run in shown}),
        "gaps": certificate_plots.gaps(result, {run.title for run in RUNS if run.matched}),
    }
