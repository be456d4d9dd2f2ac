"""Every loss where there is nothing, where something is NaN, and at ties."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.contrastive import compiled as contrastive
from tests.contrastive.problems import B, D, assert_rounded, embeddings, some_fast


def hinge(mining, **more):
    return lambda x, y, **o: contrastive.hinge_loss(x, y, mining=mining, **more, **o)[0]


KEY = jax.random.key(0)
HINGES: dict[str, Any] = {
    "all": hinge("all"),
    "hardest": hinge("hardest"),
    "top 3": hinge(contrastive.top_k(3)),
    "top 20": hinge(contrastive.top_k(20)),
    "top 3 of 20": hinge(contrastive.top_k(3, most=20)),
    "semi-hard": hinge("semi_hard"),
    "semi-hard or nothing": hinge(contrastive.semi_hard(otherwise="nothing")),
    "soft": hinge(contrastive.soft(5.0)),
    "selective": hinge(contrastive.selective(0.2)),
    "mixed": hinge(contrastive.mixed(0.3)),
    "distance weighted": hinge(contrastive.distance_weighted(KEY, limit=2.1)),
    "hardest, smooth": hinge("hardest", smooth=True),
    "all, active": hinge("all", reduction="active"),
    "all, no false negatives": hinge("all", ignore_above=0.1),
    "hardest, no false negatives": hinge("hardest", ignore_above=0.1),
    "all, distances": hinge("all", similarity="euclidean"),
    "hardest, distances": hinge("hardest", similarity="euclidean"),
    "all, order": hinge("all", similarity="order"),
}


def multi_positive(x, y, *, positives=None, **options):
    positives = np.arange(len(x)) if positives is None else positives
    return contrastive.multi_positive(x, y, positives, temperature=0.2, **options)


# An anchor without negatives has loss 0.
FREE = HINGES | {
    "info_nce": lambda x, y, **o: contrastive.info_nce(x, y, temperature=0.2, **o),
    "hard_negative_nce": lambda x, y, **o: contrastive.hard_negative_nce(
        x, y, temperature=0.2, beta=1.0, positive_rate=0.1, **o
    ),
}
PAIRS = FREE | {"multi_positive": multi_positive, "sigmoid": contrastive.sigmoid_loss}
SETS: dict[str, Any] = {
    "sup_con": lambda z, labels, **o: contrastive.sup_con(z, labels, **o),
    "triplets, hardest": lambda z, labels, **o: contrastive.triplet_loss(z, labels, **o),
    "triplets, semi-hard": lambda z, labels, **o: contrastive.triplet_loss(
        z, labels, mining="semi_hard", **o
    ),
    "triplets, semi-hard, distances": lambda z, labels, **o: contrastive.triplet_loss(
        z, labels, mining="semi_hard", similarity="euclidean", **o
    ),
    "triplets, distances": lambda z, labels, **o: contrastive.triplet_loss(
        z, labels, similarity="euclidean", **o
    ),
}


# NaN: traced, where it cannot be refused ----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "where", "block_size"),
    some_fast(PAIRS, ("x", "y", "memory"), (None, 5), every=4),
)
def test_nan_is_not_lost(name, where, block_size):
    x, y = embeddings()
    memory = contrastive.memory_push(contrastive.memory_init(4, D), y[:2] + 0.1)
    loss = jax.jit(lambda x, y, m: PAIRS[name](x, y, memory_y=m, block_size=block_size))
    assert np.isfinite(loss(x, y, memory))
    spoiled = {"x": x, "y": y, "memory": memory}
    if where == "memory":
        spoiled[where] = memory._replace(embeddings=memory.embeddings.at[1, 2].set(jnp.nan))
    else:
        spoiled[where] = spoiled[where].at[3, 1].set(jnp.nan)
    assert np.isnan(loss(*spoiled.values()))


@pytest.mark.parametrize("block_size", [None, 5])
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("alone", [False, True])
def test_nan_is_not_lost_in_a_set(name, alone, block_size):
    """Also of an item that is nobody's positive, and only a negative of the others."""
    z, _ = embeddings()
    labels = np.arange(B) // 2
    labels[:2] = (98, 99)
    loss = jax.jit(lambda z: SETS[name](z, labels, block_size=block_size))
    assert np.isfinite(loss(z))
    assert np.isnan(loss(z.at[1 if alone else 5, 2].set(jnp.nan)))


# Nothing ------------------------------------------------------------------------------------------

NOTHING: dict[str, tuple[int, dict[str, Any]]] = {
    "one pair": (1, {}),
    "all positives by ids": (B, {"positives": np.zeros(B, int)}),
    "all positives by a mask": (B, {"positives": np.ones((B, B), bool)}),
    "all padding": (B, {"valid": np.zeros(B, bool)}),
}


@pytest.mark.parametrize(
    ("name", "case", "block_size"), some_fast(PAIRS, NOTHING, (None, 5), every=5)
)
def test_defined_where_there_is_nothing(name, case, block_size):
    """No NaN in the gradient; without negatives no loss."""
    number, options = NOTHING[case]
    x, y = (z[:number] for z in embeddings())
    loss = lambda x, y: PAIRS[name](x, y, block_size=block_size, **options)
    value, gradients = jax.value_and_grad(loss, (0, 1))(x, y)
    if name in FREE or case == "all padding":
        assert value == 0
        chex.assert_trees_all_equal(gradients, jax.tree.map(jnp.zeros_like, gradients))
    else:
        assert np.isfinite(value)
        chex.assert_tree_all_finite(gradients)


