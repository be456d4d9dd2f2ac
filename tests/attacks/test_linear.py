"""On linear classifiers attacks reach the closed form, every example on its own."""

import math

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import attacks, norms
from tests.attacks.problems import CASES, IN_BOX, binary, examples, linear
from tests.norms import oracles
from tests.norms.test_bands import in_bands, moduli, symmetric

KEY = jax.random.key(0)
EXACT = {
    "apgd": attacks.apgd,
    "frank_wolfe": attacks.frank_wolfe,
    "pgd": attacks.pgd,
}


def told(case):
    """Of two classes: the difference of weights, inputs, labels, radii."""
    w, x, y, eps = examples(case.shape)
    return w[1] - w[0], x, y, eps


def gained(w, y, delta):
    """By how much each margin was lowered."""
    signs = 1 - 2.0 * np.asarray(y)
    return signs * np.einsum("bf,f->b", np.asarray(delta, float).reshape(len(y), -1), w.ravel())


def is_feasible(case, delta, eps):
    for one, radius in zip(np.asarray(delta), eps, strict=True):
        assert case.truth.value(one) <= radius * (1 + 1e-6)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("attack", EXACT)
def test_two_classes(attack, name, x64):
    case = CASES[name]
    w, x, y, eps = told(case)
    found = EXACT[attack](
        binary, w, x, y, norm=case.norm, eps=eps, key=KEY, loss="margin", num_steps=50
    )
    best = eps * case.truth.dual.value(w)
    ratio = gained(w, y, found.perturbations) / best
    assert np.all(ratio >= 1 - (1e-4 if attack == "pgd" else 1e-6))
    assert np.all(ratio <= 1 + 1e-9)
    is_feasible(case, found.perturbations, eps)
    np.testing.assert_allclose(found.inputs, x + np.asarray(found.perturbations))
    scores = np.asarray(binary(w, found.inputs))
    np.testing.assert_array_equal(found.success, scores[np.arange(len(y)), y] <= scores.min(axis=1))
    assert np.all(np.asarray(found.info.beyond_radius) <= 1e-6)
    assert not np.any(found.info.has_nan)


@pytest.mark.parametrize("name", ["l1", "l2", "linf", "fourier-linf-image"])
def test_in_single_precision(name):
    case = CASES[name]
    w, x, y, eps = (np.asarray(a, np.float32) for a in told(case))
    y = y.astype(int)
    found = attacks.apgd(binary, w, x, y, norm=case.norm, eps=eps, key=KEY, num_steps=50)
    assert found.perturbations.dtype == jnp.float32
    best = eps.astype(float) * case.truth.dual.value(w)
    # Perturbations of spectra leave room for the rounding of inputs: several 1e-8 of such a radius.
    share = 1e-5 if name.startswith("fourier") else 1e-6
    assert np.all(gained(w, y, found.perturbations) / best >= 1 - share)
    is_feasible(case, np.asarray(found.inputs, float) - x, eps)


def to_others(truth, w, x, y):
    """By example and other class: how far that is ahead, and by how much a unit of norm helps."""
    ways = np.array([[w[c] - w[label] for c in range(len(w)) if c != label] for label in y])
    margin = (ways * x[:, None]).sum(axis=tuple(range(2, ways.ndim)))
    return ways, margin, np.array([[truth.dual.value(way) for way in row] for row in ways])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("attack", EXACT)
def test_several_classes(attack, name, x64):
    """Against every other class; the best of them is as good as the closed form."""
    case = CASES[name]
    w, x, y, eps = examples(case.shape, num_classes=4, seed=1)
    found = EXACT[attack](
        linear, w, x, y, norm=case.norm, eps=eps, key=KEY, loss="targeted_margin", num_steps=50
    )
    _, margin, length = to_others(case.truth, w, x, y)
    best = (margin + eps[:, None] * length).max(axis=1)
    short = (best - np.asarray(found.margin)) / (eps * length.max(axis=1))
    assert np.all(short <= (1e-4 if attack == "pgd" else 1e-6))
    is_feasible(case, found.perturbations, eps)
    np.testing.assert_array_equal(found.success, best >= 0)


