"""54 trainings in one compiled program, against a NumPy loop over the same 54.

Coordinate, gradient and sign descent, each from zero for 10,000 steps 1/(B² L) on 18 Gaussian data
sets (100, 50, 25, 12, 6, 3 examples x 3 seeds, 100 dimensions). Both sides must agree on the ratio
of the reached to the optimal margin.
"""

import time

import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import timing
from experiments.linear_training import METHODS, descend, optimal_margins, reached_margins, stack
from jaxrobust import data

NAMES = ("coordinate descent", "gradient descent", "sign descent")
BOUND = 20.0  # seconds, everything included


def main(quick: bool) -> list[str]:
    """Prints the table; returns what missed its bar."""
    steps = 1_000 if quick else 10_000
    sets = [
        data.logistic_gaussian(n, num_test=1, seed=s)
        for n in (100, 50, 25, 12, 6, 3)
        for s in range(3)
    ]
    problems = stack(sets)
    methods = tuple(METHODS[name] for name in NAMES)
    compile_seconds, compiled = timing.once(
        lambda: descend.lower(problems, methods, steps).compile()
    )
    run_seconds, weights = timing.once(lambda: compiled(problems))
    median_seconds = timing.median(lambda: compiled(problems), 3)

    begin = time.perf_counter()
    rival = [[numpy_descent(name, s.x_train, s.y_train, steps) for s in sets] for name in NAMES]
    numpy_seconds = time.perf_counter() - begin

    optima = [optimal_margins(problems, norm).margin for norm in methods]
    ratio = np.stack(
        [
            reached_margins(problems, w, n) / o
            for w, n, o in zip(weights, methods, optima, strict=True)
        ]
    )
    rival_ratio = np.stack(
        [
            reached_margins(problems, jnp.stack(w), n) / o
            for w, n, o in zip(rival, methods, optima, strict=True)
        ]
    )
    total = compile_seconds + run_seconds
    rows = [
        [
            "this library, one program",
            compile_seconds,
            run_seconds,
            median_seconds,
            total,
            numpy_seconds / total,
        ],
        ["NumPy loop, float64", 0.0, numpy_seconds, numpy_seconds, numpy_seconds, 1.0],
    ]
    print(f"54 trainings of {steps} steps (3 optimizers x 18 data sets)")
    print(
        timing.table(
            ["", "compile s", "first run s", "median run s", "total s", "times faster"], rows
        )
    )
    means = ratio.reshape(3, 6, 3).mean(axis=2)
    print("\nreached / optimal margin, mean of 3 seeds")
    print(
        timing.table(
            ["d/n", "1", "2", "4", "8", "16", "33"],
            [[n, *map(float, m)] for n, m in zip(NAMES, means, strict=True)],
        )
    )
    difference = float(np.abs(ratio - rival_ratio).max())
    print(f"largest difference from NumPy's ratios: {difference:.1e}")
    missed = []
    if total > BOUND:
        missed.append(f"geometry table: {total:.1f} s, bar {BOUND} s")
    if difference > 0.02:
        missed.append(f"geometry table: ratios differ from NumPy's by {difference:.3f}")
    return missed


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
