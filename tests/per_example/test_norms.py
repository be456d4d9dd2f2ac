"""Norms and mean gradients are those of `vmap(grad)`, however the parameters are used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import per_example
from jaxrobust.per_example import _batching, _plan
from tests.per_example import oracles
from tests.per_example.cases import CASES, B, normal

# In the first way examples go through one batched product, in the second one by one, as on a CPU
# with one device. Some cases have no product of several positions, and both ways are the same.
BOTH_WAYS = [
    "sequence_short", "sequence_long", "einsum_heads", "convolution_grouped", "convolution_1d",
    "convolution_used_twice", "embedding_tied", "weights_in_slices", "weights_concatenated",
    "recurrence", "loops_in_loops", "convolutions_in_a_loop",
]  # fmt: skip
WAYS = [*((name, False) for name in CASES), *((name, True) for name in BOTH_WAYS)]
# Cases that are done by leaf as well, in float32: one of each kind of rule.
BY_LEAF = [*BOTH_WAYS, "dense_layers", "normalisation_and_positions", "stopped_and_unused"]


@pytest.mark.parametrize(("name", "one_by_one"), WAYS)
def test_float64(name, one_by_one, x64, monkeypatch):
    monkeypatch.setattr(_batching, "_one_by_one", lambda: one_by_one)
    loss, params, batch, expected, slow = oracles.known(name)
    losses, gradient, norms = jax.jit(per_example.value_grad_and_norms(loss))(params, batch)
    # Pairs of positions may cancel; in these cases by no more than a factor of 10.
    np.testing.assert_allclose(norms, oracles.norms(slow), rtol=1e-12)
    np.testing.assert_allclose(losses, expected, rtol=1e-13)
    scale = np.max(np.abs(oracles.matrix(slow)))
    jax.tree.map(
        lambda ours, leaf: np.testing.assert_allclose(ours, leaf.mean(0), atol=1e-13 * scale),
        gradient,
        slow,
    )


@pytest.mark.parametrize("name", BY_LEAF)
def test_by_leaf_in_float32(name):
    loss, params, batch, _, slow = oracles.known(name)
    found = jax.jit(per_example.norms(loss, by_leaf=True))(params, batch)
    scale = oracles.norms(slow)
    jax.tree.map(
        lambda norms, leaf: np.testing.assert_array_less(
            np.abs(norms - oracles.norms([leaf])), 1e-5 * scale + 1e-30
        ),
        found,
        slow,
    )


@pytest.mark.parametrize("name", ["embedding_tied", "convolution_grouped", "recurrence"])
def test_without_jit(name):
    loss, params, batch, _, slow = oracles.known(name)
    norms = per_example.norms(loss)(params, batch)
    assert norms.dtype == jnp.float32
    np.testing.assert_allclose(norms, oracles.norms(slow), rtol=1e-5)


@pytest.mark.parametrize("name", ["penalty_in_the_loss", "branches", "normalisation_and_positions"])
def test_leaves_too_large_to_be_copied_are_done_in_chunks(name, monkeypatch, x64):
    loss, params, batch, _, slow = oracles.known(name)
    monkeypatch.setattr(_plan, "EXPAND_BYTES", 1)
    rows = per_example.explain(loss)(params, batch).rows
    assert "chunks" in {row.method for row in rows}
    assert "expand" not in {row.method for row in rows}
    _, gradient, norms = jax.jit(per_example.value_grad_and_norms(loss))(params, batch)
    np.testing.assert_allclose(norms, oracles.norms(slow), rtol=1e-12)
    jax.tree.map(
        lambda ours, leaf: np.testing.assert_allclose(ours, leaf.mean(0), rtol=1e-12, atol=1e-14),
        gradient,
        slow,
    )


@pytest.mark.parametrize(
    "name", ["dense_layers", "sequence_short", "convolution_same", "embedding"]
)
def test_bfloat16(name):
    loss, params, batch = CASES[name]()
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (params, batch))
    if name == "embedding":
        narrow = narrow[0], batch
    expected = oracles.norms(oracles.gradients(loss, *narrow))
    losses, gradient, norms = jax.jit(per_example.value_grad_and_norms(loss))(*narrow)
    assert norms.dtype == jnp.float32
    assert losses.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype(jnp.bfloat16)}
    # The twin rounds every entry of its gradients to 8 bits; ours sums in float32.
    np.testing.assert_allclose(norms, expected, rtol=0.02)


def test_zero_gradients_have_norm_zero():
    norms = per_example.norms(lambda p, x: jnp.sum(x @ p) * 0.0)(normal(3, 2), normal(B, 3))
    np.testing.assert_array_equal(norms, np.zeros(B))


def test_cancelling_positions_give_no_nan():
    # The two positions have opposite cotangents: the gradient is zero, its parts are not.
    def loss(p, x):
        return jnp.sum((x @ p) * jnp.array([[1.0], [-1.0]]))

    x = jnp.repeat(normal(B, 1, 20), 2, axis=1)
    norms = jax.jit(per_example.norms(loss))(normal(20, 20), x)
    scale = np.sqrt(20) * np.linalg.norm(x[:, 0], axis=1)  # of one position's part
    # eps of the squares of the parts, and no NaN from the root of a negative rounding error
    assert np.all(norms <= np.sqrt(8 * 1.2e-7) * scale)
    by_leaf = jax.jit(per_example.norms(loss, by_leaf=True))
    for seed in range(20):
        x = jnp.repeat(normal(B, 1, 20, seed=seed), 2, axis=1)
        assert np.all(np.isfinite(by_leaf(normal(20, 20), x)))


def test_dtypes_are_those_of_the_params(x64):
    # Nothing of float64 gets in by the way, so that sums may be carried through a loop.
    w, x = normal(6, 3).astype(jnp.float32), normal(B, 2, 6).astype(jnp.float32)
    loss = lambda p, x: jnp.sum(jnp.sin(x @ p))
    functions = {
        "norms": per_example.norms(loss),
        "gram": per_example.gram(loss),
        "sketches": per_example.sketches(loss, key=jax.random.key(0), dim=4),
    }
    for name, function in functions.items():
        assert jax.eval_shape(function, w, x).dtype == jnp.float32, name
    step = lambda state, x: (per_example.update_moments(loss)(state, w, x), None)
    start = per_example.init_moments(w, entrywise=True)
    state, _ = jax.eval_shape(lambda start: jax.lax.scan(step, start, x[None]), start)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("limit", [None, 1])
def test_float16_sums_do_not_overflow(limit, monkeypatch):
    if limit:
        monkeypatch.setattr(_plan, "EXPAND_BYTES", limit)

    def loss(p, x):  # of every method but "instantiate": 256 * 300 is out of range
        return jnp.sum(x @ p["w"]) + jnp.sum(jnp.sum(x) * p["whole"] ** 2) / 8

    params = {"w": jnp.ones((4, 2), jnp.float16), "whole": jnp.ones((2,), jnp.float16)}
    batch = jnp.full((256, 4), 300.0, jnp.float16)
    _, gradient, norms = jax.jit(per_example.value_grad_and_norms(loss))(params, batch)
    np.testing.assert_allclose(gradient["w"], 300.0, rtol=1e-3)
    np.testing.assert_allclose(gradient["whole"], 300.0, rtol=1e-3)
    np.testing.assert_allclose(norms, 300.0 * np.sqrt(10), rtol=1e-3)
    assert np.isfinite(jax.jit(per_example.moments(loss))(params, batch).trace)


def test_aux_comes_along():
    def loss(p, x):
        hidden = x @ p
        return jnp.sum(hidden**2), {"hidden": hidden, "first": x[0]}

    params, batch = normal(3, 2), normal(B, 3)
    (losses, aux), _, norms = per_example.value_grad_and_norms(loss, has_aux=True)(params, batch)
    again, more = per_example.norms(loss, has_aux=True)(params, batch)
    np.testing.assert_allclose(aux["hidden"], batch @ params, rtol=1e-6)
    np.testing.assert_array_equal(aux["first"], batch[:, 0])
    np.testing.assert_allclose(losses, np.sum(np.asarray(batch @ params) ** 2, axis=1), rtol=1e-5)
    np.testing.assert_array_equal(norms, again)
    assert jax.tree.map(jnp.shape, aux) == jax.tree.map(jnp.shape, more)


def test_a_batch_of_one_example():
    loss, params, batch, _, slow = oracles.known("einsum_heads")
    found = jax.jit(per_example.norms(loss))(params, batch[:1])
    np.testing.assert_allclose(found, oracles.norms(slow)[:1], rtol=1e-5)
