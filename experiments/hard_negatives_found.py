"""What `hard_negatives` found: its runs by name, and what they reached."""

from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.hard_negatives_problems import Texts
from experiments.hard_negatives_runs import Run
from jaxrobust import contrastive

SPEC = "our specification, section 7.2 (measured before)"
OWN = "this library: measured, no paper"
# Of one percentage point: of two equal runs none is ahead.
AHEAD = 0.01
SIZE, COPIES = "batch of ", "copies: "
EARLY = "views, early"
COMPARED = "views, as long as before"
# Data sets from which on means are compared with those before: spread over few of them says little
# (R@1 of one method has a deviation of 1.2 over the first 3, of 2.5 over 8).
LEAST_COMPARED = 8
UNTRAINED = "TF-IDF, not trained"
TOLD = "{}, copies told"
FIVE = "400 images, five captions of each"
FIVE_VIEWS = "400 things, five pairs of views of each"
COLLAPSED = 0.95  # mean cosine of different items, from which on it is told to be a collapse

Found = dict[str, dict[str, Run]]


def of(stored: dict[str, Any]) -> Run:
    """A run as it was stored."""
    return Run(*(np.asarray(stored[name]) for name in Run._fields))


def of_size(size: int) -> str:
    """The name of the runs with batches of this size."""
    return f"{SIZE}{size}"


def of_copies(copies: int) -> str:
    """The name of the runs with so many views of each thing."""
    return f"{COPIES}{copies}"


def number_in(name: str) -> int:
    """The number of :func:`of_size` or :func:`of_copies`."""
    return int(name.split(" ")[-1])


def named(found: Any, prefix: str) -> dict[str, Any]:
    """Those parts whose name begins so."""
    return {name: by for name, by in found.items() if name.startswith(prefix)}


def reached(run: Run, what: str = "rsum") -> np.ndarray:
    """``(seeds,)``: at the epoch that validation chooses, in the end without one."""
    values = np.asarray(getattr(run, what))
    return values[np.arange(len(values)), chosen(run)]


def chosen(run: Run) -> np.ndarray:
    """``(seeds,)``: the epoch, from 0, that is the first best one on the validation set."""
    validated = np.asarray(run.validated)
    without = np.isnan(validated).all(axis=1)
    best = np.where(np.isnan(validated), -np.inf, validated).argmax(axis=1)
    return np.where(without, validated.shape[1] - 1, best)


def untrained(texts: Texts, seeds: int) -> Run:
    """Retrieval by the words that captions have in common."""
    scores = jnp.asarray(texts.untrained, jnp.float32)
    # Rows of the unit matrix, so that the inner products are these scores.
    found = contrastive.retrieval_metrics(
        scores, jnp.eye(scores.shape[1]), texts.problem.test.groups, similarity="dot"
    )
    same = lambda value: np.full((seeds, 1), float(value))
    return Run(same(found.x_to_y.recall[0]), same(found.rsum), *[same(np.nan)] * 4)


def ahead(one: Run, other: Run, what: str = "rsum", first: bool = False) -> float:
    """The mean of :func:`gap`, less two standard errors.

    By chance it is above 0 in 4 % of runs with 8 seeds, in 9 % of those with 3.
    """
    return surely(gap(one, other, what, first))


def gap(one: Run, other: Run, what: str = "rsum", first: bool = False) -> np.ndarray:
    """``(seeds,)``: differences in the end, or after the first epoch, of runs of one seed."""
    values = (lambda run: np.asarray(getattr(run, what))[:, 0]) if first else (
        lambda run: reached(run, what)
    )  # fmt: skip
    return values(one) - values(other)


def surely(gaps: np.ndarray) -> float:
    """Their mean, less two standard errors."""
    return float(gaps.mean() - 2 * gaps.std(ddof=1) / np.sqrt(len(gaps)))


def leads_from(one: Run, other: Run) -> int | None:
    """The epoch, from 1, from which on the mean R@1 of one is above that of the other."""
    above = np.mean(one.recall, axis=0) > np.mean(other.recall, axis=0)
    behind = np.flatnonzero(~above)
    first = behind[-1] + 1 if behind.size else 0
    return None if first == len(above) else int(first) + 1


def spread(by: dict[str, Run], what: str, methods: Iterable[str]) -> str:
    """Mean and standard deviation over seeds in the end, by method."""
    parts = []
    for method in methods:
        values = reached(by[method], what)
        parts.append(f"{method} {values.mean():.1f} ± {values.std(ddof=1):.1f}")
    return ", ".join(parts)


def off_by(values: Any, before: Any, deviation: float | None, seeds_before: int) -> np.ndarray:
    """Differences of means to what was measured before, in standard errors.

    Args:
      values: ``(seeds, ...)``.
      before: ``(...)``.
      deviation: over seeds, as it was noted; None to take that of the values, the mean one if they
        are several.
      seeds_before: number of them.
    """
    values = np.asarray(values, float)
    here = np.sqrt(np.mean(values.var(axis=0, ddof=1)))
    errors = [here / np.sqrt(len(values))]
    errors += [(here if deviation is None else deviation) / np.sqrt(seeds_before)]
    off, error = np.abs(values.mean(axis=0) - np.asarray(before)), np.hypot(*errors)
    # Without any spread it is as before, or infinitely far from it.
    return off / error if error > 0 else np.where(off > 0, np.inf, 0.0)
