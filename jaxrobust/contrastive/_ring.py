"""Passes over the scores of pairs that are spread over devices, with embeddings sent around a ring.

Every device compares its x with the y that visit it, and sends these on to the next one. With the
y travel their states as anchors, which are complete when they are home again: one pass serves both
directions. No device has more than its own part and that of the visitors, and their gradients.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import trees
from jaxrobust.contrastive import _passes as passes
from jaxrobust.contrastive import _picked as picked
from jaxrobust.contrastive._passes import Embedded, Known, Plan, Statistics
from jaxrobust.contrastive._similarity import Similarity
from jaxrobust.contrastive._tiles import Items


class Visitors(NamedTuple):
    """The y of another device."""

    y: jax.Array  # (n, D)
    positive_y: jax.Array  # (n,)
    items: Items


def values(
    axis_name: Any,
    plan: Plan,
    embedded: Embedded,
    known: Known,
    rows: Statistics,
    columns: Statistics,
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """As :func:`passes.values`, for the x and y of this device over the y and x of all."""
    embedded, known = trees.vary_alike((embedded, known))
    if not passes.have_sums(rows, columns):
        found = _states(axis_name, plan, jax.lax.stop_gradient(embedded), known, rows, columns)
        return passes.values_of(rows, found[0]), passes.values_of(columns, found[1])
    return _values(axis_name, plan, embedded, known, rows, columns)


def picked_scores(
    axis_name: Any,
    similarity: Similarity,
    anchors: jax.Array,
    candidates: jax.Array,
    columns: jax.Array,
) -> jax.Array:
    """As :func:`_picked.picked_scores`, of candidates that are spread, by their numbers in all.

    ``(n, k)`` columns give ``(n, k)``. Every device scores those that are among its visitors; the
    gradient is scored around the ring once more, and nothing of size ``(n, k, D)`` is kept.
    """
    anchors, candidates, columns = trees.vary_alike((anchors, candidates, columns))
    return _picked(axis_name, similarity, anchors, candidates, columns)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _picked(axis_name, similarity, anchors, candidates, columns):
    return _picked_forward(axis_name, similarity, anchors, candidates, columns)[0]


def _here(axis_name, columns, number, step):
    """Which columns are among the visitors of a hop, and their rows there."""
    size = jax.lax.axis_size(axis_name)
    local = columns - number * ((jax.lax.axis_index(axis_name) - step) % size)
    there = (local >= 0) & (local < number)
    return there, jnp.where(there, local, 0)


def _picked_forward(axis_name, similarity, anchors, candidates, columns):
    number = candidates.shape[0]

    def hop(state, step):
        visiting, found = state
        there, rows = _here(axis_name, columns, number, step)
        scores = picked.picked_scores(similarity, anchors, visiting, rows)
        return (_sent(axis_name, visiting), jnp.where(there, scores, found)), None

    shape = jax.eval_shape(
        functools.partial(picked.picked_scores, similarity), anchors, candidates, columns
    )
    nothing = trees.vary_like(jnp.zeros(shape.shape, shape.dtype), (anchors, candidates))
    hops = jnp.arange(jax.lax.axis_size(axis_name))
    (_, found), _ = jax.lax.scan(hop, (candidates, nothing), hops)
    return found, (anchors, candidates, columns)


def _picked_backward(axis_name, similarity, kept, cotangent):
    anchors, candidates, columns = kept
    number = candidates.shape[0]

    def hop(state, step):
        own, visiting, slopes = state
        there, rows = _here(axis_name, columns, number, step)
        of = lambda anchors, visiting: picked.picked_scores(similarity, anchors, visiting, rows)
        _, pull = jax.vjp(of, anchors, visiting)
        more, theirs = trees.promote(pull(jnp.where(there, cotangent, 0)))
        return (own + more, *_sent(axis_name, (visiting, slopes + theirs))), None

    zeros = jax.tree.map(jnp.zeros_like, trees.promote((anchors, candidates)))
    own, slopes = trees.vary_like(zeros, (kept, cotangent))
    hops = jnp.arange(jax.lax.axis_size(axis_name))
    (own, _, slopes), _ = jax.lax.scan(hop, (own, candidates, slopes), hops)
    return (*trees.cast_like((own, slopes), (anchors, candidates)), None)


_picked.defvjp(_picked_forward, _picked_backward)


def _sent(axis_name: Any, tree: Any) -> Any:
    """To the next device."""
    size = jax.lax.axis_size(axis_name)
    to_next = [(number, (number + 1) % size) for number in range(size)]
    return jax.tree.map(lambda leaf: jax.lax.ppermute(leaf, axis_name, to_next), tree)


def _with(embedded: Embedded, known: Known, visitors: Visitors) -> tuple[Embedded, Known]:
    """With the visitors for y."""
    there = embedded._replace(y=visitors.y, positive_y=visitors.positive_y)
    return there, known._replace(items_y=visitors.items)


def _states(axis_name, plan, embedded, known, rows, columns):
    """The states of every x over all y, and of every y over all x."""

    def of_visitors(visitors):
        return passes.states(plan, *_with(embedded, known, visitors), rows, columns)

    def hop(state, _):
        mine, visitors, theirs = state
        found, of_them = of_visitors(visitors)
        mine = passes.merged(rows, mine, found)
        theirs = passes.merged(columns, theirs, of_them)
        return (mine, *_sent(axis_name, (visitors, theirs))), None

    visitors = Visitors(embedded.y, embedded.positive_y, known.items_y)
    mine, theirs = of_visitors(visitors)
    state = (mine, *_sent(axis_name, (visitors, theirs)))
    hops = jax.lax.axis_size(axis_name) - 1
    mine, _, theirs = jax.lax.scan(hop, state, length=hops)[0]
    return mine, theirs


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _values(axis_name, plan, embedded, known, rows, columns):
    return _forward(axis_name, plan, embedded, known, rows, columns)[0]


def _forward(axis_name, plan, embedded, known, rows, columns):
    found = _states(axis_name, plan, embedded, known, rows, columns)
    values = passes.values_of(rows, found[0]), passes.values_of(columns, found[1])
    return values, (embedded, known, rows, columns, found)


def _backward(axis_name, plan, kept, cotangents):
    embedded, known, rows, columns, found = kept
    statistics = (rows, columns)

    def of_visitors(visitors, of_them):
        states, slopes = of_them
        here = _with(embedded, known, visitors)
        both = (found[0], states), (cotangents[0], slopes)
        own, dy = passes.pulled(plan, *here, statistics, *both)
        return own, trees.promote(dy)

    def hop(state, _):
        own, travelling, dy = state
        more, of_them = of_visitors(*travelling)
        own = jax.tree.map(jnp.add, own, more)
        return (own, *_sent(axis_name, (travelling, dy + of_them))), None

    visitors = Visitors(embedded.y, embedded.positive_y, known.items_y)
    travelling = (visitors, (found[1], cotangents[1]))
    own, dy = of_visitors(*travelling)
    state = (own, *_sent(axis_name, (travelling, dy)))
    hops = jax.lax.axis_size(axis_name) - 1
    own, _, dy = jax.lax.scan(hop, state, length=hops)[0]
    gradient = passes.gradient_of(own, dy, embedded, statistics, found, cotangents)
    return gradient, None, None, None


_values.defvjp(_forward, _backward)
