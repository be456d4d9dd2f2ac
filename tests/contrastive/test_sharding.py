"""Pairs that are spread over eight devices have the loss and the gradient of one device."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxrobust import contrastive as uncompiled
from tests.contrastive import compiled as contrastive
from tests.contrastive.problems import embeddings, some_fast

B, D = 32, 6
IDS = np.arange(B) // 3  # groups that lie on two devices
VALID = np.arange(B) % 5 != 4
# In float64, so that a wrong formula cannot hide behind sums in another order.
TOLERANCE: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-12}
DATA = PartitionSpec("batch")

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


@pytest.fixture(autouse=True)
def _in_float64(x64):
    """Of this whole file."""


def pairs_of(number=B, dim=D, seed=0):
    return [jnp.asarray(z, jnp.float64) for z in embeddings(seed, number=number, dim=dim)]


def assert_close(found, wanted, **tolerance):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, **(tolerance or TOLERANCE))


def spread(*arrays, kind=AxisType.Auto, spec=DATA):
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(kind,))
    return mesh, [jax.device_put(array, NamedSharding(mesh, spec)) for array in arrays]


@pytest.mark.parametrize(
    ("name", "check_vma", "block_size", "communication"),
    some_fast(LOSSES, (True, False), (None, 3), ("gather", "ring"), every=6),
)
def test_inside_of_shard_map(name, check_vma, block_size, communication):
    pairs = pairs_of()
    loss = LOSSES[name]
    mesh, arrays = spread(*pairs, jnp.asarray(IDS), jnp.asarray(VALID))

    def of_part(x, y, ids, valid):
        return loss(
            x, y, positives=ids, valid=valid, block_size=block_size, axis_name="batch",
            communication=communication,
        )  # fmt: skip

    spread_loss = jax.shard_map(
        of_part, mesh=mesh, in_specs=(DATA,) * 4, out_specs=PartitionSpec(), check_vma=check_vma
    )
    found = jax.jit(jax.value_and_grad(spread_loss, (0, 1)))(*arrays)
    whole = lambda x, y: loss(x, y, positives=IDS, valid=VALID)
    wanted = jax.value_and_grad(whole, (0, 1))(*pairs)
    assert_close(found, wanted)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_memories_are_whole_on_every_device(kind):
    """And the pairs are spread."""
    pairs = pairs_of()
    past = [
        contrastive.memory_push(contrastive.memory_init(11, D, dtype=float), z, jnp.arange(9) + 5)
        for z in pairs_of(9, seed=3)
    ]
    memories = dict(zip(("memory_x", "memory_y"), past, strict=True))
    whole = lambda x, y, **o: contrastive.info_nce(
        x, y, temperature=0.2, positives=jnp.asarray(IDS), **memories, **o
    )
    wanted = jax.value_and_grad(whole, (0, 1))(*pairs)
    mesh, arrays = spread(*pairs, jnp.asarray(IDS), kind=kind)

    def of_part(x, y, ids):
        return contrastive.info_nce(
            x, y, temperature=0.2, positives=ids, axis_name="batch", **memories
        )

    with jax.set_mesh(mesh):
        mapped = jax.shard_map(
            of_part, mesh=mesh, in_specs=(DATA,) * 3, out_specs=PartitionSpec(), check_vma=False
        )
        found = jax.jit(jax.value_and_grad(mapped, (0, 1)))(*arrays)
        again = jax.jit(jax.value_and_grad(whole, (0, 1)))(*arrays[:2])
    for one in (found, again):
        assert_close(one, wanted)


def test_the_rest_of_the_room_on_explicit_axes():
    """Collapse, queues, slow encoders and chunks."""
    x, y = pairs_of()
    empty = contrastive.memory_init(40, D, dtype=float)
    encode = contrastive.in_chunks(lambda w, z: jnp.tanh(z @ w), chunk_size=3)
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(D, 4)))
    slow = contrastive.momentum_init(weights, 40, D, dtype=float)
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
        assert_close(found, wanted)


@pytest.mark.parametrize("communication", ["ring", pytest.param("gather", marks=pytest.mark.slow)])
def test_info_is_of_all_devices(communication):
    x, y = pairs_of()
    mesh, arrays = spread(x, y)
    options: Any = {"axis_name": "batch", "communication": communication}
    info = lambda x, y: contrastive.hinge_loss(x, y, **options)[1]
    mapped = jax.shard_map(info, mesh=mesh, in_specs=(DATA, DATA), out_specs=PartitionSpec())
    found = jax.jit(mapped)(*arrays)
    wanted = contrastive.hinge_loss(x, y)[1]
    assert_close(found, wanted)
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
    pairs = pairs_of()
    loss = lambda x, y, **options: LOSSES[name](x, y, positives=jnp.asarray(IDS), **options)
    wanted = jax.value_and_grad(loss, (0, 1))(*pairs)
    mesh, arrays = spread(*pairs, kind=kind)
    with jax.set_mesh(mesh):
        spread_loss = functools.partial(loss, communication=communication)
        found = jax.jit(jax.value_and_grad(spread_loss, (0, 1)))(*arrays)
    assert_close(found, wanted)


def test_what_cannot_be_spread_is_told():
    x, y = pairs_of()
    mesh, arrays = spread(x, y)
    cases: Any = (
        *(
            ({"margin": np.ones((4, n))}, "margin must be a number with a memory, or where")
            for n in (4, 32)
        ),
        *(
            ({"positives": np.ones((4, n), bool)}, "positives must be ids, not a mask")
            for n in (4, 32)
        ),
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
            jax.shard_map(loss, mesh=mesh, in_specs=(DATA, DATA), out_specs=PartitionSpec())(
                *arrays
            )


@pytest.mark.parametrize("which", ["y", "positives", "valid"])
def test_one_of_the_arrays_is_spread(which):
    """The others are there whole."""
    x, y = pairs_of()
    arrays = {"x": x, "y": y, "positives": jnp.asarray(IDS), "valid": jnp.asarray(VALID)}
    loss = lambda arrays: contrastive.hinge_loss(**arrays)[0]
    wanted = jax.value_and_grad(lambda x: loss(arrays | {"x": x}))(x)
    mesh, (one,) = spread(arrays[which], kind=AxisType.Explicit)
    with jax.set_mesh(mesh):
        found = jax.jit(jax.value_and_grad(lambda x: loss(arrays | {which: one, "x": x})))(x)
    assert_close(found, wanted)


def test_eager_calls_compile_once():
    """Also with a mining and a similarity of the user's own; other options are another program."""
    traced = []

    def similarity(x, y):
        traced.append(1)
        return jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)

    mesh, arrays = spread(*pairs_of(), kind=AxisType.Explicit)
    with jax.set_mesh(mesh):
        loss = lambda **o: contrastive.hinge_loss(*arrays, similarity=similarity, **o)[0]
        first = [loss(margin=0.3, mining=contrastive.top_k(3)) for _ in range(2)]
        number = len(traced)
        first.append(loss(margin=0.3, mining=contrastive.top_k(3)))
        assert len(traced) == number
        other = loss(margin=0.3, mining=contrastive.top_k(2))
    assert first[0] == first[1] == first[2] != other


