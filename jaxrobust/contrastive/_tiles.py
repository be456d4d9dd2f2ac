"""A tile of the matrix of scores: some anchors by some candidates, and who is whose positive."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.contrastive._similarity import Lengths


class Items(NamedTuple):
    """What is known about the items of one side, besides their embeddings."""

    index: jax.Array  # (n,) int32: number in the whole batch, which decides ties
    ids: jax.Array  # (n,) int: two items with the same id are positives of each other
    valid: jax.Array  # (n,) bool: False for padding, which is neither anchor nor candidate
    lengths: Lengths  # leaves (n,): of the item and its partner; within one set, of the item alone


class Tile(NamedTuple):
    """Scores of anchors (rows) and candidates (columns)."""

    scores: jax.Array  # (n, m): s_ij
    margins: jax.Array  # () or (n, m)
    positive_scores: jax.Array  # (n,): d_i, of an anchor and its own partner
    negative: jax.Array  # (n, m) bool: which candidates are negatives of the anchor
    positive: jax.Array  # (n, m) bool: which are positives, the own partner among them
    rows: jax.Array  # (n,) int32: numbers of the anchors
    columns: jax.Array  # (m,) int32: numbers of the candidates
    row_lengths: Lengths  # leaves (n,): as in `Items`
    column_lengths: Lengths  # leaves (m,)


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
        anchors.lengths, candidates.lengths,
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
        tile.column_lengths,
        tile.row_lengths,
    )


def without_false_negatives(tile: Tile, most_above: jax.Array) -> Tile:
    """Without negatives whose score is above that of the partner by more than this.

    By more than rounding errors, too: whether a tie is left out must not depend on blocks. NaN is
    not left out, or it would be lost.
    """
    most = tile.positive_scores + most_above + rounding_of(tile.positive_scores, tile.row_lengths)
    return tile._replace(negative=tile.negative & ~(tile.scores > most[:, None]))


def rounding_of(scores: jax.Array, lengths: Lengths) -> jax.Array:
    """By how much equal scores may differ that were summed in another order.

    A distance that is the root of a difference of squares has the error of these, which is most of
    it where embeddings are far from the middle and close to each other. An inner product has that
    of the product of the lengths.
    """
    few, size = 16 * jnp.finfo(scores.dtype).eps, jnp.abs(scores)
    of_root = jnp.sqrt(scores**2 + few * lengths.differences) - size
    return few * (1 + size + lengths.products) + of_root
