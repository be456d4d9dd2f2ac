"""Derivatives: of values everywhere, of projections where they exist."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import norms
from tests.norms.cases import CASES

pytestmark = pytest.mark.usefixtures("x64")

EPS = float(np.finfo(np.float64).eps)
STEP = 1e-5
# A central difference is off by STEP^2 times the third derivative over 6 (1e2, say), and by the
# function's rounding error, 1e-15, over STEP.
ATOL = 2e-8


def slope(function, x, direction):
    """The central difference along a direction, in float64."""
    ahead, behind = (function(x + sign * STEP * direction) for sign in (1, -1))
    return (np.asarray(ahead) - np.asarray(behind)) / (2 * STEP)


@pytest.mark.parametrize(
    "name",
    ["l1", "l1.5", "l2", "l10", "linf", "fourier-l1-even", "fourier-l1-odd", "fourier-linf-even"]
    + ["fourier-l1-image", "spectral", "nuclear"],
)
def test_gradient_of_value(name):
    case = CASES[name]
    gradient = jax.jit(jax.grad(case.norm.value))  # compiled as one: in pieces takes far longer

    x, direction = case.draw(1), case.draw(2)
    np.testing.assert_allclose(gradient(x), jax.jit(case.norm.dual.lmo)(x), rtol=100 * EPS)
    difference = slope(case.truth.value, x, direction)
    np.testing.assert_allclose(np.sum(gradient(x) * direction), difference, atol=ATOL)

    np.testing.assert_array_equal(gradient(0 * x), 0 * x)

    # Ties, zeros, missing Fourier coefficients, missing rank: in each, a subgradient g has
    # <g, x> = ||x|| and ||g||_* = 1.
    index = np.arange(x.size).reshape(x.shape)
    for point in (0.0 * index + 1, 1.0 * (index == 1), (-1.0) ** index):
        g, length = np.asarray(gradient(point)), case.truth.value(point)
        np.testing.assert_allclose(np.sum(g * point), length, rtol=50 * EPS)
        np.testing.assert_allclose(case.truth.dual.value(g), 1, rtol=50 * EPS)


@pytest.mark.parametrize("name", ["l1", "fourier-l1-even", "nuclear"])
def test_forward_and_reverse_mode_agree(name):
    case = CASES[name]
    x, direction = case.draw(1), case.draw(2)
    value, forward = jax.jit(lambda x: jax.jvp(case.norm.value, (x,), (direction,)))(x)
    same, gradient = jax.jit(jax.value_and_grad(case.norm.value))(x)
    np.testing.assert_allclose([value, same], case.truth.value(x), rtol=100 * EPS)
    np.testing.assert_allclose(forward, np.sum(gradient * direction), rtol=100 * EPS)


@pytest.mark.parametrize("name", ["l1.5", "fourier-l1-even", "nuclear"])
def test_gradient_of_a_batch(name):
    case = CASES[name]
    batch = np.stack([case.draw(1), case.draw(2), np.zeros(case.shape)])
    total = lambda xs: jnp.sum(jax.vmap(case.norm.value)(xs) ** 2)
    lmo = jax.jit(case.norm.dual.lmo)
    expected = [2 * case.truth.value(x) * np.asarray(lmo(x)) for x in batch]
    np.testing.assert_allclose(jax.jit(jax.grad(total))(batch), expected, atol=100 * EPS)


@pytest.mark.parametrize(
    "name", ["l1", "l1.5", "l2", "l3", "fourier-l1-even", "fourier-linf-odd", "nuclear"]
)
def test_derivative_of_projection(name):
    # For 1 < p < inf it is not that of the bisection, which has none.
    case = CASES[name]
    x, direction, weights = case.draw(1), case.draw(2), case.draw(3)
    weigh = lambda x, radius: jnp.sum(weights * case.norm.project(x, radius))
    gradient = jax.jit(jax.grad(weigh, (0, 1)))

    radius = 0.5 * case.truth.value(x)
    to_x, to_radius = gradient(x, radius)
    along = jax.jit(lambda t: weigh(x + t * direction, radius + 0.3 * t))
    found = np.sum(to_x * direction) + 0.3 * to_radius
    np.testing.assert_allclose(found, slope(along, 0.0, 1.0), atol=ATOL)

    inside, to_radius = gradient(x, 1e3)
    np.testing.assert_array_equal(inside, weights)
    assert to_radius == 0

    if name != "nuclear":  # the SVD has no derivative where singular values are zero or equal
        for point in (np.zeros(case.shape), np.eye(8)[2][: case.shape[0]], np.ones(case.shape)):
            for radius in (0.0, 0.5, np.inf):
                assert np.all(np.isfinite(gradient(point, radius)[0]))


def test_lmo_of_zero_has_a_finite_derivative():
    for norm in (norms.l1, norms.lp(1.5), norms.l2, norms.linf, norms.fourier(norms.l1)):
        gradient = jax.jit(jax.grad(lambda g, norm=norm: jnp.sum(norm.lmo(g))))(np.zeros(8))
        assert np.all(np.isfinite(gradient)), norm
    with jax.debug_nans(True):  # nor is there NaN on the way to it
        jax.grad(lambda g: jnp.sum(norms.l2.lmo(g)))(jnp.zeros(8))


def test_second_derivative_of_a_smooth_norm():
    x = np.array([1.0, -2.0, 2.0])
    hessian = (np.eye(3) - np.outer(x, x) / 9) / 3
    np.testing.assert_allclose(jax.jit(jax.hessian(norms.l2.value))(x), hessian, atol=8 * EPS)
