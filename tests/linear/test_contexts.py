"""Where and in which dtype ``max_margin`` may be called, and what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import linear, norms
from jaxrobust.linear import _max_margin
from tests.linear import verify
from tests.linear.cases import INTERIOR, ROWS, padded, separable
from tests.linear.verify import Problem
from tests.norms.oracles import Truth

L2 = INTERIOR["l2"]


@functools.cache
def problem(dtype="float32", seed: int = 0) -> Problem:
    x, y = padded(*separable(12, L2.shape, seed))
    return Problem(x.astype(dtype), y.astype(dtype), L2.truth)


def x64_state() -> tuple[bool, np.dtype]:
    """The switch, and what it means here and now."""
    return jax.config.read("jax_enable_x64"), jnp.ones(1).dtype


# float64 inside, whatever the input ---------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_in_float32(dtype):
    """Computed in float64 all the same: the gap is that of the rounding of w alone."""
    before = x64_state()
    p = problem(dtype)
    result = linear.max_margin(p.x, p.y, "l2", tolerance=1e-6)
    assert x64_state() == before == (False, np.float32)
    for name in ("w", "margin", "upper_bound", "gap", "dual_weights"):
        assert getattr(result, name).dtype == np.float32, name
    assert result.separable.dtype == result.converged.dtype == bool
    assert result.iterations.dtype == np.int32
    assert result.converged
    verify.bounds(result, p, rounding=1e-6)
    assert jnp.asarray(result.w * 2).dtype == np.float32


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("bias", [0.0, 20.0])
def test_the_bounds_are_those_of_the_rounded_arrays(dtype, bias):
    """With a large bias column, the rounding of w to bfloat16 costs the margin."""
    x, y = separable(12, L2.shape, 0)
    x[:, -1] += bias
    x, y = padded(x, y)
    x = jnp.asarray(x, dtype)
    result = linear.max_margin(x, y, "l2", tolerance=1e-6)
    assert result.w.dtype == x.dtype
    assert {leaf.dtype for leaf in result[1:5]} == {jnp.dtype(np.float32)}
    p = Problem(np.asarray(x, float), y, L2.truth)
    w, q = np.asarray(result.w, float), np.asarray(result.dual_weights, float)
    upper = np.linalg.norm(q @ p.signed) / q.sum()
    np.testing.assert_allclose(result.upper_bound, upper, rtol=2**-23)
    assert result.separable == (np.min(p.signed @ w) > 0)
    lower = np.min(p.signed @ w) / max(np.linalg.norm(w), 1e-9)
    np.testing.assert_allclose(result.margin, lower, rtol=2**-23)
    if result.separable:
        np.testing.assert_allclose(result.gap, 1 - lower / upper, rtol=2**-22)
        assert result.converged == (1 - lower / upper <= 1e-6)


def test_under_x64(x64):
    for dtype in ("float32", "float64"):
        result = linear.max_margin(jnp.asarray(problem(dtype).x), problem(dtype).y, "l2")
        assert result.w.dtype == dtype
        verify.solved(result, problem(dtype), rounding=1e-6 if dtype == "float32" else 1e-12)
    assert x64_state() == (True, np.float64)


def test_x64_is_put_back_after_an_error(monkeypatch):
    def fail(*_):
        raise RuntimeError("in the middle")

    monkeypatch.setattr(_max_margin, "_solve", fail)
    before = x64_state()
    with pytest.raises(RuntimeError, match="in the middle"):
        linear.max_margin(problem().x, problem().y, "l2")
    assert x64_state() == before


def test_one_program_per_shape_and_norm():
    """New numbers, tolerances, limits and label dtypes compile nothing."""
    linear.max_margin(problem().x, problem().y, "l2")
    count = _max_margin._solve._cache_size()  # type: ignore[attr-defined]
    for seed, tolerance, labels in ((1, 1e-2, np.int8), (2, 1e-6, np.float64)):
        x, y = jnp.asarray(problem(seed=seed).x), problem(seed=seed).y.astype(labels)
        result = linear.max_margin(
            x, y, norms.lp(2), tolerance=tolerance, zero_tolerance=1e-9, max_iterations=50
        )
        assert result.converged
    assert _max_margin._solve._cache_size() == count  # type: ignore[attr-defined]


# Under transformations ----------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames="name")
def traced(x, y, name="l2"):
    return linear.max_margin(x, y, name)


def test_under_jit():
    """In float64 although the rest of the program is not."""
    for seed in range(4):
        p = problem(seed=seed)
        result = traced(p.x, p.y)
        assert result.w.dtype == np.float32
        lower, upper = verify.solved(result, p, rounding=1e-6)
        optimum = p.optimum()
        assert lower <= optimum * (1 + 1e-6)
        assert upper >= optimum * (1 - 1e-6)
    assert x64_state() == (False, np.float32)


def test_inseparable_under_jit():
    rng = np.random.default_rng(0)
    x = np.pad(rng.normal(size=(ROWS, 6)), ((0, 0), (0, 10))).astype(np.float32)
    p = Problem(x, rng.choice([-1.0, 1.0], size=ROWS).astype(np.float32), L2.truth)
    verify.inseparable(traced(p.x, p.y), p, rounding=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["l1", "linf"])
def test_hard_data_under_jit(name):
    """More examples than features and a small margin: float32 would get stuck."""
    rng = np.random.default_rng(0)
    for _ in range(6):
        x = rng.normal(size=(200, 16)).astype(np.float32)
        y = np.sign(x @ rng.normal(size=16)).astype(np.float32)
        verify.solved(traced(x, y, name), Problem(x, y, INTERIOR[name].truth), rounding=1e-6)


@pytest.mark.slow
def test_loops_and_nested_jits():
    """Each program around it is one of float32."""
    xs, ys = (np.stack(a) for a in zip(*(problem(seed=s)[:2] for s in range(2)), strict=True))
    expected = [linear.max_margin(x, y, "l2").margin for x, y in zip(xs, ys, strict=True)]
    one = lambda x, y: traced(x, y).margin
    scan = lambda x, y: jax.lax.scan(lambda c, a: (c, one(*a)), 0.0, (x, y))[1]
    mapped = lambda x, y: jax.lax.map(lambda a: one(*a), (x, y))
    for function in (scan, mapped, jax.vmap(jax.jit(one))):
        found = jax.jit(function)(xs, ys)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_nan_under_jit_proves_nothing():
    result = traced(np.full_like(problem().x, np.nan), problem().y)
    assert not result.separable
    assert not result.converged
    assert result.gap == 1
    assert result.describe().startswith("not converged: ")


@pytest.mark.parametrize("axis", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
def test_sharded_features_under_jit(axis):
    """The compiler's maximum over the shards drops NaN; none of it may become a bound."""
    mesh = jax.make_mesh((2,), ("m",), axis_types=(axis,))
    for seed in range(3):
        p = problem(seed=seed)
        x = jax.device_put(p.x, jax.NamedSharding(mesh, jax.P(None, "m")))
        verify.solved(traced(x, p.y), p, rounding=1e-6)


