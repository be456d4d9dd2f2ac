"""Schedules, encoders in chunks, collapse, similarities, dtypes and bad input."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import contrastive as uncompiled
from tests.contrastive import compiled as contrastive
from tests.contrastive.problems import B, D, embeddings, numeric_gradient, some_fast

TOLERANCE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}


def loss_of(mining, x, y):
    return contrastive.hinge_loss(x, y, mining=mining, reduction="sum")[0]


SCHEDULES: dict[str, tuple[Any, dict[int, Any]]] = {
    "switch": (
        contrastive.switch(3, mean=False),
        {0: "all", 2: "all", 3: "hardest", 9: "hardest"},
    ),
    "ramp": (
        contrastive.ramp(2, 6, mean=False),
        {0: "all", 2: "all", 3: contrastive.mixed(0.25, mean=False), 6: "hardest", 9: "hardest"},
    ),
    "top k": (
        contrastive.top_k_annealing(B - 1, 4),
        {0: "all", 2: contrastive.top_k(3), 4: "hardest", 7: "hardest"},  # sqrt(11) = 3.3
    ),
    "temperature": (
        contrastive.temperature_annealing(1.0, 100.0, 4),
        {0: contrastive.soft(1.0), 2: contrastive.soft(10.0), 5: contrastive.soft(100.0)},
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name):
    """By a traced step, in one program."""
    x, y = embeddings()
    schedule, expected = SCHEDULES[name]

    @jax.jit
    @chex.assert_max_traces(n=1)
    def at(step):
        return jax.value_and_grad(lambda x: loss_of(schedule(step), x, y))(x)

    for step, mining in expected.items():
        wanted = jax.value_and_grad(lambda x, mining=mining: loss_of(mining, x, y))(x)
        chex.assert_trees_all_close(at(jnp.int32(step)), wanted, rtol=1e-5, atol=1e-5)


def test_a_ramp_of_unsigned_steps():
    weight = lambda step: getattr(contrastive.ramp(2, 6)(step), "weight")  # noqa: B009
    for dtype in (jnp.uint32, jnp.int32):
        found = [float(weight(dtype(step))) for step in (0, 2, 4, 6, 9)]
        assert found == [0, 0, 0.5, 1, 1]


def test_after_the_switch_there_are_no_sums():
    """Of one program: a branch in which only the hardest are looked at, with their block size."""
    x, y = embeddings(number=64)
    loss = lambda x, step: loss_of(contrastive.switch(3)(step), x, y)
    steps = jax.make_jaxpr(loss)(x, jnp.int32(0)).jaxpr.eqns
    (cond,) = [eqn for eqn in _inner(steps) if eqn.primitive.name == "cond"]
    costs = [
        jax.jit(jax.value_and_grad(lambda x, m=mining: loss_of(m, x, y))).lower(x).compile()
        for mining in ("hardest", contrastive.mixed(0.5))
    ]
    analyses: list[Any] = [cost.cost_analysis() for cost in costs]
    flops = [analysis["flops"] for analysis in analyses]
    assert len(cond.params["branches"]) == 2
    assert flops[0] < 0.8 * flops[1]


def _inner(eqns):
    """Those inside of calls as well, but not of loops and branches."""
    for eqn in eqns:
        yield eqn
        if "jaxpr" in eqn.params and eqn.primitive.name in ("jit", "pjit"):
            yield from _inner(eqn.params["jaxpr"].jaxpr.eqns)


def test_gradients_of_chunks_in_half_precision():
    """Added in single precision: 1 + 256 is 256 in bfloat16."""
    ones = jnp.ones((1024, 1), jnp.bfloat16)
    encode = lambda w, x: x @ w
    embed = contrastive.in_chunks(encode, chunk_size=1)
    loss = lambda w: jnp.sum(embed(w, ones).astype(jnp.float32))
    slope = jax.jit(jax.grad(loss))(jnp.ones((1, 1), jnp.bfloat16))
    assert slope.dtype == jnp.bfloat16
    assert slope == 1024
    params = {"w": jnp.ones((1, 1), jnp.bfloat16), "number": jnp.int32(2)}
    encode = lambda params, x: x @ params["w"] * params["number"].astype(jnp.bfloat16)
    np.testing.assert_array_equal(contrastive.in_chunks(encode, chunk_size=3)(params, ones), 2)


@pytest.mark.parametrize("number", [12, 13, 3, 16])
def test_in_chunks(number):
    """Values and gradients are those of the whole; memory is not."""
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(4, 6)), jnp.float32), "b": jnp.ones(6)}
    inputs = {"x": jnp.asarray(rng.normal(size=(number, 4)), jnp.float32)}
    encode = lambda params, inputs: jnp.tanh(inputs["x"] @ params["w"] + params["b"][None, :])
    other = jnp.asarray(rng.normal(size=(number, 6)), jnp.float32)
    embed = contrastive.in_chunks(encode, chunk_size=5)
    loss = lambda encoder: jax.jit(
        jax.value_and_grad(lambda params: contrastive.hinge_loss(encoder(params, inputs), other)[0])
    )
    chex.assert_trees_all_close(loss(embed)(params), loss(encode)(params), rtol=1e-5, atol=1e-6)


def test_dropout_of_chunks_by_a_key_for_each_example():
    """The same as of the whole, and in both runs of the gradient; different between chunks."""
    w = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)), jnp.float32)

    def encode(w, inputs):
        x, keys = inputs
        kept = jax.vmap(lambda key: jax.random.bernoulli(key, 0.5, (6,)))(keys)
        return jnp.where(kept, x @ w, 0)

    inputs = jnp.ones((12, 4)), jax.random.split(jax.random.key(0), 12)
    embed = contrastive.in_chunks(encode, chunk_size=5)
    found, wanted = (
        jax.value_and_grad(lambda w, e=e: jnp.sum(jnp.sin(e(w, inputs))))(w)
        for e in (embed, encode)
    )
    chex.assert_trees_all_close(found, wanted, rtol=1e-5)
    assert (embed(w, inputs)[:5] != embed(w, inputs)[5:10]).any()


def test_chunks_need_less_memory():
    width, number = 512, 2048

    def encode(params, inputs):
        for _ in range(6):
            inputs = jnp.tanh(inputs @ params)
        return inputs

    def temporary(encoder):
        loss = lambda params, inputs: jnp.sum(encoder(params, inputs) ** 2)
        shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((width, width), (number, width))]
        program = jax.jit(jax.grad(loss)).lower(*shapes).compile()
        return program.memory_analysis().temp_size_in_bytes  # type: ignore[union-attr]

    assert temporary(contrastive.in_chunks(encode, chunk_size=64)) < temporary(encode) / 2


def test_chunks_of_bad_input():
    with pytest.raises(ValueError, match="chunk_size must be an integer of at least 1"):
        contrastive.in_chunks(lambda p, x: x, chunk_size=0)
    embed = contrastive.in_chunks(lambda p, x: x[0], chunk_size=2)
    with pytest.raises(ValueError, match=r"inputs must be arrays \(n, ...\) of one length"):
        embed({}, (jnp.ones(3), jnp.ones(4)))


# Collapse -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(9, 4), (4, 9)])
def test_collapse_against_loops(shape):
    z = np.random.default_rng(0).normal(size=shape) + 0.5
    found = contrastive.collapse(jnp.asarray(z, jnp.float32))
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    cosines = unit @ unit.T
    off = cosines[~np.eye(len(z), dtype=bool)]
    np.testing.assert_allclose(found.mean_cosine, off.mean(), rtol=1e-5)
    spread = np.mean(np.sum((unit - unit.mean(axis=0)) ** 2, axis=1))
    np.testing.assert_allclose(found.spread, spread, rtol=1e-5)
    values = np.linalg.eigvalsh(unit.T @ unit)
    np.testing.assert_allclose(found.dimensions, values.sum() ** 2 / np.sum(values**2), rtol=1e-5)


def test_extremes_of_collapse():
    same = contrastive.collapse(3 * jnp.ones((5, 4)))
    np.testing.assert_allclose(same, [1, 0, 1], atol=1e-5)
    apart = contrastive.collapse(jnp.eye(4))
    np.testing.assert_allclose(apart, [0, 0.75, 4], atol=1e-6)
    with pytest.raises(ValueError, match="z must have at least 2 rows, got 1"):
        contrastive.collapse(jnp.ones((1, 3)))


@pytest.mark.slow
def test_a_deep_tower_collapses_under_the_hardest_and_not_with_a_warm_up():
    """The hinge of the hardest negative stays at the margin; the mean of all first cures it."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(50, 16))
    latent = centers[rng.integers(0, 50, 512)] + 0.35 * rng.normal(size=(512, 16))
    views = [np.tanh(latent @ rng.normal(size=(16, n)) / 4) for n in (64, 48)]
    views = [jnp.asarray(v + 0.25 * rng.normal(size=v.shape), jnp.float32) for v in views]
    widths = [[n, *[64] * 8, 32] for n in (64, 48)]
    params = [
        [jnp.asarray(rng.normal(size=(a, b)) * np.sqrt(2 / a), jnp.float32)
         for a, b in zip(w, w[1:], strict=False)]
        for w in widths
    ]  # fmt: skip

    def embed(layers, z):
        for layer in layers[:-1]:
            z = jax.nn.relu(z @ layer + 0.1)
        return z @ layers[-1]

    def train(schedule):
        optimizer = optax.chain(optax.clip_by_global_norm(2.0), optax.adam(1e-3))

        def loss(params, rows, step):
            x, y = (embed(p, v[rows]) for p, v in zip(params, views, strict=True))
            return contrastive.hinge_loss(x, y, mining=schedule(step), reduction="sum")

        def step(carry, number):
            params, state = carry
            rows = jax.random.permutation(jax.random.fold_in(jax.random.key(0), number), 512)[:128]
            (_, info), gradient = jax.value_and_grad(loss, has_aux=True)(params, rows, number)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(params, updates), state), info.collapse_ratio

        run = jax.jit(lambda carry: jax.lax.scan(step, carry, jnp.arange(400)))
        return run((params, optimizer.init(params)))[1]

    stuck = train(lambda step: "hardest")
    cured = train(contrastive.switch(150))
    assert float(stuck[-50:].mean()) > 0.95
    assert float(cured[-50:].mean()) < 0.9


