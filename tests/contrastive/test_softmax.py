"""Losses by softmax and sigmoid against loops in float64, in value and gradient."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contrastive import oracles

from tests.contrastive import compiled as contrastive
from tests.contrastive.problems import IDS, VALID, B, embeddings, numeric_gradient, some_fast

BLOCKS = pytest.mark.parametrize("block_size", [None, 5], ids=["dense", "blocks"])
TOLERANCE: dict[str, Any] = {"rtol": 2e-5, "atol": 2e-6}
# Central differences in float64 have an error of about 1e-9.
DIFFERENCES: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-8}
MASK = IDS[:, None] == IDS[None, :]


def cosines(x, y):
    return oracles.normalized(x) @ oracles.normalized(y).T


def negative(ids=None, valid=None):
    return oracles.negatives_of(B, ids=ids, valid=valid)


def both(valid=None):
    valid = np.ones(B, bool) if valid is None else valid
    return valid[:, None] & valid[None, :]


CASES: dict[str, tuple[Any, Any]] = {
    "info_nce": (
        lambda x, y, **o: contrastive.info_nce(x, y, temperature=0.3, **o),
        lambda x, y: oracles.info_nce(cosines(x, y), 0.3, negative()),
    ),
    "info_nce, ids": (
        lambda x, y, **o: contrastive.info_nce(x, y, temperature=0.3, positives=IDS, **o),
        lambda x, y: oracles.info_nce(cosines(x, y), 0.3, negative(IDS)),
    ),
    "info_nce, one way, weights": (
        lambda x, y, **o: contrastive.info_nce(
            x, y, temperature=0.3, directions="y_to_x", weights=np.arange(B), **o
        ),
        lambda x, y: oracles.info_nce(
            cosines(x, y), 0.3, negative(), np.arange(B), directions=("y_to_x",)
        ),
    ),
    "multi_positive": (
        lambda x, y, **o: contrastive.multi_positive(x, y, IDS, temperature=0.3, **o),
        lambda x, y: oracles.multi_positive(cosines(x, y), 0.3, MASK, both()),
    ),
    "multi_positive, mask": (
        lambda x, y, **o: contrastive.multi_positive(x, y, MASK, temperature=0.3, **o),
        lambda x, y: oracles.multi_positive(cosines(x, y), 0.3, MASK, both()),
    ),
    "sup_con": (
        lambda x, y, **o: contrastive.sup_con(x, IDS, temperature=0.3, **o),
        lambda x, y: oracles.multi_positive(
            cosines(x, x), 0.3, MASK & ~np.eye(B, dtype=bool), ~np.eye(B, dtype=bool), ("x_to_y",)
        ),
    ),
    **{
        f"hard negatives, beta {beta}, rate {rate}": (
            lambda x, y, beta=beta, rate=rate, **o: contrastive.hard_negative_nce(
                x, y, temperature=0.3, beta=beta, positive_rate=rate, **o
            ),
            lambda x, y, beta=beta, rate=rate: oracles.hard_negative_nce(
                cosines(x, y), 0.3, negative(), beta, rate
            ),
        )
        for beta, rate in ((0.0, 0.0), (1.0, 0.0), (0.0, 0.1), (0.7, 0.2))
    },
    "sigmoid": (
        lambda x, y, **o: contrastive.sigmoid_loss(x, y, scale=5.0, bias=-2.0, **o),
        lambda x, y: oracles.sigmoid_loss(cosines(x, y), 5.0, -2.0, np.eye(B, dtype=bool), both()),
    ),
    "sigmoid, ids": (
        lambda x, y, **o: contrastive.sigmoid_loss(x, y, scale=5.0, bias=-2.0, positives=IDS, **o),
        lambda x, y: oracles.sigmoid_loss(cosines(x, y), 5.0, -2.0, MASK, both()),
    ),
    "sigmoid, padding": (
        lambda x, y, **o: contrastive.sigmoid_loss(x, y, scale=5.0, bias=-2.0, valid=VALID, **o),
        lambda x, y: oracles.sigmoid_loss(
            cosines(x, y), 5.0, -2.0, np.eye(B, dtype=bool), both(VALID)
        ),
    ),
}


@pytest.mark.parametrize(("name", "block_size"), some_fast(CASES, (None, 5), every=3))
def test_value_and_gradient(name, block_size, x64):
    function, oracle = CASES[name]
    x, y = (jnp.asarray(z, jnp.float64) for z in embeddings())
    loss = jax.jit(lambda x, y: function(x, y, block_size=block_size))
    value, gradients = jax.value_and_grad(loss, (0, 1))(x, y)
    np.testing.assert_allclose(value, oracle(x, y), rtol=1e-10)
    for number in (0, 1):
        wanted = numeric_gradient(oracle, (np.asarray(x), np.asarray(y)), number)
        np.testing.assert_allclose(gradients[number], wanted, **DIFFERENCES)


@pytest.mark.parametrize(("name", "block_size"), some_fast(CASES, (None, 5), every=7))
def test_float32_is_as_good_as_it_can_be(name, block_size):
    function, oracle = CASES[name]
    x, y = embeddings()
    np.testing.assert_allclose(function(x, y, block_size=block_size), oracle(x, y), **TOLERANCE)


@BLOCKS
def test_temperature_scale_and_bias_are_learned(block_size, x64):
    x, y = (jnp.asarray(z, jnp.float64) for z in embeddings())
    scores, eye = cosines(x, y), np.eye(B, dtype=bool)
    slope = jax.grad(lambda t: contrastive.info_nce(x, y, temperature=t, block_size=block_size))
    wanted = numeric_gradient(
        lambda t: oracles.info_nce(scores, t, negative()), (np.float64(0.3),), 0
    )
    np.testing.assert_allclose(slope(0.3), wanted, **DIFFERENCES)
    candidates = ~eye
    others: Any = (
        (
            lambda t: contrastive.multi_positive(x, y, IDS, temperature=t, block_size=block_size),
            lambda t: oracles.multi_positive(scores, t, MASK, both()),
        ),
        (
            lambda t: contrastive.sup_con(x, IDS, temperature=t, block_size=block_size),
            lambda t: oracles.multi_positive(
                cosines(x, x), t, MASK & candidates, candidates, ("x_to_y",)
            ),
        ),
        (
            lambda t: contrastive.hard_negative_nce(
                x, y, temperature=t, beta=0.7, positive_rate=0.1, block_size=block_size
            ),
            lambda t: oracles.hard_negative_nce(scores, t, negative(), 0.7, 0.1),
        ),
    )
    for loss, oracle in others:
        wanted = numeric_gradient(oracle, (np.float64(0.3),), 0)
        np.testing.assert_allclose(jax.grad(loss)(0.3), wanted, **DIFFERENCES)
    loss = lambda t, b: contrastive.sigmoid_loss(x, y, scale=t, bias=b, block_size=block_size)
    slopes = jax.grad(loss, (0, 1))(5.0, -2.0)
    oracle = lambda t, b: oracles.sigmoid_loss(scores, t, b, eye, both())
    for number in (0, 1):
        wanted = numeric_gradient(oracle, (np.float64(5.0), np.float64(-2.0)), number)
        np.testing.assert_allclose(slopes[number], wanted, **DIFFERENCES)


def test_unique_ids_are_no_ids():
    x, y = embeddings()
    ids = np.random.default_rng(0).permutation(B) + 7
    for loss in (contrastive.info_nce, contrastive.sigmoid_loss):
        np.testing.assert_allclose(loss(x, y, positives=ids), loss(x, y), rtol=1e-6)
    np.testing.assert_allclose(
        contrastive.multi_positive(x, y, ids), contrastive.info_nce(x, y), rtol=1e-5
    )


def test_a_low_temperature_does_not_overflow():
    x, y = embeddings()
    for temperature in (1e-3, 1e-6):
        value, gradient = jax.value_and_grad(contrastive.info_nce)(x, y, temperature=temperature)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
        # The maximum of slacks, over the temperature.
        slack, _ = contrastive.hinge_loss(x, y, margin=0.0)
        np.testing.assert_allclose(value * temperature * 2, slack, rtol=1e-2)


def test_several_positives_of_one_set_need_not_be_there():
    z, _ = embeddings()
    assert contrastive.sup_con(z, np.arange(B)) == 0
    gradient = jax.grad(contrastive.sup_con)(z, np.arange(B))
    np.testing.assert_array_equal(gradient, 0)


def test_bad_input():
    x, y = embeddings()
    cases: Any = (
        (contrastive.info_nce, {"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        (contrastive.hard_negative_nce, {"beta": -1}, "beta must be at least 0, got -1"),
        (contrastive.hard_negative_nce, {"positive_rate": 1}, "positive_rate.*below 1, got 1"),
        (contrastive.sigmoid_loss, {"scale": -1.0}, "scale must be above 0"),
    )
    for function, options, message in cases:
        with pytest.raises(ValueError, match=message):
            function(x, y, **options)
    with pytest.raises(TypeError, match="labels must be integers, got float"):
        contrastive.sup_con(x, np.ones(B))
    with pytest.raises(ValueError, match=r"labels must be of shape \(12,\), got \(3,\)"):
        contrastive.sup_con(x, np.arange(3))
