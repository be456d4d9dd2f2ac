"""Fourier norms with a radius for each frequency."""

import math
from typing import Any

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import norms
from tests.norms import oracles

pytestmark = pytest.mark.usefixtures("x64")

SHAPES = {"even": ((8,), (-1,)), "odd": ((7,), (0,)), "image": ((4, 5, 2), (0, 1))}


def symmetric(shape, seed=0, zeros=True):
    """Radii that are the same for k and -k; some are zero."""
    rng = np.random.default_rng(seed)
    radii = rng.uniform(0.3, 2, shape)
    if zeros:
        radii[rng.uniform(size=shape) < 0.3] = 0
        radii.flat[0] = 0.5
    mirrored = radii
    for axis in range(radii.ndim):
        mirrored = np.roll(np.flip(mirrored, axis), 1, axis)
    return np.minimum(radii, mirrored)


def case(kind, p, zeros=True):
    shape, axes = SHAPES[kind]
    sizes = tuple(shape[axis] for axis in axes)
    radii = symmetric(sizes, zeros=zeros)
    norm = norms.fourier_bands(norms.lp(p), radii, axes)
    lined_up = radii.reshape(*radii.shape, *[1] * (len(shape) - len(axes)))
    return norm, np.broadcast_to(lined_up, shape), shape, axes


def moduli(x, axes):
    return np.abs(np.fft.fftn(np.asarray(x), axes=axes, norm="ortho"))


def in_bands(x, radii, axes):
    """Without what must not be touched."""
    spectrum = np.fft.fftn(x, axes=axes) * (radii > 0)
    return np.real(np.fft.ifftn(spectrum, axes=axes))


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("p", [1, math.inf])
def test_values(kind, p):
    norm, radii, shape, axes = case(kind, p)
    x = np.random.default_rng(1).normal(size=shape)
    assert np.isinf(norm.value(x))
    inside = in_bands(x, radii, axes)
    safe = np.where(radii > 0, radii, 1)
    expected = np.linalg.norm((moduli(inside, axes) * (radii > 0) / safe).ravel(), p)
    np.testing.assert_allclose(norm.value(inside), expected, rtol=1e-12)
    dual = np.linalg.norm((moduli(x, axes) * radii).ravel(), 1 if p == math.inf else math.inf)
    np.testing.assert_allclose(norm.dual.value(x), dual, rtol=1e-12)
    assert norm.dual.dual == norm
    assert np.isnan(norm.value(np.full(shape, np.nan)))
    assert norm.value(np.zeros(shape)) == 0


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("p", [1, math.inf])
def test_the_steepest_direction(kind, p):
    norm, radii, shape, axes = case(kind, p)
    g = np.random.default_rng(2).normal(size=shape)
    u = np.asarray(norm.lmo(g))
    np.testing.assert_allclose(np.sum(u * g), norm.dual.value(g), rtol=1e-12)
    np.testing.assert_allclose(norm.value(u), 1, rtol=1e-9)
    assert np.all(moduli(u, axes)[radii == 0] < 1e-14)
    np.testing.assert_array_equal(norm.lmo(np.zeros(shape)), 0)
    slope = jax.grad(lambda x: norm.dual.value(x))(jnp.asarray(g))
    np.testing.assert_allclose(slope, u, rtol=1e-9, atol=1e-12)


def in_conic_form(u, radii, shape, axes):
    transform = oracles.dft(shape, axes)
    parts = cp.vstack([np.real(transform) @ u, np.imag(transform) @ u])
    return cp.norm(parts, 2, axis=0), radii.ravel()


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("p", [1, math.inf])
@pytest.mark.parametrize("zeros", [True, False])
def test_projection_is_cvxpys(kind, p, zeros):
    norm, radii, shape, axes = case(kind, p, zeros)
    x = np.random.default_rng(3).normal(size=shape)
    radius = 0.4 * float(norm.value(in_bands(x, radii, axes)))
    u = cp.Variable(x.size)
    sizes, limits = in_conic_form(u, radii, shape, axes)
    there = np.flatnonzero(limits)
    inside = (
        sizes <= radius * limits
        if p == math.inf
        else cp.sum(cp.multiply(1 / limits[there], sizes[there])) <= radius
    )
    nothing = np.flatnonzero(limits == 0)
    limited: list[Any] = [inside]
    limited += [sizes[nothing] <= 0] if nothing.size and p == 1 else []
    problem = cp.Problem(cp.Minimize(cp.sum_squares(u - x.ravel())), limited)
    oracles.solve(problem)
    expected = oracles.value_of(u).reshape(shape)
    np.testing.assert_allclose(norm.project(x, radius), expected, rtol=0, atol=1e-6)
    assert float(norm.value(norm.project(x, radius))) <= radius * (1 + 1e-9)


