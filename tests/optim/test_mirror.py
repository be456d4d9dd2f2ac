"""Mirror descent: its step by NumPy, and the margin that it tends to."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import linear, norms, optim


@pytest.mark.parametrize("p", [1.2, 1.5, 2.0, 3.0, 10.0])
def test_steps_are_those_of_numpy(x64, p):
    rng = np.random.default_rng(0)
    w, gradients = rng.normal(size=6), rng.normal(size=(5, 6))
    w[2] = 0.0
    optimizer = optim.mirror_descent(lambda count: 0.1 / (count + 1), p)
    params, state = jnp.asarray(w), optimizer.init(jnp.asarray(w))
    z = np.sign(w) * np.abs(w) ** (p - 1)
    for number, gradient in enumerate(gradients):
        updates, state = optimizer.update(jnp.asarray(gradient), state, params)
        params = optax.apply_updates(params, updates)
        z = z - 0.1 / (number + 1) * gradient
        np.testing.assert_allclose(
            np.asarray(params), np.sign(z) * np.abs(z) ** (1 / (p - 1)), rtol=1e-9
        )


def test_exponent_2_is_gradient_descent():
    w, gradient = jnp.asarray([1.0, -2.0, 0.0]), jnp.asarray([0.5, 0.25, -1.0])
    optimizer = optim.mirror_descent(0.1, 2.0)
    updates, _ = optimizer.update(gradient, optimizer.init(w), w)
    np.testing.assert_allclose(np.asarray(updates), -0.1 * gradient, atol=1e-7)


@pytest.mark.parametrize(("p", "rate"), [(1.5, 0.02), (3.0, 0.02)])
def test_it_tends_to_the_largest_margin_in_its_norm(x64, p, rate):
    """On separable data, and to no other norm's: by the certified optimum."""
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(8, 20)))
    y = jnp.asarray(np.where(rng.normal(size=8) > 0, 1.0, -1.0))
    optimizer = optim.mirror_descent(rate, p)
    slope = jax.grad(lambda w: linear.log_loss(linear.margins(w, x, y)))

    def step(_, carry):
        w, state = carry
        updates, state = optimizer.update(slope(w), state, w)
        return optax.apply_updates(w, updates), state

    w = jnp.full(20, 1e-3)
    w, _ = jax.lax.fori_loop(0, 20_000, step, (w, optimizer.init(w)))
    norm, other = norms.lp(p), norms.lp(3.0 if p < 2 else 1.5)
    best = linear.max_margin(x, y, norm).margin
    assert linear.margin(w, x, y, norm) > 0.99 * best
    assert linear.margin(w, x, y, other) < 0.95 * linear.max_margin(x, y, other).margin


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: optim.mirror_descent(0.1, 1.0), "p must be above 1"),
        (lambda: optim.mirror_descent(0.1, np.inf), "p must be above 1"),
        (lambda: optim.mirror_descent(-0.1, 2.0), "learning_rate"),
    ],
)
def test_arguments_out_of_range(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize("w", [1e-6, 1e-3, 1e4, 1e30])
def test_large_and_small_entries_in_single_precision(w):
    """Their ninth power vanishes or overflows: no gradient, no step; else a step in float64."""
    params = jnp.asarray([w, -w, w], jnp.float32)
    optimizer = optim.mirror_descent(0.1, 10.0)
    gradient = jnp.asarray([0.0, 0.0, 1.0], jnp.float32)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    z = np.float64(np.float32(w)) ** 9 - 0.1
    expected = np.sign(z) * np.abs(z) ** (1 / 9) - w
    found = np.asarray(updates, np.float64)
    np.testing.assert_array_equal(found[:2], [0, 0])
    np.testing.assert_allclose(w + found[2], w + expected, rtol=1e-5)
