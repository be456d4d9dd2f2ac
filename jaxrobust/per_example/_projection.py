"""Random matrices that project the factors of gradients, and thereby the gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

_HIGHEST = jax.lax.Precision.HIGHEST


@dataclasses.dataclass(frozen=True)
class Shape:
    """A sketch of ``blocks * rank**2`` numbers: P^T G Q for as many blocks of P, Q of that rank.

    The rows of G are ``(taps, channels)`` of a convolution, or all channels of one tap. A column of
    P is zero but at the rows of few taps: the columns of a block share the taps, or the taps share
    the columns, whichever are more.
    """

    blocks: int
    rank: int
    num_taps: int = 1

    @property
    def width(self) -> int:
        """Columns of all blocks of P together."""
        return self.blocks * self.rank

    @property
    def num_pairs(self) -> int:
        """Pairs of a tap and a column that looks at it, in one block."""
        return max(self.rank, self.num_taps)

    def pixel_cost(self, num_pixels: float) -> float:
        """Multiply-adds per channel of P^T a, if pixels are projected before windows are made."""
        return num_pixels * self.blocks * self.num_pairs

    def window_cost(self, num_positions: int) -> int:
        """Multiply-adds per channel of P^T a, if windows are projected."""
        return num_positions * self.num_taps * self.width

    @property
    def columns_per_tap(self) -> int:
        """Columns that look at a tap, at least."""
        return max(1, self.rank // self.num_taps)


@dataclasses.dataclass(frozen=True)
class RowMatrices:
    """P, one matrix ``(taps * channels, width)`` for each block of the gradient, scaled.

    Only the entries that may differ from zero are kept. With at least as many columns as taps the
    pairs are the columns, in groups by tap; otherwise they are the taps, and tap k has column
    ``k % rank``.
    """

    entries: jax.Array  # (blocks of the gradient, channels, blocks of the sketch, pairs)
    shape: Shape

    @property
    def pairs_by_tap(self) -> list[slice]:
        """Which pairs belong to each tap."""
        edges = _edges(self.shape)
        return [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]

    def dense(self) -> jax.Array:
        """``(blocks, taps * channels, width)``, zeros and all."""
        blocks, channels = self.entries.shape[:2]
        taps, rank = self.shape.num_taps, self.shape.rank
        looks = np.zeros((taps, rank), np.float32)  # which columns look at which taps
        for tap, pairs in enumerate(self.pairs_by_tap):
            looks[tap, [pair % rank for pair in range(pairs.start, pairs.stop)]] = 1.0
        if taps <= rank:
            spread = self.entries[:, None]
        else:
            spread = jnp.moveaxis(self.entries, -1, 1)[..., None]
        dense = spread * looks[None, :, None, None, :]
        return dense.reshape(blocks, taps * channels, self.shape.width)

    def of_part(self, blocks: np.ndarray, rows: np.ndarray) -> "RowMatrices":
        """P for some of the blocks and rows of the gradient; of a convolution for all rows."""
        entries = _taken(self.entries, blocks, axis=0)
        rows_are_channels = self.shape.num_taps == 1
        return RowMatrices(
            _taken(entries, rows, axis=1) if rows_are_channels else entries, self.shape
        )

    def of_rows(self, rows: jax.Array, dtype) -> jax.Array:
        """``rows (blocks, positions, taps * channels)`` times the matrices."""
        return jnp.einsum(
            "gti,gik->gtk", rows, self.dense(), precision=_HIGHEST, preferred_element_type=dtype
        )

    def of_channels(self, pixels: jax.Array, dtype) -> jax.Array:
        """``pixels (blocks, positions, channels)`` for all pairs: ``(..., blocks, pairs)``."""
        return jnp.einsum(
            "gtc,gcbp->gtbp", pixels, self.entries, precision=_HIGHEST, preferred_element_type=dtype
        )

    def join_pairs(self, found: jax.Array) -> jax.Array:
        """From ``(..., blocks, pairs)``, each moved by its tap, to ``(..., width)``."""
        rank, pairs = self.shape.rank, self.shape.num_pairs
        if pairs > rank:
            missing = -pairs % rank
            found = jnp.pad(found, ((0, 0),) * (found.ndim - 1) + ((0, missing),))
            found = found.reshape(*found.shape[:-1], -1, rank).sum(axis=-2)
        return found.reshape(*found.shape[:-2], self.shape.width)


def num_signs(blocks: int, rows: int, columns: int, shape: Shape) -> int:
    """How many random signs P and Q are made of."""
    channels = rows // shape.num_taps
    return blocks * channels * shape.blocks * shape.num_pairs + columns * shape.width


def matrices(
    signs: jax.Array, blocks: int, rows: int, columns: int, shape: Shape
) -> tuple[RowMatrices, jax.Array]:
    """P, and Q ``(columns, width)``, with E P P^T kron Q Q^T = identity."""
    channels = rows // shape.num_taps
    count = signs.size - columns * shape.width
    # Each tap counts as often as columns look at it; the other divisors are those of the mean over
    # blocks and over the columns of Q.
    by_tap = np.diff(_edges(shape))
    scale = 1 / np.sqrt(np.repeat(by_tap, by_tap) * (shape.blocks * shape.rank))
    entries = signs[:count].reshape(blocks, channels, shape.blocks, shape.num_pairs)
    entries = entries * scale.astype(signs.dtype)[None, None, None, :]
    return RowMatrices(entries, shape), signs[count:].reshape(columns, shape.width)


def _edges(shape: Shape) -> list[int]:
    """Where the pairs of each tap begin and end."""
    if shape.rank < shape.num_taps:
        return list(range(shape.num_taps + 1))
    return [tap * shape.rank // shape.num_taps for tap in range(shape.num_taps + 1)]


def part_of_columns(right: jax.Array, columns: np.ndarray) -> jax.Array:
    """Q for some of the columns of the gradient."""
    return _taken(right, columns, axis=0)


def _taken(array: jax.Array, numbers: np.ndarray, axis: int) -> jax.Array:
    if np.array_equal(numbers, np.arange(array.shape[axis])):
        return array
    return jnp.take(array, numbers, axis=axis)


def signs_from(words: jax.Array, size: int, dtype=jnp.float32) -> jax.Array:
    """Random signs ``(size,)`` from the bits of random words."""
    bits = (words[:, None] >> jnp.arange(32, dtype=jnp.uint32)[None, :]) & 1
    return (1 - 2 * bits.astype(dtype)).reshape(-1)[:size]
