"""Bad input: an error that names the argument, at call or trace time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import norms
from tests.norms.cases import CASES, FEW

METHODS = {
    "x of value": lambda norm, x: norm.value(x),
    "g of lmo": lambda norm, x: norm.lmo(x),
    "x of project": lambda norm, x: norm.project(x, 1.0),
    "x of prox": lambda norm, x: norm.prox(x, 1.0),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("norm", [norms.l1, norms.lp(3), norms.fourier(norms.l1), norms.spectral])
def test_no_real_floating_array(method, norm):
    call, argument = METHODS[method], method[0]
    for leaf in (np.arange(4), np.ones(4, bool), np.ones(4, np.complex64), 3, "float32", object()):
        with pytest.raises(TypeError, match=rf"^{argument} must "):
            call(norm, leaf)
    with pytest.raises(TypeError, match=rf"^{argument}\['b'\] must have a real floating dtype"):
        call(norm, {"a": np.ones(2), "b": np.arange(3)})
    with pytest.raises(TypeError, match=rf"^{argument} must"):
        jax.jit(lambda x: call(norm, x))(np.arange(4))


@pytest.mark.parametrize("method", METHODS)
def test_nothing_there(method):
    call, argument = METHODS[method], method[0]
    with pytest.raises(ValueError, match=rf"^{argument} has no array leaves"):
        call(norms.l2, {"a": None})
    with pytest.raises(ValueError, match=rf"^{argument}\[1\] is empty: shape \(0, 3\)"):
        call(norms.l2, [np.ones(2), np.ones((0, 3))])


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("bad", [-1.0, -1, np.nan, np.float32(-0.1), np.array(np.nan)])
def test_negative_or_nan_radius_and_scale(name, bad):
    norm, x = CASES[name].norm, np.ones(CASES[name].shape, np.float32)
    with pytest.raises(ValueError, match="^radius must be 0 or more, got"):
        norm.project(x, bad)
    with pytest.raises(ValueError, match="^scale must be 0 or more, got"):
        norm.prox(x, bad)


@pytest.mark.parametrize("bad", [np.ones(3), np.ones(1), jnp.ones((2, 2))])
def test_radius_and_scale_of_several(bad):
    for name, call in (("radius", norms.l1.project), ("scale", norms.l1.prox)):
        with pytest.raises(ValueError, match=rf"^{name} must be a scalar, got shape \(.*jax.vmap"):
            call(np.ones(3, np.float32), bad)
        with pytest.raises(ValueError, match=rf"^{name} must be a scalar"):
            jax.jit(call)(np.ones(3, np.float32), bad)


@pytest.mark.parametrize("bad", [None, "1", "float32", 1j, np.complex64(1), [1.0], True])
def test_radius_and_scale_that_are_no_numbers(bad):
    for name, call in (("radius", norms.l1.project), ("scale", norms.l1.prox)):
        with pytest.raises(TypeError, match=f"^{name} must be a real number, got"):
            call(np.ones(3, np.float32), bad)


@pytest.mark.parametrize("radius", [2, np.int64(2), np.float16(2), jnp.bfloat16(2), np.array(2.0)])
def test_radius_of_any_real_type(radius):
    x = np.array([3.0, -1.0], np.float32)
    np.testing.assert_array_equal(norms.linf.project(x, radius), [2, -1])
    np.testing.assert_array_equal(jax.jit(norms.linf.project)(x, radius), [2, -1])


@pytest.mark.parametrize("p", [0.5, 0, -1, -np.inf, np.nan, 1 - 1e-9])
def test_exponent_of_no_norm(p):
    for make in (norms.lp, norms.schatten):
        with pytest.raises(ValueError, match="^p must be 1 or more"):
            make(p)


@pytest.mark.parametrize("p", [None, "a", "2", True, 2j, [2.0], np.ones(2)])
def test_exponent_that_is_no_number(p):
    for make in (norms.lp, norms.schatten):
        with pytest.raises(TypeError, match="^p must be a known real number, got"):
            make(p)


def test_exponent_of_any_known_real_type():
    for p in (3, np.int64(3), np.float32(3), jnp.asarray(3.0)):
        assert norms.lp(p) == norms.lp(3.0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="^p must be a known real number, got .*JitTracer"):
        jax.jit(lambda p: norms.lp(p).value(np.ones(2)))(3.0)


@pytest.mark.parametrize("base", [norms.spectral, norms.fourier(norms.l1), "l1", 1, None])
def test_fourier_of_no_lp_norm(base):
    with pytest.raises(TypeError, match="^norm must be an lp norm such as norms.l1"):
        norms.fourier(base)


@pytest.mark.parametrize("axes", [(), (0, 0), (-1, 1, -1), []])
def test_fourier_axes_that_are_none_or_repeat(axes):
    with pytest.raises(ValueError, match="^axes must name at least one axis, each once"):
        norms.fourier(norms.l1, axes)


def test_fourier_axes_that_are_no_integers():
    with pytest.raises(TypeError):
        norms.fourier(norms.l1, 1.5)  # pyright: ignore[reportArgumentType]
    assert norms.fourier(norms.l1, np.int64(0)) == norms.fourier(norms.l1, 0)  # pyright: ignore


@pytest.mark.parametrize("axes", [(2,), (-3,), (0, 1, 2)])
@pytest.mark.parametrize("method", METHODS)
def test_fourier_axes_that_are_not_there(axes, method):
    norm = norms.fourier(norms.l1, axes)
    with pytest.raises(ValueError, match=r"^axes \(.*\) of the Fourier norm do not fit .* 2 axes"):
        METHODS[method](norm, np.ones((2, 3), np.float32))


def test_fourier_axes_that_name_one_axis_twice():
    with pytest.raises(ValueError, match=r"^axes \(-1, 1\) of the Fourier norm name one axis"):
        norms.fourier(norms.l1, (1, -1)).value(np.ones((2, 3), np.float32))
    jax.eval_shape(norms.fourier(norms.l1, (1, -1)).value, np.ones((2, 3, 2), np.float32))
