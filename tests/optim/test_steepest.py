"""Directions of steepest descent against their formulas, and what follows from their definition."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrobust import norms, optim
from tests.optim import oracles

GEOMETRIES = {**oracles.VECTOR, **oracles.MATRIX}
MATRIX_SHAPES = [(4, 4), (3, 5), (5, 2)]


def _random(name: str, seed: int, size: int = 8) -> np.ndarray:
    shape = MATRIX_SHAPES[seed % 3] if name in oracles.MATRIX else (size,)
    return np.random.default_rng(seed).normal(size=shape)


# Static, so that one norm is compiled once per shape.
@functools.partial(jax.jit, static_argnums=0)
def _steepest(norm, gradient):
    tx = optim.scale_by_steepest(norm)
    return tx.update(gradient, tx.init(gradient))[0]


@functools.partial(jax.jit, static_argnums=0)
def _normalized(norm, gradient):
    tx = optim.scale_by_normalized_steepest(norm)
    return tx.update(gradient, tx.init(gradient))[0]


# --- the formulas ---------------------------------------------------------------------------------

# Two float64 computations of a well-conditioned formula, 40 entries at most. The random matrices
# have condition numbers below 100, which multiply the error of a polar factor.
RTOL = 1e-12


@pytest.mark.parametrize("name", oracles.VECTOR)
@pytest.mark.parametrize("size", [2, 8, 9])
def test_vector_directions(name: str, size: int, x64):
    g = _random(name, size, size)
    np.testing.assert_allclose(
        _steepest(name, g), GEOMETRIES[name].direction(g), rtol=RTOL, atol=RTOL
    )


@pytest.mark.parametrize("name", oracles.MATRIX)
@pytest.mark.parametrize("seed", range(3))
def test_matrix_directions(name: str, seed: int, x64):
    g = _random(name, seed)
    np.testing.assert_allclose(
        _steepest(name, g), GEOMETRIES[name].direction(g), rtol=100 * RTOL, atol=100 * RTOL
    )


@pytest.mark.parametrize("name", GEOMETRIES)
def test_normalized_is_the_direction_over_its_norm(name: str, x64):
    g = _random(name, 1)
    v = GEOMETRIES[name].direction(g)
    np.testing.assert_allclose(
        _normalized(name, g), v / GEOMETRIES[name].norm(v), rtol=100 * RTOL, atol=100 * RTOL
    )


def test_coordinate_descent_moves_one_of_tied_coordinates():
    """The first. Moving all of them is no step of unit l1 norm, but it is an easy mistake."""
    update = _steepest(norms.l1, jnp.array([1.0, -2.0, 2.0, 2.0]))
    np.testing.assert_array_equal(update, [0, -2, 0, 0])
    # Over a tree, the first leaf that has it.
    update = _steepest(norms.l1, {"a": jnp.array([1.0, -3.0]), "b": jnp.array([[3.0, 3.0]])})
    np.testing.assert_array_equal(update["a"], [0, -3])
    np.testing.assert_array_equal(update["b"], [[0, 0]])


def test_fourier_coordinate_descent_of_tied_frequencies():
    """All frequencies of an impulse tie; the lowest, the constant one, is taken: 1/d everywhere."""
    update = _steepest("fourier-l1", jnp.zeros(8).at[0].set(1.0))
    np.testing.assert_allclose(update, np.full(8, 1 / 8), rtol=1e-6)  # a few float32 roundings


def test_fourier_coordinate_descent_is_a_sinusoid(x64):
    """On a sinusoid it is the signal over 2 (half of it on k, half on -k), but all of a Nyquist."""
    t = np.arange(12)
    wave = np.cos(2 * np.pi * 3 * t / 12 + 0.4)
    nyquist = (-1.0) ** t
    # <g, v> = |g|_*^2 with |g|_* = |G_k| = sqrt(12)/2 fixes the factor: |g|_2^2 = 6 = 2 |G_k|^2.
    np.testing.assert_allclose(_steepest("fourier-l1", wave), wave / 2, atol=1e-14)
    np.testing.assert_allclose(_steepest("fourier-l1", nyquist), nyquist, atol=1e-14)


def test_fourier_over_image_axes(x64):
    """Per channel over both axes; the spectrum of the direction has one modulus everywhere."""
    g = np.random.default_rng(0).normal(size=(4, 5, 2))
    v = _steepest(norms.fourier(norms.linf, axes=(0, 1)), g)
    spectrum = np.fft.fft2(np.asarray(v), axes=(0, 1), norm="ortho")
    total = np.sum(np.abs(np.fft.fft2(g, axes=(0, 1), norm="ortho")))
    np.testing.assert_allclose(np.abs(spectrum), total, rtol=1e-12)


@pytest.mark.parametrize("name", ["l1", "linf", "l1.5", "l4"])
def test_tree_is_one_vector(name: str, x64):
    a, b = _random(name, 0, 5), _random(name, 1, 6)
    update = _steepest(name, {"a": a, "b": b.reshape(2, 3)})
    flat = np.concatenate([np.ravel(update["a"]), np.ravel(update["b"])])
    expected = GEOMETRIES[name].direction(np.concatenate([a, b]))
    np.testing.assert_allclose(flat, expected, rtol=RTOL, atol=RTOL)


@pytest.mark.parametrize("name", ["spectral", "fourier-linf"])
def test_tree_shares_the_sum_of_dual_norms(name: str, x64):
    """For these norms, of the kind linf, each leaf has its own unit direction."""
    geometry = GEOMETRIES[name]
    leaves = {"a": _random(name, 0, 5), "b": _random(name, 1, 6)}
    total = sum(geometry.dual(g) for g in leaves.values())
    update = _steepest(name, leaves)
    for key, g in leaves.items():
        expected = geometry.direction(g) * total / geometry.dual(g)
        np.testing.assert_allclose(update[key], expected, rtol=100 * RTOL, atol=100 * RTOL)


# --- the definition -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GEOMETRIES)
def test_maximises_its_objective(name: str, x64):
    """<g, v> - |v|^2 / 2 is |g|_*^2 / 2 there, and nowhere more."""
    geometry, g = GEOMETRIES[name], _random(name, 1)
    v = np.asarray(_steepest(name, g))
    best = 0.5 * geometry.dual(g) ** 2
    assert np.sum(g * v) - 0.5 * geometry.norm(v) ** 2 == pytest.approx(best, rel=1e-10)
    rng = np.random.default_rng(0)
    for scale in (0.01, 0.3, 3):
        for _ in range(30):
            u = v + scale * rng.normal(size=g.shape)
            assert np.sum(g * u) - 0.5 * geometry.norm(u) ** 2 <= best * (1 + 1e-12)


def _smoothness(name: str, a: np.ndarray) -> float:
    """A bound on max v^T a v over the unit ball, for a positive semi-definite a."""
    d, top = len(a), np.linalg.eigvalsh(a)[-1]
    f = oracles.dft(d)
    spectral = np.abs(f @ a @ f.conj().T)
    signs = np.array(np.meshgrid(*[[-1, 1]] * d)).reshape(d, -1)
    return {
        "l1": np.max(np.diag(a)),
        "l2": top,
        "linf": np.max(np.sum(signs * (a @ signs), axis=0)),  # attained at a vertex of the cube
        "l1.5": top,  # |v|_2 <= |v|_p for p <= 2
        "l4": top * d**0.5,  # |v|_2 <= d^(1/2 - 1/p) |v|_p for p >= 2
        "fourier-l1": np.max(np.diag(spectral)),
        "fourier-linf": np.sum(spectral),
    }[name]


@pytest.mark.parametrize("name", oracles.VECTOR)
def test_decreases_a_smooth_function_as_promised(name: str, x64):
    """f(w - eta v) <= f(w) - (eta - beta eta^2 / 2) |g|_*^2 on quadratics of smoothness beta."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        root = rng.normal(size=(6, 6))
        a, w = root @ root.T, rng.normal(size=6)
        beta, g = _smoothness(name, a), a @ w
        step = -np.asarray(_steepest(name, g))
        for eta in (0.3 / beta, 1 / beta, 1.9 / beta):
            after = w + eta * step
            promise = (eta - beta * eta**2 / 2) * GEOMETRIES[name].dual(g) ** 2
            before = 0.5 * w @ a @ w
            assert 0.5 * after @ a @ after <= before - promise + 1e-10 * before


