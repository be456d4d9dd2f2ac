"""The truth about linear classifiers: float64 NumPy, HiGHS and CVXPY. Nothing of the library.

``Truth`` says which norm is meant; ``truth.value`` and ``truth.dual.value`` are it and its dual.
"""

import decimal
import math

import cvxpy as cp
import numpy as np
from scipy.optimize import linprog

from tests.norms.oracles import Truth, solve, value_of

# Margins and radii --------------------------------------------------------------------------------


def signed_examples(x, y, num_classes: int | None = None) -> np.ndarray:
    """The a_i of ``<a_i, w> >= margin``, one row for every example and wrong class."""
    x, y = np.asarray(x, np.float64), np.asarray(y)
    if num_classes is None:
        return np.stack([label * row for row, label in zip(x, y, strict=True)])
    rows = []
    for row, label in zip(x, y, strict=True):
        for rival in range(num_classes):
            if rival != label:
                rows.append(np.zeros((num_classes, *row.shape)))
                rows[-1][label] += row
                rows[-1][rival] -= row
    return np.stack(rows)


def margins(w, x, y) -> np.ndarray:
    """Binary: ``y_i <w, x_i>``; with one more axis in w: the smallest lead over a rival class."""
    w, x, y = np.asarray(w, np.float64), np.asarray(x, np.float64), np.asarray(y)
    if w.ndim == x.ndim - 1:
        return np.array([label * np.sum(w * row) for row, label in zip(x, y, strict=True)])
    return np.array(
        [min(np.sum(v * row) for v in leads(w, label)) for row, label in zip(x, y, strict=True)]
    )


def leads(w, label) -> list[np.ndarray]:
    """The weights ``w_label - w_c`` of all rivals c."""
    return [w[label] - w[c] for c in range(len(w)) if c != label]


def robust_radii(w, x, y, threat: Truth) -> np.ndarray:
    """The distance to the boundary, rival by rival."""
    w, x, y = np.asarray(w, np.float64), np.asarray(x, np.float64), np.asarray(y)
    dual = threat.dual.value
    if w.ndim == x.ndim - 1:
        return margins(w, x, y) / dual(w)
    return np.array(
        [min(np.sum(v * row) / dual(v) for v in leads(w, c)) for row, c in zip(x, y, strict=True)]
    )


def worst_margins(w, x, y, threat: Truth, eps: np.ndarray) -> np.ndarray:
    """The smallest margin of each example that a perturbation of norm ``eps[i]`` can leave."""
    w, x, y = np.asarray(w, np.float64), np.asarray(x, np.float64), np.asarray(y)
    dual = threat.dual.value
    if w.ndim == x.ndim - 1:
        return margins(w, x, y) - eps * dual(w)
    return np.array(
        [
            min(np.sum(v * row) - e * dual(v) for v in leads(w, c))
            for row, c, e in zip(x, y, eps, strict=True)
        ]
    )


# The largest margin -------------------------------------------------------------------------------


def largest_margin(truth: Truth, signed: np.ndarray) -> float:
    """``max min_i <a_i, w>`` over the unit ball; an interior point of the ball makes it 0 or more.

    CLARABEL's relative accuracy is 1e-8, on power and semidefinite cones 1e-6.
    """
    unit = np.max(np.abs(signed))
    flat, shape = signed.reshape(len(signed), -1) / unit, signed.shape[1:]
    w, t = cp.Variable(flat.shape[1]), cp.Variable()
    solve(cp.Problem(cp.Maximize(t), [flat @ w >= t, truth.expression(w, shape) <= 1]))
    return float(value_of(t)) * unit


def largest_margin_by_lp(truth: Truth, signed: np.ndarray) -> float:
    """The same by the simplex method, for l1 and linf: exact to rounding."""
    unit = np.max(np.abs(signed))
    flat = signed.reshape(len(signed), -1) / unit
    n, d = flat.shape
    ones = np.ones((n, 1))
    if truth.p == 1:  # w = u - v, both 0 or more, of sum at most 1; t <= <a_i, w>
        a = np.vstack([np.hstack([-flat, flat, ones]), [[*np.ones(2 * d), 0]]])
        b, bounds = [*np.zeros(n), 1], [(0, None)] * (2 * d) + [(None, None)]
    else:
        assert truth.p == math.inf
        a, b, bounds = np.hstack([-flat, ones]), np.zeros(n), [(-1, 1)] * d + [(None, None)]
    result = linprog(-np.eye(a.shape[1])[-1], A_ub=a, b_ub=b, bounds=bounds, method="highs")
    assert result.status == 0
    return -result.fun * unit


def optimum(truth: Truth, signed: np.ndarray) -> float:
    """The largest margin by the more exact of the two."""
    linear_program = truth.of == "entries" and truth.p in (1, math.inf)
    return (largest_margin_by_lp if linear_program else largest_margin)(truth, signed)


# Losses -------------------------------------------------------------------------------------------

# exp(-1000) is 5e-435, so 1 + exp(-1000) needs 435 digits, and its logarithm some more.
DIGITS = 500


def log_of_mean_loss(margins, loss: str) -> float:
    """``log mean l(m_i)`` in exact arithmetic, for all purposes."""
    with decimal.localcontext(decimal.Context(prec=DIGITS)):
        total = sum((_loss(m, loss) for m in margins), decimal.Decimal(0))
        return float((total / len(margins)).ln())


def slopes_of_log(margins, loss: str) -> np.ndarray:
    """The gradient of that with respect to the margins, ``l'(m_i) / sum_j l(m_j)``."""
    with decimal.localcontext(decimal.Context(prec=DIGITS)):
        total = sum(_loss(m, loss) for m in margins)
        return np.array([float(-_slope(m, loss) / total) for m in margins])


def dual_weights(margins, loss: str) -> np.ndarray:
    """``|l'(m_i)| / sum_j |l'(m_j)|``."""
    with decimal.localcontext(decimal.Context(prec=DIGITS)):
        slopes = [_slope(m, loss) for m in margins]
        return np.array([float(slope / sum(slopes)) for slope in slopes])


def _loss(margin, loss: str) -> decimal.Decimal:
    u = (-decimal.Decimal(float(margin))).exp()
    return u if loss == "exponential" else (1 + u).ln()


def _slope(margin, loss: str) -> decimal.Decimal:
    """|l'|."""
    u = (-decimal.Decimal(float(margin))).exp()
    return u if loss == "exponential" else u / (1 + u)
