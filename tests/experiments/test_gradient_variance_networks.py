"""The experiment `gradient_variance_networks`: exact variances, and claims that can fail."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import gradient_estimators as estimators
from experiments import gradient_variance_networks as networks
from experiments import gradient_variance_networks_claims as told
from experiments import plots, small_networks
from experiments.gradient_estimators import DOUBLE, GC, IMPORTANCE, SG, SVRG
from experiments.gradient_variance_networks import Config
from experiments.gradient_variance_networks_claims import SKETCHED, Path
from jaxrobust import per_example, sampling

SMALL = Config(examples=10, steps=16, every=4, refresh=8, batch=4)


@pytest.fixture(scope="module")
def problem() -> networks.Problem:
    whole = networks.make(dataclasses.replace(SMALL, examples=10_000), "digits")
    return whole._replace(data=small_networks.first(whole.data, 50))


@pytest.mark.slow
def test_variances_are_those_of_samplers(problem, monkeypatch):
    monkeypatch.setattr(networks, "CHUNK", 16)
    loss_fn, params, data, _ = problem
    assigned = jnp.asarray(np.random.default_rng(0).integers(0, 4, 50))
    _, center = networks.mean_gradient(problem, params)
    found = networks.moments(problem, params, assigned, center, 4)
    gram = per_example.gram(loss_fn)(params, data)
    exact = lambda sampler: float(sampling.variance(gram, sampler, gram=True))
    expected = exact(sampling.stratified(assigned, 4, replacement=True))
    assert estimators.equal(found, 4) == pytest.approx(expected, rel=1e-4)
    uniform = exact(sampling.uniform(50, 4, replacement=True))
    assert estimators.of_all(found, 4)[SG] == pytest.approx(uniform, rel=1e-4)
    norms = per_example.norms(loss_fn)(params, data)
    importance = exact(sampling.importance(norms, 4, uniform_share=0))
    assert estimators.of_all(found, 4)[IMPORTANCE] == pytest.approx(importance, rel=1e-3)


@pytest.mark.slow
def test_svrg_is_the_variance_of_the_differences(problem):
    loss_fn, params, data, _ = problem
    earlier = jax.tree.map(lambda leaf: 0.9 * leaf, params)
    gradients = lambda p: per_example.gradients(loss_fn)(p, data)
    difference = jax.tree.map(jnp.subtract, gradients(params), gradients(earlier))
    expected = sampling.variance(difference, sampling.uniform(50, 1, replacement=True))
    _, center = networks.mean_gradient(problem, params)
    assigned = jnp.asarray(np.arange(50) % SMALL.batch)
    made = networks.Refreshed(earlier, assigned, assigned, jnp.ones(SMALL.batch))
    found = networks.of_differences(SMALL, problem, params, center, made)
    assert float(found.variance) == pytest.approx(float(expected), rel=1e-4)
    in_strata = sampling.stratified(assigned, SMALL.batch, replacement=True)
    expected = float(sampling.variance(difference, in_strata))
    assert estimators.equal(found, SMALL.batch) == pytest.approx(expected, rel=1e-4)
    same = networks.of_differences(SMALL, problem, params, center, made._replace(snapshot=params))
    assert float(same.variance) == 0


def test_shares_by_their_own_spreads_are_neyman():
    generator = np.random.default_rng(0)
    sizes, spreads = jnp.asarray([3.0, 5.0, 0.0, 7.0]), jnp.asarray([1.0, 4.0, 0.0, 2.0])
    zeros = jnp.zeros(4)
    one = jnp.float32(1)
    m = estimators.Moments(one, one, one, sizes, spreads, zeros, zeros)
    best = estimators.neyman(m, 6)
    mixed = networks.with_shares(m, spreads, 6)
    assert best <= mixed <= 1.1 * best  # a tenth of the draws is in proportion
    stale = networks.with_shares(m, jnp.asarray(generator.random(4)), 6)
    assert stale > mixed


def test_measuring_does_not_change_the_trajectory(problem):
    seen = []

    def observe(step, params):
        made = networks.refresh(SMALL, problem, params, step)
        seen.append(networks.measure_point(SMALL, problem, params, made))

    plain = networks.train(SMALL, problem)
    watched = networks.train(SMALL, problem, observe)
    assert len(seen) == 5
    assert jax.tree.all(jax.tree.map(jnp.array_equal, plain, watched))


def test_a_small_run_is_measured_and_drawn(problem):
    path = networks.measure(SMALL, problem, "digits")
    assert list(path.steps) == [4, 8, 12, 16]
    np.testing.assert_allclose(path.average[SG], 2 * path.average[DOUBLE], rtol=1e-5)
    assert (path.average[SVRG] < path.average[SG]).all()
    assert all(((v > 0) & (v < 1)).all() for v in path.normalised.values())
    figure, caption = plots_of(path)
    assert plots.png(figure)[:4] == b"\x89PNG"
    assert caption
    assert "digits" in told.summarise({"digits": path})
    assert len(told.tables(SMALL, {"digits": path})) == 3


def plots_of(path: Path):
    return networks.gradient_variance_networks_plots.path("digits", path._asdict())


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 2])
def test_the_cnn_is_learned_from(number):
    params = small_networks.cnn((1, 4, 8), 9, 3, seed=number)
    x = jnp.asarray(np.random.default_rng(number).normal(size=(12, 9, 9, 1)), jnp.float32)
    data = (x, jnp.asarray(np.arange(12) % 3, jnp.int32))
    loss = lambda p: small_networks.mean_loss_and_gradient(small_networks.cnn_loss, p, data, 5)[0]
    after = small_networks.train(
        small_networks.cnn_loss, params, data, steps=20, every=10, batch_size=6,
        learning_rate=0.05, momentum=0.5,
    )  # fmt: skip
    assert loss(after) < loss(params)
    expected = jnp.mean(jax.vmap(small_networks.cnn_loss, (None, 0))(params, data))
    assert loss(params) == pytest.approx(float(expected), rel=1e-5)


def path(falls: bool = True, **relative: float) -> Path:
    sg = np.array([4.0, 2.0, 1.0, 1.0]) if falls else np.array([1.0, 1.0, 2.0, 3.0])
    values = {SG: 1.0, DOUBLE: 0.5, GC: 0.3, SKETCHED: 0.1, IMPORTANCE: 0.2, SVRG: 0.1, **relative}
    average = {name: ratio * sg for name, ratio in values.items()}
    normalised = {name: v / (v + 0.1) for name, v in average.items()}
    return Path(np.arange(4), np.ones(4), average, normalised)


def test_claims_can_hold_and_fail():
    assert all(c.holds for c in told.claims({"digits": path()}))
    poor = path(falls=False, **{GC: 0.6, SVRG: 0.7, SKETCHED: 0.9})
    assert not any(c.holds for c in told.claims({"mnist": poor}))
    good = {"cifar10": path(False, **{GC: 0.7}), "cifar10 with copies": path(False, **{GC: 0.2})}
    assert all(c.holds for c in told.claims(good))
    wrong = {"cifar10": path(True, **{GC: 1.2}), "cifar10 with copies": path(True, **{GC: 0.6})}
    held = [c.holds for c in told.claims(wrong)]
    assert held[:2] == [False, False]
    assert held[5:7] == [False, False]
    quiet = path(False)._replace(normalised={SG: np.full(4, 0.5)})
    assert not told.cnn_claims(quiet)[2].holds


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"steps": 150}, "steps"),
        ({"steps": 300}, "steps must be at least 4 times"),
        ({"problems": ("cifar10",), "cifar_steps": 150}, "cifar_steps must be a multiple"),
        ({"refresh": 50}, "refresh"),
        ({"problems": ("x",)}, "problems"),
        ({"batch": 1}, "batch"),
    ],
)
def test_senseless_values_are_refused(wrong, match):
    with pytest.raises(ValueError, match=match):
        Config(**wrong)