def test_vmap():
    stacked = jax.tree.map(lambda *a: np.stack(a), *(problem(seed=s)[:2] for s in range(3)))
    result = jax.vmap(lambda x, y: linear.max_margin(x, y, "l2"))(*stacked)
    assert result.w.shape == (3, *L2.shape)
    for seed in range(3):
        one = jax.tree.map(lambda leaf, seed=seed: leaf[seed], result)
        verify.bounds(one, problem(seed=seed), rounding=1e-6)
        np.testing.assert_allclose(one.margin, traced(*problem(seed=seed)[:2]).margin, rtol=1e-5)


def test_known_data_inside_of_a_trace():
    """Solved while tracing, in float64: a constant of the program."""
    p = problem()
    expected = linear.max_margin(p.x, p.y, "l2", tolerance=1e-9)

    @jax.jit
    def ratio(w):
        best = linear.max_margin(p.x, p.y, "l2", tolerance=1e-6)
        assert best.converged  # nothing of it is traced
        return linear.margin(w, p.x, p.y, "l2") / best.margin, best.gap

    share, gap = ratio(2 * expected.w)
    np.testing.assert_allclose(share, 1, rtol=1e-6)
    assert gap < 1e-6
    shares = jax.vmap(lambda w: ratio(w)[0])(jnp.stack([expected.w, jnp.ones_like(expected.w)]))
    assert shares[1] < shares[0]
    gradient = jax.grad(lambda w: ratio(w)[0])(jnp.ones_like(expected.w))
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("axis", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
def test_sharded_examples(axis):
    p = problem()
    expected = linear.max_margin(p.x, p.y, "l2", tolerance=1e-7)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(axis,))
    x, y = (
        jax.device_put(a, jax.NamedSharding(mesh, jax.P("batch", *[None] * (a.ndim - 1))))
        for a in (p.x, p.y)
    )
    found = linear.max_margin(x, y, "l2", tolerance=1e-7)
    np.testing.assert_array_equal(found.w, expected.w)
    # It goes together with the sharded data again.
    margin = jax.jit(linear.margin, static_argnums=3)(found.w, x, y, "l2")
    np.testing.assert_allclose(margin, expected.margin, rtol=1e-6)


