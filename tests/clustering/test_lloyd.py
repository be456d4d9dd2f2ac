"""Lloyd's method, against scikit-learn's and its definition."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans

from jaxrobust import clustering
from tests.clustering import oracles

KEY = jax.random.key(0)


def lloyd(points, num_clusters, **options):
    options = {"tolerance": 0.0, "max_passes": 300, "objective": "kmeans", **options}
    return clustering.fit(points, num_clusters, key=KEY, algorithm="lloyd", **options)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("seed", range(4))
def test_as_scikit_learn_from_the_same_start(seed, x64):
    points = normal(300, 5, seed=seed) + 50  # far from the origin
    start = np.random.default_rng(seed).integers(0, 8, 300)
    means = np.stack([points[start == k].mean(0) for k in range(8)])
    options: Any = {"init": means, "n_init": 1, "tol": 0, "algorithm": "lloyd"}
    theirs: Any = KMeans(8, **options).fit(points)
    found = lloyd(points, 8, init=start)
    np.testing.assert_array_equal(found.assignments, theirs.labels_)
    np.testing.assert_allclose(found.centers, theirs.cluster_centers_, rtol=1e-10)
    np.testing.assert_allclose(found.objective, theirs.inertia_, rtol=1e-9)
    assert found.converged


def test_no_pass_raises_the_objective():
    points = normal(200, 4) * np.random.default_rng(1).gamma(0.3, size=(200, 1))
    start = np.random.default_rng(2).integers(0, 5, 200)  # of 8: three are empty
    values = [oracles.kmeans(points, start)]
    for passes in range(1, 12):
        found = lloyd(points, 8, init=start, max_passes=passes)
        values.append(oracles.kmeans(points, np.asarray(found.assignments)))
        np.testing.assert_allclose(found.objective, values[-1], rtol=1e-5)
        assert np.all(found.sizes > 0)
    assert np.all(np.diff(values) <= 1e-6 * values[0])


def test_all_empty_clusters_are_filled_at_once():
    points = np.array([[0.0], [0.1], [0.2], [50.0], [60.0], [-70.0]])
    found = lloyd(points, 5, init=np.zeros(6, int), max_passes=1)
    # The mean is 6.7: the farthest are -70, 60, 50 and, of the rest, 0.
    np.testing.assert_array_equal(found.assignments, [4, 0, 0, 3, 2, 1])
    np.testing.assert_array_equal(lloyd(points, 6, init=np.zeros(6, int)).sizes, np.ones(6))


def test_of_equal_means_the_first():
    points = np.array([[-1.0], [1.0], [-1.0], [1.0], [0.0]])
    # Whichever cluster the last point is in, it goes to the first of two means that are as far.
    found = lloyd(points, 3, init=np.array([0, 1, 0, 1, 2]))
    assert found.objective == 0
    copies = np.repeat(points[:2], 3, axis=0)
    found = lloyd(copies, 3, init=np.array([1, 1, 2, 0, 0, 0]), max_passes=1)
    # Copies go to the first mean that is there; cluster 2 runs empty and gets one back.
    np.testing.assert_array_equal(found.assignments, [2, 1, 1, 0, 0, 0])


def test_single_moves_go_on_where_it_ends():
    points = normal(200, 6)
    ends = [lloyd(points, 12, init=np.random.default_rng(s).integers(0, 12, 200)) for s in range(5)]
    gains = []
    for end in ends:
        after = clustering.fit(
            points, 12, key=KEY, objective="kmeans", init=end.assignments, tolerance=0.0
        )
        gains.append(float(end.objective - after.objective))
    assert min(gains) >= -1e-3
    assert max(gains) > 1


def test_jit_changes_nothing():
    points = jnp.asarray(normal(80, 5), jnp.float32)
    fit = lambda points, key: clustering.fit(
        points, 5, key=key, objective="kmeans", algorithm="lloyd"
    )
    jax.tree.map(np.testing.assert_array_equal, fit(points, KEY), jax.jit(fit)(points, KEY))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "pairwise"}, "'lloyd' is for objective 'kmeans' alone, got 'pairwise'"),
        ({"block_size": 3}, "block_size is for algorithm 'hartigan' alone"),
        ({"algorithm": "elkan"}, "algorithm must be one of"),
    ],
)
def test_bad_input(options: dict[str, Any], message):
    options = {"objective": "kmeans", "algorithm": "lloyd", **options}
    with pytest.raises(ValueError, match=message):
        clustering.fit(normal(5, 2), 2, key=KEY, **options)
