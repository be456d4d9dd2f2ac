"""The experiment `per_example_cost`: its statistics, and that wrong norms or sketches fail."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from experiments import per_example_cost, plots
from experiments.per_example_cost import Config
from jaxrobust import data, per_example

SMALL = Config(steps=60, keys=16)


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.images(data.digits())


@pytest.fixture(scope="module")
def models(digits):
    return per_example_cost.build(0, digits)


@pytest.fixture(scope="module")
def ranked(digits, models):
    return per_example_cost.rank_examples(SMALL, digits, models["CNN"])


@pytest.mark.parametrize("name", ["MLP", "CNN", "transformer"])
def test_norms_are_exact(models, name):
    (claim,) = per_example_cost.exactness_claims({name: per_example_cost.norm_errors(models[name])})
    assert claim.holds
    assert claim.count == per_example_cost.BATCH


def test_wrong_norms_fail_their_claim(models, monkeypatch):
    exact = per_example.norms
    monkeypatch.setattr(per_example, "norms", lambda f: lambda p, b: 1.001 * exact(f)(p, b))
    errors = per_example_cost.norm_errors(models["MLP"])
    assert not per_example_cost.exactness_claims({"MLP": errors})[0].holds


def test_sketches_are_unbiased_and_biased_ones_fail(models, monkeypatch):
    found = per_example_cost.sketch_deviations(models["MLP"], SMALL)
    assert len(found) == per_example_cost.PAIRS * (per_example_cost.PAIRS + 1) // 2
    # 16 keys: a t distribution of 15 degrees of freedom, whose tail at 8 is below 1e-6
    assert np.max(np.abs(found)) < 8
    exact = per_example.sketches
    monkeypatch.setattr(
        per_example, "sketches", lambda *a, **k: lambda p, b: 1.5 * exact(*a, **k)(p, b)
    )
    biased = per_example_cost.sketch_deviations(models["MLP"], SMALL)
    assert not per_example_cost.sketch_claim(biased, SMALL).holds


def test_wrong_labels_are_wrong_and_stand_out(ranked, digits):
    wrong = ranked["wrong"]
    np.testing.assert_array_equal(wrong, ranked["labels"] != ranked["truth"])
    np.testing.assert_array_equal(ranked["truth"], digits.y_train)
    expected = SMALL.wrong_labels * len(wrong)
    assert abs(wrong.sum() - expected) < 5 * np.sqrt(expected)
    assert [c.holds for c in per_example_cost.ranking_claims(SMALL, ranked)][0]
    shuffled = {**ranked, "norms": np.random.default_rng(0).permutation(ranked["norms"])}
    assert not any(c.holds for c in per_example_cost.ranking_claims(SMALL, shuffled))


def test_separation_is_the_area_under_the_roc():
    generator = np.random.default_rng(0)
    positive = generator.random(200) < 0.2
    scores = generator.normal(size=200) + positive
    found = per_example_cost.separation(scores, positive)
    assert found == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)


def test_relative_times():
    found = per_example_cost.relative({"m": {"mean gradient": 2.0, "norms": 1.0}})
    assert found == {"m": {"mean gradient": 1.0, "norms": 0.5}}


@pytest.mark.slow
def test_the_whole_run(monkeypatch):
    monkeypatch.setattr(per_example_cost, "REPEATS", 1)
    result = per_example_cost.run(dataclasses.replace(SMALL, steps=200))
    assert [c.statement for c in result.claims if not c.holds] == []
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
    ],
)
def test_bad_config(change, name):
    with pytest.raises(ValueError, match=name):
        Config(**change)


def test_tokens_are_the_grey_values(models):
    tokens = models["transformer"].batch
    assert tokens.shape == (per_example_cost.BATCH, 64)
    assert tokens.dtype == jnp.int32
    assert 0 <= int(tokens.min()) < int(tokens.max()) == 16
