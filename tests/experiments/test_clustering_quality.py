"""The experiment `clustering_quality`: J is that of the gradients, and its claims can fail."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import clustering_quality, plots, small_networks
from experiments import clustering_quality_claims as told
from experiments.clustering_quality import Config, Problem
from experiments.clustering_quality_claims import (
    EXACT,
    HARTIGAN,
    PLAIN,
    RANDOM,
    RANK_ONE,
    REFINED,
    SHORT,
    WARM,
    Quality,
    Times,
    sketched,
)
from experiments.report import Result

SMALL = Config(examples=80, steps=5, clusters=(4,), starts=2, seeds=1, exact=4, timed=4)


@pytest.fixture(scope="module")
def problem() -> Problem:
    everything = clustering_quality.prepare(SMALL)
    return everything._replace(data=small_networks.first(everything.data, SMALL.examples))


@pytest.fixture(scope="module")
def gradients(problem) -> np.ndarray:
    one = jax.grad(small_networks.mlp_loss)
    leaves = jax.tree.leaves(jax.vmap(one, (None, 0))(problem.params, problem.data))
    return np.concatenate([np.asarray(leaf, np.float64).reshape(80, -1) for leaf in leaves], 1)


def pairs(points: np.ndarray, assigned: np.ndarray) -> float:
    """J by its definition."""
    inside = ((i, j) for i, j in itertools.combinations(range(len(points)), 2)
              if assigned[i] == assigned[j])  # fmt: skip
    return sum(np.sum((points[i] - points[j]) ** 2) for i, j in inside)


def quality(ratio: float = 1.03, **changed: float) -> Quality:
    values = {
        HARTIGAN: 1.01, sketched(64): 1.1, sketched(128): 1.04, sketched(256): ratio,
        PLAIN: 1.04, SHORT: 1.04, WARM: 1.04, REFINED: 1.03, EXACT: 1.05, RANK_ONE: 1.9,
        RANDOM: 9.8, **changed,
    }  # fmt: skip
    return Quality({name: np.full(2, value) for name, value in values.items()}, 10.0)


def test_j_is_the_sum_over_pairs_of_the_gradients(gradients):
    assigned = np.random.default_rng(0).integers(0, 3, 80)
    found = clustering_quality.objective(gradients @ gradients.T, assigned, 3)
    assert found == pytest.approx(pairs(gradients, assigned), rel=1e-9)


def test_points_have_the_inner_products(gradients):
    gram = gradients @ gradients.T
    points = np.asarray(clustering_quality.points_of(gram), np.float64)
    assert np.abs(points @ points.T - gram).max() < 1e-5 * np.abs(gram).max()  # float32
    singular = np.ones((6, 6)) - 1e-12 * np.eye(6)
    points = np.asarray(clustering_quality.points_of(singular))
    np.testing.assert_allclose(points @ points.T, singular, atol=1e-5)
    with pytest.raises(ValueError, match="not those of any points"):
        clustering_quality.points_of(-np.eye(3))


@pytest.mark.slow
def test_all_methods_are_better_than_chance_and_near_the_reference(problem, gradients, monkeypatch):
    monkeypatch.setattr(clustering_quality, "DIMS", (256,))
    gram = gradients @ gradients.T
    points = clustering_quality.points_of(gram)
    found = clustering_quality.quality(SMALL, problem, gram, points, 4)
    assert found.ratios[HARTIGAN].min() == 1
    for name in (sketched(256), REFINED, EXACT):
        assert 0.9 < found.ratios[name].max() < 1.3
    assert found.ratios[RANDOM] > 1.3
    # D0/K over the J of random clusters, both relative to the reference
    even = np.random.default_rng(SMALL.seed).permutation(80) % 4
    whole, random = (
        clustering_quality.objective(gram, a, k) for a, k in ((0 * even, 1), (even, 4))
    )
    assert found.guide / found.ratios[RANDOM][0] == pytest.approx(whole / 4 / random, rel=1e-9)


def test_claims_can_hold_and_fail():
    good = {32: quality(), 64: quality()}
    seconds = {sketched(256): 4.0, SHORT: 1.8, WARM: 1.6, RANK_ONE: 18.0}
    times = Times(60_000, 64, 2.0, seconds, {name: s / 2 for name, s in seconds.items()}, 1.03)
    full = Config(dataset="mnist", examples=10_000)
    claims = told.claims(full, good, times)
    assert all(claim.holds for claim in claims)
    assert len(claims) == 12
    for place, (name, value) in enumerate(
        (
            (sketched(128), 1.06), (sketched(256), 1.06), (SHORT, 1.06), (PLAIN, 1.02),
            (WARM, 1.06), (REFINED, 1.06),
        )
    ):  # fmt: skip
        wrong = {32: quality(), 64: quality(**{name: value})}
        assert [c.holds for c in told.sketch_claims(full, wrong)].index(False) == place
    assert not told.sketch_claims(full, {64: quality(**{RANK_ONE: 1.1})})[-1].holds
    assert not told.guide_claims({64: quality(**{RANDOM: 8.0})})[0].holds
    assert not told.guide_claims({64: quality(**{RANK_ONE: 5.1})})[1].holds
    for name, held in (
        (SHORT, [True, False, True]),
        (WARM, [True, True, False]),
    ):  # and only that one fails
        slower = times._replace(epochs=times.epochs | {name: 1.01})
        assert [claim.holds for claim in told.time_claims(full, slower)] == held
    worse = times._replace(short=1.06)
    assert [claim.holds for claim in told.time_claims(full, worse)] == [False, True, True]
    assert told.time_claims(Config(), times) == []


def test_j_without_pairs(problem, gradients):
    assigned = np.arange(80) % 5
    found = clustering_quality.objective_of_many(problem, assigned, 6)  # one is empty
    np.testing.assert_allclose(found, pairs(gradients, assigned), rtol=1e-4)


def test_the_images_are_of_members(problem):
    found = clustering_quality.members(SMALL, problem)
    rows, columns = np.shape(found["labels"])
    assert columns == clustering_quality.SHOWN
    assert found["pixels"].shape == (rows, columns, 8, 8)
    assert list(found["sizes"]) == sorted(found["sizes"], reverse=True)
    x, y = (np.asarray(leaf) for leaf in problem.data)
    for image, label in zip(found["pixels"][0], found["labels"][0], strict=True):
        assert label in y[(x == image.ravel()).all(axis=1)]


def test_the_report_is_drawn(problem):
    found = {8: quality(), 32: quality()}
    seconds = {sketched(256): 2.0, SHORT: 0.9, WARM: 0.8, RANK_ONE: 9.0}
    times = Times(100, 8, 1.0, seconds, seconds, 1.0)
    result = Result(
        summary=told.summarise(found, times),
        series={
            "J": {str(count): q.ratios for count, q in found.items()},
            "guide": {str(count): q.guide for count, q in found.items()},
            "images": clustering_quality.members(SMALL, problem),
        },
        tables=told.tables(SMALL, found, times),
    )
    for figure, caption in clustering_quality.plot(result).values():
        assert plots.png(figure)[:4] == b"\x89PNG"
        assert caption


def test_observing_does_not_change_training():
    params, data, _ = clustering_quality.prepare(SMALL)
    seen = []
    options = {"steps": 6, "every": 2, "batch_size": 8, "learning_rate": 0.1, "momentum": 0.5}

    def observe(step, params):
        jax.random.normal(jax.random.key(0))
        np.random.default_rng(0).normal()
        loss_and_gradient = small_networks.mean_loss_and_gradient(
            small_networks.mlp_loss, params, data
        )
        seen.append((step, loss_and_gradient[0]))

    plain = small_networks.train(small_networks.mlp_loss, params, data, **options)
    watched = small_networks.train(
        small_networks.mlp_loss, params, data, observe=observe, **options
    )
    assert [step for step, _ in seen] == [0, 2, 4, 6]
    assert jax.tree.all(jax.tree.map(jnp.array_equal, plain, watched))
    one = jax.tree.map(jnp.array_equal, plain, params)
    assert not jax.tree.all(one)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [({"steps": 0}, "steps"), ({"clusters": (1,)}, "clusters"), ({"dataset": "x"}, "dataset")],
)
def test_senseless_values_are_refused(wrong, match):
    with pytest.raises(ValueError, match=match):
        Config(**wrong)
