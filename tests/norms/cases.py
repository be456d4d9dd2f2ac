"""Every kind of norm, next to what it should be and a shape to try it on."""

import math
from typing import NamedTuple

import numpy as np

from jaxrobust import norms
from tests.norms.oracles import Truth


class Case(NamedTuple):
    norm: norms.Norm
    truth: Truth
    shape: tuple[int, ...]

    def draw(self, seed: int) -> np.ndarray:
        """A float64 array in which no two magnitudes are equal."""
        return np.random.default_rng(seed).normal(size=self.shape)


def _fourier(p, axes, shape):
    return Case(norms.fourier(norms.lp(p), axes), Truth(p, "spectrum", axes), shape)


def _schatten(p, shape):
    return Case(norms.schatten(p), Truth(p, "singular values"), shape)


CASES: dict[str, Case] = {
    "l1": Case(norms.l1, Truth(1), (8,)),
    "l1.1": Case(norms.lp(1.1), Truth(1.1), (8,)),
    "l1.5": Case(norms.lp(1.5), Truth(1.5), (8,)),
    "l2": Case(norms.l2, Truth(2), (8,)),
    "l3": Case(norms.lp(3), Truth(3), (8,)),
    "l10": Case(norms.lp(10), Truth(10), (8,)),
    "linf": Case(norms.linf, Truth(math.inf), (8,)),
    "fourier-l1-even": _fourier(1, (-1,), (8,)),
    "fourier-l1-odd": _fourier(1, (-1,), (7,)),
    "fourier-l2-odd": _fourier(2, (-1,), (7,)),
    "fourier-l3-even": _fourier(3, (-1,), (8,)),
    "fourier-linf-even": _fourier(math.inf, (-1,), (8,)),
    "fourier-linf-odd": _fourier(math.inf, (0,), (7,)),
    # Images of two channels: the last transformed axis even and odd, the other one odd and even.
    "fourier-l1-image": _fourier(1, (0, 1), (3, 4, 2)),
    "fourier-linf-image": _fourier(math.inf, (-3, -2), (4, 3, 2)),
    "spectral": _schatten(math.inf, (3, 4)),
    "nuclear": _schatten(1, (3, 4)),
    "schatten-3": _schatten(3, (3, 4)),
    "spectral-kernel": _schatten(math.inf, (2, 2, 3)),
    "nuclear-column": _schatten(1, (4,)),
}

# One of each kind, where more would show nothing new.
FEW = ["l1", "l1.5", "l2", "linf", "fourier-l1-even", "fourier-l1-image", "spectral", "nuclear"]