def test_features_are_not_spread():
    x, y = pairs_of(dim=8)
    mesh, (one,) = spread(x, kind=AxisType.Explicit, spec=PartitionSpec(None, "batch"))
    with jax.set_mesh(mesh), pytest.raises(ValueError, match="x must be sharded over its first ax"):
        contrastive.hinge_loss(one, y)


def test_a_ring_needs_devices():
    x, y = pairs_of()
    with pytest.raises(ValueError, match="communication='ring' needs axis_name"):
        contrastive.hinge_loss(x, y, communication="ring")


SETS: dict[str, Any] = {
    "sup_con": functools.partial(contrastive.sup_con, temperature=0.3),
    "triplets, hardest": contrastive.triplet_loss,
    "triplets, hardest, distances, active": functools.partial(
        contrastive.triplet_loss, similarity="euclidean", reduction="active"
    ),
    "triplets, semi-hard": functools.partial(contrastive.triplet_loss, mining="semi_hard"),
}


@pytest.mark.parametrize("block_size", [None, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "communication"),
    [
        (name, communication)
        for name in SETS
        for communication in ("gather", "explicit", "ring", "explicit ring")
        if not (name == "triplets, semi-hard" and "ring" in communication)
    ],
)
def test_sets_that_are_spread(name, communication, block_size):
    z, _ = pairs_of()
    labels, valid = jnp.asarray(IDS), jnp.arange(B) != 3
    loss = functools.partial(SETS[name], block_size=block_size)
    wanted = jax.value_and_grad(loss)(z, labels, valid=valid)
    assert wanted[0] > 0
    is_explicit = "explicit" in communication
    mesh, arrays = spread(
        z, labels, valid, kind=AxisType.Explicit if is_explicit else AxisType.Auto
    )
    way: Any = "ring" if "ring" in communication else "gather"

    def local(z, labels, valid):
        return loss(z, labels, valid=valid, axis_name="batch", communication=way)

    mapped = jax.shard_map(local, mesh=mesh, in_specs=(DATA,) * 3, out_specs=PartitionSpec())
    explicit = lambda z, labels, valid: loss(z, labels, valid=valid, communication=way)
    with jax.set_mesh(mesh):
        found = jax.jit(jax.value_and_grad(explicit if is_explicit else mapped))(*arrays)
    assert_close(found, wanted)


