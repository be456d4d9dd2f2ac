"""How work on single examples is spread over the batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def reduce_examples(
    one: Callable[..., tuple[Any, Any]], *batched: Any, matrices: bool
) -> tuple[Any, Any]:
    """Applies ``one`` to every example; sums its first result over them, stacks its second.

    Args:
      one: from one example's arrays to ``(what is summed, what is kept)``, both trees of arrays.
      *batched: trees of arrays ``(B, ...)``.
      matrices: whether ``one`` multiplies matrices.

    Returns:
      The sums, and the stacked ``(B, ...)``.
    """
    if not (matrices and _one_by_one()):
        summed, kept = jax.vmap(one)(*batched)
        return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), summed), kept

    def step(total, example):
        summed, kept = one(*example)
        return jax.tree.map(jnp.add, total, summed), kept

    first = jax.tree.map(lambda leaf: leaf[0], batched)
    start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(one, *first)[0])
    return jax.lax.scan(step, start, batched)


def _one_by_one() -> bool:
    # A CPU multiplies one pair of matrices much faster than it does many small ones in one batched
    # product, for which XLA has no tuned code there. With several devices the batch may be sharded,
    # and a loop over it would bring it together on each of them; on a CPU they are there for tests.
    return jax.default_backend() == "cpu" and jax.device_count() == 1
