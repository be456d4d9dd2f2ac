"""Past embeddings as negatives: the queue, and losses with it."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contrastive import oracles

from jaxrobust import contrastive as uncompiled
from tests.contrastive import compiled as contrastive
from tests.contrastive.problems import B, D, embeddings, numeric_gradient

TOLERANCE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}
LOSSES: dict[str, Any] = {
    "hardest": lambda x, y, **o: contrastive.hinge_loss(x, y, reduction="sum", **o)[0],
    "all": lambda x, y, **o: contrastive.hinge_loss(x, y, mining="all", reduction="sum", **o)[0],
    "info_nce": lambda x, y, **o: contrastive.info_nce(x, y, temperature=0.2, **o) * 2 * len(x),
    "hard_negative_nce": lambda x, y, **o: contrastive.hard_negative_nce(
        x, y, temperature=0.2, beta=1.0, **o
    ) * 2 * len(x),
}  # fmt: skip


def remembered(seed=5, number=7, ids=None):
    x, y = embeddings(seed, number=number)
    empty = contrastive.memory_init(10, D)
    return [contrastive.memory_push(empty, z, ids) for z in (x, y)]


def test_the_queue_is_first_in_first_out():
    memory = contrastive.memory_init(5, 2)
    assert not memory.valid.any()
    push = jax.jit(contrastive.memory_push)
    rows = jnp.arange(14.0).reshape(7, 2)
    memory = push(memory, rows[:3], jnp.arange(3))
    assert memory.valid.tolist() == [True] * 3 + [False] * 2
    memory = push(memory, rows[3:6], jnp.arange(3, 6), jnp.array([True, False, True]))
    np.testing.assert_array_equal(memory.embeddings, rows[jnp.array([5, 1, 2, 3, 4])])
    assert memory.ids.tolist() == [5, 1, 2, 3, 4]
    assert memory.age.tolist() == [0, 1, 1, 0, 0]
    assert memory.valid.tolist() == [True, True, True, True, False]
    assert int(memory.next) == 1
    assert contrastive.memory_younger(memory, 0).valid.tolist() == [True, False, False, True, False]


@pytest.mark.parametrize("block_size", [None, 4])
@pytest.mark.parametrize("name", LOSSES)
def test_what_is_remembered_is_a_negative(name, block_size, x64):
    """As a batch in which these have losses as well, which do not count.

    In float64: the softmax of a softmax loses more than a part in 1e5 of small slopes in float32.
    """
    x, y = jax.tree.map(jnp.float64, embeddings())
    memory_x, memory_y = (
        memory._replace(embeddings=memory.embeddings.astype(jnp.float64)) for memory in remembered()
    )
    loss = LOSSES[name]
    grad = jax.value_and_grad(loss, (0, 1))
    found = grad(x, y, memory_x=memory_x, memory_y=memory_y, block_size=block_size)
    past_x, past_y = (memory.embeddings[:7] for memory in (memory_x, memory_y))

    def whole(x, y):
        # One direction at a time: the candidates of the other are other ones.
        weights = jnp.arange(B + 7) < B
        total = 0
        for direction, parts in (
            ("x_to_y", ((x, past_x), (y, past_y))),
            ("y_to_x", ((x, past_x), (y, past_y))),
        ):
            a, b = (jnp.concatenate(part) for part in parts)
            options = {"directions": direction, "weights": weights.astype(jnp.float64)}
            value = loss(a, b, **options)
            total = total + (value if name in ("hardest", "all") else value / 2)
        return total

    wanted = jax.value_and_grad(whole, (0, 1))(x, y)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-12)
    chex.assert_trees_all_close(found[1], wanted[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("told", ["ids", "mask", "nothing"])
@pytest.mark.parametrize("block_size", [None, 4])
def test_what_is_remembered_may_be_a_positive(told, block_size, x64):
    """Where an id comes back, for losses that pull positives; a mask and no ids say nothing."""
    x, y = (np.asarray(z, np.float64) for z in embeddings())
    ids, past_ids = np.arange(B) // 2, np.arange(7) + 2  # of which 2 to 5 are in the batch
    past = np.asarray(embeddings(5, number=7)[1], np.float64)
    memory = contrastive.memory_init(10, D, dtype=float)
    memory = contrastive.memory_push(memory, jnp.asarray(past), jnp.asarray(past_ids))
    same = ids[:, None] == ids[None, :]
    positives: Any = {"ids": ids, "mask": same, "nothing": None}[told]
    inside = np.eye(B, dtype=bool) if told == "nothing" else same
    before = (ids[:, None] == past_ids[None, :]) & (told == "ids")
    positive = np.concatenate([inside, before], axis=1)
    scores = lambda x: oracles.normalized(x) @ oracles.normalized(np.concatenate([y, past])).T
    options: dict[str, Any] = {"memory_y": memory, "block_size": block_size}
    everything = np.ones_like(positive)
    partners = jnp.asarray(y)
    losses: Any = [
        (
            lambda x: contrastive.sigmoid_loss(
                x, partners, scale=5.0, bias=-2.0, positives=positives, **options
            ),
            lambda x: oracles.sigmoid_loss(scores(x), 5.0, -2.0, positive, everything),
        ),
    ]
    if told != "nothing":
        losses.append(
            (
                lambda x: contrastive.multi_positive(
                    x, partners, positives, temperature=0.3, directions="x_to_y", **options
                ),
                lambda x: oracles.multi_positive(scores(x), 0.3, positive, everything, ("x_to_y",)),
            )
        )
    for loss, oracle in losses:
        value, gradient = jax.value_and_grad(loss)(jnp.asarray(x))
        np.testing.assert_allclose(value, oracle(x), rtol=1e-12)
        wanted = numeric_gradient(oracle, (x,), 0)
        np.testing.assert_allclose(gradient, wanted, rtol=1e-6, atol=1e-8)


def test_the_gradient_is_that_of_constants():
    x, y = embeddings()
    memory_x, memory_y = remembered()

    def loss(x, y, past):
        memories: Any = {
            "memory_x": memory_x._replace(embeddings=past[0]),
            "memory_y": memory_y._replace(embeddings=past[1]),
        }
        return contrastive.info_nce(x, y, temperature=0.2, **memories)

    past = (memory_x.embeddings, memory_y.embeddings)
    slopes = jax.grad(loss, 2)(x, y, past)
    chex.assert_trees_all_equal(slopes, jax.tree.map(jnp.zeros_like, past))


def test_ids_are_left_out():
    """The memory has the batch itself, as it was: with its ids nothing changes."""
    x, y = embeddings()
    ids = jnp.arange(B) + 3
    empty = contrastive.memory_init(2 * B, D)
    memories = {
        "memory_x": contrastive.memory_push(empty, x, ids),
        "memory_y": contrastive.memory_push(empty, y, ids),
    }
    plain, found = (
        {name: loss(x, y, positives=ids, **more) for name, loss in LOSSES.items()}
        for more in ({}, memories)
    )
    np.testing.assert_allclose(found["hardest"], plain["hardest"], **TOLERANCE)
    np.testing.assert_allclose(found["all"], 2 * plain["all"], **TOLERANCE)  # every negative twice
    # Twice the sum of exponentials: the loss of odds that are halved.
    each = lambda x, y, **o: contrastive.info_nce(
        x, y, temperature=0.2, weights=jnp.eye(B)[0], directions="x_to_y", positives=ids, **o
    ) * B  # fmt: skip
    once, twice = each(x, y), each(x, y, memory_y=memories["memory_y"])
    np.testing.assert_allclose(jnp.expm1(twice), 2 * jnp.expm1(once), rtol=1e-4)
    assert found["hard_negative_nce"] > plain["hard_negative_nce"]
    younger = contrastive.memory_younger(memories["memory_y"], -1)
    found = contrastive.info_nce(x, y, memory_y=younger)
    np.testing.assert_allclose(found, contrastive.info_nce(x, y), **TOLERANCE)


def test_a_mask_says_nothing_of_what_is_remembered():
    """And what came without ids belongs to nothing."""
    x, y = embeddings()
    memory = contrastive.memory_push(contrastive.memory_init(9, D), remembered()[1].embeddings[:7])
    loss = lambda **o: contrastive.hinge_loss(x, y, mining="all", directions="x_to_y", **o)[0]
    plain = loss(memory_y=memory)
    for positives in (np.eye(B, dtype=bool), np.arange(B)):
        np.testing.assert_allclose(loss(memory_y=memory, positives=positives), plain, rtol=1e-6)
    with pytest.raises(ValueError, match="memory_x must be None with directions='x_to_y'"):
        loss(memory_x=memory)


def test_what_is_not_valid_may_hold_anything():
    x, y = embeddings()
    memory = contrastive.memory_push(contrastive.memory_init(10, D), remembered()[1].embeddings[:7])
    spoilt = memory._replace(embeddings=memory.embeddings.at[7:].set(jnp.nan))
    for loss in LOSSES.values():
        both = [
            jax.value_and_grad(functools.partial(loss, memory_y=m), (0, 1))(x, y)
            for m in (memory, spoilt)
        ]
        chex.assert_trees_all_equal(*both)


def test_memories_can_be_donated():
    push = jax.jit(contrastive.memory_push, donate_argnums=0)
    assert int(push(contrastive.memory_init(4, 3), jnp.ones((2, 3))).next) == 2
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    update = jax.jit(contrastive.momentum_update, donate_argnums=0)
    momentum = contrastive.momentum_init(params, 4, 2)
    for _ in range(3):  # in bfloat16 it would not move
        momentum = update(momentum, {"w": jnp.full(3, 2.0, jnp.bfloat16)}, *[jnp.ones((2, 2))] * 2)
    np.testing.assert_allclose(momentum.params["w"], 2 - 0.999**3, rtol=1e-6)
    assert params["w"].shape == (3,)


def test_a_slow_encoder_follows():
    params = {"w": jnp.ones(3)}
    momentum = contrastive.momentum_init(params, 4, 2)
    keys = jnp.ones((2, 2))
    fast = optax.apply_updates(params, {"w": jnp.full(3, 10.0)})
    momentum = contrastive.momentum_update(momentum, fast, keys, 2 * keys, decay=0.9)
    np.testing.assert_allclose(momentum.params["w"], 0.9 * 1 + 0.1 * 11)
    np.testing.assert_array_equal(momentum.memory_x.embeddings[:2], keys)
    np.testing.assert_array_equal(momentum.memory_y.embeddings[:2], 2 * keys)
    for name, bad in (("keys_x", (jnp.ones((2, 3)), keys)), ("keys_y", (keys, jnp.ones((5, 2))))):
        with pytest.raises(ValueError, match=rf"{name} must be of shape \(B, 2\) with B in 1..4"):
            contrastive.momentum_update(momentum, fast, *bad)


def test_nothing_compiles_anew():
    x, y = embeddings()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(memory, x, y):
        loss, _ = contrastive.hinge_loss(x, y, memory_y=memory)
        return contrastive.memory_push(memory, y), loss

    memory = contrastive.memory_init(20, D)
    losses = []
    for _ in range(4):
        memory, loss = step(memory, x, y)
        losses.append(float(loss))
    assert losses[0] < losses[1]  # its own past is a negative, without ids
    assert losses[1] == pytest.approx(losses[3])


def test_bad_input():
    x, y = embeddings()
    memory = contrastive.memory_init(5, D)
    with pytest.raises(ValueError, match=r"embeddings must be of shape \(B, 5\) with B in 1..5"):
        uncompiled.memory_push(memory, x)
    with pytest.raises(ValueError, match="ids must be of shape"):
        uncompiled.memory_push(memory, x[:3], jnp.arange(2))
    with pytest.raises(ValueError, match="embeddings must be finite; 1 of 3 rows are not: 1"):
        uncompiled.memory_push(memory, x[:3].at[1, 0].set(jnp.nan))
    padding = uncompiled.memory_push(memory, x[:3].at[1, 0].set(jnp.nan), valid=jnp.arange(3) != 1)
    assert np.isfinite(uncompiled.hinge_loss(x, y, memory_y=padding)[0])
    with pytest.raises(TypeError, match="dtype must be floating, got int"):
        contrastive.memory_init(4, 2, dtype=jnp.int32)
    with pytest.raises(ValueError, match="size must be an integer of at least 1, got 0"):
        contrastive.memory_init(0, 3)
    with pytest.raises(ValueError, match="memory_y must have embeddings of 5 numbers"):
        uncompiled.hinge_loss(x, y, memory_y=contrastive.memory_init(5, 3))
    with pytest.raises(ValueError, match="margin must be a number with a memory"):
        uncompiled.hinge_loss(x, y, memory_y=memory, margin=np.ones((B, B)))
