"""Margins, robust radii and exact attacks, against enumeration and against search."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import linear, norms
from tests.linear import oracles
from tests.linear.cases import CASES
from tests.norms.oracles import support

pytestmark = pytest.mark.usefixtures("x64")

EPS = np.finfo(np.float64).eps
# Sums of at most 24 products and one norm, a few roundings each; all numbers are of order 1 to 10.
RTOL = 1000 * EPS
ROWS, CLASSES = 6, 4
RADII = np.linspace(0, 1, ROWS)

# Several classes only where the norm makes a difference to them.
PROBLEMS = [(name, False) for name in CASES] + [
    (name, True) for name in ("l1", "l2", "l3", "fourier-linf-image", "spectral")
]
ids = [f"{name}-{'classes' if several else 'binary'}" for name, several in PROBLEMS]
each_problem = pytest.mark.parametrize(("name", "several"), PROBLEMS, ids=ids)
both = pytest.mark.parametrize("several", [False, True], ids=["binary", "classes"])


def problem(name: str, several: bool):
    """Weights, examples and labels; all examples but the first are on their right side."""
    shape = CASES[name].shape
    rng = np.random.default_rng(1)
    x, w = rng.normal(size=(ROWS, *shape)), rng.normal(size=((CLASSES,) * several + shape))
    scores = np.tensordot(x, w, axes=(range(1, x.ndim), range(int(several), w.ndim)))
    y = np.argmax(scores, axis=1) if several else np.where(scores > 0, 1.0, -1.0)
    y[0] = (y[0] + 1) % CLASSES if several else -y[0]
    return w, x, y


def everything(norm, eps: float | jax.Array | np.ndarray = 0.25):
    """Every function of weights, examples and labels here."""
    return {
        "margins": linear.margins,
        "margin": lambda w, x, y: linear.margin(w, x, y, norm),
        "robust_radii": lambda w, x, y: linear.robust_radii(w, x, y, norm),
        "robust_radius": lambda w, x, y: linear.robust_radius(w, x, y, norm),
        "adversarial_accuracy": lambda w, x, y: linear.adversarial_accuracy(w, x, y, norm, eps),
        "worst_case": lambda w, x, y: linear.worst_case(w, x, y, norm, eps),
    }


def compute(w, x, y, norm, eps: float | jax.Array | np.ndarray = 0.25):
    return {name: function(w, x, y) for name, function in everything(norm, eps).items()}


@functools.cache
def compiled(name: str):
    """Every function and a gradient in one program, of weights, examples, labels and radii."""

    def evaluate(w, x, y, eps):
        norm = CASES[name].norm
        found = compute(w, x, y, norm, eps)
        return {**found, "gradient": jax.grad(linear.robust_radius)(w, x, y, norm)}

    return jax.jit(evaluate)


def evaluate(name: str, w, x, y, eps=RADII) -> dict[str, np.ndarray]:
    return {key: np.asarray(value) for key, value in compiled(name)(w, x, y, eps).items()}


@pytest.mark.parametrize("name", CASES)
def test_the_duals_of_the_oracles_are_duals(name):
    """max <u, w> over the unit ball, by a conic program, against the dual that the tests use."""
    case = CASES[name]
    w = np.random.default_rng(0).normal(size=case.shape)
    np.testing.assert_allclose(support(case.truth, w), case.truth.dual.value(w), rtol=1e-5)


@each_problem
def test_margins_and_radii(name, several):
    case = CASES[name]
    w, x, y = problem(name, several)
    found = evaluate(name, w, x, y)
    m = oracles.margins(w, x, y)
    assert m[0] < 0 < min(m[1:])
    np.testing.assert_allclose(found["margins"], m, rtol=RTOL, atol=RTOL)
    radii = oracles.robust_radii(w, x, y, case.truth)
    np.testing.assert_allclose(found["robust_radii"], radii, rtol=RTOL, atol=RTOL)
    np.testing.assert_allclose(found["robust_radius"], radii.min(), rtol=RTOL)
    if not several or case.truth.of == "entries":  # else a stack of weights is no image or matrix
        np.testing.assert_allclose(found["margin"], m.min() / case.truth.value(w), rtol=RTOL)


@each_problem
def test_worst_case(name, several):
    """In the ball, reaches what no perturbation can beat, and none of many random ones does."""
    case = CASES[name]
    w, x, y = problem(name, several)
    delta = evaluate(name, w, x, y)["worst_case"]
    assert delta.shape == x.shape
    lengths = [case.truth.value(row) for row in delta]
    np.testing.assert_allclose(lengths, RADII, rtol=RTOL, atol=RTOL)
    expected = oracles.worst_margins(w, x, y, case.truth, RADII)
    np.testing.assert_allclose(oracles.margins(w, x + delta, y), expected, rtol=RTOL, atol=RTOL)
    rng = np.random.default_rng(3)
    for trial in range(40):
        other = rng.normal(size=x.shape)
        for row, eps in zip(other, RADII, strict=True):
            row *= eps * (rng.uniform() if trial % 2 else 1) / case.truth.value(row)
        assert np.all(oracles.margins(w, x + other, y) >= expected - RTOL)


@each_problem
def test_adversarial_accuracy(name, several):
    """The share of positive worst-case margins, at radii in between those of the examples."""
    case = CASES[name]
    w, x, y = problem(name, several)
    radii = np.sort(oracles.robust_radii(w, x, y, case.truth))
    eps = np.array([0, *(np.sort(radii)[1:-1] + np.sort(radii)[2:]) / 2, radii[-1] + 1])
    expected = [
        np.mean(oracles.worst_margins(w, x, y, case.truth, np.full(ROWS, e)) > 0) for e in eps
    ]
    assert len(eps) == ROWS
    assert sorted(set(expected)) == sorted(expected)
    found = evaluate(name, w, x, y, eps)["adversarial_accuracy"]
    np.testing.assert_allclose(found, expected, rtol=RTOL)


def test_shape_of_the_accuracy():
    w, x, y = problem("l2", several=False)
    eps = np.array([[0.1, 0.2, 0.3], [0.0, 0.4, 9.0]])
    shares = linear.adversarial_accuracy(w, x, y, "l2", eps)
    assert shares.shape == (2, 3)
    single = linear.adversarial_accuracy(w, x, y, "l2", 0.3)
    assert single.shape == ()
    assert single == shares[0, 2]


@pytest.mark.parametrize(("name", "dual"), [("l1", "linf"), ("l2", "l2"), ("l1.5", "l3")])
def test_margin_is_the_radius_in_the_dual_norm(name, dual):
    w, x, y = problem(name, several=False)
    margin, radius = evaluate(name, w, x, y)["margin"], evaluate(dual, w, x, y)["robust_radius"]
    np.testing.assert_allclose(margin, radius, rtol=RTOL)


def test_norms_by_name():
    w, x, y = problem("l1", several=False)
    assert linear.margin(w, x, y, "L1") == linear.margin(w, x, y, norms.l1)


def by_hand(name: str, w, x, y, eps=RADII) -> dict[str, np.ndarray]:
    """A small problem in the shape of the others: more features are zero, and the rest repeated."""
    w, x = (np.pad(a, [(0, 0)] * (np.ndim(a) - 1) + [(0, 8 - np.shape(a)[-1])]) for a in (w, x))
    if w.ndim == 2:
        w = w[np.minimum(np.arange(CLASSES), len(w) - 1)]
    rows = np.arange(ROWS) % len(x)
    return evaluate(name, w, x[rows], np.asarray(y)[rows], eps)


@pytest.mark.parametrize("name", ["l1", "l2", "linf"])
def test_a_tie_counts_as_lost(name):
    eps = np.array([0, 0.125, 0.25, 0.375, 0.5, 1])
    shares = by_hand(name, [2.0, 0], [[0.5, 1], [-0.25, 1]], [1.0, -1.0], eps)
    np.testing.assert_allclose(shares["adversarial_accuracy"], [1, 1, 0.5, 0.5, 0, 0])
    if name != "linf":
        shares = by_hand(name, [[2.0, 0], [0, 0], [0, 0]], [[0.5, 3]], [0], eps)
        np.testing.assert_allclose(shares["adversarial_accuracy"], [1, 1, 1, 1, 0, 0])


def test_the_nearest_rival_depends_on_the_radius():
    # Class 1 is behind by little, with a short difference; class 2 by more, with a long one.
    w, x, y = [[0.0, 0], [0.5, 0], [0, 4]], [[-1.0, -0.5]], [0]
    for eps, direction in ((0.1, 0), (1.0, 1)):
        found = by_hand("l2", w, x, y, np.full(ROWS, eps))
        np.testing.assert_allclose(found["worst_case"], eps * np.eye(8)[[direction] * ROWS])
        np.testing.assert_allclose(found["robust_radii"], 0.5, rtol=4 * EPS)


def test_rivals_at_a_tie_are_taken_in_order():
    found = by_hand("l2", [[0.0, 0], [1, 0], [0, 1]], [[-1.0, -1.0]], [0])
    np.testing.assert_array_equal(found["worst_case"], RADII[:, None] * np.eye(8)[0])


@both
def test_an_l1_attack_moves_every_example(several):
    """Not only the one with the largest gradient, and each by as much as it may."""
    w, x, y = problem("l1", several)
    delta = evaluate("l1", w, x, y, np.full(ROWS, 0.75))["worst_case"]
    np.testing.assert_allclose(np.abs(delta).sum(axis=1), 0.75, rtol=RTOL)
    np.testing.assert_array_equal((delta != 0).sum(axis=1), 1)


def test_an_l1_attack_on_tied_weights_stays_in_the_ball():
    """A step on both of two equally heavy coordinates would be twice as long."""
    delta = by_hand("l1", [1.0, -2.0, 2.0], [[1.0, 1.0, 1.0]], [1.0])["worst_case"]
    np.testing.assert_array_equal(delta, RADII[:, None] * np.eye(8)[1])


def test_lp_margins_take_the_root():
    """A margin is in units of x: it does not change with the scale of w, and scales with x."""
    w, x, y = problem("l1.5", several=False)
    found = evaluate("l1.5", w, x, y)["margin"]
    expected = oracles.margins(w, x, y).min() / np.sum(np.abs(w) ** 1.5) ** (1 / 1.5)
    np.testing.assert_allclose(found, expected, rtol=RTOL)
    np.testing.assert_allclose(evaluate("l1.5", 3 * w, 2 * x, y)["margin"], 2 * found, rtol=RTOL)


# Zeros and derivatives ----------------------------------------------------------------------------


@each_problem
def test_zero_weights(name, several):
    w, x, y = problem(name, several)
    found = evaluate(name, np.zeros_like(w), x, y)
    assert np.all(np.isfinite(found.pop("gradient")))
    for key, value in found.items():
        np.testing.assert_array_equal(value, np.zeros_like(value), err_msg=key)


def test_two_classes_of_equal_weights():
    w, x, y = problem("l2", several=True)
    w[2] = w[1]
    y[:] = [1, 2, 1, 0, 3, 0]
    found = evaluate("l2", w, x, y)
    assert np.all(found["robust_radii"][:3] <= 0)  # 0, or less if a third class wins
    assert found["adversarial_accuracy"][0] <= 0.5
    assert all(np.all(np.isfinite(value)) for value in found.values())


@each_problem
def test_gradient_of_the_radius(name, several):
    """Against central differences of the oracle, whose error is about EPS^(2/3)."""
    case = CASES[name]
    w, x, y = problem(name, several)
    gradient = evaluate(name, w, x, y)["gradient"]
    direction, step = np.random.default_rng(5).normal(size=w.shape), EPS ** (1 / 3)
    ahead, behind = (
        oracles.robust_radii(w + s * direction, x, y, case.truth).min() for s in (step, -step)
    )
    slope = (ahead - behind) / (2 * step)
    np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-8, atol=1e-8)


# Transformations, dtypes, devices -----------------------------------------------------------------


@both
def test_data_that_a_jitted_function_closes_over(several):
    w, x, y = map(jnp.asarray, problem("l3", several))
    expected = evaluate("l3", w, x, y)
    for key, value in jax.jit(lambda w: compute(w, x, y, norms.lp(3), RADII))(w).items():
        np.testing.assert_allclose(value, expected[key], rtol=RTOL, atol=RTOL, err_msg=key)


@both
def test_vmap(several):
    w, x, y = problem("l3", several)
    batched = jax.vmap(compiled("l3"), in_axes=(0, None, None, None))
    found = batched(np.stack([w, -2 * w]), x, y, RADII)
    for index, factor in enumerate((1, -2)):
        for key, value in evaluate("l3", factor * w, x, y).items():
            got = found[key][index]
            np.testing.assert_allclose(got, value, rtol=RTOL, atol=RTOL, err_msg=key)


@both
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_dtypes(dtype, several):
    """The input's dtype comes back, computed in float32 at least."""
    w, x, y = problem("l2", several)
    w, x = jnp.asarray(w, dtype), jnp.asarray(x, dtype)
    expected = evaluate("l2", np.asarray(w, float), np.asarray(x, float), y)
    labels = jnp.asarray(y, jnp.int8)
    for key, value in compiled("l2")(w, x, labels, jnp.asarray(RADII, dtype)).items():
        assert value.dtype == dtype, key
        # One rounding at the end, and those of float32 before it; RADII are exact in no dtype.
        eps = float(jnp.finfo(dtype).eps) + 50 * np.finfo(np.float32).eps
        atol = eps * np.abs(expected[key]).max()
        np.testing.assert_allclose(value.astype(float), expected[key], atol=atol, err_msg=key)


