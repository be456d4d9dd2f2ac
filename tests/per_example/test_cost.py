"""What a gradient costs, counted by hand."""

import jax
import jax.numpy as jnp
import pytest

from jaxrobust import per_example


def convolved(kernel, image):
    names = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        image[None], kernel, (1, 1), "SAME", dimension_numbers=names
    )


LOSSES = {
    "dense": (lambda p, x: jnp.sum(jnp.sin(x @ p)), (30, 20), (30,), 30 * 20),
    "seven positions": (lambda p, x: jnp.sum(jnp.sin(x @ p)), (30, 20), (7, 30), 7 * 30 * 20),
    "convolution": (
        lambda p, x: jnp.sum(jnp.sin(convolved(p, x))),
        (3, 3, 2, 5),
        (8, 8, 2),
        64 * 9 * 2 * 5,
    ),
    "elementwise": (lambda p, x: jnp.sum(jnp.sin(x * p)), (30,), (30,), 30),
    "looked up": (lambda p, i: jnp.sum(jnp.sin(p[i])), (500, 20), (3,), 3 * 20),
    "used twice": (lambda p, x: jnp.sum(jnp.tanh(x @ p) @ p), (6, 6), (6,), 2 * 36),
}


@pytest.mark.parametrize("name", LOSSES)
def test_three_times_the_products_with_params(name):
    loss_fn, of_params, of_example, expected = LOSSES[name]
    kind = jnp.int32 if name == "looked up" else jnp.float32
    params, batch = jnp.ones(of_params), jnp.ones((4, *of_example), kind)
    assert per_example.gradient_cost(loss_fn, params, batch) == 3 * expected
    counted = []
    jax.jit(lambda p, b: counted.append(per_example.gradient_cost(loss_fn, p, b)))(params, batch)
    assert counted == [3 * expected]


def test_a_sketch_is_a_pass_without_the_gradient_and_the_maps():
    """Of 30 x 20 by 16 numbers: each factor to 16 numbers at rank 1, to 4 at rank 4."""
    loss_fn = lambda p, x: jnp.sum(jnp.sin(x @ p))
    params, batch = jnp.ones((30, 20)), jnp.ones((4, 30))
    maps = per_example.sketch_cost(loss_fn, params, batch, 16) - 2 * 30 * 20
    assert maps in [rank * (16 // rank**2) * (30 + 20) + 16 for rank in (1, 2, 4)]
    small = per_example.sketch_cost(loss_fn, params, batch, 1_024)  # the gradient itself
    assert small == 2 * 30 * 20 + 30 * 20 + 30 * 20


def test_what_is_not_asked_for_costs_nothing():
    loss_fn = lambda p, x: jnp.sum(jnp.tanh(x @ jax.lax.stop_gradient(p["a"])) @ p["b"])
    params = {"a": jnp.ones((5, 6)), "b": jnp.ones((6, 2))}
    assert per_example.gradient_cost(loss_fn, params, jnp.ones((1, 5))) == 3 * 6 * 2
