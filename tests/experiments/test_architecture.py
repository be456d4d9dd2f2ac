"""The experiment `architecture`: its arithmetic, and a small run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import architecture
from experiments.architecture import MODELS, Config
from experiments.linear_training import Problems
from jaxrobust import linear


def one_problem(x, y) -> Problems:
    x, y = jnp.asarray(x, jnp.float32)[None], jnp.asarray(y, jnp.float32)[None]
    return Problems(x, y, jnp.ones(y.shape, bool))


def test_config_names_the_field():
    with pytest.raises(ValueError, match="seeds must be positive"):
        Config(seeds=0)
    with pytest.raises(ValueError, match="step_length must be positive"):
        Config(step_length=-0.1)
    with pytest.raises(ValueError, match="step_length must be positive"):
        Config(step_length=float("inf"))
    with pytest.raises(ValueError, match="sizes"):
        Config(sizes=())


def test_predicted_threats_are_those_of_the_theory():
    predicted = [architecture.predicted_threat(m) for m in MODELS.values() if m.bound]
    assert predicted == ["l2", "l2", "linf", "Fourier-linf"]


def test_stationarity_is_one_at_the_maximum_margin_and_less_elsewhere():
    """Two examples, one vector: the l2 maximum margin is known by symmetry."""
    problems = one_problem([[2.0, 1.0], [2.0, -1.0]], [1.0, 1.0])
    model = architecture.Model(linear.plain(2), 0.0, None)
    best = architecture.stationarity(problems, model, (jnp.array([[1.0, 0.0]]),))
    tilted = architecture.stationarity(problems, model, (jnp.array([[1.0, 0.3]]),))
    np.testing.assert_allclose(best, 1, atol=1e-6)
    # Only the second example is active there; the angle to it is atan(0.3) + atan(0.5).
    np.testing.assert_allclose(tilted, np.cos(np.arctan(0.3) + np.arctan(0.5)), atol=1e-5)


@pytest.mark.parametrize("w", [[0.1, 1.0], [-1.0, 0.0], [1.0, 2.0]])
def test_weights_that_do_not_separate_are_nowhere_near_stationary(w):
    """Smallest margins -0.8, -2 and 0: no multiple of these weights has margin 1."""
    problems = one_problem([[2.0, 1.0], [2.0, -1.0]], [1.0, 1.0])
    model = architecture.Model(linear.plain(2), 0.0, None)
    assert np.isnan(architecture.stationarity(problems, model, (jnp.array([w]),))).all()
    assert architecture.bridge_values(problems, {"w": jnp.array([w])})["w"] == np.inf


def test_an_unseparated_network_breaks_the_claim_of_stationarity():
    ratios = {t: {m: np.ones(1) for m in MODELS} for t in architecture.WEIGHT_NORMS}
    for cosine, holds in ((1.0, True), (np.nan, False)):
        claims = architecture.claims([50], ratios, {"convolution, depth 3": np.array([cosine])})
        (claim,) = (c for c in claims if "stationary point" in c.statement)
        assert claim.holds is holds


def test_bridge_value_of_a_single_sinusoid():
    """One pair of coefficients c: (2 c^(2/3))^(3/2) = 2^1.5 c, divided by the margin."""
    t = np.arange(8)
    w = np.cos(2 * np.pi * t / 8)  # unitary coefficients sqrt(8)/2 at +-1
    problems = one_problem(w[None], [1.0])
    got = architecture.bridge_values(problems, {"w": jnp.asarray(w)[None]})["w"]
    # Six coefficients that are zero but for rounding: (1e-8)^(2/3) = 5e-6 each.
    np.testing.assert_allclose(got, 2**1.5 * (np.sqrt(8) / 2) / (w @ w), rtol=1e-4)


def test_training_finds_the_margin_of_a_known_problem():
    problems = one_problem([[2.0, 1.0], [2.0, -1.0]], [1.0, 1.0])
    model = architecture.Model(linear.fully_connected(2), 1.0, None)
    (*_, params) = [architecture.train(problems, jax.random.key(0)[None], model, 2000, 0.1)]
    w = np.asarray(model.network.predictor(jax.tree.map(lambda leaf: leaf[0], params)))
    assert abs(w[1] / w[0]) < 0.02


@pytest.mark.slow
def test_training_that_separates_nothing_is_reported_and_not_fatal():
    result = architecture.run(Config(steps=1))
    assert not all(claim.holds for claim in result.claims)
    assert set(architecture.plot(result)) == {"ratios", "spectra"}


@pytest.mark.slow
def test_a_small_run_makes_claims_and_figures():
    result = architecture.run(Config(sizes=(3,), steps=2000))
    assert set(architecture.plot(result)) == {"ratios", "spectra"}
    stationarity = result.series["stationarity"]
    assert all(((v >= 0) & (v <= 1 + 1e-9)).all() for v in stationarity.values())
