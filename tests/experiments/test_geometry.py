"""The experiment `geometry`: its arithmetic, and a small run."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import (
    geometry,
    geometry_claims,
    geometry_suites,
    geometry_tables,
    linear_training,
    plots,
)
from experiments.geometry import Config
from experiments.geometry_suites import BREAST_CANCER, DIGITS, GAUSSIAN, KHAN, TABULAR, Found
from experiments.linear_training import METHODS
from jaxrobust import data, norms
from tests.experiments.test_certificate import cvxpy_optima


def made_up(labels, own=0.995, other=0.5, steps=10_000, share=0.1, methods=tuple(METHODS)) -> Found:
    """A result in which every optimizer has the ratio `own` against its own threat."""
    ratio = np.where(np.eye(len(methods), dtype=bool), own, other)[:, :, None]
    flat = np.ones((len(methods), len(labels)))
    return Found(list(labels), list(methods), steps, ratio * flat[:1], share * flat, flat)


def all_made_up(**digits) -> dict[str, Found]:
    """What a run finds where everything is as theory says."""
    return {
        GAUSSIAN: made_up(["100", "12", "3"]),
        DIGITS: made_up(["1 and 7", "8 and 9"], **digits),
        BREAST_CANCER: made_up(["all"], own=-9.0, other=-9.0, share=1e-5, methods=TABULAR),
        KHAN: made_up(["BL", "EWS"], methods=TABULAR),
    }


# (methods, threats, problems): each method is best against its own threat, by 0.3 at least.
RATIO = np.array([[[1.0, 0.9], [0.5, 0.5]], [[0.6, 0.6], [0.99, 0.8]]])
FOUND = Found(["3", "50"], ["a", "b"], 10, RATIO, np.ones((2, 2)), np.ones((2, 2)))


def test_matched_takes_the_diagonal():
    np.testing.assert_array_equal(FOUND.matched, [[1.0, 0.9], [0.99, 0.8]])
    np.testing.assert_array_equal(FOUND.mismatched, [[0.5, 0.5], [0.6, 0.6]])


def test_lead_is_the_distance_to_the_best_of_the_others():
    np.testing.assert_allclose(FOUND.lead, [[0.4, 0.3], [0.49, 0.3]])
    assert (FOUND._replace(ratio=RATIO[::-1]).lead < 0).all()  # exchanged: nobody leads


def test_wide_data_have_eight_dimensions_per_example():
    wide = FOUND.wide()
    assert wide is not None
    assert wide.labels == ["3"]
    np.testing.assert_array_equal(wide.ratio, RATIO[:, :, :1])
    assert FOUND.of(np.array([False, True])).wide() is None


def test_correct_share_counts_no_repetition():
    x = jnp.array([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]])
    problems = linear_training.Problems(
        x, jnp.array([[1.0, 1.0, -1.0, 1.0]]), jnp.array([[True, True, True, False]])
    )
    weights = jnp.array([[[2.0, 1.0]], [[-1.0, -1.0]]])
    got = geometry_suites.correct_share(problems, weights)
    np.testing.assert_allclose(got, [[2 / 3], [1 / 3]])


def verdicts(found: dict[str, Found], about: str) -> set[str]:
    chosen = {c.verdict for c in geometry_claims.claims(found) if about in c.statement}
    assert chosen
    return chosen


def test_claims_hold_where_the_measurement_is_as_theory_says():
    found = all_made_up()
    assert verdicts(found, "Gaussian data") == {"holds"}
    assert verdicts(found, "every split") == {"holds"}
    assert verdicts(found, "Khan gene expression") == {"holds"}
    assert verdicts(found, "breast cancer") == {"not reproduced"}


def test_an_optimizer_that_does_not_lead_breaks_its_claim():
    found = all_made_up(own=0.7, other=0.8)
    assert verdicts(found, "every split") == {"does not hold"}
    found[KHAN] = made_up(["BL"], own=0.4, other=0.71, methods=TABULAR)
    assert verdicts(found, "Khan gene expression") == {"does not hold"}
    found[GAUSSIAN] = made_up(["3"], own=0.98, other=0.99)
    assert verdicts(found, "Gaussian data") == {"does not hold"}


def test_nothing_is_promised_of_a_run_that_is_too_short():
    """(B / margin)² is 10,000; five times as many steps are needed."""
    short = all_made_up(own=0.7, other=0.8, share=0.01, steps=49_999)
    assert verdicts(short, "every split") == {"not reproduced"}
    long = all_made_up(own=0.7, other=0.8, share=0.01, steps=50_000)
    assert verdicts(long, "every split") == {"does not hold"}
    assert "10,000, where 49,999 were made" in linear_training.why_short(49_999, np.array([0.01]))


def test_the_headline_counts_what_was_measured():
    text = geometry_tables.summarise(all_made_up(), "")
    # 5 threats on 2 wide Gaussian sets, 5 on 2 pairs of digits, 3 on 2 classes.
    for part in (
        "26 of 26 comparisons",
        "10 of 10 on Gaussian",
        "6 of 6 on Khan",
        "99.5 to 99.5 %",
    ):
        assert part in text
    assert "10,000,000,000 steps: none of the 3 matched runs has separated it" in text
    worse = all_made_up(own=0.4)
    worse[DIGITS].ratio[3, 3, 1] = 0.6
    text = geometry_tables.summarise(worse, "")
    assert "17 of 26 comparisons" in text
    assert "1 of 10 on pairs of digits" in text
    assert (
        "The least of these is 40.0 %, by coordinate descent on pairs of digits (1 and 7)" in text
    )


def test_khan_is_left_out_visibly():
    found = all_made_up()
    del found[KHAN]
    assert "Khan gene expression was left out" in geometry_tables.summarise(found, "not there")
    table = geometry_tables.tables(found, "not there\n  - one way\n  - the other")[-1]
    assert table.title == "Khan gene expression: left out"
    assert [row[0] for row in table.rows] == ["not there", "- one way", "- the other"]


def test_without_files_khan_is_not_among_the_suites(monkeypatch):
    monkeypatch.delenv("JAXROBUST_DATA", raising=False)
    suites, missing = geometry.make_suites(Config(seeds=1, sizes=(3,), digit_pairs=((0, 1),)))
    assert KHAN not in [suite.name for suite in suites]
    assert "Khan data set was not found" in missing


def test_tables_say_not_separated_instead_of_negative_ratios():
    made = geometry_tables.tables(all_made_up(), "")
    assert [len(table.columns) for table in made] == [8, 7, 5, 5]
    assert {row[-1] for row in made[-1].rows} == {"not separated"}
    for table in made[:-1]:
        assert all(isinstance(cell, float) for row in table.rows for cell in row[-3:])


def test_config_names_the_field():
    for name in ("seeds", "steps", "digit_steps"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1"):
            dataclasses.replace(Config(), **{name: 0})
    with pytest.raises(ValueError, match="sizes"):
        Config(sizes=())


@pytest.mark.parametrize("pairs", [(), ((3, 3),), ((3, 12),), ((-1, 2),)])
def test_config_rejects_what_is_no_pair_of_digits(pairs):
    with pytest.raises(ValueError, match="digit_pairs"):
        Config(digit_pairs=pairs)


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
def test_a_small_run_makes_claims_and_figures(monkeypatch):
    monkeypatch.setattr(linear_training, "optimal_margins_by_norm", cvxpy_optima)
    config = Config(seeds=1, steps=300, digit_steps=300, sizes=(12, 3), digit_pairs=((0, 1),))
    result = geometry.run(config)
    assert all(np.isfinite(ratio).all() for ratio in result.series["ratio"].values())
    figures = geometry.plot(result)
    assert set(figures) == {"ratios", "dimensions", "accuracy"}
    for figure, caption in figures.values():
        assert caption
        assert plots.png(figure)
    by_statement = {claim.statement: claim for claim in result.claims}
    duality = next(c for s, c in by_statement.items() if s.startswith("no run has a larger radius"))
    assert duality.holds
    assert (KHAN in result.series["ratio"]) == ("left out" not in result.summary)