def test_sets_around_a_ring_are_told():
    z, _ = pairs_of()
    with pytest.raises(ValueError, match="communication='ring' needs axis_name"):
        contrastive.sup_con(z, IDS, communication="ring")
    with pytest.raises(ValueError, match="must be 'gather' with mining='semi_hard'"):
        contrastive.triplet_loss(z, IDS, mining="semi_hard", communication="ring")


def test_ids_that_are_lists_or_too_large():
    x, y = pairs_of()
    mesh, arrays = spread(x, y, kind=AxisType.Explicit)
    loss: Any = lambda x, y, ids: uncompiled.hinge_loss(x, y, positives=ids)[0]
    with jax.set_mesh(mesh):
        np.testing.assert_allclose(loss(*arrays, list(IDS)), loss(x, y, IDS), rtol=1e-12)
        with jax.enable_x64(False), pytest.raises(ValueError, match="positives must fit into int3"):
            loss(*arrays, np.arange(B) + 2**40)


@pytest.mark.parametrize(
    "mining",
    ["hardest", pytest.param("all", marks=pytest.mark.slow),
     pytest.param(contrastive.top_k(8), marks=pytest.mark.slow)],
)  # fmt: skip
def test_a_ring_holds_few_parts(mining):
    """Gathered, all embeddings are on every device, and their gradients."""
    # So large that embeddings are most of it, and four times what is picked in one go.
    number, dim = 32_768, 64
    pairs = embeddings(number=number, dim=dim)
    mesh, arrays = spread(*pairs)
    memory: dict[str, Any] = {}
    for communication in ("gather", "ring"):

        def loss(x, y, communication: Any = communication):
            return contrastive.hinge_loss(
                x, y, mining=mining, block_size=64, axis_name="batch", communication=communication
            )[0]

        mapped = jax.shard_map(loss, mesh=mesh, in_specs=(DATA, DATA), out_specs=PartitionSpec())
        compiled = jax.jit(jax.grad(mapped, (0, 1))).lower(*arrays).compile()
        analysis: Any = compiled.memory_analysis()
        memory[communication] = analysis.temp_size_in_bytes
    assert memory["ring"] < memory["gather"] / 2


# All that has a gradient --------------------------------------------------------------------------

OPTIONS: dict[str, Any] = {
    "hinges, weights": (
        lambda x, y, number, weights, **o: (
            number
            * contrastive.hinge_loss(
                x, y, mining=contrastive.mixed(0.3), weights=weights, reduction="sum", **o
            )[0]
        ),
        (2.0,),
    ),
    "info_nce, temperature, weights": (
        lambda x, y, number, weights, **o: contrastive.info_nce(
            x, y, temperature=number, weights=weights, **o
        ),
        (0.3,),
    ),
    "multi_positive, temperature": (
        lambda x, y, number, weights, *, positives, **o: contrastive.multi_positive(
            x, y, positives, temperature=number, weights=weights, **o
        ),
        (0.3,),
    ),
    "hard_negative_nce, temperature": (
        lambda x, y, number, weights, **o: contrastive.hard_negative_nce(
            x, y, temperature=number, beta=0.5, positive_rate=0.05, weights=weights, **o
        ),
        (0.3,),
    ),
    "sigmoid, scale": (
        lambda x, y, number, weights, **o: contrastive.sigmoid_loss(
            x, y, scale=number, bias=-2.0, **o
        ),
        (5.0,),
    ),
    "sigmoid, bias": (
        lambda x, y, number, weights, **o: contrastive.sigmoid_loss(
            x, y, scale=3.0, bias=number, **o
        ),
        (-2.0,),
    ),
}
MESHES: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {
    "one axis": ((8,), ("batch",)),
    "two axes": ((4, 2), ("batch", "model")),
}