def furthest(truth, g, shape, radius, low, high):
    u = cp.Variable(g.size)
    ball = [truth.expression(u, shape) <= radius, u >= low.ravel(), u <= high.ravel()]
    oracles.solve(cp.Problem(cp.Maximize(g.ravel() @ u), ball))
    return float(g.ravel() @ oracles.value_of(u))


@pytest.mark.parametrize("name", IN_BOX)
@pytest.mark.parametrize("attack", EXACT)
def test_in_a_box(attack, name, x64):
    case = CASES[name]
    w, x, y, eps = told(case)
    eps = eps * case.truth.value(np.ones(case.shape)) * 2  # so that the box matters
    found = EXACT[attack](
        binary, w, x, y, norm=case.norm, eps=eps, key=KEY, loss="margin", num_steps=100,
        bounds=(0.0, 1.0),
    )  # fmt: skip
    gains = gained(w, y, found.perturbations)
    for i, label in enumerate(y):
        best = furthest(case.truth, (1 - 2 * label) * w, case.shape, eps[i], -x[i], 1 - x[i])
        assert gains[i] >= (1 - (1e-4 if attack == "pgd" else 1e-6)) * best
    is_feasible(case, found.perturbations, eps)
    assert np.all((np.asarray(found.inputs) >= 0) & (np.asarray(found.inputs) <= 1))
    assert np.all(np.asarray(found.info.out_of_bounds) <= 1e-6)


@pytest.mark.parametrize("name", [*IN_BOX, "fourier-linf-image", "fourier-l1-image"])
def test_several_classes_in_a_box(name, x64):
    """The best of as many conic problems as there are other classes."""
    case = CASES[name]
    w, x, y, eps = examples(case.shape, num_classes=4, seed=1)
    eps = eps * case.truth.value(np.ones(case.shape)) * 2
    found = attacks.apgd(
        linear, w, x, y, norm=case.norm, eps=eps, key=KEY, loss="targeted_margin", num_steps=200,
        bounds=(0.0, 1.0),
    )  # fmt: skip
    ways, margin, length = to_others(case.truth, w, x, y)
    for i in range(len(y)):
        gains = [furthest(case.truth, v, case.shape, eps[i], -x[i], 1 - x[i]) for v in ways[i]]
        short = (margin[i] + gains).max() - float(found.margin[i])
        assert short <= (1e-6 if name in IN_BOX else 1e-4) * max(gains)
    assert np.all(np.asarray(found.info.out_of_bounds) <= 1e-6)
    is_feasible(case, found.perturbations, eps)


IMAGES = {
    "white and black": np.round,
    "mostly black": lambda x: np.where(x < 0.7, 0, x),
    "grey": lambda x: x,
}


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("name", ["fourier-linf-image", "fourier-l1-image", "fourier-l3"])
@pytest.mark.parametrize("attack", EXACT)
def test_fourier_in_a_box(attack, name, kind, x64):
    """Clipping after the projection would leave the ball; there is no closed form, but a solver."""
    case = CASES[name]
    w, x, y, eps = told(case)
    x = IMAGES[kind](x)
    eps = 4 * eps
    found = EXACT[attack](
        binary, w, x, y, norm=case.norm, eps=eps, key=KEY, loss="margin", bounds=(0, 1),
        num_steps=100,
    )  # fmt: skip
    is_feasible(case, found.perturbations, eps)
    assert np.all((np.asarray(found.inputs) >= 0) & (np.asarray(found.inputs) <= 1))
    gains = gained(w, y, found.perturbations)
    best = np.array(
        [
            furthest(case.truth, (1 - 2 * label) * w, case.shape, eps[i], -x[i], 1 - x[i])
            for i, label in enumerate(y)
        ]
    )
    assert np.any(best < (1 - 1e-3) * eps * case.truth.dual.value(w))  # the box matters
    assert np.all(gains >= (1 - 1e-4) * best)
    assert np.all(gains <= (1 + 1e-5) * best)


