"""The experiment `redundancy`: what is planted, how it is counted, and that claims can fail."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import plots, redundancy
from experiments import redundancy_claims as told
from experiments.redundancy import Config
from experiments.redundancy_claims import COPIES, INPUTS, TO_COPIED, TO_DISTINCT, Detection
from experiments.report import Result

SMALL = Config(
    originals=3, copies=4, distinct=20, noises=(0.0, 0.02), times=(0, 100), dim=64, probes=30
)


@pytest.fixture(scope="module")
def result() -> Result:
    return redundancy.run(SMALL)


def test_copies_are_planted():
    dataset = redundancy.load(SMALL)
    (x, y), source = redundancy.plant(SMALL, dataset, 0.02)
    counts = np.unique(source, return_counts=True)[1]
    assert sorted(counts) == [1] * 20 + [4] * 3
    np.testing.assert_array_equal(y, np.asarray(dataset.y_train)[source])
    noise = np.asarray(x) - np.asarray(dataset.x_train)[source]
    is_copy = np.isin(source, np.unique(source)[counts > 1])
    assert noise[is_copy].std() == pytest.approx(0.02, rel=0.2)
    assert not noise[~is_copy].any()


def test_pairs_are_counted():
    generator = np.random.default_rng(0)
    groups, source = generator.integers(0, 6, 40), generator.integers(0, 5, 40)
    inside = list(itertools.combinations(range(40), 2))
    found = [(i, j) for i, j in inside if groups[i] == groups[j]]
    planted = [(i, j) for i, j in inside if source[i] == source[j]]
    both = len(set(found) & set(planted))
    expected = (both / len(found), both / len(planted))
    assert redundancy.pairs(groups, source) == pytest.approx(expected)
    assert redundancy.pairs(np.arange(40), source) == (1.0, 0.0)
    assert redundancy.pairs(source, source) == (1.0, 1.0)


def test_distances_are_those_of_all_pairs():
    generator = np.random.default_rng(1)
    points, source = generator.normal(size=(6, 3)), np.array([0, 0, 1, 1, 2, 3])
    cosine = lambda i, j: (
        1 - points[i] @ points[j] / np.linalg.norm(points[i]) / np.linalg.norm(points[j])
    )
    found = redundancy.distance_quantiles(jnp.asarray(points), source)
    expected = {
        COPIES: [cosine(0, 1), cosine(2, 3)],
        TO_COPIED: [min(cosine(i, j) for j in range(4)) for i in (4, 5)],
        TO_DISTINCT: [cosine(4, 5)] * 2,
    }
    for kind, values in expected.items():
        np.testing.assert_allclose(found[kind], np.quantile(values, redundancy.QUANTILES), 1e-5)


def test_a_small_run_finds_what_was_planted(result):
    exact = result.series["detection"]["0.0"]
    assert all(d.precision == d.recall == 1 for d in [by[0] for by in exact.values()])
    assert result.series["groups"]["sizes"][0] == 4
    assert (result.series["groups"]["purity"] == 1).all()
    assert {c.holds for c in result.claims[:1]} == {True}
    for figure, caption in redundancy.plot(result).values():
        assert plots.png(figure)[:4] == b"\x89PNG"
        assert caption


def detections(precision: float, recall: float) -> list[Detection]:
    return [Detection(precision, recall, precision, recall, 5)] * len(told.tolerances(SMALL))


def test_claims_can_hold_and_fail():
    start, late = told.after(0), told.after(100)
    good = {0.0: {n: detections(1, 1) for n in (start, late, INPUTS)}}
    good[0.02] = {start: detections(1, 0.8), late: detections(1, 0.99), INPUTS: detections(1, 1)}
    angles = {
        COPIES: np.array([0.01, 0.02, 0.05]),
        TO_COPIED: np.array([0.1, 0.3, 0.5]),
        TO_DISTINCT: np.array([0.1, 0.2, 0.3]),
    }
    distances = {0.02: {start: angles, late: angles}}
    norms = {0.02: {start: 8.0, late: 0.5}}
    assert all(claim.holds for claim in told.claims(SMALL, good, distances, norms))
    for precision, recall in ((0.99, 1.0), (1.0, 0.99)):
        wrong = {0.0: {**good[0.0], late: detections(precision, recall)}}
        assert not told.exact_claims(SMALL, wrong)[0].holds
    bad = {0.02: {start: detections(0.9, 0.9), late: detections(0.9, 0.7)}}
    assert not any(claim.holds for claim in told.noise_claims(SMALL, bad))
    near = {**angles, COPIES: np.array([0.01, 0.07, 0.2])}
    met = {0.02: {start: angles, late: near}}
    assert not told.distance_claims(SMALL, met)[0].holds
    grown = {0.02: {start: 1.0, late: 1.0}}
    assert not any(claim.holds for claim in told.norm_claims(SMALL, met, grown))


def test_claims_about_the_plan_can_fail():
    config = Config(distinct=100, dataset="mnist", tolerance=0.1)
    by_hand = {0.02: {told.after(0): [Detection(1.0, 0.9, 1.0, 0.96, 5)] * 20}}
    good = {0.02: told.PlanFound(1.0, 0.97, 110, 0.05), None: told.PlanFound(1.0, np.nan, 100, 0.0)}
    held = lambda found: [claim.holds for claim in told.plan_claims(config, by_hand, found)]
    assert held(good) == [True] * 4
    assert held(good | {0.1: told.PlanFound(0.9, 0.0, 90, 0.0)}) == [False, True, True, True]
    assert held(good | {0.0: told.PlanFound(1.0, 1.0, 100, 0.0)}) == [True] * 5
    # Nothing found, nothing wrong: but exact copies are there to be found.
    nothing = told.PlanFound(1.0, 0.0, 400, 0.0)
    assert held(good | {0.0: nothing}) == [True, False, True, True, True]
    assert held(good | {None: told.PlanFound(0.0, np.nan, 99, 0.1)}) == [True, False, True, True]
    bad = told.PlanFound(1.0, 0.955, 140, 0.1)
    assert held(good | {0.02: bad}) == [True, True, False, True]
    worse = told.PlanFound(1.0, 0.94, 140, 0.1)
    assert held(good | {0.02: worse}) == [True, True, False, False]


def test_the_plan_finds_what_was_planted():
    """By itself; and nothing where there is nothing."""
    config = Config(originals=10, copies=15, distinct=150)
    dataset = redundancy.load(config)
    found = redundancy.found_by_plan(config, redundancy.plant(config, dataset, 0.02))
    assert found.precision > 0.95
    assert found.recall > 0.85
    assert 0 < found.tolerance < 0.2
    clean = redundancy.without_copies(redundancy.plant(config, dataset, 0.0))
    assert redundancy.found_by_plan(config, clean).groups == 150


def test_the_table_is_compared_on_mnist_only():
    by = {told.after(t): {kind: np.array(v) for kind, v in kinds.items()}
          for t, kinds in told.TABLE.items()}  # fmt: skip
    mnist = Config(dataset="mnist", tolerance=0.1)
    assert len(told.distance_claims(SMALL, {0.02: by})) == 1
    assert all(claim.holds for claim in told.distance_claims(mnist, {0.02: by}))
    far = {name: {kind: 3 * v for kind, v in kinds.items()} for name, kinds in by.items()}
    assert [c.holds for c in told.distance_claims(mnist, {0.02: far})] == [True, False]


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"copies": 1}, "copies"),
        ({"times": (100,)}, "times"),
        ({"times": (0, 100, 150)}, "times"),
        ({"noises": (-1.0,)}, "noises"),
        ({"distinct": 5_000}, "distinct"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"dataset": "x"}, "dataset"),
    ],
)
def test_senseless_values_are_refused(wrong, match):
    with pytest.raises(ValueError, match=match):
        Config(**wrong)
