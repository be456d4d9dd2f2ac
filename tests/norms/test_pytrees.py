"""Trees of several leaves: one vector where the norm is entrywise, a matrix each where not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxrobust import norms
from tests.norms.oracles import Truth, as_matrix

pytestmark = pytest.mark.usefixtures("x64")

EPS = float(np.finfo(np.float64).eps)


def draw(**shapes):
    """A nested tree with a scalar, and with a hole as masks leave it."""
    rng = np.random.default_rng(0)
    tree = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    return {"w": tree, "z": [np.float64(rng.normal()), None]}


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("norm", [norms.l1, norms.lp(1.5), norms.l2, norms.linf], ids=repr)
def test_entrywise_norms_see_one_long_vector(norm):
    tree = draw(b=(3,), a=(4,))
    flat, unravel = ravel_pytree(tree)
    np.testing.assert_allclose(norm.value(tree), norm.value(flat), rtol=20 * EPS)
    for function in (norm.lmo, lambda x: norm.project(x, 1.5), lambda x: norm.prox(x, 0.4)):
        found, expected = function(tree), unravel(function(flat))
        assert jax.tree.structure(found) == jax.tree.structure(tree)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=20 * EPS), found, expected)


@pytest.mark.parametrize("p", [1, 3, np.inf])
def test_singular_values_of_all_leaves_count_together(p):
    tree, truth = draw(b=(3, 4), a=(4,)), Truth(p, "singular values")
    norm = norms.schatten(p)
    values = np.concatenate([truth.magnitudes(leaf) for leaf in leaves(tree)])
    np.testing.assert_allclose(norm.value(tree), np.linalg.norm(values, p), rtol=20 * EPS)
    u, g = leaves(norm.lmo(tree)), leaves(tree)
    attained = sum(np.sum(a * b) for a, b in zip(u, g, strict=True))
    np.testing.assert_allclose(attained, norm.dual.value(tree), rtol=50 * EPS)
    np.testing.assert_allclose(norm.value(norm.lmo(tree)), 1, rtol=50 * EPS)


def test_spectral_is_the_largest_of_the_leaves_and_nuclear_their_sum():
    tree = draw(b=(3, 4), a=(4,))
    spectral = [np.linalg.norm(np.atleast_2d(leaf), 2) for leaf in leaves(tree)]
    nuclear = [np.linalg.norm(np.atleast_2d(leaf), "nuc") for leaf in leaves(tree)]
    np.testing.assert_allclose(norms.spectral.value(tree), max(spectral), rtol=20 * EPS)
    np.testing.assert_allclose(norms.nuclear.value(tree), sum(nuclear), rtol=20 * EPS)
    # Steepest ascent: in the spectral norm every leaf moves, in the nuclear norm one.
    assert all(np.any(leaf) for leaf in leaves(norms.spectral.lmo(tree)))
    moved = [np.any(leaf) for leaf in leaves(norms.nuclear.lmo(tree))]
    assert moved == [value == max(spectral) for value in spectral]


def test_projection_of_singular_values_of_all_leaves():
    # On the spectral ball leaf by leaf, on the nuclear ball all together.
    tree = draw(b=(3, 4), a=(4,))
    for leaf, new in zip(leaves(tree), leaves(norms.spectral.project(tree, 0.8)), strict=True):
        left, values, right = np.linalg.svd(as_matrix(leaf), full_matrices=False)
        clipped = left * np.minimum(values, 0.8) @ right
        np.testing.assert_allclose(new, clipped.reshape(leaf.shape), atol=20 * EPS)
    projected = norms.nuclear.project(tree, 1.5)
    truth = Truth(1, "singular values")
    before, after = leaves(tree), leaves(projected)
    assert sum(map(truth.value, after)) == pytest.approx(1.5, rel=50 * EPS)
    gap = 1.5 * max(truth.dual.value(a - b) for a, b in zip(before, after, strict=True))
    gap -= sum(np.sum((a - b) * b) for a, b in zip(before, after, strict=True))
    assert abs(gap) <= 100 * EPS


def test_spectra_of_all_leaves_count_together():
    tree = draw(b=(8,), a=(8,))["w"]
    truth = Truth(1, "spectrum", (-1,))
    moduli = np.concatenate([truth.magnitudes(leaf) for leaf in leaves(tree)])
    for p in (1, np.inf):
        value = norms.fourier(norms.lp(p)).value(tree)
        np.testing.assert_allclose(value, np.linalg.norm(moduli, p), rtol=20 * EPS)
    projected = leaves(norms.fourier(norms.l1).project(tree, 2.0))
    assert sum(map(truth.value, projected)) == pytest.approx(2, rel=20 * EPS)


def test_ties_go_to_the_first_leaf_and_its_first_entry():
    tree = {
        "b": np.array([2.0, -2.0]),
        "a": np.array([[1.0, 1.0], [-2.0, 2.0]]),
        "c": np.float64(2),
    }
    u = jax.jit(norms.l1.lmo)(tree)
    np.testing.assert_array_equal(u["a"], [[0, 0], [-1, 0]])
    np.testing.assert_array_equal(u["b"], [0, 0])
    np.testing.assert_array_equal(u["c"], 0)
    equal = {"a": np.eye(2), "b": np.eye(2)}
    u = jax.jit(norms.nuclear.lmo)(equal)
    assert np.any(u["a"])
    assert not np.any(u["b"])


def test_nan_in_one_leaf_is_seen():
    tree = draw(b=(3, 4), a=(4,))
    tree["w"]["a"][2] = np.nan
    for norm in (norms.l1, norms.l2, norms.linf, norms.spectral, norms.nuclear):
        assert np.isnan(norm.value(tree))
        assert np.isnan(norm.lmo(tree)["w"]["a"][2])
        assert np.isnan(norm.project(tree, 1.0)["w"]["a"][2])


def test_every_leaf_keeps_its_dtype():
    tree = {"a": jnp.ones(4, jnp.bfloat16), "b": jnp.ones(4, jnp.float32), "c": jnp.float16(1)}
    dtypes = jax.tree.map(lambda leaf: leaf.dtype, tree)
    for norm in (norms.l1, norms.spectral):
        operate = lambda x, norm=norm: (norm.lmo(x), norm.project(x, 0.5), norm.prox(x, 0.5))
        assert jax.eval_shape(norm.value, tree).dtype == jnp.float32
        for new in jax.eval_shape(operate, tree):
            assert jax.tree.map(lambda leaf: leaf.dtype, new) == dtypes
    length, gradient = jax.jit(jax.value_and_grad(norms.l2.value))(tree)
    assert jax.tree.map(lambda leaf: leaf.dtype, gradient) == dtypes
    assert length == pytest.approx(3, rel=4e-7)


def test_a_float64_leaf_is_not_narrowed_by_another():
    tree = {"a": np.ones(2, np.float32), "b": np.ones(2)}
    radius = 0.1  # not a float32
    assert norms.linf.project(tree, radius)["b"][0] == radius
    assert norms.linf.value(tree).dtype == np.float64
