"""The largest margin against HiGHS and CLARABEL, and its certificate from scratch."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import linear, norms
from jaxrobust.linear import _max_margin, _primal_dual
from jaxrobust.linear._interior_point import Solution
from tests.linear import verify
from tests.linear.cases import FEATURES, INTERIOR, ROWS, classes, padded, separable
from tests.linear.verify import Problem
from tests.norms.oracles import Truth

pytestmark = pytest.mark.usefixtures("x64")

# Fewer examples than features, as many, and more.
HEIGHTS = {"wide": 10, "square": FEATURES, "tall": ROWS}


def binary(name: str, rows: int = ROWS, seed: int = 0) -> Problem:
    case = INTERIOR[name]
    return Problem(*padded(*separable(rows, case.shape, seed)), case.truth)


def check(result: linear.MaxMargin, problem: Problem, accuracy: float, tolerance: float) -> None:
    """The certificate, and that it encloses the optimum, known up to ``accuracy``."""
    lower, upper = verify.solved(result, problem, tolerance=tolerance)
    optimum = problem.optimum()
    assert lower <= optimum * (1 + accuracy)
    assert upper >= optimum * (1 - accuracy)


# The norms of the interior-point method -----------------------------------------------------------


@pytest.mark.parametrize("height", HEIGHTS)
@pytest.mark.parametrize("name", INTERIOR)
def test_interior_point(name, height):
    problem = binary(name, HEIGHTS[height])
    for tolerance in (1e-2, 1e-4, 1e-7):
        result = linear.max_margin(problem.x, problem.y, INTERIOR[name].norm, tolerance=tolerance)
        check(result, problem, 1e-8, tolerance)
        assert result.iterations < 30


def test_looser_tolerances_take_fewer_steps():
    problem = binary("l1")
    steps = [
        int(linear.max_margin(problem.x, problem.y, "l1", tolerance=t).iterations)
        for t in (0.1, 1e-4, 1e-8)
    ]
    assert steps[0] < steps[1] < steps[2]


@pytest.mark.parametrize("name", [pytest.param("l2", marks=pytest.mark.slow), "fourier-l1"])
def test_primal_dual_agrees(name):
    problem, norm = binary(name), INTERIOR[name].norm
    inner = linear.max_margin(problem.x, problem.y, norm, method="interior_point", tolerance=1e-6)
    outer = linear.max_margin(problem.x, problem.y, norm, method="primal_dual")
    verify.solved(outer, problem)
    assert inner.margin <= outer.upper_bound * (1 + 1e-12)
    assert outer.margin <= inner.upper_bound * (1 + 1e-12)
    assert outer.iterations > inner.iterations


def test_restarts_of_the_primal_dual_method():
    """They make it linear: 600 iterations, measured; 950 without, 1150 if from the wrong point."""
    problem, norm = binary("fourier-l1"), INTERIOR["fourier-l1"].norm
    result = linear.max_margin(problem.x, problem.y, norm, method="primal_dual", tolerance=1e-9)
    verify.solved(result, problem, tolerance=1e-9)
    assert result.iterations <= 800


def test_lengths_of_very_different_size():
    """One example of length 1, one of 1e-6: 250 iterations, without balanced steps 100,000."""
    result = linear.max_margin(np.diag([1, 1e-6]), np.ones(2), "l3")
    assert result.converged
    assert result.iterations < 1000


def test_giving_up(monkeypatch):
    """Long before the limit, when the gap no longer falls: of scales from 1e-3 to 1e3."""
    rng = np.random.default_rng(9)
    x = rng.normal(size=(24, 16)) * np.logspace(-3, 3, 16)
    y = np.sign(x @ (rng.normal(size=16) * np.logspace(3, -3, 16)))
    monkeypatch.setattr(_primal_dual, "_PATIENCE", 100)
    result = linear.max_margin(x, y, norms.lp(2.5), method="primal_dual")
    assert result.iterations < 100_000
    assert not result.converged


def test_the_norm_behind_the_step_size():
    """Not below the largest singular value, also if the constant vector has nothing of it."""
    rng = np.random.default_rng(0)
    right = np.linalg.qr(np.column_stack([np.ones(8), rng.normal(size=(8, 7))]))[0].T
    left = np.linalg.qr(rng.normal(size=(12, 8)))[0]
    for values in ([0.01, 5, 4.9, 4.8, 1, 1, 1, 1], [0.1, 3, *6 * [0.2]]):
        found = _primal_dual._operator_norm(jnp.asarray(left * values @ right))
        assert max(values) <= found <= 1.06 * max(values)


IMAGES = {
    "fourier-l1": (norms.fourier(norms.l1, (0, 1)), Truth(1, "spectrum", (0, 1))),
    "fourier-linf": (norms.fourier(norms.linf, (-3, -2)), Truth(math.inf, "spectrum", (0, 1))),
}


@pytest.mark.parametrize(
    "name", ["fourier-l1", pytest.param("fourier-linf", marks=pytest.mark.slow)]
)
def test_images(name):
    """Two channels, an even and an odd axis."""
    norm, truth = IMAGES[name]
    problem = Problem(*separable(ROWS, (4, 3, 2), 0), truth)
    result = linear.max_margin(problem.x, problem.y, norm, tolerance=1e-6)
    assert result.w.shape == (4, 3, 2)
    check(result, problem, 1e-8, 1e-6)


@pytest.mark.slow
def test_odd_signals():
    """The last frequency is a pair of its own."""
    problem = Problem(*separable(8, (7,), 0), Truth(1, "spectrum", (0,)))
    result = linear.max_margin(problem.x, problem.y, norms.fourier(norms.l1), tolerance=1e-6)
    check(result, problem, 1e-8, 1e-6)


# The norms of the first-order method --------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("rows", [10, ROWS])
@pytest.mark.parametrize("p", [1.5, 3])
def test_lp(p, rows):
    x, y = padded(*separable(rows, (FEATURES,), 0))
    check(linear.max_margin(x, y, norms.lp(p)), Problem(x, y, Truth(p)), 1e-6, 1e-4)


@pytest.mark.parametrize("name", ["spectral", pytest.param("nuclear", marks=pytest.mark.slow)])
def test_matrices(name):
    truth = Truth({"spectral": math.inf, "nuclear": 1}[name], "singular values")
    problem = Problem(*separable(ROWS, (4, 4), 0), truth)
    check(linear.max_margin(problem.x, problem.y, name), problem, 1e-6, 1e-4)


@dataclasses.dataclass(frozen=True)
class Weighted(norms.Norm):
    """``(sum_i c_i^2 x_i^2)^(1/2)``, a norm that a user may bring."""

    weights: tuple[float, ...]

    @property
    def name(self) -> str:
        return "weighted"

    @property
    def dual(self) -> "Weighted":
        return Weighted(tuple(1 / c for c in self.weights))

    def value(self, x: Any) -> jax.Array:
        return norms.l2.value(jnp.asarray(self.weights, x.dtype) * x)

    def lmo(self, g: Any) -> Any:
        c = jnp.asarray(self.weights, g.dtype)
        return norms.l2.lmo(g / c) / c

    def project(self, x: Any, radius: float | jax.Array = 1.0) -> Any:
        """x_i / (1 + m c_i^2), with the m that brings it on the ball, by bisection on log m."""
        c2 = jnp.asarray(self.weights, x.dtype) ** 2

        def halve(_, bracket):
            low, high = bracket
            middle = (low + high) / 2
            outside = self.value(x / (1 + jnp.exp(middle) * c2)) > radius
            return jnp.where(outside, middle, low), jnp.where(outside, high, middle)

        start = (jnp.asarray(-50.0, x.dtype), jnp.asarray(50.0, x.dtype))
        low, high = jax.lax.fori_loop(0, 60, halve, start)
        return jnp.where(self.value(x) <= radius, x, x / (1 + jnp.exp(high) * c2))


def test_a_norm_of_the_users_own():
    """It is l2 in other units: scaled by the weights, the problem is that of l2."""
    c = tuple(np.linspace(0.5, 2, FEATURES).tolist())
    problem = binary("l2")
    result = linear.max_margin(problem.x, problem.y, Weighted(c))
    same = linear.max_margin(problem.x / np.array(c), problem.y, "l2", tolerance=1e-6)
    assert result.converged
    np.testing.assert_allclose(result.margin, same.margin, rtol=2e-4)
    np.testing.assert_allclose(np.linalg.norm(np.array(c) * result.w), 1, rtol=1e-12)
    with pytest.raises(ValueError, match="'interior_point' has no form for weighted"):
        linear.max_margin(problem.x, problem.y, Weighted(c), method="interior_point")


# Several classes ----------------------------------------------------------------------------------

CLASSES = {
    "l2": (norms.l2, Truth(2)),
    "linf": (norms.linf, Truth(math.inf)),
    "spectral": (norms.spectral, Truth(math.inf, "singular values")),
    "nuclear": (norms.nuclear, Truth(1, "singular values")),
}


SLOW_CLASSES = [pytest.param(name, marks=pytest.mark.slow) for name in ("linf", "nuclear")]


@pytest.mark.parametrize("name", ["l2", "spectral", *SLOW_CLASSES])
def test_classes(name):
    norm, truth = CLASSES[name]
    x, y = classes(12, (8,), 3, seed=0)
    problem = Problem(x, y, truth, 3)
    result = linear.max_margin(x, y, norm, num_classes=3)
    assert result.w.shape == (3, 8)
    assert result.dual_weights.shape == (12, 3)
    check(result, problem, 1e-6, 1e-4)
    # It is what `margin` says of these weights.
    np.testing.assert_allclose(result.margin, linear.margin(result.w, x, y, norm), rtol=1e-12)
    # A class without examples is a rival all the same; and int8 labels are as good.
    two = np.where(y == 2, 0, y).astype(np.int8)
    result = linear.max_margin(x, two, norm, num_classes=3)
    verify.solved(result, Problem(x, two, truth, 3))


@pytest.mark.slow
def test_two_classes_are_the_binary_problem():
    """With W = (-w, w) / 2 the margin is that of w, and its l2 norm ||w|| / sqrt(2)."""
    x, y = separable(12, (8,), 0)
    several = linear.max_margin(x, (y > 0).astype(int), "l2", num_classes=2, tolerance=1e-8)
    one = linear.max_margin(x, y, "l2", tolerance=1e-8)
    np.testing.assert_allclose(several.margin, math.sqrt(2) * one.margin, rtol=1e-7)
    np.testing.assert_allclose(several.w[1] - several.w[0], math.sqrt(2) * one.w, atol=1e-3)


# Degenerate and badly scaled data -----------------------------------------------------------------

# Padding by repetition is itself a test of duplicate rows; see also `binary`.


@pytest.mark.parametrize("name", INTERIOR)
def test_one_example(name):
    """The margin is its dual norm."""
    case, x = INTERIOR[name], np.random.default_rng(0).normal(size=(1, FEATURES))
    problem = Problem(*padded(x, np.array([-1.0])), case.truth)
    result = linear.max_margin(problem.x, problem.y, case.norm)
    verify.solved(result, problem)
    np.testing.assert_allclose(result.margin, case.truth.dual.value(x[0]), rtol=1e-4)


@pytest.mark.parametrize("name", INTERIOR)
def test_features_that_say_nothing(name):
    """All zero, constant, or copies of others: then there are many optima."""
    case = INTERIOR[name]
    x, y = separable(ROWS, (6,), 0)
    x = np.concatenate([x, np.zeros((ROWS, 3)), np.ones((ROWS, 2)), x[:, :5]], axis=1)
    problem = Problem(x, y, case.truth)
    check(linear.max_margin(x, y, case.norm), problem, 1e-7, 1e-4)


@pytest.mark.parametrize("name", INTERIOR)
def test_one_feature(name):
    """All others are zero. The margin is the smallest example."""
    case = INTERIOR[name]
    x = np.zeros((ROWS, FEATURES))
    x[:, 0] = np.random.default_rng(0).normal(size=ROWS)
    problem = Problem(x, np.sign(x[:, 0]), case.truth)
    result = linear.max_margin(x, problem.y, case.norm)
    verify.solved(result, problem)
    if case.truth.of == "entries":
        np.testing.assert_allclose(result.margin, np.abs(x[:, 0]).min(), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "name"), [((1, 1), "l1"), ((1, 5), "linf"), ((5, 1), "l1")])
def test_smallest_sizes(shape, name):
    x = np.linspace(1, 2, math.prod(shape)).reshape(shape)
    y = np.where(np.arange(shape[0]) % 2, 1.0, -1.0)
    x *= y[:, None]
    problem = Problem(x, y, INTERIOR[name].truth)
    check(linear.max_margin(x, y, name), problem, 1e-9, 1e-4)


@pytest.mark.parametrize("name", ["l1", "l2", "linf"])
def test_features_of_very_different_size(name):
    """From 1e-6 to 1e6: the large ones decide in l1, and all the same everything is certified."""
    case = INTERIOR[name]
    x, y = separable(12, case.shape, 0)
    x = x * np.logspace(-6, 6, FEATURES)
    problem = Problem(*padded(x, y), case.truth)
    verify.solved(linear.max_margin(problem.x, problem.y, case.norm), problem)


@pytest.mark.parametrize("name", ["l1", "l2", "linf"])
@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_scale_of_float32(name, scale):
    """The square of neither is a number of float32; the margin scales along."""
    jax.config.update("jax_enable_x64", False)
    problem = binary(name, 12)
    x = problem.x.astype(np.float32)
    plain = linear.max_margin(x, problem.y, name)
    scaled = linear.max_margin(np.float32(scale) * x, problem.y, name)
    assert scaled.w.dtype == np.float32
    assert scaled.converged
    np.testing.assert_allclose(scaled.margin / scale, plain.margin, rtol=2e-4)
    np.testing.assert_allclose(scaled.w, plain.w, atol=0.05)


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.float32, np.float64])
def test_dtypes_of_labels(dtype):
    problem = binary("l2")
    result = linear.max_margin(problem.x, problem.y.astype(dtype), "l2")
    np.testing.assert_array_equal(result.w, linear.max_margin(problem.x, problem.y, "l2").w)


# What is said ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "limit"), [("interior_point", 4), ("primal_dual", 50)])
def test_the_limit_of_iterations(method, limit):
    """The bounds hold, and nothing is claimed."""
    problem, norm = binary("fourier-l1"), INTERIOR["fourier-l1"].norm
    result = linear.max_margin(
        problem.x, problem.y, norm, method=method, max_iterations=limit, tolerance=1e-8
    )
    lower, upper = verify.bounds(result, problem)
    assert lower <= problem.optimum() <= upper
    assert result.separable
    assert not result.converged
    assert result.gap > 1e-8
    assert result.iterations == limit
    assert result.describe().startswith("not converged: margin ")


def test_what_is_undecided():
    """Neither a margin was found nor the bound is zero: nothing is claimed."""
    x = np.array([[1.0, 0.0], [-1.0, 1e-3]])
    result = linear.max_margin(x, np.ones(2), "l3", max_iterations=1)
    limited = result._replace(separable=jnp.asarray(False), converged=jnp.asarray(False))
    assert limited.describe().startswith("not converged: no weights of norm 1 have a margin above")


def certified(x, w, q=None):
    """The certificate of weights that no solver has made."""
    q = np.full(len(x), 1 / len(x)) if q is None else q
    found = Solution(jnp.asarray(w), jnp.asarray(q), jnp.zeros(()), jnp.ones(()), jnp.int32(1))
    kind = _max_margin._Kind(norms.l2, None, None, "primal_dual", jnp.dtype("float64"))
    signs = jnp.ones(len(x))
    return _max_margin._certify(jnp.asarray(x), signs, 0.0, found, 1e-4, 1e-10, kind)


def test_margins_of_rounding_errors_are_none():
    """The rows are multiples of one another of opposite signs, but some inner products are not."""
    x = np.array([[3.0, 7.0], [-9.0, -21.0]])
    scales = np.random.default_rng(0).uniform(0.5, 1, size=200)
    w = np.array([7.0, -3.0]) * scales[:, None]
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    assert np.any(np.min(np.asarray(jnp.tensordot(jnp.asarray(w), x.T, 1)), axis=1) > 0)
    for weights in w:
        result = certified(x, weights)
        assert not result.separable
        assert not np.any(result.w)
        assert result.margin == 0
        assert result.gap == 1


def test_the_gap_is_never_negative():
    """One example: both bounds are its length, each with roundings of its own."""
    for seed in range(30):
        x = np.random.default_rng(seed).normal(size=(1, 3))
        result = certified(x, x[0])
        assert 0 <= result.gap < 1e-15


def test_describe():
    problem = binary("l2")
    result = linear.max_margin(problem.x, problem.y, "l2")
    text = result.describe()
    assert text.startswith(f"margin {float(result.margin):.6g}, at most ")
    assert f"{int(result.iterations)} iterations" in text
    assert "relative gap" in text
    x = np.concatenate([problem.x[:-1], problem.x[:1]])
    result = linear.max_margin(x, np.append(problem.y[:-1], -problem.y[0]), "l2")
    text = result.describe()
    assert text.startswith(
        "not linearly separable to tolerance: no weights of norm 1 have a margin"
    )
    assert f"above {float(result.upper_bound):.3g}, the dual norm" in text
    assert "(2 of them carry it; weights in dual_weights)" in text
