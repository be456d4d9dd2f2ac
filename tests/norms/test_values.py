"""Values, against NumPy on all N Fourier coefficients and all singular values."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import norms
from tests.norms import oracles
from tests.norms.cases import CASES

pytestmark = pytest.mark.usefixtures("x64")

# A sum of at most 24 terms, each a power (p * eps) of an FFT or SVD coefficient (a few eps).
RTOL = 100 * np.finfo(np.float64).eps


@pytest.mark.parametrize("name", CASES)
def test_value_is_numpys(name):
    case = CASES[name]
    for seed in range(3):
        x = case.draw(seed)
        value = case.norm.value(x)
        assert value.shape == ()
        assert value.dtype == jnp.float64
        np.testing.assert_allclose(value, case.truth.value(x), rtol=RTOL)
        np.testing.assert_allclose(case.norm.dual.value(x), case.truth.dual.value(x), rtol=RTOL)


@pytest.mark.parametrize("p", [1.5, 4])
def test_root_is_taken(p):
    # Sums of p-th powers without the root are no norms: margins over them are no margins.
    x = np.array([1.0, -2.0, 3.0])
    np.testing.assert_allclose(norms.lp(p).value(x), np.sum(np.abs(x) ** p) ** (1 / p), rtol=RTOL)
    np.testing.assert_allclose(norms.lp(p).value(5 * x), 5 * norms.lp(p).value(x), rtol=RTOL)


@pytest.mark.parametrize("shape", [(8,), (3, 4, 2)])
def test_parseval(shape):
    x = np.random.default_rng(0).normal(size=shape)
    axes = (0, 1)[: len(shape)] if len(shape) > 1 else (0,)
    length = norms.fourier(norms.l2, axes).value(x)
    np.testing.assert_allclose(length, np.linalg.norm(x.ravel()), rtol=RTOL)
    # Singular values keep it too.
    np.testing.assert_allclose(norms.schatten(2).value(x), np.linalg.norm(x.ravel()), rtol=RTOL)


def test_conjugate_pairs_count_twice_and_dc_and_nyquist_once():
    ones, alternating = np.ones(8), (-1.0) ** np.arange(8)
    wave = np.cos(2 * np.pi * np.arange(8) / 8)  # coefficients sqrt(8)/2 at 1 and at -1
    value = norms.fourier(norms.l1).value
    np.testing.assert_allclose([value(ones), value(alternating)], math.sqrt(8), rtol=RTOL)
    np.testing.assert_allclose(value(wave), math.sqrt(8), rtol=RTOL)
    np.testing.assert_allclose(norms.fourier(norms.linf).value(wave), math.sqrt(2), rtol=RTOL)


@pytest.mark.parametrize("length", [1, 2])
def test_spectrum_of_shortest_signals(length):
    x = np.arange(1.0, length + 1)
    for p in (1, 3, math.inf):
        truth = oracles.Truth(p, "spectrum", (0,)).value(x)
        np.testing.assert_allclose(norms.fourier(norms.lp(p)).value(x), truth, rtol=RTOL)


@pytest.mark.parametrize("axes", [-2, (1, -3), (2, 0, 1)])
def test_axes_in_any_order_and_sign(axes):
    x = np.random.default_rng(0).normal(size=(3, 4, 2))
    truth = oracles.Truth(1, "spectrum", axes if isinstance(axes, tuple) else (axes,))
    np.testing.assert_allclose(norms.fourier(norms.l1, axes).value(x), truth.value(x), rtol=RTOL)


def test_norm_relations_of_the_spectrum():
    # ||Fv||_inf <= ||v||_1 / sqrt(d) and ||v||_inf <= ||Fv||_1 / sqrt(d), with equality at pulses
    # and waves.
    pulse, wave, d = np.eye(8)[3], np.ones(8), 8
    sup, total = norms.fourier(norms.linf).value, norms.fourier(norms.l1).value
    np.testing.assert_allclose(sup(pulse), norms.l1.value(pulse) / math.sqrt(d), rtol=RTOL)
    np.testing.assert_allclose(norms.linf.value(wave), total(wave) / math.sqrt(d), rtol=RTOL)


@pytest.mark.parametrize("name", CASES)
def test_zero_has_norm_zero(name):
    assert CASES[name].norm.value(np.zeros(CASES[name].shape)) == 0


def test_scalars_and_vectors_have_one_singular_value():
    for norm in (norms.spectral, norms.nuclear, norms.schatten(3)):
        np.testing.assert_allclose(norm.value(np.float64(-2.0)), 2.0, rtol=RTOL)
        np.testing.assert_allclose(norm.value(np.array([3.0, -4.0])), 5.0, rtol=RTOL)
