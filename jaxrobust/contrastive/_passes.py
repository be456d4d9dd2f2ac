"""Passes over the matrix of scores: all at once, or block by block of its columns.

Both directions are served by one pass. A block has all anchors ``x`` and some candidates ``y``: for
``x`` it is one tile of several, whose states are merged; for the candidates as anchors it is all
there is. Memory is that of one block, and of the states; for the gradient the blocks are formed
once more.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import trees
from jaxrobust.contrastive._similarity import Similarity
from jaxrobust.contrastive._statistics import Statistic
from jaxrobust.contrastive._tiles import (
    Items,
    Tile,
    tile_of,
    transposed,
    without_false_negatives,
)

Statistics = tuple[Statistic, ...]


class Embedded(NamedTuple):
    """What the scores are functions of: all that has a gradient."""

    x: jax.Array  # (n, D)
    y: jax.Array  # (m, D)
    positive_x: jax.Array  # (n,): scores of the x with their own partners
    positive_y: jax.Array  # (m,)
    scale: jax.Array  # (): scores are scale * similarity + bias
    bias: jax.Array  # ()


class Known(NamedTuple):
    """What is known besides."""

    items_x: Items
    items_y: Items
    margins: jax.Array  # () or (n, m)
    mask: jax.Array | None  # (n, m) bool: further positives
    # (): by how much a negative may be more similar than the partner, or it is left out; None: any.
    most_above: jax.Array | None = None


class Plan(NamedTuple):
    """How it is done; static."""

    similarity: Similarity
    block_size: int | None  # columns of a block; None for all
    without_self: bool = False


# Entries of the matrix of scores that are kept for the gradient rather than formed again: 64 MiB.
_MOST_ENTRIES = 2**24
# Entries of a block, so that it stays in the cache of a CPU, or keeps an accelerator busy (16 MiB).
_BLOCK_ENTRIES = {"cpu": 2**18}
_OTHER_BLOCK_ENTRIES = 2**22


def chosen_block_size(num_anchors: int, num_candidates: int, keep_scores: bool) -> int:
    """Columns of a block where the user does not care: as fast as can be, in little memory.

    Picked candidates need no score twice, so blocks cost nothing. For sums all scores may be kept
    for the gradient as long as they are few: that saves forming them again, but costs more passes
    over memory.
    """
    if keep_scores and num_anchors * num_candidates <= _MOST_ENTRIES:
        return num_candidates
    entries = _BLOCK_ENTRIES.get(jax.default_backend(), _OTHER_BLOCK_ENTRIES)
    columns = max(32, entries // num_anchors)
    return min(num_candidates, 1 << (columns.bit_length() - 1))


def states(
    plan: Plan, embedded: Embedded, known: Known, rows: Statistics, columns: Statistics
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The states of statistics for every x over the y, and for every y over the x.

    Their gradient, where it is asked for, is that of every step: :func:`reduced` has a better one.
    """
    blocks = _blocks(plan, embedded)

    def of_block(number):
        block = _block_at(blocks, number, embedded, known)
        raw = plan.similarity.scores(embedded.x, block.y)
        tile, other = _tiles_of_block(plan, embedded, block, raw)
        return (
            tuple(statistic.of_tile(tile) for statistic in rows),
            tuple(statistic.of_tile(other) for statistic in columns),
        )

    return _over_blocks(blocks, of_block, functools.partial(merged, rows))


