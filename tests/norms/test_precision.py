"""Dtypes, very large and very small numbers, infinities and NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import norms
from tests.norms.cases import CASES, FEW

EPS = float(jnp.finfo(jnp.float32).eps)
X = np.array([3.0, -4.0, 0.0, 1.0, 0.5, -2.0, 1.5, -0.25])
VECTORS = ["l1", "l1.5", "l2", "l3", "linf", "fourier-l1-even", "fourier-linf-even"]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("l1", "bfloat16"),
        ("l2", "float16"),
        ("fourier-l1-even", "bfloat16"),
        ("nuclear", "float16"),
    ],
)
def test_dtype_comes_back_with_one_rounding(name, dtype):
    case = CASES[name]
    narrow = jnp.asarray(case.draw(1), dtype)
    wide = np.asarray(narrow.astype(jnp.float32))
    # Computed in float32, a few dozen operations, and rounded once: half an eps of the dtype.
    rtol = 0.5 * float(jnp.finfo(dtype).eps) + 50 * EPS
    atol = 50 * EPS * np.abs(wide).max()  # where a difference cancels

    @jax.jit
    def operate(x):
        return case.norm.value(x), case.norm.lmo(x), case.norm.project(x, 1.25), case.norm.prox(x)

    results = operate(narrow)
    for found, expected in zip(results, operate(wide), strict=True):
        assert (found.dtype, expected.dtype) == (dtype, np.float32)
        np.testing.assert_allclose(found.astype(jnp.float32), expected, rtol=rtol, atol=atol)
    np.testing.assert_allclose(float(results[0]), case.truth.value(wide), rtol=rtol)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_sums_are_wide_inside(dtype):
    # A sum in bfloat16 stops at 256 ones, one in float16 at 2048.
    ones = jnp.ones(4096, dtype)
    assert norms.l1.value(ones) == 4096
    assert norms.l2.value(ones) == 64
    assert norms.lp(3).value(ones) == 16


def test_prox_cancels_before_it_rounds():
    # In bfloat16 the projection of 1 on [-0.99, 0.99] is 0.98828125, and the rest 0.0117.
    found = norms.l1.prox(jnp.ones(1, jnp.bfloat16), 0.99)
    assert found.astype(jnp.float32) == pytest.approx(0.01, rel=2**-8)


@pytest.mark.usefixtures("x64")
def test_float32_stays_float32_under_x64():
    x = X.astype(np.float32)
    for name in ("l1", "l1.5", "l2", "fourier-l1-even"):
        norm = CASES[name].norm
        for radius in (0.7, np.float64(0.7), jnp.asarray(0.7)):
            operate = lambda x, r, norm=norm: (norm.lmo(x), norm.project(x, r), norm.prox(x, r))
            results = [jax.eval_shape(norm.value, x), *jax.eval_shape(operate, x, radius)]
            assert {result.dtype for result in results} == {np.dtype(np.float32)}


@pytest.mark.usefixtures("x64")
def test_python_numbers_and_lists_are_trees_of_floats():
    np.testing.assert_array_equal(norms.l1.value([1.0, -2.0]), 3)
    assert [float(u) for u in norms.linf.lmo([1.0, -2.0])] == [1, -1]


# Sizes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*VECTORS, "spectral", "nuclear"])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_large_and_small_vectors_are_handled_to_scale(name, scale):
    # Squares of these overflow or vanish in float32.
    norm = CASES[name].norm
    x = np.float32(scale * X if name in VECTORS else scale * X.reshape(2, 4))
    truth = CASES[name].truth.value(x)
    np.testing.assert_allclose(norm.value(x), truth, rtol=20 * EPS)
    unit = (x / scale).astype(np.float32)
    # Scaling by a power of ten rounds each entry, and so each phase or singular pair.
    np.testing.assert_allclose(norm.lmo(x), norm.lmo(unit), atol=20 * EPS)
    shrunk = np.asarray(norm.project(x, scale)) / scale
    np.testing.assert_allclose(shrunk, norm.project(unit, 1.0), atol=20 * EPS)
    rest = np.asarray(norm.prox(x, scale)) / scale
    np.testing.assert_allclose(rest, norm.prox(unit, 1.0), atol=20 * EPS * np.abs(unit).max())


@pytest.mark.parametrize("name", VECTORS)
def test_a_ball_too_small_to_see_is_a_point(name):
    x = np.float32(1e10 * X)
    y = np.asarray(CASES[name].norm.project(x, 1e-30), np.float64)
    assert CASES[name].truth.value(y) <= 1e-30 * (1 + 20 * EPS)


def test_a_tiny_ball_does_not_overflow():
    # In units of this radius, the l1.5 norm of 64 entries is more than float32 holds.
    y = np.asarray(norms.lp(3).project(np.full(64, 1e4, np.float32), 2e-34))
    assert 0 <= np.abs(y).sum() <= 64 ** (2 / 3) * 2e-34 * (1 + 20 * EPS)


@pytest.mark.parametrize("name", VECTORS)
def test_subnormal_numbers_give_no_nan(name):
    # Most processors treat them as zero here, which is within the smallest normal number.
    norm, tiny = CASES[name].norm, float(np.finfo(np.float32).tiny)
    x = np.float32(1e-40 * X)
    assert np.any(x != 0)
    assert 0 <= norm.value(x) <= CASES[name].truth.value(x) + 8 * tiny
    assert np.all(np.isfinite(norm.lmo(x)))
    np.testing.assert_allclose(norm.project(x, 1.0), x, rtol=0, atol=tiny)
    assert np.abs(norm.project(x, 1e-41)).max() <= tiny


# Infinity and NaN ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", CASES)
def test_norm_of_an_infinite_entry_is_infinite(name):
    case = CASES[name]
    x = case.draw(1)
    x.flat[1] = -np.inf
    assert case.norm.value(x) == np.inf
    x.flat[0] = np.nan
    assert np.isnan(case.norm.value(x))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", FEW)
def test_nan_in_gives_nan_out(name):
    norm, x = CASES[name].norm, CASES[name].draw(1)
    x.flat[1] = np.nan
    assert np.isnan(norm.value(x))
    assert np.isnan(np.ravel(norm.dual.lmo(x))[1])  # which is the gradient of the value
    for radius in (0.0, 1.0, np.inf):
        for y in (norm.lmo(x), norm.project(x, radius), norm.prox(x, radius)):
            assert np.isnan(np.ravel(y)[1])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["l1", "linf", "fourier-l1-even", "nuclear"])
def test_nan_in_gives_nan_out_when_compiled(name):
    # The compiler makes a product with a mask a selection, and then 0 * NaN is 0.
    norm, x = CASES[name].norm, CASES[name].draw(1)
    x.flat[1] = np.nan
    operate = jax.jit(lambda x: (norm.lmo(x), norm.project(x, 1.0), norm.prox(x, 1.0)))
    assert all(np.isnan(np.ravel(y)[1]) for y in operate(x))


@pytest.mark.parametrize("p", [1.05, 1.1, 1.2, 3, 10, 50])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3, 1e6, 1e12])
def test_far_outside_of_an_lp_ball_in_single_precision(p, size):
    """Powers of entries overflow there; the projection is on the ball, and no entry grows."""
    x = jnp.asarray(size * np.array([1.0, -0.5, 1e-3, 0.0]), jnp.float32)
    radius = float(np.float32(1e-3 * size))
    found = np.asarray(norms.lp(p).project(x, radius), float)
    norm = np.sum((np.abs(found) / radius) ** p) ** (1 / p)
    assert norm == pytest.approx(1, abs=1e-4)
    assert np.all(np.abs(found) <= np.abs(x))
    boxed = norms.lp(p).project_in_box(x, radius, -np.inf, np.inf)
    np.testing.assert_allclose(boxed, found, rtol=1e-3, atol=1e-5 * radius)


def test_l1_balls_smaller_than_rounding_errors_of_the_largest():
    """The largest entries alone share the radius."""
    project = norms.l1.project
    single = lambda *values: jnp.asarray(values, jnp.float32)
    np.testing.assert_allclose(project(single(1, 0.5), 1e-9), [1e-9, 0])
    np.testing.assert_allclose(project(single(1, -1, 0.5), 1e-9), [5e-10, -5e-10, 0])
    many = jnp.concatenate([jnp.ones(100_000), jnp.full(100_000, 0.5)]).astype(jnp.float32)
    found = np.asarray(project(many, 1e-3), float)
    np.testing.assert_allclose(found.sum(), 1e-3, rtol=1e-4)
    assert np.all(found[100_000:] == 0)


@pytest.mark.parametrize("broken", [np.inf, np.nan])
def test_what_cannot_be_projected_does_not_look_as_if(broken):
    for norm in (norms.l2, norms.lp(3)):
        found = np.asarray(norm.project(jnp.asarray([broken, 1.0], jnp.float32), 100.0))
        assert np.isnan(found).any()
