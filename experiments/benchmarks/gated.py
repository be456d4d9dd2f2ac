"""Gated deep linear networks: the reduction beside the whole network, and moments beside examples.

A routing network of seven domains from decoupled weights, where gradient descent on the numbers of
the race is that on all matrices; float32. And a deep linear network that learns from moments of a
thousand and of a million examples, whose steps must take as long.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import gated_routing
from experiments.benchmarks import timing
from jaxrobust import gated

STEPS, QUICK_STEPS = 500, 5
WIDTHS, QUICK_WIDTHS = (64, 512), (8,)
NUMBERS = (1_000, 1_000_000)
LEAST_FASTER, AT_WIDTH = 100.0, 512  # the reduction, next to the network
MOST_APART = 1.10  # the slower set of examples over the faster one
MOST_OFF = 1e-3  # of the first loss: that both compute the same curve, in float32


class Curve(NamedTuple):
    """Of the network and of its reduction."""

    width: int
    whole: float  # seconds
    reduced: float
    compiling: tuple[float, float]
    off: float  # largest difference of losses over the first


def main(quick: bool) -> list[str]:
    """Prints the tables; returns what missed its bar."""
    found = [curves(width, quick) for width in (QUICK_WIDTHS if quick else WIDTHS)]
    steps = QUICK_STEPS if quick else STEPS
    print(f"\nMilliseconds of {steps} steps of gradient descent, and seconds to compile.\n")
    print(
        timing.table(
            ["width", "network", "reduction", "times faster", "compile, network", "reduction",
             "losses apart"],
            [[c.width, 1e3 * c.whole, 1e3 * c.reduced, c.whole / c.reduced, *c.compiling,
              f"{c.off:.1e}"] for c in found],
        )
    )  # fmt: skip
    seconds = from_examples(quick)
    print(f"\nMilliseconds of {steps} steps from moments of so many examples.\n")
    print(timing.table(["examples", "ms"], [[n, 1e3 * s] for n, s in seconds.items()]))
    return [] if quick else misses(found, seconds)


def misses(found: list[Curve], seconds: dict[int, float]) -> list[str]:
    """Whether the reduction is slow or another curve, or steps depend on the examples."""
    missed = []
    for curve in found:
        if curve.off > MOST_OFF:
            missed.append(f"gated: width {curve.width}: losses differ by {curve.off:.1e}")
        faster = curve.whole / curve.reduced
        if curve.width == AT_WIDTH and faster < LEAST_FASTER:
            missed.append(
                f"gated: the reduction is {faster:.0f} times as fast, not {LEAST_FASTER:g}"
            )
    apart = max(seconds.values()) / min(seconds.values())
    if apart > MOST_APART:
        missed.append(f"gated: steps from moments take {apart:.2f} times as long, {MOST_APART}")
    return missed


def curves(width: int, quick: bool) -> Curve:
    """Both on the same task from the same start."""
    steps = QUICK_STEPS if quick else STEPS
    seven = gated_routing.task(gated_routing.DOMAINS, gated_routing.TRAINED, width)
    modes = gated.diagonalize(seven.graph, seven.moments)
    b = {name: jnp.full(modes.s.shape[1], gated_routing.START) for name, _ in seven.graph.edges}
    params = gated.init_decoupled(jax.random.key(0), seven.graph, modes, gated_routing.START)
    whole = lambda: (
        gated.simulate(
            seven.graph, params, seven.moments, rate=gated_routing.RATE, num_steps=steps
        ).losses
    )
    reduced = lambda: (
        gated.simulate_reduced(
            seven.graph, b, modes, rate=gated_routing.RATE, num_steps=steps, allow_residual=True
        ).losses
    )
    firsts, seconds, losses = [], [], []
    for run in (whole, reduced):
        first, found = timing.once(run)
        losses.append(np.asarray(found)[-steps:])
        seconds.append(timing.median(run, 3 if quick else 7))
        firsts.append(first - seconds[-1])
    off = float(np.abs(losses[0] - losses[1]).max() / gated_routing.in_closed_form(np.zeros(1))[0])
    return Curve(width, seconds[0], seconds[1], (firsts[0], firsts[1]), off)


def from_examples(quick: bool) -> dict[int, float]:
    """Seconds by number of examples; moments are taken before."""
    graph, steps = gated.chain([20, 64, 64, 10]), QUICK_STEPS if quick else STEPS
    params = gated.init_orthogonal(jax.random.key(0), graph, 0.5)
    runs: dict[int, Any] = {}
    for number in NUMBERS:
        rng = np.random.default_rng(0)
        x = rng.normal(size=(number // (100 if quick else 1), 20)).astype(np.float32)
        data = gated.Dataset({"x": x}, {"y": x @ rng.normal(size=(20, 10)).astype(np.float32)})
        known = gated.moments(graph, data)
        runs[number] = functools.partial(
            gated.simulate, graph, params, known, rate=1e-3, num_steps=steps
        )
        timing.once(runs[number])
    repeats = 3 if quick else 15
    return {number: timing.median(run, repeats) for number, run in runs.items()}
