"""Data that no weights separate: a proof, not a time-out; and data that some weights just do."""

import numpy as np
import pytest

from jaxrobust import data, linear
from tests.linear import verify
from tests.linear.cases import FEATURES, INTERIOR, ROWS, padded, separable
from tests.linear.verify import Problem
from tests.norms.oracles import Truth

pytestmark = pytest.mark.usefixtures("x64")

each_norm = pytest.mark.parametrize("name", INTERIOR)


def zero_features(x: np.ndarray) -> np.ndarray:
    """With more features that are zero, up to FEATURES."""
    return np.pad(x, ((0, 0), (0, FEATURES - x.shape[1])))


@each_norm
def test_random_labels(name):
    """24 examples in 6 dimensions: some half-space holds all with a chance of 0.1 %."""
    case = INTERIOR[name]
    for seed in range(5):
        rng = np.random.default_rng(seed)
        x = zero_features(rng.normal(size=(ROWS, 6)))
        problem = Problem(x, rng.choice([-1.0, 1.0], size=ROWS), case.truth)
        result = linear.max_margin(x, problem.y, case.norm)
        verify.inseparable(result, problem)
        assert result.iterations < 30


@each_norm
def test_one_example_with_both_labels(name):
    """The two of them are the whole proof."""
    case = INTERIOR[name]
    x, y = separable(10, case.shape, 0)
    x, y = np.concatenate([x, x[3:4]]), np.append(y, -y[3])
    problem = Problem(*padded(x, y), case.truth)
    result = linear.max_margin(problem.x, problem.y, case.norm)
    verify.inseparable(result, problem)
    pair = np.isin(np.arange(ROWS) % 11, (3, 10))
    assert np.sum(result.dual_weights[pair]) > 1 - 1e-6


@each_norm
@pytest.mark.parametrize("kept", [0, 1, 23])
def test_an_example_that_is_zero(name, kept):
    """No weights give it a positive margin, whether it is alone, in between or everywhere."""
    case = INTERIOR[name]
    x, y = separable(ROWS, case.shape, 0)
    x[kept:] = 0
    problem = Problem(x, y, case.truth)
    verify.inseparable(linear.max_margin(x, y, case.norm), problem)


@pytest.mark.parametrize("name", ["l1", "l2", "linf"])
@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_zero_is_relative_to_the_examples(name, scale):
    case, rng = INTERIOR[name], np.random.default_rng(0)
    x = scale * zero_features(rng.normal(size=(ROWS, 6)))
    problem = Problem(x, rng.choice([-1.0, 1.0], size=ROWS), case.truth)
    verify.inseparable(linear.max_margin(x, problem.y, case.norm), problem)


@each_norm
@pytest.mark.parametrize("gap", [1e-2, 1e-5, 1e-6])
def test_examples_that_nearly_contradict_each_other(name, gap):
    """Two rows that differ by ``gap``, of opposite labels: separable, by about that."""
    case = INTERIOR[name]
    x, y = separable(8, case.shape, 0)
    rng = np.random.default_rng(1)
    x[1], y[1] = x[0] + gap * rng.normal(size=case.shape), -y[0]
    problem = Problem(*padded(x, y), case.truth)
    result = linear.max_margin(problem.x, problem.y, case.norm)
    lower, upper = verify.solved(result, problem)
    assert 0 < lower < 3 * gap * problem.unit
    # And its mirror image: a convex combination goes through zero by as little.
    x[1] = x[0]
    problem = Problem(*padded(x, y), case.truth)
    verify.inseparable(linear.max_margin(problem.x, problem.y, case.norm), problem)