# Similarities -------------------------------------------------------------------------------------


def euclidean(x, y):
    return -np.linalg.norm(x[:, None] - y[None], axis=2)


def order(x, y):
    return -np.linalg.norm(np.maximum(y[None] - x[:, None], 0), axis=2)


SIMILARITIES: dict[str, tuple[Any, Any]] = {
    "dot": ("dot", lambda x, y: x @ y.T),
    "euclidean": ("euclidean", euclidean),
    "order": ("order", order),
    "squared order": (contrastive.order(squared=True), lambda x, y: -(order(x, y) ** 2)),
    "own": (lambda x, y: jnp.tanh(x @ y.T / 3), lambda x, y: np.tanh(x @ y.T / 3)),
}


@pytest.mark.parametrize(
    ("name", "mining", "block_size"),
    some_fast(SIMILARITIES, ("all", "hardest"), (None, 5), every=3),
)
def test_similarities(name, mining, block_size, x64):
    from contrastive import oracles

    given, scores = SIMILARITIES[name]
    x, y = (jnp.asarray(z, jnp.float64) for z in embeddings(dim=37))
    options: dict[str, Any] = {"margin": 2.0, "similarity": given, "block_size": block_size}
    loss = jax.jit(lambda x, y: contrastive.hinge_loss(
        x, y, mining=mining, reduction="sum", **options)[0])  # fmt: skip
    value, gradients = jax.value_and_grad(loss, (0, 1))(x, y)
    wanted = lambda x, y: oracles.hinge_loss(scores(x, y), mining, margin=2.0)[0]
    np.testing.assert_allclose(value, wanted(np.asarray(x), np.asarray(y)), rtol=1e-9)
    for number in (0, 1):
        slopes = numeric_gradient(wanted, (x, y), number)
        np.testing.assert_allclose(gradients[number], slopes, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["order", "euclidean"])
