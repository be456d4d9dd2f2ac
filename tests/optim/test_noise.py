"""The factor by signal and noise: best step in closed form, edge cases, training."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import optim, per_example
from tests.optim import docstrings


def _factors(measurements, batch_size=4.0, **kwargs):
    """The factor after each of the measurements (trace, signal), and the last state."""
    tx: Any = optim.scale_by_noise(batch_size, **kwargs)
    updates = jnp.ones(1)
    state, update, factors = tx.init(updates), jax.jit(tx.update), []
    for trace, signal in measurements:
        scaled, state = update(updates, state, trace=trace, signal=signal)
        factors.append(float(scaled[0]))
    return factors, state


# --- the factor -----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_factor_is_the_best_step_on_an_isotropic_quadratic(batch_size, x64):
    """Loss h/2 mean |x - c_i|^2, a step of factor/h: the mean over all batches is the smallest."""
    rng, h = np.random.default_rng(0), 3.0
    centres, x = rng.normal(size=(4, 3)), rng.normal(size=3)
    gradients = h * (x - centres)
    mean = gradients.mean(0)
    trace, signal = np.mean(np.sum((gradients - mean) ** 2, axis=1)), mean @ mean
    batches = list(itertools.product(range(4), repeat=batch_size))
    estimates = np.array([gradients[list(batch)].mean(0) for batch in batches])

    def loss_after(factor):
        ends = x - factor / h * estimates
        return np.mean(h / 2 * np.sum((ends[:, None] - centres) ** 2, axis=2))

    # A parabola in the factor: its lowest point from three values.
    low, middle, high = (loss_after(f) for f in (0.0, 0.5, 1.0))
    best = 0.5 - 0.25 * (high - low) / (high - 2 * middle + low)
    (factor,), _ = _factors([(trace, signal)], batch_size)
    np.testing.assert_allclose(factor, best, rtol=1e-12)
    np.testing.assert_allclose(factor, signal / (signal + trace / batch_size), rtol=1e-13)


@pytest.mark.parametrize("decay", [0.0, 0.6, 0.99])
def test_averages(decay, x64):
    """Of both before the ratio; bias-corrected, so the first factor is the first measurement's."""
    rng = np.random.default_rng(1)
    measurements = np.stack([rng.uniform(1, 5, 6), rng.normal(size=6) + 1], axis=1)
    factors, state = _factors(measurements, decay=decay)
    for t in range(1, 7):
        weights = decay ** np.arange(t)[::-1]
        trace, signal = weights @ measurements[:t] / weights.sum()
        expected = max(signal, 0) / (max(signal, 0) + trace / 4)
        np.testing.assert_allclose(factors[t - 1], expected, rtol=1e-13)
    np.testing.assert_allclose([state.trace, state.signal], [trace, signal], rtol=1e-13)
    np.testing.assert_allclose(state.weight, 1 - decay**6, rtol=1e-13)


def test_a_decay_near_one_in_float32():
    """The correction divides by 1 - decay^t, which is made without cancellation."""
    measurements = [(1.0, 2.0), (3.0, 0.5)]
    factors, _ = _factors(measurements, decay=0.9999)
    # 0.9999 is known to 3e-8 in float32, so 1 - decay to 3e-4; the shares, near 1/2, to 1e-4.
    np.testing.assert_allclose(factors, [2 / 2.25, 1.25 / 1.75], rtol=2e-4)


@pytest.mark.parametrize(
    ("trace", "signal", "factor"),
    [
        (4.0, 1.0, 0.5),
        (4.0, -1.0, 0.0),
        (4.0, 0.0, 0.0),
        (0.0, 1.0, 1.0),
        (-1.0, 1.0, 1.0),
        (0.0, 0.0, 1.0),
        (0.0, -1.0, 1.0),
        (1e-36, 1e-36, 0.8),
        (np.nan, 1.0, np.nan),
        (1.0, np.nan, np.nan),
        (np.inf, 1.0, np.nan),
        (1.0, np.inf, np.nan),
    ],
)
def test_edge_cases(trace, signal, factor):
    (found,), _ = _factors([(trace, signal)])
    np.testing.assert_allclose(found, factor, rtol=1e-6)


def test_a_negative_signal_is_averaged_before_it_is_clipped():
    """Clipping each one first would make the signal of pure noise positive."""
    factors, state = _factors([(4.0, 1.0), (4.0, -1.0)], decay=0.9)
    assert state.signal < 0  # the newer one counts for more
    assert factors[-1] == 0


