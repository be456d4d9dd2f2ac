"""The small problems of the conformance suite: parameters, gradients and losses."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SHAPES = {"matrix": (3, 8), "bias": (8,)}


class Problem(NamedTuple):
    """A loss to minimise, and where to start."""

    loss_fn: Callable[[Any], jax.Array]
    params: Any


def random_tree(seed: int, *, dtype: Any = jnp.float32) -> dict[str, jax.Array]:
    """Sixteenths between -2 and 2, so that casting to bfloat16 changes no entry; none is zero."""
    rng = np.random.default_rng(seed)

    def draw(shape):
        return rng.choice([-1, 1], shape) * rng.integers(1, 33, shape) / 16

    return {name: jnp.asarray(draw(shape), dtype) for name, shape in SHAPES.items()}


def gradient_tree(seed: int, *, dtype: Any = jnp.float32) -> dict[str, jax.Array]:
    """The same, with one entry larger than all others: no ties, that rounding would break."""
    tree = random_tree(seed, dtype=dtype)
    return tree | {"matrix": tree["matrix"].at[1, 2].set(-3)}


def quadratic(dtype: Any = jnp.float32) -> Problem:
    """Curvature 1. The minimum is 1, not 0, where a step divided by the loss would explode."""
    target = random_tree(1)

    def loss_fn(params):
        squares = jax.tree.map(lambda p, t: jnp.sum((p - t.astype(p.dtype)) ** 2), params, target)
        return 1 + 0.5 * jnp.sum(jnp.stack(jax.tree.leaves(squares)))

    return Problem(loss_fn, random_tree(0, dtype=dtype))


def logistic(dtype: Any = jnp.float32) -> Problem:
    """A linear classifier of 6 points in 32 dimensions, hence separable; their l1 norms are < 8."""
    rng = np.random.default_rng(2)
    x = {name: jnp.asarray(rng.normal(size=(6, *s)) / 4, dtype) for name, s in SHAPES.items()}

    def margin(params, row):
        return sum(jax.tree.leaves(jax.tree.map(lambda p, a: jnp.sum(p * a), params, row)))

    def loss_fn(params):
        return jnp.mean(jax.nn.softplus(-jax.vmap(margin, (None, 0))(params, x)))

    return Problem(loss_fn, random_tree(3, dtype=dtype))
