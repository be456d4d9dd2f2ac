"""Gradient descent of ReLU networks without biases, to be held against gated linear ones."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust import gated


@functools.partial(jax.jit, static_argnums=(4, 5))
def descend(
    params: Any, x: jax.Array, y: jax.Array, rate: Any, num_steps: int, every: int = 1
) -> tuple[Any, jax.Array]:
    """On half the mean squared error of all examples; the last params, and losses.

    Args:
      params: matrices ``(to, from)`` of the layers.
      x: ``(N, in)``.
      y: ``(N, out)``.
      rate: of a step.
      num_steps: how many.
      every: steps between two losses ``(num_steps / every + 1,)``.
    """

    def loss(params):
        return 0.5 * jnp.mean(jnp.sum((y - gated.relu_network(params, x)) ** 2, axis=1))

    def step(_, params):
        return jax.tree.map(lambda p, g: p - rate * g, params, jax.grad(loss)(params))

    def record(params, _):
        return jax.lax.fori_loop(0, every, step, params), loss(params)

    last, losses = jax.lax.scan(record, params, length=num_steps // every)
    return last, jnp.append(losses, loss(last))