@pytest.mark.parametrize("p", [1, math.inf])
def test_with_equal_radii_it_is_the_fourier_norm(p):
    plain = norms.fourier(norms.lp(p), (0, 1))
    bands = norms.fourier_bands(norms.lp(p), np.ones((4, 5)), (0, 1))
    x = np.random.default_rng(4).normal(size=(4, 5, 2))
    np.testing.assert_allclose(bands.value(x), plain.value(x), rtol=1e-12)
    np.testing.assert_allclose(bands.lmo(x), plain.lmo(x), atol=1e-12)
    np.testing.assert_allclose(bands.project(x, 0.7), plain.project(x, 0.7), atol=1e-12)
    np.testing.assert_allclose(bands.prox(x, 0.7), plain.prox(x, 0.7), atol=1e-12)


def test_frequencies_and_bands():
    np.testing.assert_allclose(norms.frequencies(8), np.array([0, 1, 2, 3, 4, 3, 2, 1]) / 8)
    found = norms.frequencies((4, 6))
    assert found.shape == (4, 6)
    np.testing.assert_allclose(found[1, 2], np.hypot(1 / 4, 2 / 6))
    low = norms.fourier_bands(norms.linf, found < 0.3, (0, 1))
    x = np.random.default_rng(5).normal(size=(4, 6, 3))
    kept = moduli(low.lmo(x), (0, 1))
    np.testing.assert_allclose(kept[found < 0.3], 1, rtol=1e-9)
    assert np.all(kept[found >= 0.3] < 1e-14)


def test_equal_ones_are_equal_and_static():
    make = lambda scale: norms.fourier_bands(norms.linf, scale * np.ones(8))
    assert make(1) == make(1) != make(2)
    assert len({make(1), make(1), make(2)}) == 2
    traces = []
    value = jax.jit(lambda norm, x: (traces.append(1), norm.value(x))[1], static_argnums=0)
    for scale in (1, 1, 2):
        value(make(scale), np.ones(8))
    assert len(traces) == 2


def test_single_precision_and_half():
    norm = norms.fourier_bands(norms.linf, norms.frequencies(16) < 0.3)
    x = jnp.asarray(np.random.default_rng(6).normal(size=16), jnp.float32)
    u = norm.lmo(x)
    assert u.dtype == jnp.float32
    # What is left in other bands is rounding, and no infinite norm.
    np.testing.assert_allclose(norm.value(u), 1, rtol=1e-5)
    assert norm.project(x.astype(jnp.bfloat16), 0.5).dtype == jnp.bfloat16
    np.testing.assert_allclose(norm.value(norm.project(x, 0.5)), 0.5, rtol=1e-5)


def test_bad_input():
    with pytest.raises(TypeError, match="norm must be norms.l1 or norms.linf, got norms.l2"):
        norms.fourier_bands(norms.l2, np.ones(8))
    with pytest.raises(ValueError, match="radii must be the same for k and -k"):
        norms.fourier_bands(norms.linf, np.arange(8.0))
    for bad in (-np.ones(8), np.full(8, np.nan), np.zeros(8)):
        with pytest.raises(ValueError, match="radii must be 0 or more, finite, and not all zero"):
            norms.fourier_bands(norms.linf, bad)
    with pytest.raises(ValueError, match="radii must have 2 axes"):
        norms.fourier_bands(norms.linf, np.ones(8), (0, 1))
    norm = norms.fourier_bands(norms.linf, np.ones(8))
    with pytest.raises(
        ValueError, match=r"radii of the Fourier bands are for another size.*\(9,\)"
    ):
        norm.value(np.ones(9))