@pytest.mark.parametrize("name", ["l1", "l2", "linf"])
def test_a_margin_below_the_zero_tolerance_is_still_a_margin(name):
    """Weights that separate are a proof that outweighs an upper bound of nearly zero."""
    for rows in ([[1, 0], [-1, 1e-8]], [[1, 0], [0, 1e-12]]):
        x = np.pad(np.array(rows, float), ((0, 0), (0, FEATURES - 2)))
        problem = Problem(*padded(x, np.ones(2)), INTERIOR[name].truth)
        result = linear.max_margin(problem.x, problem.y, name, zero_tolerance=1e-7)
        lower, upper = verify.solved(result, problem)
        assert 0 < lower <= upper <= lower * (1 + 2e-4) < 1e-7 * problem.unit
    x, y = separable(6, INTERIOR[name].shape, 0)
    # Rounding: a product of 16 features is known to 16 eps = 4e-15 of its terms, of order 1. That
    # is 8e-5 of the smaller margin (4.5e-11 for l1) at each bound, so which digit of the default
    # tolerance of 1e-4 is reached there is the processor's choice.
    for gap, tolerance in ((1e-8, 1e-4), (1e-10, 1e-3)):
        x[1], y[1] = x[0] + gap * np.random.default_rng(1).normal(size=FEATURES), -y[0]
        problem = Problem(*padded(x, y), INTERIOR[name].truth)
        result = linear.max_margin(problem.x, problem.y, name, tolerance=tolerance)
        assert result.separable
        assert result.converged
        assert np.min(problem.signed @ np.asarray(result.w)) > 0


@pytest.mark.parametrize("name", ["l1", "linf"])
def test_how_close_to_zero_the_bound_comes(name):
    """With 80 examples of 4 features the systems are nearly singular; 1e-14, measured."""
    rng = np.random.default_rng(0)
    for _ in range(3):
        x, y = rng.normal(size=(80, 4)), rng.choice([-1.0, 1.0], size=80)
        problem = Problem(x, y, INTERIOR[name].truth)
        verify.inseparable(linear.max_margin(x, y, name), problem, zero=1e-12)


@each_norm
def test_weights_of_inseparable_data(name):
    """Not a classifier: no margin is claimed for them."""
    case, rng = INTERIOR[name], np.random.default_rng(0)
    x = zero_features(rng.normal(size=(ROWS, 6)))
    result = linear.max_margin(x, rng.choice([-1.0, 1.0], size=ROWS), case.norm)
    np.testing.assert_array_equal(result.w, np.zeros(FEATURES))
    assert result.margin == 0
    assert result.gap == 1


def test_first_order_method():
    case, rng = INTERIOR["fourier-l1"], np.random.default_rng(0)
    x = zero_features(rng.normal(size=(ROWS, 4)))
    problem = Problem(x, rng.choice([-1.0, 1.0], size=ROWS), case.truth)
    result = linear.max_margin(x, problem.y, case.norm, method="primal_dual")
    verify.inseparable(result, problem)
    assert "not linearly separable" in result.describe()


def test_several_classes():
    rng = np.random.default_rng(0)
    x = np.pad(rng.normal(size=(12, 2)), ((0, 0), (0, 6)))
    problem = Problem(x, rng.integers(0, 3, size=12), Truth(2), 3)
    result = linear.max_margin(x, problem.y, "l2", num_classes=3)
    verify.inseparable(result, problem)
    assert "not linearly separable" in result.describe()


# Real data ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["l1", "l2", "linf"])
def test_breast_cancer(name):
    """Standardised it is separable, but only with a bias, that is, with a feature that is 1."""
    dataset = data.breast_cancer(test_fraction=0.0)
    x, y = np.asarray(dataset.x_train, float), np.asarray(dataset.y_train, float)
    truth = INTERIOR[name].truth
    without = Problem(np.pad(x, ((0, 0), (0, 1))), y, truth)
    verify.inseparable(linear.max_margin(without.x, y, name), without)
    bias = Problem(np.pad(x, ((0, 0), (0, 1)), constant_values=1.0), y, truth)
    verify.solved(linear.max_margin(bias.x, y, name), bias, rounding=1e-11)
