"""A batch of pairs as all losses see it: on one device or on many, with a memory or without."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.contrastive import _pairs as pairs
from jaxrobust.contrastive import _passes as passes
from jaxrobust.contrastive import _ring as ring
from jaxrobust.contrastive._checks import check_choice, check_range
from jaxrobust.contrastive._passes import Embedded, Known, Plan, Statistics
from jaxrobust.contrastive._picked import picked_both_ways, picked_scores
from jaxrobust.contrastive._queue import Memory, no_id
from jaxrobust.contrastive._similarity import (
    Similarity,
    centering,
    lengths_of,
    prepared,
    similarity_of,
)
from jaxrobust.contrastive._tiles import Items

Directions = Literal["both", "x_to_y", "y_to_x"]
DIRECTIONS = ("both", "x_to_y", "y_to_x")
Communication = Literal["gather", "ring"]
COMMUNICATIONS = ("gather", "ring")


class Side(NamedTuple):
    """The anchors of one direction, and the candidates that they are compared with."""

    anchors: jax.Array  # (n, D), not prepared
    candidates: jax.Array  # (m, D), not prepared; with a ring those of this device
    number: int  # of all candidates, also where they are elsewhere
    own: jax.Array  # (n,) int32: which candidates are their partners
    partners: jax.Array  # (n,): scores of the anchors with these
    items: Items  # (n,): the anchors
    others: Items  # (m,): the candidates
    margins: jax.Array  # () or (n, m)
    mask: jax.Array | None  # (n, m) bool: further positives
    similarity: Similarity  # of anchors and candidates, in this order


class Batch(NamedTuple):
    """Checked arguments of a loss of pairs."""

    sides: tuple[Side, ...]  # x with candidates y, and y with candidates x, as far as wanted
    square: tuple[Embedded, Known] | None  # both sides at once, where they have the same scores
    plan: Plan
    scale: jax.Array  # (): scores are scale * similarity + bias
    bias: jax.Array  # ()
    valid: jax.Array  # (n,) bool: those of this device
    weights: jax.Array | None  # (n,)
    axis_name: Any
    directions: Directions
    most_above: jax.Array | None  # (), see `Known`
    has_ring: bool  # whether candidates are sent around, instead of brought together
    has_positives: bool  # whether anchors may have others than their partners

    def statistics(self, wanted: Statistics) -> list[tuple[Any, ...]]:
        """Values of statistics for the anchors of each side."""
        if self.square is not None and self.has_ring:
            of_each = [
                wanted if self.directions in ("both", name) else () for name in DIRECTIONS[1:]
            ]
            found = ring.values(self.axis_name, self.plan, *self.square, *of_each)
            return [part for part, of in zip(found, of_each, strict=True) if of]
        if self.square is not None:
            found = passes.values(self.plan, *self.square, wanted, wanted)
            return list(found)
        return [self._one_way(side, wanted) for side in self.sides]

    def _one_way(self, side: Side, wanted: Statistics) -> tuple[Any, ...]:
        plan = self.plan._replace(similarity=side.similarity)
        anchors, candidates = (
            prepared(side.similarity, z) for z in (side.anchors, side.candidates)
        )
        nothing = jnp.zeros_like(side.partners, shape=side.candidates.shape[0])
        embedded = Embedded(anchors, candidates, side.partners, nothing, self.scale, self.bias)
        known = Known(side.items, side.others, side.margins, side.mask, self.most_above)
        return passes.values(plan, embedded, known, wanted, ())[0]

    def again(self, columns: list[jax.Array]) -> list[jax.Array]:
        """Scores ``(n, k)`` of the anchors of each side with candidates, with their gradient.

        The first column is that of the partners.
        """
        if self.has_ring:
            found = [
                self._scores_around(side, of) for side, of in zip(self.sides, columns, strict=True)
            ]
        elif self.square is not None:
            side = self.sides[0]
            found = picked_both_ways(side.similarity, side.anchors, side.candidates, *columns)
        else:
            found = [
                picked_scores(side.similarity, side.anchors, side.candidates, of)
                for side, of in zip(self.sides, columns, strict=True)
            ]
        return [self.scale * part + self.bias for part in found]

    def _scores_around(self, side: Side, columns: jax.Array) -> jax.Array:
        """The same where candidates are elsewhere, but for the partner, the first column."""
        rows = jnp.arange(len(side.anchors), dtype=jnp.int32)[:, None]
        own = picked_scores(side.similarity, side.anchors, side.candidates, rows)
        if columns.shape[1] == 1:
            return own
        arrays = side.anchors, side.candidates, columns[:, 1:]
        others = ring.picked_scores(self.axis_name, side.similarity, *arrays)
        return jnp.concatenate([own, others], axis=1)

    def sum(self, of_anchors: jax.Array) -> jax.Array:
        """Over all anchors, on all devices."""
        total = jnp.sum(of_anchors)
        return total if self.axis_name is None else jax.lax.psum(total, self.axis_name)

    def num_pairs(self) -> jax.Array:
        """Valid pairs, at least 1."""
        return jnp.maximum(self.sum(self.valid), 1)


def batch_of(
    x: Any,
    y: Any,
    *,
    similarity: Any,
    positives: Any,
    valid: Any,
    weights: Any = None,
    margin: Any = 0.0,
    scale: Any = 1.0,
    bias: Any = 0.0,
    directions: Directions = "both",
    memory_x: Memory | None = None,
    memory_y: Memory | None = None,
    block_size: Any = None,
    axis_name: Any = None,
    communication: Communication = "gather",
    most_above: Any = None,
    keep_scores: bool = True,
) -> Batch:
    """Checks the arguments of a loss of pairs; ``keep_scores``: see `chosen_block_size`."""
    x, y = pairs.check_embeddings("x", x, valid), pairs.check_embeddings("y", y, valid)
    pairs.check_alike(x, y)
    check_choice("directions", directions, DIRECTIONS)
    has_ring = check_communication(communication, axis_name)
    is_plain = memory_x is None and memory_y is None and axis_name is None
    # Before the sizes of matrices are looked at: there is none that would do.
    _check_spread(is_plain, axis_name, margin, positives)
    _check_ring(has_ring, memory_x, memory_y)
    _check_memories(directions, memory_x, memory_y, x.shape[1])
    similarity = similarity_of(similarity)
    number = len(x)
    num_all = number if axis_name is None else number * jax.lax.axis_size(axis_name)
    known = pairs.check_positives(positives, x, num_all)
    has_ids = positives is not None and known.mask is None
    weights = pairs.check_weights(weights, valid, number)
    valid = pairs.check_valid("valid", valid, number)
    margins = pairs.check_margin(margin, number)

    centered = centering(similarity, x, valid, axis_name)
    x, y = centered(x), centered(y)
    memory_x, memory_y = (
        memory and memory._replace(embeddings=centered(memory.embeddings))
        for memory in (memory_x, memory_y)
    )
    own = jnp.arange(number, dtype=jnp.int32)
    raw = picked_scores(similarity, x, y, own[:, None])[:, 0]
    scale = jnp.asarray(pairs.check_number("scale", scale), raw.dtype)
    bias = jnp.asarray(pairs.check_number("bias", bias), raw.dtype)
    lengths = lengths_of(similarity, x).of_pairs(lengths_of(similarity, y))
    lengths = jax.tree.map(lambda leaf: leaf.astype(raw.dtype), lengths)
    items = Items(own, known.ids, valid, lengths)
    if axis_name is not None:
        items = numbered_on_all(items, axis_name, has_ids)
    mask = None if known.mask is None else known.mask | (own[:, None] == own[None, :])
    if most_above is not None:
        check_range("ignore_above", most_above, 0, None)
        most_above = jax.lax.stop_gradient(jnp.asarray(most_above, raw.dtype))
    both = _Both(scale * raw + bias, items, margins.astype(raw.dtype), mask, similarity)

    sides = _sides(directions, x, y, both, memory_x, memory_y, has_ids, axis_name, has_ring)
    square = None
    if has_ring or (is_plain and directions == "both"):
        unit_x, unit_y = (prepared(similarity, z) for z in (x, y))
        embedded = Embedded(unit_x, unit_y, both.partners, both.partners, scale, bias)
        square = embedded, Known(items, items, both.margins, mask, most_above)
    block_size = pairs.check_block_size(block_size)
    if block_size is None:
        most = max(len(side.candidates) for side in sides)  # with a ring those of one device
        block_size = passes.chosen_block_size(number, most, keep_scores)
    return Batch(
        sides, square, Plan(similarity, block_size), scale, bias, valid,
        weights, axis_name, directions, most_above, has_ring,
        positives is not None,
    )  # fmt: skip


def check_communication(communication: str, axis_name: Any) -> bool:
    """Whether candidates are sent around a ring."""
    check_choice("communication", communication, COMMUNICATIONS)
    if communication == "ring" and axis_name is None:
        raise ValueError(
            "communication='ring' needs axis_name, or embeddings that are sharded over explicit "
            "mesh axes: here nothing is known of several devices"
        )
    return communication == "ring"


def _check_ring(has_ring: bool, memory_x: Memory | None, memory_y: Memory | None) -> None:
    if not has_ring:
        return
    for name, memory in (("memory_x", memory_x), ("memory_y", memory_y)):
        if memory is not None:
            raise ValueError(f"{name} must be None with communication='ring': use 'gather'")


def _check_memories(
    directions: str, memory_x: Memory | None, memory_y: Memory | None, dim: int
) -> None:
    """Nobody may give a memory that no anchor sees, or of other embeddings."""
    for name, memory in (("memory_x", memory_x), ("memory_y", memory_y)):
        if memory is not None and memory.embeddings.shape[1] != dim:
            raise ValueError(
                f"{name} must have embeddings of {dim} numbers as the batch has, got "
                f"{memory.embeddings.shape[1]}"
            )
    for name, memory, used in (("memory_x", memory_x, "y_to_x"), ("memory_y", memory_y, "x_to_y")):
        if memory is not None and directions not in ("both", used):
            raise ValueError(f"{name} must be None with directions={directions!r}: nobody sees it")


def _check_spread(is_plain: bool, axis_name: Any, margins: Any, positives: Any) -> None:
    """Of matrices there is only the part of the batch itself, on one device."""
    if not is_plain and jnp.ndim(margins):
        raise ValueError(
            "margin must be a number with a memory, or where pairs are spread over devices"
        )
    if axis_name is not None and positives is not None and jnp.ndim(positives) == 2:
        raise ValueError("positives must be ids, not a mask, where pairs are spread over devices")


def numbered_on_all(items: Items, axis_name: Any, has_ids: bool) -> Items:
    """With numbers that differ between devices; and ids, where they are these numbers."""
    start = len(items.index) * jax.lax.axis_index(axis_name)
    ids = items.ids if has_ids else items.ids + start
    return items._replace(index=items.index + start, ids=ids)


class _Both(NamedTuple):
    """What both sides have in common, as x sees it."""

    partners: jax.Array  # (n,): scores of pairs
    items: Items
    margins: jax.Array  # () or (n, n)
    mask: jax.Array | None  # (n, n)
    similarity: Similarity

    def flipped(self) -> "_Both":
        """As y sees it."""
        scores, of_pairs = _Flipped(self.similarity.scores), _FlippedPairs(self.similarity.pairs)
        return self._replace(
            margins=self.margins.T,
            mask=None if self.mask is None else self.mask.T,
            similarity=self.similarity._replace(scores=scores, pairs=of_pairs),
        )


def _sides(
    directions: Directions, x: jax.Array, y: jax.Array, both: _Both, memory_x: Memory | None,
    memory_y: Memory | None, has_ids: bool, axis_name: Any, has_ring: bool,
) -> tuple[Side, ...]:  # fmt: skip
    """Those directions that are wanted."""
    gathered = None if has_ring else axis_name
    sides = []
    if directions != "y_to_x":
        sides.append(_side(x, y, both, memory_y, has_ids, gathered))
    if directions != "x_to_y":
        sides.append(_side(y, x, both.flipped(), memory_x, has_ids, gathered))
    if has_ring:
        number = len(x) * jax.lax.axis_size(axis_name)
        sides = [side._replace(number=number) for side in sides]
    return tuple(sides)


def _side(
    anchors: jax.Array, candidates: jax.Array, both: _Both, memory: Memory | None, has_ids: bool,
    gathered: Any,
) -> Side:  # fmt: skip
    """One direction; with the candidates of all devices along ``gathered``, and a memory."""
    among, mask = both.items, both.mask
    if gathered is not None:
        gather = lambda leaf: jax.lax.all_gather(leaf, gathered, tiled=True)
        candidates, among = jax.tree.map(gather, (candidates, among))
    if memory is not None:
        before = len(candidates)
        candidates, among = _with_memory(candidates, among, memory, has_ids)
        if mask is not None:
            mask = jnp.pad(mask, ((0, 0), (0, len(candidates) - before)))
    return Side(
        anchors, candidates, len(candidates), both.items.index, both.partners, both.items, among,
        both.margins, mask, both.similarity,
    )  # fmt: skip


def _with_memory(candidates, items: Items, memory: Memory, has_ids: bool):
    """The candidates, and behind them what is remembered, which has no gradient."""
    size = len(memory.embeddings)
    numbers = jnp.arange(size, dtype=jnp.int32)
    # What is not valid may hold anything, as padding may.
    old = jnp.where(memory.valid[:, None], jax.lax.stop_gradient(memory.embeddings), 1)
    # Without ids nothing that is remembered belongs to an item of the batch.
    ids = memory.ids if has_ids else jnp.full(size, no_id())
    # Rows of the batch are 0 or more, and ids of users above this.
    nothing = jax.tree.map(lambda leaf: jnp.zeros_like(leaf, shape=size), items.lengths)
    more = Items(len(candidates) + numbers, ids, memory.valid, nothing)
    join = lambda a, b: jnp.concatenate([a, b.astype(a.dtype)])
    return join(candidates, old), jax.tree.map(join, items, more)


class _Flipped(NamedTuple):
    """Scores with the sides exchanged; equal to another of the same scores, for it is static."""

    scores: Any

    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
        return self.scores(b, a).T


class _FlippedPairs(NamedTuple):
    """The same for scores of pairs."""

    pairs: Any

    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
        return self.pairs(b, a)