@pytest.mark.slow
def test_sharded_examples_otherwise():
    """Under jit, by the first-order method, in several classes, in frequencies."""
    p = problem()
    axis = jax.sharding.AxisType.Explicit  # the stricter kind
    with jax.set_mesh(jax.make_mesh((2,), ("batch",), axis_types=(axis,))):
        x, y = jax.device_put(p.x, jax.P("batch", None)), jax.device_put(p.y, jax.P("batch"))
        assert traced(x, y).gap < 1e-3
        assert traced(x, y, "l3").gap < 1e-3
        assert linear.max_margin(x, y, "fourier-l1").converged
        classes = jax.device_put((p.y > 0).astype(int) + 1, jax.P("batch"))
        assert linear.max_margin(x, classes, "l2", num_classes=3).converged


# Bad input ----------------------------------------------------------------------------------------

X, Y = np.ones((3, 2)), np.array([1, -1, 1])
HOLES = np.array([[1.0, 2.0], [np.nan, 1.0], [1.0, np.inf]])


@pytest.mark.parametrize(
    ("x", "y", "options", "error", "message"),
    [
        (X, np.array([0, 1, 1]), {}, ValueError, r"y must hold -1 and \+1 only .*\[0, 1\]"),
        (X, np.array([2, 1, -1]), {}, ValueError, r"y must hold -1 and \+1 only .*\[-1, 1, 2\]"),
        (HOLES, Y, {}, ValueError, r"x has NaN or infinite entries, in examples \[1, 2\] \(2 in"),
        (X[:0], Y[:0], {}, ValueError, r"x is empty: shape \(0, 2\)"),
        (X[:, :0], Y, {}, ValueError, r"x is empty: shape \(3, 0\)"),
        (X, Y[:2], {}, ValueError, r"y must have shape \(3,\), one label per row of x, got \(2,\)"),
        (X[:, 0], Y, {}, ValueError, r"x must have shape \(n, \*features\)"),
        (X.astype(int), Y, {}, TypeError, "x must have a real floating dtype"),
        (X.astype(complex), Y, {}, TypeError, "x must have a real floating dtype"),
        (X.tolist(), Y, {}, TypeError, "x must be a floating array, got list"),
        (X, Y.tolist(), {}, TypeError, "y must be an array of labels, got list"),
        (X, Y, {"norm": "l0"}, ValueError, "norm: unknown norm 'l0'"),
        (X, Y, {"norm": 2}, TypeError, "norm must be a Norm such as norms.l2 or its name, got 2"),
        (X, Y, {"tolerance": 0.0}, ValueError, "tolerance must be positive, got 0.0"),
        (X, Y, {"tolerance": -1e-3}, ValueError, "tolerance must be positive"),
        (X, Y, {"tolerance": None}, TypeError, "tolerance must be a real number, got None"),
        (X, Y, {"tolerance": "a"}, TypeError, "tolerance must be a real number"),
        (X, Y, {"tolerance": np.ones(2)}, TypeError, "tolerance must be a real number"),
        (X, Y, {"zero_tolerance": "a"}, TypeError, "zero_tolerance must be a real number"),
        (X, Y, {"tolerance": np.nan}, ValueError, "tolerance must be positive, got nan"),
        (X, Y, {"tolerance": 1.0}, ValueError, "tolerance must be between 0 and 1, got 1.0"),
        (X, Y, {"zero_tolerance": 0.0}, ValueError, "zero_tolerance must be positive"),
        (X, Y, {"max_iterations": 0}, ValueError, "max_iterations must be positive"),
        (X, Y, {"max_iterations": 2.5}, TypeError, "max_iterations must be an integer, got 2.5"),
        (X, Y, {"method": "simplex"}, ValueError, "method must be 'auto', .*got 'simplex'"),
        (X, Y, {"norm": "l3", "method": "interior_point"}, ValueError, "has no form for l3"),
        (X, Y, {"num_classes": 2}, ValueError, "y must hold classes 0..1, got values from -1 to 1"),
        (X, Y + 1, {"num_classes": 2}, ValueError, "y must hold classes 0..1, .* from 0 to 2"),
        (X, np.ones(3), {"num_classes": 2}, TypeError, "y must hold integer class labels"),
        (X, Y, {"num_classes": 1}, ValueError, "num_classes must be at least 2 .*got 1"),
        (X, Y, {"num_classes": 2.5}, TypeError, "num_classes must be an integer, got 2.5"),
        (X, Y, {"norm": norms.fourier(norms.l1, (0, 1))}, ValueError, "do not fit an array with 1"),
    ],
)
def test_bad_input(monkeypatch, x, y, options, error, message):
    """Refused before any work, naming the argument."""
    if "fit an array" not in message:
        monkeypatch.setattr(_max_margin, "_solve", lambda *_: pytest.fail("work was done"))
    norm = options.pop("norm", "l2")
    with pytest.raises(error, match=message):
        linear.max_margin(x, y, norm, **options)


