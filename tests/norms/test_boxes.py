"""What is in a ball and in a box: against CVXPY, by optimality conditions, and at the edges."""

import math
from typing import Any

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import norms
from tests.norms import oracles
from tests.norms.cases import CASES

pytestmark = pytest.mark.usefixtures("x64")

LP = ("l1", "l1.1", "l1.5", "l2", "l3", "l10", "linf")
OTHERS = ("fourier-l1-even", "fourier-linf-odd", "fourier-linf-image", "spectral", "nuclear")


def box(shape, seed):
    """Ends around zero, of which some are zero, and some infinite."""
    rng = np.random.default_rng(seed)
    low, high = -rng.uniform(0, 0.6, shape), rng.uniform(0, 0.6, shape)
    low.flat[0], high.flat[1], high.flat[2], low.flat[3] = 0, 0, np.inf, -np.inf
    return low, high


def constraints(truth, u, shape, radius, low, high) -> list[Any]:
    found: list[Any] = [truth.expression(u, shape) <= radius]
    for sign, ends in ((1, high.ravel()), (-1, -low.ravel())):
        (finite,) = np.nonzero(np.isfinite(ends))
        found.append(sign * u[finite] <= ends[finite])
    return found


def best(truth, objective, shape, radius, low, high) -> np.ndarray:
    u = cp.Variable(math.prod(shape))
    oracles.solve(cp.Problem(objective(u), constraints(truth, u, shape, radius, low, high)))
    return oracles.value_of(u).reshape(shape)


@pytest.mark.parametrize("name", LP)
@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.9])
def test_projection_is_cvxpys(name, fraction):
    case = CASES[name]
    x = case.draw(1)
    low, high = box(case.shape, 2)
    radius = fraction * case.truth.value(np.clip(x, low, high))
    nearest = lambda u: cp.Minimize(cp.sum_squares(u - x.ravel()))
    expected = best(case.truth, nearest, case.shape, radius, low, high)
    found = np.asarray(case.norm.project_in_box(x, radius, low, high))
    # With so many constraints CLARABEL is off by up to 2e-7, measured on l2.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert case.truth.value(found) <= radius * (1 + 1e-14)
    assert np.all((found >= low) & (found <= high))


@pytest.mark.parametrize("name", LP)
@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.9, 2.0])
def test_the_maximiser_is_cvxpys(name, fraction):
    case = CASES[name]
    g = case.draw(3)
    low, high = box(case.shape, 4)
    reach = np.where(g > 0, np.minimum(high, 9), np.maximum(low, -9))
    radius = fraction * case.truth.value(reach)
    furthest = lambda u: cp.Maximize(g.ravel() @ u)
    expected = best(case.truth, furthest, case.shape, radius, low, high)
    found = np.asarray(case.norm.lmo_in_box(g, radius, low, high))
    # Where the maximiser is not unique, or flat, what it attains is.
    attained = np.sum(g * found)
    np.testing.assert_allclose(attained, np.sum(g * expected), rtol=1e-6)
    assert case.truth.value(found) <= radius * (1 + 1e-14)
    assert np.all((found >= low) & (found <= high))


@pytest.mark.parametrize("name", [*LP, *OTHERS])
def test_without_a_box_it_is_the_ball(name):
    case = CASES[name]
    x = case.draw(5)
    radius = 0.4 * case.truth.value(x)
    none = -np.inf, np.inf
    found = case.norm.project_in_box(x, radius, *none)
    np.testing.assert_allclose(found, case.norm.project(x, radius), rtol=1e-9, atol=1e-12)
    found = case.norm.lmo_in_box(x, radius, *none)
    np.testing.assert_allclose(found, radius * np.asarray(case.norm.lmo(x)), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [*LP, *OTHERS])
def test_what_is_in_both_stays(name):
    case = CASES[name]
    x = case.draw(6)
    low, high = -np.abs(x) - 0.1, np.abs(x) + 0.1
    radius = 1.01 * case.truth.value(x)
    np.testing.assert_array_equal(case.norm.project_in_box(x, radius, low, high), x)


