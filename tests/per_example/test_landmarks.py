"""Sketches with landmarks: exact in their span, unbiased outside of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxrobust import per_example
from jaxrobust.per_example import _plan, _products
from tests.per_example import oracles
from tests.per_example.cases import B, normal
from tests.per_example.test_pairs import NUM_KEYS, PAIRS, exact, variance_of_pairs

KEY = jax.random.key(0)
# One of a kind: positions, a convolution, two uses of a leaf, slices, leaves without rule or use.
FEW = ["sequence_short", "convolution_grouped", "embedding_tied", "weights_in_slices",
       "penalty_in_the_loss", "stopped_and_unused"]  # fmt: skip


def sketched(name, number, dim, key=KEY):
    """Sketches of a case's batch with its first examples as landmarks."""
    loss, params, batch, _ = exact(name)
    functions = per_example.landmark_sketches(loss, key=key, dim=dim)
    examples = jax.tree.map(lambda leaf: leaf[:number], batch)
    landmarks = jax.jit(functions.prepare)(params, examples)
    return np.asarray(jax.jit(functions.sketch)(params, batch, landmarks), np.float64)


def inside_and_outside(name, number):
    """Gram matrix of the projections on the landmarks, and the rest of the gradients by leaf."""
    *_, slow = oracles.known(name)
    leaves = [oracles.matrix([leaf]) for leaf in jax.tree.leaves(slow)]
    gram = np.sum([leaf @ leaf.T for leaf in leaves], axis=0)
    coefficients = gram[:, :number] @ np.linalg.pinv(gram[:number, :number], rcond=1e-10)
    rest = [leaf - coefficients @ leaf[:number] for leaf in leaves]
    return coefficients @ gram[:number, :number] @ coefficients.T, rest


@pytest.mark.parametrize("name", PAIRS)
def test_landmarks_that_span_all_leave_no_error(name):
    *_, expected = exact(name)
    s = sketched(name, B, B + 4)
    assert s.shape == (B, B + 4)
    # 5 products of eps each, and the cut of directions below 5 eps of the largest
    np.testing.assert_allclose(s @ s.T, expected, atol=1e-5 * np.max(expected))


@pytest.mark.parametrize("name", ["dense_layers", "convolution_grouped", "embedding_tied"])
def test_float64(name, x64):
    *_, expected = exact(name)
    s = sketched(name, B, B + 4)
    np.testing.assert_allclose(s @ s.T, expected, atol=1e-13 * np.max(expected))


@pytest.mark.parametrize("name", FEW)
def test_coordinates_are_those_of_the_projection(name):
    s = sketched(name, 3, 3)
    expected, _ = inside_and_outside(name, 3)
    scale = np.max(exact(name)[-1])
    # Small directions carry relative errors of sqrt(eps), see the docstring.
    np.testing.assert_allclose(s @ s.T, expected, atol=1e-3 * scale)


@pytest.mark.parametrize("name", FEW)
def test_the_rest_is_unbiased_within_its_variance(name):
    loss, params, batch, expected = exact(name)
    number, dim = 2, 18
    examples = jax.tree.map(lambda leaf: leaf[:number], batch)

    @jax.jit
    def estimate(key):
        functions = per_example.landmark_sketches(loss, key=key, dim=dim)
        s = functions.sketch(params, batch, functions.prepare(params, examples))
        return s @ s.T

    found = np.stack([estimate(key) for key in jax.random.split(KEY, NUM_KEYS)])
    bound = variance_of_pairs(name, dim - number, inside_and_outside(name, number)[1])
    scale = np.max(expected)
    assert np.all(np.abs(found.mean(0) - expected) <= 5 * np.sqrt(bound / NUM_KEYS) + 1e-4 * scale)
    assert np.all(found.var(0) <= 1.4 * bound + 1e-7 * scale**2)
    # Landmarks among themselves, and with all others, are exact.
    np.testing.assert_allclose(found[0][:, :number], expected[:, :number], atol=1e-4 * scale)


@pytest.mark.parametrize("name", ["sequence_short", "convolution_grouped", "embedding_tied"])
@pytest.mark.parametrize("way", ["formed", "formed in chunks", "pairs"])
def test_all_ways_to_products_lead_to_the_same(name, way, monkeypatch):
    *_, expected = exact(name)
    monkeypatch.setattr(_products, "_is_cheaper_formed", lambda *_: way != "pairs")
    if way == "formed in chunks":
        monkeypatch.setattr(_products, "EXPAND_BYTES", 1)
    s = sketched(name, B, B)
    np.testing.assert_allclose(s @ s.T, expected, atol=1e-5 * np.max(expected))