def test_numpy_double_without_x64():
    jax.config.update("jax_enable_x64", False)
    found = jax.jit(lambda: compute(*problem("l2", several=False), "l2"))()
    assert {value.dtype for value in found.values()} == {np.dtype("float32")}


@both
@pytest.mark.parametrize("axis", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
def test_sharded_examples(axis, several):
    w, x, y = problem("l2", several)
    expected = evaluate("l2", w, x, y)
    with jax.set_mesh(jax.make_mesh((2,), ("batch",), axis_types=(axis,))):
        x_sharded = jax.device_put(x, jax.P("batch", None))
        y_sharded = jax.device_put(y, jax.P("batch"))
        for key, value in compiled("l2")(w, x_sharded, y_sharded, RADII).items():
            np.testing.assert_allclose(value, expected[key], rtol=RTOL, atol=RTOL, err_msg=key)


# Bad input ----------------------------------------------------------------------------------------

X, Y, W = np.ones((3, 2)), np.array([1, -1, 1]), np.ones(2)
HOLES = np.array([[1.0, 2.0], [np.nan, 1.0], [np.inf, 1.0]])


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((W, X, np.array([0, 1, 1])), ValueError, r"y must hold -1 and \+1 only.*\[0, 1\]"),
        ((W, X, np.array([1.0, -1.0, np.nan])), ValueError, "y must hold -1 and"),
        ((W, HOLES, Y), ValueError, r"x has NaN or infinite entries, in examples \[1, 2\] \(2 in"),
        ((W, X, Y[:2]), ValueError, r"y must have shape \(3,\).*got \(2,\)"),
        ((W, X, Y[:, None]), ValueError, r"y must have shape \(3,\).*got \(3, 1\)"),
        ((W, X[:, 0], Y), ValueError, r"x must have shape \(n, \*features\).*got \(3,\)"),
        ((W, X[:0], Y[:0]), ValueError, r"x is empty: shape \(0, 2\)"),
        ((W[:0], X[:, :0], Y), ValueError, r"x is empty: shape \(3, 0\)"),
        ((np.ones(3), X, Y), ValueError, r"w must have shape \(2,\) .*got \(3,\)"),
        ((np.ones((1, 2)), X, Y), ValueError, r"w must have shape .*got \(1, 2\)"),
        ((np.ones((2, 2)), X, Y.astype(float)), TypeError, "y must hold integer class labels"),
        ((np.ones((2, 2)), X, Y), ValueError, "y must hold classes 0..1, got values from -1 to 1"),
        ((np.ones((2, 2)), X, Y + 1), ValueError, "classes 0..1, got values from 0 to 2"),
        ((W, X.astype(int), Y), TypeError, "x must have a real floating dtype, got int64"),
        ((W.astype(int), X, Y), TypeError, "w must have a real floating dtype"),
        ((W, X.tolist(), Y), TypeError, "x must be a floating array, got list"),
        ((W.tolist(), X, Y), TypeError, "w must be a floating array, got list"),
        ((W, X, Y.tolist()), TypeError, "y must be an array of labels, got list"),
    ],
)
@pytest.mark.parametrize("function", everything(None))
def test_bad_input(function, args, error, message):
    with pytest.raises(error, match=message):
        everything("l2")[function](*args)


