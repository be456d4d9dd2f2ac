"""Under jit, vmap, scan and grad; traced once; and on batches sharded over devices."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxrobust import per_example
from tests.per_example import oracles
from tests.per_example.cases import CASES, normal


def loss(p, x):
    return jnp.sum(jnp.tanh(jnp.tanh(x @ p["u"] + p["b"][None]) @ p["v"]) ** 2)


PARAMS = {"u": normal(4, 6), "b": normal(6), "v": normal(6, 3)}
BATCH = normal(8, 3, 4)
KINDS = [AxisType.Auto, AxisType.Explicit]
FUNCTIONS = {
    "norms": per_example.norms(loss),
    "value_grad_and_norms": per_example.value_grad_and_norms(loss),
    "dots": lambda p, b: per_example.dots(loss)(p, b, PARAMS),
    "sketches": per_example.sketches(loss, key=jax.random.key(1), dim=16),
    "gram": per_example.gram(loss),
    "moments": per_example.moments(loss, entrywise=True),
    "gradients": per_example.gradients(loss, chunk_size=3),
}


def assert_close(ours, theirs, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), ours, theirs)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_jit_changes_nothing_and_traces_once(name):
    function = FUNCTIONS[name]
    jitted = jax.jit(chex.assert_max_traces(function, n=1))
    assert_close(jitted(PARAMS, BATCH), function(PARAMS, BATCH), rtol=1e-4, atol=1e-6)
    jitted(PARAMS, BATCH + 1)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_vmap_over_several_params(name):
    several = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), PARAMS)
    found = jax.jit(jax.vmap(FUNCTIONS[name], in_axes=(0, None)))(several, BATCH)
    second = jax.jit(FUNCTIONS[name])(jax.tree.map(lambda leaf: 2 * leaf, PARAMS), BATCH)
    assert_close(jax.tree.map(lambda leaf: leaf[1], found), second, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_inside_a_scan(name):
    def step(params, x):
        found = FUNCTIONS[name](params, x)
        return jax.tree.map(lambda leaf: 2 * leaf, params), found

    _, found = jax.jit(lambda: jax.lax.scan(step, PARAMS, jnp.stack([BATCH, BATCH])))()
    second = jax.jit(FUNCTIONS[name])(jax.tree.map(lambda leaf: 2 * leaf, PARAMS), BATCH)
    assert_close(jax.tree.map(lambda leaf: leaf[1], found), second, rtol=1e-4, atol=1e-6)


def test_norms_have_a_derivative(x64):
    params, x = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (PARAMS, BATCH))

    def ours(params):
        return jnp.sum(per_example.norms(loss)(params, x))

    def slow(params):
        grads = jax.vmap(jax.grad(loss), (None, 0))(params, x)
        squares = [jnp.sum(g.reshape(len(g), -1) ** 2, axis=1) for g in jax.tree.leaves(grads)]
        return jnp.sum(jnp.sqrt(sum(squares)))

    assert_close(jax.grad(ours)(params), jax.grad(slow)(params), rtol=1e-10)


def mesh(kind):
    return jax.make_mesh((8,), ("data",), axis_types=(kind,))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_on_a_batch_sharded_over_devices(name, kind):
    expected = jax.jit(FUNCTIONS[name])(PARAMS, BATCH)
    devices = mesh(kind)
    with jax.set_mesh(devices):
        sharded = jax.device_put(BATCH, NamedSharding(devices, PartitionSpec("data")))
        params = jax.device_put(PARAMS, NamedSharding(devices, PartitionSpec()))
        found = jax.jit(FUNCTIONS[name])(params, sharded)
    assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *[(name, kind) for name in ("dense_layers", "convolution_same") for kind in KINDS],
        ("embedding_tied", AxisType.Auto),  # JAX maps no look-up over an explicit axis
    ],
)
def test_norms_of_a_sharded_batch_bring_nothing_together(name, kind):
    case_loss, params, batch = CASES[name]()
    batch = jnp.concatenate([batch, batch])[:8]
    expected = oracles.norms(oracles.gradients(case_loss, params, batch))
    devices = mesh(kind)
    with jax.set_mesh(devices):
        sharded = jax.device_put(batch, NamedSharding(devices, PartitionSpec("data")))
        whole = jax.device_put(params, NamedSharding(devices, PartitionSpec()))
        compiled = jax.jit(per_example.norms(case_loss)).lower(whole, sharded).compile()
        found = compiled(whole, sharded)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found.sharding.spec == PartitionSpec("data")
    for operation in ("all-gather", "all-to-all", "collective-permute"):
        assert operation not in str(compiled.as_text())
