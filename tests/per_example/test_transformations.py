"""Under jit, vmap, scan and grad; traced once; and on batches sharded over devices."""

import functools

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
MAKERS = {
    "norms": per_example.norms,
    "value_grad_and_norms": per_example.value_grad_and_norms,
    "dots": lambda loss: lambda p, b: per_example.dots(loss)(p, b, jax.tree.map(jnp.cos, p)),
    "sketches": lambda loss: per_example.sketches(loss, key=jax.random.key(1), dim=16),
    "gram": per_example.gram,
    "moments": lambda loss: per_example.moments(loss, entrywise=True),
    "gradients": lambda loss: per_example.gradients(loss, chunk_size=3),
}
FUNCTIONS = {name: make(loss) for name, make in MAKERS.items()}


def demanding_loss(p, example):
    """Programs in the program, random keys, integers, and a product as of DenseGeneral."""
    x = example["x"]
    hidden = jnp.einsum("iaj,ijk->ak", x, p["general"])
    hidden = jax.lax.cond(x[0, 0, 0] > 0, jnp.sin, jnp.cos, hidden)
    keep = jax.random.bernoulli(example["key"], 0.5, hidden.shape)
    logits = jnp.where(keep, hidden, 0).reshape(-1) @ p["v"] + p["b"]
    return -jnp.sum(jax.nn.log_softmax(logits) * jax.nn.one_hot(example["number"] % 3, 3))


DEMANDING_PARAMS = {"general": normal(2, 3, 4), "v": normal(20, 3), "b": normal(3)}
DEMANDING_BATCH = {
    "x": normal(8, 2, 5, 3),
    "key": jax.random.split(jax.random.key(0), 8),
    "number": jnp.arange(8),
}


def assert_close(ours, theirs, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), ours, theirs)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_jit_changes_nothing_and_traces_once(name):
    function = FUNCTIONS[name]
    jitted = jax.jit(chex.assert_max_traces(function, n=1))
    found = jitted(PARAMS, BATCH)
    assert_close(found, function(PARAMS, BATCH), rtol=1e-4, atol=1e-6)
    jitted(PARAMS, BATCH + 1)


TWICE = jax.tree.map(lambda leaf: 2 * np.asarray(leaf), PARAMS)


@functools.cache
def of_twice(name):
    return jax.jit(FUNCTIONS[name])(TWICE, BATCH)


def assert_second_close(found, name):
    second = jax.tree.map(lambda leaf: np.asarray(leaf)[1], found)
    assert_close(second, of_twice(name), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_vmap_over_several_params(name):
    several = jax.tree.map(lambda *leaves: np.stack(leaves), PARAMS, TWICE)
    found = jax.jit(jax.vmap(FUNCTIONS[name], in_axes=(0, None)))(several, BATCH)
    assert_second_close(found, name)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_inside_a_scan(name):
    def step(params, x):
        found = FUNCTIONS[name](params, x)
        return jax.tree.map(lambda leaf: 2 * leaf, params), found

    _, found = jax.jit(lambda: jax.lax.scan(step, PARAMS, np.stack([BATCH, BATCH])))()
    assert_second_close(found, name)


def test_norms_have_a_derivative(x64):
    params, x = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (PARAMS, BATCH))

    def ours(params):
        return jnp.sum(per_example.norms(loss)(params, x))

    def slow(params):
        grads = jax.vmap(jax.grad(loss), (None, 0))(params, x)
        squares = [jnp.sum(g.reshape(len(g), -1) ** 2, axis=1) for g in jax.tree.leaves(grads)]
        return jnp.sum(jnp.sqrt(sum(squares)))

    assert_close(jax.jit(jax.grad(ours))(params), jax.jit(jax.grad(slow))(params), rtol=1e-10)


def mesh(kind):
    return jax.make_mesh((8,), ("data",), axis_types=(kind,))


def put(params, batch, devices):
    """The params on all devices, the batch spread over them."""
    sharded = jax.device_put(batch, NamedSharding(devices, PartitionSpec("data")))
    return jax.device_put(params, NamedSharding(devices, PartitionSpec())), sharded


def on_devices(name, case_loss, params, batch, kind):
    devices = mesh(kind)
    with jax.set_mesh(devices):
        return jax.jit(MAKERS[name](case_loss))(*put(params, batch, devices))


EASY = loss, PARAMS, BATCH
DEMANDING = demanding_loss, DEMANDING_PARAMS, DEMANDING_BATCH


@functools.cache
def on_one_device(name, demanding):
    case_loss, *arguments = DEMANDING if demanding else EASY
    return jax.jit(MAKERS[name](case_loss))(*arguments)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MAKERS)
def test_on_a_batch_sharded_over_devices(name, kind):
    # The others do as one of these does; it takes long to compile.
    demanding = kind == AxisType.Explicit and name in ("norms", "sketches", "gram", "moments")
    case = DEMANDING if demanding else EASY
    expected = on_one_device(name, demanding)
    assert_close(on_devices(name, *case, kind), expected, rtol=1e-4, atol=1e-6)


def convolution():
    case_loss, params, batch = CASES["convolution_same"]()
    return case_loss, params, np.concatenate([batch, batch])[:8]


