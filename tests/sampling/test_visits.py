"""Random orders: permutations, and about as random as shuffles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxrobust.sampling._visits import _to_range, visit


def orders(num_keys, size, stream=0, epoch=0):
    """``(num_keys, size)``: one order for each key."""
    of = lambda n: jnp.full(size, n, jnp.int32)
    order = lambda key: visit(
        key, of(stream), of(epoch), jnp.arange(size, dtype=jnp.int32), of(size)
    )
    return np.asarray(jax.jit(jax.vmap(order))(jax.random.split(jax.random.key(0), num_keys)))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
def test_permutations(size):
    found = np.sort(orders(5, size), axis=1)
    np.testing.assert_array_equal(found, np.tile(np.arange(size), (5, 1)))


@pytest.mark.parametrize("size", [1, 2, 3, 1400, 65_535, 65_536, 65_537, 2**30 - 1, 2**30])
def test_words_are_spread_over_a_range(size):
    """As by products of 64 bits, which JAX has only under x64."""
    words = np.random.default_rng(0).integers(0, 2**32, 10_000, dtype=np.uint64)
    words = np.concatenate([words, np.array([0, 2**32 - 1], np.uint64)])
    found = _to_range(jnp.asarray(words.astype(np.uint32)), jnp.int32(size))
    np.testing.assert_array_equal(found, words * np.uint64(size) >> np.uint64(32))


def test_places_of_large_sets_do_not_collide():
    """2**30 members: no sum overflows."""
    place = jnp.arange(2**30 - 4096, 2**30, dtype=jnp.int32)
    of = lambda n: jnp.full(4096, n, jnp.int32)
    found = np.asarray(visit(jax.random.key(0), of(0), of(0), place, of(2**30)))
    assert ((found >= 0) & (found < 2**30)).all()
    assert np.unique(found).size == 4096
    # Spread over the whole range: uniform up to the 1e-4 quantile of Kolmogorov's test.
    assert scipy.stats.kstest(found / 2**30, "uniform").pvalue > 1e-4


def test_streams_and_epochs_are_independent():
    """Members at one place in two orders: all pairs alike often."""
    first = orders(6000, 5)
    for other in (orders(6000, 5, stream=1), orders(6000, 5, epoch=1)):
        pairs = np.bincount(5 * first[:, 2] + other[:, 2], minlength=25)
        assert scipy.stats.chisquare(pairs).pvalue > 1e-4


@pytest.mark.parametrize("size", [4, 5])
def test_all_orders_alike_often(size):
    """Not only marginals and pairs: all 24 (or 120) orders."""
    found = orders(12000, size)
    numbers = found @ (size ** np.arange(size))
    _, counts = np.unique(numbers, return_counts=True)
    assert counts.size == {4: 24, 5: 120}[size]
    assert scipy.stats.chisquare(counts).pvalue > 1e-4
