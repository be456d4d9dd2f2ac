"""Programs whose loops run in Python: the same results as those of `jit`, and as few programs."""

import functools
import gc
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import trees
from jaxrobust.trees import _programs

KERNEL = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 2, 2)) / 5, jnp.float32)
IMAGES = jnp.asarray(np.random.default_rng(1).normal(size=(4, 6, 6, 2)), jnp.float32)


def layer(kernel, x):
    dimensions = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))
    return jnp.tanh(jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", None, None, dimensions))


def scanned(kernel, x, scales):
    """Constants, state, slices, stacked outputs, and a literal among the outputs."""

    def step(carry, scale):
        x, number = carry
        x = layer(kernel, scale * x)
        return (x, number + 1), (jnp.sum(x), 2 * scale)

    (x, number), (sums, doubled) = jax.lax.scan(step, (x + 1, 0), scales)
    more = {"one": 1, "flag": True, "half": 0.5, "same": scales, "known": np.arange(3.0, dtype="f")}
    return {"x": x - 1, "number": number, "sums": sums, "doubled": doubled, **more}


def backwards(kernel, x, scales):
    step = lambda x, scale: (layer(kernel, scale * x), x[0, 0, 0, 0])
    return jax.lax.scan(step, x, scales, reverse=True)


def gradient_of_scan(kernel, x, scales):
    """The backward pass is a loop with convolutions as well."""
    loss = lambda kernel: jnp.sum(scanned(kernel, x, scales)["x"] ** 2)
    return jax.value_and_grad(loss)(kernel)


def counted(kernel, x, scales):
    """A loop whose end is an argument, in a loop, with a choice in it."""

    def inner(number, x):
        return jax.lax.cond(number % 2 == 0, lambda x: layer(kernel, x), lambda x: x + 0.1, x)

    def outer(x, scale):
        return jax.lax.fori_loop(0, jnp.int32(3 + scale), inner, x), None

    return jax.lax.scan(outer, x, scales)[0]


def until(kernel, x, scales):
    """With constants of the condition and of the body."""
    largest = jnp.max(scales)
    small = lambda carry: (carry[1] < 5) & (jnp.max(carry[0]) < largest)
    return jax.lax.while_loop(small, lambda c: (layer(kernel, c[0]) + 0.01, c[1] + 1), (x, 0))


def chosen(kernel, x, scales):
    """Loops in branches, and in a call."""
    loop = jax.jit(lambda x: jax.lax.fori_loop(0, 3, lambda _, x: layer(kernel, x), x))
    branches = [loop, lambda x: -x, lambda x: loop(2 * x)]
    return [jax.lax.switch(index, branches, x) for index in jnp.arange(-1, 4)]


def keys_in_a_loop(kernel, x, scales):
    """Typed keys as slices, state and stacked outputs."""

    def step(carry, key):
        x, last = carry
        x = layer(kernel, x) + jax.random.normal(key, x.shape)
        return (x, key), jax.random.fold_in(last, 1)

    keys = jax.random.split(jax.random.key(3), len(scales))
    (x, key), stacked = jax.lax.scan(step, (x, jax.random.key(0)), keys)
    return x, jax.random.key_data(key), jax.random.key_data(stacked)


PROGRAMS = (scanned, backwards, gradient_of_scan, counted, until, chosen, keys_in_a_loop)
SCALES = jnp.asarray([0.9, 1.1, 0.7])


@pytest.mark.parametrize("function", PROGRAMS, ids=lambda f: f.__name__)
def test_results_are_those_of_jit(function):
    run = trees.compiled(function, 0)
    expected = jax.jit(function)(KERNEL, IMAGES, SCALES)
    found = run(KERNEL, IMAGES, SCALES)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found, expected
    )
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert isinstance(one, jax.Array)
        assert (one.dtype, one.weak_type) == (other.dtype, other.weak_type)