def test_shapes_are_checked_under_a_trace():
    with pytest.raises(ValueError, match=r"y must have shape \(3,\)"):
        traced(X, Y[:2])
    with pytest.raises(ValueError, match=r"y must hold -1 and \+1"):
        jax.jit(lambda x: linear.max_margin(x, np.zeros(3), "l2"))(X)


# Against scikit-learn -----------------------------------------------------------------------------


@pytest.mark.slow
def test_digits_against_a_support_vector_machine():
    """The hard margin of libsvm without its bias, on a real pair of classes: 3 and 8."""
    from sklearn.datasets import load_digits
    from sklearn.svm import SVC

    images, digits = load_digits(return_X_y=True)
    kept = np.isin(digits, (3, 8))
    x, y = images[kept] / 16, np.where(digits[kept] == 8, 1.0, -1.0)
    # A precomputed kernel of examples and their mirror images has no bias by symmetry.
    both, labels = np.concatenate([x, -x]), np.concatenate([y, -y])
    machine = SVC(C=1e8, kernel="precomputed", tol=1e-8).fit(both @ both.T, labels)
    assert abs(machine.intercept_[0]) < 1e-4
    w = machine.dual_coef_[0] @ both[machine.support_]
    expected = np.min(y * (x @ w)) / np.linalg.norm(w)
    jax.config.update("jax_enable_x64", True)
    result = linear.max_margin(x, y, "l2", tolerance=1e-6)
    lower, upper = verify.solved(result, Problem(x, y, Truth(2)), tolerance=1e-6)
    np.testing.assert_allclose(lower, expected, rtol=1e-5)
    assert expected <= upper * (1 + 1e-9)
    np.testing.assert_allclose(result.w, w / np.linalg.norm(w), atol=2e-3)