@pytest.mark.parametrize("p", [1, math.inf])
def test_bands_of_frequencies(p, x64):
    """Only frequencies that have a radius are touched."""
    radii = symmetric((5, 4))
    norm = norms.fourier_bands(norms.lp(p), radii, (0, 1))
    lined_up = np.broadcast_to(radii[:, :, None], (5, 4, 2))
    w, x, y, eps = examples((5, 4, 2))
    w = w[1] - w[0]
    found = attacks.apgd(binary, w, x, y, norm=norm, eps=eps, key=KEY, loss="margin", num_steps=50)
    weighted = (moduli(w, (0, 1)) * lined_up).ravel()
    best = eps * np.linalg.norm(weighted, 1 if p == math.inf else math.inf)
    delta = np.asarray(found.perturbations)
    assert np.all(gained(w, y, delta) / best >= 1 - 1e-6)
    for one in delta:
        np.testing.assert_allclose(one, in_bands(one, lined_up, (0, 1)), atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_minimum_norm(name, x64):
    case = CASES[name]
    w, x, y, _ = told(case)
    found = attacks.minimum_norm(binary, w, x, y, norm=case.norm, key=KEY)
    margin = np.abs(np.einsum("bf,f->b", x.reshape(len(x), -1), w.ravel()))
    distance = margin / case.truth.dual.value(w)
    assert np.all(found.success)
    ratio = np.asarray(found.distance) / distance
    assert np.all(ratio <= 1 + 1e-4)
    assert np.all(ratio >= 1 - 1e-9)
    for one, length in zip(np.asarray(found.perturbations), found.distance, strict=True):
        np.testing.assert_allclose(case.truth.value(one), length, rtol=1e-9)
    accuracy = found.robust_accuracy(np.array([0.5 * distance.min(), 2 * distance.max()]))
    np.testing.assert_array_equal(accuracy, [1, 0])


@pytest.mark.parametrize("name", CASES)
def test_minimum_norm_of_several_classes(name, x64):
    case = CASES[name]
    w, x, y, _ = examples(case.shape, num_classes=4, seed=1)
    found = attacks.minimum_norm(
        linear, w, x, y, norm=case.norm, key=KEY, loss="targeted_margin", num_steps=100
    )
    _, margin, length = to_others(case.truth, w, x, y)
    ratio = np.asarray(found.distance) / (-margin / length).min(axis=1)
    assert np.all(found.success)
    assert np.all(ratio <= 1 + 1e-4)
    assert np.all(ratio >= 1 - 1e-9)


def nearest_in_box(truth, side, shape, x):
    """The smallest perturbation to where ``side`` is 0 within [0, 1]; None if there is none."""
    u = cp.Variable(x.size)
    reach = [side.ravel() @ (x.ravel() + u) >= 0, u >= -x.ravel(), u <= 1 - x.ravel()]
    problem = cp.Problem(cp.Minimize(truth.expression(u, shape)), reach)
    problem.solve(solver=cp.CLARABEL)
    return float(np.asarray(problem.value)) if problem.status == cp.OPTIMAL else None


@pytest.mark.parametrize("name", [*IN_BOX, "fourier-linf-image", "fourier-l1-image"])
def test_minimum_norm_in_a_box(name, x64):
    case = CASES[name]
    w, x, y, _ = told(case)
    found = attacks.minimum_norm(
        binary, w, x, y, norm=case.norm, key=KEY, bounds=(0.0, 1.0), num_steps=500
    )
    # Where each step is a part of the way to an extreme point it comes near more slowly.
    off = 1e-4 if name in ("l1", "l2", "linf", "l3") else 1e-3
    reached = 0
    for i, label in enumerate(y):
        nearest = nearest_in_box(case.truth, (1 - 2 * label) * w, case.shape, x[i])
        if nearest is None:
            assert not found.success[i]
        else:
            reached += 1
            assert found.distance[i] <= (1 + off) * nearest
            assert found.distance[i] >= (1 - 1e-6) * nearest
    assert reached
    assert np.all((np.asarray(found.inputs) >= 0) & (np.asarray(found.inputs) <= 1))


@pytest.mark.parametrize("name", CASES)
def test_square(name, x64):
    """By scores alone."""
    case = CASES[name]
    w, x, y, eps = told(case)
    found = attacks.square(binary, w, x, y, norm=case.norm, eps=eps, key=KEY, num_queries=20_000)
    best = eps * case.truth.dual.value(w)
    ratio = gained(w, y, found.perturbations) / best
    assert np.all(ratio >= 1 - 1e-4)
    is_feasible(case, found.perturbations, eps)


@pytest.mark.parametrize("name", ["linf", "l2", "l1", "l3", "fourier-linf-image"])
def test_square_of_several_classes_in_a_box(name, x64):
    case = CASES[name]
    w, x, y, eps = examples(case.shape, num_classes=4, seed=1)
    eps = eps * case.truth.value(np.ones(case.shape)) * 2
    found = attacks.square(
        linear, w, x, y, norm=case.norm, eps=eps, key=KEY, num_queries=20_000, bounds=(0.0, 1.0)
    )
    ways, margin, _ = to_others(case.truth, w, x, y)
    for i in range(len(y)):
        gains = [furthest(case.truth, v, case.shape, eps[i], -x[i], 1 - x[i]) for v in ways[i]]
        # It has no targets, and stays with the class it went for.
        ends = margin[i] + gains
        off = np.abs(ends - float(found.margin[i])) / gains
        assert off.min() <= (1e-2 if name == "l1" else 1e-3)
        assert float(found.margin[i]) <= ends.max() + 1e-6
    is_feasible(case, found.perturbations, eps)
    assert np.all((np.asarray(found.inputs) >= 0) & (np.asarray(found.inputs) <= 1))


def test_a_saturated_entropy_has_no_gradient_and_says_so():
    w, x, y, eps = told(CASES["l2"])
    w = 1e4 * w / np.abs(w @ x.T).min()
    args = (binary, np.float32(w), np.float32(x), y)
    found = attacks.apgd(*args, norm="l2", eps=1e-3, key=KEY, num_steps=10)
    assert np.all(found.info.has_zero_gradient)
    assert not np.any(found.success)
    other = attacks.apgd(*args, norm="l2", eps=1e-3, key=KEY, num_steps=10, loss="margin")
    assert not np.any(other.info.has_zero_gradient)
    assert np.all(other.margin > found.margin)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("attack", "num_steps"), [("pgd", 40), ("apgd", 100)])
