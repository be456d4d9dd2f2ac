"""The experiment `geometry`: its arithmetic, and a small run."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import geometry, linear_training
from experiments.geometry import Config
from jaxrobust import data, norms

# (methods, threats, problems): each method is best against its own threat, by 0.3 at least.
RATIO = np.array([[[1.0, 0.9], [0.5, 0.5]], [[0.6, 0.6], [0.99, 0.8]]])


def test_matched_takes_the_diagonal():
    np.testing.assert_array_equal(geometry.matched(RATIO), [[1.0, 0.9], [0.99, 0.8]])


def test_lead_is_the_distance_to_the_best_of_the_others():
    np.testing.assert_allclose(geometry.lead(RATIO), [[0.4, 0.3], [0.49, 0.3]])
    assert (geometry.lead(RATIO[::-1]) < 0).all()  # methods exchanged: nobody leads


def test_config_names_the_field():
    with pytest.raises(ValueError, match="seeds must be at least 1"):
        Config(seeds=0)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        Config(steps=0)


def test_config_rejects_empty_sizes():
    with pytest.raises(ValueError, match="sizes"):
        Config(sizes=())


def test_padding_repeats_rows_and_masks_them():
    sets = [data.logistic_gaussian(n, num_test=1, num_features=5) for n in (2, 5)]
    problems = linear_training.stack(sets)
    assert problems.x.shape == (2, 5, 5)
    np.testing.assert_array_equal(problems.where[0], [True, True, False, False, False])
    np.testing.assert_array_equal(problems.x[0, 2], problems.x[0, 0])
    assert problems.where[1].all()


def test_repetitions_change_neither_training_nor_margin():
    """The padded problem takes the same steps as the problem alone."""
    small, large = (data.logistic_gaussian(n, num_test=1, num_features=6) for n in (3, 8))
    padded = linear_training.descend(linear_training.stack([small, large]), (norms.l1,), 30)
    alone = linear_training.descend(linear_training.stack([small]), (norms.l1,), 30)
    # The same sums in another order; 30 steps of relative rounding 1e-7 each.
    np.testing.assert_allclose(padded[0, 0], alone[0, 0], rtol=1e-4, atol=1e-5)


def test_descent_reaches_the_margin_that_a_numpy_loop_reaches():
    problem = data.logistic_gaussian(6, num_test=1, num_features=10)
    problems = linear_training.stack([problem])
    got = linear_training.descend(problems, (norms.linf,), 200)[0, 0]
    signed = np.asarray(problem.x_train, np.float64) * np.asarray(problem.y_train)[:, None]
    rate, w = 1 / np.abs(signed).sum(axis=1).max() ** 2, np.zeros(10)
    for _ in range(200):
        q = np.exp(-(signed @ w) + (signed @ w).min())
        g = -(q / q.sum()) @ signed
        w -= rate * np.abs(g).sum() * np.sign(g)
    margins = [(signed @ v).min() / np.abs(v).max() for v in (np.asarray(got), w)]
    np.testing.assert_allclose(margins[0], margins[1], rtol=1e-3)


def test_reached_margins_over_any_leading_axes():
    problems = linear_training.stack([data.logistic_gaussian(4, num_test=1, num_features=3)])
    weights = jnp.arange(1.0, 7.0).reshape(2, 1, 3)
    got = linear_training.reached_margins(problems, weights, norms.l2)
    signed = np.asarray(problems.x[0]) * np.asarray(problems.y[0])[:, None]
    expected = [(signed @ w[0]).min() / np.linalg.norm(w) for w in np.asarray(weights)]
    np.testing.assert_allclose(got[:, 0], expected, rtol=1e-5)


@pytest.mark.slow
def test_a_small_run_makes_claims_and_figures():
    config = Config(seeds=1, steps=300, sizes=(12, 3), digit_pairs=((0, 1),))
    result = geometry.run(config)
    assert all(np.isfinite(ratio).all() for ratio in result.series["ratio"].values())
    figures = geometry.plot(result)
    assert set(figures) == {"ratios", "dimensions", "accuracy"}
    by_statement = {claim.statement: claim for claim in result.claims}
    duality = next(c for s, c in by_statement.items() if s.startswith("no run has a larger radius"))
    assert duality.holds
