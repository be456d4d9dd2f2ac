"""The published method: its algebra against gradients, its steps, and what is known of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import clustering, per_example
from jaxrobust.clustering import _rank_one as rank_one
from tests.clustering import oracles
from tests.clustering.problems import gradients_as_points, loss, problem

KEY = jax.random.key(0)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def dense(params, x):
    return jnp.sum(jnp.tanh(jnp.tanh(x @ params["u"]) @ params["v"]) ** 2)


def tied(params, x):
    return jnp.sum(jnp.tanh(jnp.tanh(x @ params["u"]) @ params["u"].T @ params["v"]) ** 2)


def convolution(params, x):
    out = jax.lax.conv_general_dilated(
        x[None], params["w"], (2, 1), [(1, 2), (0, 1)], rhs_dilation=(1, 2), feature_group_count=2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    return jnp.sum(jnp.tanh(out) ** 2)


MATRICES = {"u": normal(5, 4, seed=1), "v": normal(4, 3, seed=2)}
LAYERS = {  # loss, params, one batch of 6
    "dense": (dense, MATRICES, normal(6, 5)),
    "several positions": (dense, MATRICES, normal(6, 7, 5)),
    "tied": (tied, {**MATRICES, "v": normal(5, 3, seed=2)}, normal(6, 2, 5)),
    "convolution": (convolution, {"w": normal(3, 2, 2, 6)}, normal(6, 8, 6, 4)),
}


def dense_centers(centers, params):
    """Centers like the params, leaves ``(K, *leaf)``, and as rows in the order of the params."""
    leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        (center,) = centers[jax.tree_util.keystr(path)]
        products = np.einsum("kgi,kgo->kigo", center.c, center.d)  # groups side by side
        leaves[path[0].key] = products.reshape(-1, *leaf.shape)
    return leaves


@pytest.mark.parametrize("by_positions", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_distances_to_factored_centers(name, by_positions, monkeypatch, x64):
    monkeypatch.setattr(rank_one, "is_cheaper_by_positions", lambda *_: by_positions)
    loss_fn = LAYERS[name][0]
    params, batch = jax.tree.map(jnp.asarray, LAYERS[name][1:])
    factors = per_example.factors(loss_fn)(params, batch)
    draws = rank_one.near_zero(KEY, factors, 3)
    centers = jax.tree.map(lambda leaf: jnp.asarray(normal(*leaf.shape, seed=leaf.size)), draws)
    points = gradients_as_points(params, batch, loss_fn)
    flat = dense_centers(centers, params)
    flat = np.concatenate([flat[name].reshape(3, -1) for name in sorted(flat)], axis=1)
    np.testing.assert_allclose(
        rank_one.inner_products(factors, centers), points @ flat.T, rtol=1e-10, atol=1e-10
    )
    np.testing.assert_allclose(rank_one.squares(centers), np.sum(flat**2, axis=1), rtol=1e-10)
    squared = rank_one.squared_norms(loss_fn, 4, params, batch)
    np.testing.assert_allclose(squared, np.sum(points**2, axis=1), rtol=1e-10)


def test_the_cheaper_of_two_ways():
    # K T (I+O+1) against T I O + K I O.
    assert rank_one.is_cheaper_by_positions(64, 1, 784, 256)
    assert not rank_one.is_cheaper_by_positions(64, 1024, 27, 16)
    assert rank_one.is_cheaper_by_positions(1, 1, 1, 1) is False


def test_the_center_misses_the_mean_by_the_cross_covariance(x64):
    params, batch = {"w": jnp.asarray(normal(5, 3))}, jnp.asarray(normal(8, 5))
    square = lambda params, x: jnp.sum(jnp.tanh(x @ params["w"]) ** 2)
    factors = per_example.factors(square)(params, batch)
    members = jnp.ones((8, 1))
    ((center,),) = jax.tree.map(lambda s: s / 8, rank_one.factor_sums(factors, members)).values()
    a, d = (np.asarray(f)[:, 0, 0] for f in factors["['w']"][0])
    mean = gradients_as_points(params, batch, square).mean(0).reshape(5, 3)
    product = np.outer(center.c[0, 0], center.d[0, 0])
    cross = (a - a.mean(0)).T @ (d - d.mean(0)) / 8
    np.testing.assert_allclose(mean - product, cross, atol=1e-13)
    # The best of rank one is what singular vectors give.
    u, s, v = np.linalg.svd(mean)
    best = np.linalg.norm(mean - s[0] * np.outer(u[:, 0], v[0]))
    assert best <= np.linalg.norm(mean - product)


def test_the_center_of_a_sequence_and_of_a_convolution():
    a, d = normal(2, 2, 3, 4), normal(2, 2, 3, 5)
    (found,) = rank_one.factor_sums((per_example.Factors(jnp.array(a), jnp.array(d)),), jnp.eye(2))
    np.testing.assert_allclose(found.c, a.mean(2), rtol=1e-5)  # 1/T once
    np.testing.assert_allclose(found.d, d.sum(2), rtol=1e-5)


def test_running_counts():
    distances = np.random.default_rng(0).gamma(1.0, size=(50, 4))
    counts, expected = np.zeros(4), []
    for distance in distances:
        expected.append(np.argmin((counts + 1) * distance))
        counts[expected[-1]] += 1
    np.testing.assert_array_equal(rank_one.assign_running(jnp.asarray(distances)), expected)
    np.testing.assert_array_equal(rank_one.assign_running(jnp.ones((5, 3))), [0, 1, 2, 0, 1])


@pytest.mark.slow
def test_the_largest_share_of_the_distortion_is_split():
    distances = jnp.array([1.0] * 6 + [10.0] + [3.0] * 5)[:, None] * jnp.ones((1, 4))
    assignments = jnp.array([0] * 6 + [1] + [2] * 5)  # shares 36, 10 (one member), 75; 3 is empty
    found = np.asarray(rank_one.split_largest(KEY, distances, assignments, 1))
    np.testing.assert_array_equal(np.bincount(found), [6, 1, 3, 2])
    assert np.all(found[np.asarray(found) != np.asarray(assignments)] == 3)
    other = np.asarray(rank_one.split_largest(jax.random.key(5), distances, assignments, 1))
    assert np.any(other != found)
    same = rank_one.split_largest(KEY, distances[:, :3], assignments, 1)
    np.testing.assert_array_equal(same, assignments)


def clusters(params, data, num_clusters=10, **options):
    options = {"batch_size": 64, **options}
    return clustering.gradient_clusters(
        loss, params, data, num_clusters, key=KEY, method="rank1", **options
    )


def test_what_is_returned_belongs_together(x64):
    params, data = problem()
    found = clusters(params, data)
    points = gradients_as_points(params, data)
    flat = dense_centers(found.centers, params)
    centers = np.concatenate([flat[name].reshape(10, -1) for name in ("u", "v")], axis=1)
    assignments = np.asarray(found.assignments)
    distances = np.sum((points - centers[assignments]) ** 2, axis=1)
    spreads = np.bincount(assignments, distances, minlength=10)
    np.testing.assert_allclose(found.spreads, spreads, rtol=1e-10)
    np.testing.assert_array_equal(found.sizes, np.bincount(assignments, minlength=10))
    np.testing.assert_allclose(found.objective, np.sum(found.sizes * spreads), rtol=1e-10)
    assert found.objective >= oracles.pairwise(points, assignments)  # of all centers the mean
    assert found.num_passes == 10


def test_the_last_batch_counts_as_the_others(x64):  # centers near zero: nearly equal distances
    # Gradients of a mean over the batch are larger in a smaller batch: 150 = 2 * 64 + 22.
    params, data = problem()
    found, whole = clusters(params, data), clusters(params, data, batch_size=150)
    np.testing.assert_array_equal(found.assignments, whole.assignments)
    np.testing.assert_allclose(found.objective, whole.objective, rtol=1e-5)


@pytest.mark.slow
def test_running_counts_lower_the_variance_and_frozen_sizes_raise_it():
    params, data = problem()
    points = gradients_as_points(params, data)
    start = np.random.default_rng(0).permutation(150) % 10
    uniform = 150 * np.sum((points - points.mean(0)) ** 2) / 10  # N^2 times that of 10 draws
    value = lambda found: oracles.pairwise(points, np.asarray(found.assignments))
    assert value(clusters(params, data, init=start)) < uniform
    frozen = [
        value(clusters(params, data, init=start, assignment="frozen", max_passes=passes))
        for passes in (1, 2, 3, 10)
    ]
    assert max(np.diff(frozen)) > 0
    assert frozen[-1] > uniform


def test_copies_have_exact_centers():
    params, data = problem(10)
    data = jax.tree.map(lambda leaf: jnp.tile(leaf, (15, *[1] * (leaf.ndim - 1))), data)
    groups = np.tile(np.arange(10), 15)
    found = clusters(params, data, init=groups, max_passes=1)
    np.testing.assert_array_equal(found.assignments, groups)
    scale = np.sum(gradients_as_points(params, data) ** 2)
    assert found.objective <= 1e-5 * scale


def test_a_warm_start_goes_on():
    params, data = problem()
    two = clusters(params, data, max_passes=2)
    one = clusters(params, data, max_passes=1)
    again = clusters(params, data, max_passes=1, init=one.assignments)
    np.testing.assert_array_equal(again.assignments, two.assignments)


def test_what_it_cannot_do():
    params, data = problem(20)
    bias = lambda params, example: jnp.sum((params["b"] + example) ** 2)
    with pytest.raises(ValueError, match="'rank1' needs a leaf of params that is used in products"):
        clustering.gradient_clusters(bias, {"b": jnp.ones(8)}, data[0], 3, key=KEY, method="rank1")
    overlapping = lambda w, x: jnp.sum(jnp.tanh(x[:3] @ w[:3])) + jnp.sum(jnp.tanh(x[:3] @ w[1:4]))
    with pytest.raises(ValueError, match="'rank1' cannot do params: it is used in different arr"):
        clustering.gradient_clusters(
            overlapping, jnp.ones((4, 2)), data[0], 3, key=KEY, method="rank1"
        )
    for options, message in (
        ({"init": "k-means++"}, "init must be one of .'zero',. or assignments"),
        ({"assignment": "lagged"}, "assignment must be 'running' or 'frozen', got 'lagged'"),
        ({"min_size": 21}, "min_size must be an integer in 1..20"),
        ({"max_passes": 0}, "max_passes must be"),
    ):
        with pytest.raises(ValueError, match=message):
            clusters(params, data, 3, **options)
    with pytest.raises(TypeError, match="tolerance"):
        clusters(params, data, 3, tolerance=0.1)
