"""Pairs that are spread over eight devices have the loss and the gradient of one device."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxrobust import contrastive
from tests.contrastive.problems import embeddings, some_fast

B, D = 32, 6
IDS = np.arange(B) // 3  # groups that lie on two devices
VALID = np.arange(B) % 5 != 4
# Sums of B^2 numbers of order 1, in another order.
TOLERANCE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}

LOSSES: dict[str, Any] = {
    "hardest": lambda x, y, **o: contrastive.hinge_loss(x, y, **o)[0],
    "all": lambda x, y, **o: contrastive.hinge_loss(x, y, mining="all", **o)[0],
    "top 3, active": lambda x, y, **o: contrastive.hinge_loss(
        x, y, mining=contrastive.top_k(3), reduction="active", **o
    )[0],
    "mixed, one way": lambda x, y, **o: contrastive.hinge_loss(
        x, y, mining=contrastive.mixed(0.4), directions="y_to_x", reduction="sum", **o
    )[0],
    "info_nce": lambda x, y, **o: contrastive.info_nce(x, y, temperature=0.2, **o),
    "multi_positive": lambda x, y, *, positives, **o: contrastive.multi_positive(
        x, y, positives, temperature=0.2, **o
    ),
    "sigmoid": contrastive.sigmoid_loss,
}


def spread(*arrays, kind=AxisType.Auto, spec=PartitionSpec("batch")):  # noqa: B008
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(kind,))
    return mesh, [jax.device_put(array, NamedSharding(mesh, spec)) for array in arrays]


@pytest.mark.parametrize(
    ("name", "check_vma", "block_size", "communication"),
    some_fast(LOSSES, (True, False), (None, 3), ("gather", "ring"), every=6),
)
def test_inside_of_shard_map(name, check_vma, block_size, communication):
    pairs = embeddings(number=B, dim=D)
    loss = LOSSES[name]
    mesh, arrays = spread(*pairs, jnp.asarray(IDS), jnp.asarray(VALID))
    data = PartitionSpec("batch")

    def of_part(x, y, ids, valid):
        return loss(
            x, y, positives=ids, valid=valid, block_size=block_size, axis_name="batch",
            communication=communication,
        )  # fmt: skip

    spread_loss = jax.shard_map(
        of_part, mesh=mesh, in_specs=(data,) * 4, out_specs=PartitionSpec(), check_vma=check_vma
    )
    found = jax.jit(jax.value_and_grad(spread_loss, (0, 1)))(*arrays)
    whole = lambda x, y: loss(x, y, positives=IDS, valid=VALID)
    wanted = jax.value_and_grad(whole, (0, 1))(*pairs)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, **TOLERANCE)


@pytest.mark.parametrize("communication", ["ring", pytest.param("gather", marks=pytest.mark.slow)])
def test_info_is_of_all_devices(communication):
    x, y = embeddings(number=B, dim=D)
    mesh, arrays = spread(x, y)
    options: Any = {"axis_name": "batch", "communication": communication}
    info = lambda x, y: contrastive.hinge_loss(x, y, **options)[1]
    data = PartitionSpec("batch")
    found = jax.shard_map(info, mesh=mesh, in_specs=(data, data), out_specs=PartitionSpec())(
        *arrays
    )
    wanted = contrastive.hinge_loss(x, y)[1]
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, **TOLERANCE)
    assert found.num_anchors == 2 * B


@pytest.mark.parametrize(
    ("name", "kind", "communication"),
    some_fast(LOSSES, (AxisType.Explicit, AxisType.Auto), ("gather", "ring"), every=5),
)
def test_arrays_that_are_spread(name, kind, communication):
    """Outside of `shard_map`, by the compiler or by the library."""
    pairs = embeddings(number=B, dim=D)
    loss = lambda x, y: LOSSES[name](x, y, positives=jnp.asarray(IDS), communication=communication)
    wanted = jax.value_and_grad(loss, (0, 1))(*pairs)
    mesh, arrays = spread(*pairs, kind=kind)
    with jax.set_mesh(mesh):
        found = jax.jit(jax.value_and_grad(loss, (0, 1)))(*arrays)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, **TOLERANCE)


def test_what_cannot_be_spread_is_told():
    x, y = embeddings(number=B, dim=D)
    mesh, arrays = spread(x, y)
    data = PartitionSpec("batch")
    cases: Any = (
        ({"margin": np.ones((4, 4))}, "margin must be a number with a memory, or where"),
        ({"positives": np.ones((4, 32), bool)}, "positives must be ids, not a mask"),
        ({"communication": "mail"}, "communication must be one of"),
        (
            {"communication": "ring", "memory_y": contrastive.memory_init(8, D)},
            "memory_y must be None with communication='ring'",
        ),
    )
    for options, message in cases:
        loss = lambda x, y, options=options: contrastive.hinge_loss(
            x, y, axis_name="batch", **options
        )[0]
        with pytest.raises(ValueError, match=message):
            jax.shard_map(loss, mesh=mesh, in_specs=(data, data), out_specs=PartitionSpec())(
                *arrays
            )


def test_a_ring_holds_no_more_than_two_parts():
    """Gathered, all embeddings are on every device."""
    number, dim = 4_096, 64
    pairs = embeddings(number=number, dim=dim)
    mesh, arrays = spread(*pairs)
    data = PartitionSpec("batch")
    temporary: dict[str, Any] = {}
    for communication in ("gather", "ring"):
        loss = lambda x, y, c: contrastive.hinge_loss(
            x, y, mining="all", block_size=64, axis_name="batch", communication=c
        )[0]
        mapped = jax.shard_map(loss, mesh=mesh, in_specs=(data, data), out_specs=PartitionSpec())
        compiled = jax.jit(jax.grad(mapped, (0, 1))).lower(*arrays).compile()
        memory: Any = compiled.memory_analysis()
        temporary[communication] = memory.temp_size_in_bytes
    assert temporary["ring"] < temporary["gather"] / 2
