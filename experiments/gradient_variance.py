"""How much of the variance of a mini-batch gradient does better sampling remove?

Clusters of examples with alike gradients, of which one each is drawn, were published as a way to
lower the variance (GC), and shown to reach about what doubling the batch does. Here all variances
are exact, at fixed weights, relative to plain batches (SG-B; SG-2B is 0.5): of GC, of the same
clusters drawn from in better shares, of better clusters, of importance sampling and of SVRG.

The published convex problems: the last layer on random ReLU features of Gaussian inputs, which a
teacher network labels, over the number of features per example and the step size, with copies and
without; and a linear regression with more weights than examples.

Presets:
    quick: 80 s beside other work; 5 seeds of the table, 2 of the sweep, 20,000 steps
    full: 8 min beside other work; 10 seeds of the table, 3 of the sweep, 100,000 steps
"""

import dataclasses
import time
from typing import NamedTuple

import jax
import numpy as np

from experiments import gradient_estimators as estimators
from experiments import gradient_variance_claims as told
from experiments import gradient_variance_plots, gradient_variance_tables, random_features, silent
from experiments.gradient_estimators import Moments
from experiments.gradient_variance_claims import FRESH, ROWS, Row
from experiments.gradient_variance_regression import SETTINGS, measure_regression
from experiments.random_features import BATCH, Problem
from experiments.report import Result
from jaxrobust import clustering, sampling

STEPS = 4_000  # of the table
STARTS = 3  # of Hartigan's method, of which the best counts
SWEEP_STEPS, REFRESH = 5_000, 1_000