def test_no_violation_has_a_finite_gradient(name):
    """The root of zero."""
    x = jnp.ones((4, 3))
    loss = lambda x, y: contrastive.hinge_loss(x, y, similarity=name, mining="all")[0]
    value, gradients = jax.value_and_grad(loss, (0, 1))(x, x)
    assert float(value) == pytest.approx(2 * 3 * 0.2)
    chex.assert_trees_all_equal(gradients, (jnp.zeros_like(x),) * 2)


def test_distance_weighted_draws_are_as_likely_as_they_should_be():
    """Against probabilities by the formula, over many keys; blocks draw the same."""
    x, y = embeddings(noise=0.3, number=6, dim=4)
    unit = [np.asarray(z / np.linalg.norm(z, axis=1, keepdims=True), np.float64) for z in (x, y)]
    scores = unit[0] @ unit[1].T
    options: dict[str, Any] = {"directions": "x_to_y", "margin": 3.0, "reduction": "sum"}

    def drawn(key, block_size):
        mining = contrastive.distance_weighted(key, limit=1.9)
        one = jnp.zeros(6).at[0].set(1.0)
        loss = lambda y: contrastive.hinge_loss(
            x, y, mining=mining, weights=one, block_size=block_size, **options
        )[0]
        moved = jnp.any(jax.grad(loss)(y) != 0, axis=1).at[0].set(False)
        return jnp.argmax(moved)

    keys = jax.random.split(jax.random.key(0), 4000)
    found = np.asarray(jax.jit(jax.vmap(lambda key: drawn(key, None)))(keys))
    again = np.asarray(jax.jit(jax.vmap(lambda key: drawn(key, 4)))(keys))
    np.testing.assert_array_equal(found, again)
    distances = np.maximum(np.sqrt(2 - 2 * scores[0]), 0.5)
    log_q = (4 - 2) * np.log(distances) + (4 - 3) / 2 * np.log(1 - distances**2 / 4)
    weights = np.where((np.arange(6) != 0) & (np.sqrt(2 - 2 * scores[0]) < 1.9), np.exp(-log_q), 0)
    expected = weights / weights.sum()
    counts = np.bincount(found, minlength=6) / 4000
    # Five standard errors.
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected / 4000) + 1e-9).all()


