"""Batches of pairs that the tests of this room share."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

B, D = 12, 5
# Several captions of an image; and padding.
IDS = np.array([0, 1, 2, 2, 3, 4, 5, 5, 5, 6, 7, 8])
VALID = np.array([True] * 10 + [False] * 2)


def embeddings(seed=0, number=B, noise=0.7, dim=D):
    """Pairs that are alike, but not always most alike."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(number, dim))
    x, y = (shared + noise * rng.normal(size=(number, dim)) for _ in range(2))
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)


def numeric_gradient(function, arguments, number, step=1e-6):
    """Central differences by one of the arguments, in float64."""
    arguments = [np.array(a, np.float64) for a in arguments]
    flat = arguments[number].reshape(-1)
    slopes = np.zeros_like(flat)
    for i in range(flat.size):
        middle = flat[i]
        values = []
        for sign in (1, -1):
            flat[i] = middle + sign * step
            values.append(function(*arguments))
        flat[i] = middle
        slopes[i] = (values[0] - values[1]) / (2 * step)
    return slopes.reshape(arguments[number].shape)


def some_fast(*choices, every):
    """All combinations as parameters of a test: one in so many is fast, every choice among them."""
    numbered = [list(enumerate(choice)) for choice in choices]
    found = []
    for combination in itertools.product(*numbered):
        fast = sum(number for number, _ in combination) % every == 0
        values = [value for _, value in combination]
        found.append(pytest.param(*values, marks=() if fast else pytest.mark.slow))
    return found
