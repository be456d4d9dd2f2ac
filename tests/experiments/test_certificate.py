"""The experiment `certificate`: its claims follow from the bounds, and its optima are right."""

import inspect
import warnings

import cvxpy as cp
import jax
import numpy as np
import pytest

from experiments import certificate, linear_training, plots
from experiments.certificate import RUNS, Bounds, Config, Run
from experiments.linear_training import METHODS, Optima, Problems
from experiments.report import Result
from jaxrobust.norms import Fourier, Norm


def norm_of(w: cp.Expression, norm: Norm, shape: tuple[int, ...]) -> cp.Expression:
    """A norm of the weights as CVXPY writes it; the Fourier transform is unitary."""
    if not isinstance(norm, Fourier):
        return cp.norm(w, {"l1": 1, "l2": 2, "linf": "inf"}[norm.name])
    transform = np.ones((1, 1))
    for size in shape:
        transform = np.kron(transform, np.fft.fft(np.eye(size), norm="ortho"))
    return cp.norm(transform @ w, 1 if norm.p == 1 else "inf")


def cvxpy_optima(problems: Problems, weight_norms: list[Norm], **_) -> list[Optima]:
    """What `optimal_margins_by_norm` returns, by another program, and without compilation."""
    shape, found = problems.x.shape[2:], []
    for norm in weight_norms:
        margins = []
        for x, y in zip(problems.x, problems.y, strict=True):
            w, margin = cp.Variable(int(np.prod(shape))), cp.Variable()
            signed = np.asarray(y, float)[:, None] * np.asarray(x, float).reshape(len(y), -1)
            feasible = [signed @ w >= margin, norm_of(w, norm, shape) <= 1]
            with warnings.catch_warnings():  # CLARABEL stops just short of its own tolerance
                warnings.filterwarnings("ignore", "Solution may be inaccurate", UserWarning)
                margins.append(cp.Problem(cp.Maximize(margin), feasible).solve(solver=cp.CLARABEL))
        best = np.array(margins)
        found.append(Optima(problems.x[:, 0], best, best, best > 0))
    return found


@pytest.fixture(scope="module")
def result() -> Result:
    """The smallest run, with optima by CVXPY, and training compiled without optimisation."""
    descend = jax.jit(
        inspect.unwrap(linear_training.descend_certified),
        static_argnames="norms",
        compiler_options={"xla_backend_optimization_level": 0},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certificate, "descend_certified", descend)
        patch.setattr(linear_training, "optimal_margins_by_norm", cvxpy_optima)
        patch.setattr(certificate, "TIMED_STEPS", 2)
        return certificate.run(Config(seeds=1, steps=1_000))


def bounds_of(result: Result, suite: str) -> dict[Run, Bounds]:
    return {run: Bounds(**result.series["bounds"][suite][run.title]) for run in RUNS}


@pytest.mark.slow
def test_claims_hold_in_a_short_run(result):
    failed = [c.statement for c in result.claims if c.should_hold and not c.holds]
    assert not failed
    assert len(result.claims) == 6 + 2 * len(METHODS)


@pytest.mark.slow
def test_series_are_finite_thinned_and_monotone(result):
    for suite in result.series["bounds"]:
        for bounds in bounds_of(result, suite).values():
            assert bounds.lower.shape[-1] == len(result.series["steps"]) <= 200
            assert np.isfinite(bounds).all()
            assert (np.diff(bounds.lower) >= 0).all()
            assert (np.diff(bounds.upper) <= 0).all()


@pytest.mark.slow
def test_swapped_bounds_break_the_order(result):
    bounds = list(bounds_of(result, "Gaussian data").values())
    assert certificate.order_claim(bounds).holds
    swapped = [Bounds(b.upper, b.lower) for b in bounds]
    assert not certificate.order_claim(swapped).holds
    assert not certificate.order_claim([bounds[0], swapped[1]]).holds


def test_one_bound_on_the_wrong_side_is_enough():
    good = Bounds(np.array([[0.5, 0.9]]), np.array([[1.2, 1.1]]))
    assert good.violation == pytest.approx(-0.1)
    np.testing.assert_allclose(good.gap, [[0.7 / 1.2, 0.2 / 1.1]])
    high = Bounds(np.array([[0.5, 1.01]]), good.upper)
    low = Bounds(good.lower, np.array([[0.99, 1.1]]))
    assert high.violation == pytest.approx(0.01)
    assert low.violation == pytest.approx(0.01)
    assert not certificate.order_claim([good, high]).holds
    assert not certificate.order_claim([good, low]).holds


@pytest.mark.slow
def test_gap_claims_see_a_bound_that_does_not_close(result):
    bounds = {suite: bounds_of(result, suite) for suite in result.series["bounds"]}
    target = Run("gradient descent", "gradient descent")
    loose = bounds["Gaussian data"][target]
    bounds["Gaussian data"][target] = loose._replace(upper=2 * loose.upper)
    shares = dict.fromkeys(bounds, dict.fromkeys(METHODS, np.array([0.1])))
    claims = certificate.matched_claims(Config(seeds=1, steps=10_000), bounds, shares)
    assert claims[list(METHODS).index("gradient descent")].verdict == "does not hold"
    few = dict.fromkeys(bounds, dict.fromkeys(METHODS, np.array([0.01])))
    claims = certificate.matched_claims(Config(seeds=1, steps=10_000), bounds, few)
    assert claims[list(METHODS).index("gradient descent")].verdict == "not reproduced"
    bounds["Gaussian data"][RUNS[1]] = Bounds(np.full((1, 2), 0.95), np.full((1, 2), 1.01))
    times = result.series["steps"]
    bounds["Gaussian data"][target] = loose._replace(upper=np.full(loose.upper.shape, 1.02))
    assert not any(claim.holds for claim in certificate.upper_claims(times, bounds))


def test_the_summary_names_the_worst_matched_run():
    def gap(size):
        return Bounds(np.full((1, 1), 1.0 - size), np.ones((1, 1)))

    by = {run: gap(0.02 if run.matched else 0.3) for run in RUNS}
    by[Run("sign descent", "sign descent")] = gap(0.4)
    text = certificate.closed("On these", by)
    assert "within 2.0 % of the optimum, but for sign descent against l1 with 40.0 %" in text
    assert "mismatched ones leave at least 30.0 %" in text


@pytest.mark.slow
def test_plot(result):
    figures = certificate.plot(result)
    assert set(figures) == {"bounds", "gaps"}
    for figure, caption in figures.values():
        assert caption
        assert plots.png(figure)


@pytest.mark.parametrize("field", ["seeds", "steps"])
def test_config_names_the_field(field):
    with pytest.raises(ValueError, match=field):
        Config(**{field: 0})
    with pytest.raises(ValueError, match="steps"):
        Config(steps=999)
