"""Mean, noise and signal of the gradients, against their definitions in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import per_example
from jaxrobust.per_example import _batching, _plan
from tests.per_example import oracles
from tests.per_example.cases import CASES, normal

NAMES = ["dense_layers", "sequence_long", "convolution_grouped", "embedding_tied",
         "weights_in_slices", "weights_concatenated", "layers_in_a_loop", "penalty_in_the_loss",
         "experts_with_a_batch_axis_in_the_weights", "stopped_and_unused"]  # fmt: skip


def definitions(rows):
    """Everything that `Moments` says of gradients `(n, entries)`."""
    n, mean = len(rows), rows.mean(0)
    trace = np.sum((rows - mean) ** 2) / (n - 1)
    signal = np.sum(mean**2) - trace / n
    second = np.mean(rows**2, axis=0)
    live = second > 0
    return {
        "count": n,
        "trace": trace,
        "signal": signal,
        "noise_scale": trace / signal if signal > 0 else np.inf,
        "average_variance": trace / rows.shape[1],
        "normalized_variance": trace / (trace + max(signal, 0)),
        "entrywise_normalized_variance": np.mean(
            rows.var(0, ddof=1)[live] / second[live],
        ),
        "dead_entries": np.mean(~live),
    }


def assert_moments(found, rows, rtol):
    for name, expected in definitions(rows).items():
        np.testing.assert_allclose(getattr(found, name), expected, rtol=rtol, err_msg=name)
    mean = oracles.matrix(jax.tree.map(lambda leaf: leaf[None], found.mean))[0]
    np.testing.assert_allclose(mean, rows.mean(0), atol=rtol * np.max(np.abs(rows)))


# Without a product of several positions, both ways are the same program.
ONE_WAY = {"dense_layers", "penalty_in_the_loss", "stopped_and_unused"}
WAYS = [*((name, False) for name in NAMES), *((n, True) for n in NAMES if n not in ONE_WAY)]


@pytest.mark.parametrize(("name", "one_by_one"), WAYS)
def test_one_batch(name, one_by_one, x64, monkeypatch):
    monkeypatch.setattr(_batching, "_one_by_one", lambda: one_by_one)
    loss, params, batch, _, slow = oracles.known(name)
    rows = oracles.matrix(slow)
    found = jax.jit(per_example.moments(loss, entrywise=True))(params, batch)
    assert_moments(found, rows, rtol=1e-10)


def test_leaves_in_chunks(monkeypatch):
    loss, params, batch, _, slow = oracles.known("penalty_in_the_loss")
    monkeypatch.setattr(_plan, "EXPAND_BYTES", 1)
    found = jax.jit(per_example.moments(loss, entrywise=True))(params, batch)
    assert_moments(found, oracles.matrix(slow), rtol=1e-4)


def test_entries_that_are_zero_up_to_rounding_are_dead():
    # What is added to all scores alike does not change their softmax; its gradient is rounding.
    def loss(p, x):
        return jax.nn.softmax(x @ p["w"] + p["shift"])[0]

    params, batch = {"w": normal(7, 3), "shift": normal(1)}, normal(60, 7)
    found = jax.jit(per_example.moments(loss, entrywise=True))(params, batch)
    rows = oracles.matrix(oracles.gradients(loss, {**params}, batch))
    assert 0 < np.max(np.abs(rows[:, 0])) < 1e-6  # the shift comes first
    expected = np.mean(rows.var(0, ddof=1)[1:] / np.mean(rows**2, axis=0)[1:])
    np.testing.assert_allclose(found.entrywise_normalized_variance, expected, rtol=1e-4)
    np.testing.assert_allclose(found.dead_entries, 1 / 22, rtol=1e-5)


def test_a_loop_without_iterations():
    def loss(p, x):
        y, _ = jax.lax.scan(lambda y, x: (y + x @ p, None), x @ p, jnp.zeros((0, 3)))
        return jnp.sum(y)

    params, batch = normal(3, 2), normal(6, 3)
    rows = oracles.matrix(oracles.gradients(loss, params, batch))
    found = jax.jit(per_example.moments(loss, entrywise=True))(params, batch)
    assert_moments(found, rows, rtol=1e-5)


def test_aux_comes_along():
    loss = lambda p, x: (jnp.sum(jnp.sin(x @ p)), x[0])
    params, batch = normal(3, 2), normal(6, 3)
    found, aux = per_example.moments(loss, has_aux=True)(params, batch)
    np.testing.assert_array_equal(aux, batch[:, 0])
    state, aux = per_example.update_moments(loss, has_aux=True)(
        per_example.init_moments(params), params, batch
    )
    np.testing.assert_array_equal(aux, batch[:, 0])
    assert per_example.summarize_moments(state).trace == found.trace


def test_batches_of_different_size_in_any_order():
    loss, params, batch, _, slow = oracles.known("sequence_long")
    rows, batch = oracles.matrix(slow), np.asarray(batch)
    update = jax.jit(per_example.update_moments(loss))
    for splits in ([0, 2, 5], [0, 1, 4, 5], [0, 4, 5]):
        state = per_example.init_moments(params, entrywise=True)
        parts = [batch[a:b] for a, b in zip(splits, splits[1:], strict=False)]
        for part in reversed(parts):
            state = update(state, params, part)
        assert_moments(per_example.summarize_moments(state), rows, rtol=1e-4)


def test_without_entries_nothing_of_their_size_is_kept():
    loss, params, batch = CASES["dense_layers"]()
    found = jax.eval_shape(per_example.moments(loss), params, batch)
    assert found.entrywise_normalized_variance is None
    assert found.dead_entries is None
    assert per_example.init_moments(params).squares is None


def test_one_example_has_no_variance_and_equal_ones_have_none():
    loss, params, batch = CASES["dense_layers"]()
    moments = jax.jit(per_example.moments(loss))
    assert np.isnan(moments(params, batch[:1]).trace)
    same = moments(params, np.repeat(batch[:1], 4, axis=0))
    scale = np.sum(np.asarray(same.mean["u"]) ** 2)
    assert 0 <= same.trace <= 1e-5 * scale
    np.testing.assert_allclose(same.normalized_variance, 0, atol=1e-5)


def test_pure_noise():
    # Gradients are the examples themselves, of mean zero: no signal, and a ceiling of n/(n-1).
    loss = lambda p, x: jnp.sum(p * x)
    x = normal(200, 50)
    centred = x - x.mean(0, keepdims=True)
    found = jax.jit(per_example.moments(loss, entrywise=True))(normal(50), centred)
    assert found.noise_scale == np.inf
    assert found.normalized_variance == 1
    entrywise = found.entrywise_normalized_variance
    assert entrywise == pytest.approx(200 / 199, rel=1e-5)


def test_the_noise_scale_of_a_known_distribution():
    # Mean 0.3 in each of d entries and variance 0.25 (normal() has standard deviation 1/2): the
    # trace is 0.25 d, the signal 0.09 d.
    n, d = 4000, 100
    moments = jax.jit(per_example.moments(lambda p, x: jnp.sum(p * x)))
    found = moments(normal(d), normal(n, d) + 0.3)
    # standard errors: of the trace sqrt(2/(n d)), of the signal 2 * 0.3 * 0.5 / (0.09 sqrt(n d))
    np.testing.assert_allclose(found.trace, 0.25 * d, rtol=5 * np.sqrt(2 / (n * d)))
    np.testing.assert_allclose(found.signal, 0.09 * d, rtol=5 * 3.4 / np.sqrt(n * d))
