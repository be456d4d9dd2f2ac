"""Cluster means as control variates: unbiased over all draws, exact where clusters are tight."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import optim, sampling
from tests.optim import docstrings

SIZES = np.array([2, 3, 1])
SHARES = SIZES / SIZES.sum()
DRAWN = np.array([0.2, 0.3, 0.5])  # not by their shares
RNG = np.random.default_rng(0)
GRADIENTS = [RNG.normal(size=(n, 4)) + RNG.normal(size=4) for n in SIZES]
MEAN = sum(p * g.mean(0) for p, g in zip(SHARES, GRADIENTS, strict=True))


def _variate(**kwargs) -> Any:
    return optim.cluster_control_variate(3, SHARES, **kwargs)


def _after(visits, tx) -> Any:
    """The state after updates with the gradients of given clusters; compiled once per transform."""
    state, update = tx.init(jnp.zeros(4)), jax.jit(tx.update)
    for cluster, gradient in visits:
        _, state = update(jnp.asarray(gradient), state, cluster=cluster)
    return state


def _draws(batch_size):
    """All (cluster, mean gradient of a batch, probability, weight) of one step."""
    for k, members in enumerate(GRADIENTS):
        for batch in itertools.product(range(len(members)), repeat=batch_size):
            probability = DRAWN[k] / len(members) ** batch_size
            yield k, members[list(batch)].mean(0), probability, SHARES[k] / DRAWN[k]


# --- the estimator --------------------------------------------------------------------------------


@pytest.mark.parametrize("visited", [(), (1,), (0, 1, 2, 0)], ids=str)
def test_unbiased_with_the_stated_variance(visited, x64):
    """By enumeration of cluster and members, whatever has been seen, drawn by other shares."""
    tx = _variate(decay=0.5)
    state = _after([(k, RNG.normal(size=4)) for k in visited], tx)
    clusters, gradients, probabilities, weights = map(np.array, zip(*_draws(2), strict=True))
    update = jax.vmap(lambda u, k, w: tx.update(u, state, cluster=k, weight=w)[0])
    found = np.asarray(update(gradients, clusters, weights))
    mean = probabilities @ found
    np.testing.assert_allclose(mean, MEAN, rtol=1e-13)
    apart = np.array([g.mean(0) for g in GRADIENTS]) - np.asarray(state.table)
    within = np.array([np.mean(np.sum((g - g.mean(0)) ** 2, axis=1)) for g in GRADIENTS])
    expected = np.sum(SHARES**2 / DRAWN * (within / 2 + np.sum(apart**2, axis=1)))
    expected -= np.sum((SHARES @ apart) ** 2)
    variance = probabilities @ np.sum((found - mean) ** 2, axis=1)
    np.testing.assert_allclose(variance, expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_no_variance_where_members_are_identical(dtype):
    """Once all are seen, every draw gives the mean, in the gradient's own precision."""
    gradients = [jnp.asarray(g[0], dtype) for g in GRADIENTS]
    tx = _variate()
    state = tx.init(gradients[0])
    for k in (2, 0, 1):
        _, state = tx.update(gradients[k], state, cluster=k)
    found = np.array([tx.update(gradients[k], state, cluster=k)[0] for k in range(3)])
    np.testing.assert_array_equal(found, np.tile(found[:1], (3, 1)))
    mean = SHARES @ np.array(gradients, np.float64)
    # Half an ulp of the result, and three roundings in float32 of entries up to 3.
    np.testing.assert_allclose(
        np.asarray(found[0], np.float64), mean, rtol=float(jnp.finfo(dtype).eps), atol=1e-6
    )


