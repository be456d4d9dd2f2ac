"""The experiment `rates`: the claims are about the slopes measured, and a wrong rate fails."""

import numpy as np
import pytest

from experiments import linear_training, plots, rates
from experiments.rates import TABLE, TIMES, Config
from experiments.report import Result
from tests.experiments.test_certificate import cvxpy_optima

STEPS = np.unique(np.append(np.geomspace(10, 30_000, 60).astype(int), TIMES))
# Gaps that fall exactly as theory says.
EXACT = {
    "constant": 1 / (1 + 3 * np.log(STEPS))[None],
    "normalised": 0.7 / np.sqrt(STEPS)[None],
    "inverse loss": 5.0 / STEPS[None],
}
TABULATED = {rule: np.array(gaps) for rule, gaps in TABLE.items()}


@pytest.fixture(scope="module")
def result() -> Result:
    """The shortest run, with optima by CVXPY."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear_training, "optimal_margins_by_norm", cvxpy_optima)
        return rates.run(Config(seeds=1, steps=1_000))


def test_claims_hold_in_a_short_run(result):
    assert len(result.claims) == 5
    assert [c.statement for c in result.claims if not c.holds] == []


def test_series_are_finite_and_thinned(result):
    steps = result.series["steps"]
    assert len(steps) <= 200
    for kind in ("gap", "gap of the optimizers"):
        for gaps in result.series[kind].values():
            assert gaps.shape == (1, len(steps))
            assert gaps.dtype == np.float64
            assert (np.isfinite(gaps) & (gaps > 0)).all()


def test_slopes_of_power_laws():
    gaps = np.stack([3 / STEPS, 0.1 / np.sqrt(STEPS), np.ones(len(STEPS))])
    np.testing.assert_allclose(rates.slopes(STEPS, gaps), [-1, -0.5, 0], atol=1e-12)
    early = np.where(STEPS < 300, 100.0, 1 / STEPS)[None]
    np.testing.assert_allclose(rates.slopes(STEPS, early), [-1], atol=1e-12)


def test_exact_rates_hold():
    assert [c.holds for c in rates.claims(STEPS, EXACT, TABULATED)] == [True] * 5


@pytest.mark.parametrize(
    ("name", "other", "broken"),
    [
        ("inverse loss", "normalised", [0]),
        ("normalised", "inverse loss", [1]),
        ("constant", "normalised", [2, 3]),
    ],
)
def test_another_rate_breaks_the_claim(name, other, broken):
    claims = rates.claims(STEPS, EXACT | {name: EXACT[other]}, TABULATED)
    assert [i for i, c in enumerate(claims) if not c.holds] == broken


def test_one_seed_is_enough_to_break_a_claim():
    both = {name: np.concatenate([gaps, EXACT["inverse loss"]]) for name, gaps in EXACT.items()}
    assert not rates.claims(STEPS, both, TABULATED)[1].holds


def test_another_table_breaks_the_claim():
    wrong = {rule: gaps * np.array([1, 1, 1, 1, 1.05]) for rule, gaps in TABULATED.items()}
    assert not rates.claims(STEPS, EXACT, wrong)[-1].holds


def test_overtaking_is_the_time_on_the_slowest_data_set():
    times = np.array([10, 100, 1_000])
    gaps = {
        "constant": np.array([[0.5, 0.4, 0.3], [0.5, 0.4, 0.3]]),
        "inverse loss": np.array([[0.4, 0.2, 0.1], [0.4, 0.31, 0.3]]),
    }
    assert "within 1,000 steps" in rates.overtaking(times, gaps)
    never = gaps | {"inverse loss": gaps["constant"] + 1}
    assert rates.overtaking(times, never) == ""


def test_plot(result):
    ((figure, caption),) = rates.plot(result).values()
    assert caption
    assert plots.png(figure)


@pytest.mark.parametrize("field", ["seeds", "steps"])
def test_config_names_the_field(field):
    with pytest.raises(ValueError, match=field):
        Config(**{field: 0})
    with pytest.raises(ValueError, match="steps"):
        Config(steps=999)
