"""The interior-point method on many problems: every kind of data, every proportion."""

import zlib

import numpy as np
import pytest

from jaxrobust import linear, norms
from tests.linear import verify
from tests.linear.cases import FEATURES, INTERIOR, ROWS, Case, padded
from tests.linear.verify import Problem
from tests.norms.oracles import Truth

pytestmark = pytest.mark.usefixtures("x64")


def gaussian(rng, n, d):
    return rng.normal(size=(n, d))


def sparse(rng, n, d):
    return rng.normal(size=(n, d)) * (rng.random((n, d)) < 0.2)


def integer(rng, n, d):
    return rng.integers(-2, 3, size=(n, d)).astype(float)


def repeated_features(rng, n, d):
    return rng.normal(size=(n, d))[:, rng.integers(0, (d + 1) // 2, size=d)]


def repeated_examples(rng, n, d):
    return rng.normal(size=(n, d))[rng.integers(0, (n + 1) // 2, size=n)]


def low_rank(rng, n, d):
    rank = max(1, min(n, d) // 3)
    return rng.normal(size=(n, rank)) @ rng.normal(size=(rank, d))


def scaled_features(rng, n, d):
    return rng.normal(size=(n, d)) * 10 ** rng.uniform(-2, 2, size=d)


def scaled_examples(rng, n, d):
    return rng.normal(size=(n, d)) * 10 ** rng.uniform(-1, 1, size=(n, 1))


def heavy_tailed(rng, n, d):
    return rng.standard_t(2, size=(n, d))


KINDS = [
    gaussian,
    sparse,
    integer,
    repeated_features,
    repeated_examples,
    low_rank,
    scaled_features,
    scaled_examples,
    heavy_tailed,
]


def draw(kind, n: int, d: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Examples with the labels of random weights; every fifth time with random labels."""
    rng = np.random.default_rng([seed, n, d, zlib.crc32(kind.__name__.encode())])
    x = kind(rng, n, d)
    y = rng.choice([-1.0, 1.0], size=n) if seed % 5 == 4 else np.sign(x @ rng.normal(size=d))
    return x, np.where(y == 0, 1.0, y)


def check(case: Case, x, y) -> str:
    """What is wrong, or nothing."""
    result = linear.max_margin(x, y, case.norm)
    try:
        problem = Problem(x, y, case.truth)
        if result.separable:
            verify.solved(result, problem, rounding=1e-11)
        else:
            verify.inseparable(result, problem, rounding=1e-11)
        assert result.iterations < 60
    except AssertionError as error:
        return f"{result.describe()}: {error}"
    return ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", INTERIOR)
def test_up_to_24_examples_of_up_to_16_features(name, kind):
    """Others are repetitions and zeros."""
    failures = {}
    for seed in range(10):
        rng = np.random.default_rng(seed)
        n, d = int(rng.integers(1, ROWS + 1)), int(rng.integers(1, FEATURES + 1))
        x, y = padded(*draw(kind, n, d, seed))
        x = np.pad(x, ((0, 0), (0, FEATURES - d)))
        if message := check(INTERIOR[name], x, y):
            failures[seed, n, d] = message
    assert not failures


SHAPES = [(2, 40), (20, 20), (40, 33), (40, 8)]


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", INTERIOR)
def test_other_shapes(name, shape):
    case = INTERIOR[name]._replace(shape=shape[1:])
    failures = {}
    for kind in KINDS:
        for seed in range(5):
            x, y = draw(kind, shape[0], shape[1], seed)
            if message := check(case, x, y):
                failures[kind.__name__, seed] = message
    assert not failures


@pytest.mark.slow
@pytest.mark.parametrize("name", ["l1", "l2", "linf"])
def test_many_examples_of_few_features(name):
    """Beyond 2048 examples the systems have the size of the features."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2500, 10))
    y = np.sign(x @ rng.normal(size=10))
    problem = Problem(x, y, INTERIOR[name].truth)
    result = linear.max_margin(x, y, name)
    lower, upper = verify.solved(result, problem)
    optimum = problem.optimum()
    assert lower <= optimum * (1 + 1e-7)
    assert upper >= optimum * (1 - 1e-7)
    flipped = problem._replace(y=np.where(np.arange(2500) < 5, -y, y))
    verify.inseparable(linear.max_margin(x, flipped.y, name), flipped)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fourier-l1", "fourier-linf"])
def test_many_examples_of_few_frequencies(name):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2100, 10))
    y = np.sign(x @ rng.normal(size=10))
    problem = Problem(x, y, INTERIOR[name].truth)
    verify.solved(linear.max_margin(x, y, INTERIOR[name].norm), problem)


@pytest.mark.slow
def test_rectangles_of_frequencies():
    """Images whose axes are even and odd, with one channel and more."""
    rng = np.random.default_rng(0)
    for shape in [(5, 4, 1), (1, 6, 2)]:
        x = rng.normal(size=(12, *shape))
        y = np.sign(np.tensordot(x, rng.normal(size=shape), axes=3))
        truth = Truth(1, "spectrum", (0, 1))
        problem = Problem(x, y, truth)
        result = linear.max_margin(x, y, norms.fourier(norms.l1, (0, 1)))
        lower, upper = verify.solved(result, problem)
        assert lower <= problem.optimum() * (1 + 1e-7)
        assert upper >= problem.optimum() * (1 - 1e-7)