def test_trajectory(x64):
    """Table, mean and updates of 20 steps are those of a NumPy loop that sums the mean anew."""
    rng, tx, decay = np.random.default_rng(1), _variate(decay=0.3), 0.3
    update = jax.jit(tx.update)
    state, table, seen = tx.init(jnp.zeros(4)), np.zeros((3, 4)), np.zeros(3, bool)
    for _ in range(20):
        k, u = rng.integers(3), rng.normal(size=4)
        found, state = update(u, state, cluster=k, weight=1.5)
        np.testing.assert_allclose(found, 1.5 * (u - table[k]) + SHARES @ table, rtol=1e-11)
        table[k] = decay * table[k] + (1 - decay) * u if seen[k] else u
        seen[k] = True
        np.testing.assert_allclose(state.table, table, rtol=1e-12)
        np.testing.assert_allclose(state.mean, SHARES @ table, rtol=1e-11, atol=1e-14)
        np.testing.assert_array_equal(state.seen, seen)


def test_rounding_errors_do_not_stay_behind():
    """Large gradients, then small ones: an incremental mean alone keeps 1e4 * eps for ever."""
    rng = np.random.default_rng(2)
    tx: Any = optim.cluster_control_variate(3, (0.3, 0.3, 0.4))
    clusters = jnp.asarray(np.arange(303) % 3)
    scale = np.where(np.arange(303) < 300, 1e4, 1e-4)[:, None]
    gradients = jnp.asarray(scale * rng.normal(size=(303, 4)), jnp.float32)

    def step(state, visit):
        return tx.update(visit[0], state, cluster=visit[1])[1], None

    state = jax.lax.scan(step, tx.init(jnp.zeros(4)), (gradients, clusters))[0]
    expected = np.array([0.3, 0.3, 0.4]) @ np.asarray(gradients[-3:], np.float64)
    np.testing.assert_allclose(state.mean, expected, rtol=1e-6, atol=1e-10)


def test_a_table_of_fewer_bits_is_unbiased_too():
    """The mean is that of the rounded values, also between two sums."""
    tx = _variate(table_dtype=jnp.bfloat16)
    state = _after([(k, GRADIENTS[k][0].astype(np.float32)) for k in (0, 1, 2, 0, 1)], tx)
    assert (state.table.dtype, state.mean.dtype) == (jnp.bfloat16, jnp.float32)
    assert state.age == 2
    expected = SHARES @ np.asarray(state.table, np.float64)
    np.testing.assert_allclose(state.mean, expected, rtol=1e-5, atol=1e-6)


def test_a_cluster_out_of_range():
    """Traced it cannot raise: the updates are NaN, and the state is as before."""
    tx = _variate()
    before = _after([(k, GRADIENTS[k][0].astype(np.float32)) for k in range(2)], tx)
    for cluster in (-1, 3):
        updates, after = jax.jit(tx.update)(jnp.ones(4), before, cluster=cluster)
        assert np.all(np.isnan(updates))
        for name in ("table", "mean", "seen"):
            np.testing.assert_allclose(getattr(after, name), getattr(before, name), rtol=1e-6)


def test_a_nan_leaves_with_the_next_batch_of_its_cluster():
    """Without decay, after at most K updates: it is not carried on by the running mean."""
    tx = _variate()
    visits = [(0, np.full(4, np.nan)), *((k, np.ones(4)) for k in (0, 1, 2))]
    state = _after(visits, tx)
    assert np.all(np.isfinite(state.table))
    assert np.all(np.isfinite(state.mean))


def test_the_table_is_sharded_like_the_parameters():
    if len(jax.devices()) < 8:
        pytest.skip("needs 8 devices: XLA_FLAGS=--xla_force_host_platform_device_count=8")
    P, modes = jax.sharding.PartitionSpec, jax.sharding.AxisType
    with jax.set_mesh(jax.make_mesh((8,), ("model",), axis_types=(modes.Explicit,))):
        params, tx = jax.device_put(jnp.ones((2, 16)), P(None, "model")), _variate()
        state = tx.init(params)
        assert jax.typeof(state.table).sharding.spec == P(None, None, "model")
        _, state = jax.jit(tx.update)(params, state, cluster=1)
        assert jax.typeof(state.table).sharding.spec == P(None, None, "model")
        assert jax.typeof(state.mean).sharding.spec == P(None, "model")