# Dtypes, transformations, bad input ---------------------------------------------------------------


def test_vmap_and_scan():
    batches = jnp.stack([jnp.stack(embeddings(seed)) for seed in range(3)])
    loss = lambda pair: contrastive.hinge_loss(pair[0], pair[1], block_size=5)[0]
    wanted = jnp.stack([loss(pair) for pair in batches])
    np.testing.assert_allclose(jax.vmap(loss)(batches), wanted, rtol=1e-6)
    scanned = jax.lax.scan(lambda carry, pair: (carry, loss(pair)), 0, batches)[1]
    np.testing.assert_allclose(scanned, wanted, rtol=1e-6)


def test_padding_is_as_if_it_were_not_there():
    x, y = embeddings()
    valid = np.arange(B) < 9
    for mining in ("hardest", "all", contrastive.top_k(20)):
        for reduction in ("sum", "mean", "active"):
            found = contrastive.hinge_loss(
                x,
                y,
                mining=mining,
                valid=valid,
                reduction=reduction,  # type: ignore[arg-type]
            )
            wanted = contrastive.hinge_loss(x[:9], y[:9], mining=mining, reduction=reduction)  # type: ignore[arg-type]
            chex.assert_trees_all_close(found, wanted, rtol=1e-5)


def test_more_pairs_than_a_chunk():
    """The picked pairs are looked at a thousand at a time; the last of them are fewer."""
    x, y = embeddings(number=1100)
    loss = lambda x, y, **o: contrastive.hinge_loss(x, y, reduction="sum", **o)[0]

    def dense(x, y):
        x, y = (z / jnp.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
        scores = jnp.where(jnp.eye(1100, dtype=bool), -jnp.inf, x @ y.T)
        own = jnp.sum(x * y, axis=1)
        hinges = (jax.nn.relu(0.2 + jnp.max(scores, axis=axis) - own) for axis in (0, 1))
        return sum(map(jnp.sum, hinges))

    found = jax.value_and_grad(loss, (0, 1))(x, y, block_size=300)
    wanted = jax.value_and_grad(dense, (0, 1))(x, y)
    chex.assert_trees_all_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("block_size", [None, 5, 1])
@pytest.mark.parametrize("dim", [3, 5, 8, 100])
def test_a_collapsed_batch_is_not_accurate(dim, block_size):
    """Equal scores are no answer, whichever way they are rounded."""
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(np.tile(rng.normal(size=dim), (32, 1)), jnp.float32) for _ in range(2))
    info = contrastive.hinge_loss(x, y, block_size=block_size)[1]
    assert info.accuracy == 0


