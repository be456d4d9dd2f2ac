"""Batches are row numbers: the data stay where they are, and a step gathers what it needs.

An epoch has a fixed shape, (num_batches, batch_size), so a jitted step compiles once and a whole
epoch can be one ``lax.scan``. Of the ways to treat a last batch that is not full, padding with a
mask is the only one that keeps both that shape and every example.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.data import _checks


class EpochBatches(NamedTuple):
    """One epoch of batches; scan over it, or index its first axis."""

    indices: jax.Array  # (num_batches, batch_size) int32: rows of the data set
    mask: jax.Array  # (num_batches, batch_size) bool: False where a row is padding


def epoch_batches(
    key: jax.Array, num_examples: int, batch_size: int, *, drop_remainder: bool = False
) -> EpochBatches:
    """One epoch: a random permutation of all examples, cut into batches of one static shape.

    Pure; runs under ``jit`` (sizes static) and ``vmap`` over keys. The mean loss of a batch is
    ``sum(mask * losses) / sum(mask)``. When num_examples is not a multiple of batch_size:

    ====================  ====================================================================
    drop_remainder        last batch
    ====================  ====================================================================
    False (default)       filled up with rows from the start of the permutation, mask False
                          there; each example has mask True exactly once
    True                  left out: ``num_examples % batch_size`` examples, other ones each
                          key, are not visited; mask is True everywhere
    ====================  ====================================================================

    Args:
      key: a JAX random key (new style or raw uint32); for epoch e use ``fold_in(key, e)``.
      num_examples: 1..2**30.
      batch_size: 1..num_examples.
      drop_remainder: see the table.

    Returns:
      Row numbers and mask, (num_batches, batch_size) each; num_batches is num_examples / batch_size
      rounded up, or down with ``drop_remainder``. They are replicated; to gather from rows that are
      sharded over a mesh with Explicit axes, pass ``out_sharding`` to ``x.at[indices].get``.

    Raises:
      ValueError: if a size is outside its range.
      TypeError: if a size is not a static whole number.
    """
    num_examples, batch_size = _sizes(num_examples, batch_size)
    num_batches = num_examples // batch_size
    if not drop_remainder:
        num_batches = -(-num_examples // batch_size)
    order = jax.random.permutation(key, num_examples).astype(jnp.int32)
    shape, total = (num_batches, batch_size), num_batches * batch_size
    # Padding is at most batch_size - 1 < num_examples rows, so one repetition is enough.
    indices = jnp.concatenate([order, order[: max(total - num_examples, 0)]])[:total]
    mask = jnp.arange(total, dtype=jnp.int32) < num_examples
    return EpochBatches(indices.reshape(shape), mask.reshape(shape))


def batches(
    key: jax.Array,
    num_examples: int,
    batch_size: int,
    *,
    num_epochs: int | None = 1,
    start_epoch: int = 0,
    drop_remainder: bool = False,
) -> Iterator[jax.Array]:
    """Row numbers batch by batch, for a plain Python loop; the last batch of an epoch may be short.

    Epoch e is a function of (key, e) alone, :func:`epoch_batches` of ``fold_in(key, e)`` without
    its padding, so a run resumed at ``start_epoch=e`` sees what the first run would have seen. A
    jitted step compiles a second time for a short batch; ``epoch_batches`` avoids that.

    Args:
      key: a JAX random key.
      num_examples: 1..2**30.
      batch_size: 1..num_examples.
      num_epochs: how many epochs, at least 0; None means without end.
      start_epoch: number of the first epoch, at least 0.
      drop_remainder: whether to leave a short last batch out (nothing is left out by default).

    Returns:
      Iterator over int32 arrays (batch_size,). The last one of an epoch is shorter, (num_examples %
      batch_size,), if that is not 0 and ``drop_remainder`` is False.

    Raises:
      ValueError: if a number is outside its range; at the call, not at the first batch.
      TypeError: if a number is not whole.
    """
    _sizes(num_examples, batch_size)
    start = _checks.whole("start_epoch", start_epoch, 0)
    stop = None if num_epochs is None else start + _checks.whole("num_epochs", num_epochs, 0)
    return _generate(key, num_examples, batch_size, start, stop, drop_remainder)


def _generate(
    key: jax.Array, num_examples: int, batch_size: int, epoch: int, stop: int | None, drop: bool
) -> Iterator[jax.Array]:
    while stop is None or epoch < stop:
        epoch_key = jax.random.fold_in(key, epoch)
        rows, _ = epoch_batches(epoch_key, num_examples, batch_size, drop_remainder=drop)
        for number, indices in enumerate(rows):
            yield indices[: num_examples - number * batch_size]
        epoch += 1


def _sizes(num_examples: int, batch_size: int) -> tuple[int, int]:
    num_examples = _checks.whole("num_examples", num_examples, 1, 2**30)
    return num_examples, _checks.whole("batch_size", batch_size, 1, num_examples)
