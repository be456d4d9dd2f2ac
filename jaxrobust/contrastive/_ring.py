"""Passes over the scores of pairs that are spread over devices, with embeddings sent around a ring.

Every device compares its x with the y that visit it, and sends these on to the next one. With the
y travel their states as anchors, which are complete when they are home again: one pass serves both
directions, and no device ever has more than two parts of the y.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import trees
from jaxrobust.contrastive import _passes as passes
from jaxrobust.contrastive._passes import Embedded, Known, Plan, Statistics
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


def rows_of(axis_name: Any, array: jax.Array, numbers: jax.Array) -> jax.Array:
    """Rows of an array that is spread over devices, ``(n, D)`` each, by their numbers in all.

    ``(m, k)`` numbers give ``(m, k, D)``. The gradient travels back around the ring.
    """
    size, number = jax.lax.axis_size(axis_name), array.shape[0]
    array, numbers = trees.vary_alike((array, numbers))
    here = jax.lax.axis_index(axis_name)
    found = jnp.zeros_like(array, shape=(*numbers.shape, array.shape[1]))

    def hop(state, step):
        visiting, found = state
        local = numbers - number * ((here - step) % size)
        there = (local >= 0) & (local < number)
        rows = visiting[jnp.where(there, local, 0)]
        found = jnp.where(there[..., None], rows, found)
        return (_sent(axis_name, visiting), found), None

    (_, found), _ = jax.lax.scan(hop, (array, found), jnp.arange(size))
    return found


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
