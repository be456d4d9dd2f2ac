"""Batches of one cluster: unbiased, of the variance that is told, and their control variate."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxrobust import optim, sampling, training

ASSIGNMENTS = np.array([0, 0, 2, 2, 2, 2, 0, 3])  # cluster 1 is empty
GRADIENTS = np.random.default_rng(0).normal(size=(8, 3)) + 1.0
BATCH = 2


def draws(num_keys: int, number: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Indices (num_keys, B) and clusters of one draw, with many keys."""
    sampler = sampling.one_cluster(ASSIGNMENTS, BATCH)

    def one(key):
        state = sampler.init(key)
        for _ in range(number):
            _, state = sampler.next(state)
        draw, _ = sampler.next(state)
        return draw.indices, sampler.cluster(state)

    found = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), num_keys))
    return np.asarray(found[0]), np.asarray(found[1])


def batches() -> Any:
    """All batches, and the probability of each."""
    shares = np.bincount(ASSIGNMENTS) / 8
    for cluster in (0, 2, 3):
        members = np.flatnonzero(cluster == ASSIGNMENTS)
        for i in members:
            for j in members:
                yield shares[cluster] / len(members) ** 2, (i, j)


@pytest.mark.parametrize("number", [0, 3])
def test_all_batches_are_as_likely_as_they_should_be(number):
    """And of the cluster that is told."""
    indices, clusters = draws(6000, number)
    np.testing.assert_array_equal(ASSIGNMENTS[indices], clusters[:, None] * np.ones((1, 2), int))
    chances = {batch: chance for chance, batch in batches()}
    assert sum(chances.values()) == pytest.approx(1)
    counts = dict.fromkeys(chances, 0)
    for row in indices:
        counts[tuple(row)] += 1
    expected = [6000 * chance for chance in chances.values()]
    assert scipy.stats.chisquare(list(counts.values()), expected).pvalue > 1e-3


@pytest.mark.parametrize("gram", [False, True])
def test_unbiased_and_of_the_variance_that_is_told(gram):
    """By all batches."""
    found = [(chance, GRADIENTS[list(batch)].mean(axis=0)) for chance, batch in batches()]
    mean = sum(chance * value for chance, value in found)
    np.testing.assert_allclose(mean, GRADIENTS.mean(axis=0), rtol=1e-12)
    wanted = sum(chance * np.sum((value - mean) ** 2) for chance, value in found)
    sampler = sampling.one_cluster(ASSIGNMENTS, BATCH)
    given = GRADIENTS @ GRADIENTS.T if gram else GRADIENTS
    given = jnp.asarray(given, jnp.float32)
    np.testing.assert_allclose(sampling.variance(given, sampler, gram=gram), wanted, rtol=1e-5)


def test_the_same_everywhere():
    """Eager, compiled, and with assignments that are spread over devices."""
    draw, state = (sampler := sampling.one_cluster(ASSIGNMENTS, BATCH)).next(
        sampler.init(jax.random.key(3))
    )
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    with jax.set_mesh(mesh):
        spread = jax.device_put(jnp.asarray(ASSIGNMENTS), rows)

        def first(assignments, key):
            sampler = sampling.one_cluster(assignments, BATCH, num_clusters=4)
            return sampler.next(sampler.init(key))

        found = jax.jit(first)(spread, jax.random.key(3))
    chex.assert_trees_all_equal(jax.device_get(found[0]), jax.device_get(draw))
    assert found[1].step == state.step == 1


def test_in_training_with_its_control_variate(tmp_path):
    """With one gradient in each cluster it is exact in the limit; without it, noise is left.

    And a resumed run is the run that was not interrupted.
    """
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 6)
    x = jnp.asarray(np.array([[1.0, 0], [0, 1], [1, 1], [1, -1]])[labels], jnp.float32)
    y = jnp.asarray(rng.normal(size=4)[labels], jnp.float32)  # no w fits them all
    loss = lambda w, example: (example[0] @ w - example[1]) ** 2
    best = np.linalg.lstsq(np.asarray(x), np.asarray(y), rcond=None)[0]
    sampler = sampling.one_cluster(labels, 2)
    variate = optim.cluster_control_variate(4, sampler.shares)
    extras = lambda state, batch, weights: {"cluster": state.sampler.cluster(state.sampler_state)}
    errors = {}
    for name, optimizer, more in (
        ("with", optax.chain(variate, optax.sgd(0.05)), extras),
        ("without", optax.sgd(0.05), None),
    ):
        state = training.init(jnp.zeros(2), optimizer, sampler, key=jax.random.key(0))
        after, _ = training.train(loss, optimizer, state, (x, y), 1500, extras=more)
        errors[name] = float(jnp.linalg.norm(after.params - best))
        if name == "with":
            half, _ = training.train(loss, optimizer, state, (x, y), 700, extras=more)
            training.save(tmp_path, half)
            resumed = training.restore(tmp_path, state)
            again, _ = training.train(loss, optimizer, resumed, (x, y), 1500, extras=more)
            np.testing.assert_array_equal(again.params, after.params)
    assert errors["with"] < 1e-4 < 1e-2 < errors["without"]


def test_bad_input():
    cases: Any = (
        ((np.array([0, -1]), 2), {}, "assignments must be in 0"),
        ((np.array([0, 5]), 2), {"num_clusters": 3}, r"assignments must be in 0\.\.2"),
        ((np.zeros((2, 2), int), 2), {}, r"assignments must be of shape \(N,\)"),
        (([], 2), {}, r"assignments must be of shape \(N,\), got \(0,\)"),
        ((ASSIGNMENTS, 0), {}, "batch_size must be"),
        ((ASSIGNMENTS, 2), {"num_clusters": 0}, "num_clusters must be"),
    )
    for arguments, options, message in cases:
        with pytest.raises(ValueError, match=message):
            sampling.one_cluster(*arguments, **options)
    with pytest.raises(TypeError, match="assignments must be integers"):
        sampling.one_cluster(np.zeros(3), 2)
    with pytest.raises(ValueError, match="num_clusters must be given when assignments are traced"):
        jax.jit(lambda a: sampling.one_cluster(a, 2).sizes)(ASSIGNMENTS)
    sampler: Any = sampling.one_cluster(ASSIGNMENTS, 2)
    with pytest.raises(TypeError, match="sampler must be a Sampler, got ClusterSampler"):
        sampling.restrict(sampler, jnp.arange(2))