# --- invariance -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GEOMETRIES)
@given(seed=st.integers(0, 1000), exponent=st.integers(-20, 20))
def test_homogeneous(name: str, seed: int, exponent: int):
    """Scaling the gradient scales the step; turning it round turns the step round."""
    g = jnp.asarray(_random(name, seed), jnp.float32)
    factor = -(2.0**exponent)
    expected = factor * np.asarray(_steepest(name, g))
    # A change of scale by powers of 2 is exact; lp's powers and the SVD round differently.
    atol = 2e-5 * np.max(np.abs(expected))
    np.testing.assert_allclose(_steepest(name, factor * g), expected, atol=atol)


def test_equivariant(x64):
    """Under the isometries of each norm: permutations, rotations, shifts."""
    rng = np.random.default_rng(0)
    g = rng.normal(size=8)
    order = rng.permutation(8)
    for name in ("l1", "linf", "l1.5", "l4"):
        np.testing.assert_allclose(_steepest(name, g[order]), _steepest(name, g)[order], rtol=RTOL)
    for name in ("fourier-l1", "fourier-linf"):
        shifted = _steepest(name, np.roll(g, 3))
        np.testing.assert_allclose(shifted, np.roll(_steepest(name, g), 3), atol=1e-12)
    matrix = rng.normal(size=(3, 4))
    left, right = (np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (3, 4))
    for name in oracles.MATRIX:
        turned = left @ _steepest(name, matrix) @ right
        np.testing.assert_allclose(_steepest(name, left @ matrix @ right), turned, atol=1e-12)