@pytest.mark.parametrize("bad", [(np.nan, 1.0), (1.0, np.inf)])
def test_a_bad_measurement_does_not_stay_in_the_averages(bad):
    """It shows in its own step, and ``apply_if_finite`` behind makes that a step of zero."""
    factors, _ = _factors([(4.0, 1.0), bad, (4.0, 1.0)])
    np.testing.assert_array_equal(factors, [0.5, np.nan, 0.5])
    behind = optax.apply_if_finite(optax.identity(), max_consecutive_errors=5)
    tx: Any = optax.chain(optim.scale_by_noise(4), behind)
    updates = jnp.ones(1)
    scaled, _ = tx.update(updates, tx.init(updates), trace=bad[0], signal=bad[1])
    assert scaled[0] == 0


# --- training -------------------------------------------------------------------------------------


def test_training_beats_the_same_constant_rate():
    """On a noise-limited quadratic, where a constant rate stays at its floor, in 8 runs."""
    size, batch_size, num_steps, rate = 20, 4, 300, 0.5
    noise = np.random.default_rng(3).normal(size=(8, num_steps, batch_size, size))

    def run(tx, noise):
        def step(carry, noise):
            x, state = carry
            gradients = x[None] + noise
            mean = jnp.mean(gradients, axis=0)
            trace = jnp.sum((gradients - mean[None]) ** 2) / (batch_size - 1)
            signal = mean @ mean - trace / batch_size
            updates, state = tx.update(mean, state, trace=trace, signal=signal)
            x = x - rate * updates
            return (x, state), x @ x / 2

        start = jnp.full(size, 3.0)
        return jax.lax.scan(step, (start, tx.init(start)), noise)[1]

    def losses(tx):
        return np.asarray(jax.vmap(functools.partial(run, tx))(noise.astype(np.float32)))

    plain = optax.with_extra_args_support(optax.identity())
    constant, scaled = losses(plain), losses(optim.scale_by_noise(batch_size))
    # The floor in closed form: rate / (2 - rate) * trace / B / 2. Its mean over 200 steps and 8
    # runs of 20 coordinates is known to about 1.5 %, for the steps are correlated over about 3.
    floor = rate / (2 - rate) * size / batch_size / 2
    np.testing.assert_allclose(constant[:, 100:].mean(), floor, rtol=0.06)
    assert np.all(scaled[:, -100:].mean(axis=1) < 0.25 * constant[:, -100:].mean(axis=1))
    # Not by standing still: 20 steps suffice for 95 % of the way down from 90.
    assert np.all(scaled[:, 20] < 0.05 * 90)


def test_example_of_the_docstring():
    rng = np.random.default_rng(2)
    data = (rng.normal(size=(64, 8, 3)) + np.array([1.0, -2.0, 3.0])).astype(np.float32)
    names = {"loss_fn": lambda w, x: jnp.sum((w - x) ** 2) / 2, "params": jnp.zeros(3)}
    names |= {"batch_size": 8, "learning_rate": 1.0, "jax": jax, "optax": optax}
    names |= {"optim": optim, "per_example": per_example}
    exec(docstrings.example(optim.scale_by_noise), names)
    params, state = names["params"], names["state"]
    for batch in data:
        params, state = names["step"](params, state, batch)
    # The last batch alone, which a factor of 1 would return, is off by sqrt(3 / 8) = 0.6.
    assert np.linalg.norm(params - data.mean((0, 1))) < 0.2
    np.testing.assert_allclose(state[0].trace, 3, rtol=0.25)


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [0, -1.0, np.nan, np.inf])
def test_bad_batch_size(batch_size):
    with pytest.raises(ValueError, match="batch_size must be positive and finite"):
        optim.scale_by_noise(batch_size)


@pytest.mark.parametrize("decay", [-0.1, 1.0, np.nan])
def test_bad_decay(decay):
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\)"):
        optim.scale_by_noise(4, decay=decay)


@pytest.mark.parametrize("name", ["trace", "signal"])
def test_bad_measurements(name):
    tx, grad = optim.scale_by_noise(4), jnp.ones(2)
    good = {"trace": 1.0, "signal": 1.0}

    def update(value):
        return tx.update(grad, tx.init(grad), **good | {name: value})

    with pytest.raises(TypeError, match=rf"needs the keyword {name}: .*moments.*\.{name}"):
        update(None)
    with pytest.raises(ValueError, match=rf"{name} must be a scalar, got shape \(2,\)"):
        update(jnp.ones(2))
    with pytest.raises(TypeError, match=f"{name} must have a real floating dtype, got int32"):
        update(jnp.int32(1))
