"""Triplet losses within one set against loops over anchors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contrastive import oracles

from tests.contrastive import compiled as contrastive
from tests.contrastive.problems import IDS, embeddings, numeric_gradient, some_fast

LABELS = IDS % 4
OPTIONS: Any = (
    {},
    {"smooth": True},
    {"reduction": "sum"},
    {"reduction": "active"},
    {"similarity": "euclidean"},
)
MININGS: Any = ("hardest", "semi_hard")


def oracle(z, mining, *, margin=0.3, smooth=False, reduction="mean", similarity="cosine"):
    if similarity == "cosine":
        scores = oracles.normalized(z) @ oracles.normalized(z).T
    else:
        scores = -np.linalg.norm(z[:, None] - z[None], axis=2)
    found = oracles.triplets(scores, LABELS, mining)
    slacks = np.array([margin + scores[a, n] - scores[a, p] for a, p, n in found])
    losses = np.log1p(np.exp(slacks)) if smooth else np.maximum(slacks, 0)
    counts = {"mean": len(found), "sum": 1, "active": np.sum(slacks > 0)}
    return losses.sum() / counts[reduction]


@pytest.mark.parametrize(
    ("mining", "options", "block_size"), some_fast(MININGS, OPTIONS, (None, 5), every=4)
)
def test_value_and_gradient(mining, options, block_size, x64):
    z = jnp.asarray(embeddings()[0], jnp.float64)
    loss = jax.jit(
        lambda z: contrastive.triplet_loss(
            z, LABELS, margin=0.3, mining=mining, block_size=block_size, **options
        )
    )
    value, gradient = jax.value_and_grad(loss)(z)
    wanted = lambda z: oracle(z, mining, **options)
    np.testing.assert_allclose(value, wanted(np.asarray(z)), rtol=1e-10)
    np.testing.assert_allclose(
        gradient, numeric_gradient(wanted, (np.asarray(z),), 0), rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("mining", MININGS)
def test_no_triplet_costs_nothing(mining):
    z, _ = embeddings()
    for labels in (np.arange(12), np.zeros(12, int)):
        loss = lambda z, labels=labels: contrastive.triplet_loss(z, labels, mining=mining)
        value, gradient = jax.value_and_grad(loss)(z)
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("mining", MININGS)
def test_equal_embeddings_cost_the_margin(mining):
    """And have a finite gradient, also of the distance, which has none at zero."""
    z = jnp.ones((12, 3))
    for similarity in ("cosine", "euclidean"):
        loss = lambda z, similarity=similarity: contrastive.triplet_loss(
            z, LABELS, margin=0.25, mining=mining, similarity=similarity
        )
        value, gradient = jax.value_and_grad(loss)(z)
        assert float(value) == pytest.approx(0.25, abs=1e-6)
        np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_a_copy_of_the_positive_is_not_semi_hard():
    """Not by a rounding error either: then its hinge would be the margin, not that of another."""
    z = np.array([[1, 0.2], [0.9, 0.1], [0.9, 0.1], [0.2, 0.4]], np.float32)
    z[2] *= 1 - 1e-7
    options: Any = {"mining": "semi_hard", "similarity": "dot", "reduction": "sum"}
    loss = contrastive.triplet_loss(jnp.asarray(z), np.array([0, 0, 1, 2]), **options)
    scores = z @ z.T
    # Of anchor 0 the fourth is below the positive; of anchor 1 too, as the third is in any case.
    wanted = [0.2 + scores[0, 3] - scores[0, 1], 0.2 + scores[1, 2] - scores[1, 0]]
    assert float(loss) == pytest.approx(np.maximum(wanted, 0).sum(), abs=1e-6)
    assert wanted[0] < 0 < wanted[1]


def test_bad_input():
    z, _ = embeddings()
    cases: Any = (
        ({"mining": "all"}, r"mining must be one of \('hardest', 'semi_hard'\), got 'all'"),
        ({"margin": np.ones((12, 12))}, r"margin must be a number, got shape \(12, 12\)"),
        ({"reduction": "none"}, "reduction must be one of"),
    )
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            contrastive.triplet_loss(z, LABELS, **options)