@pytest.mark.parametrize(
    ("name", "communication", "mesh", "where"),
    some_fast(OPTIONS, ("gather", "ring"), MESHES, ("inside", "checked", "unchecked"), every=5),
)
def test_gradients_of_numbers_and_weights(name, communication, mesh, where):
    """Of the temperature, scale, bias and weights; taken inside of `shard_map`, or outside of it.

    Over one mesh axis, and over two.
    """
    function, (number,) = OPTIONS[name]
    x, y = pairs_of()
    weights = jnp.linspace(0.5, 2.0, B)
    ids = jnp.asarray(IDS)
    number = jnp.float64(number)
    all_four = (0, 1, 2, 3)
    whole = lambda x, y, number, weights: function(x, y, number, weights, positives=ids)
    wanted = jax.value_and_grad(whole, all_four)(x, y, number, weights)

    shape, names = MESHES[mesh]
    rows, same = PartitionSpec(names), PartitionSpec()
    axis_name: Any = names if len(shape) > 1 else names[0]

    def of_part(x, y, number, weights, ids):
        return function(
            x, y, number, weights, positives=ids, axis_name=axis_name, block_size=3,
            communication=communication,
        )  # fmt: skip

    mapped = functools.partial(
        jax.shard_map,
        mesh=jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(names)),
        in_specs=(rows, rows, same, rows, rows),
        check_vma=where != "unchecked",
    )
    if where == "inside":
        grad = mapped(
            jax.value_and_grad(of_part, all_four), out_specs=(same, (rows, rows, same, rows))
        )
    else:
        grad = jax.value_and_grad(mapped(of_part, out_specs=same), all_four)
    assert_close(jax.jit(grad)(x, y, number, weights, ids), wanted)


@pytest.mark.parametrize("check_vma", [True, False])
def test_hardest_of_a_memory_block_by_block(check_vma):
    """With ids, of which some are in the memory."""
    pairs = pairs_of()
    past = [
        contrastive.memory_push(contrastive.memory_init(11, D, dtype=float), z, jnp.arange(9) + 5)
        for z in pairs_of(9, seed=3)
    ]
    memories = dict(zip(("memory_x", "memory_y"), past, strict=True))
    loss = lambda x, y, ids, **o: contrastive.hinge_loss(
        x, y, margin=0.7, positives=ids, **memories, **o
    )[0]
    wanted = jax.value_and_grad(loss, (0, 1))(*pairs, jnp.asarray(IDS))
    mesh, arrays = spread(*pairs, jnp.asarray(IDS))
    mapped = jax.shard_map(
        functools.partial(loss, axis_name="batch", block_size=5),
        mesh=mesh, in_specs=(DATA,) * 3, out_specs=PartitionSpec(), check_vma=check_vma,
    )  # fmt: skip
    assert_close(jax.jit(jax.value_and_grad(mapped, (0, 1)))(*arrays), wanted)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_parameters_of_encoders_in_chunks(kind):
    """Through the loss of pairs that are spread."""
    x, y = pairs_of()
    rng = np.random.default_rng(0)
    params = [jnp.asarray(rng.normal(size=(D, 4))) for _ in range(2)]
    embed = contrastive.in_chunks(lambda w, z: jnp.tanh(z @ w), chunk_size=3)

    def loss(params, x, y):
        return contrastive.hinge_loss(embed(params[0], x), embed(params[1], y), margin=0.5)[0]

    plain = lambda params, x, y: contrastive.hinge_loss(
        *(jnp.tanh(z @ w) for w, z in zip(params, (x, y), strict=True)), margin=0.5
    )[0]
    wanted = jax.value_and_grad(plain)(params, x, y)
    mesh, arrays = spread(x, y, kind=kind)
    with jax.set_mesh(mesh):
        assert_close(jax.jit(jax.value_and_grad(loss))(params, *arrays), wanted)


