"""Options of the hinge loss: similarities of the user's own, false negatives, soft hinges."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import contrastive as uncompiled
from tests.contrastive import compiled as contrastive
from tests.contrastive.problems import IDS, VALID, B, D, embeddings, numeric_gradient

MININGS: dict[str, Any] = {
    "all": "all",
    "hardest": "hardest",
    "top 3": contrastive.top_k(3),
    "top 9": contrastive.top_k(9),
    "semi-hard": contrastive.semi_hard(otherwise="nothing"),
    "soft": contrastive.soft(4.0),
}


def cosines(x, y):
    """Without a value at zero."""
    x, y = (z / jnp.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    return jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)


@pytest.mark.parametrize("mining", ["all", "hardest"])
@pytest.mark.parametrize("where", ["blocks", "padding", "empty memory"])
def test_a_similarity_without_a_value_at_zero(mining, where):
    """What the library fills up with must not make its gradient NaN."""
    x, y = embeddings()
    options: dict[str, Any] = {
        "blocks": {"block_size": 5},
        "padding": {"valid": VALID},
        "empty memory": {"memory_y": contrastive.memory_push(contrastive.memory_init(20, D), y)},
    }[where]
    grad = lambda similarity: jax.value_and_grad(
        lambda x, y: contrastive.hinge_loss(
            x, y, similarity=similarity, mining=mining, **options
        )[0], (0, 1),
    )(x, y)  # fmt: skip
    chex.assert_trees_all_close(grad(cosines), grad("cosine"), rtol=1e-5, atol=1e-6)


def restated(x, y, name, margin, limit=np.inf, smooth=False):
    """The sum of losses over anchors of both directions, in NumPy."""
    scores = contrastive_cosines(x, y)
    soft = lambda z: np.logaddexp(0, z)
    hinge = soft if smooth else lambda z: np.maximum(z, 0)
    total = 0.0
    for s in (scores, scores.T):
        for i, row in enumerate(s):
            others = (IDS[i] != IDS) & VALID & VALID[i] & (row <= row[i] + limit)
            found = np.sort(row[others])[::-1]
            slacks = margin + found - row[i]
            if name == "semi-hard":
                slacks = slacks[found < row[i]][:1]
            if name == "soft" and len(slacks):
                slacks = np.log(np.sum(np.exp(4.0 * (margin + found))))[None] / 4.0 - row[i]
            most = {"hardest": 1, "top 3": 3, "top 9": 9}.get(name, len(slacks))
            total += hinge(slacks[:most]).sum()
    return total


def contrastive_cosines(x, y):
    x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    return x @ y.T


@pytest.mark.parametrize("block_size", [None, 5])
@pytest.mark.parametrize(("limit", "smooth"), [(0.3, False), (None, True), (0.3, True)])
@pytest.mark.parametrize("name", MININGS)
def test_false_negatives_and_soft_hinges(name, limit, smooth, block_size, x64):
    x, y = (jnp.asarray(z, jnp.float64) for z in embeddings(noise=1.5))
    options: Any = {
        "mining": MININGS[name], "margin": 0.7, "positives": IDS, "valid": VALID,
        "ignore_above": limit, "smooth": smooth, "block_size": block_size, "reduction": "sum",
    }  # fmt: skip
    loss = jax.jit(lambda x, y: contrastive.hinge_loss(x, y, **options)[0])
    value, gradients = jax.value_and_grad(loss, (0, 1))(x, y)
    most = np.inf if limit is None else limit
    wanted = lambda x, y: restated(x, y, name, 0.7, most, smooth)
    np.testing.assert_allclose(value, wanted(np.asarray(x), np.asarray(y)), rtol=1e-9)
    if limit is not None:  # some are left out
        whole = restated(np.asarray(x), np.asarray(y), name, 0.7, np.inf, smooth)
        assert name == "semi-hard" or value < whole - 0.1
    for number in (0, 1):
        slopes = numeric_gradient(wanted, (x, y), number)
        np.testing.assert_allclose(gradients[number], slopes, rtol=1e-6, atol=1e-7)


def test_the_limit_of_false_negatives_may_be_traced():
    x, y = embeddings()
    loss = lambda limit: contrastive.hinge_loss(x, y, mining="all", ignore_above=limit)[0]
    np.testing.assert_allclose(jax.jit(loss)(0.1), loss(0.1), rtol=1e-6)
    assert float(jax.grad(loss)(0.1)) == 0
    np.testing.assert_allclose(loss(2.0), loss(None), rtol=1e-6)
    with pytest.raises(ValueError, match="ignore_above must be at least 0, got -1"):
        loss(-1)


def test_active_anchors():
    """The sum over anchors with a loss; all of them with soft hinges."""
    x, y = embeddings(noise=0.2)
    loss = lambda **o: contrastive.hinge_loss(x, y, margin=0.1, mining="hardest", **o)
    total, info = loss(reduction="sum")
    assert 0 < info.active_fraction < 1
    np.testing.assert_allclose(
        loss(reduction="active")[0], total / (info.active_fraction * 2 * B), rtol=1e-5
    )
    weights = np.arange(B) / B
    weighed = loss(reduction="sum", weights=weights)[0]
    np.testing.assert_allclose(
        loss(reduction="active", weights=weights)[0],
        weighed / (info.active_fraction * 2 * B),
        rtol=1e-5,
    )
    soft, info = loss(reduction="active", smooth=True)
    assert info.active_fraction == 1
    np.testing.assert_allclose(soft, loss(reduction="sum", smooth=True)[0] / (2 * B), rtol=1e-5)


@pytest.mark.parametrize("similarity", ["dot", "euclidean", "order", cosines])
def test_distance_weighted_draws_are_for_cosines(similarity):
    x, y = embeddings()
    mining = contrastive.distance_weighted(jax.random.key(0))
    with pytest.raises(ValueError, match="similarity must be 'cosine' with mining=distance_weig"):
        contrastive.hinge_loss(x, y, mining=mining, similarity=similarity)


class Unhashable:
    """As a dataclass with arrays is, which many models are."""

    __hash__: Any = None

    def __call__(self, x, y):
        return cosines(x, y)


@pytest.mark.parametrize("in_similarity", [False, True])
def test_a_similarity_that_is_not_hashable_is_refused(in_similarity):
    x, y = embeddings()
    similarity: Any = Unhashable()
    if in_similarity:
        similarity = contrastive.Similarity(similarity, similarity, lambda z: z)
    with pytest.raises(TypeError, match="similarity must be hashable, got .*Unhashable"):
        contrastive.hinge_loss(x, y, similarity=similarity)


def copies_far_out(number=16, dim=8, spread=57.0, noise=0.05):
    """Every y twice, with ids of its own; its x is closer to both than rounding errors tell."""
    rng = np.random.default_rng(0)
    y = np.repeat(spread * rng.normal(size=(number, dim)) / np.sqrt(dim), 2, axis=0)
    x = y + noise * rng.normal(size=y.shape) / np.sqrt(dim)
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)


@pytest.mark.parametrize("block_size", [None, 5])
def test_copies_of_the_partner_are_no_nearer_by_rounding_errors(block_size):
    """Distances of all pairs are differences of squares, that of the partner is not."""
    x, y = copies_far_out()
    options: dict[str, Any] = {
        "similarity": "euclidean", "directions": "x_to_y", "block_size": block_size,
    }  # fmt: skip
    mining = contrastive.semi_hard(otherwise="nothing")
    loss, info = contrastive.hinge_loss(x, y, mining=mining, margin=0.2, **options)
    assert loss == 0
    assert info.accuracy == 0
    # Of equal embeddings none is above the partner: all copies count, each with the margin.
    loss, _ = contrastive.hinge_loss(
        x, y, mining="all", margin=0.2, ignore_above=0.0, reduction="sum", **options
    )
    assert float(loss) == pytest.approx(0.2 * len(x), abs=0.1 * len(x))
    z, labels = jnp.concatenate([x, y]), np.r_[np.arange(32), np.arange(32)]
    apart = contrastive.triplet_loss(
        z, labels, mining="semi_hard", similarity="euclidean", margin=0.2, reduction="sum",
        block_size=block_size,
    )  # fmt: skip
    assert apart < 0.2 * 32  # x with its y: the copy of y is not below it


@pytest.mark.parametrize("loss", [uncompiled.hinge_loss, uncompiled.info_nce])
def test_constants_that_are_not_finite_are_told_under_jit(loss):
    x, y = embeddings()
    for options in ({"margin": np.nan}, {"margin": np.full((B, B), np.nan)},
                    {"weights": np.full(B, np.nan)}):  # fmt: skip
        if loss is uncompiled.info_nce and "margin" in options:
            continue
        with pytest.raises(ValueError, match="must be finite"):
            jax.jit(lambda x, y, options=options: loss(x, y, **options))(x, y)


def test_padding_is_inert():
    """Its weights, traced, and its margins may be anything."""
    x, y = embeddings()
    valid = np.arange(B) != 3
    weights = jnp.ones(B).at[3].set(jnp.nan)
    for loss in (lambda *a, **o: contrastive.hinge_loss(*a, **o)[0], contrastive.info_nce):
        found = jax.jit(lambda x, y, w, loss=loss: loss(x, y, weights=w, valid=valid))(
            x, y, weights
        )  # fmt: skip
        np.testing.assert_allclose(found, loss(x, y, valid=valid), rtol=1e-6)
        np.testing.assert_allclose(loss(x, y, weights=weights, valid=valid), found, rtol=1e-6)
    ratios = []
    for value in (0.2, 5.0):
        margin = np.full((B, B), 0.2)
        margin[3], margin[:, 3] = value, value
        info = contrastive.hinge_loss(x, y, margin=margin, valid=valid)[1]
        ratios.append(float(info.collapse_ratio))
    whole = contrastive.hinge_loss(x, y, valid=valid)[1].collapse_ratio
    np.testing.assert_allclose(ratios, whole, rtol=1e-5)


@pytest.mark.parametrize("loss", ["hinge_loss", "info_nce", "hard_negative_nce"])
def test_constants_of_jax_under_jit(loss):
    """Arrays that a function closes over are known there, and what is done to them is traced."""
    x, y = embeddings()
    valid, weights = jnp.arange(B) != 3, jnp.arange(B, dtype=jnp.float32).at[3].set(jnp.nan)
    loss = getattr(uncompiled, loss)
    value = lambda *args, **options: jax.tree.leaves(loss(*args, **options))[0]
    known = jax.jit(lambda x, y: value(x, y, valid=valid, weights=weights))(x, y)
    half = jax.jit(lambda x, y, valid: value(x, y, valid=valid, weights=weights))(x, y, valid)
    given = jax.jit(lambda x, y, v, w: value(x, y, valid=v, weights=w))(x, y, valid, weights)
    np.testing.assert_allclose([known, half], [given] * 2, rtol=1e-6)
    with pytest.raises(ValueError, match="weights must be finite"):
        jax.jit(lambda x, y: value(x, y, weights=weights))(x, y)


def test_numbers_of_negatives_as_arrays():
    with pytest.raises(ValueError, match=r"k must be .*got 0"):
        contrastive.top_k(jnp.int32(0), most=3)
    with pytest.raises(ValueError, match=r"k must be .*got 50"):
        contrastive.top_k(jnp.int32(50), most=3)
    x, y = embeddings()
    loss = lambda mining: contrastive.hinge_loss(x, y, mining=mining)[0]
    np.testing.assert_allclose(
        loss(contrastive.top_k(jnp.int32(2), most=3)), loss(contrastive.top_k(2)), rtol=1e-6
    )


def test_every_other_id_may_be_given(x64):
    """What is remembered without an id belongs to nothing, also to the id -2**31."""
    x, y = (jnp.asarray(z, jnp.float64) for z in embeddings())
    memory = contrastive.memory_push(contrastive.memory_init(B, D), y + 0.1)
    options: dict[str, Any] = {"mining": "all", "memory_y": memory}
    ids = np.arange(B)
    wanted = contrastive.hinge_loss(x, y, positives=ids, **options)[0]
    ids[0] = -(2**31)
    np.testing.assert_allclose(
        contrastive.hinge_loss(x, y, positives=ids, **options)[0], wanted, rtol=1e-12
    )
    rows: Any = np.asarray(y + 0.1).tolist()
    listed = contrastive.memory_push(contrastive.memory_init(B, D), rows)
    np.testing.assert_allclose(listed.embeddings, memory.embeddings, rtol=1e-6)
    with pytest.raises(TypeError, match="embeddings must have a real floating"):
        contrastive.memory_push(memory, jnp.ones((2, D), int))
