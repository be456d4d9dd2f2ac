"""The steepest direction where it is not unique: zeros, ties, missing phases, missing rank."""

import math

import numpy as np
import pytest

from jaxrobust import norms
from tests.norms.cases import CASES

pytestmark = pytest.mark.usefixtures("x64")

EPS = float(np.finfo(np.float64).eps)
ANGLES = 2 * np.pi * np.arange(8) / 8


@pytest.mark.parametrize("name", CASES)
def test_zero_gives_zero(name):
    u = CASES[name].norm.lmo(np.zeros(CASES[name].shape))
    np.testing.assert_array_equal(u, np.zeros(CASES[name].shape))


# Entries ------------------------------------------------------------------------------------------


def test_l1_moves_one_coordinate_at_ties():
    # Moving every tied coordinate would be a step of l1 norm 3, which is not coordinate descent.
    u = norms.l1.lmo(np.array([1.0, -3.0, 3.0, 0.0, -3.0]))
    np.testing.assert_array_equal(u, [0, -1, 0, 0, 0])


def test_l1_tie_in_a_matrix_goes_to_the_first_in_memory():
    u = norms.l1.lmo(np.array([[1.0, 2, 0], [-5, 1, 0], [0, 0, 5]]))
    np.testing.assert_array_equal(u, [[0, 0, 0], [-1, 0, 0], [0, 0, 0]])


def test_linf_leaves_zeros_alone():
    u = norms.linf.lmo(np.array([2.0, 0.0, -1e-20, -0.0]))
    np.testing.assert_array_equal(u, [1, 0, -1, 0])


@pytest.mark.parametrize("p", [1.1, 1.5, 3, 10])
def test_lp_leaves_zeros_alone(p):
    u = np.asarray(norms.lp(p).lmo(np.array([0.0, 2.0, -2.0, 0.0])))
    half = 2 ** (-1 / p)
    np.testing.assert_allclose(u, [0, half, -half, 0], rtol=4 * EPS)


def test_lp_closed_form():
    g = np.array([3.0, -1.0, 0.5, 0.1])
    power = np.sign(g) * np.abs(g) ** (1 / 0.5)  # 1/(p-1) at p = 1.5
    expected = power / np.sum(np.abs(power) ** 1.5) ** (1 / 1.5)
    np.testing.assert_allclose(norms.lp(1.5).lmo(g), expected, rtol=8 * EPS)


# Fourier coefficients -----------------------------------------------------------------------------


def spectrum(u, axes=(-1,)):
    return np.fft.fftn(np.asarray(u), axes=axes, norm="ortho")


@pytest.mark.parametrize("length", [7, 8])
def test_phase_descent_gives_every_frequency_its_phase(length):
    g = np.random.default_rng(4).normal(size=length)
    u = norms.fourier(norms.linf).lmo(g)
    # The phase of one coefficient is off by its rounding error over its size, at least 0.1 here.
    coefficients = spectrum(g)
    assert np.abs(coefficients).min() > 0.1
    np.testing.assert_allclose(spectrum(u), coefficients / np.abs(coefficients), atol=50 * EPS)


def test_phase_descent_of_a_constant_is_a_constant():
    # The other coefficients are zero but for rounding, and their phases mean nothing.
    u = norms.fourier(norms.linf).lmo(np.full(7, 0.3))
    np.testing.assert_allclose(u, np.full(7, 7**-0.5), rtol=4 * EPS)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("length", [7, 8])
def test_phase_descent_of_a_wave_is_that_wave(scale, length):
    # In float32, so that the wave, computed in float64, is exact up to one rounding.
    wave = np.cos(2 * np.pi * 3 * np.arange(length) / length + 0.7)
    u = norms.fourier(norms.linf).lmo((scale * wave).astype(np.float32))
    # Two coefficients of modulus 1 in a unitary transform.
    eps = float(np.finfo(np.float32).eps)
    np.testing.assert_allclose(u, 2 / np.sqrt(length) * wave, atol=8 * eps)