@pytest.mark.parametrize("number", [2, B])
def test_leaves_without_factors_in_chunks(number, monkeypatch):
    whole = sketched("penalty_in_the_loss", number, number)
    monkeypatch.setattr(_plan, "EXPAND_BYTES", 1)
    in_chunks = sketched("penalty_in_the_loss", number, number)
    scale = np.max(whole @ whole.T)
    np.testing.assert_allclose(in_chunks @ in_chunks.T, whole @ whole.T, atol=1e-4 * scale)


def test_a_landmark_that_is_not_finite_spoils_no_other():
    loss = lambda p, x: jnp.sum(jnp.sin(x @ p))
    w, x = normal(3, 4), normal(B, 3)
    functions = per_example.landmark_sketches(loss, key=KEY, dim=8)
    landmarks = jax.jit(functions.prepare)(w, jnp.asarray(x[:3]).at[1, 0].set(jnp.nan))
    batch = jnp.asarray(x).at[4, 1].set(jnp.inf)
    s = np.asarray(jax.jit(functions.sketch)(w, batch, landmarks))
    np.testing.assert_array_equal(np.isfinite(s).all(1), [True, True, True, True, False])
    gradients = oracles.matrix(oracles.gradients(loss, w, x))[[0, 2]]
    np.testing.assert_allclose(s[[0, 2]] @ s[[0, 2]].T, gradients @ gradients.T, rtol=1e-5)


def test_landmarks_are_an_argument_and_new_params_compile_nothing():
    count = []

    def loss(p, x):
        count.append(1)
        return jnp.sum(jnp.sin(x @ p))

    functions = per_example.landmark_sketches(loss, key=KEY, dim=8)
    prepare, sketch = jax.jit(functions.prepare), jax.jit(functions.sketch)

    @jax.jit
    def in_a_loop(w, batches):
        landmarks = prepare(w, batches[0, :2])
        return jax.lax.map(lambda batch: functions.sketch(w, batch, landmarks), batches)

    x = normal(B, 3)
    for seed in range(3):
        w = normal(3, 4, seed=seed)
        found = in_a_loop(w, jnp.stack([x, 2 * x]))
        np.testing.assert_allclose(found[0], sketch(w, x, prepare(w, x[:2])), rtol=1e-3)
        if seed == 0:
            traces = len(count)
    assert len(count) == traces


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("shape", [(), (6,)])
def test_sharded_batches(kind, shape):
    loss = lambda p, x: (
        jnp.sum(jnp.sin(jnp.tanh(x @ p["a"]) @ p["b"])) + jnp.sum(p["c"]) * x[..., 0].sum()
    )
    params = {"a": normal(3, 4), "b": normal(4, 2), "c": normal(4)}
    x = normal(16, *shape, 3)
    functions = per_example.landmark_sketches(loss, key=KEY, dim=12)
    prepare, sketch = jax.jit(functions.prepare), jax.jit(functions.sketch)
    expected = sketch(params, x, prepare(params, x[:5]))
    devices = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    with jax.set_mesh(devices):
        put = lambda leaf, *spec: jax.device_put(leaf, NamedSharding(devices, PartitionSpec(*spec)))
        there = jax.tree.map(put, params)
        found = sketch(there, put(x, "data"), prepare(there, put(x[:5])))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_bad_input():
    loss = lambda p, x: jnp.sum(x @ p)
    with pytest.raises(ValueError, match="dim must be an integer of at least 1, got 0"):
        per_example.landmark_sketches(loss, key=KEY, dim=0)
    functions = per_example.landmark_sketches(loss, key=KEY, dim=4)
    with pytest.raises(ValueError, match="dim must be at least the number of landmarks, 5, got 4"):
        functions.prepare(normal(3, 2), normal(5, 3))
    with pytest.raises(ValueError, match="batch is empty"):
        functions.prepare(normal(3, 2), normal(0, 3))


def test_where_landmarks_pay():
    dense = lambda p, x: jnp.sum(jnp.sin(x @ p))
    assert per_example.landmarks_pay(dense, normal(300, 200), normal(1, 300), 64)
    assert not per_example.landmarks_pay(dense, normal(30, 20), normal(1, 30), 64)
    # With 64 positions the gradients are formed, a third of the cost of the plain gradient.
    assert per_example.landmarks_pay(dense, normal(300, 200), normal(1, 64, 300), 64)
    # Gradients of the landmarks that would take more than there is room for.
    assert not per_example.landmarks_pay(dense, normal(3000, 2000), normal(1, 64, 3000), 64)