@pytest.mark.parametrize("name", OTHERS)
def test_alternating_projections_come_close(name):
    """The result is in both; more sweeps come nearer to the projection."""
    case = CASES[name]
    x = case.draw(7)
    low, high = -np.full(case.shape, 0.3), np.full(case.shape, 0.2)
    radius = 0.6 * case.truth.value(np.clip(x, low, high))
    nearest = lambda u: cp.Minimize(cp.sum_squares(u - x.ravel()))
    expected = best(case.truth, nearest, case.shape, radius, low, high)
    far = []
    for sweeps in (1, 10, 1000):
        found = np.asarray(case.norm.project_in_box(x, radius, low, high, num_sweeps=sweeps))
        assert case.truth.value(found) <= radius * (1 + 1e-12)
        assert np.all((found >= low - 1e-15) & (found <= high + 1e-15))
        far.append(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    assert far[0] >= far[1] >= far[2]
    assert far[2] < 1e-3


@pytest.mark.parametrize("name", LP)
def test_of_a_tree_all_leaves_count_together(name):
    case = CASES[name]
    x = case.draw(8)
    low, high = box(case.shape, 9)
    radius = 0.3 * case.truth.value(np.clip(x, low, high))
    split = lambda a: {"a": a[:3], "b": a[3:].reshape(5, 1)}
    for method in (case.norm.project_in_box, case.norm.lmo_in_box):
        whole = np.asarray(method(x, radius, low, high))
        parts = method(split(x), radius, split(low), split(high))
        joined = np.concatenate([np.ravel(parts["a"]), np.ravel(parts["b"])])
        np.testing.assert_allclose(joined, whole, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["l1", "l1.5", "l2", "linf", "fourier-l1-even"])
def test_vmap_of_jit(name):
    case = CASES[name]
    batch = np.stack([case.draw(seed) for seed in range(4)])
    batch[3].flat[1] = np.nan
    low, high = box(case.shape, 2)
    radii = np.array([0.1, 1.0, 0.0, 0.5])
    for method in (case.norm.project_in_box, case.norm.lmo_in_box):
        mapped = jax.jit(jax.vmap(method, (0, 0, None, None)))(batch, radii, low, high)
        for x, radius, found in zip(batch[:3], radii, mapped, strict=False):
            np.testing.assert_allclose(found, method(x, radius, low, high), rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(mapped[2], 0)
        assert np.isnan(mapped[3]).any()


@pytest.mark.parametrize("p", [1, 1.5, 2, 3, math.inf])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_single_precision_is_feasible(p, scale):
    """Of many entries, near to the ball and far from it."""
    rng = np.random.default_rng(0)
    norm, truth = norms.lp(p), oracles.Truth(p)
    x = jnp.asarray(scale * rng.normal(size=3_000), jnp.float32)
    low, high = (np.float32(side * rng.uniform(0, 1, 3_000)) for side in (-1, 1))
    clipped = truth.value(np.clip(x, low, high))
    for fraction in (0.01, 0.3, 0.999):
        radius = jnp.float32(fraction * clipped)
        for method in (norm.project_in_box, norm.lmo_in_box):
            found = method(x, radius, low, high)
            assert found.dtype == jnp.float32
            assert np.all((found >= low) & (found <= high))
            assert truth.value(found) <= radius * (1 + 2e-6)
            assert truth.value(found) >= radius * (1 - 1e-3)


def test_half_precision_comes_back():
    x = jnp.asarray([3.0, -4.0, 0.5], jnp.bfloat16)
    found = norms.l2.project_in_box(x, 1.0, -0.5, 1.0)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(float), [0.86, -0.5, 0.14], atol=0.01)


def test_ties_go_to_the_lowest_index():
    found = norms.l1.lmo_in_box(np.array([2.0, -2.0, 2.0, 1.0]), 1.0, -0.4, 0.7)
    np.testing.assert_allclose(found, [0.7, -0.3, 0, 0], atol=1e-12)
    np.testing.assert_array_equal(norms.l1.lmo_in_box(np.zeros(3), 1.0, -1.0, 1.0), 0)


def test_bad_input():
    x = np.ones(3)
    for norm in (norms.l2, norms.spectral):
        with pytest.raises(ValueError, match="lower must be 0 or less"):
            norm.project_in_box(x, 1.0, 0.1, 1.0)
        with pytest.raises(ValueError, match="upper must be 0 or more"):
            norm.lmo_in_box(x, 1.0, -1.0, np.array([1.0, np.nan, 1.0]))
        with pytest.raises(ValueError, match=r"upper must broadcast to \(3,\), got \(2,\)"):
            norm.project_in_box(x, 1.0, -1.0, np.ones(2))
        with pytest.raises(ValueError, match="radius must be 0 or more"):
            norm.project_in_box(x, -1.0, -1.0, 1.0)
        with pytest.raises(ValueError, match="lower must be one array or a tree of 2, got 3"):
            norm.project_in_box([x, x], 1.0, [x, x, x], 1.0)
        with pytest.raises(TypeError, match="g must"):
            norm.lmo_in_box(np.arange(3), 1.0, -1.0, 1.0)