@dataclasses.dataclass(frozen=True)
class Config:
    """How many problems, and of which sizes."""

    seeds: int = 5
    """Problems for every row of the table."""
    sweep_seeds: int = 2
    """Problems for every setting of the sweep."""
    ratios: tuple[float, ...] = (1.0, 3.0, 10.0)
    """Features per example, of the sweep, with and without copies."""
    learning_rates: tuple[float, ...] = (0.1, 0.01, 0.001)
    """Of the sweep."""
    teacher: int = 1_000
    """Hidden units of the larger teacher; the usual one has 100."""
    regression_steps: int = 20_000
    """Training steps of the linear regression."""

    def __post_init__(self):
        for name, least in (("seeds", 1), ("sweep_seeds", 1), ("teacher", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.regression_steps < 2_000 or self.regression_steps % 2_000:
            raise ValueError(
                f"regression_steps must be a multiple of 2000, got {self.regression_steps}"
            )
        for name in ("ratios", "learning_rates"):
            if not getattr(self, name) or min(getattr(self, name)) <= 0:
                raise ValueError(f"{name} must be positive numbers, got {getattr(self, name)}")
        if max(self.ratios) > 50:
            raise ValueError(f"ratios must leave at least 20 examples, got {self.ratios}")


PRESETS = {
    "full": Config(
        seeds=10,
        sweep_seeds=3,
        ratios=(0.1, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 5.0, 10.0),
        teacher=10_000,
        regression_steps=100_000,
    )
}


class Variances(NamedTuple):
    """Along a trajectory, by estimator and seed; `(S, T)` each."""

    average: dict[str, np.ndarray]  # variance per weight
    normalised: dict[str, np.ndarray]  # variance over second moment


def run(config: Config, progress=silent) -> Result:
    """The table, the sweep, and the regression."""
    begin = time.perf_counter()
    table = {}
    for number, row in enumerate(ROWS):
        progress(0.5 * number / len(ROWS), f"table: {row.title}")
        table[row] = measure_row(row, config.seeds)
    tabulated = time.perf_counter()
    settings = told.settings_of(config)
    sweep = {}
    for number, setting in enumerate(settings):
        progress(0.5 + 0.4 * number / len(settings), f"sweep: {setting.title}")
        sweep[setting] = measure_path(setting, config.sweep_seeds)
    swept = time.perf_counter()
    regression = {}
    for number, data in enumerate(SETTINGS):
        progress(0.9 + 0.1 * number / len(SETTINGS), f"linear regression, {data.title}")
        regression[data.title] = measure_regression(config.regression_steps, data)
    seconds = {"table": tabulated - begin, "sweep": swept - tabulated}
    seconds["regression"] = time.perf_counter() - swept
    return Result(
        summary=gradient_variance_tables.summarise(table, sweep),
        claims=told.claims(config, table, sweep, regression),
        series={
            "table": {row.title: found for row, found in table.items()},
            "sweep": {
                setting.title: {**setting._asdict(), "average variance": found.average}
                for setting, found in sweep.items()
            },
            "regression": regression,
        },
        tables=gradient_variance_tables.tables(table, sweep, regression),
        words=told.WORDS,
        wall_time=seconds,
    )


def problems(row: Row, seeds: int) -> Problem:
    """The problems of all seeds, stacked."""
    number = random_features.num_examples(row.ratio)
    return random_features.make_all(seeds, number, row.duplicated, row.teacher)


def measure_row(row: Row, seeds: int) -> dict[str, np.ndarray]:
    """Variances relative to SG-B, ``(S,)`` for every estimator, with clusters made anew."""
    made = problems(row, seeds)
    paths = random_features.train(made, row.learning_rate, STEPS, REFRESH)
    found = []
    for seed in range(seeds):
        problem = random_features.one_of(made, seed)
        found.append(measure_point(problem, paths[seed, -1], paths[seed, -2], jax.random.key(seed)))
    return {name: np.array([one[name] for one in found]) for name in found[0]}


def measure_point(
    problem: Problem, params: jax.Array, snapshot: jax.Array, key: jax.Array
) -> dict[str, float]:
    """Variances of all estimators relative to SG-B, at the weights `params`."""
    gradients = random_features.gradients(problem, params)
    published = rank_one(problem, params, key, max_passes=10).assignments
    keys = jax.random.split(key, STARTS)
    fits = [clustering.fit(gradients, BATCH, key=key) for key in keys]
    best = min(fits, key=lambda fit: float(fit.objective)).assignments
    of_gc, of_best = (estimators.moments(gradients, a, BATCH) for a in (published, best))
    found = {
        **estimators.of_all(of_gc, BATCH),
        **estimators.of_clusters(of_gc, BATCH),
        estimators.HARTIGAN: estimators.equal(of_best, BATCH),
        estimators.HARTIGAN_NEYMAN: estimators.neyman(of_best, BATCH),
        estimators.SVRG: variance_of_svrg(problem, params, snapshot),
        **sampled(gradients, published, of_gc),
    }
    return {name: value / found[estimators.SG] for name, value in found.items()}


def rank_one(
    problem: Problem, params: jax.Array, key: jax.Array, max_passes: int
) -> clustering.Clustering:
    """The published clustering: factored centers, sizes that are counted anew in every pass."""
    data = (problem.features, problem.labels)
    return clustering.gradient_clusters(
        random_features.loss_fn, params, data, BATCH, key=key, method="rank1",
        max_passes=max_passes,
    )  # fmt: skip


def variance_of_svrg(problem: Problem, params: jax.Array, snapshot: jax.Array) -> float:
    """Of plain batches with the control variate of earlier weights."""
    now, before = (random_features.gradients(problem, p) for p in (params, snapshot))
    sampler = sampling.uniform(len(now), BATCH, replacement=True)
    return float(sampling.variance(now - before, sampler))


def sampled(gradients: jax.Array, assignments: jax.Array, m: Moments) -> dict[str, float]:
    """What samplers really have, whose draws are whole; the large batch as if it had 10 draws."""
    make = lambda batch, allocation, **options: sampling.stratified(
        assignments, batch, allocation=allocation, num_clusters=BATCH, replacement=True, **options
    )
    best = {"allocation": "neyman", "spread": m.spreads}
    exact = lambda sampler: float(sampling.variance(gradients, sampler))
    scale = estimators.LARGE_BATCH / BATCH
    return {
        estimators.EQUAL_SAMPLER: exact(make(BATCH, "equal")),
        "proportional, sampler": exact(make(BATCH, "proportional")),
        "Neyman, sampler": exact(make(BATCH, cover=False, **best)),
        estimators.NEYMAN_SAMPLER: scale * exact(make(estimators.LARGE_BATCH, **best)),
    }


def measure_path(setting: Row, seeds: int) -> Variances:
    """Variances along training, with clusters and snapshots of some steps before."""
    made = problems(setting, seeds)
    paths = random_features.train(made, setting.learning_rate, SWEEP_STEPS, FRESH)
    stale = REFRESH // FRESH
    average: dict[str, list] = {}
    normalised: dict[str, list] = {}
    for seed in range(seeds):
        problem = random_features.one_of(made, seed)
        for begin in range(stale, paths.shape[1] - 1, stale):
            snapshot, params = paths[seed, begin], paths[seed, begin + 1]
            assigned = rank_one(problem, snapshot, jax.random.key(seed), max_passes=3).assignments
            now, before = (random_features.gradients(problem, p) for p in (params, snapshot))
            # Clusters as old as the published ones.
            best = clustering.fit(before, BATCH, key=jax.random.key(seed)).assignments
            m, of_best, of_differences = (
                estimators.moments(points, clusters, BATCH)
                for points, clusters in ((now, assigned), (now, best), (now - before, assigned))
            )
            found = {
                **estimators.of_all(m, BATCH),
                **estimators.of_clusters(m, BATCH),
                estimators.HARTIGAN: estimators.equal(of_best, BATCH),
                estimators.SVRG: variance_of_svrg(problem, params, snapshot),
                estimators.STRATA_SVRG: estimators.equal(of_differences, BATCH),
            }
            for name, value in found.items():
                average.setdefault(name, []).append(value / params.size)
                normalised.setdefault(name, []).append(estimators.normalised(value, m))
    shape = lambda by: {name: np.array(values).reshape(seeds, -1) for name, values in by.items()}
    return Variances(shape(average), shape(normalised))


def plot(result: Result) -> dict:
    """The table as a picture, the sweep, and the regression."""
    return {
        "table": gradient_variance_plots.table(result),
        "sweep": gradient_variance_plots.sweep(result),
        "copies": gradient_variance_plots.copies(result),
        "regression": gradient_variance_plots.regression(result),
    }
