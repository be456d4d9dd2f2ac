"""Input sharded over a mesh, by the compiler (Auto axes) or by type (Explicit axes)."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxrobust import norms, trees

EPS = float(np.finfo(np.float32).eps)
BATCH = [norms.l1, norms.fourier(norms.l1), norms.spectral]

rng = np.random.default_rng(0)
TREE = {
    "matrix": rng.normal(size=(8, 6)).astype(np.float32),
    "vector": rng.normal(size=16).astype(np.float32),
}
SPECS = {"matrix": P("x", "y"), "vector": P(("x", "y"))}


def make_mesh(kind):
    return jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind,) * 2)


@pytest.fixture(params=[AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def mesh(request):
    return make_mesh(request.param)


def shard(mesh, tree, specs):
    put = lambda leaf, spec: jax.device_put(leaf, NamedSharding(mesh, spec))
    return jax.tree.map(put, tree, specs)


def assert_close(found, expected):
    # Sums in another order, and an SVD of a matrix in other memory.
    close = lambda a, b: np.testing.assert_allclose(np.asarray(a), b, atol=50 * EPS)
    jax.tree.map(close, found, expected)


@functools.partial(jax.jit, static_argnums=0)
def operate(group, tree):
    return [(norm.value(tree), norm.lmo(tree), norm.project(tree, 1.5)) for norm in group]


def check_sharded_trees(mesh, group):
    sharded = shard(mesh, TREE, SPECS)
    with jax.set_mesh(mesh):
        found = operate(group, sharded)
    assert_close(found, operate(group, TREE))
    types = jax.tree.map(jax.typeof, sharded)  # with Explicit axes, that says how it is sharded
    for _, *moved in found:
        assert [jax.tree.map(jax.typeof, tree) for tree in moved] == 2 * [types]


def test_entries_of_sharded_trees(mesh):
    check_sharded_trees(mesh, (norms.l1, norms.l2, norms.linf))


def test_spectra_and_singular_values_of_trees_sharded_by_type():
    # What the compiler does by itself with Auto axes: FFT, SVD and sort need whole axes.
    check_sharded_trees(make_mesh(AxisType.Explicit), (norms.fourier(norms.l1), norms.spectral))


def test_gradient_of_a_sharded_tree(mesh):
    sharded = shard(mesh, TREE, SPECS)
    gradient = jax.jit(jax.grad(norms.l1.value))(sharded)
    assert_close(gradient, jax.tree.map(np.sign, TREE))
    assert jax.tree.map(jax.typeof, gradient) == jax.tree.map(jax.typeof, sharded)


def test_batch_of_vectors_sharded_by_type():
    def operate(x):
        return [(norm.value(x), norm.lmo(x), norm.project(x, 0.5)) for norm in BATCH]

    function = jax.jit(jax.vmap(operate))
    expected = function(TREE["matrix"])
    mesh = make_mesh(AxisType.Explicit)
    batch = shard(mesh, TREE["matrix"], P("x", None))
    # Outside of the mesh's context JAX 0.12 forgets, under vmap, the mesh of some constants.
    with jax.set_mesh(mesh):
        found = function(batch)
    assert_close(found, expected)
    assert all(jax.typeof(u) == jax.typeof(batch) for _, *moved in found for u in moved)


def test_sharded_vector_without_jit():
    vector = shard(make_mesh(AxisType.Explicit), TREE["vector"], SPECS["vector"])
    found = norms.l1.lmo(vector)
    position = np.argmax(np.abs(TREE["vector"]))
    np.testing.assert_array_equal(found, np.sign(TREE["vector"]) * (np.arange(16) == position))
    assert jax.typeof(found) == jax.typeof(vector)


def test_sharded_linear_algebra(mesh):
    sharded = shard(mesh, TREE, SPECS)
    flat = np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(TREE)])
    dot, norm = jax.jit(lambda t: (trees.dot(t, t), trees.l2_norm(t)))(sharded)
    np.testing.assert_allclose(dot, flat @ flat, rtol=20 * EPS)
    np.testing.assert_allclose(norm, np.linalg.norm(flat), rtol=20 * EPS)
    for tree in jax.jit(lambda t: (trees.add(t, t, weight=-0.5), trees.scale(0.5, t)))(sharded):
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b / 2), tree, TREE)
        assert jax.tree.map(jax.typeof, tree) == jax.tree.map(jax.typeof, sharded)


@pytest.mark.parametrize("norm", [norms.l1, norms.l2, norms.linf, norms.lp(3)], ids=str)
def test_a_nan_on_one_device(mesh, norm):
    """It reaches the value and the step, though a maximum over the shards would drop it."""
    vector = TREE["vector"].copy()
    for bad in (slice(5, 6), slice(0, 16)):
        vector[bad] = np.nan
        sharded = shard(mesh, vector, SPECS["vector"])
        value, step = jax.jit(lambda v: (norm.value(v), norm.lmo(v)))(sharded)
        assert np.isnan(value)
        assert np.any(np.isnan(step))
