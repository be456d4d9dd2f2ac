"""Which rule is used where: no leaf with a rule is done the slow way, and none is forgotten."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust import per_example
from jaxrobust.per_example import _plan, _views
from tests.per_example import oracles
from tests.per_example.cases import CASES, B, integers, normal

# The method of every leaf, in the order of its name; f: factors, i: instantiate, e: expand.
METHODS = {
    "dense_layers": "eff",
    "dense_with_the_weights_on_the_left": "i",
    "sequence_short": "f",
    "sequence_long": "i",
    "einsum_heads": "iii",
    "experts_with_a_batch_axis_in_the_weights": "f",
    "low_rank_product_of_parameters": "ee",
    "convolution_same": "i",
    "convolution_grouped": "i",
    "convolution_transposed": "i",
    "convolution_3d": "i",
    "convolution_few_positions": "f",
    "convolution_used_twice": "i",
    "embedding": "i",
    "embedding_of_one_token": "f",
    "embedding_sliced": "f",
    "embedding_tied": "ii",
    "weights_used_by_several_products": "i",
    "weights_in_slices": "iii",
    "weights_in_overlapping_slices": "e",
    "weights_every_other_column": "f",
    "weights_concatenated": "iifii",
    "weights_stacked_padded_reversed": "eei",
    "weights_reshaped_transposed_cast": "ie",
    "normalisation_and_positions": "eeee",
    "reparametrised_weights": "ee",
    "penalty_in_the_loss": "ee",
    "recurrence": "efiie",
    "layers_in_a_loop": "eif",
    "loops_in_loops": "ifi",
    "convolutions_in_a_loop": "i",
    "weights_changed_by_a_loop": "e",
    "checkpoint_and_jit": "fi",
    "branches": "ee",
    "custom_vjp_of_the_weights": "fe",
    "custom_jvp_of_both": "fe",
    "stopped_and_unused": "uuf",
    "loss_of_parameters_alone": "e",
}


# Every drawn example compiles programs of its own: a third of the usual number.
FEWER = settings(max_examples=settings().max_examples // 3)


def methods(loss, params, batch):
    return "".join(row.method[0] for row in per_example.explain(loss)(params, batch).rows)


@pytest.mark.parametrize("name", METHODS)
def test_methods(name):
    assert methods(*CASES[name]()) == METHODS[name]


def test_the_table_says_what_is_done():
    loss, params, batch = CASES["recurrence"]()
    explanation = per_example.explain(loss)(params, batch)
    rows = {row.leaf: row for row in explanation.rows}
    assert rows["['hidden']"].sites == ("dot_general in a loop of 4",)
    assert rows["['hidden']"].cost == 4**2 * (9 + 9 + 1)  # all pairs of 4 positions
    assert rows["['start']"].reason == "used by scan carry"
    text = str(explanation)
    assert all(leaf in text for leaf in rows)
    assert "in a loop of 4" in text
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    examples = jax.ShapeDtypeStruct(batch.shape, batch.dtype)
    assert per_example.explain(loss)(shapes, examples) == explanation


def test_a_leaf_that_is_not_used_is_listed():
    loss, params, batch = CASES["stopped_and_unused"]()
    rows = per_example.explain(loss)(params, batch).rows
    assert [row.leaf for row in rows if row.method == "unused"] == ["['frozen']", "['unused']"]


def test_what_only_aux_needs_does_not_count():
    def loss(p, x):
        aux = {"size": jnp.sum(p["w"] ** 2), "u": p["u"], "more": jnp.sin(x @ p["v"])}
        return jnp.sum(x @ p["w"]), aux

    params = {"w": normal(3, 2), "u": normal(2), "v": normal(3, 4)}
    rows = per_example.explain(loss, has_aux=True)(params, normal(B, 3)).rows
    assert [row.method for row in rows] == ["unused", "unused", "factors"]


def test_what_is_computed_in_vain_does_not_count():
    def loss(p, x):
        in_vain = jax.jit(lambda x: (x @ p["u"], jnp.sum(x @ p["w"])))
        return in_vain(x)[1]

    rows = per_example.explain(loss)({"u": normal(3, 2), "w": normal(3, 4)}, normal(B, 3)).rows
    assert [row.method for row in rows] == ["unused", "factors"]


def test_the_cheaper_formula_is_taken():
    def cost(positions):
        loss = lambda p, x: jnp.sum(jnp.sin(x @ p))
        (row,) = per_example.explain(loss)(normal(8, 8), normal(B, positions, 8)).rows
        return row.method, row.cost

    assert cost(1) == ("factors", 8 + 8)
    assert cost(3) == ("factors", 9 * (8 + 8 + 1))
    assert cost(5) == ("instantiate", 5 * 64 + 64)  # 25 * 17 would be more


def test_expanding_stops_at_its_limit(monkeypatch):
    def loss(p, x):
        return jnp.sum(x * p["small"]) * jnp.sum(p["large"] * x[0])

    params, batch = {"small": normal(3), "large": normal(30)}, normal(B, 3)
    assert methods(loss, params, batch) == "ee"
    monkeypatch.setattr(_plan, "EXPAND_BYTES", 4 * B * 3)
    assert methods(loss, params, batch) == "ce"


@st.composite
def products(draw):
    """An einsum of the data with a parameter, whose axes are in any order and of any role."""
    roles = draw(st.lists(st.sampled_from(["batch", "contract", "free", "data"]), max_size=5))
    letters = dict(zip("abcde", [*roles, "contract"][:5], strict=False))
    sizes = {letter: draw(st.integers(1, 3)) for letter in letters}
    in_weights = [k for k, role in letters.items() if role != "data"]
    in_data = [k for k, role in letters.items() if role != "free"]
    in_output = [k for k, role in letters.items() if role != "contract"]
    weights, data, output = (
        "".join(draw(st.permutations(axes))) for axes in (in_weights, in_data, in_output)
    )
    both = [f"{weights},{data}", f"{data},{weights}"]
    weights_first = draw(st.booleans())
    return f"{both[not weights_first]}->{output}", sizes, weights, data, weights_first


@FEWER
@given(products())
def test_any_einsum(drawn):
    formula, sizes, weights, data, weights_first = drawn
    w = normal(*[sizes[k] for k in weights])
    x = normal(B, *[sizes[k] for k in data], seed=1)

    def loss(p, x):
        operands = (p, x) if weights_first else (x, p)
        return jnp.sum(jnp.sin(jnp.einsum(formula, *operands)) ** 2)

    expected = oracles.norms(oracles.gradients(loss, w, x))
    norms = jax.jit(per_example.norms(loss))(w, x)
    np.testing.assert_allclose(norms, expected, rtol=1e-5, atol=1e-6)


@st.composite
def views(draw):
    """A shape and a chain of reshapes, transpositions, slices and so on."""
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=2, max_size=3)))
    steps, current = [], shape
    for _ in range(draw(st.integers(0, 4))):
        step = draw(st.sampled_from(["reshape", "transpose", "slice", "reverse", "double", "cut"]))
        if step == "reshape":
            size = int(np.prod(current))
            first = draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
            argument = (first, size // first)
            current = argument
        elif step == "transpose":
            argument = tuple(draw(st.permutations(range(len(current)))))
            current = tuple(current[i] for i in argument)
        elif step == "slice":
            axis = draw(st.integers(0, len(current) - 1))
            stride = draw(st.integers(1, 2))
            argument = tuple(
                slice(None, None, stride if i == axis else 1) for i in range(len(current))
            )
            current = np.empty(current)[argument].shape
        elif step == "cut":
            argument = draw(st.integers(0, current[0] - 1))
            current = (current[0] - argument, *current[1:])
        else:
            argument = draw(st.integers(0, len(current) - 1))
            if step == "double":
                current = tuple(n * (2 if i == argument else 1) for i, n in enumerate(current))
        steps.append((step, argument))
    return shape, steps


def look(w, steps):
    """The view of `w` that the steps make."""
    for step, argument in steps:
        if step == "reshape":
            w = w.reshape(argument)
        elif step == "transpose":
            w = w.transpose(argument)
        elif step == "slice":
            w = w[argument]
        elif step == "cut":
            w = w[argument:]
        elif step == "reverse":
            w = jnp.flip(w, argument)
        else:
            w = jnp.concatenate([w, -2 * w], axis=argument)
    return w


@FEWER
@given(views())
def test_any_view(drawn):
    shape, steps = drawn
    w = normal(*shape)
    seen = jax.eval_shape(lambda w: look(w, steps), w)
    x = normal(B, seen.shape[0], 2, seed=1)

    def loss(p, x):  # seen through one view by one product, and as it is by another
        y = jnp.tensordot(x, look(p, steps), axes=(0, 0))
        return jnp.sum(jnp.sin(y) ** 2) + jnp.sum(p[0] * jnp.sum(x[0]))

    def only_by_the_view(p, x):
        return jnp.sum(jnp.sin(jnp.tensordot(x, look(p, steps), axes=(0, 0))) ** 2)

    for function in (loss, only_by_the_view):
        expected = oracles.norms(oracles.gradients(function, w, x))
        norms = jax.jit(per_example.norms(function))(w, x)
        np.testing.assert_allclose(norms, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("view", "new"),
    [
        (_views.Strided((2, 3), (3, 1)), (6,)),
        (_views.Strided((2, 3), (3, 1)), (3, 2)),
        (_views.Strided((4, 1, 3), (6, 9, 1)), (2, 2, 1, 3)),
        (_views.Strided((2, 6), (12, 2)), (2, 3, 2)),
        (_views.Strided((1, 1), (5, 5)), (1,)),
        (_views.Strided((), ()), (1, 1)),
    ],
)
def test_strides_of_a_reshaped_view(view, new):
    index = np.arange(100)

    def entries(strided):
        return np.lib.stride_tricks.as_strided(
            index, strided.shape, [s * index.itemsize for s in strided.strides]
        )

    strides = _views.reshaped_strides(view, new)
    assert strides is not None
    expected = entries(view).reshape(new)
    np.testing.assert_array_equal(entries(_views.Strided(new, strides)), expected)


def test_a_reshape_that_no_strides_can_express():
    assert _views.reshaped_strides(_views.Strided((3, 2), (1, 3)), (6,)) is None


def test_look_ups_mixed_with_integers_of_other_dtypes():
    def loss(p, ids):
        return jnp.sum(jnp.sin(p[ids.astype(jnp.uint8)]))

    ids = integers(5, B, 3)
    expected = oracles.norms(oracles.gradients(loss, normal(5, 2), ids))
    norms = jax.jit(per_example.norms(loss))(normal(5, 2), ids)
    np.testing.assert_allclose(norms, expected, rtol=1e-5)


@st.composite
def networks(draw):
    """Layers of a random network: widths, which weights are shared, and what is around them."""
    widths = [draw(st.integers(1, 5)) for _ in range(draw(st.integers(1, 4)))]
    square = draw(st.integers(1, 5))
    shared = draw(st.integers(0, 3))  # this many layers with one square matrix
    return {
        "sequence": draw(st.sampled_from([(), (1,), (3,), (2, 2)])),
        "widths": [draw(st.integers(1, 5)), *widths, *[square] * (shared > 0)],
        "shared": shared,
        "looped": draw(st.booleans()),
        "transposed": draw(st.booleans()),
        "bias": draw(st.booleans()),
        "remat": draw(st.booleans()),
        "dtype": draw(st.sampled_from([jnp.float32, jnp.float64])),
    }


@FEWER
@given(networks())
def test_any_network(drawn):
    with jax.enable_x64(drawn["dtype"] == jnp.float64):
        assert_exact(drawn)


def assert_exact(drawn):
    widths, lead = drawn["widths"], drawn["sequence"]
    params = {"layers": [], "square": normal(widths[-1], widths[-1])}
    for before, after in zip(widths, widths[1:], strict=False):
        shape = (after, before) if drawn["transposed"] else (before, after)
        params["layers"].append({"w": normal(*shape), "b": normal(after)})

    def dense(layer, x):
        w = layer["w"].T if drawn["transposed"] else layer["w"]
        y = x @ w
        return jnp.tanh(y + layer["b"].reshape((1,) * len(lead) + (-1,)) if drawn["bias"] else y)

    def loss(p, x):
        for layer in p["layers"]:
            x = (jax.checkpoint(dense) if drawn["remat"] else dense)(layer, x)
        again = lambda x, _: (jnp.sin(x @ p["square"]), None)
        if drawn["looped"] and drawn["shared"]:
            x = jax.lax.scan(again, x, length=drawn["shared"])[0]
        else:
            for _ in range(drawn["shared"]):
                x = again(x, None)[0]
        return jnp.sum(x**2)

    x = normal(B, *lead, widths[0])
    params, x = jax.tree.map(lambda leaf: leaf.astype(drawn["dtype"]), (params, x))
    expected = oracles.norms(oracles.gradients(loss, params, x))
    norms = jax.jit(per_example.norms(loss))(params, x)
    assert norms.dtype == drawn["dtype"]
    wide = drawn["dtype"] == jnp.float64
    np.testing.assert_allclose(
        norms, expected, rtol=1e-12 if wide else 1e-5, atol=1e-14 if wide else 1e-7
    )


def test_no_array_of_all_gradients_is_made():
    def loss(p, x):
        return jnp.sum(jnp.tanh(jnp.tanh(x @ p["u"]) @ p["v"]) ** 2)

    params, batch = {"u": normal(100, 200), "v": normal(200, 100)}, normal(64, 100)
    whole = 64 * 2 * 100 * 200 * 4

    def temporary(function):
        compiled = jax.jit(function).lower(params, batch).compile()
        analysis = compiled.memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    mean = temporary(jax.grad(lambda p, b: jax.vmap(loss, (None, 0))(p, b).mean()))
    assert temporary(per_example.norms(loss)) - mean <= 0.1 * whole
    assert temporary(per_example.value_grad_and_norms(loss)) - mean <= 0.1 * whole
    sketches = per_example.sketches(loss, key=jax.random.key(0), dim=64)
    assert temporary(sketches) - mean <= 0.1 * whole
