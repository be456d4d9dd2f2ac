"""Picked pairs: how they are found on a CPU, and their gradients, also of users' similarities."""

from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxrobust.contrastive import Similarity
from jaxrobust.contrastive._picks import _one_after_the_other
from tests.contrastive import compiled as contrastive
from tests.contrastive.problems import assert_rounded, embeddings

PICKED: dict[str, Any] = {
    "hardest": "hardest", "semi-hard": "semi_hard", "top 3": contrastive.top_k(3),
    "mixed": contrastive.mixed(0.4),
}  # fmt: skip


def gradient_of(x, y, **options):
    loss = lambda x, y: contrastive.hinge_loss(x, y, **options)[0]
    return jax.jit(jax.value_and_grad(loss, (0, 1)))(x, y)


# A few, one after the other --------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 5, 12])
def test_the_first_ones_are_those_of_a_stable_sort(number):
    rng = np.random.default_rng(0)
    priorities = rng.integers(0, 4, size=(20, 12)).astype(np.float32)  # many ties
    priorities[rng.random(priorities.shape) < 0.3] = -np.inf
    columns = np.sort(rng.permutation(100)[:12]).astype(np.int32)
    found = jax.jit(_one_after_the_other, static_argnums=2)(priorities, columns, number)
    order = np.argsort(-priorities, axis=1, kind="stable")[:, :number]
    wanted = np.take_along_axis(priorities, order, axis=1)
    np.testing.assert_array_equal(found.priorities, wanted)
    there = wanted > -np.inf  # of those that are not, any column will do
    np.testing.assert_array_equal(np.asarray(found.columns)[there], columns[order][there])


def test_nan_is_not_lost():
    priorities = jnp.array([[1.0, jnp.nan, 3.0, 2.0], [1.0, 0.0, 3.0, 2.0]])
    found = _one_after_the_other(priorities, jnp.arange(4, dtype=jnp.int32), 3)
    assert np.isnan(found.priorities[0]).all()
    np.testing.assert_array_equal(found.priorities[1], [3, 2, 1])
    np.testing.assert_array_equal(found.columns[1], [2, 3, 0])


# No score is formed twice ----------------------------------------------------------------------


def products(jaxpr: Any, least: int) -> int:
    """Matrix products with so many results or more, in all of a program."""
    number = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            number += equation.outvars[0].aval.size >= least
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            number += products(inner, least)
    return number


@pytest.mark.parametrize("block_size", [None, 16])
def test_mined_scores_are_formed_once(block_size):
    """With the gradient there are as many products of blocks as without, unlike with all."""
    x, y = embeddings(number=64, dim=5)

    def number(mining, with_gradient):
        loss = lambda x, y: contrastive.hinge_loss(x, y, mining=mining, block_size=block_size)[0]
        of = jax.value_and_grad(loss, (0, 1)) if with_gradient else loss
        return products(jax.make_jaxpr(of)(x, y).jaxpr, 64 * 5)

    for mining in ("hardest", "semi_hard", contrastive.top_k(3)):
        assert number(mining, True) == number(mining, False) > 0
    assert number("all", True) > number("all", False)


# Users' similarities ---------------------------------------------------------------------------

PLAIN = Similarity(lambda x, y: x @ y.T, lambda x, y: jnp.sum(x * y, axis=-1), lambda z: z)


@pytest.mark.parametrize("name", sorted(PICKED))
def test_a_similarity_of_the_user_is_as_ours(name):
    mining = PICKED[name]
    x, y = embeddings(number=20, dim=6)
    cosine = PLAIN._replace(prepare=contrastive.normalized)
    found = gradient_of(x, y, similarity=cosine, mining=mining)
    wanted = gradient_of(x, y, mining=mining)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_scores_in_half_precision_are_widened():
    x, y = (z.astype(jnp.bfloat16) for z in embeddings(number=20, dim=6))
    value, slopes = gradient_of(x, y, similarity=PLAIN)
    assert value.dtype == jnp.float32
    assert [slope.dtype for slope in slopes] == [jnp.bfloat16] * 2
    wide = gradient_of(*(z.astype(jnp.float32) for z in (x, y)), similarity=PLAIN)
    np.testing.assert_allclose(value, wide[0], rtol=0.02)


