"""Optax's line searches behind steepest descent."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import optim
from tests.optim import oracles

GEOMETRIES = {**oracles.VECTOR, **oracles.MATRIX}
X = oracles.separable(5, 8, seed=0)
CURVATURE = np.linspace(0.5, 8, 8)
TARGET = np.random.default_rng(0).normal(size=8)


def _quadratic(w):
    return 0.5 * jnp.sum(CURVATURE * (w.reshape(8) - TARGET) ** 2)


def _logistic(w):
    return jnp.mean(jax.nn.softplus(-(X @ w.reshape(8))))


def _shape(name: str) -> tuple[int, ...]:
    return (2, 4) if name in oracles.MATRIX else (8,)


def _backtracking(name: str, max_steps: int = 60, **kwargs):
    return optax.chain(
        optim.steepest_descent(1.0, name),
        optax.scale_by_backtracking_linesearch(max_steps, decrease_factor=0.5, **kwargs),
    )


def _values(optimizer, loss, shape: tuple[int, ...], num_steps: int):
    """The loss before every step, and the learning rate that the search has found for it."""

    def step(carry, _):
        params, state = carry
        value, grad = jax.value_and_grad(loss)(params)
        extras = {"value": value, "grad": grad, "value_fn": loss}
        updates, state = optimizer.update(grad, state, params, **extras)
        return (optax.apply_updates(params, updates), state), (value, state[-1].learning_rate)

    start = jnp.zeros(shape)
    run = jax.jit(lambda: jax.lax.scan(step, (start, optimizer.init(start)), None, num_steps))
    return jax.device_get(run()[1])


@pytest.mark.parametrize("name", GEOMETRIES)
def test_backtracking_decreases_every_loss(name: str, x64):
    """The quadratic from a million times too long a step; the logistic with a step that grows."""
    for loss, growth in ((_quadratic, np.inf), (_logistic, 1.5)):
        optimizer = _backtracking(name, max_learning_rate=1e6, increase_factor=growth)
        values, _ = _values(optimizer, loss, _shape(name), 20)
        assert np.all(np.diff(values) < 0)
        assert values[-1] < 0.2 * values[0]


@pytest.mark.parametrize("name", ["l1", "linf", "spectral"])
def test_zoom_decreases_every_loss(name: str, x64):
    optimizer = optax.chain(
        optim.steepest_descent(1.0, name), optax.scale_by_zoom_linesearch(max_linesearch_steps=30)
    )
    values, _ = _values(optimizer, _logistic, _shape(name), 10)
    assert np.all(np.diff(values) < 0)
    assert values[-1] < 0.5 * values[0]


@pytest.mark.parametrize("name", GEOMETRIES)
def test_armijo_acts(name: str, x64):
    """The step taken is the longest candidate that the condition allows.

    On a quadratic f(w - eta v) = f - eta |g|_*^2 + eta^2 v^T A v / 2, so the condition with
    coefficient c reads eta <= 2 (1 - c) |g|_*^2 / v^T A v. A condition that is always true, or that
    takes another slope than |g|_*^2, gives another step.
    """
    c, first = 0.6, 1e4
    optimizer = _backtracking(name, slope_rtol=c, increase_factor=np.inf, max_learning_rate=first)
    _, rates = _values(optimizer, _quadratic, _shape(name), 1)
    g = -(CURVATURE * TARGET).reshape(_shape(name))
    v = GEOMETRIES[name].direction(g)
    longest = 2 * (1 - c) * GEOMETRIES[name].dual(g) ** 2 / np.sum(CURVATURE * v.reshape(8) ** 2)
    candidates = first * 0.5 ** np.arange(60)
    np.testing.assert_allclose(rates[0], candidates[candidates <= longest][0], rtol=1e-12)


def test_a_search_out_of_steps_takes_the_last_one(x64):
    """Documented, since it raises the loss: three halvings of a far too long step are too few."""
    few = {"max_learning_rate": 1e3, "increase_factor": np.inf}
    values, _ = _values(_backtracking("linf", 3, **few), _quadratic, (8,), 2)
    assert values[1] > values[0]
    values, _ = _values(_backtracking("linf", 30, **few), _quadratic, (8,), 2)
    assert values[1] < values[0]


def test_default_limit_of_the_step(x64):
    """Documented, too: the step must grow as the logistic loss falls, and by default does not."""
    limited, rates = _values(_backtracking("linf"), _logistic, (8,), 30)
    assert np.max(rates) == 1
    free, rates = _values(_backtracking("linf", max_learning_rate=1e6), _logistic, (8,), 30)
    assert np.max(rates) > 100
    assert free[-1] < 1e-3 * limited[-1]
