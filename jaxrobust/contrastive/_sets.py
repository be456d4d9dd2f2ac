"""A batch of items with labels, which are compared with each other, on one device or on many."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.contrastive import _pairs as pairs
from jaxrobust.contrastive import _passes as passes
from jaxrobust.contrastive import _ring as ring
from jaxrobust.contrastive._batch import Communication, check_communication, numbered_on_all
from jaxrobust.contrastive._passes import Embedded, Known, Plan, Statistics
from jaxrobust.contrastive._picked import picked_scores
from jaxrobust.contrastive._similarity import (
    Similarity,
    centering,
    lengths_of,
    prepared,
    similarity_of,
)
from jaxrobust.contrastive._tiles import Items


class Set(NamedTuple):
    """Checked arguments of a loss within one set: anchors, and all items as their candidates."""

    anchors: jax.Array  # (n, D), not prepared; those of this device
    candidates: jax.Array  # (m, D), not prepared; with a ring those of this device
    number: int  # of all items, also where they are elsewhere
    embedded: Embedded
    known: Known
    plan: Plan
    axis_name: Any
    has_ring: bool

    def statistics(self, wanted: Statistics) -> tuple[Any, ...]:
        """Values of statistics for every anchor."""
        if self.has_ring:
            return ring.values(
                self.axis_name, self.plan, self.embedded, self.known, wanted, ()
            )[0]  # fmt: skip
        return passes.values(self.plan, self.embedded, self.known, wanted, ())[0]

    def scores(self, columns: jax.Array) -> jax.Array:
        """Those of the anchors with items by number, ``(n, k)``, with their gradient."""
        arrays = self.anchors, self.candidates, jnp.clip(columns, 0, self.number - 1)
        if self.has_ring:
            return ring.picked_scores(self.axis_name, self.plan.similarity, *arrays)
        return picked_scores(self.plan.similarity, *arrays)

    def sum(self, of_anchors: jax.Array) -> jax.Array:
        """Over all anchors, on all devices."""
        total = jnp.sum(of_anchors)
        return total if self.axis_name is None else jax.lax.psum(total, self.axis_name)


def set_of(
    z: Any,
    labels: Any,
    *,
    similarity: Any,
    valid: Any,
    keep_scores: bool,
    margin: Any = 0.0,
    scale: Any = 1.0,
    block_size: Any = None,
    axis_name: Any = None,
    communication: Communication = "gather",
) -> Set:
    """Checks the arguments of a loss within one set; ``keep_scores``: see `chosen_block_size`."""
    z = pairs.check_embeddings("z", z, valid)
    labels = pairs.check_labels("labels", labels, len(z))
    valid = pairs.check_valid("valid", valid, len(z))
    if jnp.ndim(margin):
        raise ValueError(f"margin must be a number, got shape {jnp.shape(margin)}")
    has_ring = check_communication(communication, axis_name)
    similarity = similarity_of(similarity)
    z = centering(similarity, z, valid, axis_name)(z)
    lengths = lengths_of(similarity, z)
    items = Items(jnp.arange(len(z), dtype=jnp.int32), labels, valid, lengths)
    candidates, others, number = z, items, len(z)
    if axis_name is not None:
        number *= jax.lax.axis_size(axis_name)
        items = others = numbered_on_all(items, axis_name, has_ids=True)
        if not has_ring:
            gather = lambda leaf: jax.lax.all_gather(leaf, axis_name, tiled=True)
            candidates, others = jax.tree.map(gather, (z, items))
    size = pairs.check_block_size(block_size)
    if size is None:
        size = passes.chosen_block_size(len(z), len(candidates), keep_scores)
    embedded = _embedded(similarity, z, candidates, scale)
    margins = pairs.check_margin(margin, len(z)).astype(embedded.positive_x.dtype)
    known = Known(items, others, margins, None)
    plan = Plan(similarity, size, without_self=True)
    return Set(z, candidates, number, embedded, known, plan, axis_name, has_ring)


def _embedded(similarity: Similarity, z: jax.Array, candidates: jax.Array, scale: Any) -> Embedded:
    x = prepared(similarity, z)
    y = x if candidates is z else prepared(similarity, candidates)
    dtype = jax.eval_shape(similarity.pairs, x, x).dtype
    nobody = lambda of: jnp.zeros_like(of, dtype, shape=len(of))  # a set has no partners
    return Embedded(x, y, nobody(x), nobody(y), jnp.asarray(scale, dtype), jnp.asarray(0.0, dtype))