@pytest.mark.parametrize("name", PAIRS)
def test_zero_vectors_have_no_nan(name):
    """In x and in y, and in both of one pair; with cosines their gradient is zero."""
    x, y = (z.at[3].set(0.0) for z in embeddings())
    y = y.at[5].set(0.0)
    value, gradients = jax.jit(jax.value_and_grad(PAIRS[name], (0, 1)))(x, y)
    assert np.isfinite(value)
    chex.assert_tree_all_finite(gradients)
    if "distances" not in name and "order" not in name:
        for row, gradient in ((3, gradients[0]), (3, gradients[1]), (5, gradients[1])):
            np.testing.assert_array_equal(gradient[row], 0)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("labels", [np.arange(B), np.zeros(B, int), np.arange(B) // 2])
def test_sets_with_nothing(name, labels):
    z = embeddings()[0].at[3].set(0.0)
    loss = jax.jit(jax.value_and_grad(lambda z, valid: SETS[name](z, labels, valid=valid)))
    for valid in (np.ones(B, bool), np.zeros(B, bool), np.arange(B) < 1):
        value, gradient = loss(z, valid)
        assert np.isfinite(value)
        chex.assert_tree_all_finite(gradient)
        if not valid[1:].any() or len(set(labels)) == B:
            assert value == 0
            np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("name", PAIRS)
def test_padding_may_hold_anything(name):
    x, y = embeddings()
    valid = np.arange(B) < 9
    spoiled = [z.at[10].set(jnp.nan).at[11].set(jnp.inf) for z in (x, y)]
    grad = jax.jit(jax.value_and_grad(lambda x, y: PAIRS[name](x, y, valid=valid), (0, 1)))
    chex.assert_trees_all_close(grad(*spoiled), grad(x, y), rtol=1e-5, atol=1e-7)


# Ties ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_size", [None, 5, 1])
@pytest.mark.parametrize("dim", [5, 100])
def test_copies_of_the_partner_are_not_above_it(dim, block_size):
    """Whichever way equal scores are rounded, with a limit of 0 too: all stay, at the margin."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(32, dim)), jnp.float32)
    y = jnp.asarray(np.tile(rng.normal(size=dim), (32, 1)), jnp.float32)
    loss, _ = contrastive.hinge_loss(
        x, y, mining="all", directions="x_to_y", reduction="sum", margin=0.25, ignore_above=0.0,
        block_size=block_size,
    )  # fmt: skip
    assert float(loss) == pytest.approx(32 * 31 * 0.25, rel=1e-4)


@pytest.mark.parametrize("limit", [np.inf, np.nan, np.ones(3), -1.0])
def test_a_limit_is_a_number(limit):
    x, y = embeddings()
    loss = lambda limit: contrastive.hinge_loss(x, y, ignore_above=limit)[0]
    with pytest.raises(ValueError, match="ignore_above must be"):
        loss(limit)
    if np.ndim(limit):
        with pytest.raises(ValueError, match=r"ignore_above must be a number, got shape \(3,\)"):
            jax.jit(loss)(limit)


# Half precision -----------------------------------------------------------------------------------

OTHER = ("distance", "order")  # losses with a similarity of their own
HALF = [name for name in PAIRS if not any(word in name for word in OTHER)]
HALF_FAST = ("all", "hardest", "info_nce", "sigmoid")


@pytest.mark.parametrize("name", HALF_FAST)
@pytest.mark.parametrize("block_size", [None, 24])
def test_cosines_in_half_precision_are_of_rounded_rows(name, block_size):
    """Normalized in float32, rounded once, and multiplied exactly."""
    x, y = (3 * z.astype(jnp.bfloat16) for z in embeddings(number=64, dim=16))
    rounded = (contrastive.normalized(z.astype(jnp.float32)).astype(jnp.bfloat16) for z in (x, y))
    found = PAIRS[name](x, y, block_size=block_size)
    exact = PAIRS[name](*(z.astype(jnp.float32) for z in rounded), similarity="dot")
    np.testing.assert_allclose(found, exact, rtol=1e-5)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in HALF_FAST else pytest.mark.slow) for n in HALF]
)
@pytest.mark.parametrize("block_size", [None, 128])
def test_half_precision_is_summed_in_single(name, block_size):
    """With inner products of 512 pairs, as of the same numbers in float32.

    Products of two bfloat16 are exact there, so that only the gradient is rounded, that of partners
    and that of all others each; a sum in bfloat16 of so many terms would be lost.
    """
    x, y = (contrastive.normalized(z).astype(jnp.bfloat16) for z in embeddings(number=512, dim=16))
    loss = lambda x, y: PAIRS[name](x, y, similarity="dot", block_size=block_size)
    value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(x, y)
    exact, slopes = jax.jit(jax.value_and_grad(loss, (0, 1)))(
        *(z.astype(jnp.float32) for z in (x, y))
    )
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    for gradient, slope in zip(gradients, slopes, strict=True):
        assert_rounded(gradient, slope)
