"""Norms next to what they should be, and data to try them on."""

import math
from typing import NamedTuple

import numpy as np

from jaxrobust import norms
from tests.norms.oracles import Truth


class Case(NamedTuple):
    norm: norms.Norm
    truth: Truth
    shape: tuple[int, ...]

    @property
    def dual(self) -> "Case":
        return Case(self.norm.dual, self.truth.dual, self.shape)


def _fourier(p, axes, shape):
    return Case(norms.fourier(norms.lp(p), axes), Truth(p, "spectrum", axes), shape)


def _schatten(p, shape):
    return Case(norms.schatten(p), Truth(p, "singular values"), shape)


CASES: dict[str, Case] = {
    "l1": Case(norms.l1, Truth(1), (8,)),
    "l2": Case(norms.l2, Truth(2), (8,)),
    "linf": Case(norms.linf, Truth(math.inf), (8,)),
    "l1.5": Case(norms.lp(1.5), Truth(1.5), (8,)),
    "l3": Case(norms.lp(3), Truth(3), (8,)),
    "fourier-l1-even": _fourier(1, (-1,), (8,)),
    "fourier-linf-odd": _fourier(math.inf, (-1,), (7,)),
    "fourier-l1-image": _fourier(1, (0, 1), (3, 4, 2)),
    "fourier-linf-image": _fourier(math.inf, (0, 1), (3, 4, 2)),
    "spectral": _schatten(math.inf, (3, 4)),
    "nuclear": _schatten(1, (3, 4)),
}

# The problems that most tests of `max_margin` solve have one shape, so that each norm is compiled
# once: other sizes are padded to it, which leaves the largest margin as it is.
ROWS, FEATURES = 24, 16

# What the interior-point method solves.
INTERIOR: dict[str, Case] = {
    "l1": Case(norms.l1, Truth(1), (FEATURES,)),
    "l2": Case(norms.l2, Truth(2), (FEATURES,)),
    "linf": Case(norms.linf, Truth(math.inf), (FEATURES,)),
    "fourier-l1": _fourier(1, (-1,), (FEATURES,)),
    "fourier-linf": _fourier(math.inf, (-1,), (FEATURES,)),
}


def padded(x, y, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """The examples, over and over again, up to ``rows``."""
    index = np.arange(rows) % len(x)
    return np.asarray(x)[index], np.asarray(y)[index]


def separable(rows: int, shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian examples (float64) with the labels of random weights, -1.0 and +1.0."""
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=(rows, *shape)), rng.normal(size=shape)
    return x, np.where(np.tensordot(x, w, axes=len(shape)) >= 0, 1.0, -1.0)


def classes(
    rows: int, shape: tuple[int, ...], num_classes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian examples (float64) with the classes that random weights give them."""
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=(rows, *shape)), rng.normal(size=(num_classes, *shape))
    axes = range(1, x.ndim)
    return x, np.argmax(np.tensordot(x, w, axes=(axes, axes)), axis=1)
