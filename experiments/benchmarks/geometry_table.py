"""54 trainings in one compiled program, against a NumPy loop over the same 54.

Coordinate, gradient and sign descent, each from zero for 10,000 steps 1/(B² L) on 18 Gaussian data
sets (100, 50, 25, 12, 6, 3 examples x 3 seeds, 100 dimensions). Both sides must agree on the ratio
of the reached to the optimal margin.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import timing
from experiments.linear_training import (
    METHODS,
    Problems,
    descend,
    optimal_margins,
    reached_margins,
    stack,
)
from jaxrobust import data

NAMES = ("coordinate descent", "gradient descent", "sign descent")
SIZES = (100, 50, 25, 12, 6, 3)
SEEDS = 3
BOUND = 20.0  # seconds, everything included
COLUMNS = ("", "compile s", "first run s", "median run s", "total s", "times faster")
DIFFERENCE = 0.02  # of a ratio, at most: the one side is float32, the other float64


class Times(NamedTuple):
    """Seconds of the 54 trainings."""

    compile: float
    first: float
    median: float

    @property
    def total(self) -> float:
        """What a user waits for one table."""
        return self.compile + self.first


def main(quick: bool) -> list[str]:
    """Prints the tables; returns what missed its bar."""
    steps = 1_000 if quick else 10_000
    sets = [data.logistic_gaussian(n, num_test=1, seed=s) for n in SIZES for s in range(SEEDS)]
    problems = stack(sets)
    ours, weights = one_program(problems, steps)
    seconds, rival_weights = timing.once(lambda: numpy_loop(sets, steps))
    rival = Times(0.0, seconds, seconds)
    found, rival_found = ratios(problems, weights, rival_weights)
    difference = float(np.abs(found - rival_found).max())
    print(f"54 trainings of {steps} steps (3 optimizers x 18 data sets)")
    named = {"this library, one program": ours, "NumPy loop, float64": rival}
    rows = [[name, *t, t.total, rival.total / t.total] for name, t in named.items()]
    print(timing.table(COLUMNS, rows))
    print("\nreached / optimal margin, mean of 3 seeds")
    print(ratio_table(found))
    print(f"largest difference from NumPy's ratios: {difference:.1e}")
    return missed(ours.total, difference)


def one_program(problems: Problems, steps: int) -> tuple[Times, Sequence]:
    """Our times, and the weights, one array per optimizer."""
    methods = tuple(METHODS[name] for name in NAMES)
    compiling, compiled = timing.once(lambda: descend.lower(problems, methods, steps).compile())
    first, weights = timing.once(lambda: compiled(problems))
    return Times(compiling, first, timing.median(lambda: compiled(problems), 3)), weights


def numpy_loop(sets: Sequence[data.Dataset], steps: int) -> list[jnp.ndarray]:
    """The rival's weights, one array per optimizer."""
    return [
        jnp.stack([numpy_descent(name, s.x_train, s.y_train, steps) for s in sets])
        for name in NAMES
    ]


def ratios(problems: Problems, *weights: Sequence) -> list[np.ndarray]:
    """Reached over optimal margins, ``(optimizers, data sets)``, of each side's weights."""
    methods = [METHODS[name] for name in NAMES]
    optima = [optimal_margins(problems, norm).margin for norm in methods]
    return [
        np.stack(
            [
                reached_margins(problems, w, norm) / optimum
                for w, norm, optimum in zip(side, methods, optima, strict=True)
            ]
        )
        for side in weights
    ]


def ratio_table(ratio: np.ndarray) -> str:
    """Mean ratios over the seeds, by optimizer and dimensions per example."""
    means = ratio.reshape(len(NAMES), len(SIZES), SEEDS).mean(axis=2)
    heads = ["d/n", *(str(100 // n) for n in SIZES)]
    rows = [[name, *map(float, row)] for name, row in zip(NAMES, means, strict=True)]
    return timing.table(heads, rows)


def missed(total: float, difference: float) -> list[str]:
    """The bars that were missed."""
    lines = []
    if total > BOUND:
        lines.append(f"geometry table: {total:.1f} s, bar {BOUND} s")
    if difference > DIFFERENCE:
        lines.append(f"geometry table: ratios differ from NumPy's by {difference:.3f}")
    return lines


def numpy_descent(name: str, x, y, steps: int) -> np.ndarray:
    """Steepest descent in float64, as a reader of the paper would write it."""
    signed = np.asarray(x, np.float64) * np.asarray(y, np.float64)[:, None]
    dual_order = {"coordinate descent": np.inf, "gradient descent": 2, "sign descent": 1}[name]
    rate = 1 / np.max(np.linalg.norm(signed, ord=dual_order, axis=1)) ** 2
    w = np.zeros(signed.shape[1])
    for _ in range(steps):
        margins = signed @ w
        q = np.exp(margins.min() - margins)
        g = -(q / q.sum()) @ signed  # gradient of log L
        if name == "coordinate descent":
            j = np.argmax(np.abs(g))
            w[j] -= rate * g[j]
        elif name == "gradient descent":
            w -= rate * g
        else:
            w -= rate * np.abs(g).sum() * np.sign(g)
    return w
