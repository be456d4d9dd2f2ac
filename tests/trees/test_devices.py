"""Rows of arrays that are spread over devices, and what each device does with its own."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxrobust import trees

ROWS = np.arange(48.0, dtype=np.float32).reshape(16, 3)
INDICES = np.array([3, 3, 15, 0, 7, 8, 1, 2])


def spread(array, *spec, kind=AxisType.Explicit):
    mesh = jax.make_mesh((4, 2), ("batch", "model"), axis_types=(kind,) * 2)
    return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("spec", [(), ("batch",), (("batch", "model"),), (None,)])
@pytest.mark.parametrize("number", [8, 7])
@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto])
def test_take(kind, number, spec, jit):
    array = spread(ROWS, *spec, kind=kind)
    function = jax.jit(trees.take) if jit else trees.take
    found = function({"a": array}, jnp.asarray(INDICES[:number]))["a"]
    np.testing.assert_array_equal(found, ROWS[INDICES[:number]])
    if kind == AxisType.Explicit:
        expected = spec[0] if spec and number == 8 else None
        assert trees.first_axis(found) == expected
        assert trees.is_sharded(found) == (expected is not None)


def test_take_keeps_other_axes_spread():
    array = spread(np.ones((16, 6), np.float32), "batch", "model")
    assert jax.typeof(trees.take(array, INDICES)).sharding.spec == PartitionSpec("batch", "model")


@pytest.mark.parametrize("spec", [("batch",), (("batch", "model"),), ("batch", "model")])
def test_bring_together(spec):
    array = spread(np.ones((16, 6), np.float32), *spec)
    found = trees.bring_together([array, jnp.ones(3)])
    assert not trees.is_sharded(found[0])
    assert found[0].sharding.is_fully_replicated
    chex.assert_trees_all_equal(found[0], np.ones((16, 6), np.float32))


@pytest.mark.parametrize("jit", [False, True])
def test_on_each_device(jit):
    """Sums over all examples, from functions that see a device's part of them."""
    seen = []

    def function(batched, shared):
        rows, weights = batched
        seen.append(rows.shape[0])
        return {"sum": weights @ rows * shared}, rows.sum(axis=1)

    apply = lambda *arguments: trees.on_each_device(function, *arguments)
    apply = jax.jit(apply) if jit else apply
    weights = np.linspace(0, 1, 16, dtype=np.float32)
    summed, kept = apply((spread(ROWS, "batch"), jnp.asarray(weights)), jnp.float32(2))
    assert seen == [4]
    np.testing.assert_allclose(summed["sum"], 2 * weights @ ROWS, rtol=1e-5)
    np.testing.assert_array_equal(kept, ROWS.sum(axis=1))
    assert trees.first_axis(kept) == "batch"
    summed, _ = apply((jnp.asarray(ROWS), jnp.asarray(weights)), jnp.float32(2))
    np.testing.assert_allclose(summed["sum"], 2 * weights @ ROWS, rtol=1e-5)
    assert seen[-1] == 16
