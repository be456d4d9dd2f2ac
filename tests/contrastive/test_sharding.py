"""Pairs that are spread over eight devices have the loss and the gradient of one device."""

import functools
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
    "soft": lambda x, y, **o: contrastive.hinge_loss(x, y, mining=contrastive.soft(5.0), **o)[0],
    "semi-hard": lambda x, y, **o: contrastive.hinge_loss(
        x, y, mining="semi_hard", similarity="euclidean", **o
    )[0],
    "selective, false negatives": lambda x, y, **o: contrastive.hinge_loss(
        x, y, mining=contrastive.selective(0.2), ignore_above=0.3, **o
    )[0],
    "distance weighted": lambda x, y, **o: contrastive.hinge_loss(
        x, y, mining=contrastive.distance_weighted(jax.random.key(0)), margin=1.0, **o
    )[0],
    "top 12, soft hinges": lambda x, y, **o: contrastive.hinge_loss(
        x, y, mining=contrastive.top_k(12), smooth=True, similarity="order", **o
    )[0],
    "hard_negative_nce": lambda x, y, **o: contrastive.hard_negative_nce(
        x, y, temperature=0.2, beta=1.0, positive_rate=0.05, **o
    ),
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


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_memories_are_whole_on_every_device(kind):
    """And the pairs are spread."""
    pairs = embeddings(number=B, dim=D)
    past = [
        contrastive.memory_push(contrastive.memory_init(11, D), z, jnp.arange(9) + 5)
        for z in embeddings(seed=3, number=9, dim=D)
    ]
    memories = dict(zip(("memory_x", "memory_y"), past, strict=True))
    whole = lambda x, y, **o: contrastive.info_nce(
        x, y, temperature=0.2, positives=jnp.asarray(IDS), **memories, **o
    )
    wanted = jax.value_and_grad(whole, (0, 1))(*pairs)
    mesh, arrays = spread(*pairs, jnp.asarray(IDS), kind=kind)
    data = PartitionSpec("batch")

    def of_part(x, y, ids):
        return contrastive.info_nce(
            x, y, temperature=0.2, positives=ids, axis_name="batch", **memories
        )

    with jax.set_mesh(mesh):
        mapped = jax.shard_map(
            of_part, mesh=mesh, in_specs=(data,) * 3, out_specs=PartitionSpec(), check_vma=False
        )
        found = jax.jit(jax.value_and_grad(mapped, (0, 1)))(*arrays)
        again = jax.jit(jax.value_and_grad(whole, (0, 1)))(*arrays[:2])
    for one in (found, again):
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, **TOLERANCE)


def test_the_rest_of_the_room_on_explicit_axes():
    """Collapse, queues, slow encoders and chunks."""
    x, y = embeddings(number=B, dim=D)
    empty = contrastive.memory_init(40, D)
    encode = contrastive.in_chunks(lambda w, z: jnp.tanh(z @ w), chunk_size=3)
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(D, 4)), jnp.float32)
    slow = contrastive.momentum_init(weights, 40, D)
    functions: Any = {
        "collapse": lambda x, y: contrastive.collapse(x),
        "push": lambda x, y: contrastive.memory_push(empty, x),
        "momentum": lambda x, y: contrastive.momentum_update(slow, weights, x, y),
        "chunks": lambda x, y: encode(weights, x),
        "gradient of chunks": jax.grad(lambda x, y: jnp.sum(encode(weights, x) ** 2)),
    }
    mesh, arrays = spread(x, y, kind=AxisType.Explicit)
    for function in functions.values():
        wanted = function(x, y)
        with jax.set_mesh(mesh):
            found = jax.jit(function)(*arrays)
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
    ("name", "mesh_and_communication"),
    some_fast(
        LOSSES,
        ((AxisType.Explicit, "gather"), (AxisType.Auto, "gather"), (AxisType.Explicit, "ring")),
        every=5,
    ),
)
def test_arrays_that_are_spread(name, mesh_and_communication):
    """Outside of `shard_map`, by the compiler or by the library."""
    kind, communication = mesh_and_communication
    pairs = embeddings(number=B, dim=D)
    loss = lambda x, y, **options: LOSSES[name](x, y, positives=jnp.asarray(IDS), **options)
    wanted = jax.value_and_grad(loss, (0, 1))(*pairs)
    mesh, arrays = spread(*pairs, kind=kind)
    with jax.set_mesh(mesh):
        spread_loss = functools.partial(loss, communication=communication)
        found = jax.jit(jax.value_and_grad(spread_loss, (0, 1)))(*arrays)
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


def test_a_ring_needs_devices():
    x, y = embeddings(number=B, dim=D)
    with pytest.raises(ValueError, match="communication='ring' needs axis_name"):
        contrastive.hinge_loss(x, y, communication="ring")


@pytest.mark.parametrize("loss", [contrastive.sup_con, contrastive.triplet_loss])
def test_sets_that_are_spread(loss):
    x, _ = embeddings(number=B, dim=D)
    labels = jnp.asarray(IDS)
    wanted = jax.value_and_grad(loss)(x, labels)
    mesh, arrays = spread(x, labels, kind=AxisType.Explicit)
    with jax.set_mesh(mesh):
        found = jax.jit(jax.value_and_grad(loss))(*arrays)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, **TOLERANCE)


@pytest.mark.parametrize(
    "mining",
    ["hardest", pytest.param("all", marks=pytest.mark.slow),
     pytest.param(contrastive.top_k(8), marks=pytest.mark.slow)],
)  # fmt: skip
def test_a_ring_holds_few_parts(mining):
    """Gathered, all embeddings are on every device, and their gradients."""
    number, dim = 4_096, 256  # so large that embeddings are most of it
    pairs = embeddings(number=number, dim=dim)
    mesh, arrays = spread(*pairs)
    data = PartitionSpec("batch")
    memory: dict[str, Any] = {}
    for communication in ("gather", "ring"):

        def loss(x, y, communication: Any = communication):
            return contrastive.hinge_loss(
                x, y, mining=mining, block_size=64, axis_name="batch", communication=communication
            )[0]

        mapped = jax.shard_map(loss, mesh=mesh, in_specs=(data, data), out_specs=PartitionSpec())
        compiled = jax.jit(jax.grad(mapped, (0, 1))).lower(*arrays).compile()
        analysis: Any = compiled.memory_analysis()
        memory[communication] = analysis.temp_size_in_bytes
    assert memory["ring"] < memory["gather"] / 2
