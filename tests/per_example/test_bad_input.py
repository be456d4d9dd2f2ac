"""What cannot be done is refused, by a message that names the argument."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import per_example
from tests.per_example.cases import B, normal

PARAMS, BATCH = {"w": normal(3, 2)}, {"x": normal(B, 3), "y": jnp.arange(B)}


def loss(p, example):
    return jnp.sum((example["x"] @ p["w"]) ** 2)


CALLS = {
    "norms": lambda f, p, b: per_example.norms(f)(p, b),
    "value_grad_and_norms": lambda f, p, b: per_example.value_grad_and_norms(f)(p, b),
    "gradients": lambda f, p, b: per_example.gradients(f)(p, b),
    "dots": lambda f, p, b: per_example.dots(f)(p, b, p),
    "sketches": lambda f, p, b: per_example.sketches(f, key=jax.random.key(0), dim=4)(p, b),
    "gram": lambda f, p, b: per_example.gram(f)(p, b),
    "moments": lambda f, p, b: per_example.moments(f)(p, b),
    "explain": lambda f, p, b: per_example.explain(f)(p, b),
    "check": lambda f, p, b: per_example.check(f)(p, b),
}
WRONG = {
    "no examples": (loss, PARAMS, {"x": normal(0, 3), "y": BATCH["y"][:0]}, "batch is empty"),
    "lengths": (loss, PARAMS, {"x": normal(4, 3), "y": BATCH["y"]}, r"batch\['x'\]: 4"),
    "scalar": (loss, PARAMS, {"x": normal(B, 3), "y": jnp.float32(1)}, r"batch\['y'\]"),
    "no array": (loss, PARAMS, {"x": normal(B, 3), "y": "labels"}, r"batch\['y'\]"),
    "no arrays": (loss, PARAMS, {}, "batch has no arrays"),
    "integer params": (loss, {"w": jnp.ones((3, 2), int)}, BATCH, r"params\['w'\]"),
    "no params": (loss, {}, BATCH, "params"),
    "vector loss": (lambda p, e: e["x"] @ p["w"], PARAMS, BATCH, r"scalar.*shape \(2,\)"),
    "integer loss": (lambda p, e: jnp.int32(1), PARAMS, BATCH, "floating scalar, got int32"),
    "None": (lambda p, e: None, PARAMS, BATCH, "scalar.*NoneType"),
    "coupled": (
        lambda p, e: jnp.sum(jax.lax.pmean(e["x"] @ p["w"], "batch")),
        PARAMS,
        BATCH,
        "couples examples.*batch",
    ),
}


@pytest.mark.parametrize("problem", WRONG)
@pytest.mark.parametrize("name", CALLS)
def test_arguments(name, problem):
    loss_fn, params, batch, message = WRONG[problem]
    with pytest.raises((ValueError, TypeError), match=message):
        CALLS[name](loss_fn, params, batch)


def test_aux_must_be_there():
    with pytest.raises(TypeError, match=r"must return \(loss, aux\)"):
        per_example.norms(loss, has_aux=True)(PARAMS, BATCH)
    with pytest.raises(ValueError, match="scalar.*tuple"):
        per_example.norms(lambda p, e: (loss(p, e), 1))(PARAMS, BATCH)


def test_options():
    with pytest.raises(ValueError, match="chunk_size.*got 0"):
        per_example.gradients(loss, chunk_size=0)
    numpy_integer: Any = np.int64(2)
    jax.jit(per_example.gradients(loss, chunk_size=numpy_integer))(PARAMS, BATCH)
    jax.jit(per_example.sketches(loss, key=jax.random.key(0), dim=numpy_integer))(PARAMS, BATCH)
    wrong: list[Any] = [0, -1, 2.5, True]
    for dim in wrong:
        with pytest.raises(ValueError, match="dim must be an integer of at least 1"):
            per_example.sketches(loss, key=jax.random.key(0), dim=dim)
    with pytest.raises(ValueError, match="num_examples"):
        per_example.check(loss, num_examples=0)
    with pytest.raises(ValueError, match="tolerance"):
        per_example.check(loss, tolerance=np.nan)


def test_directions():
    dots = per_example.dots(loss)
    with pytest.raises(ValueError, match="direction must have the structure"):
        dots(PARAMS, BATCH, [PARAMS["w"]])
    for shape in ((2, 3), (4, 2, 3), (3,)):
        with pytest.raises(ValueError, match="direction must have the shapes"):
            dots(PARAMS, BATCH, {"w": jnp.ones(shape)})
    two = {"w": normal(3, 2), "b": normal(2)}
    with pytest.raises(ValueError, match="one length"):
        dots(two, BATCH, {"w": jnp.ones((4, 3, 2)), "b": jnp.ones((5, 2))})


def test_the_other_batch_must_have_examples_of_the_same_shape():
    with pytest.raises(ValueError, match="other must have examples like those of batch"):
        per_example.gram(lambda p, x: jnp.sum(jnp.sum(x) * p))(
            normal(2), normal(B, 3), normal(B, 4)
        )


def test_a_loss_that_keeps_a_traced_value():
    kept = []

    def leaky(p, example):
        kept.append(example["x"] @ p["w"])
        return jnp.sum(kept[0])

    per_example.norms(leaky)(PARAMS, BATCH)
    with pytest.raises(jax.errors.UnexpectedTracerError) as caught:
        per_example.norms(leaky)(PARAMS, BATCH)
    assert any("pure function" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("name", [name for name in CALLS if name != "check"])
def test_a_loss_that_changes_state(name):
    counter = jax.new_ref(jnp.zeros(()))

    def counting(p, example):
        counter[...] = counter[...] + 1
        return loss(p, example)

    with pytest.raises(ValueError, match=r"changes state.*jax\.Ref"):
        CALLS[name](counting, PARAMS, BATCH)


def test_values_of_an_outer_trace_may_be_closed_over():
    def total(temperature):
        scaled = lambda p, e: temperature * loss(p, e)
        return jnp.sum(per_example.norms(scaled)(PARAMS, BATCH))

    once = np.sum(jax.jit(per_example.norms(loss))(PARAMS, BATCH))
    np.testing.assert_allclose(jax.jit(total)(2.0), 2 * once, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.grad(total))(2.0), once, rtol=1e-5)