def test_l1_in_a_box_from_anywhere(attack, num_steps, seed, x64):
    """Entries that a random start puts at their bounds do not stay there if others are worth more.

    Nor does a step get lost on one that rounding has left short of its bound.
    """
    case = CASES["l1"]
    w, x, y, eps = told(case)
    eps = eps * x[0].size * 2
    found = EXACT[attack](
        binary, w, x, y, norm="l1", eps=eps, key=jax.random.key(seed), loss="margin",
        num_steps=num_steps, bounds=(0.0, 1.0),
    )  # fmt: skip
    for i, label in enumerate(y):
        best = furthest(case.truth, (1 - 2 * label) * w, case.shape, eps[i], -x[i], 1 - x[i])
        assert gained(w, y, found.perturbations)[i] >= (1 - 1e-6) * best


@pytest.mark.parametrize("band", [(0.0, 0.2), (0.2, 0.6)])
def test_bands_of_black_and_white_signals(band, x64):
    """Within bounds, other frequencies having a hundredth of the radius: as the error says."""
    speed = norms.frequencies((24,))
    radii = np.where((speed >= band[0]) & (speed < band[1]), 1.0, 0.01)
    norm = norms.fourier_bands(norms.linf, radii)
    rng = np.random.default_rng(0)
    w = rng.normal(size=24)
    x = rng.integers(0, 2, size=(4, 24)).astype(float)
    y = np.asarray(binary(w, x)).argmax(axis=1)
    found = attacks.apgd(
        binary, w, x, y, norm=norm, eps=0.4, key=KEY, loss="margin", bounds=(0.0, 1.0)
    )
    gains = gained(w, y, found.perturbations)
    transform = np.fft.fft(np.eye(24), norm="ortho")
    for i, label in enumerate(y):
        u = cp.Variable(24)
        spectrum = [
            cp.norm(cp.hstack([row.real @ u, row.imag @ u])) <= 0.4 * radius
            for row, radius in zip(transform, radii, strict=True)
        ]
        aim = cp.Maximize((1 - 2 * label) * w @ u)
        problem = cp.Problem(aim, [*spectrum, u >= -x[i], u <= 1 - x[i]])
        problem.solve(solver=cp.CLARABEL)
        assert gains[i] >= 0.99 * float(np.asarray(problem.value))
    lengths = np.abs(np.fft.fft(np.asarray(found.inputs) - x, norm="ortho")) / radii
    assert lengths.max() <= 0.4 * (1 + 1e-6)
