"""The experiment `hard_negatives`: its pairs are as described, and each claim can fail."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import hard_negatives, hard_negatives_runs, plots
from experiments import hard_negatives_claims as told
from experiments.hard_negatives import Config
from experiments.hard_negatives_runs import (
    ALL,
    HARDEST,
    METHODS,
    SOFT,
    WARM,
    Run,
    Setting,
    train,
    views,
)


def test_pairs_are_as_described():
    pairs = hard_negatives_runs.digit_halves(0)
    left, right = (np.concatenate(side) for side in zip(pairs.train, pairs.test, strict=True))
    assert left.shape == right.shape == (1797, 32)
    assert pairs.test[0].shape == (500, 32)
    whole = np.concatenate([left.reshape(-1, 8, 4), right.reshape(-1, 8, 4)], axis=2)
    from jaxrobust import data

    images = np.asarray(data.digits(test_fraction=0.0).x_train).reshape(-1, 64)
    as_rows = lambda a: {row.tobytes() for row in np.asarray(a, np.float32).reshape(-1, 64)}
    assert as_rows(whole) == as_rows(images)
    made = views(3, 50, 10)
    assert [v.shape for v in (*made.train, *made.test)] == [(50, 64), (50, 48), (10, 64), (10, 48)]


@pytest.mark.parametrize("method", [ALL, pytest.param(WARM, marks=pytest.mark.slow)])
def test_towers_learn(method):
    pairs = views(0, 512, 128)
    run = train(method, Setting(epochs=8, batch=64), pairs, jax.random.key(0))
    assert run.recall.shape == (8,)
    # Chance is 0.8 %.
    assert run.recall[-1] > 20
    assert run.rsum[-1] > run.rsum[0]


@pytest.mark.parametrize(
    "method", [ALL, *(pytest.param(m, marks=pytest.mark.slow) for m in METHODS if m != ALL)]
)
def test_every_method_has_a_loss_with_a_gradient(method):
    x, y = (v[:16, :8] for v in views(0, 32, 4).train)
    loss = lambda x: hard_negatives_runs.loss_of(method, x, y, jnp.int32(0), 4)
    value, gradient = jax.value_and_grad(loss)(x)
    assert value > 0
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


def run_of(recall, rsum, cosine=0.5):
    """Two seeds, four epochs."""
    as_epochs = lambda values: np.tile(np.asarray(values, float), (2, 1))
    return Run(as_epochs(recall), as_epochs([0, 0, 0, rsum]), as_epochs([1, 1, 1, cosine]))


def good():
    slow, fast = [10, 20, 30, 45], [20, 30, 35, 40]
    return {
        "views": {ALL: run_of(fast, 500), HARDEST: run_of(slow, 510), SOFT: run_of(slow, 520)},
        "digits": {ALL: run_of(fast, 240), HARDEST: run_of(slow, 180), SOFT: run_of(slow, 250)},
        "deep": {
            ALL: run_of(fast, 300),
            HARDEST: run_of([0, 0, 0, 1], 10, cosine=0.99),
            WARM: run_of(slow, 250),
            SOFT: run_of(slow, 350),
        },
    }


def test_claims_hold_for_what_they_say():
    assert [claim.holds for claim in told.claims(good())] == [True] * 6
    assert "rsum of 510, all negatives 500" in told.summary(good())


@pytest.mark.parametrize(
    ("number", "problem", "method", "bad"),
    [
        (0, "views", HARDEST, run_of([10, 20, 30, 45], 490)),
        (1, "views", HARDEST, run_of([30, 30, 30, 45], 510)),
        (2, "digits", HARDEST, run_of([10, 20, 30, 45], 230)),
        (3, "digits", SOFT, run_of([10, 20, 30, 45], 190)),
        (4, "deep", HARDEST, run_of([0, 0, 0, 1], 10, cosine=0.9)),
        (5, "deep", WARM, run_of([0, 0, 0, 2], 10)),
    ],
)
def test_each_claim_can_fail(number, problem, method, bad):
    found = good()
    found[problem][method] = bad
    held = [claim.holds for claim in told.claims(found)]
    assert held == [index != number for index in range(6)]


@pytest.mark.slow
def test_a_short_run_has_all_its_parts(monkeypatch):
    monkeypatch.setattr(hard_negatives, "views", lambda seed, *_: views(seed, 200, 50))
    monkeypatch.setattr(
        hard_negatives,
        "PROBLEMS",
        {"views": lambda seed: views(seed, 200, 50), "digits": lambda seed: views(seed, 150, 40)},
    )
    options: Any = {f"epochs_of_{name}": 4 for name in ("views", "digits", "deep")}
    config = Config(seeds=2, batch=50, **options)
    result = hard_negatives.run(config)
    assert len(result.claims) == 6
    assert set(result.series["views"]) == set(METHODS)
    for figure, caption in hard_negatives.plot(dataclasses.replace(result)).values():
        assert plots.png(figure)
        assert caption


def test_bad_configurations():
    for options, message in (
        ({"seeds": 1}, "seeds must be at least 2"),
        ({"epochs_of_deep": 3}, "epochs_of_deep must be at least 4"),
        ({"batch": 1}, r"batch must be in 2\.\.1000"),
    ):
        with pytest.raises(ValueError, match=message):
            Config(**options)
