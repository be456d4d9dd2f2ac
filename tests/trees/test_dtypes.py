"""The dtype policy: what sums are computed in, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import trees


def test_accumulator_is_float32_at_least():
    for narrow in (jnp.bfloat16, jnp.float16, jnp.float32, "bfloat16"):
        assert trees.accumulator(narrow) == jnp.float32
    assert trees.accumulator(np.float64) == np.float64


def test_promote_and_cast_like():
    tree = {"a": jnp.ones(2, jnp.bfloat16), "b": [jnp.float16(2), jnp.ones(1, jnp.float32)]}
    wide = trees.promote(tree)
    assert {leaf.dtype for leaf in jax.tree.leaves(wide)} == {jnp.dtype(jnp.float32)}
    back = trees.cast_like(wide, tree)
    assert jax.tree.map(lambda leaf: leaf.dtype, back) == jax.tree.map(
        lambda leaf: leaf.dtype, tree
    )
    assert trees.promote([1.5])[0].dtype == jnp.float32
    assert trees.cast_like([1.5], [jnp.bfloat16(1)])[0].dtype == jnp.bfloat16


@pytest.mark.usefixtures("x64")
def test_promote_leaves_float32_and_float64_alone():
    tree = [np.ones(2), np.ones(2, np.float32)]
    assert [leaf.dtype for leaf in trees.promote(tree)] == [np.float64, np.float32]


@pytest.mark.parametrize(
    "tree",
    [
        np.ones(2, np.float32),
        1.5,
        {"a": jnp.ones((2, 1), jnp.bfloat16), "b": None, "c": (np.float64(1), jnp.float16(2))},
        jax.ShapeDtypeStruct((2,), jnp.float32),
    ],
)
def test_floating_trees_pass(tree):
    trees.check_floating("x", tree)


@pytest.mark.parametrize(
    ("tree", "error", "message"),
    [
        ({}, ValueError, r"^params has no array leaves: got \{\}"),
        (None, ValueError, "^params has no array leaves: got None"),
        ({"w": np.ones((2, 0))}, ValueError, r"^params\['w'\] is empty: shape \(2, 0\)"),
        (np.arange(2), TypeError, "^params must have a real floating dtype, got int32"),
        ([1.0, 2], TypeError, r"^params\[1\] must have a real floating dtype, got int32"),
        (True, TypeError, "^params must have a real floating dtype, got bool"),
        (1j, TypeError, "^params must have a real floating dtype, got complex64"),
        ({"a": "float32"}, TypeError, r"^params\['a'\] must be a floating array, got str"),
        ((object(),), TypeError, r"^params\[0\] must be a floating array, got object"),
    ],
)
def test_what_is_no_floating_tree_is_named(tree, error, message):
    with pytest.raises(error, match=message):
        trees.check_floating("params", tree)


def test_random_keys_are_no_floating_trees():
    with pytest.raises(TypeError, match="^params must have a real floating dtype, got key<fry>"):
        trees.check_floating("params", jax.random.key(0))


def test_check_needs_no_values():
    jax.jit(lambda x: trees.check_floating("x", x))(np.ones(2, np.float32))
    with pytest.raises(TypeError, match="^x must have a real floating dtype, got int32"):
        jax.jit(lambda x: trees.check_floating("x", x))(np.arange(2))
