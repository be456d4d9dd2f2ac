"""Networks of Linen, NNX, Equinox and Haiku: exact, and no weight matrix done the slow way."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks.per_example_models import models
from jaxrobust import per_example
from jaxrobust.per_example import _algebra
from tests.per_example import oracles
from tests.per_example.models import MODELS

BENCHMARKED = models(quick=False)
SLOW_TO_COMPILE = {"linen_resnet", "linen_transformer"}
IN_FLOAT64 = [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW_TO_COMPILE else name
    for name in MODELS
    if name != "linen_lstm_and_gru"  # Flax's cells begin with a float32 state
]


@pytest.mark.parametrize("name", IN_FLOAT64)
def test_float64(name, x64):
    loss, params, batch = MODELS[name]()
    params, batch = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float64) if leaf.dtype == jnp.float32 else leaf,
        (params, batch),
    )
    slow = oracles.gradients(loss, params, batch)
    _, gradient, norms = jax.jit(per_example.value_grad_and_norms(loss))(params, batch)
    np.testing.assert_allclose(norms, oracles.norms(slow), rtol=1e-12)
    scale = np.max(np.abs(oracles.matrix(slow)))
    jax.tree.map(
        lambda ours, leaf: np.testing.assert_allclose(ours, leaf.mean(0), atol=1e-13 * scale),
        gradient,
        slow,
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", BENCHMARKED)
def test_models_of_the_benchmark(name, dtype, x64):
    model = BENCHMARKED[name]()
    params, batch = jax.tree.map(
        lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf,
        (model.params, jax.tree.map(lambda leaf: leaf[:2], model.batch)),
    )
    norms = jax.jit(per_example.norms(model.loss_fn))(params, batch)
    assert norms.dtype == dtype
    expected = oracles.norms(oracles.gradients(model.loss_fn, params, batch))
    np.testing.assert_allclose(norms, expected, rtol=1e-12 if dtype == jnp.float64 else 1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_float32(name):
    loss, params, batch = MODELS[name]()
    norms = jax.jit(per_example.norms(loss))(params, batch)
    expected = oracles.norms(oracles.gradients(loss, params, batch))
    np.testing.assert_allclose(norms, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["nnx_mlp", "equinox_cnn", "haiku_mlp"])
def test_check(name):
    loss, params, batch = MODELS[name]()
    report = per_example.check(loss)(params, batch)
    assert report.ok
    assert report.num_examples == 4
    assert report.worst_error == max(report.errors.values()) < 1e-5
    assert "agree" in str(report)


@pytest.mark.parametrize("name", MODELS)
def test_no_matrix_is_copied_for_every_example(name):
    loss, params, batch = MODELS[name]()
    for row in per_example.explain(loss)(params, batch).rows:
        is_vector = len(row.shape) < 2 or "positions" in row.leaf
        is_bias = "bias" in row.leaf
        assert (row.method == "expand") == (is_vector or is_bias), row


def test_check_finds_what_is_wrong(monkeypatch):
    loss, params, batch = MODELS["haiku_mlp"]()
    exact = _algebra.squared_norm
    monkeypatch.setattr(_algebra, "squared_norm", lambda uses: 1.1 * exact(uses))
    report = per_example.check(loss)(params, batch)
    assert not report.ok
    assert "['w']" in report.worst_leaf
    assert "DISAGREE" in str(report)


def test_a_train_mode_batch_norm_is_refused():
    model = nn.BatchNorm(use_running_average=False, axis_name="batch")
    variables = nn.BatchNorm(use_running_average=False).init(jax.random.key(0), jnp.ones((4, 3)))

    def loss(params, x):
        y, _ = model.apply({**variables, "params": params}, x, mutable=["batch_stats"])
        return jnp.sum(jnp.asarray(y) ** 2)

    with pytest.raises(ValueError, match="couples examples"):
        per_example.norms(loss)(variables["params"], jnp.ones((4, 3)))
