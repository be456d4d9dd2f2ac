"""How work on single examples is spread over the batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec


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
    if not (matrices and _one_by_one()) or is_sharded(jax.tree.leaves(batched)[0]):
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


def map_in_chunks(one: Callable[[Any], Any], batch: Any, chunk_size: int) -> Any:
    """``one`` of every example, of so many at a time; the results stacked, ``(B, ...)``.

    A batch that is sharded over explicit mesh axes is not cut into chunks, for no chunk of it would
    be sharded like it: every device takes its examples at once.
    """
    leaves = jax.tree.leaves(batch)
    if chunk_size >= leaves[0].shape[0] or is_sharded(leaves[0]):
        return jax.vmap(one)(batch)
    return jax.lax.map(one, batch, batch_size=chunk_size)


def is_sharded(array: jax.Array) -> bool:
    """Whether the first axis is sharded over explicit mesh axes."""
    spec = jax.typeof(array).sharding.spec
    return len(spec) > 0 and spec[0] is not None


def bring_together(tree: Any) -> Any:
    """Arrays ``(B, ...)`` with all examples on every device, where that must be said explicitly."""

    def whole(array):
        if not is_sharded(array):
            return array
        sharding = jax.typeof(array).sharding
        spec = PartitionSpec(None, *sharding.spec[1:])
        return jax.sharding.reshard(array, NamedSharding(sharding.mesh, spec))

    return jax.tree.map(whole, tree)
