"""Examples and weights sharded over a mesh, by examples, by features and by both."""

import contextlib
import functools

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxrobust import linear

EPS = float(np.finfo(np.float32).eps)
ROWS, FEATURES, CLASSES = 8, 16, 3
# Of the examples and of the features; in the last one the weights lie across the examples' axis.
SPECS = {"features": (None, "m", "m"), "both": ("b", "m", "m"), "crossed": ("m", None, "m")}

FUNCTIONS = {
    "margins": lambda w, x, y: linear.margins(w, x, y),
    "margin": lambda w, x, y: linear.margin(w, x, y, "l2"),
    "robust_radii": lambda w, x, y: linear.robust_radii(w, x, y, "l1"),
    "robust_radius": lambda w, x, y: linear.robust_radius(w, x, y, "l2"),
    "adversarial_accuracy": lambda w, x, y: linear.adversarial_accuracy(w, x, y, "l2", 0.1),
    "worst_case": lambda w, x, y: linear.worst_case(w, x, y, "l1", 0.1),
}


def gradient(w, x, y):
    return jax.grad(lambda w: linear.log_loss(linear.margins(w, x, y)))(w)


def certificate(w, x, y):
    return linear.certificate(w, x, y, "l2")


def make_mesh(kind=AxisType.Explicit):
    return jax.make_mesh((2, 4), ("b", "m"), axis_types=(kind,) * 2)


def problem(several):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, FEATURES)).astype(np.float32)
    if several:
        w = rng.normal(size=(CLASSES, FEATURES)).astype(np.float32)
        return w, x, rng.integers(0, CLASSES, ROWS)
    return rng.normal(size=FEATURES).astype(np.float32), x, rng.choice([-1.0, 1.0], ROWS)


def sharded(mesh, arrays, how):
    w, x, y = arrays
    rows, features, of_weights = SPECS[how]
    specs = P(*[None] * (w.ndim - 1), of_weights), P(rows, features), P(rows)
    put = lambda array, spec: jax.device_put(array, NamedSharding(mesh, spec))
    return [put(array, spec) for array, spec in zip(arrays, specs, strict=True)]


@jax.jit
def everything(w, x, y):
    found = [function(w, x, y) for function in (*FUNCTIONS.values(), gradient)]
    return found if w.ndim > 1 else [*found, certificate(w, x, y)]


@functools.cache
def expected(several):
    return jax.tree.map(np.asarray, everything(*problem(several)))


def check(found, expected):
    # Sums of 16 terms in another order, of terms up to some units.
    close = lambda a, b: np.testing.assert_allclose(np.asarray(a), b, rtol=20 * EPS, atol=20 * EPS)
    jax.tree.map(close, found, expected)


@pytest.mark.parametrize(
    ("how", "inside", "several"),
    [
        ("features", False, False),
        ("crossed", False, False),
        ("both", False, True),
        ("both", True, False),
    ],
)
def test_without_jit(how, inside, several):
    mesh = make_mesh()
    inputs = sharded(mesh, problem(several), how)
    functions = [*FUNCTIONS.values(), *([gradient] if inside else [])]
    with jax.set_mesh(mesh) if inside else contextlib.nullcontext():
        check([f(*inputs) for f in functions], expected(several)[: len(functions)])
        if not several:
            check(certificate(*inputs), expected(several)[-1])


@pytest.mark.parametrize("several", [False, True])
def test_under_jit(several):
    mesh = make_mesh()
    inputs = sharded(mesh, problem(several), "both")
    check(everything(*inputs), expected(several))
    with jax.set_mesh(mesh):
        check(everything(*inputs), expected(several))


@pytest.mark.parametrize("several", [False, True])
def test_the_examples_stay_sharded(several):
    w, x, y = sharded(make_mesh(), problem(several), "both")
    assert jax.typeof(linear.margins(w, x, y)).sharding.spec == P("b")
    assert jax.typeof(linear.robust_radii(w, x, y, "l2")).sharding.spec == P("b")
    assert jax.typeof(linear.worst_case(w, x, y, "l2", 0.1)) == jax.typeof(x)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_a_hole_on_one_device_is_found(kind, bad):
    w, x, y = problem(several=False)
    x[5, 11] = bad
    with pytest.raises(
        ValueError, match=r"x has NaN or infinite entries, in examples \[5\] \(1 in"
    ):
        linear.margins(*sharded(make_mesh(kind), (w, x, y), "both"))


@pytest.mark.parametrize("how", ["features", "both"])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_the_path_of_spread_examples(kind, how):
    arrays = problem(several=False)
    follow = lambda x, y: linear.regularization_path(x, y, "l1", [0.1, 0.01], max_steps=50)
    wanted = follow(*arrays[1:])
    mesh = make_mesh(kind)
    _, x, y = sharded(mesh, arrays, how)
    with jax.set_mesh(mesh):
        found = follow(x, y)
    # Minimised to a gap of 1e-4.
    np.testing.assert_allclose(found.objective, wanted.objective, rtol=2e-4)
    assert np.all(found.converged)
