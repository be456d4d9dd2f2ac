"""What was embedded before: a queue of past embeddings, and slowly moving encoders."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrobust import trees
from jaxrobust.contrastive import _pairs as pairs
from jaxrobust.contrastive._checks import check_range, is_floating


def no_id() -> int:
    """The id of what came without one: it belongs to nothing, and users may not give it."""
    return int(jnp.iinfo(jnp.result_type(int)).min)


class Memory(NamedTuple):
    """Embeddings that serve as further candidates, without a gradient; a queue."""

    embeddings: jax.Array  # (M, D)
    ids: jax.Array  # (M,) int: of the pairs that they came from
    valid: jax.Array  # (M,) bool: False for places that are not filled yet
    age: jax.Array  # (M,) int32: pushes since they came
    next: jax.Array  # () int32: the place that is filled next


def memory_init(size: int, dim: int, *, dtype: Any = jnp.float32) -> Memory:
    """An empty queue of so many embeddings.

    Args:
      size: M, at least the batch size.
      dim: D.
      dtype: of the embeddings.

    Raises:
      ValueError: for numbers below 1. TypeError: for a dtype that is not floating.
    """
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"dtype must be floating, got {jnp.dtype(dtype)}")
    size, dim = trees.check_count("size", size), trees.check_count("dim", dim)
    return Memory(  # each an array of its own, so that they can be donated
        embeddings=jnp.zeros((size, dim), dtype),
        ids=jnp.full(size, no_id(), int),
        valid=jnp.zeros(size, bool),
        age=jnp.zeros(size, jnp.int32),
        next=jnp.int32(0),
    )


def memory_push(
    memory: Memory,
    embeddings: jax.Array,
    ids: Any = None,
    valid: Any = None,
    *,
    axis_name: Any = None,
) -> Memory:
    """The queue with a batch in the places of the oldest.

    Give ids if an example can return while it is in the queue: without, what it was embedded as
    before is a negative of its partner like all others.

    Args:
      memory: of :func:`memory_init`.
      embeddings: ``(B, D)``, B at most M.
      ids: ``(B,)`` int, those that are given to the loss as ``positives``; None where none are.
      valid: ``(B,)`` bool, False for padding, which takes a place but is never a negative.
      axis_name: inside of ``shard_map``, the mesh axes over which the batch is spread: the queue is
        whole on every device, and gets the batch of all of them, in the order of devices. M must be
        at least the number of all. Without it every device would remember its own part only.

    Returns:
      :class:`Memory`; everything that was there is older by one push. Embeddings that are sharded
      over explicit mesh axes are brought together: a queue is whole on every device.

    Raises:
      ValueError: if B exceeds M, shapes do not fit, or embeddings are not finite (unless traced, or
        of padding).
      TypeError: for embeddings that are not floating.
    """
    return _pushed(memory, "embeddings", embeddings, ids, valid, axis_name)


def _pushed(
    memory: Memory, name: str, embeddings: Any, ids: Any, valid: Any, axis_name: Any
) -> Memory:
    """As :func:`memory_push`, where embeddings have another name."""
    size, dim = memory.embeddings.shape
    trees.check_floating(name, embeddings)
    embeddings = jnp.asarray(embeddings)
    if axis_name is not None:
        embeddings, ids, valid = trees.gather((embeddings, ids, valid), axis_name)
    if embeddings.ndim != 2 or embeddings.shape[1] != dim or not 1 <= len(embeddings) <= size:
        raise ValueError(
            f"{name} must be of shape (B, {dim}) with B in 1..{size}, the size of the memory; "
            f"got {embeddings.shape}"
        )
    number = len(embeddings)
    pairs.check_embeddings(name, embeddings, valid)
    ids = jnp.full(number, no_id()) if ids is None else pairs.check_labels("ids", ids, number)
    places = (memory.next + jnp.arange(number, dtype=jnp.int32)) % size
    put = lambda old, new: old.at[places].set(trees.bring_together(new).astype(old.dtype))
    return Memory(
        embeddings=put(memory.embeddings, jax.lax.stop_gradient(embeddings)),
        ids=put(memory.ids, ids),
        valid=put(memory.valid, pairs.check_valid("valid", valid, number)),
        age=put(memory.age + 1, jnp.zeros(number, jnp.int32)),
        next=(memory.next + number) % size,
    )


def memory_younger(memory: Memory, age: Any) -> Memory:
    """The queue without what came more than so many pushes ago; 0: the last batch alone.

    Raises:
      ValueError: for an age that is no single number, or NaN.
    """
    check_range("age", age, -1, math.inf)
    return memory._replace(valid=memory.valid & (memory.age <= age))


def _wide(leaf: Any) -> Any:
    return trees.promote(leaf) if is_floating(leaf) else leaf


class Momentum(NamedTuple):
    """An encoder that follows another slowly, and what it embedded (MoCo)."""

    params: Any  # of the slow encoder
    memory_x: Memory  # its embeddings of past x
    memory_y: Memory  # and of past y


def momentum_init(params: Any, size: int, dim: int, *, dtype: Any = jnp.float32) -> Momentum:
    """A slow encoder that begins as the fast one, and empty queues.

    Args:
      params: of the fast encoder; the slow one is kept in float32 at least, for in bfloat16 steps
        of a thousandth would be none. Leaves that are not floating, such as counts, are those of
        the fast one.
      size: M, of each queue.
      dim: D.
      dtype: of the embeddings.
    """
    slow = jax.tree.map(lambda leaf: jnp.copy(_wide(leaf)), params)
    return Momentum(slow, *(memory_init(size, dim, dtype=dtype) for _ in range(2)))


def momentum_update(
    momentum: Momentum,
    params: Any,
    keys_x: jax.Array,
    keys_y: jax.Array,
    ids: Any = None,
    valid: Any = None,
    *,
    decay: Any = 0.999,
    axis_name: Any = None,
) -> Momentum:
    r"""After a step: :math:`\theta_{slow}\leftarrow m\,\theta_{slow} + (1-m)\,\theta`; keys queued.

    Args:
      momentum: of :func:`momentum_init`.
      params: of the fast encoder, after its update.
      keys_x: ``(B, D)``, the x of the batch as the slow encoder embedded them.
      keys_y: ``(B, D)``, the y.
      ids: as in :func:`memory_push`.
      valid: likewise.
      decay: m in [0, 1].
      axis_name: as in :func:`memory_push`.

    Raises:
      ValueError: for a decay out of range, unless traced; and as :func:`memory_push`.

    Source:
      He et al., arXiv:1911.05722, Eq. 2 and Algorithm 1.
    """
    check_range("decay", decay, 0, 1)
    follow = lambda new, old: (
        optax.incremental_update(_wide(new), old, 1 - decay) if is_floating(new) else new
    )
    return Momentum(
        jax.tree.map(follow, params, momentum.params),
        *(
            _pushed(memory, name, keys, ids, valid, axis_name)
            for memory, name, keys in (
                (momentum.memory_x, "keys_x", keys_x),
                (momentum.memory_y, "keys_y", keys_y),
            )
        ),
    )