@pytest.mark.parametrize("check_vma", [True, False])
def test_queues_are_whole_inside_of_shard_map(check_vma):
    """What all devices push, in their order; it leaves `shard_map` as what all devices share."""
    x, y = pairs_of()
    ids, valid = jnp.asarray(IDS), jnp.asarray(VALID)
    slow = contrastive.momentum_init({"w": jnp.ones(3)}, 40, D, dtype=float)
    update = functools.partial(contrastive.momentum_update, slow, {"w": jnp.zeros(3)})
    wanted = update(x, y, ids, valid)
    mesh, arrays = spread(x, y, ids, valid)
    mapped = jax.shard_map(
        functools.partial(update, axis_name="batch"),
        mesh=mesh, in_specs=(DATA,) * 4, out_specs=PartitionSpec(), check_vma=check_vma,
    )  # fmt: skip
    chex.assert_trees_all_equal(jax.jit(mapped)(*arrays), wanted)


@pytest.mark.parametrize("communication", ["gather", "ring"])
@pytest.mark.parametrize("name", ["hardest", "top 3, active", "semi-hard"])
def test_of_equal_negatives_on_several_devices_the_first_is_mined(name, communication):
    """Every embedding is there four times, on different devices, exactly the same."""
    few = pairs_of(B // 4)
    pairs = [jnp.tile(jnp.round(4 * z) / 4, (4, 1)) for z in few]
    loss = functools.partial(LOSSES[name], similarity="dot")
    if name == "semi-hard":  # which has a similarity of its own
        loss = LOSSES[name]
    mesh, arrays = spread(*pairs)
    mapped = jax.shard_map(
        functools.partial(loss, axis_name="batch", communication=communication),
        mesh=mesh, in_specs=(DATA, DATA), out_specs=PartitionSpec(),
    )  # fmt: skip
    found = jax.jit(jax.value_and_grad(mapped, (0, 1)))(*arrays)
    wanted = jax.value_and_grad(loss, (0, 1))(*pairs)
    assert_close(found, wanted)
    # The gradient tells the first from its copies.
    slopes = wanted[1][1].reshape(4, B // 4, D)
    assert not np.allclose(slopes[0], slopes[3])


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_a_traced_mixture_over_devices(weight):
    """With a branch for the hardest alone, which all devices take."""
    pairs = pairs_of()
    loss = lambda x, y, weight, **o: contrastive.hinge_loss(
        x, y, mining=contrastive.mixed(weight), **o
    )[0]
    wanted = jax.value_and_grad(loss, (0, 1))(*pairs, weight)
    mesh, arrays = spread(*pairs)
    for communication, check_vma in (("gather", True), ("ring", True), ("ring", False)):
        mapped = jax.shard_map(
            functools.partial(loss, axis_name="batch", communication=communication),
            mesh=mesh, in_specs=(DATA, DATA, PartitionSpec()), out_specs=PartitionSpec(),
            check_vma=check_vma,
        )  # fmt: skip
        found = jax.jit(jax.value_and_grad(mapped, (0, 1)))(*arrays, jnp.float64(weight))
        assert_close(found, wanted)


@pytest.mark.parametrize("mining", ["hardest", "all"])
@pytest.mark.parametrize("communication", ["gather", "ring"])
def test_single_precision_of_a_large_batch(mining, communication):
    """Gradients of eight devices are those of one to 1e-6 of the largest entry."""
    number = 2048
    pairs = embeddings(number=number, dim=64)
    loss = lambda x, y, **o: contrastive.hinge_loss(x, y, mining=mining, **o)[0]
    wanted = jax.jit(jax.value_and_grad(loss, (0, 1)))(*pairs)
    mesh, arrays = spread(*pairs)
    mapped = jax.shard_map(
        functools.partial(loss, axis_name="batch", communication=communication),
        mesh=mesh, in_specs=(DATA, DATA), out_specs=PartitionSpec(),
    )  # fmt: skip
    found = jax.jit(jax.value_and_grad(mapped, (0, 1)))(*arrays)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * float(np.abs(b).max()))