@pytest.mark.parametrize("eps", [-0.1, np.nan, np.array([0.1, -1.0, 0.1]), jnp.array(-1.0)])
@pytest.mark.parametrize("function", [linear.adversarial_accuracy, linear.worst_case])
def test_bad_radius(function, eps):
    with pytest.raises(ValueError, match="eps must be 0 or more, got"):
        function(W, X, Y, "l2", eps)


@pytest.mark.parametrize("eps", [None, "a", "0.1", True, 1j, [0.1], np.array(["a"])])
@pytest.mark.parametrize("function", [linear.adversarial_accuracy, linear.worst_case])
def test_a_radius_that_is_no_number(function, eps):
    with pytest.raises(TypeError, match="eps must be a real number or an array of them, got"):
        function(W, X, Y, "l2", eps)


@pytest.mark.parametrize("function", [linear.adversarial_accuracy, linear.worst_case])
def test_a_traced_radius(function):
    """It works, whether or not all else is known; its sign is then not checked."""
    w, x, y = problem("l2", several=False)
    expected = function(w, x, y, "l2", 0.3)
    np.testing.assert_allclose(jax.jit(lambda eps: function(w, x, y, "l2", eps))(0.3), expected)


def test_a_radius_per_example_of_another_shape():
    with pytest.raises(ValueError, match=r"eps must be a scalar or have shape \(3,\), got \(2,\)"):
        linear.worst_case(W, X, Y, "l2", np.ones(2))


@pytest.mark.parametrize("function", ["margin", "robust_radii", "robust_radius"])
def test_unknown_norm(function):
    with pytest.raises(ValueError, match="norm: unknown norm 'l0'"):
        everything("l0")[function](W, X, Y)


def test_under_a_trace():
    """Shapes and dtypes are checked; of the values, those that are known."""
    with pytest.raises(ValueError, match="y must have shape"):
        jax.jit(linear.margins)(W, X, Y[:2])
    with pytest.raises(ValueError, match="x has NaN"):
        jax.jit(lambda w: linear.margins(w, HOLES, Y))(W)
    with pytest.raises(ValueError, match="eps must be"):
        jax.jit(lambda w: linear.worst_case(w, X, Y, "l2", -1.0))(W)
    assert np.isnan(jax.jit(linear.margins)(W, HOLES, Y)[1])
