"""Clusters of a stream: the decayed sums by their definition, and streams that change."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import clustering

KEY = jax.random.key(0)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def expected_update(state, points, decay, objective):
    """One update without a split, point by point."""
    sizes, spreads = decay * np.asarray(state.sizes), decay * np.asarray(state.spreads)
    old = np.asarray(state.centers)
    sums = sizes[:, None] * old
    assignments = []
    for point in points:
        distances = np.sum((point - old) ** 2, axis=1)
        joined = (sizes + 1 - decay) * (spreads + (1 - decay) * distances) - sizes * spreads
        k = int(np.argmin(joined if objective == "pairwise" else distances))
        assignments.append(k)
        sizes[k] += 1 - decay
        spreads[k] += (1 - decay) * distances[k]
        sums[k] += (1 - decay) * point
    centers = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1e-300)[:, None], old)
    return sizes, centers, spreads, assignments


@pytest.mark.parametrize("objective", ["pairwise", "kmeans"])
@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_updates_are_their_definition(objective, decay, x64):
    method = clustering.online(5, decay=decay, min_size=0.0, objective=objective)
    state = method.init(KEY, jnp.asarray(normal(30, 3)))
    for seed in range(1, 5):
        points = normal(40, 3, seed=seed)
        expected = expected_update(state, points, decay, objective)
        state, assignments = method.update(state, jnp.asarray(points))
        np.testing.assert_allclose(state.sizes, expected[0], rtol=1e-12)
        np.testing.assert_allclose(state.centers, expected[1], rtol=1e-10)
        np.testing.assert_allclose(state.spreads, expected[2], rtol=1e-10)
        np.testing.assert_array_equal(assignments, expected[3])
        assert state.step == seed
    if decay == 0:  # all that is known is the last batch
        for k in np.unique(assignments):
            mean = points[np.asarray(assignments) == k].mean(0)
            np.testing.assert_allclose(state.centers[k], mean, rtol=1e-12)


def run(method, batches, key=KEY):
    """The last state, and the assignments of every batch."""
    batches = jnp.asarray(batches, jnp.float32)
    return jax.jit(lambda b: jax.lax.scan(method.update, method.init(key, b[0]), b))(batches)


def test_a_constant_stream_converges_to_its_means():
    points = normal(60, 4) + 5 * np.repeat(normal(3, 4, seed=1), 20, axis=0)
    batches = np.broadcast_to(points, (400, 60, 4))
    state, assignments = run(clustering.online(3, decay=0.95, objective="kmeans"), batches)
    last = np.asarray(assignments[-1])
    for k in range(3):
        np.testing.assert_allclose(state.centers[k], points[last == k].mean(0), rtol=1e-3)
    np.testing.assert_allclose(state.sizes, np.bincount(last, minlength=3), rtol=1e-3)
    squares = np.sum((points - np.asarray(state.centers)[last]) ** 2, axis=1)
    np.testing.assert_allclose(state.spreads, np.bincount(last, squares), rtol=1e-3)


def test_sizes_add_up_to_the_decayed_number_of_points():
    method = clustering.online(4, decay=0.8)
    state = method.init(KEY, normal(50, 2))
    total = 50.0
    for seed in range(6):
        state, _ = method.update(state, normal(10, 2, seed=seed))
        total = 0.8 * total + 0.2 * 10
        np.testing.assert_allclose(np.sum(state.sizes), total, rtol=1e-5)


def mixture(heads, num_points, seed):
    rng = np.random.default_rng(seed)
    which = rng.integers(0, len(heads), num_points)
    return heads[which] + 0.3 * rng.normal(size=(num_points, heads.shape[1])), which


def purity(assignments, truth):
    """Share of points whose cluster is mostly of their own kind."""
    kinds = [truth[assignments == k] for k in np.unique(assignments)]
    return sum(np.max(np.bincount(kind)) for kind in kinds) / len(truth)


@pytest.mark.parametrize("objective", ["pairwise", "kmeans"])
def test_a_mixture_that_drifts_is_followed(objective):
    begin, end = 4 * normal(4, 5), 4 * normal(4, 5, seed=1)
    heads = [begin + (end - begin) * min(1, t / 250) for t in range(300)]
    batches, truth = zip(*(mixture(h, 32, seed) for seed, h in enumerate(heads)), strict=True)
    method = clustering.online(4, decay=0.8, objective=objective)
    state, assignments = run(method, np.stack(batches))
    late = np.asarray(assignments[-20:]).reshape(-1)
    assert purity(late, np.concatenate(truth[-20:])) > 0.98
    nearest = np.min(np.sum((end[:, None] - np.asarray(state.centers)[None]) ** 2, -1), axis=1)
    assert np.max(np.sqrt(nearest)) < 0.5  # of a mean of about 40 points: 0.3 sqrt(5/40) = 0.1


@pytest.mark.slow
def test_a_cluster_without_points_is_given_to_where_they_are():
    first, then = np.zeros((1, 3)), 8 * normal(3, 3)  # all seeds in one heap, then there are three
    batches = [mixture(first, 30, 0)[0]] * 2 + [mixture(then, 30, s)[0] for s in range(100)]
    truth = mixture(then, 30, 99)[1]

    def at_the_end(min_size):
        method = clustering.online(3, decay=0.8, min_size=min_size, objective="kmeans")
        return purity(np.asarray(run(method, np.stack(batches))[1][-1]), truth)

    assert at_the_end(0.05) == 1
    assert at_the_end(0.0) < 1


def test_a_split_halves_and_forgets_the_smallest():
    method = clustering.online(3, decay=0.5, min_size=0.1, objective="kmeans")
    state = method.init(KEY, np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 90.0]]))
    order = np.argsort(np.sum(np.asarray(state.centers), axis=1))
    state = state._replace(sizes=jnp.asarray([8.0, 4.0, 0.1])[np.argsort(order)])
    points = np.array([[0.0, 1.0], [0.0, -1.0], [11.0, 0.0], [9.0, 0.0], [10.0, 3.0]])
    after, assignments = method.update(state, points)
    np.testing.assert_array_equal(assignments, order[[0, 0, 1, 1, 1]])
    sizes, spreads, centers = (np.asarray(leaf)[order] for leaf in (after[0], after[2], after[1]))
    np.testing.assert_allclose(sizes, [4 + 1, 3.5 / 2, 3.5 / 2])
    np.testing.assert_allclose(spreads, [1, 5.5 / 2, 5.5 / 2])
    mean = (2 * np.array([10.0, 0]) + 1.5 * np.array([10.0, 1.0])) / 3.5
    np.testing.assert_allclose((centers[1] + centers[2]) / 2, mean, rtol=1e-5)
    apart = np.linalg.norm(centers[1] - centers[2])
    np.testing.assert_allclose(apart, 0.2 * np.sqrt(5.5 / 3.5), rtol=1e-4)


def test_the_key_decides_and_scan_changes_nothing():
    batches = np.stack([normal(20, 3, seed=s) * (1 + s) for s in range(6)]).astype(np.float32)
    method = clustering.online(6, decay=0.3, min_size=0.15)
    state, assignments = method.init(KEY, batches[0]), []
    for batch in batches:
        state, assigned = method.update(state, batch)
        assignments.append(assigned)
    scanned, several = run(method, batches)
    np.testing.assert_array_equal(several, np.stack(assignments))
    np.testing.assert_allclose(scanned.centers, state.centers, rtol=1e-5, atol=1e-6)
    other, _ = run(method, batches, jax.random.key(1))
    assert np.any(np.asarray(other.centers) != np.asarray(scanned.centers))


def test_bad_input():
    options: list[tuple[dict[str, Any], str]] = [
        ({"decay": 1.0}, "decay must be a number in 0..1, and less than 1, got 1.0"),
        ({"decay": np.nan}, "decay must be a number"),
        ({"min_size": -0.1}, "min_size must be a number"),
        ({"objective": "medoids"}, "objective must be one of"),
        ({"num_clusters": 0}, "num_clusters must be an integer"),
    ]
    for option, message in options:
        with pytest.raises(ValueError, match=message):
            clustering.online(**{"num_clusters": 3, **option})
    method = clustering.online(3)
    with pytest.raises(ValueError, match="num_clusters must be an integer in 1..2"):
        method.init(KEY, normal(2, 4))
    state = method.init(KEY, normal(5, 4))
    with pytest.raises(ValueError, match=r"points must be of shape \(n, 4\), as those of init"):
        method.update(state, normal(5, 3))
    with pytest.raises(ValueError, match="points must be finite; 1 of 2 are not: 1"):
        method.update(state, np.array([[0.0] * 4, [np.inf] * 4]))