@pytest.mark.parametrize("function", PROGRAMS, ids=lambda f: f.__name__)
def test_no_compiled_loop_has_a_convolution(function, monkeypatch):
    """Looks at all programs that are made."""
    made = []
    program = _programs._program
    monkeypatch.setattr(
        _programs, "_program", lambda eqns, *others: made.append(eqns) or program(eqns, *others)
    )

    def again(*arguments):  # another function, which is not known yet
        return function(*arguments)

    trees.compiled(again, 0)(KERNEL, IMAGES, SCALES)
    assert made
    assert not [eqn for eqns in made for eqn in eqns if _programs._is_slow(eqn)]
    names = [eqn.primitive.name for eqns in made for eqn in eqns]
    assert "scan" not in names
    assert "while" not in names


def test_nothing_is_compiled_twice(caplog):
    run = trees.compiled(lambda *arguments: scanned(*arguments), 0)
    said = lambda: [r.message for r in caplog.records if "Finished XLA compilation" in r.message]
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        run(KERNEL, IMAGES, SCALES)
        assert said()
        caplog.clear()
        run(2 * KERNEL, 2 * IMAGES, 2 * SCALES)
        assert not [m for m in said() if "multiply" not in m]
        caplog.clear()
        run(KERNEL, IMAGES[:2], SCALES)  # other shapes
    assert said()


def test_pieces_go_with_the_function():
    gc.collect()
    before = len(_programs._known)
    run = trees.compiled(lambda *arguments: scanned(*arguments), 0)
    run(KERNEL, IMAGES, SCALES)
    assert len(_programs._known) == before + 1
    del run
    gc.collect()
    assert len(_programs._known) <= before


def test_static_arguments_and_new_ones():
    def power(exponent, name, x):
        del name
        return jax.lax.fori_loop(0, exponent, lambda _, x: layer(KERNEL, x), x)

    run = trees.compiled(power, 2)
    for exponent in (1, 3):
        expected = IMAGES
        for _ in range(exponent):
            expected = layer(KERNEL, expected)
        np.testing.assert_allclose(run(exponent, "any", IMAGES), expected, rtol=1e-5, atol=1e-6)


def test_under_transformations_it_is_jit():
    run = trees.compiled(gradient_of_scan, 0)
    expected = gradient_of_scan(KERNEL, IMAGES, SCALES)[0]
    assert jax.jit(run)(KERNEL, IMAGES, SCALES)[0] == pytest.approx(float(expected), rel=1e-5)
    values = jax.vmap(lambda x: run(KERNEL, x[None], SCALES)[0])(IMAGES)
    assert float(jnp.sum(values)) == pytest.approx(float(expected), rel=1e-4)
    slope = jax.grad(lambda x: trees.compiled(scanned, 0)(KERNEL, x, SCALES)["sums"][-1])(IMAGES)
    assert bool(jnp.any(slope != 0))


def test_known_arguments_inside_of_jit():
    """What is made of them is traced all the same, so that no loop may wait for it."""
    for function in (until, scanned, chosen):
        run = trees.compiled(function, 0)
        found = jax.jit(lambda run=run: run(KERNEL, IMAGES, SCALES))()
        expected = function(KERNEL, IMAGES, SCALES)
        alike = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
        jax.tree.map(alike, found, expected)
    shapes = jax.eval_shape(lambda: trees.compiled(until, 0)(KERNEL, IMAGES, SCALES))
    assert shapes[0].shape == IMAGES.shape


def test_a_function_that_closes_over_what_is_traced():
    inner = lambda kernel: trees.compiled(lambda x, s: scanned(kernel, x, s)["sums"], 0)
    with jax.checking_leaks():
        found = jax.jit(lambda kernel: inner(kernel)(IMAGES, SCALES))(KERNEL)
    np.testing.assert_allclose(found, scanned(KERNEL, IMAGES, SCALES)["sums"], rtol=1e-5)
    slope = jax.grad(lambda kernel: jnp.sum(inner(kernel)(IMAGES, SCALES)))(KERNEL)
    assert bool(jnp.any(slope != 0))


