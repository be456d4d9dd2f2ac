"""Clusters of gradients, against clusters of the gradients themselves."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import clustering, per_example
from jaxrobust.clustering._batches import map_batches, sum_batches, sum_by_cluster
from jaxrobust.trees import _programs
from tests.clustering.problems import gradients_as_points, loss, problem

KEY = jax.random.key(0)
METHODS: tuple[Any, ...] = ("sketch", "exact", "rank1", "gram")


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


def test_gram_of_large_gradients():
    """Whose squared norms are finite, but not the squares of these."""
    x = 1e9 * np.random.default_rng(0).normal(size=(30, 3))
    found = clustering.gradient_clusters(
        lambda params, example: jnp.dot(params, example), jnp.ones(3), jnp.asarray(x, jnp.float32),
        4, key=KEY, method="gram",
    )  # fmt: skip
    again = clustering.objective(jnp.asarray(x, jnp.float32), found.assignments, 4)
    np.testing.assert_allclose(found.objective, again, rtol=1e-3)


def test_a_sketch_reads_every_example_once():
    """And `rank1` as often as its passes say: what a refresh costs."""
    params, data = problem(60)
    read = []

    def counted(params, example):
        jax.debug.callback(lambda: read.append(20))  # once for a whole batch
        return loss(params, example)

    def reads(method, **options):
        read.clear()
        found = clustering.gradient_clusters(
            counted, params, data, 5, key=KEY, method=method, batch_size=20, **options
        )
        jax.block_until_ready(found)
        jax.effects_barrier()
        return sum(read)

    assert reads("sketch") == 60
    # The norms, and two for every pass: distances and factors; distances to the first centers.
    assert reads("rank1", max_passes=3) == 60 * (1 + 1 + 3 * 2)


def test_sketches_find_clusters_nearly_as_good():
    params, data = problem()
    points = gradients_as_points(params, data)
    exact = clustering.fit(points, 10, key=KEY, tolerance=0.0).objective
    found = clustering.gradient_clusters(loss, params, data, 10, key=KEY, tolerance=0.0)
    assert found.centers.shape == (10, 256)
    # Leaves of 96 and 48 entries are kept whole in 256 numbers but meet each other at random.
    assert clustering.objective(points, found.assignments, 10) <= 1.1 * exact
    np.testing.assert_allclose(found.objective, exact, rtol=0.15)


def test_landmarks_make_sketches_exact_where_they_span_the_gradients():
    params, data = problem(50)
    points = gradients_as_points(params, data)
    gram = np.asarray(points, np.float64) @ np.asarray(points, np.float64).T
    sketches = functools.partial(clustering.gradient_sketches, loss, params, data, key=KEY)
    error = lambda s: np.linalg.norm(np.asarray(s @ s.T) - gram) / np.linalg.norm(gram)
    assert error(sketches(dim=50, num_landmarks=50, batch_size=16)) < 1e-5
    errors = [error(sketches(dim=40, num_landmarks=n, batch_size=16)) for n in (0, 10, 30)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    # By default a quarter of the numbers, where they cost less than the gradient.
    many = jax.tree.map(lambda leaf: jnp.tile(leaf, (3, *[1] * (leaf.ndim - 1))), data)
    for dim, number in ((16, 4), (256, 0)):
        found, expected = (
            clustering.gradient_sketches(loss, params, many, key=KEY, dim=dim, num_landmarks=wanted)
            for wanted in (None, number)
        )
        np.testing.assert_array_equal(found, expected)


def test_examples_with_keys_have_sketches():
    params, data = problem(20)
    keys = jax.random.split(KEY, 20)
    noisy = lambda params, example: loss(params, example[0]) * jax.random.uniform(example[1])
    found = clustering.gradient_clusters(noisy, params, (data, keys), 3, key=KEY, dim=16)
    assert np.isfinite(found.objective)


def test_copies_have_one_cluster():
    params, data = problem(6)
    data = jax.tree.map(lambda leaf: jnp.tile(leaf, (9, *[1] * (leaf.ndim - 1))), data)
    for method in ("sketch", "exact", "gram"):
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
    total = lambda batch, weights: jnp.sum(weights * double(batch))
    assert sum_batches(total, data, batch_size) == 100
    assignments = jnp.array([3, 0, 0, 3, 0, 1, 3, 0, 0, 0])  # none in cluster 2
    found = sum_by_cluster(total, data, assignments, 4, batch_size)
    expected = np.bincount(assignments, 2 * np.arange(10) + 1, minlength=4)
    np.testing.assert_array_equal(found, expected)


def test_a_warm_start():
    params, data = problem()
    first = clustering.gradient_clusters(loss, params, data, 5, key=KEY, tolerance=0.0)
    again = clustering.gradient_clusters(loss, params, data, 5, key=KEY, init=first.assignments)
    assert again.num_passes == 1


@pytest.mark.parametrize("method", METHODS)
def test_a_refresh_compiles_nothing(method):
    params, data = problem(20)
    traces = []

    def counting(params, example):
        traces.append(1)
        return loss(params, example)

    for number, key in enumerate(jax.random.split(KEY, 3)):
        changed = jax.tree.map(lambda leaf, by=number: leaf + by, params)
        clustering.gradient_clusters(counting, changed, data, 3, key=key, method=method)
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
    wrong_numbers: tuple[Any, ...] = (-1, 21, 2.5, True)
    for number in wrong_numbers:
        with pytest.raises(ValueError, match=r"num_landmarks must be an integer in 0\.\.20"):
            clustering.gradient_sketches(loss, params, data, key=KEY, num_landmarks=number)
    with pytest.raises(ValueError, match="num_clusters must be an integer in 1..20"):
        clustering.gradient_clusters(loss, params, data, 21, key=KEY)
    for wrong in ((data[0], data[1][:19]), (data[0][:0], data[1][:0]), (), (data[0], 1)):
        with pytest.raises(ValueError, match="data must have arrays"):
            clustering.gradient_clusters(loss, params, wrong, 3, key=KEY)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("init", [None, np.zeros(20, int)])
def test_gradients_that_are_not_finite_are_named(method, init):
    params, data = problem(20)
    options = {} if init is None else {"init": init}
    broken = (data[0].at[3, 0].set(jnp.nan).at[11, 2].set(jnp.inf), data[1])
    with pytest.raises(ValueError, match="gradients must be finite; 2 of 20 are not: 3, 11"):
        clustering.gradient_clusters(
            loss, params, broken, 3, key=KEY, method=method, batch_size=8, **options
        )


def test_sketches_batch_by_batch_are_the_same(monkeypatch):
    """How losses with convolutions are sketched on a CPU."""
    params, data = problem(50)
    sketches = lambda: clustering.gradient_sketches(
        loss, params, data, key=KEY, dim=16, batch_size=16
    )
    looped = sketches()
    monkeypatch.setattr(per_example, "slow_in_loops", lambda loss_fn: lambda params, data: True)
    np.testing.assert_allclose(sketches(), looped, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["exact", "rank1"])
def test_convolutions_looped_over_in_python_change_nothing(method, monkeypatch):
    """On a CPU; under `jit` the same loops are compiled."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(30, 1, 6, 6)), jnp.float32)
    params = {"kernel": jnp.asarray(rng.normal(size=(2, 1, 3, 3)), jnp.float32)}

    def convolutional(params, x):
        out = jax.lax.conv_general_dilated(x[None], params["kernel"], (1, 1), "VALID")
        return jnp.sum(jnp.tanh(out) ** 2)

    def clusters(params, x):
        return clustering.gradient_clusters(
            convolutional, params, x, 4, key=KEY, method=method, batch_size=8, max_passes=3
        )

    cuts, cut = [], _programs._cut
    monkeypatch.setattr(_programs, "_cut", lambda closed: cuts.append(cut(closed)) or cuts[-1])
    looped = clusters(params, x)
    if jax.default_backend() == "cpu":
        assert len(cuts) >= 2
        assert all(cuts)  # the norms, and the passes
    compiled = jax.jit(clusters)(params, x)
    np.testing.assert_array_equal(looped.assignments, compiled.assignments)
    np.testing.assert_allclose(looped.objective, compiled.objective, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_single_precision_stays_so_where_double_is_there(method, x64):
    params, (x, labels) = problem(40)
    single = jax.tree.map(jnp.float32, (params, x))
    found = clustering.gradient_clusters(
        loss, single[0], (single[1], labels), 3, key=KEY, method=method
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(found.centers)} == {jnp.dtype("float32")}
    assert found.sizes.sum() == 40
