"""What is told of losses that a CPU runs slowly inside of compiled loops."""

import jax
import jax.numpy as jnp
import pytest

from jaxrobust import per_example

PARAMS = {"kernel": jnp.ones((3, 3, 1, 2)), "w": jnp.ones((4, 2))}


def convolve(params, image):
    found = jax.lax.conv_general_dilated(
        image[None], params["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.sum(found**2)


def in_a_body(params, image):
    """The convolution is in a ``remat`` inside of a ``scan`` inside of a ``jit``."""
    step = lambda total, _: (total + jax.checkpoint(convolve)(params, image), None)
    return jax.jit(lambda: jax.lax.scan(step, 0.0, None, length=2)[0])()


def product(params, image):
    return jnp.sum(jnp.tanh(image.reshape(-1, 4) @ params["w"]))


@pytest.mark.parametrize(
    ("loss", "expected"), [(convolve, True), (in_a_body, True), (product, False)]
)
def test_convolutions_are_found(loss, expected):
    images = jnp.ones((5, 8, 8, 1))
    assert per_example.slow_in_loops(loss)(PARAMS, images) is expected
    # Not where the loop is compiled in any case.
    seen = []
    jax.jit(lambda p: seen.append(per_example.slow_in_loops(loss)(p, images)))(PARAMS)
    assert seen == [False]


def test_other_backends_run_loops_as_fast(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert not per_example.slow_in_loops(convolve)(PARAMS, jnp.ones((5, 8, 8, 1)))