def test_copies_of_the_positive_are_not_semi_hard():
    x = jnp.asarray(
        np.repeat(np.random.default_rng(0).normal(size=(16, 32)), 2, axis=0), jnp.float32
    )
    mining = contrastive.semi_hard(otherwise="nothing")
    slack = [
        float(contrastive.hinge_loss(x, x, mining=mining, margin=0.05, block_size=b)[0])
        for b in (None, 5)
    ]
    assert slack == [0, 0]


@pytest.mark.parametrize("temperature", [0.07, 0.01, 1e-3])
def test_hard_negatives_at_low_temperatures(temperature):
    x, y = embeddings()
    options: dict[str, Any] = {"temperature": temperature}
    plain = jax.value_and_grad(lambda x: contrastive.info_nce(x, y, **options))(x)
    found = jax.value_and_grad(lambda x: contrastive.hard_negative_nce(x, y, **options))(x)
    chex.assert_trees_all_close(found, plain, rtol=1e-4, atol=1e-4)
    for more in ({"beta": 1.0}, {"positive_rate": 0.1}, {"beta": 1.0, "positive_rate": 0.1}):
        loss = lambda x, more=more: contrastive.hard_negative_nce(x, -y, **options, **more)
        chex.assert_tree_all_finite(jax.value_and_grad(loss)(x))


FEW_IDS = np.array([0, 0, 1, 2, 1, 3])
hinges = lambda x, y, mining, **options: contrastive.hinge_loss(x, y, mining=mining, **options)[0]
# Those that are smooth, so that there are second derivatives.
SMOOTH: dict[str, Any] = {
    "info_nce": functools.partial(contrastive.info_nce, temperature=0.3),
    "multi_positive": lambda x, y, **o: contrastive.multi_positive(
        x, y, FEW_IDS, temperature=0.3, **o
    ),
    "sup_con": lambda x, y, **o: contrastive.sup_con(x + y, FEW_IDS, temperature=0.3, **o),
    "hard_negative_nce": functools.partial(
        contrastive.hard_negative_nce, temperature=0.5, beta=0.5, positive_rate=0.05
    ),
    "sigmoid": functools.partial(contrastive.sigmoid_loss, scale=3.0, bias=-1.0),
    "soft": functools.partial(hinges, mining=contrastive.soft(3.0), margin=1.0),
    "all, soft hinges": functools.partial(hinges, mining="all", smooth=True),
    "hardest, soft hinges": functools.partial(hinges, mining="hardest", smooth=True),
    "3 hardest, soft hinges": functools.partial(hinges, mining=contrastive.top_k(3), smooth=True),
    "triplets, semi-hard, soft hinges": lambda x, y, **o: contrastive.triplet_loss(
        x + y, FEW_IDS, mining="semi_hard", smooth=True, **o
    ),
}


@pytest.mark.parametrize("name", some_fast(SMOOTH, every=5))
def test_second_derivatives_do_not_depend_on_blocks(name, x64):
    x, y = (jnp.asarray(z, jnp.float64) for z in embeddings(number=6))
    loss = SMOOTH[name]

    def along(x, block_size):
        gradient = jax.grad(lambda x: loss(x, y, block_size=block_size))(x)
        return jnp.vdot(gradient, jnp.sin(7 * y))

    dense, blocked = (jax.jit(jax.grad(along), static_argnums=1)(x, size) for size in (None, 4))
    assert np.abs(dense).max() > 1e-3
    np.testing.assert_allclose(blocked, dense, rtol=1e-9, atol=1e-12)
    along = jax.jit(along, static_argnums=1)
    wanted = numeric_gradient(lambda x: float(along(jnp.asarray(x), None)), (x,), 0)
    np.testing.assert_allclose(dense, wanted, rtol=1e-5, atol=1e-7)


