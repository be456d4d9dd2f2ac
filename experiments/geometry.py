"""Which optimizer reaches the most robust linear classifier, against which perturbations?

A linear classifier that separates its training data has a robust radius: the largest perturbation,
measured in some norm, that cannot change the sign of any training example. Theory says that
steepest descent in a norm, without adversarial training or regularisation, converges to the
classifier of largest radius against perturbations bounded in the *dual* norm: coordinate
descent (l1) against linf, gradient descent (l2) against l2, sign descent (linf) against l1, and the
same after a Fourier transform, Fourier coordinate descent against Fourier-linf and Fourier phase
descent against Fourier-l1.

All run from zero on the exponential loss with the step 1/(B² L), where B is the largest dual norm
of an example and L the loss. What is reported is the radius they reach over the best one that any
linear classifier can have, which `max_margin` computes with a certificate (relative gap 1e-5).

- Gaussian data in 100 dimensions, from 1 to 33 dimensions per example;
- pairs of handwritten digits (8x8 images; Fourier norms are two-dimensional);
- Khan gene expression (2308 genes, 63 cases), if the folder JAXROBUST_DATA has it;
- breast cancer (30 features and a constant): separable, but barely.

Presets:
    quick: 60 s on 2 cores; 3 seeds, 5 digit pairs
    full: 8 min on 2 cores; 10 seeds, 100,000 steps, on digits 300,000
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from concurrent import futures

import jax
import jax.numpy as jnp
import numpy as np

from experiments import geometry_plots, geometry_suites, linear_training, silent
from experiments.geometry_claims import claims
from experiments.geometry_suites import DIGITS, Suite
from experiments.geometry_tables import summarise, tables
from experiments.linear_training import Optima
from experiments.report import Result
from jaxrobust import linear


@dataclasses.dataclass(frozen=True)
class Config:
    """Data sets and length of training."""

    seeds: int = 3
    """Number of seeds: Gaussian data sets, and random splits of the digits."""
    steps: int = 10_000
    """Training steps of every run, but on digits."""
    digit_steps: int = 100_000
    """Training steps on digits, whose margins are small."""
    sizes: tuple[int, ...] = (100, 50, 25, 12, 6, 3)
    """Numbers of Gaussian training examples in 100 dimensions."""
    digit_pairs: tuple[tuple[int, int], ...] = ((0, 1), (1, 7), (3, 8), (4, 9), (8, 9))
    """Pairs of digits to tell apart."""

    def __post_init__(self):
        for name in ("seeds", "steps", "digit_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"sizes must be positive numbers of examples, got {self.sizes}")
        if not self.digit_pairs or any(
            low == high or not {low, high} <= set(range(10)) for low, high in self.digit_pairs
        ):
            raise ValueError(
                "digit_pairs must be one or more pairs of different digits from 0 to 9, "
                f"got {self.digit_pairs}"
            )


PRESETS = {"full": Config(seeds=10, steps=100_000, digit_steps=300_000)}


def run(config: Config, progress=silent) -> Result:
    """Trains on all suites, and compares with the certified optimum."""
    suites, missing = make_suites(config)
    weights, seconds, begin = {}, {}, time.perf_counter()
    with optima_in_background(suites) as coming:
        for number, suite in enumerate(suites):
            progress(number / (len(suites) + 1), f"{suite.name}: training")
            weights[suite.name] = train(suite)
        seconds["training"] = time.perf_counter() - begin
        progress(len(suites) / (len(suites) + 1), "certified optimum")
        optima = {name: future.result() for name, future in coming.items()}
    seconds["optimum, after the training"] = time.perf_counter() - begin - seconds["training"]
    found = {
        suite.name: geometry_suites.measure(suite, weights[suite.name], optima[suite.name])
        for suite in suites
    }
    digits = next(suite for suite in suites if suite.name == DIGITS)
    return Result(
        summary=summarise(found, missing),
        claims=claims(found),
        series={
            "ratio": {name: f.ratio for name, f in found.items()},
            "labels": {name: f.labels for name, f in found.items()},
            "methods": {name: f.methods for name, f in found.items()},
            "robust accuracy": robust_accuracy_curves(
                config, digits, weights[DIGITS], optima[DIGITS]
            ),
        },
        tables=tables(found, missing),
        wall_time=seconds,
    )


def make_suites(config: Config) -> tuple[list[Suite], str]:
    """The suites, and why the one that needs files is not among them; empty if it is."""
    suites = [
        geometry_suites.gaussian(config.sizes, config.seeds, config.steps),
        geometry_suites.digits(config.digit_pairs, config.seeds, config.digit_steps),
        geometry_suites.breast_cancer(config.steps),
    ]
    try:
        return [*suites, geometry_suites.khan(config.steps)], ""
    except FileNotFoundError as error:
        return suites, str(error)


@contextlib.contextmanager
def optima_in_background(suites: Sequence[Suite]) -> Iterator[dict[str, futures.Future]]:
    """The certified optima of all suites, computed while the main thread trains.

    Compiling the solver's programs takes about as long as the training, which leaves a core idle.
    """
    pool = futures.ThreadPoolExecutor(1)
    try:
        yield {s.name: pool.submit(geometry_suites.certified_optima, s) for s in suites}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # after Ctrl-C nobody waits for the rest


def train(suite: Suite) -> jax.Array:
    """Final weights ``(methods, problems, *features)``."""
    methods = tuple(suite.methods.values())
    return jax.block_until_ready(linear_training.descend(suite.problems, methods, suite.steps))


def robust_accuracy_curves(
    config: Config, suite: Suite, weights: jax.Array, optima: list[Optima]
) -> dict:
    """Share of held-out digits (pair 3 and 8 or the first) classified right under attack."""
    pair = (3, 8) if (3, 8) in config.digit_pairs else config.digit_pairs[0]
    label = f"{pair[0]} and {pair[1]}"
    index = suite.labels.index(label)  # of the split with seed 0
    held_out = linear_training.digit_pair(*pair, 0)
    trained = dict(zip(suite.methods, np.asarray(weights[:, index]), strict=True))
    curves: dict = {"pair": label}
    for (name, norm), optimum in zip(suite.methods.items(), optima, strict=True):
        radii = np.linspace(0, 4 * optimum.margin[index], 41)
        rows = trained | {"most robust (certified)": optimum.w[index]}
        curves[name] = {"radius": radii} | {
            other: linear.adversarial_accuracy(
                jnp.asarray(w, jnp.float32),
                held_out.x_test,
                held_out.y_test,
                norm.dual,
                jnp.asarray(radii, jnp.float32),
            )
            for other, w in rows.items()
        }
    return curves


def plot(result: Result) -> dict:
    """The tables of ratios, the ratios against dimensions, and the accuracy under attack."""
    return {
        "ratios": geometry_plots.ratios(result),
        "dimensions": geometry_plots.dimensions(result),
        "accuracy": geometry_plots.accuracy(result),
    }