def test_proportions_as_a_hyperparameter():
    """As an array in the state of ``inject_hyperparams``; a tuple would be a constant."""
    tx = optax.inject_hyperparams(optim.cluster_control_variate)(3, SHARES)
    state = tx.init(jnp.zeros(4))
    update = jax.jit(lambda u, s, k: tx.update(u, s, jnp.zeros(4), cluster=k))
    _, state = update(jnp.ones(4), state, 1)
    np.testing.assert_allclose(update(jnp.zeros(4), state, 0)[0], SHARES[1], rtol=1e-6)


def test_example_of_the_docstring():
    """Tight clusters: it converges at a constant rate to the mean; SGD does not."""
    data = np.repeat(GRADIENTS[0][:1] + np.array([[0.0], [1.0], [5.0]]), SIZES, axis=0)
    data = data.astype(np.float32)

    def distance(variate):
        names = {"data": data, "assignments": np.repeat(np.arange(3), SIZES), "sampling": sampling}
        names |= {"gradient": lambda w, batch: w - batch.mean(0), "params": jnp.zeros(4)}
        names |= {"num_steps": 100}
        fake = type("fake", (), {"cluster_control_variate": staticmethod(variate)})
        names |= {"np": np, "jax": jax, "optax": optax, "optim": fake}
        exec(docstrings.example(optim.cluster_control_variate), names)
        return float(np.max(np.abs(names["params"] - data.mean(0))))

    assert distance(optim.cluster_control_variate) < 1e-5
    assert distance(lambda *_: optax.with_extra_args_support(optax.identity())) > 0.1


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, ()), "num_clusters must be an integer >= 1"),
        ((1.5, (1.0,)), "num_clusters must be an integer >= 1"),
        ((2, (1.0,)), r"proportions must have shape \(2,\), got \(1,\)"),
        ((2, 0.5), r"proportions must have shape \(num_clusters,\), got \(\)"),
        ((2, (0.5, 0.6)), "proportions must be 0 or more and have the sum 1"),
        ((2, (-0.5, 1.5)), "proportions must be 0 or more and have the sum 1"),
        ((2, (np.nan, 1.0)), "proportions must be 0 or more and have the sum 1"),
    ],
)
def test_bad_clusters(arguments, message):
    with pytest.raises(ValueError, match=message):
        optim.cluster_control_variate(*arguments)


def test_bad_options():
    for decay in (-0.1, 1.0, np.nan):
        with pytest.raises(ValueError, match=r"decay must be in \[0, 1\)"):
            _variate(decay=decay)
    with pytest.raises(TypeError, match="table_dtype must be floating"):
        _variate(table_dtype=jnp.int8)


@pytest.mark.parametrize(
    ("extras", "error", "message"),
    [
        ({}, TypeError, "update needs the keyword cluster: the index"),
        ({"cluster": 1.0}, TypeError, "cluster must be an integer, got float32"),
        ({"cluster": True}, TypeError, "cluster must be an integer, got bool"),
        ({"cluster": np.arange(2)}, ValueError, r"cluster must be a scalar, got shape \(2,\)"),
        ({"cluster": 3}, ValueError, r"cluster must be in 0 \.\.\. 2, got 3"),
        ({"cluster": -1}, ValueError, r"cluster must be in 0 \.\.\. 2, got -1"),
        ({"cluster": 1, "weight": -1.0}, ValueError, "weight must be 0 or more"),
        ({"cluster": 1, "weight": jnp.ones(2)}, ValueError, "weight must be a scalar"),
    ],
)
def test_bad_keywords(extras, error, message):
    tx = _variate()
    with pytest.raises(error, match=message):
        tx.update(jnp.ones(4), tx.init(jnp.ones(4)), **extras)
