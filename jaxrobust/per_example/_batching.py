"""How work on single examples is spread over the batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust import trees


def reduce_examples(
    one: Callable[..., tuple[Any, Any]], *batched: Any, matrices: bool, shared: Any = None
) -> tuple[Any, Any]:
    """Applies ``one`` to every example; sums its first result over them, stacks its second.

    Args:
      one: from one example's arrays, and ``shared`` if given, to ``(what is summed, what is
        kept)``, both trees of arrays. It closes over no arrays.
      *batched: trees of arrays ``(B, ...)``.
      matrices: whether ``one`` multiplies matrices.
      shared: tree of arrays that it needs for every example.

    Returns:
      The sums, and the stacked ``(B, ...)``.
    """

    def reduce(batched, shared):
        of_one = one if shared is None else lambda *example: one(*example, shared)
        if matrices and _one_by_one():
            return _reduce_one_by_one(of_one, batched)
        summed, kept = jax.vmap(of_one)(*batched)
        return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), summed), kept

    return trees.on_each_device(reduce, batched, shared)


def map_examples(one: Callable[..., Any], *batched: Any, shared: Any = None) -> Any:
    """As :func:`reduce_examples`, with all results stacked and none summed."""
    return reduce_examples(
        lambda *arrays: ((), one(*arrays)), *batched, matrices=False, shared=shared
    )[1]


def _reduce_one_by_one(one: Callable[..., tuple[Any, Any]], batched: Any) -> tuple[Any, Any]:
    def step(total, example):
        summed, kept = one(*example)
        return jax.tree.map(jnp.add, total, summed), kept

    first = jax.tree.map(lambda leaf: leaf[0], batched)
    start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(one, *first)[0])
    return jax.lax.scan(step, trees.vary_like(start, batched), batched)


def _one_by_one() -> bool:
    # A CPU multiplies one pair of matrices much faster than it does many small ones in one batched
    # product, for which XLA has no tuned code there. With several devices the batch may be sharded,
    # and a loop over it would bring it together on each of them; on a CPU they are there for tests.
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def map_in_chunks(one: Callable[[Any], Any], batch: Any, chunk_size: int) -> Any:
    """``one`` of every example, of so many at a time; the results stacked, ``(B, ...)``.

    A batch that is sharded over explicit mesh axes is not cut into chunks, for no chunk of it would
    be sharded like it: every device takes its examples at once.
    """
    leaves = jax.tree.leaves(batch)
    if chunk_size >= leaves[0].shape[0] or trees.is_sharded(leaves[0]):
        return jax.vmap(one)(batch)
    return jax.lax.map(one, batch, batch_size=chunk_size)
