"""Programs, dtypes and sizes in which a rule that is nearly right would go wrong unseen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import primitives
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxrobust import per_example
from jaxrobust.per_example import _check, _dots, _plan, _projection, _sketches
from tests.per_example import oracles
from tests.per_example.cases import CASES, B, normal

DIM = 128  # at least as many numbers as a leaf has entries: its sketches are exact


def assert_all_exact(loss, params, batch, monkeypatch, *, rtol=1e-5):
    """Everything that is known of the gradients of the case, against `vmap(grad)`."""
    slow = oracles.gradients(loss, params, batch)
    rows = oracles.matrix(slow)
    gram, scale = rows @ rows.T, np.max(np.abs(rows @ rows.T))

    def close(found, expected, scale):
        np.testing.assert_allclose(np.asarray(found, np.float64), expected, atol=rtol * scale)

    @jax.jit
    def everything(params, batch):
        return (
            per_example.value_grad_and_norms(loss)(params, batch)[1:],
            per_example.gram(loss)(params, batch),
            per_example.dots(loss)(params, batch, slow),
            per_example.moments(loss, entrywise=True)(params, batch),
        )

    monkeypatch.setattr(_dots, "_has_custom_vjp", lambda _: True)  # by factors
    (mean, norms), found_gram, dots, moments = everything(params, batch)
    close(norms, oracles.norms(slow), np.sqrt(scale))
    flat = lambda tree: oracles.matrix(jax.tree.map(lambda leaf: leaf[None], tree))[0]
    close(flat(mean), rows.mean(0), np.max(np.abs(rows)))
    close(found_gram, gram, scale)
    close(dots, gram, scale)
    close(flat(moments.mean), rows.mean(0), np.max(np.abs(rows)))
    close(moments.trace, rows.var(0, ddof=1).sum(), scale)


def assert_norms_exact(loss, params, batch):
    """Only norms and mean gradient, which compile in a third of the time."""
    slow = oracles.gradients(loss, params, batch)
    _, mean, norms = jax.jit(per_example.value_grad_and_norms(loss))(params, batch)
    np.testing.assert_allclose(norms, oracles.norms(slow), rtol=1e-5)
    close = lambda ours, leaf: np.testing.assert_allclose(ours, leaf.mean(0), rtol=1e-4, atol=1e-5)
    jax.tree.map(close, mean, slow)


def assert_sketches_exact(loss, params, batch, *, rtol=1e-5, dim=DIM):
    """Of one leaf that is kept whole in a sketch."""
    rows = oracles.matrix(oracles.gradients(loss, params, batch))
    s = np.asarray(
        jax.jit(per_example.sketches(loss, key=jax.random.key(0), dim=dim))(params, batch)
    )
    expected = rows @ rows.T
    np.testing.assert_allclose(s @ s.T, expected, atol=rtol * np.max(np.abs(expected)))


@pytest.mark.parametrize("name", ["weights_read_by_columns", "kernels_mapped_over"])
def test_reshapes_that_order_the_axes(name):
    loss, params, batch = CASES[name]()
    methods = [row.method for row in per_example.explain(loss)(params, batch).rows]
    # Every channel of every kernel mapped over is a stride of its own: no view of the leaf.
    assert methods == (["expand"] if name == "kernels_mapped_over" else ["instantiate"] * 2)
    assert_norms_exact(loss, params, batch)


def test_a_leaf_seen_in_two_orders(monkeypatch):
    def loss(p, x):
        return jnp.sum(jnp.sin(x @ p.reshape(4, 4, order="F"))) + jnp.sum(jnp.cos(x @ p))

    case = loss, normal(4, 4), normal(B, 4)
    assert_all_exact(*case, monkeypatch)
    assert_sketches_exact(*case)


def test_what_is_written_to_a_local_ref_counts():
    loss, params, batch = CASES["written_to_a_local_ref"]()
    rows = per_example.explain(loss)(params, batch).rows
    assert {row.method for row in rows} == {"expand"}
    assert all("jax.Ref" in row.reason for row in rows)
    assert_norms_exact(loss, params, batch)


def test_a_program_in_the_program():
    layer = jax.make_jaxpr(lambda w, x: jnp.tanh(x @ w))(normal(3, 2), normal(3))
    call = primitives.closed_call_p

    def loss(p, x):
        (y,) = call.bind(p, x, **call.get_bind_params({"call_jaxpr": layer}))
        return jnp.sum(y**2)

    case = loss, normal(3, 2), normal(B, 3)
    assert per_example.explain(loss)(*case[1:]).rows[0].method == "factors"
    expected = oracles.norms(oracles.gradients(*case))
    np.testing.assert_allclose(per_example.norms(loss)(*case[1:]), expected, rtol=1e-5)


def test_real_parameters_times_complex_data():
    assert_norms_exact(*CASES["complex_data"]())


def test_look_ups_by_numbers_beyond_int32(x64):
    def loss(p, ids):
        filled = jnp.take(p["e"], ids, axis=0, mode="fill", fill_value=0.5)
        clipped = jnp.take(p["f"], ids, axis=0, mode="clip")
        row = jax.lax.dynamic_index_in_dim(p["g"], ids[0], keepdims=False)
        return jnp.sum(jnp.sin(filled)) + jnp.sum(clipped**2) + jnp.sum(row**3)

    params = {name: normal(4, 3) for name in "efg"}
    # as int32 these would be 2, 0, -1, 3
    ids = jnp.array([[2**32 + 2, 1], [-(2**32), 2], [2**32 - 1, 0], [3, 2**33 + 3]])
    assert ids.dtype == jnp.int64
    expected = oracles.norms(oracles.gradients(loss, params, ids))
    found = jax.jit(per_example.norms(loss))(params, ids)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_look_ups_by_narrow_integers():  # which do not hold the number of rows
    loss = lambda p, ids: jnp.sum(jnp.sin(jnp.take(p, ids, axis=0, mode="fill", fill_value=0.5)))
    table, ids = normal(300, 2), jnp.array([[250, 3], [0, 255]], jnp.uint8)
    expected = oracles.norms(oracles.gradients(loss, table, ids))
    found = jax.jit(per_example.norms(loss))(table, ids)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def of_every_method(p, x):
    """Linear in each leaf, so that gradients are entries of the example, not rounded."""
    single = jnp.sum(x[0] @ p["single"])  # "factors"
    pairs = jnp.sum(x @ p["pairs"])  # "factors" at two positions
    formed = jnp.sum(x[:, :1] @ p["formed"])  # "instantiate"
    looked_up = jnp.sum(p["table"][jnp.argmax(x, axis=1)] * x[:, :2])
    return single + pairs + formed + looked_up + jnp.sum(p["whole"] * x[1])


METHODS = {"single": (4, 2), "pairs": (4, 5), "formed": (1, 2), "table": (4, 2), "whole": (4,)}


@pytest.mark.parametrize("limit", [None, 1])
def test_moments_in_bfloat16_keep_a_small_variance(limit, monkeypatch):
    if limit:  # "chunks" instead of "expand"
        monkeypatch.setattr(_plan, "EXPAND_BYTES", limit)
    # Multiples of 1/64 in [1, 1.5]: the variance is some 2 % of the mean squared, and a mean
    # rounded to 8 bits is wrong by as much.
    x = 1 + jnp.floor(32 * np.random.default_rng(0).random((B, 2, 4))) / 64
    params = {name: normal(*shape) for name, shape in METHODS.items()}
    rows = oracles.matrix(oracles.gradients(of_every_method, params, x))
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    found = jax.jit(per_example.moments(of_every_method))(narrow, x.astype(jnp.bfloat16))
    np.testing.assert_allclose(found.trace, rows.var(0, ddof=1).sum(), rtol=1e-4)
    mean = oracles.matrix(jax.tree.map(lambda leaf: leaf[None], found.mean))[0]
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-6)


def test_moments_in_a_loop_keep_their_dtypes(x64):
    params, data = normal(4, 3).astype(jnp.float32), normal(2, B, 4)
    assert data.dtype == jnp.float64
    update = per_example.update_moments(lambda p, x: jnp.sum(jnp.sin(x @ p) ** 2))
    start = per_example.init_moments(params, entrywise=True)
    state, _ = jax.lax.scan(lambda state, x: (update(state, params, x), None), start, data)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype(jnp.float32)}


def test_nothing_to_sum_over(monkeypatch):
    def loss(p, x):
        image, kernel = x[:, :, None], p["kernel"]
        beyond = jax.lax.conv_general_dilated(
            image[None], kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        empty = jnp.sum(jnp.sin(x[:0] @ p["w"])) + jnp.sum(p["e"][jnp.zeros((0,), int)])
        return jnp.sum(beyond**2) + empty + jnp.sum(jnp.sin(x @ p["v"]))

    params = {"kernel": normal(5, 1, 1, 2), "w": normal(4, 2), "e": normal(3), "v": normal(4, 3)}
    batch = normal(B, 2, 4)
    assert_all_exact(loss, params, batch, monkeypatch)
    methods = [row.method for row in per_example.explain(loss)(params, batch).rows]
    assert methods == ["unused", "unused", "factors", "unused"]


def test_loops_without_iterations():  # whose body has a site all the same
    loss = lambda p, x: jax.lax.scan(lambda h, y: (h + jnp.sum(y @ p), None), 0.0, x)[0]
    params, batch = normal(4, 3), jnp.zeros((B, 0, 4))
    found = jax.jit(per_example.moments(loss, entrywise=True))(params, batch)
    assert found.trace == found.dead_entries - 1 == 0


def test_one_leaf_as_a_kernel_and_as_a_matrix(monkeypatch):
    loss, params, batch = CASES["kernel_and_matrix_in_one"]()
    assert_sketches_exact(loss, params, batch)
    # Projected: by both uses, and as the gradient that is formed of both.
    monkeypatch.setattr(_sketches, "is_kept_whole", lambda *_: False)
    found = []
    for projected in (True, False):
        monkeypatch.setattr(_sketches, "_is_projected", lambda *_, way=projected: way)
        sketch = per_example.sketches(loss, key=jax.random.key(0), dim=16)
        found.append(jax.jit(sketch)(params, batch))
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-5 * float(jnp.max(jnp.abs(found[0]))))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_check_in_narrow_dtypes_can_fail(dtype, monkeypatch):
    def loss(p, x):
        return jnp.sum(jnp.tanh(jnp.tanh(x @ p["u"] + p["b"][None]) @ p["v"]) ** 2)

    params = {"u": normal(6, 5), "b": normal(5), "v": normal(5, 3)}
    narrow, batch = jax.tree.map(lambda leaf: leaf.astype(dtype), (params, normal(B, 7, 6)))
    if dtype == jnp.bfloat16:  # the wider of the two roundings
        found = per_example.check(loss)(narrow, batch)
        assert found.ok, str(found)

    def half_of_v_forgotten(loss_fn, **options):
        return per_example.norms(lambda p, x: loss_fn({**p, "v": half(p["v"])}, x), **options)

    half = lambda v: v / 2 + jax.lax.stop_gradient(v / 2)
    monkeypatch.setattr(_check, "norms", half_of_v_forgotten)
    found = per_example.check(loss)(narrow, batch)
    assert not found.ok
    assert found.worst_leaf == "['v']"


def test_leaves_in_chunks_on_a_sharded_batch(monkeypatch):
    monkeypatch.setattr(_plan, "EXPAND_BYTES", 1)
    loss = lambda p, x: jnp.sum(jnp.sin(p["whole"] * x[0])) + jnp.sum(jnp.sin(x @ p["w"]))
    params, batch = {"whole": normal(3), "w": normal(2, 3)}, normal(8, 2)
    direction = jax.tree.map(jnp.cos, params)

    def everything(params, batch):
        return (
            per_example.value_grad_and_norms(loss)(params, batch),
            per_example.dots(loss)(params, batch, direction),
            per_example.sketches(loss, key=jax.random.key(0), dim=16)(params, batch),
            per_example.gram(loss)(params, batch),
            per_example.moments(loss, entrywise=True)(params, batch),
        )

    monkeypatch.setattr(_dots, "_has_custom_vjp", lambda _: True)  # by factors, and in chunks
    expected = jax.jit(everything)(params, batch)
    for kind in (AxisType.Auto, AxisType.Explicit):
        devices = jax.make_mesh((8,), ("data",), axis_types=(kind,))
        with jax.set_mesh(devices):
            sharded = jax.device_put(batch, NamedSharding(devices, PartitionSpec("data")))
            whole = jax.device_put(params, NamedSharding(devices, PartitionSpec()))
            found = jax.jit(everything)(whole, sharded)
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
        jax.tree.map(close, found, expected)


@pytest.mark.parametrize(
    ("positions", "of_input", "of_cotangent"),
    [(1, 1e5, 1e-21), (1, 1e17, 1e-34), (1, 1e-17, 1e-1), (1, 1e18, 0.1), (2, 1e18, 0.1),
     (2, 1e-17, 1e17)],
)  # fmt: skip
def test_the_range_of_norms(positions, of_input, of_cotangent):
    loss = lambda p, x: jnp.sum(x @ p) * of_cotangent
    x = jnp.full((B, positions, 3), of_input)
    norms = jax.jit(per_example.norms(loss))(jnp.ones((3, 4)), x)
    expected = positions * np.sqrt(12) * (of_input * of_cotangent)
    np.testing.assert_allclose(norms, expected, rtol=1e-5)


def test_norms_have_a_derivative_where_an_input_is_zero():
    loss = lambda p, x: jnp.sum(jnp.sin(jnp.tanh(x @ p["u"]) @ p["v"])) + jnp.sum(x @ p["w"])
    params = {"u": jnp.zeros((3, 2)), "v": normal(2, 2), "w": normal(3, 1)}
    x = normal(B, 3)
    total = lambda p: jnp.sum(per_example.norms(loss)(p, x))
    slow = lambda p: jnp.sum(
        jax.vmap(lambda g: jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(g))))(
            jax.vmap(jax.grad(loss), (None, 0))(p, x)
        )
    )
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, jax.jit(jax.grad(total))(params), jax.jit(jax.grad(slow))(params))


def test_pairs_in_bfloat16():
    loss = lambda p, x: jnp.sum(x @ p["w"]) + jnp.sum(p["b"] * x[1])
    params = {"w": normal(4, 5), "b": normal(4)}
    x = jnp.floor(8 * normal(B, 2, 4)) / 8  # bfloat16 holds these, and so all gradients
    direction = jax.tree.map(lambda leaf: jnp.floor(8 * jnp.cos(leaf)) / 8, params)
    narrow, data = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), ((params, direction), x))

    sketch = per_example.sketches(loss, key=jax.random.key(0), dim=4)
    gram = jax.jit(per_example.gram(loss))(narrow[0], data)
    dots = jax.jit(per_example.dots(loss))(narrow[0], data, narrow[1])
    sketches = jax.jit(sketch)(narrow[0], data)
    assert gram.dtype == sketches.dtype == jnp.float32
    assert dots.dtype == jnp.bfloat16
    rows = oracles.matrix(oracles.gradients(loss, params, x))
    along = oracles.matrix(jax.tree.map(lambda leaf: leaf[None], direction))[0]
    np.testing.assert_allclose(gram, rows @ rows.T, rtol=1e-6)
    np.testing.assert_allclose(sketches, jax.jit(sketch)(params, x), rtol=1e-5, atol=1e-5)
    # the derivative of a loss is of the loss's dtype, and its terms are rounded to that
    scale = np.max(np.abs(rows) @ np.abs(along))
    np.testing.assert_allclose(dots.astype(jnp.float32), rows @ along, atol=2**-7 * scale)


def test_pairs_in_float64(x64, monkeypatch):
    case = lambda p, x: jnp.sum(jnp.sin(x @ p) ** 2), normal(4, 6), normal(B, 3, 4)
    assert_all_exact(*case, monkeypatch, rtol=1e-12)
    assert_sketches_exact(*case, rtol=1e-12)
    # and where the map has more columns than one can count exactly
    shape = _projection.Shape(3, 8, 6)
    signs = jnp.ones(_projection.num_signs(1, 12, 5, shape))
    left, right = _projection.matrices(signs, 1, 12, 5, shape)
    p, q = np.asarray(left.dense()[0]).reshape(12, 3, 8), np.asarray(right).reshape(5, 3, 8)
    np.testing.assert_allclose(np.einsum("ibj,obs->io", p**2, q**2), 1, rtol=1e-14)


def test_one_example_says_nothing_of_entries():
    moments = per_example.moments(lambda p, x: jnp.sum(jnp.sin(x @ p)), entrywise=True)
    found = jax.jit(moments)(normal(3, 2), normal(1, 2, 3))
    assert np.isnan(found.entrywise_normalized_variance)


def test_messages_name_the_argument():
    loss = lambda p, e: jnp.sum(e["x"] @ p)
    p, batch = normal(3, 2), {"x": normal(B, 3), "y": jnp.arange(B)}
    with pytest.raises(ValueError, match="other must have the structure of batch"):
        per_example.gram(loss)(p, batch, {"x": batch["x"]})
    with pytest.raises(ValueError, match=r"other\['x'\] must have a leading axis"):
        per_example.gram(loss)(p, batch, {"x": jnp.ones(()), "y": batch["y"]})
    with pytest.raises(TypeError, match=r"batch\['y'\] must be an array of numbers, got <U1"):
        per_example.norms(loss)(p, {**batch, "y": np.array(list("abcde"))})
    for function in (per_example.norms, per_example.gradients):
        with pytest.raises(TypeError, match=r"aux, got str at aux\['name'\]"):
            function(lambda p, e: (loss(p, e), {"name": "a"}), has_aux=True)(p, batch)
        with pytest.raises(ValueError, match="got the number 0.5, which does not depend on params"):
            function(lambda p, e: 0.5)(p, batch)
        with pytest.raises(ValueError, match=r"params\['w'\] is empty"):
            function(lambda p, e: jnp.sum(p["w"]))({"w": jnp.zeros((0, 2))}, batch)
    for wrong in (2.5, "3", None, 0):
        with pytest.raises(ValueError, match="num_examples must be an integer of at least 1"):
            per_example.check(loss, num_examples=wrong)  # type: ignore[arg-type]


def test_each_slice_is_done_in_its_cheaper_way():
    def loss(p, x):
        first, rest = x[:1] @ p["w"][:, :30], x @ p["w"][:, 30:]
        return jnp.sum(jnp.sin(first)) + jnp.sum(jnp.sin(rest))

    params, batch = {"w": normal(30, 33)}, normal(B, 20, 30)
    (row,) = per_example.explain(loss)(params, batch).rows
    assert row.method == "factors, instantiate"
    # |a|^2 |d|^2 for one position of 30 by 30; the gradient of 30 by 3 over 20 positions, squared
    assert row.cost == (30 + 30) + (20 * 30 * 3 + 30 * 3)
    assert_norms_exact(loss, params, batch)
