"""The proximal operator: closed forms, CVXPY, Moreau's decomposition."""

import math

import numpy as np
import pytest

from jaxrobust import norms
from tests.norms import oracles
from tests.norms.cases import CASES, FEW

pytestmark = pytest.mark.usefixtures("x64")

EPS = float(np.finfo(np.float64).eps)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("fraction", [0.2, 0.8])
def test_prox_is_optimal(name, fraction):
    # u is the prox iff x - u is a subgradient of s ||.|| at u: of dual norm at most s, and
    # <x - u, u> = s ||u||.
    case = CASES[name]
    x = case.draw(4)
    scale = fraction * case.truth.dual.value(x)
    u = np.asarray(case.norm.prox(x, scale))
    assert case.truth.dual.value(x - u) <= scale * (1 + 100 * EPS)
    size = scale * case.truth.value(x)
    assert abs(scale * case.truth.value(u) - np.sum((x - u) * u)) <= 100 * EPS * size


@pytest.mark.parametrize("name", CASES)
def test_moreau(name):
    case = CASES[name]
    x = case.draw(5)
    scale = 0.5 * case.truth.dual.value(x)
    whole = case.norm.prox(x, scale) + case.norm.dual.project(x, scale)
    np.testing.assert_allclose(whole, x, atol=4 * EPS * np.abs(x).max())


@pytest.mark.parametrize(
    "name",
    ["l1", "l1.5", "l2", "linf", "fourier-l1-odd", "fourier-linf-even", "spectral", "nuclear"],
)
def test_prox_is_cvxpys(name):
    case = CASES[name]
    x = case.draw(6)
    scale = 0.4 * case.truth.dual.value(x)
    expected = oracles.prox(case.truth, x, scale)
    atol = oracles.accuracy(case.truth)
    np.testing.assert_allclose(case.norm.prox(x, scale), expected, rtol=0, atol=atol)


X = np.array([3.0, -1.0, 0.5, 0.0, -2.0, 1.0, 0.25, 2.0])


def test_l1_soft_threshold():
    expected = np.sign(X) * np.maximum(np.abs(X) - 0.75, 0)
    u = np.asarray(norms.l1.prox(X, 0.75))
    np.testing.assert_allclose(u, expected, atol=4 * EPS)
    # Sparse in earnest, not up to rounding.
    np.testing.assert_array_equal(u == 0, expected == 0)


def test_l2_shrinks():
    length = float(np.linalg.norm(X))
    np.testing.assert_allclose(norms.l2.prox(X, 1.5), X * (1 - 1.5 / length), atol=20 * EPS)
    np.testing.assert_array_equal(norms.l2.prox(X, 2 * length), np.zeros(8))


def test_linf_cuts_the_peaks():
    # v - s P(v / s) on the l1 ball: cut off the largest moduli, 3, 2 and 2, is s = 1.5 in all.
    np.testing.assert_allclose(norms.linf.prox(X, 1.5), np.clip(X, -11 / 6, 11 / 6), atol=8 * EPS)


@pytest.mark.parametrize("length", [7, 8])
def test_fourier_l1_soft_thresholds_the_spectrum(length):
    x = X[:length]
    spectrum = np.fft.fft(x, norm="ortho")
    shrunk = spectrum * np.maximum(1 - 0.8 / np.maximum(np.abs(spectrum), 1e-300), 0)
    expected = np.fft.ifft(shrunk, norm="ortho").real
    np.testing.assert_allclose(norms.fourier(norms.l1).prox(x, 0.8), expected, atol=20 * EPS)


def test_fourier_linf_prox_is_not_zero():
    # The reference code would return 0 here, for want of the projection on the dual ball.
    u = np.asarray(norms.fourier(norms.linf).prox(X, 0.5))
    cut = np.abs(np.fft.fft(X, norm="ortho")) - np.abs(np.fft.fft(u, norm="ortho"))
    assert cut.sum() == pytest.approx(0.5, rel=1e-12)
    assert np.linalg.norm(u) > 0.8 * np.linalg.norm(X)


def test_nuclear_soft_thresholds_singular_values():
    x = X.reshape(2, 4)
    left, values, right = np.linalg.svd(x, full_matrices=False)
    expected = left * np.maximum(values - 1.5, 0) @ right
    np.testing.assert_allclose(norms.nuclear.prox(x, 1.5), expected, atol=20 * EPS)


@pytest.mark.parametrize("name", CASES)
def test_prox_at_the_edges(name):
    case = CASES[name]
    x = case.draw(7)
    np.testing.assert_array_equal(case.norm.prox(x, 0.0), x)
    # In the dual ball of radius `scale` the prox is zero, exactly.
    np.testing.assert_array_equal(case.norm.prox(x, 1.01 * case.truth.dual.value(x)), 0 * x)
    np.testing.assert_array_equal(case.norm.prox(x, math.inf), 0 * x)
    np.testing.assert_array_equal(case.norm.prox(0 * x, 1.0), 0 * x)


@pytest.mark.parametrize("name", FEW)
def test_default_scale_is_one(name):
    norm, x = CASES[name].norm, CASES[name].draw(3)
    np.testing.assert_array_equal(norm.prox(x), norm.prox(x, 1.0))