def merged(statistics: Statistics, a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    """The states over two sets of candidates together."""
    return tuple(r.merge(x, y) for r, x, y in zip(statistics, a, b, strict=True))


def have_sums(*statistics: Statistics) -> bool:
    """Whether any value has a gradient."""
    return any(one.is_sum for of in statistics for one in of)


def values(
    plan: Plan, embedded: Embedded, known: Known, rows: Statistics, columns: Statistics
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The values of statistics for every x over the y, and for every y over the x.

    Those of sums have their gradient; what is picked has none, see :func:`picked_scores`.
    """
    # Inside of `shard_map`: numbers that all devices share have a gradient that is a sum over them.
    embedded = trees.vary_alike(embedded)
    if not have_sums(rows, columns):
        found = states(plan, jax.lax.stop_gradient(embedded), known, rows, columns)
        return values_of(rows, found[0]), values_of(columns, found[1])
    return reduced(plan, embedded, known, rows, columns)


def reduced(
    plan: Plan, embedded: Embedded, known: Known, rows: Statistics, columns: Statistics
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """Values of statistics that are sums of functions of single scores, with their gradient."""
    if plan.block_size is None or plan.block_size >= embedded.y.shape[0]:
        raw = plan.similarity.scores(embedded.x, embedded.y)
        scores = embedded.scale * raw + embedded.bias
        partners = (embedded.positive_x, embedded.positive_y)
        return _reduced_scores(plan.without_self, scores, partners, known, rows, columns)
    return _reduced_blocks(plan, embedded, known, rows, columns)


# All at once: the scores are kept for the gradient ------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _reduced_scores(without_self, scores, partners, known, rows, columns):
    return _scores_forward(without_self, scores, partners, known, rows, columns)[0]


def _scores_forward(without_self, scores, partners, known, rows, columns):
    tiles = _tiles(without_self, scores, partners, known)
    found = [
        tuple(statistic.of_tile(tile) for statistic in statistics)
        for statistics, tile in zip((rows, columns), tiles, strict=True)
    ]
    values = values_of(rows, found[0]), values_of(columns, found[1])
    return values, (scores, partners, known, rows, columns, found)


def _scores_backward(without_self, kept, cotangents):
    scores, partners, known, rows, columns, found = kept
    tiles = _tiles(without_self, scores, partners, known)
    pulled = _pull_tile(tiles, (rows, columns), found, cotangents)
    positives = tuple(
        _pull_positive(statistics, state, cotangent, partner)
        for statistics, state, cotangent, partner in zip(
            (rows, columns), found, cotangents, partners, strict=True
        )
    )
    return pulled.astype(scores.dtype), positives, None, None, None


_reduced_scores.defvjp(_scores_forward, _scores_backward)


# Block by block -----------------------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _reduced_blocks(plan, embedded, known, rows, columns):
    return _blocks_forward(plan, embedded, known, rows, columns)[0]


def _blocks_forward(plan, embedded, known, rows, columns):
    found = states(plan, embedded, known, rows, columns)
    values = values_of(rows, found[0]), values_of(columns, found[1])
    return values, (embedded, known, rows, columns, found)


def _blocks_backward(plan, kept, cotangents):
    embedded, known, rows, columns, found = kept
    own, dy = pulled(plan, embedded, known, (rows, columns), found, cotangents)
    return gradient_of(own, dy, embedded, (rows, columns), found, cotangents), None, None, None


_reduced_blocks.defvjp(_blocks_forward, _blocks_backward)


def pulled(
    plan: Plan,
    embedded: Embedded,
    known: Known,
    statistics: tuple[Statistics, Statistics],
    found: Any,
    cotangents: Any,
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], jax.Array]:
    """The gradient by x, scale and bias, and that by y, of scores that are formed once more.

    ``found`` and ``cotangents`` are those of the values over all candidates, of which ``y`` may be
    a part.
    """
    blocks = _blocks(plan, embedded)

    def of_block(number):
        block = _block_at(blocks, number, embedded, known)
        raw, pull_scores = jax.vjp(plan.similarity.scores, embedded.x, block.y)
        tiles = _tiles_of_block(plan, embedded, block, raw)
        at = functools.partial(blocks.rows, number)
        of_block = [(part[0], jax.tree.map(at, part[1])) for part in (found, cotangents)]
        slopes = _pull_tile(tiles, statistics, *of_block)
        dx, dy = pull_scores((slopes * embedded.scale).astype(raw.dtype))
        return (trees.promote(dx), jnp.sum(slopes * raw), jnp.sum(slopes)), dy

    add = lambda a, b: jax.tree.map(jnp.add, a, b)
    return _over_blocks(blocks, of_block, add)


def gradient_of(own, dy, embedded: Embedded, statistics, found, cotangents) -> Embedded:
    """All of it, in the dtypes of what it is the gradient of."""
    dx, dscale, dbias = own
    positive_x, positive_y = (
        _pull_positive(of, state, cotangent, partner)
        for of, state, cotangent, partner in zip(
            statistics, found, cotangents, (embedded.positive_x, embedded.positive_y), strict=True
        )
    )
    gradient = Embedded(dx, dy, positive_x, positive_y, dscale, dbias)
    return jax.tree.map(lambda g, e: g.astype(e.dtype), gradient, embedded)


class _Blocks(NamedTuple):
    """Columns in blocks of one size. The last block ends with them, and may begin before its own.

    So nothing has to be filled up, which would take a copy of all that is known of pairs.
    """

    num_columns: int
    size: int

    @property
    def number(self) -> int:
        """Of blocks."""
        return -(-self.num_columns // self.size)

    def rows(self, number: Any, array: jax.Array) -> jax.Array:
        """Those of a block, of an array that has one for each column."""
        start = jnp.minimum(number * self.size, self.num_columns - self.size)
        return jax.lax.dynamic_slice_in_dim(array, start, self.size)

    def is_own(self, number: Any) -> jax.Array:
        """``(size,)`` bool: False for columns that the block before has already."""
        missing = jnp.maximum((number + 1) * self.size - self.num_columns, 0)
        return jnp.arange(self.size) >= missing


def _blocks(plan: Plan, embedded: Embedded) -> _Blocks:
    number = embedded.y.shape[0]
    return _Blocks(number, min(plan.block_size or number, number))


def _over_blocks(
    blocks: _Blocks, of_block: Callable[[Any], tuple[Any, Any]], merge: Callable[[Any, Any], Any]
) -> tuple[Any, Any]:
    """``of_block(number)`` of all blocks: first results merged, second ones one after the other."""
    total, first = of_block(0)
    if blocks.number == 1:
        return total, first

    def step(total, number):
        found, kept = of_block(number)
        return merge(total, found), kept

    total, others = jax.lax.scan(step, total, jnp.arange(1, blocks.number, dtype=jnp.int32))
    twice = blocks.number * blocks.size - blocks.num_columns

    def join(a, b):
        return jnp.concatenate([a, b[:-1].reshape(-1, *b.shape[2:]), b[-1, twice:]])

    return total, jax.tree.map(join, first, others)


def by_blocks(of_block: Callable[[Any], Any], rows: Any, size: int) -> Any:
    """``of_block`` of so many rows at a time: from leaves ``(size, ...)`` to ``(size, ...)``.

    The last block is filled up with ones, whose results are left out.
    """
    number = jax.tree.leaves(rows)[0].shape[0]
    blocks = -(-number // size)
    if blocks == 1:
        return of_block(rows)

    def stacked(leaf):
        widths = ((0, blocks * size - number),) + ((0, 0),) * (leaf.ndim - 1)
        filled = jnp.pad(leaf, widths, constant_values=1)
        return filled.reshape(blocks, size, *leaf.shape[1:])

    found = jax.lax.map(of_block, jax.tree.map(stacked, rows))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:number], found)


class _Block(NamedTuple):
    """Some of the columns, and what is known about them."""

    y: jax.Array
    positive_y: jax.Array
    known: Known


def _block_at(blocks: _Blocks, number: Any, embedded: Embedded, known: Known) -> _Block:
    at = functools.partial(blocks.rows, number)
    items_y, y, positive_y = jax.tree.map(at, (known.items_y, embedded.y, embedded.positive_y))
    items_y = items_y._replace(valid=items_y.valid & blocks.is_own(number))
    across = lambda array: at(array.T).T if jnp.ndim(array) else array
    mask = None if known.mask is None else across(known.mask)
    margins = across(known.margins)
    return _Block(y, positive_y, known._replace(items_y=items_y, margins=margins, mask=mask))


def _tiles_of_block(plan: Plan, embedded: Embedded, block: _Block, raw: jax.Array):
    """The tile of a block of columns, in both directions."""
    scores = embedded.scale * raw + embedded.bias
    partners = (embedded.positive_x, block.positive_y)
    return _tiles(plan.without_self, scores, partners, block.known)


# Tiles and their gradients ------------------------------------------------------------------------


def _tiles(without_self, scores, partners, known: Known) -> tuple[Tile, Tile]:
    tile = tile_of(
        scores, known.items_x, known.items_y, partners[0], known.margins, known.mask, without_self
    )
    other = transposed(tile, partners[1])
    most_above = known.most_above
    if most_above is None:
        return tile, other
    return without_false_negatives(tile, most_above), without_false_negatives(other, most_above)


def values_of(statistics: Statistics, found: tuple[Any, ...]) -> tuple[jax.Array, ...]:
    """What losses see of the states."""
    return tuple(r.value(state) for r, state in zip(statistics, found, strict=True))


def _pull_tile(tiles, statistics, found, cotangents) -> jax.Array:
    """The gradient of a tile of scores, from both directions."""
    total = jnp.zeros_like(tiles[0].scores)
    for direction in (0, 1):
        for statistic, state, cotangent in zip(
            statistics[direction], found[direction], cotangents[direction], strict=True
        ):
            pulled = statistic.pull(tiles[direction], state, cotangent)
            if pulled is not None:
                total = total + (pulled.T if direction else pulled)
    return total


def _pull_positive(statistics, found, cotangents, partner) -> jax.Array:
    total = jnp.zeros_like(partner)
    for statistic, state, cotangent in zip(statistics, found, cotangents, strict=True):
        pulled = statistic.pull_positive(state, cotangent)
        total = total if pulled is None else total + pulled
    return total
