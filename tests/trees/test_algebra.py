"""Vector-space operations on pytrees, against float64 NumPy on the concatenated leaves."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import trees

EPS = float(jnp.finfo(jnp.float32).eps)


def draw(seed: int = 0, dtype: type = np.float32):
    rng = np.random.default_rng(seed)
    leaf = lambda *shape: np.asarray(rng.normal(size=shape), dtype)
    return {"w": leaf(3, 4), "b": [leaf(4), None, leaf()]}


def flat(tree):
    return np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(tree)])


# dot and l2_norm ----------------------------------------------------------------------------------


def test_dot_is_the_sum_over_all_leaves():
    a, b = draw(1), draw(2)
    # 17 products and sums: an eps each of the sum of moduli.
    atol = 17 * EPS * np.sum(np.abs(flat(a) * flat(b)))
    result = trees.dot(a, b)
    assert (result.shape, result.dtype) == ((), jnp.float32)
    np.testing.assert_allclose(result, flat(a) @ flat(b), rtol=0, atol=atol)


def test_dot_accumulates_in_float32():
    # A sum in bfloat16 stops at 256 ones, and squares of 300 overflow float16.
    ones = jnp.ones(4096, jnp.bfloat16)
    assert trees.dot(ones, ones) == 4096
    large = jnp.full(4, 300, jnp.float16)
    assert trees.dot(large, large) == 360000
    assert trees.dot(ones, ones).dtype == jnp.float32


def test_dot_of_leaves_of_different_dtypes():
    a = {"x": jnp.ones(2, jnp.bfloat16), "y": jnp.float32(1 + 2**-20)}
    b = {"x": jnp.full(2, 1 + 2**-12, jnp.float32), "y": jnp.float16(1)}
    assert trees.dot(a, b) == 2 * (1 + 2**-12) + (1 + 2**-20)


def test_dot_is_differentiated_by_its_arguments():
    a, b = draw(1), draw(2)
    gradient = jax.grad(trees.dot)(a, b)
    np.testing.assert_array_equal(flat(gradient), flat(b))
    assert jax.tree.structure(gradient) == jax.tree.structure(a)


@pytest.mark.usefixtures("x64")
def test_float64_stays_float64():
    a, b = draw(1, np.float64), draw(2, np.float64)
    np.testing.assert_allclose(trees.dot(a, b), flat(a) @ flat(b), rtol=1e-14)
    np.testing.assert_allclose(trees.l2_norm(a), np.linalg.norm(flat(a)), rtol=1e-15)
    assert trees.add(a, b)["w"].dtype == trees.scale(0.1, a)["w"].dtype == np.float64
    np.testing.assert_array_equal(flat(trees.scale(0.1, a)), 0.1 * flat(a))
    mixed = {"x": np.ones(2, np.float32), "y": np.full(2, 0.1)}
    assert trees.l2_norm(mixed) == pytest.approx(math.sqrt(2.02), rel=1e-15)
    assert trees.dot(mixed, mixed) == pytest.approx(2.02, rel=1e-15)
    assert trees.scale(0.5, mixed)["x"].dtype == np.float32


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_l2_norm_neither_overflows_nor_vanishes(scale):
    tree = {"a": np.array([3 * scale, 0], np.float32), "b": np.float32(-4 * scale)}
    # Rounding of the entries, of a division, a square, a sum and a root.
    np.testing.assert_allclose(trees.l2_norm(tree), 5 * scale, rtol=6 * EPS)


def test_l2_norm_of_small_dtypes_is_float32():
    tree = {"a": jnp.full(4096, 300, jnp.float16), "b": jnp.zeros(2, jnp.bfloat16)}
    assert trees.l2_norm(tree) == 64 * 300
    assert trees.l2_norm(tree).dtype == jnp.float32


def test_l2_norm_of_infinity_and_nan():
    assert trees.l2_norm([jnp.float32(1), jnp.array([jnp.inf, -jnp.inf])]) == jnp.inf
    assert np.isnan(trees.l2_norm([jnp.float32(jnp.inf), jnp.array([jnp.nan, 1])]))
    assert trees.l2_norm([jnp.zeros(3), jnp.zeros(())]) == 0


def test_gradient_of_l2_norm():
    tree = draw()
    gradient = jax.jit(jax.grad(trees.l2_norm))
    np.testing.assert_allclose(
        flat(gradient(tree)), flat(tree) / np.linalg.norm(flat(tree)), rtol=20 * EPS
    )
    zeros = jax.tree.map(np.zeros_like, tree)
    np.testing.assert_array_equal(flat(gradient(zeros)), 0)
    # Two equal largest entries: the scaling by the largest leaves no trace in the gradient.
    equal = {"w": np.ones((3, 4), np.float32), "b": [-np.ones(4, np.float32), None, np.float32(1)]}
    np.testing.assert_allclose(np.abs(flat(gradient(equal))), 17**-0.5, rtol=8 * EPS)
    huge = jax.tree.map(lambda leaf: leaf * np.float32(1e30), equal)
    np.testing.assert_allclose(np.abs(flat(gradient(huge))), 17**-0.5, rtol=8 * EPS)


# add, scale, size ---------------------------------------------------------------------------------


def test_add_and_scale():
    a, b = draw(1), draw(2)
    for found, expected in (
        (trees.add(a, b), flat(a) + flat(b)),
        (trees.add(a, b, weight=-0.3), flat(a) - 0.3 * flat(b)),
        (trees.add(a, b, weight=jnp.float32(2)), flat(a) + 2 * flat(b)),
        (trees.scale(-0.3, a), -0.3 * flat(a)),
    ):
        assert jax.tree.structure(found) == jax.tree.structure(a)
        # The weight, a product and a sum are rounded.
        np.testing.assert_allclose(flat(found), expected, atol=8 * EPS)


def test_add_and_scale_round_once():
    # In bfloat16 0.01 * 100 + 1 is 2.0 with a weight of 0.0100098, and 1.9921875 without a wide
    # product: what is added must not be rounded before the sum.
    a, b = jnp.full(3, 256, jnp.bfloat16), jnp.full(3, 1.2, jnp.bfloat16)
    exact = 256 + 0.9 * np.float64(b[0])  # 257.08; neighbours in bfloat16 are 256 and 258
    assert trees.add(a, b, weight=0.9)[0] == jnp.bfloat16(exact)
    third = trees.scale(1 / 3, b)
    assert third.dtype == jnp.bfloat16
    assert third[0] == jnp.bfloat16(np.float32(b[0]) / 3)
    assert trees.add(a, b.astype(jnp.float32)).dtype == jnp.bfloat16
    assert trees.scale(jnp.float32(2), b).dtype == jnp.bfloat16


def test_add_and_scale_of_python_numbers_and_of_nothing():
    assert [float(x) for x in trees.add([1.0, 2.0], [0.5, 0.25])] == [1.5, 2.25]
    assert [float(x) for x in trees.scale(2, [1.0, 2.0])] == [2, 4]
    # What Optax leaves of a tree that is masked out has no leaves, and is no error.
    assert trees.scale(2.0, {"a": None}) == trees.add({"a": None}, {"a": None}) == {"a": None}
    assert trees.scale(2.0, np.ones((0, 3), np.float32)).shape == (0, 3)


def test_size():
    assert trees.size(draw()) == 17
    assert trees.size({"a": None}) == 0
    assert trees.size([1.0, np.ones((2, 0))]) == 1


# stack and unstack --------------------------------------------------------------------------------


def test_stack_and_unstack():
    parts = [draw(seed) for seed in range(3)]
    stacked = trees.stack(parts)
    assert stacked["w"].shape == (3, 3, 4)
    assert stacked["b"][2].shape == (3,)
    back = trees.unstack(stacked)
    assert len(back) == 3
    for part, same in zip(parts, back, strict=True):
        jax.tree.map(np.testing.assert_array_equal, same, part)
        assert jax.tree.structure(same) == jax.tree.structure(part)


def test_stack_keeps_dtypes_and_runs_under_jit():
    tree = {"a": jnp.ones(2, jnp.bfloat16), "i": jnp.arange(3)}
    stacked = jax.jit(lambda t: trees.stack([t, t]))(tree)
    assert (stacked["a"].dtype, stacked["i"].dtype) == (jnp.bfloat16, jnp.int32)
    assert trees.unstack({"a": np.zeros((0, 2))}) == []


# Bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [trees.dot, trees.add])
def test_two_trees_that_differ(function):
    a = {"x": np.ones((2, 3), np.float32), "y": np.float32(1)}
    with pytest.raises(ValueError, match="^a and b differ in structure"):
        function(a, {"x": a["x"]})
    with pytest.raises(ValueError, match=r"^a\['x'\] and b\['x'\] differ .*\(2, 3\) and \(3,\)"):
        function(a, {"x": np.ones(3, np.float32), "y": a["y"]})
    # A scalar would broadcast.
    with pytest.raises(ValueError, match=r"^a\['x'\] and b\['x'\] differ in shape"):
        jax.jit(function)(a, {"x": np.float32(1), "y": a["y"]})


def test_no_floating_trees():
    ones = {"x": np.ones(2, np.float32)}
    for bad in (np.arange(2), np.ones(2, complex), np.ones(2, bool)):
        for function, argument in (
            (lambda tree: trees.dot(tree, ones), "a"),
            (lambda tree: trees.dot(ones, tree), "b"),
            (lambda tree: trees.add(tree, ones), "a"),
            (lambda tree: trees.add(ones, tree), "b"),
            (lambda tree: trees.scale(0.5, tree), "tree"),
            (trees.l2_norm, "tree"),
        ):
            with pytest.raises(TypeError, match=rf"^{argument}\['x'\] must have a real floating"):
                function({"x": bad})


def test_no_leaves():
    for function, argument in ((lambda t: trees.dot(t, t), "a"), (trees.l2_norm, "tree")):
        with pytest.raises(ValueError, match=f"^{argument} has no array leaves"):
            function({})
        with pytest.raises(ValueError, match=rf"^{argument}\[0\] is empty: shape \(0,\)"):
            function([np.ones(0, np.float32)])


def test_factors_that_are_no_scalars():
    tree = {"x": np.ones(2, np.float32)}
    with pytest.raises(ValueError, match=r"^factor must be a scalar, got shape \(2,\)"):
        trees.scale(jnp.ones(2), tree)
    with pytest.raises(ValueError, match=r"^weight must be a scalar, got shape \(1,\)"):
        trees.add(tree, tree, weight=jnp.ones(1))


def test_stack_of_trees_that_differ():
    a = {"x": np.ones(2, np.float32)}
    with pytest.raises(ValueError, match="^trees is empty"):
        trees.stack([])
    with pytest.raises(ValueError, match=r"^trees\[0\] and trees\[1\] differ in structure"):
        trees.stack([a, {"y": a["x"]}])
    with pytest.raises(
        ValueError, match=r"^trees\[0\]\['x'\] and trees\[2\]\['x'\] differ in shape"
    ):
        trees.stack([a, a, {"x": np.ones(3, np.float32)}])


@pytest.mark.parametrize(
    "tree", [{}, [np.float32(1)], [np.ones(2), np.ones(3)], [np.ones(2), np.float32(1)]]
)
def test_unstack_of_no_common_length(tree):
    with pytest.raises(ValueError, match="^tree must have leaves of one common leading size"):
        trees.unstack(tree)
