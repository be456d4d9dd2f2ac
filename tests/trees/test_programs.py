"""Programs whose loops run in Python: the same results as those of `jit`, and as few programs."""

import functools
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
    return {"x": x - 1, "number": number, "sums": sums, "doubled": doubled, "one": 1}


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
    assert jax.tree.map(jnp.dtype, found) == jax.tree.map(jnp.dtype, expected)


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
    run(KERNEL, IMAGES, SCALES)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        run(2 * KERNEL, 2 * IMAGES, 2 * SCALES)
        assert not [r.message for r in caplog.records if "Compiling jit(program)" in r.message]
        run(KERNEL, IMAGES[:2], SCALES)  # other shapes
    assert [r.message for r in caplog.records if "program" in r.message]


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
