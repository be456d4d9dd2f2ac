"""Clusters of gradients, against clusters of the gradients themselves."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import clustering, per_example
from jaxrobust.clustering._gradients import map_batches

KEY = jax.random.key(0)


def loss(params, example):
    x, label = example
    logits = jnp.tanh(x @ params["u"]) @ params["v"]
    return -jax.nn.log_softmax(logits)[label]


def problem(num_examples=150):
    rng = np.random.default_rng(0)
    params = {"u": rng.normal(size=(8, 12)) / 3, "v": rng.normal(size=(12, 4)) / 3}
    data = (rng.normal(size=(num_examples, 8)), rng.integers(0, 4, num_examples))
    return jax.tree.map(jnp.asarray, (params, data))


def gradients_as_points(params, data):
    leaves = jax.tree.leaves(per_example.gradients(loss)(params, data))
    return jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in leaves], axis=1)


def test_gram_is_as_the_gradients_themselves():
    params, data = problem()
    points = gradients_as_points(params, data)
    # The same seeds, for they are drawn by distances; the coordinates are others.
    exact = clustering.fit(points, 10, key=jax.random.split(KEY)[1], tolerance=0.0)
    found = clustering.gradient_clusters(
        loss, params, data, 10, key=KEY, method="gram", tolerance=0.0
    )
    np.testing.assert_allclose(found.objective, exact.objective, rtol=0.02)
    again = clustering.objective(points, found.assignments, 10)
    np.testing.assert_allclose(found.objective, again, rtol=1e-4)


def test_sketches_find_clusters_nearly_as_good():
    params, data = problem()
    points = gradients_as_points(params, data)
    exact = clustering.fit(points, 10, key=KEY, tolerance=0.0).objective
    found = clustering.gradient_clusters(loss, params, data, 10, key=KEY, tolerance=0.0)
    assert found.centers.shape == (10, 256)
    # Leaves of 96 and 48 entries are kept whole in 256 numbers but meet each other at random.
    assert clustering.objective(points, found.assignments, 10) <= 1.1 * exact
    np.testing.assert_allclose(found.objective, exact, rtol=0.15)


def test_copies_have_one_cluster():
    params, data = problem(6)
    data = jax.tree.map(lambda leaf: jnp.tile(leaf, (9, *[1] * (leaf.ndim - 1))), data)
    for method in ("sketch", "gram"):
        found = clustering.gradient_clusters(
            loss, params, data, 6, key=KEY, method=method, init="farthest", batch_size=20
        )
        assert len(np.unique(np.asarray(found.assignments)[:6])) == 6
        np.testing.assert_array_equal(found.assignments, np.tile(found.assignments[:6], 9))


@pytest.mark.parametrize("batch_size", [1, 4, 7, 10, 100])
def test_batches_change_nothing(batch_size):
    data = {"a": jnp.arange(10.0), "b": jnp.ones((10, 2))}
    double = lambda batch: 2 * batch["a"] + batch["b"][:, 0]
    np.testing.assert_array_equal(map_batches(double, data, batch_size), 2 * data["a"] + 1)


def test_a_warm_start():
    params, data = problem()
    first = clustering.gradient_clusters(loss, params, data, 5, key=KEY, tolerance=0.0)
    again = clustering.gradient_clusters(loss, params, data, 5, key=KEY, init=first.assignments)
    assert again.num_passes == 1


def test_a_refresh_compiles_nothing():
    params, data = problem(20)
    traces = []

    def counting(params, example):
        traces.append(1)
        return loss(params, example)

    for number, key in enumerate(jax.random.split(KEY, 3)):
        changed = jax.tree.map(lambda leaf, by=number: leaf + by, params)
        clustering.gradient_clusters(counting, changed, data, 3, key=key)
        if number == 0:
            first = len(traces)
    assert len(traces) == first


def test_bad_input():
    params, data = problem(20)
    unknown: Any = "exakt"
    with pytest.raises(ValueError, match="method must be one of"):
        clustering.gradient_clusters(loss, params, data, 3, key=KEY, method=unknown)
    with pytest.raises(ValueError, match="batch_size must be"):
        clustering.gradient_clusters(loss, params, data, 3, key=KEY, batch_size=0)
    with pytest.raises(ValueError, match="num_clusters must be in 1..20"):
        clustering.gradient_clusters(loss, params, data, 21, key=KEY)
    for wrong in ((data[0], data[1][:19]), (data[0][:0], data[1][:0]), (), (data[0], 1)):
        with pytest.raises(ValueError, match="data must have arrays"):
            clustering.gradient_clusters(loss, params, wrong, 3, key=KEY)
    broken = (data[0].at[3, 0].set(jnp.nan).at[11, 2].set(jnp.inf), data[1])
    with pytest.raises(ValueError, match="gradients must be finite; 2 of 20 are not: 3, 11"):
        clustering.gradient_clusters(loss, params, broken, 3, key=KEY)
