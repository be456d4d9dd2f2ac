"""A draw of several processes: each takes its own rows of it."""

import jax

from jaxrobust.sampling._checks import check_count
from jaxrobust.sampling._sampler import Draw


def shard(draw: Draw, shard_index: int | None = None, num_shards: int | None = None) -> Draw:
    """The rows of a draw that one of several processes loads.

    Every process draws the same global batch, from the same key, and takes its rows: so the draw
    does not depend on the number of processes, and all rows of the shards one after the other are
    the global draw. The mean of the shards' weighted mean gradients is that of the whole.

    Args:
      draw: of a sampler, B examples.
      shard_index: in 0..num_shards-1; None for ``jax.process_index()``.
      num_shards: a divisor of B; None for ``jax.process_count()``.

    Returns:
      :class:`Draw` of ``B / num_shards`` examples.

    Raises:
      ValueError: if B is not a multiple of ``num_shards``, or an index is out of range.
    """
    shards = jax.process_count() if num_shards is None else check_count("num_shards", num_shards)
    index = jax.process_index() if shard_index is None else shard_index
    size = draw.indices.shape[0]
    if size % shards:
        raise ValueError(f"num_shards must divide the batch size {size}, got {shards}")
    if not 0 <= index < shards:
        raise ValueError(f"shard_index must be in 0..{shards - 1}, got {index}")
    rows = slice(index * (size // shards), (index + 1) * (size // shards))
    return Draw(draw.indices[rows], draw.weights[rows])
