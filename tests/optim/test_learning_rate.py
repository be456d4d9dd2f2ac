"""The schedule a / sqrt(t)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import optim


def test_inverse_sqrt_counts_from_one():
    counts = np.arange(100)
    values = jax.vmap(optim.inverse_sqrt(0.3))(jnp.asarray(counts))
    np.testing.assert_allclose(values, 0.3 / np.sqrt(counts + 1), rtol=1e-6)  # float32
    assert optim.inverse_sqrt(0.3)(0) == np.float32(0.3)


def test_inverse_sqrt_at_the_largest_count():
    """Optax's counters stop there; one more must not be negative."""
    largest = jnp.int32(np.iinfo(np.int32).max)
    np.testing.assert_allclose(optim.inverse_sqrt(1.0)(largest), 2**-15.5, rtol=1e-6)


def test_inverse_sqrt_drives_an_optimizer():
    """Step t has length a / sqrt(t); under jit, in the order of the updates."""
    tx = optim.normalized_steepest_descent(optim.inverse_sqrt(0.5), "linf")
    params = jnp.zeros(2)
    state, update = tx.init(params), jax.jit(tx.update)
    for t in range(1, 5):
        step, state = update(jnp.array([3.0, -4.0]), state)
        np.testing.assert_allclose(step, np.array([-0.5, 0.5]) / np.sqrt(t), rtol=1e-6)
    assert optax.tree_utils.tree_get(state, "count") == 4


def test_inverse_sqrt_in_float64(x64):
    value = optim.inverse_sqrt(0.3)(jnp.int32(1))
    np.testing.assert_allclose(value, 0.3 / np.sqrt(2), rtol=1e-15)


@pytest.mark.parametrize("initial", [-1.0, np.nan, np.inf])
def test_inverse_sqrt_bad_values(initial):
    with pytest.raises(ValueError, match="initial must be"):
        optim.inverse_sqrt(initial)


def test_inverse_sqrt_bad_types():
    with pytest.raises(TypeError, match="initial must be a real number"):
        optim.inverse_sqrt("0.1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="initial must be a scalar"):
        optim.inverse_sqrt(jnp.ones(3))
