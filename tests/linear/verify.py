"""A result of ``max_margin`` checked from scratch, in float64 NumPy."""

from typing import NamedTuple

import numpy as np

from jaxrobust.linear import MaxMargin
from tests.linear import oracles
from tests.norms.oracles import Truth


class Problem(NamedTuple):
    """What was asked: examples, labels, the norm of the weights, and how many classes."""

    x: np.ndarray
    y: np.ndarray
    truth: Truth
    num_classes: int | None = None

    @property
    def signed(self) -> np.ndarray:
        return oracles.signed_examples(self.x, self.y, self.num_classes)

    @property
    def unit(self) -> float:
        """The largest dual norm of a signed example: what rounding and zero are measured in."""
        return max(self.truth.dual.value(a) for a in self.signed)

    def optimum(self) -> float:
        return oracles.optimum(self.truth, self.signed)


def solved(
    result: MaxMargin, problem: Problem, *, tolerance: float = 1e-4, rounding: float = 1e-12
) -> tuple[float, float]:
    """The bounds, once all that a solution of separable data promises has been found true.

    ``rounding`` is that of the dtype, in units of the problem.
    """
    lower, upper = bounds(result, problem, rounding=rounding)
    assert result.separable
    assert result.converged, result.describe()
    assert 0 <= result.gap <= tolerance
    unit = rounding * problem.unit
    np.testing.assert_allclose(result.gap, max(1 - lower / upper, 0), atol=4 * unit / upper)
    return lower, upper


def inseparable(
    result: MaxMargin, problem: Problem, *, zero: float | None = None, rounding: float = 1e-12
) -> None:
    """The proof that nothing separates the data: a combination of the examples that is zero."""
    _, upper = bounds(result, problem, rounding=rounding)
    assert not result.separable
    assert result.converged
    default = 1e-10 if result.w.dtype == np.float64 else 1e-7
    assert upper <= (default if zero is None else zero) * problem.unit


def bounds(result: MaxMargin, problem: Problem, *, rounding: float = 1e-12) -> tuple[float, float]:
    """The bounds from the weights and the dual weights alone; they are those reported."""
    truth, signed, unit = problem.truth, problem.signed, rounding * problem.unit
    w, q = np.asarray(result.w, float), np.asarray(result.dual_weights, float)
    assert w.shape == signed.shape[1:]
    if problem.num_classes is not None:
        rival = np.arange(problem.num_classes)[None, :] != problem.y[:, None]
        assert not np.any(q[~rival])
        q = q[rival]
    assert q.shape == signed.shape[:1]
    assert np.all(q >= 0)
    np.testing.assert_allclose(q.sum(), 1, rtol=100 * rounding)
    length = truth.value(w)
    assert length == 0 or abs(length - 1) < 100 * rounding
    lower = np.min(np.tensordot(signed, w, axes=w.ndim))
    upper = truth.dual.value(np.tensordot(q, signed, axes=1))
    np.testing.assert_allclose(result.margin, lower, atol=unit)
    np.testing.assert_allclose(result.upper_bound, upper, atol=unit)
    return lower, upper