def test_a_weak_frequency_is_no_noise():
    """Ten times what rounding leaves behind, eps of the norm, has a phase, and so a full part."""
    n = 64
    angles = 2 * np.pi * np.arange(n) / n
    # A cosine of amplitude A has two coefficients of A sqrt(n) / 2; the constant's is sqrt(n).
    x = 1 + 20 * EPS * np.cos(5 * angles + 0.7)
    spectrum = np.fft.rfft(np.asarray(norms.fourier(norms.linf).lmo(x)), norm="ortho")
    expected = np.zeros(n // 2 + 1, complex)
    expected[[0, 5]] = 1, np.exp(0.7j)
    # The phase is off by the rounding of the entries, up to EPS each, against 10 EPS sqrt(n).
    np.testing.assert_allclose(spectrum, expected, atol=0.1)


def test_noise_is_told_from_signal_in_each_channel():
    # A weak channel's coefficients are not rounding errors of a strong channel.
    g = np.random.default_rng(0).normal(size=(4, 3, 2))
    g[..., 1] *= 1e-18
    u = norms.fourier(norms.linf, (0, 1)).lmo(g)
    np.testing.assert_allclose(np.abs(spectrum(u, (0, 1))), 1, rtol=20 * EPS)


@pytest.mark.parametrize("length", [7, 8])
def test_fourier_l1_moves_one_conjugate_pair(length):
    g = np.random.default_rng(1).normal(size=length)
    g -= g.mean()
    strongest = np.argmax(np.abs(spectrum(g))[: length // 2])
    found = spectrum(norms.fourier(norms.l1).lmo(g))
    expected = np.zeros(length, complex)
    for k in (strongest, -strongest):
        expected[k] = 0.5 * spectrum(g)[k] / np.abs(spectrum(g)[k])
    np.testing.assert_allclose(found, expected, atol=8 * EPS)


@pytest.mark.parametrize("frequency", [0, 4], ids=["DC", "Nyquist"])
def test_fourier_l1_at_dc_and_nyquist_has_weight_one(frequency):
    g = -2 * np.cos(frequency * ANGLES) + 0.1 * np.cos(3 * ANGLES)
    u = norms.fourier(norms.l1).lmo(g)
    np.testing.assert_allclose(u, -np.cos(frequency * ANGLES) / np.sqrt(8), atol=4 * EPS)


@pytest.mark.parametrize(
    ("row", "column"),
    # For shape (3, 4) the columns 0 and 2 (Nyquist) hold their own conjugates, in other rows.
    [(0, 0), (1, 0), (2, 0), (0, 2), (1, 2), (2, 2), (1, 1), (1, 3)],
)
def test_fourier_l1_moves_one_conjugate_pair_of_an_image(row, column):
    y, x = np.meshgrid(np.arange(3), np.arange(4), indexing="ij")
    wave = np.cos(2 * np.pi * (row * y / 3 + column * x / 4) + (0.4 if row or column % 2 else 0))
    g = np.stack([0.5 * wave, wave], axis=-1)
    u = np.asarray(norms.fourier(norms.l1, (0, 1)).lmo(g))
    expected = np.zeros((3, 4, 2))
    expected[row, column, 1] += 0.5
    expected[-row, -column, 1] += 0.5
    np.testing.assert_allclose(np.abs(spectrum(u, (0, 1))), expected, atol=8 * EPS)
    # Its phase is the wave's.
    u = u[..., 1]
    np.testing.assert_allclose(u, wave * np.sum(u * wave) / np.sum(wave**2), atol=8 * EPS)


def test_equal_frequencies_go_to_the_lowest():
    # In exact arithmetic a pulse has a flat spectrum; rounding must not choose for us.
    for length in (7, 8):
        for pulse in np.eye(length):
            u = norms.fourier(norms.l1).lmo(pulse)
            np.testing.assert_allclose(u, np.full(length, length**-0.5), atol=4 * EPS)
    waves = np.cos(2 * ANGLES + 0.3) + np.cos(3 * ANGLES + 1.1)
    u = norms.fourier(norms.l1).lmo(waves)
    np.testing.assert_allclose(u, np.cos(2 * ANGLES + 0.3) / np.sqrt(8), atol=8 * EPS)


def test_equal_channels_go_to_the_first():
    wave = np.cos(2 * np.pi * np.arange(4) / 4)[None, :, None] * np.ones((3, 1, 2))
    u = np.asarray(norms.fourier(norms.l1, (0, 1)).lmo(wave))
    assert np.all(u[..., 1] == 0)
    np.testing.assert_allclose(u[..., 0], wave[..., 0] / np.sqrt(12), atol=8 * EPS)


# Singular values ----------------------------------------------------------------------------------


def test_spectral_is_the_polar_factor():
    g = np.random.default_rng(0).normal(size=(3, 4))
    left, _, right = np.linalg.svd(g, full_matrices=False)
    u = norms.spectral.lmo(g)
    # The factor's condition is 2 / (two smallest singular values' sum), below 10 here.
    np.testing.assert_allclose(u, left @ right, atol=50 * EPS)


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_spectral_of_a_rank_one_matrix_has_rank_one(scale):
    left, right = np.array([1.0, 2.0, -2.0]) / 3, np.array([0.6, 0.0, -0.8, 0.0])
    g = scale * np.outer(left, right)
    u = norms.spectral.lmo(g)
    # The other singular values are rounding errors, and their pairs arbitrary.
    np.testing.assert_allclose(u, np.outer(left, right), atol=8 * EPS)


def test_spectral_of_a_matrix_of_low_rank_is_a_partial_isometry():
    factors = np.random.default_rng(0).normal(size=(2, 6, 2))
    g = factors[0] @ factors[1].T
    u = np.asarray(norms.spectral.lmo(g))
    np.testing.assert_allclose(
        np.linalg.svd(u, compute_uv=False), [1, 1, 0, 0, 0, 0], atol=20 * EPS
    )
    np.testing.assert_allclose(np.sum(u * g), np.linalg.norm(g, "nuc"), rtol=20 * EPS)


def test_nuclear_is_the_first_singular_pair():
    g = np.random.default_rng(0).normal(size=(3, 4))
    left, _, right = np.linalg.svd(g)
    u = norms.nuclear.lmo(g)
    np.testing.assert_allclose(u, np.outer(left[:, 0], right[0]), atol=50 * EPS)


def test_nuclear_of_equal_singular_values_has_rank_one():
    u = norms.nuclear.lmo(np.eye(3))
    np.testing.assert_allclose(np.linalg.svd(u, compute_uv=False), [1, 0, 0], atol=4 * EPS)


def test_kernels_and_vectors_are_matrices():
    g = np.random.default_rng(0).normal(size=(2, 2, 3))
    u = norms.spectral.lmo(g)
    assert u.shape == g.shape
    np.testing.assert_allclose(u, np.reshape(norms.spectral.lmo(g.reshape(4, 3)), g.shape))
    np.testing.assert_allclose(norms.spectral.lmo(np.array([3.0, -4.0])), [0.6, -0.8], rtol=4 * EPS)
    assert norms.spectral.lmo(np.float64(-3)) == pytest.approx(-1)
    assert norms.fourier(norms.lp(math.inf)).lmo(np.array([-3.0])) == pytest.approx(-1)
