"""Losses and gradients under vmap and scan, in half precision with sets and memories, in blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.contrastive import compiled as contrastive
from tests.contrastive.problems import assert_rounded, embeddings
from tests.contrastive.test_edges import PAIRS, SETS
from tests.contrastive.test_scale import temporary

FAST = ("all", "hardest", "info_nce", "triplets, hardest")
LABELS = jnp.asarray(np.arange(24) // 3, jnp.int32)


def some_slow(names):
    return [
        pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in sorted(names)
    ]


def check(gradient, batches):
    """Mapped over batches, and one after the other in a loop."""
    one = lambda i: jax.tree.map(lambda leaf: leaf[i], batches)
    wanted = [gradient(one(i)) for i in range(3)]
    wanted = jax.tree.map(lambda *leaves: jnp.stack(leaves), *wanted)
    mapped = jax.jit(jax.vmap(gradient))(batches)
    scanned = jax.jit(lambda batches: jax.lax.scan(lambda carry, one: (carry, gradient(one)), 0,
                                                   batches)[1])(batches)  # fmt: skip
    for found in (mapped, scanned):
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("block_size", [None, 5])
@pytest.mark.parametrize("name", some_slow(PAIRS))
def test_gradients_of_pairs_under_vmap_and_scan(name, block_size):
    batches = tuple(
        jnp.stack(rows) for rows in zip(*(embeddings(seed) for seed in range(3)), strict=True)
    )
    loss = lambda pair: PAIRS[name](*pair, block_size=block_size)
    check(jax.value_and_grad(loss), batches)


@pytest.mark.parametrize("block_size", [None, 5])
@pytest.mark.parametrize("name", some_slow(SETS))
def test_gradients_of_sets_under_vmap_and_scan(name, block_size):
    batches = jnp.stack([embeddings(seed, number=24)[0] for seed in range(3)])
    loss = lambda z: SETS[name](z, LABELS, block_size=block_size)
    check(jax.value_and_grad(loss), batches)


@pytest.mark.parametrize("block_size", [None, 7])
@pytest.mark.parametrize("name", some_slow(name for name in SETS if "distances" not in name))
def test_sets_in_half_precision(name, block_size):
    """As of the same numbers in float32, but for the rounding of the gradient."""
    z = contrastive.normalized(embeddings(number=24, dim=16)[0]).astype(jnp.bfloat16)
    loss = lambda z: SETS[name](z, LABELS, similarity="dot", block_size=block_size)
    value, gradient = jax.value_and_grad(loss)(z)
    exact, slope = jax.value_and_grad(loss)(z.astype(jnp.float32))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    assert_rounded(gradient, slope)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("block_size", [None, 7])
@pytest.mark.parametrize("name", FAST[:3])
def test_memories_in_half_precision(name, block_size, dtype):
    """Of embeddings in half precision with past ones in either, as of the same in float32."""
    x, y, past = (
        contrastive.normalized(z).astype(jnp.bfloat16)
        for z in (*embeddings(dim=16), embeddings(1, dim=16)[1])
    )

    def loss(x, y, kept):
        memory = contrastive.memory_init(20, 16, dtype=kept)
        memory = contrastive.memory_push(memory, past)
        return PAIRS[name](x, y, similarity="dot", memory_y=memory, block_size=block_size)

    value, gradients = jax.value_and_grad(loss, (0, 1))(x, y, dtype)
    wide = (z.astype(jnp.float32) for z in (x, y))
    exact, slopes = jax.value_and_grad(loss, (0, 1))(*wide, jnp.float32)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    for gradient, slope in zip(gradients, slopes, strict=True):
        assert_rounded(gradient, slope)


@pytest.mark.parametrize("block_size", [64, 256])
@pytest.mark.parametrize("name", some_slow(PAIRS))
def test_memory_follows_the_block_that_is_asked_for(name, block_size):
    """Some blocks and copies of the embeddings; a matrix of scores would be 256 MiB."""
    number, dim = 8_192, 64
    grad = jax.value_and_grad(lambda x, y: PAIRS[name](x, y, block_size=block_size), (0, 1))
    needed = temporary(grad, *[((number, dim), jnp.float32)] * 2)
    assert needed <= (10 * number * block_size + 8 * number * dim) * 4 / 2**20