def test_rows_with_ends_of_their_own():
    """A condition for every row: such a loop stays as it is."""

    def grown(kernel, x, scales):
        small = lambda z: jnp.max(z) < 5
        more = lambda z: layer(kernel, z[None])[0] + z + 1
        return jax.vmap(lambda z: jax.lax.while_loop(small, more, z))(x * scales[0])

    run = trees.compiled(grown, 0)
    x = IMAGES * jnp.asarray([1.0, 2.0, 0.1, 9.0])[:, None, None, None]
    np.testing.assert_allclose(run(KERNEL, x, SCALES), grown(KERNEL, x, SCALES), rtol=1e-4)


def test_settings_of_jax_make_another_program():
    draw = lambda x: (
        jax.random.uniform(jax.random.key(0), x.shape)
        + jax.lax.fori_loop(0, 2, lambda _, x: layer(KERNEL, x), x)
    )
    run = trees.compiled(draw, 0)
    for partitionable in (True, False, True):
        with jax.threefry_partitionable(partitionable):
            np.testing.assert_allclose(run(IMAGES), jax.jit(draw)(IMAGES), rtol=1e-5, atol=1e-6)


def test_arguments_that_are_no_arrays_yet():
    """Of NumPy, and numbers; what is returned as it came is an array too."""
    run = trees.compiled(lambda kernel, x, scale: (scanned(kernel, scale * x, SCALES), x, scale), 0)
    found, same, scale = run(np.asarray(KERNEL), np.asarray(IMAGES), 1.0)
    np.testing.assert_allclose(found["x"], scanned(KERNEL, IMAGES, SCALES)["x"], rtol=1e-5)
    assert isinstance(same, jax.Array)
    assert isinstance(scale, jax.Array)


def test_a_batch_that_is_spread():
    """Over explicit axes and automatic ones: results are where those of `jit` are."""
    for kind in (jax.sharding.AxisType.Explicit, jax.sharding.AxisType.Auto):
        mesh = jax.make_mesh((4,), ("batch",), axis_types=(kind,))
        x = jax.device_put(IMAGES, jax.NamedSharding(mesh, jax.P("batch")))
        with jax.set_mesh(mesh):
            loop = lambda x: jax.lax.fori_loop(0, 3, lambda _, x: layer(KERNEL, x), x)
            found, expected = trees.compiled(loop, 0)(x), jax.jit(loop)(x)
        assert found.sharding.is_equivalent_to(expected.sharding, 4)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_programs_without_slow_loops_are_left_alone(monkeypatch):
    monkeypatch.setattr(_programs, "_pieces", None)  # not called
    dense = lambda x: jax.lax.fori_loop(0, 3, lambda _, x: jnp.tanh(x @ x), x)
    np.testing.assert_allclose(trees.compiled(dense, 0)(jnp.eye(3)), dense(jnp.eye(3)), rtol=1e-6)
    once = lambda x: layer(KERNEL, x)
    np.testing.assert_allclose(trees.compiled(once, 0)(IMAGES), once(IMAGES), rtol=1e-5, atol=1e-6)
    never = lambda x: jax.lax.scan(lambda x, _: (layer(KERNEL, x), x), x, length=0)
    np.testing.assert_array_equal(trees.compiled(never, 0)(IMAGES)[0], IMAGES)


def test_double_precision_is_another_program(x64):
    run = trees.compiled(scanned, 0)
    with jax.enable_x64(False):
        single = run(KERNEL, IMAGES, SCALES)["sums"]
    double = run(*(jnp.asarray(z, jnp.float64) for z in (KERNEL, IMAGES, SCALES)))["sums"]
    assert (single.dtype, double.dtype) == (jnp.float32, jnp.float64)
    mixed = run(KERNEL, IMAGES, SCALES)["number"]  # an int is a double one now
    assert mixed.dtype == jax.jit(scanned)(KERNEL, IMAGES, SCALES)["number"].dtype
