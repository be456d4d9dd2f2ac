"""Clusters of gradients with dense centers, against the gradients themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import clustering
from jaxrobust.clustering._exact import reassign
from jaxrobust.clustering._repair import fill_empty
from tests.clustering import oracles
from tests.clustering.problems import flat_centers, gradients_as_points, loss, problem

KEY = jax.random.key(0)


def exact(params, data, num_clusters, **options):
    options = {"tolerance": 0.0, "batch_size": 64, **options}
    return clustering.gradient_clusters(
        loss, params, data, num_clusters, key=KEY, method="exact", **options
    )


def at_centers(distances, assignments):
    """J at fixed centers."""
    own = distances[np.arange(len(distances)), assignments]
    return sum(np.sum(assignments == k) * own[assignments == k].sum() for k in set(assignments))


def test_every_move_at_fixed_centers_is_the_best_one():
    distances = np.random.default_rng(0).gamma(1.0, size=(60, 5))
    start = np.random.default_rng(1).integers(0, 4, 60)  # cluster 4 is empty
    found = np.asarray(reassign(jnp.asarray(distances), jnp.asarray(start)))
    expected = start.copy()
    for i in range(60):
        values = [
            at_centers(distances, np.concatenate([expected[:i], [k], expected[i + 1 :]]))
            for k in range(5)
        ]
        if min(values) < values[expected[i]] * (1 - 1e-9):
            expected[i] = np.argmin(values)
    np.testing.assert_array_equal(found, expected)
    assert at_centers(distances, found) < at_centers(distances, start)


def test_of_equal_clusters_the_first_and_staying_before_moving():
    distances = jnp.array([[4.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(reassign(distances, jnp.array([0, 2])), [1, 2])


def test_all_empty_clusters_are_filled_by_the_farthest_points():
    own = jnp.array([1.0, 5.0, 3.0, 9.0, 7.0])
    # The farthest is alone, and stays.
    found = fill_empty(own, jnp.array([2, 2, 2, 4, 2]), 5)
    np.testing.assert_array_equal(found, [2, 1, 3, 4, 0])
    np.testing.assert_array_equal(fill_empty(own[:3], jnp.array([1, 1, 1]), 2), [1, 0, 1])
    np.testing.assert_array_equal(fill_empty(own[:2], jnp.array([1, 0]), 2), [1, 0])


def test_what_is_returned_is_that_of_the_gradients(x64):
    params, data = problem(90)
    points = gradients_as_points(params, data)
    found = exact(params, data, 7)
    assignments = np.asarray(found.assignments)
    np.testing.assert_array_equal(found.sizes, np.bincount(assignments, minlength=7))
    means = np.stack([points[assignments == k].mean(0) for k in range(7)])
    np.testing.assert_allclose(flat_centers(found.centers), means, rtol=1e-10, atol=1e-13)
    spreads = [np.sum((points[assignments == k] - means[k]) ** 2) for k in range(7)]
    np.testing.assert_allclose(found.spreads, spreads, rtol=1e-10)
    np.testing.assert_allclose(found.objective, oracles.pairwise(points, assignments), rtol=1e-10)


def test_params_in_half_precision():
    """Means are float32: rounded, they would be as far off as the members are from each other."""
    x = np.repeat([2.9, 3.1], 10)[:, None] + 0.05 * np.random.default_rng(0).normal(size=(20, 3))
    x = jnp.asarray(x, jnp.float32)
    found = clustering.gradient_clusters(
        lambda params, example: jnp.dot(params, example), jnp.ones(3, jnp.bfloat16), x, 2, key=KEY,
        method="exact", init=np.arange(20) // 10,
    )  # fmt: skip
    assert found.centers.dtype == jnp.float32
    wanted = clustering.objective(x, found.assignments, 2)
    np.testing.assert_allclose(found.objective, wanted, rtol=1e-3)


def test_data_in_half_precision():
    """As of the same numbers in float32; an operation that takes one dtype takes the wider one."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(20, 1, 5, 5)), jnp.bfloat16)
    params = {"kernel": jnp.asarray(rng.normal(size=(2, 1, 3, 3)), jnp.bfloat16)}

    def convolutional(params, x):
        out = jax.lax.conv_general_dilated(x[None], params["kernel"], (1, 1), "VALID")
        return jnp.sum(out.astype(jnp.float32) ** 2)

    run = lambda loss_fn, params, x: clustering.gradient_clusters(
        loss_fn, params, x, 3, key=KEY, method="exact", init=np.arange(20) % 3
    )
    as_float32 = lambda tree: jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)
    found = run(convolutional, params, x)
    wanted = run(convolutional, as_float32(params), as_float32(x))
    np.testing.assert_array_equal(found.assignments, wanted.assignments)
    np.testing.assert_allclose(found.objective, wanted.objective, rtol=1e-6)
    narrow = lambda params, x: convolutional(params, x.astype(jnp.bfloat16))
    with pytest.raises(TypeError, match="loss_fn must take params and data in float32"):
        run(narrow, params, x)


@pytest.mark.slow
def test_no_pass_raises_the_objective_and_it_ends_near_that_of_single_moves():
    params, data = problem()
    points = gradients_as_points(params, data)
    start = np.random.default_rng(2).integers(0, 9, 150)  # cluster 9 is empty
    values = [oracles.pairwise(points, start)]
    for passes in (1, 2, 3, 4, 30):
        found = exact(params, data, 10, init=start, max_passes=passes)
        values.append(float(found.objective))
        assert np.all(found.sizes > 0)
        assert found.num_passes <= passes
    assert np.all(np.diff(values) <= 1e-5 * values[0])
    assert found.converged
    by_moves = clustering.fit(points, 10, key=KEY, tolerance=0.0)
    assert values[-1] <= 1.15 * by_moves.objective


@pytest.mark.slow
def test_the_size_of_a_batch_changes_nothing():
    params, data = problem()
    expected = exact(params, data, 10, max_passes=3)
    found = exact(params, data, 10, max_passes=3, batch_size=150)
    np.testing.assert_array_equal(found.assignments, expected.assignments)


def test_a_warm_start_ends_where_it_began():
    params, data = problem()
    first = exact(params, data, 10, max_passes=100)
    again = exact(params, data, 10, init=first.assignments, tolerance=1e-3)
    assert again.num_passes == 1
    np.testing.assert_array_equal(again.assignments, first.assignments)


def test_copies_leave_no_cluster_empty():
    # For a copy its own center is the best, yet five of ten clusters would have no member.
    params, data = problem(5)
    data = jax.tree.map(lambda leaf: jnp.tile(leaf, (30, *[1] * (leaf.ndim - 1))), data)
    found = exact(params, data, 10, init=np.tile(np.arange(5), 30), max_passes=1)
    assert np.all(found.sizes > 0)
    assert np.sum(found.sizes) == 150
