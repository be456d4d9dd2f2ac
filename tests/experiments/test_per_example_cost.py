"""The experiment `per_example_cost`: its statistics, and that wrong norms or sketches fail."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from experiments import per_example_claims, per_example_cost, plots
from experiments.per_example_claims import (
    MEAN,
    NORMS,
    OURS,
    SLOW,
    Cost,
    exactness_claims,
    memory_claims,
    operation_claims,
    ranking_claims,
    sketch_claims,
)
from experiments.per_example_cost import Config
from jaxrobust import data, per_example

SMALL = Config(steps=60, keys=64)


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.images(data.digits())


@pytest.fixture(scope="module")
def models(digits):
    return per_example_cost.build(0, digits)


@pytest.fixture(scope="module")
def ranked(digits, models):
    return per_example_cost.rank_examples(SMALL, digits, models["CNN"])


@pytest.fixture(scope="module")
def programs(models):
    return per_example_cost.compile_all(models["MLP"])


@pytest.fixture(scope="module")
def costs(programs, models):
    return {"MLP": per_example_cost.measure(programs, models["MLP"])}


@pytest.mark.parametrize("name", ["MLP", "CNN"])
def test_norms_are_exact(models, programs, name):
    if name != "MLP":
        programs = per_example_cost.compile_all(models[name], (NORMS, SLOW))
    (claim,) = exactness_claims({name: per_example_cost.norm_errors(programs, models[name])})
    assert claim.holds
    assert claim.count == per_example_cost.BATCH


def test_wrong_norms_fail_their_claim(models, programs):
    exact = programs[NORMS]
    wrong = {**programs, NORMS: exact._replace(run=lambda *a: 1.001 * exact.run(*a))}
    errors = per_example_cost.norm_errors(wrong, models["MLP"])
    assert not exactness_claims({"MLP": errors})[0].holds


def test_memory_and_operations_are_as_claimed_and_others_fail(costs):
    memory, operations = memory_claims(costs), operation_claims(costs)
    assert all(claim.holds for claim in memory + operations)
    # a method of ours that forms all gradients after all
    for name in OURS:
        slow = {"MLP": {**costs["MLP"], name: costs["MLP"][SLOW]}}
        assert [claim.holds for claim in memory_claims(slow)] == [False, True]
        assert sum(not claim.holds for claim in operation_claims(slow)) == 1
    # and a slow twin that does not
    small = {"MLP": {**costs["MLP"], SLOW: costs["MLP"][NORMS]}}
    assert [claim.holds for claim in memory_claims(small)] == [True, False]


def test_operations_and_memory_are_those_counted_by_hand(costs):
    products = 64 * 512 + 512 * 512 + 512 * 10
    # forward, gradient and cotangent of each product, but no cotangent of the images
    expected = 2 * per_example_cost.BATCH * (3 * products - 64 * 512)
    # 1 %: activations, biases and the loss
    assert costs["MLP"][MEAN].operations == pytest.approx(expected, rel=0.01)
    assert costs["MLP"][SLOW].memory == pytest.approx(1.0, abs=0.05)


def test_the_operations_of_loops_are_those_of_all_turns():
    def products(x):
        turn = lambda m: jax.lax.map(lambda n: n @ n.T, m)
        return jax.lax.map(jax.jit(turn), x)

    count = lambda function, x: per_example_cost.count_operations(jax.make_jaxpr(function)(x))
    found = count(products, jnp.ones((7, 3, 4, 5)))
    # 1.3: the counters of the loops
    assert 1.0 <= found / (7 * 3 * 2 * 4 * 4 * 5) <= 1.3
    unknown = lambda x: jax.lax.while_loop(lambda v: v > 1, lambda v: v / 2, x)
    assert np.isnan(count(unknown, 9.0))


def test_sketches_are_unbiased_and_a_bias_of_3_percent_fails(models, monkeypatch):
    config = Config(seed=1)
    found = per_example_cost.sketch_slopes(models["CNN"], config)
    assert len(found.values) == config.keys
    (claim,) = sketch_claims({"CNN": found})
    assert claim.holds
    exact = per_example.sketches
    monkeypatch.setattr(
        per_example, "sketches", lambda *a, **k: lambda p, b: 1.03**0.5 * exact(*a, **k)(p, b)
    )
    biased = per_example_cost.sketch_slopes(models["CNN"], config)
    (claim,) = sketch_claims({"CNN": biased})
    assert not claim.holds
    assert [part.holds for part in claim.parts] == [False, True]


def test_the_slope_of_too_few_keys_shows_nothing(models):
    (claim,) = sketch_claims({"MLP": per_example_cost.sketch_slopes(models["MLP"], SMALL)})
    assert [part.holds for part in claim.parts] == [True, False]


def test_wrong_labels_are_wrong_and_stand_out(ranked, digits):
    wrong = ranked["wrong"]
    np.testing.assert_array_equal(wrong, ranked["labels"] != ranked["truth"])
    np.testing.assert_array_equal(ranked["truth"], digits.y_train)
    expected = SMALL.wrong_labels * len(wrong)
    assert abs(wrong.sum() - expected) < 5 * np.sqrt(expected)
    assert [c.holds for c in ranking_claims(ranked, SMALL.steps)][0]
    shuffled = {**ranked, "norms": np.random.default_rng(0).permutation(ranked["norms"])}
    assert not any(c.holds for c in ranking_claims(shuffled, SMALL.steps))


def test_separation_is_the_area_under_the_roc():
    generator = np.random.default_rng(0)
    positive = generator.random(200) < 0.2
    scores = generator.normal(size=200) + positive
    found = per_example_claims.separation(scores, positive)
    assert found == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)


def test_costs_are_relative_to_the_mean_gradient():
    costs = {"m": {MEAN: Cost(2.0, 10.0, 0.25), NORMS: Cost(1.0, 7.0, 0.5)}}
    assert per_example_claims.relative_times(costs) == {"m": {MEAN: 1.0, NORMS: 0.5}}
    assert per_example_claims.relative_operations(costs) == {"m": {MEAN: 1.0, NORMS: 0.7}}
    assert per_example_claims.extra_memory(costs) == {"m": {MEAN: 0.0, NORMS: 0.25}}


@pytest.mark.slow
def test_the_whole_run(monkeypatch):
    monkeypatch.setattr(per_example_cost, "REPEATS", 1)
    result = per_example_cost.run(dataclasses.replace(Config(), steps=100))
    # the tests' 8 devices need more memory for the CNN, which is known
    assert [c.statement for c in result.claims if c.verdict == "does not hold"] == []
    figures = per_example_cost.plot(result)
    assert set(figures) == {"cost", "examples", "norms"}
    for figure, caption in figures.values():
        assert caption
        assert plots.png(figure)
    assert "50 wrong labels" in result.summary


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"wrong_labels": 0.0}, "wrong_labels"),
        ({"wrong_labels": float("nan")}, "wrong_labels"),
        ({"steps": 0}, "steps"),
        ({"keys": 1}, "keys"),
        ({"keys": 0}, "keys"),
    ],
)
def test_bad_config(change, name):
    with pytest.raises(ValueError, match=name):
        Config(**change)


def test_tokens_are_the_grey_values(models):
    tokens = models["transformer"].batch
    assert tokens.shape == (per_example_cost.TOKEN_BATCH, 64)
    assert tokens.dtype == jnp.int32
    assert 0 <= int(tokens.min()) < int(tokens.max()) == 16