# --- the same as Optax, where Optax has it --------------------------------------------------------


def _run(tx: optax.GradientTransformation, num_steps: int = 5):
    """Final parameters on a fixed sequence of gradients."""
    params: Any = {"a": jnp.ones(3), "b": jnp.ones((2, 2))}
    state = tx.init(params)
    for step in range(num_steps):
        rng = np.random.default_rng(step)
        grad = {k: jnp.asarray(rng.normal(size=p.shape), p.dtype) for k, p in params.items()}
        updates, state = tx.update(grad, state, params)
        params = optax.apply_updates(params, updates)
    return params


SCHEDULE = optax.linear_schedule(0.5, 0.1, 4)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (optim.steepest_descent(0.1, "l2"), optax.sgd(0.1)),
        (optim.steepest_descent(SCHEDULE, "l2"), optax.sgd(SCHEDULE)),
        (optim.normalized_steepest_descent(0.1, "linf"), optax.sign_sgd(0.1)),
        (optim.normalized_steepest_descent(SCHEDULE, "linf"), optax.sign_sgd(SCHEDULE)),
        (
            optim.normalized_steepest_descent(0.1, "linf", momentum=0.9),
            optax.chain(optax.trace(0.9), optax.sign_sgd(0.1)),
        ),
        (
            optim.normalized_steepest_descent(0.1, "linf", momentum=0.9, nesterov=True),
            optax.chain(optax.trace(0.9, nesterov=True), optax.sign_sgd(0.1)),
        ),
    ],
    ids=["sgd", "sgd-schedule", "sign_sgd", "sign_sgd-schedule", "signum", "signum-nesterov"],
)
def test_equals_optax(ours, theirs):
    for a, b in zip(jax.tree.leaves(_run(ours)), jax.tree.leaves(_run(theirs)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_l2_passes_the_gradient_untouched():
    gradient: Any = {"a": jnp.arange(3.0)}
    for norm in (norms.l2, norms.schatten(2)):
        update: Any = optim.scale_by_steepest(norm).update(gradient, optax.EmptyState())[0]
        assert update["a"] is gradient["a"]


def test_momentum_is_summed_in_float32():
    """A quarter is lost when added to 256 in bfloat16, whose spacing is 2 there; not in float32."""
    tx = optim.scale_by_normalized_steepest("l2", momentum=0.999)
    params = jnp.zeros(2, jnp.bfloat16)
    state, update = tx.init(params), jax.jit(tx.update)
    for step in range(101):
        _, state = update(jnp.array([256 if step == 0 else 0.25, 0], jnp.bfloat16), state)
    expected = 256 * 0.999**100 + 0.25 * (1 - 0.999**100) / 0.001
    assert isinstance(state, optim.MomentumState)
    assert state.momentum.dtype == jnp.float32
    np.testing.assert_allclose(state.momentum[0], expected, rtol=1e-5)  # 100 float32 roundings


# --- dtypes and hard inputs -----------------------------------------------------------------------


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_low_precision(name: str, dtype):
    """Computed in float32: the float64 result, rounded once."""
    g = _random(name, 2).astype(dtype).astype(np.float64)
    v = _steepest(name, jnp.asarray(g, dtype))
    assert v.dtype == dtype
    expected = GEOMETRIES[name].direction(g)
    # Half a unit in the last place, and float32's own error times the condition of a polar factor.
    rtol, atol = 0.51 * float(jnp.finfo(dtype).eps), 1e-4 * np.max(np.abs(expected))
    np.testing.assert_allclose(np.asarray(v, np.float64), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_extreme_gradients(name: str, scale: float):
    g = _random(name, 2)
    v = np.asarray(_steepest(name, jnp.asarray(scale * g, jnp.float32)), np.float64) / scale
    expected = GEOMETRIES[name].direction(g)
    np.testing.assert_allclose(v, expected, atol=1e-4 * np.max(np.abs(expected)), rtol=0)


@pytest.mark.parametrize("function", [_steepest, _normalized])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_zero_and_nan(function, name: str):
    zeros = {"a": jnp.zeros((3, 4)), "b": jnp.zeros(3)}
    update = function(name, zeros)
    assert all(bool(jnp.all(leaf == 0)) for leaf in jax.tree.leaves(update))
    update = function(name, {"a": zeros["a"].at[1, 2].set(jnp.nan), "b": jnp.ones(3)})
    assert jnp.isnan(update["a"][1, 2])
    if function is _steepest and name != "l2":
        assert bool(jnp.all(jnp.isnan(update["b"])))


def test_no_leaves():
    """A label of `optax.partition` without parameters, for example."""
    for tx in (
        optim.scale_by_steepest("l1"),
        optim.scale_by_normalized_steepest("spectral", momentum=0.5),
        optim.loss_scaled_steepest_descent("linf", 1.0),
    ):
        assert tx.update({}, tx.init({}), value=jnp.float32(1.0))[0] == {}


@pytest.mark.parametrize("link", [optim.scale_by_steepest, optim.scale_by_normalized_steepest])
def test_bad_updates(link):
    tx = link("l2")
    with pytest.raises(TypeError, match=r"updates\['a'\].*int32"):
        tx.update({"a": jnp.arange(3)}, tx.init({}))
    with pytest.raises(ValueError, match=r"updates\['a'\] is empty"):
        tx.update({"a": jnp.zeros((0, 3))}, tx.init({}))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: optim.scale_by_steepest("l0.5"), ValueError, "norm: unknown"),
        (lambda: optim.scale_by_steepest(2), TypeError, "norm must be"),  # type: ignore[arg-type]
        (lambda: optim.steepest_descent(-0.1, "l1"), ValueError, "learning_rate.*got -0.1"),
        (lambda: optim.steepest_descent(np.nan, "l1"), ValueError, "learning_rate.*got nan"),
        (lambda: optim.steepest_descent(np.inf, "l1"), ValueError, "learning_rate.*got inf"),
        (lambda: optim.steepest_descent(jnp.ones(2), "l1"), ValueError, "learning_rate.*shape"),
        (lambda: optim.steepest_descent(None, "l1"), TypeError, "learning_rate.*None"),  # type: ignore[arg-type]
        (lambda: optim.steepest_descent("0.1", "l1"), TypeError, "learning_rate.*'0.1'"),  # type: ignore[arg-type]
        (lambda: optim.steepest_descent(True, "l1"), TypeError, "learning_rate.*True"),
        (
            lambda: optim.normalized_steepest_descent(0.1, "l1", momentum=1.0),
            ValueError,
            "momentum.*got 1.0",
        ),
        (
            lambda: optim.normalized_steepest_descent(0.1, "l1", momentum=np.nan),
            ValueError,
            "momentum.*got nan",
        ),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_learning_rate_may_be_an_array_inside_jit():
    """Also a known one, whose check must not be traced."""
    rate = jnp.float32(0.5)

    @jax.jit
    def update(gradient):
        tx = optim.steepest_descent(rate, "l1")
        return tx.update(gradient, tx.init(gradient))[0]

    np.testing.assert_array_equal(update(jnp.array([1.0, 2.0])), [0, -1])
