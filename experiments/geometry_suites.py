"""The training problems of the experiment `geometry`, and what is measured on them."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import linear_training
from experiments.linear_training import METHODS, Optima, Problems, stack
from jaxrobust import data
from jaxrobust.norms import Norm

DIMENSIONS = 100  # of the Gaussian data
WIDE = 8  # dimensions per example from which theory's limit is expected to be near
GAUSSIAN, DIGITS, BREAST_CANCER, KHAN = (
    "Gaussian data",
    "digit pairs",
    "breast cancer",
    "Khan gene expression",
)
TABULAR = ("coordinate descent", "gradient descent", "sign descent")  # no Fourier transform there


@dataclasses.dataclass(frozen=True)
class Suite:
    """Problems of one kind, and the norms of the weights that make sense for them."""

    name: str
    problems: Problems
    labels: list[str]  # one per problem
    methods: dict[str, Norm]
    steps: int  # of training


class Found(NamedTuple):
    """What was measured on a suite; threat t is the one that method t is predicted to be best for.

    A ratio is the reached robust radius over the largest that any linear classifier has.
    """

    labels: list[str]  # one per problem
    methods: list[str]  # names, one per method and so per threat
    steps: int  # of training
    ratio: np.ndarray  # (methods, threats, problems)
    share: np.ndarray  # (threats, problems): optimal margin over the largest example, as B has it
    correct: np.ndarray  # (methods, problems): share of the training examples classified right

    @property
    def matched(self) -> np.ndarray:
        """Ratios of the predicted optimizers, ``(threats, problems)``."""
        return np.stack([self.ratio[i, i] for i in range(len(self.ratio))])

    @property
    def mismatched(self) -> np.ndarray:
        """Ratios of all the others, ``(methods * (methods - 1), problems)``."""
        return self.ratio[~np.eye(len(self.ratio), dtype=bool)]

    @property
    def lead(self) -> np.ndarray:
        """By how much the predicted optimizer beats the best of the others, as `matched`."""
        others = [
            np.delete(self.ratio[:, i], i, axis=0).max(axis=0) for i in range(len(self.ratio))
        ]
        return self.matched - np.stack(others)

    def of(self, chosen: np.ndarray) -> "Found":
        """The same of some of the problems, by a mask ``(problems,)``."""
        labels = [label for label, wanted in zip(self.labels, chosen, strict=True) if wanted]
        measured = (array[..., chosen] for array in (self.ratio, self.share, self.correct))
        return Found(labels, self.methods, self.steps, *measured)

    def wide(self) -> "Found | None":
        """Of Gaussian data the problems with many dimensions per example; None without any."""
        chosen = np.array([DIMENSIONS / int(label) >= WIDE for label in self.labels])
        return self.of(chosen) if chosen.any() else None


def gaussian(sizes: Sequence[int], seeds: int, steps: int) -> Suite:
    """The Gaussian data of the paper's code, for every size and seed."""
    runs = [(n, seed) for n in sizes for seed in range(seeds)]
    sets = [data.logistic_gaussian(n, num_test=1, seed=seed) for n, seed in runs]
    return Suite(GAUSSIAN, stack(sets), [str(n) for n, _ in runs], dict(METHODS), steps)


def digits(pairs: Sequence[tuple[int, int]], seeds: int, steps: int) -> Suite:
    """Pairs of handwritten digits as 8x8 images; a seed is a split into train and test."""
    runs = [(pair, seed) for pair in pairs for seed in range(seeds)]
    sets = [linear_training.digit_pair(*pair, seed) for pair, seed in runs]
    plane = {name: linear_training.as_plane(norm) for name, norm in METHODS.items()}
    return Suite(DIGITS, stack(sets), [f"{a} and {b}" for (a, b), _ in runs], plane, steps)


def breast_cancer(steps: int) -> Suite:
    """All 569 cases and a constant feature, without which they are not separable."""
    full = data.breast_cancer(test_fraction=0.0)
    constant = jnp.ones((full.x_train.shape[0], 1), full.x_train.dtype)
    with_constant = full._replace(x_train=jnp.concatenate([full.x_train, constant], axis=1))
    return Suite(BREAST_CANCER, stack([with_constant]), ["all cases"], tabular(), steps)


def khan(steps: int) -> Suite:
    """Each of four tumour classes against the rest, 63 cases, 2308 genes.

    Raises:
      FileNotFoundError: if the files are not there; the message says how to get them.
    """
    full = data.khan(standardize=True)
    sets = [data.one_vs_rest(full, number) for number in range(4)]
    return Suite(KHAN, stack(sets), list(full.info.class_names), tabular(), steps)


def tabular() -> dict[str, Norm]:
    """The optimizers for features without order."""
    return {name: METHODS[name] for name in TABULAR}


def certified_optima(suite: Suite) -> list[Optima]:
    """The most robust classifiers of every problem, one entry per method's norm.

    Raises:
      ValueError: if a problem is not linearly separable.
    """
    optima = linear_training.optimal_margins_by_norm(suite.problems, list(suite.methods.values()))
    if not all(optimum.separable.all() for optimum in optima):
        raise ValueError(f"{suite.name}: not linearly separable, so there is no robust radius")
    return optima


def measure(suite: Suite, weights: jax.Array, optima: list[Optima]) -> Found:
    """What trained weights ``(methods, problems, *features)`` are worth."""
    targets = list(zip(suite.methods.values(), optima, strict=True))
    reached = [
        linear_training.reached_margins(suite.problems, weights, norm) / optimum.margin
        for norm, optimum in targets
    ]
    shares = [
        linear_training.relative_margins(suite.problems, norm, optimum.margin)
        for norm, optimum in targets
    ]
    return Found(
        suite.labels,
        list(suite.methods),
        suite.steps,
        np.stack(reached, axis=1),
        np.stack(shares),
        correct_share(suite.problems, weights),
    )


def correct_share(problems: Problems, weights: jax.Array) -> np.ndarray:
    """Share of the training examples that are classified right, ``(methods, problems)``."""
    x = np.asarray(problems.x).reshape(*problems.x.shape[:2], -1)
    flat = np.asarray(weights).reshape(*weights.shape[:2], -1)
    right = np.einsum("snf,msf->msn", x, flat) * np.asarray(problems.y) > 0
    return np.mean(right, axis=2, where=np.asarray(problems.where))