@pytest.mark.parametrize("number", [20, 1030])  # in one go, and in chunks
def test_what_is_prepared_may_have_another_dtype(number):
    """It is cast to that of the embeddings; the gradient is that of the cast."""
    x, y = embeddings(number=number, dim=6)
    weight = np.random.default_rng(0).normal(size=(6, 6))
    narrow = PLAIN._replace(prepare=lambda z: z.astype(jnp.bfloat16))
    rounded = [z.astype(jnp.bfloat16).astype(jnp.float32) for z in (x, y)]
    found, wanted = gradient_of(x, y, similarity=narrow), gradient_of(*rounded, similarity=PLAIN)
    # XLA may leave out a rounding that is followed by a cast back.
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-3)
    for one, other in zip(found[1], wanted[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=0.01, atol=1e-4)
    with jax.enable_x64(True):
        wide = PLAIN._replace(prepare=lambda z: z @ weight)
        x, y = (z.astype(np.float32) for z in (x, y))
        value, slopes = gradient_of(x, y, similarity=wide)
        assert [slope.dtype for slope in slopes] == [jnp.float32] * 2
        images = [z @ weight.astype(np.float32) for z in (x, y)]
        wanted = gradient_of(*images, similarity=PLAIN)
        np.testing.assert_allclose(value, wanted[0], rtol=1e-5)
        for one, other in zip(slopes, wanted[1], strict=True):
            np.testing.assert_allclose(one, other @ weight.T, rtol=1e-3, atol=1e-4)


# Gradients -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [20, 1030])  # in one go, and in chunks
def test_gradients_of_cosines_in_half_precision(number):
    """Those of the rounded unit rows, through the normalization, in float32 until the end."""
    x, y = (z.astype(jnp.bfloat16) for z in embeddings(number=number, dim=24))
    _, found = gradient_of(x, y, reduction="sum")

    unit, pull = jax.vjp(lambda pair: [contrastive.normalized(z) for z in pair],
                         [z.astype(jnp.float32) for z in (x, y)])  # fmt: skip
    rows = [z.astype(jnp.bfloat16).astype(jnp.float32) for z in unit]
    _, slopes = gradient_of(*rows, similarity="dot", reduction="sum")
    (wanted,) = pull(list(slopes))
    for one, other in zip(found, wanted, strict=True):
        exact = np.asarray(other)
        if number > 1024:  # those of single pairs are rounded as well
            assert_rounded(one, other)
            continue
        # Half a unit in the last place of 8 bits, and what float32 does.
        most = 2.0**-8 * 1.001 * np.abs(exact) + 1e-6 * np.abs(exact).max()
        assert (np.abs(np.asarray(one, np.float32) - exact) <= most).all()


@pytest.mark.parametrize("mining", ["hardest", "all"])
def test_one_side_that_all_devices_share(mining):
    """Inside of `shard_map`, without an axis: every device has its own x, and the same y."""
    x, y = embeddings(number=16, dim=5)
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    parts = PartitionSpec("batch")
    loss = lambda x, y: contrastive.hinge_loss(x, y, mining=mining)[0][None]
    spread = jax.shard_map(loss, mesh=mesh, in_specs=(parts, PartitionSpec()), out_specs=parts)
    total = lambda x, y: jnp.sum(spread(x, y))
    own = lambda x, y: sum(
        contrastive.hinge_loss(x[i : i + 4], y, mining=mining)[0] for i in range(0, 16, 4)
    )
    found, wanted = (jax.jit(jax.grad(of, (0, 1)))(x, y[:4]) for of in (total, own))
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
