"""The truth about norms: float64 NumPy on full spectra, and CVXPY. Nothing of the library."""

import math
import warnings
from typing import NamedTuple

import cvxpy as cp
import numpy as np


class Truth(NamedTuple):
    """An lp norm of the entries, the singular values, or (if there are axes) the spectrum."""

    p: float
    of: str = "entries"
    axes: tuple[int, ...] = ()

    @property
    def dual(self) -> "Truth":
        q = math.inf if self.p == 1 else 1.0 if self.p == math.inf else self.p / (self.p - 1)
        return self._replace(p=q)

    def magnitudes(self, x) -> np.ndarray:
        """What the lp norm is taken of, each coordinate counted: all N Fourier coefficients."""
        x = np.asarray(x, np.float64)
        if self.of == "spectrum":
            return np.abs(np.fft.fftn(x, axes=self.axes, norm="ortho")).ravel()
        if self.of == "singular values":
            return np.linalg.svd(as_matrix(x), compute_uv=False)
        return np.abs(x).ravel()

    def value(self, x) -> float:
        return float(np.linalg.norm(self.magnitudes(x), self.p))

    def expression(self, u: cp.Variable, shape: tuple[int, ...]) -> cp.Expression:
        """The norm of `u`, an array of `shape` flattened in C order."""
        if self.of == "singular values":
            matrix = cp.reshape(u, as_matrix(np.zeros(shape)).shape, order="C")
            return {1: cp.normNuc, 2: cp.norm2, math.inf: cp.sigma_max}[self.p](matrix)
        entries: cp.Expression = u
        if self.of == "spectrum":
            transform = dft(shape, self.axes)
            parts = cp.vstack([np.real(transform) @ u, np.imag(transform) @ u])
            entries = cp.norm(parts, 2, axis=0)
        if self.p in (1, 2, math.inf):
            return {1: cp.norm1, 2: cp.norm2, math.inf: cp.norm_inf}[self.p](entries)
        return cp.pnorm(entries, self.p)  # pyright: ignore[reportArgumentType]


def as_matrix(x: np.ndarray) -> np.ndarray:
    """The last axis against all others; a vector or a scalar is a column."""
    return x.reshape(-1, x.shape[-1]) if x.ndim > 1 else x.reshape(-1, 1)


def dft(shape: tuple[int, ...], axes: tuple[int, ...]) -> np.ndarray:
    """The matrix of the unitary DFT over `axes` of arrays of `shape`, flattened in C order."""
    basis = np.eye(math.prod(shape)).reshape(-1, *shape)
    shifted = tuple(axis % len(shape) + 1 for axis in axes)
    return np.fft.fftn(basis, axes=shifted, norm="ortho").reshape(len(basis), -1).T


def accuracy(truth: Truth) -> float:
    """How close the minimisers below are, measured: CLARABEL goes on for as long as it can.

    That is 1e-9 or better on second-order cones, 3e-7 on power and semidefinite cones.
    """
    easy = truth.p in (1, 2, math.inf) and truth.of != "singular values"
    return 1e-8 if easy else 1e-6


def solve(problem: cp.Problem) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Solution may be inaccurate")  # less than 1e-12, that is
        problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    assert problem.status in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE)


def project(truth: Truth, x: np.ndarray, radius: float) -> np.ndarray:
    u = cp.Variable(x.size)
    ball: list[cp.Constraint] = [truth.expression(u, x.shape) <= radius]
    solve(cp.Problem(cp.Minimize(cp.sum_squares(u - x.ravel())), ball))
    return value_of(u).reshape(x.shape)


def prox(truth: Truth, x: np.ndarray, scale: float) -> np.ndarray:
    u = cp.Variable(x.size)
    distance = 0.5 * cp.sum_squares(u - x.ravel())
    solve(cp.Problem(cp.Minimize(distance + scale * truth.expression(u, x.shape))))
    return value_of(u).reshape(x.shape)


def support(truth: Truth, g: np.ndarray) -> float:
    """The dual norm by its definition: the largest <u, g> over the unit ball."""
    u = cp.Variable(g.size)
    problem = cp.Problem(cp.Maximize(g.ravel() @ u), [truth.expression(u, g.shape) <= 1])
    solve(problem)
    return float(value_of(g.ravel() @ u))


def value_of(expression: cp.Expression) -> np.ndarray:
    assert expression.value is not None
    return np.asarray(expression.value)


def projection_gap(truth: Truth, x: np.ndarray, y: np.ndarray, radius: float) -> float:
    """How far `y` in the ball may be from the projection of `x`: at most the root of this.

    The gap is max_u <x - y, u - y> over the ball. It is 0 at the projection y*, and with u = y* and
    the same inequality of y* it bounds ||y - y*||^2.
    """
    return radius * truth.dual.value(x - y) - float(np.sum((x - y) * y))
