"""Projection on the ball: against CVXPY, by the optimality condition, and at the edges."""

import math

import hypothesis
import hypothesis.extra.numpy as hnp
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxrobust import norms
from tests.norms import oracles
from tests.norms.cases import CASES, FEW

pytestmark = pytest.mark.usefixtures("x64")

EPS = float(np.finfo(np.float64).eps)
examples = hypothesis.settings(
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], max_examples=15
)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("fraction", [1e-9, 0.1, 0.7, 1 - 1e-9])
def test_projection_is_optimal(name, fraction):
    case = CASES[name]
    x = case.draw(1)
    radius = fraction * case.truth.value(x)
    y = np.asarray(case.norm.project(x, radius))
    # In the ball up to the rounding of a norm, however far x is from it.
    assert case.truth.value(y) <= radius * (1 + 100 * EPS)
    # Both terms of the gap are at most radius * ||x||_*, up to some tens of eps.
    size = radius * case.truth.dual.value(x)
    assert abs(oracles.projection_gap(case.truth, x, y, radius)) <= 100 * EPS * size


@pytest.mark.parametrize(
    "name",
    ["l1", "l1.1", "l1.5", "l2", "l3", "l10", "linf", "fourier-l1-even", "fourier-l1-odd"]
    + ["fourier-l3-even", "fourier-linf-odd", "fourier-l1-image", "fourier-linf-image"]
    + ["spectral", "nuclear", "spectral-kernel"],
)
def test_projection_is_cvxpys(name):
    case = CASES[name]
    x = case.draw(2)
    radius = 0.4 * case.truth.value(x)
    expected = oracles.project(case.truth, x, radius)
    atol = oracles.accuracy(case.truth)
    np.testing.assert_allclose(case.norm.project(x, radius), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("name", FEW)
@examples
@hypothesis.given(data=st.data())
def test_projection_is_idempotent_and_non_expansive(name, data):
    case = CASES[name]
    vectors = hnp.arrays(np.float64, case.shape, elements=st.floats(-9, 9, allow_subnormal=False))
    x, y = data.draw(vectors), data.draw(vectors)
    radius = data.draw(st.floats(0.01, 20))
    px, py = (np.asarray(case.norm.project(z, radius)) for z in (x, y))
    # Each comes with a rounding error of at most some tens of eps of what was projected.
    slack = 100 * EPS * float(np.linalg.norm(x) + np.linalg.norm(y))
    assert case.truth.value(px) <= radius * (1 + 100 * EPS)
    assert np.linalg.norm(px - py) <= np.linalg.norm(x - y) + slack
    np.testing.assert_allclose(case.norm.project(px, radius), px, rtol=0, atol=slack)


@pytest.mark.parametrize("name", CASES)
def test_inside_nothing_changes(name):
    norm, x = CASES[name].norm, CASES[name].draw(3)
    length = float(norm.value(x))
    for radius in (length, 1.5 * length, 1e300, math.inf):
        np.testing.assert_array_equal(norm.project(x, radius), x)
    np.testing.assert_array_equal(norm.project(np.zeros_like(x), 1.0), np.zeros_like(x))


@pytest.mark.parametrize("name", CASES)
def test_radius_zero_gives_zero(name):
    norm, x = CASES[name].norm, CASES[name].draw(3)
    np.testing.assert_array_equal(norm.project(x, 0), np.zeros_like(x))
    np.testing.assert_array_equal(norm.project(np.zeros_like(x), 0.0), np.zeros_like(x))


@pytest.mark.parametrize("name", FEW)
def test_default_radius_is_one(name):
    norm, x = CASES[name].norm, CASES[name].draw(3)
    np.testing.assert_array_equal(norm.project(x), norm.project(x, 1.0))


def soft_threshold(x, radius):
    """The projection of a vector of complex numbers on the ball of the sum of moduli."""
    moduli = np.abs(x)
    descending = np.sort(moduli.ravel())[::-1]
    thresholds = (np.cumsum(descending) - radius) / np.arange(1, x.size + 1)
    shrunk = np.maximum(moduli - max(thresholds.max(), 0), 0)
    return x / np.where(moduli == 0, 1, moduli) * shrunk


@pytest.mark.parametrize("length", [7, 8])
def test_fourier_l1_is_the_complex_soft_threshold(length):
    # The reference code has no such projection, and so would give 0 for the dual's prox.
    x = np.random.default_rng(0).normal(size=length)
    spectrum = soft_threshold(np.fft.fft(x, norm="ortho"), 1.5)
    expected = np.fft.ifft(spectrum, norm="ortho")
    assert np.abs(expected.imag).max() <= 4 * EPS
    np.testing.assert_allclose(
        norms.fourier(norms.l1).project(x, 1.5), expected.real, atol=20 * EPS
    )


def test_fourier_linf_clips_each_coefficient():
    x = np.random.default_rng(0).normal(size=(3, 4, 2))
    spectrum = np.fft.fftn(x, axes=(0, 1), norm="ortho")
    clipped = spectrum * np.minimum(1, 0.5 / np.abs(spectrum))
    expected = np.fft.ifftn(clipped, axes=(0, 1), norm="ortho").real
    projected = norms.fourier(norms.linf, (0, 1)).project(x, 0.5)
    np.testing.assert_allclose(projected, expected, atol=20 * EPS)


def test_ties_are_shared_by_the_l1_projection():
    x = np.array([2.0, -2.0, 0.0, 2.0])
    np.testing.assert_allclose(norms.l1.project(x, 3), [1, -1, 0, 1], rtol=4 * EPS)


def test_missing_coefficients_stay_missing():
    # A constant signal has one coefficient; a matrix of rank one has one singular value.
    for norm in (norms.fourier(norms.l1), norms.fourier(norms.linf)):
        np.testing.assert_allclose(norm.project(np.full(8, 3.0), 1.0), np.full(8, 8**-0.5))
    rank_one = np.outer([0.6, 0.8], [5.0, 0.0, 0.0])
    np.testing.assert_allclose(norms.nuclear.project(rank_one, 1.0), rank_one / 5, atol=8 * EPS)


@pytest.mark.parametrize("p", [1.1, 1.5, 3, 50])
@pytest.mark.parametrize("fraction", [1e-6, 0.5, 1 - 1e-6])
def test_lp_projection_over_twelve_orders_of_magnitude(p, fraction):
    x = 10.0 ** np.linspace(-6, 6, 40) * (-1.0) ** np.arange(40)
    truth = oracles.Truth(p)
    radius = fraction * truth.value(x)
    y = np.asarray(norms.lp(p).project(x, radius))
    # The power p of a number has p * eps of relative error, or its root 1 / (p - 1) as much more.
    rtol = 20 * max(p, 1 / (p - 1)) * EPS
    np.testing.assert_allclose(truth.value(y), radius, rtol=rtol)
    # u + mu u^(p-1) = a with one multiplier mu for all entries: the largest entry's, because there
    # the difference of a and u loses the least.
    u, a = np.abs(y), np.abs(x)
    multiplier = (a[-1] - u[-1]) / u[-1] ** (p - 1)
    loss = a[-1] / (a[-1] - u[-1])
    tolerance = rtol * loss
    np.testing.assert_allclose(u + multiplier * u ** (p - 1), a, rtol=tolerance)


def test_lp_projection_from_just_outside_in_many_dimensions():
    """Many small entries hang on a multiplier far below the upper end of its bracket."""
    jax.config.update("jax_enable_x64", False)
    x = np.full(100_000, 1e-5, np.float32)
    x[0] = 0.5
    truth, norm = oracles.Truth(1.1), norms.lp(1.1)
    radius = float(np.float32(truth.value(x) * (1 - 1e-4)))
    # Bisection alone leaves the norm hundreds of eps short.
    rtol = 20 * float(np.finfo(np.float32).eps)
    np.testing.assert_allclose(truth.value(norm.project(x, radius)), radius, rtol=rtol)
