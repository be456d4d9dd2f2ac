"""Embeddings far from zero, whose distances are small beside them; and x64 with single precision.

Distances do not depend on what all embeddings have in common, nor on padding, blocks or memories.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.contrastive import compiled as contrastive

FAR = 1000.0
DIM = 16


def far_apart(number=33, seed=0, noise=0.1):
    """Pairs near each other, far from zero: in float32 their coordinates have three decimals."""
    rng = np.random.default_rng(seed)
    x = FAR + rng.normal(size=(number, DIM))
    y = x + noise * rng.normal(size=x.shape)
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)


def moved(z):
    """The same embeddings near zero."""
    return jnp.asarray(np.asarray(z, np.float64) - FAR, jnp.float32)


hinge = functools.partial(contrastive.hinge_loss, similarity="euclidean", margin=1.0)


@pytest.mark.parametrize("mining", ["hardest", "semi_hard", "all", contrastive.top_k(3)])
@pytest.mark.parametrize("directions", ["both", "y_to_x"])
def test_a_partial_block(mining, directions):
    """The last of 33 rows in blocks of 32."""
    x, y = far_apart()
    run = functools.partial(hinge, mining=mining, directions=directions, reduction="sum")
    (whole, info), gradient = jax.value_and_grad(run, has_aux=True)(x, y)
    (blocks, other), of_blocks = jax.value_and_grad(run, has_aux=True)(x, y, block_size=32)
    (near, _), of_near = jax.value_and_grad(run, has_aux=True)(moved(x), moved(y))
    # The coordinates themselves have an error of 3e-5, distances of 4 likewise.
    np.testing.assert_allclose([blocks, near], [whole, whole], rtol=1e-4)
    np.testing.assert_allclose(of_blocks, gradient, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(of_near, gradient, rtol=1e-3, atol=1e-3)
    assert info.accuracy == other.accuracy == 1


@pytest.mark.parametrize("block_size", [None, 5])
def test_padding_and_an_empty_memory(block_size):
    """Most of the rows: they are no part of what embeddings have in common."""
    x, y = far_apart()
    more = jnp.zeros((95, DIM))
    padded = [jnp.concatenate([z, more]) for z in (x, y)]
    valid = jnp.arange(128) < 33
    run = functools.partial(hinge, mining="semi_hard", reduction="sum", block_size=block_size)
    wanted, info = run(x, y)
    found, other = run(*padded, valid=valid)
    assert found == pytest.approx(float(wanted), rel=1e-4)
    assert info.accuracy == other.accuracy == 1
    empty = contrastive.memory_init(500, DIM)
    found, other = run(x, y, memory_y=empty, memory_x=empty)
    assert found == pytest.approx(float(wanted), rel=1e-4)
    assert other.accuracy == 1


@pytest.mark.parametrize("mining", ["semi_hard", "hardest"])
def test_triplets(mining):
    x, _ = far_apart()
    labels = jnp.arange(33) % 5
    loss = functools.partial(
        contrastive.triplet_loss, labels=labels, mining=mining, similarity="euclidean"
    )
    whole, blocks, near = (
        jax.tree.leaves(found)[0] for found in (loss(x), loss(x, block_size=32), loss(moved(x)))
    )
    np.testing.assert_allclose([blocks, near], [whole, whole], rtol=1e-4)


def test_retrieval():
    x, y = far_apart(number=65)
    whole = contrastive.retrieval_metrics(x, y, similarity="euclidean", block_size=65)
    blocks = contrastive.retrieval_metrics(x, y, similarity="euclidean", block_size=32)
    assert whole.rsum == blocks.rsum == 600


# Made under x64: what they hold is float64 then.
MININGS = {
    "ramp": lambda: contrastive.ramp(0, 10)(jnp.int64(3)),
    "after it": lambda: contrastive.ramp(0, 10)(jnp.int64(11)),
    "switch": lambda: contrastive.switch(5)(jnp.int64(3)),
    "mixed": lambda: contrastive.mixed(np.float64(0.3)),
    "temperature": lambda: contrastive.temperature_annealing(1.0, 10.0, 5)(jnp.int64(3)),
    "top-k": lambda: contrastive.top_k_annealing(5, 5)(jnp.int64(3)),
    "soft": lambda: contrastive.soft(np.float64(3.0)),
    "selective": lambda: contrastive.selective(np.float64(0.1)),
    "by distance": lambda: contrastive.distance_weighted(
        jax.random.key(0), cutoff=np.float64(0.5), limit=jnp.float64(1.9)
    ),
}


@pytest.mark.parametrize("block_size", [None, 4])
@pytest.mark.parametrize("name", MININGS)
def test_single_precision_under_x64(x64, name, block_size):
    x, y = (moved(z) for z in far_apart(6))
    for loss in (
        contrastive.hinge_loss,
        jax.jit(contrastive.hinge_loss, static_argnames="block_size"),
    ):
        value, info = loss(x, y, mining=MININGS[name](), block_size=block_size)
        assert value.dtype == info.hardest_gap.dtype == jnp.float32
        assert np.isfinite(value)


@pytest.mark.parametrize(
    "loss",
    [
        functools.partial(contrastive.info_nce, temperature=np.float64(0.1)),
        functools.partial(
            contrastive.multi_positive, temperature=np.float64(0.1), positives=np.arange(6) // 2
        ),
        functools.partial(
            contrastive.hard_negative_nce, temperature=np.float64(0.1), beta=np.float64(1.0),
            positive_rate=np.float64(0.1),
        ),
        functools.partial(contrastive.sigmoid_loss, scale=np.float64(10), bias=np.float64(-10)),
    ],
    ids=["info_nce", "multi_positive", "hard_negative_nce", "sigmoid"],
)  # fmt: skip
def test_losses_in_single_precision_under_x64(x64, loss):
    x, y = (moved(z) for z in far_apart(6))
    value, gradient = jax.value_and_grad(loss)(x, y)
    assert value.dtype == gradient.dtype == jnp.float32


def test_rows_of_length_1_in_half_precision():
    """The only rounding is that of the result."""
    z = jnp.asarray(np.random.default_rng(0).normal(size=(50, 64)), jnp.bfloat16)
    exact = np.asarray(z, np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    found = contrastive.normalized(z)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float64), exact, rtol=2.0**-8)


def test_counts_among_the_params_of_a_slow_encoder():
    params = {"w": jnp.ones(2, jnp.bfloat16), "steps": jnp.int32(3)}
    momentum = contrastive.momentum_init(params, 4, 2)
    assert momentum.params["w"].dtype == jnp.float32
    assert momentum.params["steps"].dtype == jnp.int32
    keys = jnp.ones((1, 2))
    after = contrastive.momentum_update(
        momentum, {"w": jnp.zeros(2, jnp.bfloat16), "steps": jnp.int32(4)}, keys, keys, decay=0.75
    )
    np.testing.assert_allclose(after.params["w"], [0.75, 0.75])
    assert after.params["steps"] == 4


@pytest.mark.parametrize("age", [np.nan, np.zeros(4)])
def test_ages_that_are_none(age):
    with pytest.raises(ValueError, match="age must be"):
        contrastive.memory_younger(contrastive.memory_init(4, 2), age)


@pytest.mark.parametrize("block_size", [None, 16])
def test_ties_of_long_embeddings(block_size):
    """Inner products that nearly cancel: copies of the partner are no semi-hard negatives.

    Those of length 1,000 have a rounding error of 0.1, also where the sum is near 0. Half of the y
    are copies of the others, and the loss is that of the next ones.
    """
    rng = np.random.default_rng(0)
    x, y = (FAR / 16 * rng.normal(size=(64, 256)) for _ in range(2))
    y[32:] = y[:32]
    x, y = (np.asarray(z, np.float32) for z in (x, y))
    y -= np.sum(x * y, axis=1, keepdims=True) / np.sum(x**2, axis=1, keepdims=True) * x
    y = np.concatenate([y[:32], y[:32]])  # those of the first half have a score near 0
    scores = x.astype(np.float64) @ y.T.astype(np.float64)
    own = np.diag(scores)[:32]
    assert np.abs(own).max() < 1
    below = np.where(scores[:32] < own[:, None] - 1, scores[:32], -np.inf).max(axis=1)
    expected = np.maximum(10_000 + below - own, 0)
    _, info = contrastive.hinge_loss(
        jnp.asarray(x), jnp.asarray(y), mining="semi_hard", similarity="dot", margin=1e4,
        directions="x_to_y", block_size=block_size,
    )  # fmt: skip
    loss = lambda x, y: contrastive.hinge_loss(
        x, y, mining="semi_hard", similarity="dot", margin=1e4, directions="x_to_y",
        reduction="sum", block_size=block_size,
    )[0]  # fmt: skip
    pull = jax.grad(loss)(jnp.asarray(x), jnp.asarray(y))[:32]
    chosen = np.asarray(pull) + y[:32]  # the gradient is that negative less the partner
    wanted = np.argmax(np.where(scores[:32] == below[:, None], 1, 0), axis=1)
    active = expected > 0
    assert active.sum() > 20
    np.testing.assert_allclose(chosen[active], y[wanted[active]], atol=1e-3)
    assert info.num_anchors == 64


@pytest.mark.parametrize("far", [1.0, 1e4])
def test_inner_products_do_not_tell_which_side_is_long(far):
    """Of x times c and y over c: the same scores, so the same semi-hard negatives."""
    rng = np.random.default_rng(1)
    x, y = (contrastive.normalized(jnp.asarray(rng.normal(size=(32, 8)), jnp.float32)),) * 2
    y = contrastive.normalized(y + 0.1 * jnp.asarray(rng.normal(size=(32, 8)), jnp.float32))
    run = functools.partial(
        contrastive.hinge_loss, similarity="dot", mining="semi_hard", margin=2.0, reduction="sum",
        ignore_above=0.5,
    )  # fmt: skip
    expected, info = run(x, y)
    found, other = run(far * x, y / far)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    assert other.accuracy == info.accuracy == 1
    labels = jnp.arange(32) // 2
    triplets = functools.partial(
        contrastive.triplet_loss, labels=labels, mining="semi_hard", similarity="dot", margin=2.0
    )
    short = x * jnp.where(labels % 2 == 0, far, 1 / far)[:, None]
    assert np.isfinite(jax.tree.leaves(triplets(short))[0])
