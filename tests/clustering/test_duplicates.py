"""Groups of points that coincide: against the leaders one by one, and planted groups."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import clustering
from tests.clustering import oracles

KEY = jax.random.key(0)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def planted(num_groups, copies, singles, dim, noise, seed=0):
    """Directions with noisy copies of other lengths and some of their own, and their groups."""
    heads = normal(num_groups, dim, seed=seed)
    points = np.repeat(heads, copies, axis=0) + noise * normal(num_groups * copies, dim, seed=1)
    points = np.concatenate([points, normal(singles, dim, seed=2)])
    truth = np.concatenate(
        [np.repeat(np.arange(num_groups), copies), num_groups + np.arange(singles)]
    )
    rng = np.random.default_rng(3)
    points *= rng.uniform(0.1, 10, size=(len(points), 1))
    order = rng.permutation(len(points))
    return points[order].astype(np.float32), truth[order]


def assert_groups(found, leaders):
    """Everything in the groups follows from the leader of every point."""
    numbers = {leader: number for number, leader in enumerate(np.unique(leaders))}
    np.testing.assert_array_equal(found.leaders, leaders)
    np.testing.assert_array_equal(found.assignments, [numbers[leader] for leader in leaders])
    np.testing.assert_array_equal(found.counts, [np.sum(leaders == leader) for leader in leaders])
    assert found.num_groups == len(numbers)
    assert {leaf.dtype for leaf in found} == {np.dtype("int32")}


@pytest.mark.parametrize(
    ("num_points", "spread", "tolerance"),
    [(1, 1, 1.0), (40, 4, 3.0), (700, 12, 5.0), (700, 60, 5.0)],
)
def test_leaders_are_those_of_the_sequence(num_points, spread, tolerance):
    # Whole numbers: many pairs are exactly at the tolerance, 3-4-5. 700 points take several blocks.
    points = np.random.default_rng(0).integers(-spread, spread + 1, (num_points, 2))
    found = clustering.duplicates(points.astype(np.float32), tolerance=tolerance)
    assert_groups(found, oracles.leaders(points, tolerance))


@pytest.mark.parametrize("tolerance", [0.02, 0.1, 0.5, 1.5])
def test_cosine_leaders_are_those_of_the_sequence(tolerance):
    points, _ = planted(20, 10, 100, 6, 0.1)
    points[[3, 50, 200]] = 0
    found = clustering.duplicates(points, tolerance=tolerance, metric="cosine")
    assert_groups(found, oracles.leaders(points, tolerance, "cosine"))


def test_the_order_decides_who_leads():
    of = lambda *values: clustering.duplicates(jnp.array(values), tolerance=1.0).leaders.tolist()
    assert of(0.0, 0.9, 1.8) == [0, 0, 2]
    assert of(0.9, 0.0, 1.8) == [0, 0, 0]
    assert of(0.0, 2.0, 1.0) == [0, 1, 0]  # the first leader, not the closest
    assert of(1.0, 0.0, 2.0, 3.5) == [0, 0, 0, 3]


@pytest.mark.parametrize("shift", [0, 1000])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_at_tolerance_zero_equal_points_and_no_others_are_copies(scale, shift):
    distinct = (normal(30, 5) + shift).astype(np.float32) * np.float32(scale)
    distinct[1] = distinct[0]
    distinct[1, 2] = np.nextafter(distinct[0, 2], np.float32(np.inf))  # the closest neighbour
    copies = np.random.default_rng(1).integers(0, 30, 600)
    found = clustering.duplicates(distinct[copies], tolerance=0.0)
    assert_groups(found, np.array([np.argmax(copies == copy) for copy in copies]))
    same_directions = distinct[copies] * 2.0 ** np.random.default_rng(2).integers(-3, 3, (600, 1))
    same = clustering.duplicates(
        same_directions.astype(np.float32), tolerance=1e-12, metric="cosine"
    )
    assert np.all(np.asarray(same.leaders) <= np.asarray(found.leaders))


def test_a_tolerance_far_below_the_squares_that_float32_has():
    points = np.array([[1e-25], [2e-25], [3.5e-25]], np.float32)
    assert clustering.duplicates(points, tolerance=1.2e-25).leaders.tolist() == [0, 0, 2]
    assert clustering.duplicates(points, tolerance=np.inf).num_groups == 1


def test_zero_has_no_direction():
    points = np.array([[0, 0], [1, 0], [0, 0], [-1, 0], [3, 0]], np.float32)
    found = clustering.duplicates(points, tolerance=0.0, metric="cosine")
    assert found.leaders.tolist() == [0, 1, 0, 3, 1]
    found = clustering.duplicates(points, tolerance=100.0, metric="cosine")
    assert found.leaders.tolist() == [0, 1, 0, 1, 1]


def test_inputs_of_any_shapes():
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 3), np.uint8)
    copies = np.array([2, 0, 2, 1, 0, 3])
    data = {
        "image": images[copies],
        "label": np.array([1, 0, 1, 1, 5, 2]),
        "flag": np.ones(6, bool),
    }
    found = clustering.duplicates(data, tolerance=0.0)
    assert found.leaders.tolist() == [0, 1, 0, 3, 4, 5]  # one image has two labels


@pytest.mark.parametrize("options", [{}, {"num_probes": 100, "key": KEY}])
def test_jit_changes_nothing(options):
    points, _ = planted(10, 90, 200, 30, 0.25)
    find = lambda x, t: clustering.duplicates(x, tolerance=t, metric="cosine", **options)
    jax.tree.map(np.testing.assert_array_equal, find(points, 0.1), jax.jit(find)(points, 0.1))


def test_float64(x64):
    points = np.array([[1.0], [1.0 + 1e-12], [1.0]])
    assert clustering.duplicates(points, tolerance=1e-13).leaders.tolist() == [0, 1, 0]


def test_probes_find_the_large_groups():
    points, truth = planted(10, 90, 200, 30, 0.1)
    found = clustering.duplicates(points, tolerance=0.1, metric="cosine", num_probes=100, key=KEY)
    # At least two of each group are among 100 of 1100 probes with probability 1 - 10 * 0.0025.
    assert_groups(found, np.array([np.argmax(truth == group) for group in truth]))


def test_with_probes_means_gather_what_a_leader_misses():
    # At this noise two copies may be 0.12 apart, but none is that far from the mean.
    points, truth = planted(10, 90, 200, 30, 0.25)
    first = np.array([np.argmax(truth == group) for group in truth])
    options: dict[str, Any] = {"tolerance": 0.09, "metric": "cosine"}
    one_by_one = clustering.duplicates(points, **options)
    by_means = clustering.duplicates(points, num_probes=100, key=KEY, **options)
    wrong = lambda found: np.sum(np.asarray(found.leaders) != first)
    assert wrong(one_by_one) > 20
    assert wrong(by_means) < wrong(one_by_one) / 4


@pytest.mark.slow
def test_with_probes_exact_copies_stay_exact():
    heads = normal(5, 7) * 1e3
    copies = np.random.default_rng(1).integers(0, 5, 300)
    for metric in ("euclidean", "cosine"):
        found = clustering.duplicates(
            heads[copies], tolerance=0.0, metric=metric, num_probes=400, key=KEY
        )
        assert_groups(found, np.array([np.argmax(copies == copy) for copy in copies]))


@pytest.mark.slow
def test_probes_without_a_pair_find_nothing():
    found = clustering.duplicates(normal(50, 4), tolerance=0.1, num_probes=10, key=KEY)
    assert_groups(found, np.arange(50))


BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "negative": (np.ones((3, 2)), {"tolerance": -0.1}, "tolerance must be at least 0, got -0.1"),
    "nan": (np.ones((3, 2)), {"tolerance": np.nan}, "tolerance must be at least 0, got nan"),
    "metric": (np.ones((3, 2)), {"metric": "l1"}, "metric must be one of"),
    "not finite": (np.array([1.0, np.nan, np.inf, 0.0]), {}, "points must be finite; 2 of 4.*1, 2"),
    "lengths": ([np.ones((3, 2)), np.ones(4)], {}, "points must have arrays"),
    "scalar": (np.float32(1), {}, "points must have arrays"),
    "nothing": ([], {}, "points must have arrays"),
    "empty": (np.ones((0, 2)), {}, "points must have arrays"),
    "text": (np.array(["a", "b"]), {}, "points must be arrays of numbers"),
    "complex": (np.ones((3, 2), complex), {}, "points must be arrays of real numbers"),
    "list": ([[1.0, 2.0]], {}, "points must be arrays of numbers, got float"),
    "no key": (np.ones((3, 2)), {"num_probes": 2}, "num_probes and key are given together"),
    "no probes": (np.ones((3, 2)), {"key": KEY}, "num_probes and key are given together"),
    "zero": (np.ones((3, 2)), {"key": KEY, "num_probes": 0}, "num_probes must be an integer"),
}


@pytest.mark.parametrize("problem", BAD)
def test_bad_input(problem):
    points, options, message = BAD[problem]
    with pytest.raises((ValueError, TypeError), match=message):
        clustering.duplicates(points, **{"tolerance": 0.0, **options})


def test_the_rest_is_grouped_as_without_probes():
    rng = np.random.default_rng(0)
    large = np.repeat(rng.normal(size=(3, 6)), 100, axis=0)
    pairs = np.repeat(rng.normal(size=(50, 6)), 2, axis=0)
    points = jnp.asarray(rng.permutation(np.concatenate([large, pairs])))
    probes = {"num_probes": 20, "key": jax.random.key(0), "tolerance": 1e-6}
    exact = clustering.duplicates(points, tolerance=1e-6)
    assert int(exact.num_groups) == 53
    assert int(clustering.duplicates(points, **probes).num_groups) > 90
    found = clustering.duplicates(points, **probes, rest=True)
    for field in exact._fields:
        np.testing.assert_array_equal(getattr(found, field), getattr(exact, field))
    with pytest.raises(ValueError, match="rest=True is for num_probes alone"):
        clustering.duplicates(points, tolerance=1e-6, rest=True)