def test_moments_of_convolutions_on_explicit_axes():
    case_loss, params, batch = convolution()
    found = on_devices("moments", case_loss, params, batch, AxisType.Explicit)
    rows = oracles.matrix(oracles.gradients(case_loss, params, batch))
    np.testing.assert_allclose(found.mean["w"].reshape(-1), rows.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.trace, rows.var(0, ddof=1).sum(), rtol=1e-4)
    ratio = np.mean(rows.var(0, ddof=1) / np.mean(rows**2, axis=0))
    np.testing.assert_allclose(found.entrywise_normalized_variance, ratio, rtol=1e-4)


def test_what_cannot_run_on_explicit_axes_is_explained():
    # JAX maps no gradient of a convolution's weights over an explicit axis.
    with pytest.raises(Exception, match="reshape") as caught:
        on_devices("gradients", *convolution(), AxisType.Explicit)
    assert "shard_map" in "".join(caught.value.__notes__)
    with pytest.raises(ValueError, match="explicit mesh axes 'data', but no mesh is set"):
        per_example.norms(loss)(*put(PARAMS, BATCH, mesh(AxisType.Explicit)))


def test_a_loss_may_close_over_arrays_on_explicit_axes():
    def norms_of_a_shifted_loss(params, batch, shift):
        return per_example.norms(lambda p, x: loss(p, x + shift))(params, batch)

    shift, devices = normal(3, 4), mesh(AxisType.Explicit)
    expected = jax.jit(norms_of_a_shifted_loss)(PARAMS, BATCH, shift)
    with jax.set_mesh(devices):
        (params, shift), batch = put((PARAMS, shift), BATCH, devices)
        found = jax.jit(norms_of_a_shifted_loss)(params, batch, shift)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_batch_and_params_sharded_over_different_axes():
    devices = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    # One layer: by itself JAX contracts over no explicit axis.
    function = per_example.gram(lambda p, x: jnp.sum(jnp.tanh(x @ p["u"] + p["b"])))
    params, batch = {"u": normal(4, 6), "b": normal(6)}, normal(8, 4)
    expected = jax.jit(function)(params, batch)
    with jax.set_mesh(devices):
        columns = {"u": PartitionSpec(None, "model"), "b": PartitionSpec("model")}
        where = jax.tree.map(lambda spec: NamedSharding(devices, spec), columns)
        sharded = jax.device_put(batch, NamedSharding(devices, PartitionSpec("data")))
        found = jax.jit(function)(jax.device_put(params, where), sharded)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def in_shard_map(function, *, num_devices=4, **options):
    """The function of the examples of each device, stacked."""
    devices = jax.make_mesh(
        (num_devices,), ("data",), (AxisType.Auto,), devices=jax.devices()[:num_devices]
    )
    data = PartitionSpec("data")
    local = lambda params, batch: jax.tree.map(lambda leaf: leaf[None], function(params, batch))
    specs = {"in_specs": (PartitionSpec(), data), "out_specs": data}
    return jax.jit(jax.shard_map(local, mesh=devices, **specs, **options))


@pytest.mark.parametrize(
    ("name", "check_vma"), [*[(name, True) for name in MAKERS], ("value_grad_and_norms", False)]
)
def test_inside_of_shard_map(name, check_vma):
    # Params are the same on all devices: JAX would sum their cotangents over all of them.
    expected = jax.vmap(jax.jit(FUNCTIONS[name]), (None, 0))(PARAMS, BATCH.reshape(4, 2, 3, 4))
    found = in_shard_map(FUNCTIONS[name], check_vma=check_vma)(PARAMS, BATCH)
    assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_programs_in_the_loss_inside_of_shard_map():
    expected = oracles.norms(oracles.gradients(*DEMANDING))
    found = in_shard_map(per_example.norms(demanding_loss))(DEMANDING_PARAMS, DEMANDING_BATCH)
    np.testing.assert_allclose(found.reshape(-1), expected, rtol=1e-5)


@pytest.mark.parametrize("check_vma", [True, False])
def test_a_loss_that_communicates_inside_of_shard_map_is_refused(check_vma):
    def coupled(p, x):
        return loss(p, x - jax.jit(lambda x: jax.lax.pmean(x, "data"))(x))

    with pytest.raises(ValueError, match=r"couples examples: .* the named axes \['data'\]"):
        in_shard_map(per_example.norms(coupled), check_vma=check_vma)(PARAMS, BATCH)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *[(name, kind) for name in ("dense_layers", "convolution_same") for kind in KINDS],
        ("embedding_tied", AxisType.Auto),  # JAX maps no look-up over an explicit axis
    ],
)
def test_norms_of_a_sharded_batch_bring_nothing_together(name, kind):
    case_loss, params, batch = CASES[name]()
    batch = np.concatenate([batch, batch])[:8]
    expected = oracles.norms(oracles.gradients(case_loss, params, batch))
    devices = mesh(kind)
    with jax.set_mesh(devices):
        whole, sharded = put(params, batch, devices)
        compiled = jax.jit(per_example.norms(case_loss)).lower(whole, sharded).compile()
        found = compiled(whole, sharded)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found.sharding.spec == PartitionSpec("data")
    for operation in ("all-gather", "all-to-all", "collective-permute"):
        assert operation not in str(compiled.as_text())
