"""Gram matrices, inner products with directions, and sketches of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import per_example
from jaxrobust.per_example import _dots, _plan, _products, _projection, _sketches, _trace
from jaxrobust.per_example._projection import Shape
from tests.per_example import oracles
from tests.per_example.cases import B, normal

# One of every kind: single products, sequences, convolutions, look-ups, loops, leaves without rule.
PAIRS = [
    "dense_layers",
    "sequence_short",
    "experts_with_a_batch_axis_in_the_weights",
    "convolution_grouped",
    "convolution_few_positions",
    "embedding_tied",
    "embedding_out_of_range",
    "weights_in_slices",
    "weights_concatenated",
    "recurrence",
    "convolutions_in_a_loop",
    "penalty_in_the_loss",
    "stopped_and_unused",
    "complex_weights",
]


def exact(name):
    loss, params, batch, _, slow = oracles.known(name)
    rows = oracles.matrix(slow)
    return loss, params, batch, rows @ rows.T


@pytest.mark.parametrize("name", PAIRS)
def test_gram(name):
    loss, params, batch, expected = exact(name)
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    found = jax.jit(per_example.gram(loss))(params, batch)
    assert found.shape == (B, B)
    np.testing.assert_array_less(np.abs(found - expected), 1e-5 * scale + 1e-12)


@pytest.mark.parametrize("name", ["sequence_short", "embedding_tied", "convolution_grouped"])
@pytest.mark.parametrize("formed", [True, False])
def test_gram_by_either_formula(name, formed, monkeypatch):
    monkeypatch.setattr(_products, "_is_cheaper_formed", lambda *_: formed)
    loss, params, batch, expected = exact(name)
    found = jax.jit(per_example.gram(loss))(params, batch)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.max(expected))


@pytest.mark.parametrize("limit", [None, 1])
def test_gram_of_two_batches(limit, monkeypatch):
    if limit:
        monkeypatch.setattr(_plan, "EXPAND_BYTES", limit)  # all that is expanded goes in chunks
    loss, params, batch, expected = exact("penalty_in_the_loss")
    tolerance = 1e-5 * np.max(expected)
    found = jax.jit(per_example.gram(loss))(params, batch, batch[:3])
    np.testing.assert_allclose(found, expected[:, :3], atol=tolerance)
    found = jax.jit(per_example.gram(loss))(params, batch[3:], batch)
    np.testing.assert_allclose(found, expected[3:], atol=tolerance)


BY_FACTORS = ["convolution_grouped", "embedding_out_of_range", "weights_in_slices",
              "weights_concatenated", "penalty_in_the_loss", "convolutions_in_a_loop"]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "by_factors"),
    [*((name, False) for name in [*PAIRS, "custom_vjp_region"]), *((n, True) for n in BY_FACTORS)],
)
def test_dots(name, by_factors, monkeypatch):
    if by_factors:  # as for a loss with a custom_vjp in it
        monkeypatch.setattr(_dots, "_has_custom_vjp", lambda _: True)
    loss, params, batch, expected = exact(name)
    slow = oracles.known(name)[-1]
    scale = np.max(expected)
    dots = jax.jit(per_example.dots(loss))
    one = jax.tree.map(lambda leaf: leaf[1], slow)
    np.testing.assert_allclose(dots(params, batch, one), expected[:, 1], atol=1e-5 * scale)
    np.testing.assert_allclose(dots(params, batch, slow), expected, atol=1e-5 * scale)


def test_directions_are_cast_to_the_dtype_of_the_params():
    loss, params, batch, _ = exact("dense_layers")
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    dots = per_example.dots(loss)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), narrow)
    np.testing.assert_allclose(dots(params, batch, narrow), dots(params, batch, wide), rtol=1e-6)


NUM_KEYS = 300


ODD_DIM = ["sequence_short", "convolution_grouped", "weights_concatenated", "penalty_in_the_loss"]


@pytest.mark.parametrize(
    ("name", "dim"), [*((name, 64) for name in PAIRS), *((name, 10) for name in ODD_DIM)]
)
def test_sketches_are_unbiased_within_their_variance(name, dim):
    loss, params, batch, expected = exact(name)

    @jax.jit
    def estimate(key):
        s = per_example.sketches(loss, key=key, dim=dim)(params, batch)
        return s @ s.T

    keys = list(jax.random.split(jax.random.key(0), NUM_KEYS))
    found = np.stack([estimate(key) for key in keys])
    bound = variance_bound(name, dim)
    # 5 standard errors, by the bound: no more than it may be, and not biased
    error = np.abs(found.mean(0) - expected)
    assert np.all(error <= 5 * np.sqrt(bound / NUM_KEYS) + 1e-5 * np.max(expected))
    # The variance itself is known to 20 % from 300 draws of tails no heavier than a square's.
    assert np.all(found.var(0) <= 1.4 * bound + 1e-9 * np.max(expected) ** 2)


def variance_bound(name, dim):
    """The variance in the docstring, for all pairs."""
    *_, slow = oracles.known(name)
    return variance_of_pairs(name, dim, [oracles.matrix([leaf]) for leaf in jax.tree.leaves(slow)])


def variance_of_pairs(name, dim, gradients):
    """The same, for other gradients ``(B, entries)`` of the leaves."""
    loss, params, batch, *_ = oracles.known(name)
    traced = _trace.trace(loss, params, batch, has_aux=False)
    shapes = _sketches.sketch_shapes(traced, dim)
    grams = [rows @ rows.T for rows in gradients]
    squares = [np.outer(np.diag(g), np.diag(g)) for g in grams]
    within = np.zeros((B, B))
    for number, (gram, square) in enumerate(zip(grams, squares, strict=True)):
        if traced.leaves[number].size <= dim:
            continue  # kept whole
        plan = traced.plan.leaves[number]
        if plan.groups:
            shape = max((shapes[number, g] for g in range(len(plan.groups))), key=lambda s: s.rank)
            rank, rows = shape.rank, shape.columns_per_tap
            within += ((1 + 2 / rank) * (1 + 2 / rows) * square - gram**2) / (dim / rank**2)
            if len(plan.groups) > 1:  # maps of their own: pairs of groups are as pairs of leaves
                within += 2 * square / dim
        else:
            within += 2 * square / dim  # dense signs
    across = np.zeros((B, B))
    for i, first in enumerate(grams):
        for j, second in enumerate(grams):
            if i != j:
                across += np.outer(np.diag(first), np.diag(second)) + first * second
    return within + across / dim


def test_a_sketch_without_room_for_error_has_none():
    # One leaf of no more entries than the sketch has numbers.
    loss, params, batch, expected = exact("experts_with_a_batch_axis_in_the_weights")
    s = jax.jit(per_example.sketches(loss, key=jax.random.key(3), dim=64))(params, batch)
    np.testing.assert_allclose(s @ s.T, expected, rtol=1e-5)


def test_the_same_key_gives_the_same_map():
    loss, params, batch, _ = exact("einsum_heads")
    sketch = jax.jit(per_example.sketches(loss, key=jax.random.key(0), dim=16))
    whole = sketch(params, batch)
    np.testing.assert_allclose(sketch(params, batch[2:4]), whole[2:4], rtol=1e-5)
    other = jax.jit(per_example.sketches(loss, key=jax.random.key(1), dim=16))(params, batch)
    assert not np.allclose(whole, other)
    # and for sequences of another length: half of the sum over positions comes from each half
    linear = lambda p, x: jnp.sum(x @ p)
    w, x = normal(9, 8), normal(B, 6, 9)
    sketch = jax.jit(per_example.sketches(linear, key=jax.random.key(0), dim=16))
    halves = np.asarray(sketch(w, x[:, :2])) + np.asarray(sketch(w, x[:, 2:]))
    np.testing.assert_allclose(sketch(w, x), halves, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "dim"),  # kernels of more taps than the rank, 1 for 4, and of fewer, 8 for 128
    [
        ("convolution_grouped", 4),
        ("convolution_grouped", 128),
        ("convolutions_in_a_loop", 4),
        ("convolution_transposed", 128),
        ("convolution_strided_and_padded", 4),
        ("convolution_odd_layouts", 128),
        ("convolution_3d", 4),
        ("sequence_short", 128),
    ],
)
def test_all_ways_to_a_sketch_lead_to_the_same(name, dim, monkeypatch):
    loss, params, batch, _ = exact(name)
    sketch = per_example.sketches(loss, key=jax.random.key(0), dim=dim)
    monkeypatch.setattr(_sketches, "is_kept_whole", lambda *_: False)
    found = {}
    for way, costs in {
        "pixels projected": (0, 1, 2),
        "windows projected": (1, 0, 2),
        "formed": (2, 2, 0),
    }.items():
        monkeypatch.setattr(Shape, "pixel_cost", lambda *_, costs=costs: costs[0])
        monkeypatch.setattr(Shape, "window_cost", lambda *_, costs=costs: costs[1])
        monkeypatch.setattr(
            _sketches, "_is_projected", lambda *_, costs=costs: min(costs[:2]) < costs[2]
        )
        monkeypatch.setattr(_sketches, "sketch_shapes", shapes_of_one_rank(dim))
        found[way] = jax.jit(sketch)(params, batch)
    scale = float(np.max(np.abs(found["formed"])))
    for way in ("pixels projected", "windows projected"):
        np.testing.assert_allclose(found[way], found["formed"], rtol=1e-4, atol=1e-5 * scale)


def shapes_of_one_rank(dim):
    """Shapes that do not depend on costs, with two blocks or more."""

    def shapes(traced, dim=dim):
        rank = {4: 1, 128: 8}[dim]
        return {
            (leaf, number): Shape(dim // rank**2, rank, group[0].num_taps)
            for leaf in traced.plan.leaves_by("factors", "instantiate")
            for number, group in enumerate(traced.plan.leaves[leaf].groups)
        }

    return shapes


def test_the_ranks_follow_the_budget():
    def shape(rows, columns, dim=256):
        loss = lambda p, x: jnp.sum(jnp.sin(x @ p))
        traced = _trace.trace(loss, normal(rows, columns), normal(B, rows), has_aux=False)
        return _sketches.sketch_shapes(traced, dim)[0, 0]

    assert shape(4000, 4000) == Shape(256, 1)  # (8000) * 256 is 13 % of the entries
    assert shape(1000, 1000) == Shape(64, 2)  # 51 % with rank 1, 26 % with rank 2
    assert shape(20, 20) == Shape(1, 16)
    assert shape(20, 20, dim=10) == Shape(10, 1)  # 10 has no square factor


def test_sketches_with_aux():
    loss = lambda p, x: (jnp.sum(x @ p), x[0])
    sketches, aux = per_example.sketches(loss, key=jax.random.key(0), dim=8, has_aux=True)(
        normal(3, 2), normal(B, 3)
    )
    assert sketches.shape == (B, 8)
    np.testing.assert_array_equal(aux, normal(B, 3)[:, 0])


@pytest.mark.parametrize("backwards", [False, True])
def test_dots_with_aux(backwards):
    w, x = normal(3, 2), normal(B, 3)
    sine = jax.custom_vjp(jnp.sin)
    sine.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (ct * jnp.cos(x),))
    loss = lambda p, x: (jnp.sum((sine if backwards else jnp.sin)(x @ p)), x[0])
    for direction in (w, jnp.stack([w, 2 * w])):
        dots, aux = jax.jit(per_example.dots(loss, has_aux=True))(w, x, direction)
        plain = per_example.dots(lambda p, x: jnp.sum(jnp.sin(x @ p)))
        expected = jax.jit(plain)(w, x, direction)
        np.testing.assert_allclose(dots, expected, rtol=1e-5)
        np.testing.assert_array_equal(aux, x[:, 0])


def test_gram_with_aux():
    loss = lambda p, x: (jnp.sum(jnp.sin(x @ p)), x[0])
    w, x = normal(3, 2), normal(B, 3)
    function = jax.jit(per_example.gram(loss, has_aux=True))
    gram, aux = function(w, x)
    again, *both = function(w, x, x[:2])
    np.testing.assert_allclose(again, gram[:, :2], rtol=1e-6)
    np.testing.assert_array_equal(aux, x[:, 0])
    np.testing.assert_array_equal(both[0], x[:, 0])
    np.testing.assert_array_equal(both[1], x[:2, 0])


def test_look_ups_projected(monkeypatch):
    # Tables of more entries than the sketch has numbers, so that they are not kept whole.
    loss, params, batch, expected = exact("embedding_out_of_range")
    monkeypatch.setattr(_sketches, "is_kept_whole", lambda *_: False)
    s = jax.jit(jax.vmap(lambda key: per_example.sketches(loss, key=key, dim=64)(params, batch)))(
        jax.random.split(jax.random.key(0), NUM_KEYS)
    )
    found = np.einsum("kir,kjr->kij", s, s)
    error = np.abs(found.mean(0) - expected)
    assert np.all(error <= 5 * found.std(0) / np.sqrt(NUM_KEYS) + 1e-5 * np.max(expected))


def test_large_leaves_without_rule(monkeypatch):
    # More than 4096 entries: by blocks of the largest rank, expanded or in chunks.
    loss = lambda p, x: jnp.sum(jnp.sin(p * x[0]) * x[1])
    params, batch = normal(70, 60), normal(B, 2)
    rows = oracles.matrix(oracles.gradients(loss, params, batch))
    expected, dim = rows @ rows.T, 64
    sketch = lambda key: per_example.sketches(loss, key=key, dim=dim)(params, batch)
    keys = jax.random.split(jax.random.key(0), NUM_KEYS)
    s = jax.jit(jax.vmap(sketch))(keys)
    found = np.einsum("kir,kjr->kij", s, s)
    squares = np.outer(np.diag(expected), np.diag(expected))
    bound = (1 + 2 / 8) ** 2 * squares - expected**2
    error = np.abs(found.mean(0) - expected)
    assert np.all(error <= 5 * np.sqrt(bound / NUM_KEYS))
    assert np.all(found.var(0) <= 1.4 * bound)
    monkeypatch.setattr(_plan, "EXPAND_BYTES", 1)
    in_chunks = jax.jit(lambda key: sketch(key))(keys[0])  # traced anew
    np.testing.assert_allclose(in_chunks, s[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("taps", [1, 6, 9, 25])
@pytest.mark.parametrize("rank", [1, 8, 16])
def test_maps_keep_every_entry_on_average(taps, rank):
    # The sum over the sketch of the squared coefficients of an entry, which E S^T S = 1 demands.
    shape, channels, columns = Shape(2, rank, taps), 3, 5
    size = _projection.num_signs(1, taps * channels, columns, shape)
    signs = jnp.asarray(np.random.default_rng(0).choice([-1.0, 1.0], size=size), jnp.float32)

    @jax.jit
    def maps(signs):
        left, right = _projection.matrices(signs, 1, taps * channels, columns, shape)
        return left.dense()[0], right

    left, right = maps(signs)
    p = np.asarray(left).reshape(-1, shape.blocks, rank)
    q = np.asarray(right).reshape(columns, shape.blocks, rank)
    kept = np.einsum("ibj,obs->io", p**2, q**2)
    np.testing.assert_allclose(kept, 1, rtol=1e-5)


@pytest.mark.parametrize(("size", "dim"), [(16, 16), (10, 16), (40, 16), (150, 16)])
def test_entries_are_sketched_one_by_one(size, dim):
    """Over keys unbiased, with the variance of a count sketch; a single piece without error."""
    rng = np.random.default_rng(0)
    # A leaf that is used entry by entry, so that its gradient is formed: it is the example.
    loss = lambda params, example: jnp.sum(params * example)
    x = jnp.asarray(rng.normal(size=(2, size)) + 0.5, jnp.float32)
    params = jnp.ones(size)
    assert per_example.explain(loss)(params, x).rows[0].method == "expand"
    one = lambda key: per_example.sketches(loss, key=key, dim=dim)(params, x)
    sketches = np.asarray(jax.vmap(one)(jax.random.split(jax.random.key(0), 4_000)), np.float64)
    found = sketches[:, 0] * sketches[:, 1]
    products, wanted = found.sum(axis=1), float(x[0] @ x[1])
    bound = 2 * float(jnp.sum(x[0] ** 2) * jnp.sum(x[1] ** 2)) / dim
    if size <= dim:
        np.testing.assert_allclose(products, wanted, rtol=1e-5)
    else:
        assert abs(products.mean() - wanted) < 4 * np.sqrt(bound / len(products))
        assert 0.2 * bound < products.var() <= bound
    # Every entry goes to every place, as often.
    np.testing.assert_allclose(
        found.mean(axis=0), wanted / dim, atol=0.35 * abs(wanted) / dim + 0.1
    )
