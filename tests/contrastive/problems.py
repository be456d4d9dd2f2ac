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


def assert_rounded(gradient, slope):
    """A gradient in bfloat16 is that in float32, but for the rounding of two terms of its size."""
    assert gradient.dtype == jnp.bfloat16
    limit = 2**-7 * float(jnp.max(jnp.abs(slope)))
    np.testing.assert_allclose(gradient.astype(jnp.float32), slope, rtol=0, atol=limit)


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
    """Combinations as parameters of a test, so many that any two choices meet in one of them.

    One in so many of all combinations is fast, every choice among them. The others are as few as
    one gets by always taking the one in which most meet that have not met.
    """
    sizes = [range(len(choice)) for choice in choices]
    pairs_of = lambda combination: set(itertools.combinations(enumerate(combination), 2))
    fast = {c for c in itertools.product(*sizes) if sum(c) % every == 0}
    left = [c for c in itertools.product(*sizes) if c not in fast]
    kept = set(fast)
    unmet = set().union(*map(pairs_of, left)) - set().union(*map(pairs_of, fast))
    if len(choices) == 1:
        kept, unmet = {*fast, *left}, set()
    while unmet:
        best = max(left, key=lambda c: len(unmet & pairs_of(c)))
        kept.add(best)
        unmet -= pairs_of(best)
    listed = [list(choice) for choice in choices]
    return [
        pytest.param(
            *(listed[at][number] for at, number in enumerate(combination)),
            marks=() if combination in fast else pytest.mark.slow,
        )
        for combination in sorted(kept)
    ]
