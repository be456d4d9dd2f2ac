"""Narrow dtypes: what comes back is the float64 truth with one rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import linear

EPS32 = float(np.finfo(np.float32).eps)
SEEDS = range(20)


def problem(dtype, seed, rows=40, features=30):
    """Numbers of the dtype, and the same ones in float64."""
    rng = np.random.default_rng(seed)
    w, x = (jnp.asarray(rng.normal(size=size), dtype) for size in (features, (rows, features)))
    y = rng.choice([-1.0, 1.0], rows)
    return (w, x, y), (np.asarray(w, np.float64), np.asarray(x, np.float64), y)


def assert_rounded_once(found, expected, dtype, size):
    """Half an eps of the dtype for the last rounding, and float32's inside, for terms of a size."""
    assert found.dtype == dtype
    slack = 0.5 * float(jnp.finfo(dtype).eps) * abs(expected) + 50 * EPS32 * size
    assert abs(float(found) - expected) <= slack


# Compiled, XLA may keep what is rounded and widened again as it was; op by op it cannot.
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_margin(dtype):
    for seed in SEEDS:
        arrays, (w, x, y) = problem(dtype, seed)
        expected = np.min(y * (x @ w)) / np.linalg.norm(w)
        with jax.disable_jit():
            found = linear.margin(*arrays, "l2")
        assert_rounded_once(found, expected, dtype, 10)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_certificate(dtype):
    for seed in SEEDS:
        arrays, (w, x, y) = problem(dtype, seed)
        margins = y * (x @ w)
        weights = np.exp(-margins - np.max(-margins))
        found = linear.certificate(*arrays, "l2", loss="exponential")
        assert found.upper.dtype == found.lower.dtype
        upper = np.linalg.norm((weights / weights.sum() * y) @ x)
        # A margin of 20 carries, in float32, a rounding error of 20 eps, and so do the weights.
        assert_rounded_once(found.upper, upper, found.upper.dtype, 50)
        lower = np.min(margins) / np.linalg.norm(w)
        assert_rounded_once(found.lower, lower, found.lower.dtype, 10)