def test_ids_that_do_not_fit_are_told():
    x, y = embeddings()
    ids = np.arange(B) * 2**32
    with pytest.raises(ValueError, match="positives must fit into int32.*number them"):
        uncompiled.hinge_loss(x, y, positives=ids)
    with pytest.raises(ValueError, match=r"groups\[0\] must fit into int32"):
        contrastive.retrieval_metrics(x, y, (ids, ids))
    small = np.arange(B, dtype=np.uint8)
    memory = uncompiled.memory_push(contrastive.memory_init(B, D), y, np.arange(B) + 256)
    found = uncompiled.hinge_loss(x, y, positives=small, memory_y=memory, mining="all")[0]
    wanted = uncompiled.hinge_loss(x, y, memory_y=memory, mining="all")[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_bad_input():
    x, y = embeddings()
    cases: Any = (
        ((x[0], y[0]), {}, r"x must be of shape \(B, D\), got \(5,\)"),
        ((x, y[:4]), {}, r"x and y must be of one shape \(B, D\), got \(12, 5\) and \(4, 5\)"),
        ((x.at[3, 1].set(jnp.nan), y), {}, "x must be finite; 1 of 12 rows are not: 3"),
        ((x, y), {"margin": np.nan}, "margin must be finite"),
        ((x, y), {"margin": np.ones(3)}, r"margin must be a number or \(12, 12\), got \(3,\)"),
        ((x, y), {"mining": "best"}, r"mining must be one of \['all', 'hardest', 'semi_hard'\]"),
        ((x, y), {"similarity": "cos"}, "similarity must be one of"),
        ((x, y), {"similarity": lambda x, y: x}, "similarity must return scores of shape"),
        ((x, y), {"directions": "x"}, "directions must be one of"),
        ((x, y), {"reduction": "none"}, "reduction must be one of"),
        ((x, y), {"block_size": 0}, "block_size must be an integer of at least 1, got 0"),
        ((x, y), {"positives": np.arange(3)}, r"positives must be ids of shape \(12,\)"),
        ((x, y), {"positives": np.ones((3, 3), bool)}, r"positives must be a mask of shape"),
        ((x, y), {"valid": np.ones(12)}, r"valid must be booleans \(12,\)"),
        ((x, y), {"weights": np.ones(3)}, r"weights must be of shape \(12,\)"),
    )
    for pair, options, message in cases:
        with pytest.raises(ValueError, match=message):
            uncompiled.hinge_loss(*pair, **options)
    with pytest.raises(TypeError, match="positives must be None, integer ids"):
        uncompiled.hinge_loss(x, y, positives=np.ones(B))
    with pytest.raises(TypeError, match="x must have a real floating dtype"):
        uncompiled.hinge_loss(jnp.ones((3, 2), int), y)
    numbers: Any = (
        (lambda: contrastive.top_k(0), "k must be an integer of at least 1, got 0"),
        (lambda: contrastive.top_k(5, most=3), r"k must be an integer in 1\.\.3, got 5"),
        (lambda: contrastive.top_k(jnp.int32(3)), "most must be given if k is an array"),
        (lambda: contrastive.soft(0), "beta must be above 0, got 0"),
        (lambda: contrastive.mixed(1.5), "weight must be at least 0 and at most 1, got 1.5"),
        (lambda: contrastive.selective(-1), "epsilon must be at least 0, got -1"),
        (lambda: contrastive.semi_hard(otherwise="x"), "otherwise must be 'easiest' or 'nothing'"),
        (lambda: contrastive.ramp(5, 5), "last must be an integer of at least 6, got 5"),
    )
    for make, message in numbers:
        with pytest.raises(ValueError, match=message):
            make()
