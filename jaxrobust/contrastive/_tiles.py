"""A tile of the matrix of scores: some anchors by some candidates, and who is whose positive."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Items(NamedTuple):
    """What is known about the items of one side, besides their embeddings."""

    index: jax.Array  # (n,) int32: number in the whole batch, which decides ties
    ids: jax.Array  # (n,) int: two items with the same id are positives of each other
    valid: jax.Array  # (n,) bool: False for padding, which is neither anchor nor candidate
    # (n,): squared lengths of the item and its partner, where scores are roots of differences of
    # such squares; 0 otherwise.
    squares: jax.Array


class Tile(NamedTuple):
    """Scores of anchors (rows) and candidates (columns)."""

    scores: jax.Array  # (n, m): s_ij
    margins: jax.Array  # () or (n, m)
    positive_scores: jax.Array  # (n,): d_i, of an anchor and its own partner
    negative: jax.Array  # (n, m) bool: which candidates are negatives of the anchor
    positive: jax.Array  # (n, m) bool: which are positives, the own partner among them
    rows: jax.Array  # (n,) int32: numbers of the anchors
    columns: jax.Array  # (m,) int32: numbers of the candidates
    row_squares: jax.Array  # (n,): as in `Items`
    column_squares: jax.Array  # (m,)


def tile_of(
    scores: jax.Array,
    anchors: Items,
    candidates: Items,
    positive_scores: jax.Array,
    margins: jax.Array,
    mask: jax.Array | None,
    without_self: bool,
) -> Tile:
    """A tile from what is known of its rows and columns.

    ``mask (n, m)`` marks further positives; ``without_self`` takes an item out of its own
    candidates, for losses within one set.
    """
    there = anchors.valid[:, None] & candidates.valid[None, :]
    same = anchors.ids[:, None] == candidates.ids[None, :]
    if mask is not None:
        same = same | mask
    positive = there & same
    if without_self:
        positive &= anchors.index[:, None] != candidates.index[None, :]
    return Tile(
        scores, margins, positive_scores, there & ~same, positive, anchors.index, candidates.index,
        anchors.squares, candidates.squares,
    )  # fmt: skip


def transposed(tile: Tile, positive_scores: jax.Array) -> Tile:
    """The same tile with candidates as anchors, of which these are the scores with partners."""
    margins = tile.margins.T if jnp.ndim(tile.margins) else tile.margins
    return Tile(
        tile.scores.T,
        margins,
        positive_scores,
        tile.negative.T,
        tile.positive.T,
        tile.columns,
        tile.rows,
        tile.column_squares,
        tile.row_squares,
    )


def without_false_negatives(tile: Tile, most_above: jax.Array) -> Tile:
    """Without negatives whose score is above that of the partner by more than this.

    By more than rounding errors, too: whether a tie is left out must not depend on blocks. NaN is
    not left out, or it would be lost.
    """
    most = tile.positive_scores + most_above + rounding_of(tile.positive_scores, tile.row_squares)
    return tile._replace(negative=tile.negative & ~(tile.scores > most[:, None]))


def rounding_of(scores: jax.Array, squares: jax.Array) -> jax.Array:
    """By how much equal scores may differ that were summed in another order.

    A distance that is the root of a difference of squares has the error of these, which is most of
    it where embeddings are far from the middle and close to each other.
    """
    few = 16 * jnp.finfo(scores.dtype).eps
    return few * (1 + jnp.abs(scores)) + jnp.sqrt(scores**2 + few * squares) - jnp.abs(scores)
