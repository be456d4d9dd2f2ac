"""Steepest descent in NumPy, float64, straight from the formulas. Imports nothing of the library.

The directions are for one vector or matrix; the Fourier ones use the matrix of the DFT, no FFT.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Geometry(NamedTuple):
    """What a norm is to steepest descent."""

    direction: Callable[[np.ndarray], np.ndarray]  # gradient -> argmax <g, v> - |v|^2 / 2
    norm: Callable[[np.ndarray], float]
    dual: Callable[[np.ndarray], float]


def _lp_norm(x, p):
    return np.max(np.abs(x)) if p == np.inf else np.sum(np.abs(x) ** p) ** (1 / p)


def _coordinate(g):
    v = np.zeros_like(g)
    j = np.argmax(np.abs(g))  # the first of a tie
    v.flat[j] = g.flat[j]
    return v


def _lp(p):
    q = p / (p - 1)

    def direction(g):
        return _lp_norm(g, q) ** (2 - q) * np.sign(g) * np.abs(g) ** (q - 1)

    return Geometry(direction, lambda x: _lp_norm(x, p), lambda x: _lp_norm(x, q))


def _singular_values(x):
    return np.linalg.svd(x, compute_uv=False)


def _polar(g):
    u, s, vt = np.linalg.svd(g, full_matrices=False)
    return s.sum() * (u @ vt)


def _leading_triple(g):
    u, s, vt = np.linalg.svd(g, full_matrices=False)
    return s[0] * np.outer(u[:, 0], vt[0])


def dft(size):
    """The unitary DFT matrix."""
    k = np.arange(size)
    return np.exp(-2j * np.pi * np.outer(k, k) / size) / np.sqrt(size)


def _spectrum(x):
    return dft(len(x)) @ x


def _fourier_coordinate(g):
    d = len(g)
    spectrum = _spectrum(g)
    # Moduli that are equal in theory differ by rounding; the first of them is meant.
    moduli = np.abs(spectrum[: d // 2 + 1])
    k = np.argmax(moduli > moduli.max() * (1 - 1e-12))
    z = np.zeros(d, complex)
    if k in (0, d / 2):
        z[k] = spectrum[k]
    else:
        z[k], z[d - k] = spectrum[k] / 2, spectrum[d - k] / 2
    return _real(dft(d).conj().T @ z)


def _fourier_phase(g):
    spectrum = _spectrum(g)
    return _real(np.sum(np.abs(spectrum)) * (dft(len(g)).conj().T @ (spectrum / np.abs(spectrum))))


def _real(x):
    assert np.max(np.abs(x.imag)) < 1e-10 * max(1, np.max(np.abs(x.real)))
    return x.real


VECTOR = {
    "l1": Geometry(_coordinate, lambda x: _lp_norm(x, 1), lambda x: _lp_norm(x, np.inf)),
    "l2": Geometry(lambda g: g, lambda x: _lp_norm(x, 2), lambda x: _lp_norm(x, 2)),
    "linf": Geometry(
        lambda g: np.sum(np.abs(g)) * np.sign(g),
        lambda x: _lp_norm(x, np.inf),
        lambda x: _lp_norm(x, 1),
    ),
    "l1.5": _lp(1.5),
    "l4": _lp(4.0),
    "fourier-l1": Geometry(
        _fourier_coordinate,
        lambda x: _lp_norm(_spectrum(x), 1),
        lambda x: _lp_norm(_spectrum(x), np.inf),
    ),
    "fourier-linf": Geometry(
        _fourier_phase,
        lambda x: _lp_norm(_spectrum(x), np.inf),
        lambda x: _lp_norm(_spectrum(x), 1),
    ),
}

MATRIX = {
    "spectral": Geometry(
        _polar, lambda x: _singular_values(x).max(), lambda x: _singular_values(x).sum()
    ),
    "nuclear": Geometry(
        _leading_triple, lambda x: _singular_values(x).sum(), lambda x: _singular_values(x).max()
    ),
}


# --- losses of a linear classifier; the rows of x are y_i x_i -------------------------------------


def exponential(w, x):
    """Mean exponential loss and its gradient."""
    q = np.exp(-x @ w) / len(x)
    return q.sum(), -q @ x


def logistic(w, x):
    """Mean logistic loss and its gradient."""
    margins = x @ w
    return np.mean(np.logaddexp(0, -margins)), -(1 / (1 + np.exp(margins)) / len(x)) @ x


def separable(n, d, seed):
    """Gaussian points with the labels of a random direction, multiplied in."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    return x * np.sign(x @ rng.normal(size=d))[:, None]
