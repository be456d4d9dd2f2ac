"""Hinge losses: values and gradients of every mining against loops in float64."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contrastive import oracles

from tests.contrastive import compiled as contrastive
from tests.contrastive.problems import IDS, VALID, B, D, embeddings, some_fast

# Sums of B^2 numbers of order 1 in float32.
TOLERANCE: dict[str, Any] = {"rtol": 2e-5, "atol": 2e-6}

MINING: dict[str, tuple[Any, dict[str, Any]]] = {
    "all": ("all", {}),
    "hardest": ("hardest", {}),
    "top 1": (contrastive.top_k(1), {"mining": "top_k", "k": 1}),
    "top 3": (contrastive.top_k(3), {"mining": "top_k", "k": 3}),
    "top 10 of 30": (contrastive.top_k(10, most=30), {"mining": "top_k", "k": 10}),
    "top 30": (contrastive.top_k(30), {"mining": "top_k", "k": 30}),
    "semi-hard": ("semi_hard", {"mining": "semi_hard"}),
    "semi-hard or nothing": (
        contrastive.semi_hard(otherwise="nothing"),
        {"mining": "semi_hard", "otherwise": "nothing"},
    ),
    "soft": (contrastive.soft(7.0), {"mining": "soft", "beta": 7.0}),
    "selective": (contrastive.selective(0.1), {"mining": "selective", "epsilon": 0.1}),
    "mixed": (contrastive.mixed(0.3), {"mining": "mixed", "weight": 0.3}),
    "mixed sums": (
        contrastive.mixed(0.3, mean=False),
        {"mining": "mixed", "weight": 0.3, "mean": False},
    ),
}
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "ids": ({"positives": IDS}, {"ids": IDS}),
    "mask": (
        {"positives": IDS[:, None] == IDS[None, :]},
        {"mask": IDS[:, None] == IDS[None, :]},
    ),
    "padding": ({"valid": VALID, "positives": IDS}, {"valid": VALID, "ids": IDS}),
    "margins": (
        {"margin": np.linspace(0, 0.5, B * B).reshape(B, B)},
        {"margin": np.linspace(0, 0.5, B * B).reshape(B, B)},
    ),
    "one way": ({"directions": "x_to_y"}, {"directions": "x_to_y"}),
    "other way": ({"directions": "y_to_x"}, {"directions": "y_to_x"}),
    "weights": ({"weights": np.linspace(0, 2, B)}, {"weights": np.linspace(0, 2, B)}),
}


def expected(name, setting, x, y):
    """Value and gradients by x and y of the sum over anchors, by cosine."""
    options = {"mining": name, **MINING[name][1], **SETTINGS[setting][1]}
    mining = options.pop("mining")
    scores = oracles.normalized(x) @ oracles.normalized(y).T
    value, slopes = oracles.hinge_loss(scores, mining, **options)
    return value, oracles.through_cosine(x, y, slopes)


@pytest.mark.parametrize(
    ("name", "setting", "block_size"), some_fast(MINING, SETTINGS, (None, 5, 1), every=8)
)
def test_value_and_gradient(name, setting, block_size):
    x, y = embeddings()
    options = {"reduction": "sum", "block_size": block_size, **SETTINGS[setting][0]}

    @jax.jit
    def function(x, y):
        return contrastive.hinge_loss(x, y, mining=MINING[name][0], **options)

    (value, _), gradients = jax.value_and_grad(function, (0, 1), has_aux=True)(x, y)
    wanted, slopes = expected(name, setting, x, y)
    assert wanted > 0.1
    np.testing.assert_allclose(value, wanted, **TOLERANCE)
    for found, slope in zip(gradients, slopes, strict=True):
        np.testing.assert_allclose(found, slope, **TOLERANCE)


INFO: dict[str, dict[str, Any]] = {
    name: SETTINGS[name][0] for name in ("plain", "ids", "mask", "padding", "one way", "margins")
} | {"no false negatives": {"ignore_above": 0.2}, "one image": {"positives": np.r_[[0] * 11, 1]}}


def info_of(x, y, options):
    """All fields by loops over anchors."""
    scores = oracles.normalized(x) @ oracles.normalized(y).T
    positives = options.get("positives")
    by_mask = positives is not None and positives.ndim == 2
    valid = options.get("valid", np.ones(B, bool))
    negative = oracles.negatives_of(
        B, valid=valid, **({"mask": positives} if by_mask else {"ids": positives})
    )
    positive = ~negative & valid[:, None] & valid[None, :] & ~np.eye(B, dtype=bool)
    margins = np.broadcast_to(options.get("margin", 0.2), (B, B))
    rows = []
    for flip in (False, True)[: 1 if "directions" in options else 2]:
        s, n, p, m = (a.T if flip else a for a in (scores, negative, positive, margins))
        for i in range(B):
            there = n[i] & (s[i] <= s[i, i] + options.get("ignore_above", np.inf))
            if not there.any():
                continue
            loss = max(0, np.max((m[i] + s[i])[there]) - s[i, i])
            hardest = s[i][there].max()
            other = s[i][p[i]].max(initial=-np.inf)
            slack = max(0, margins.mean() + hardest - s[i, i])
            rows.append((loss > 0, hardest < s[i, i], hardest - s[i, i], other > hardest, slack))
    means = np.mean(rows, axis=0)
    return [*means[:4], means[4] / margins.mean(), len(rows)]


@pytest.mark.parametrize(("name", "block_size"), some_fast(INFO, (None, 5), every=2))
def test_info(name, block_size, x64):
    x, y = (jnp.asarray(z, jnp.float64) for z in embeddings(noise=0.5))
    _, info = contrastive.hinge_loss(x, y, block_size=block_size, **INFO[name])
    wanted = info_of(np.asarray(x), np.asarray(y), INFO[name])
    assert 0 < wanted[0] <= 1
    np.testing.assert_allclose(info, wanted, rtol=1e-10, atol=1e-14)


S = np.array([[0.5, 0.6, 0.2], [0.1, 0.7, 0.65], [0.3, 0.2, 0.4]])


@pytest.mark.parametrize(
    ("mining", "margin", "value"),
    [
        ("all", 0.2, 1.10),
        ("hardest", 0.2, 1.10),
        ("all", 0.5, 3.80),
        ("hardest", 0.5, 2.90),
        (contrastive.top_k(1), 0.5, 2.90),
        (contrastive.top_k(2), 0.5, 3.80),
        (contrastive.soft(1e4), 0.5, 2.90),
    ],
)
def test_numbers_of_the_specification(mining, margin, value):
    found, _ = contrastive.hinge_loss(
        jnp.asarray(S, jnp.float32), jnp.eye(3), margin=margin, mining=mining, similarity="dot",
        reduction="sum",
    )  # fmt: skip
    assert float(found) == pytest.approx(value, abs=2e-4)


@pytest.mark.parametrize("block_size", [None, 3])
@pytest.mark.parametrize(("mining", "count"), [("hardest", 2), ("all", 2 * (B - 1))])
def test_a_collapsed_model(mining, count, block_size):
    """All embeddings the same: 2 B alpha, or 2 B (B-1) alpha, and the gradient vanishes."""
    x = jnp.ones((B, D))
    options: dict[str, Any] = {"mining": mining, "reduction": "sum", "block_size": block_size}
    function = lambda x, y: contrastive.hinge_loss(x, y, margin=0.25, **options)
    (value, info), gradients = jax.value_and_grad(function, (0, 1), has_aux=True)(x, x)
    assert float(value) == pytest.approx(B * count * 0.25, rel=1e-5)
    assert float(info.collapse_ratio) == pytest.approx(1, rel=1e-5)
    chex.assert_trees_all_close(gradients, (jnp.zeros_like(x),) * 2, atol=1e-4)


def test_separated_pairs_cost_nothing():
    for mining in ("all", "hardest", contrastive.soft(50.0)):
        value, info = contrastive.hinge_loss(jnp.eye(6), jnp.eye(6), margin=0.5, mining=mining)
        assert value == 0
        assert info.active_fraction == 0
        assert info.accuracy == 1


def test_two_pairs_have_one_negative_each():
    x, y = embeddings(number=2)
    values = [contrastive.hinge_loss(x, y, mining=m)[0] for m in ("all", "hardest", "semi_hard")]
    np.testing.assert_allclose(values[1:], values[0], rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_between_hardest_and_all(seed):
    x, y = embeddings(seed)
    loss = lambda mining: float(contrastive.hinge_loss(x, y, mining=mining, reduction="sum")[0])
    hardest, every = loss("hardest"), loss("all")
    sums = [loss(contrastive.top_k(k)) for k in (1, 2, 4, 8, B - 1, B + 5)]
    assert hardest == pytest.approx(sums[0], rel=1e-6)
    assert (np.diff(sums) > -1e-5).all()  # B + 5 are as many as B - 1, summed in another order
    assert sums[-2:] == pytest.approx([every] * 2, rel=1e-5)
    assert hardest <= every <= (B - 1) * hardest
    # The soft maximum is above by log(B - 1) / beta per anchor, at most.
    for beta in (1.0, 30.0, 1e4):
        assert hardest - 1e-4 <= loss(contrastive.soft(beta)) <= hardest + 2 * B * np.log(B) / beta


def test_duplicates_cost_the_sum_of_hinges_four_margins_per_pair_of_them():
    """Two pairs of one image that are not known to belong together, with different captions."""
    rng = np.random.default_rng(0)
    alpha, number = 0.2, 8
    x = oracles.normalized(rng.normal(size=(number, 16)))
    y = oracles.normalized(x + 0.02 * rng.normal(size=x.shape))
    x[5] = x[2]
    y[5] = oracles.normalized(y[2:3] + 0.05 * rng.normal(size=(1, 16)))[0]
    ids = np.array([0, 1, 2, 3, 4, 2, 6, 7])
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)

    def loss(x, y, positives, mining):
        return contrastive.hinge_loss(
            x, y, margin=alpha, mining=mining, positives=positives, reduction="sum"
        )

    grad = jax.value_and_grad(loss, (0, 1), has_aux=True)
    (plain, _), gradient = grad(x, y, None, "all")
    (masked, info), wanted = grad(x, y, ids, "all")
    assert float(plain - masked) == pytest.approx(4 * alpha, rel=1e-5)
    # Harmless: x_2 and x_5 are the same embedding, and together they have the same gradient.
    np.testing.assert_allclose(
        gradient[0][2] + gradient[0][5], wanted[0][2] + wanted[0][5], atol=1e-5
    )
    np.testing.assert_allclose(gradient[1], wanted[1], atol=1e-5)
    assert float(info.duplicate_fraction) == pytest.approx(4 / (2 * number))
    # The hardest negative of all four anchors is the duplicate, whatever the others do.
    (plain, _), _ = grad(x, y, None, "hardest")
    (masked, _), _ = grad(x, y, ids, "hardest")
    assert float(plain - masked) <= 4 * alpha + 1e-6


@pytest.mark.parametrize("name", MINING)
def test_both_directions_are_alike(name):
    x, y = embeddings(1)
    loss = lambda x, y: contrastive.hinge_loss(x, y, mining=MINING[name][0], positives=IDS)[0]
    np.testing.assert_allclose(loss(x, y), loss(y, x), rtol=1e-5)
    order = np.random.default_rng(0).permutation(B)
    moved = contrastive.hinge_loss(
        x[order], y[order], mining=MINING[name][0], positives=IDS[order]
    )[0]
    np.testing.assert_allclose(loss(x, y), moved, rtol=1e-5)


@pytest.mark.parametrize("block_size", [None, 2])
@pytest.mark.parametrize("k", [1, 9])
def test_of_equal_negatives_the_first_is_mined(k, block_size):
    """The gradient goes to one of them, whatever the blocks are."""
    x = jnp.eye(4)[:1] * jnp.ones((5, 1))
    y = jnp.asarray([[0.5, 1, 0, 0]] + [[0.5, 0, 1, 0]] * 4)
    mining = "hardest" if k == 1 else contrastive.top_k(1, most=k)
    function = lambda y: contrastive.hinge_loss(
        x, y, mining=mining, similarity="dot", directions="x_to_y", reduction="sum",
        block_size=block_size,
    )[0]  # fmt: skip
    gradient = jax.grad(function)(y)
    # All anchors but the first mine y_0, and the first mines y_1; each pulls its own partner.
    np.testing.assert_array_equal(gradient[:, 0], [3, 0, -1, -1, -1])


def test_at_the_margin_exactly_there_is_no_gradient():
    x = jnp.eye(2)
    y = jnp.asarray([[0.75, 0.25], [0.5, 1.0]])  # slacks of x_0: 0.25 + 0.5 - 0.75 = 0
    for mining in ("all", "hardest", contrastive.top_k(2)):

        def function(y, mining=mining):
            return contrastive.hinge_loss(
                x, y, margin=0.25, mining=mining, similarity="dot", directions="x_to_y"
            )[0]

        value, gradient = jax.value_and_grad(function)(y)
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)
