"""Scores of picked pairs: of anchors with partners, and with the candidates that were mined."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust import trees
from jaxrobust.contrastive._similarity import Similarity, prepared

# Anchors whose pairs are looked at in one go. The rows of their candidates are gathered, and their
# gradients scattered, without arrays of the size of the batch.
_CHUNK = 1024


def picked_scores(
    similarity: Similarity, anchors: jax.Array, candidates: jax.Array, columns: jax.Array
) -> jax.Array:
    """Similarities ``(n, k)`` of anchors with the candidates ``columns (n, k)``.

    Of embeddings that are not prepared yet. It takes ``n k D`` operations, also for the gradient,
    where that through the matrix of scores would take ``n m D``.
    """
    nothing = jnp.zeros((candidates.shape[0], 0), columns.dtype)
    return picked_both_ways(similarity, anchors, candidates, columns, nothing)[0]


def picked_both_ways(
    similarity: Similarity, x: jax.Array, y: jax.Array, of_x: jax.Array, of_y: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Those of the x with the y that are ``of_x (n, k)``, and of the y with the x ``of_y (m, l)``.

    Together, for their gradients are then summed in one pair of arrays.
    """
    # Inside of `shard_map`: one that all devices share has a gradient that is a sum over them.
    x, y = trees.vary_alike((x, y))
    return _scores(similarity, x, y, of_x, of_y)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scores(similarity: Similarity, x, y, of_x, of_y):
    return _forward(similarity, x, y, of_x, of_y)[0]


def _forward(similarity, x, y, of_x, of_y):
    # Once, as for the matrix of scores (XLA keeps one of the two), and not for every picked row.
    unit_x, unit_y = prepared(similarity, x), prepared(similarity, y)
    found = (
        _one_way(functools.partial(_of_chunk, similarity, False), unit_x, unit_y, of_x),
        _one_way(functools.partial(_of_chunk, similarity, True), unit_y, unit_x, of_y),
    )
    return found, (x, y, of_x, of_y)


def _one_way(of, anchors, candidates, columns):
    number = anchors.shape[0]
    if number <= _CHUNK or columns.shape[1] == 0:
        return of(anchors, candidates[columns])

    def put(chunk, found):
        at, start = _chunk(chunk, number)
        scores = of(at(anchors), candidates[at(columns)])
        return jax.lax.dynamic_update_slice_in_dim(found, scores, start, 0)

    dtype = jax.eval_shape(of, anchors[:1], candidates[columns[:1]]).dtype
    nothing = trees.vary_like(jnp.zeros(columns.shape, dtype), (anchors, candidates, columns))
    return _for_chunks(number, put, nothing)


def _for_chunks(number: int, body: Callable[[Any, Any], Any], state: Any) -> Any:
    """``body(chunk, state)`` of all chunks of so many rows."""
    if number <= _CHUNK:
        return body(0, state)
    return jax.lax.fori_loop(0, -(-number // _CHUNK), body, state)


def _chunk(chunk, number):
    """Slices of some rows, and where they begin: the last ones early enough to be as many."""
    size = min(_CHUNK, number)
    start = jnp.minimum(chunk * size, number - size)
    return lambda array: jax.lax.dynamic_slice_in_dim(array, start, size), start


def _new(chunk, start, size):
    """``(size,)`` bool: False for rows of the last chunk that the one before it had already."""
    return start + jnp.arange(size) >= chunk * size


def _of_chunk(similarity: Similarity, flip: bool, anchors: jax.Array, rows: jax.Array) -> jax.Array:
    """Scores ``(n, k)`` of anchors ``(n, D)`` with rows ``(n, k, D)``, both prepared."""
    pair = anchors[:, None, :], rows
    return similarity.pairs(*(pair[::-1] if flip else pair))


def _backward(similarity, kept, cotangents):
    x, y, of_x, of_y = kept
    # Gradients of prepared embeddings are summed, in float32 at least: of bfloat16 the sums would
    # lose what is small. Those of the embeddings themselves are formed once, in the end.
    unit_x, unit_y = (trees.promote(prepared(similarity, z)) for z in (x, y))
    zeros = jax.tree.map(jnp.zeros_like, (unit_x, unit_y))
    slopes = trees.vary_like(zeros, (kept, cotangents))
    slopes = _add_one_way(similarity, False, slopes, unit_x, unit_y, of_x, cotangents[0])
    slopes = _add_one_way(similarity, True, slopes[::-1], unit_y, unit_x, of_y, cotangents[1])[::-1]
    slopes = [_unprepared(similarity, z, of_z) for z, of_z in zip((x, y), slopes, strict=True)]
    return (*trees.cast_like(slopes, [x, y]), None, None)


def _unprepared(similarity: Similarity, z: jax.Array, slopes: jax.Array) -> jax.Array:
    """The gradient by embeddings, of that by prepared ones, which it replaces."""
    number = z.shape[0]

    def put(chunk, slopes):
        at, start = _chunk(chunk, number)
        # Differentiated where they are wide: the gradient is not rounded on its way.
        ready = at(slopes)
        of = lambda rows: similarity.prepare(rows).astype(ready.dtype)
        _, pull = jax.vjp(of, trees.promote(at(z)))
        rows = jnp.where(_new(chunk, start, len(ready))[:, None], pull(ready)[0], ready)
        return jax.lax.dynamic_update_slice_in_dim(slopes, rows, start, 0)

    return _for_chunks(number, put, slopes)


def _add_one_way(similarity, flip, slopes, anchors, candidates, columns, cotangent):
    """The gradients by anchors and candidates, with those of one direction."""
    number = anchors.shape[0]
    if columns.shape[1] == 0:
        return slopes

    def add(chunk, slopes):
        at, start = _chunk(chunk, number)
        picked = at(columns)
        of = functools.partial(_of_chunk, similarity, flip)
        scores, pull = jax.vjp(of, at(anchors), candidates[picked])
        slope = jnp.where(_new(chunk, start, len(picked))[:, None], at(cotangent), 0)
        own, others = pull(slope.astype(scores.dtype))
        first, second = slopes
        first = jax.lax.dynamic_update_slice_in_dim(first, at(first) + own, start, 0)
        flat = others.reshape(-1, others.shape[-1])
        return first, second.at[picked.reshape(-1)].add(flat)

    return _for_chunks(number, add, slopes)


_scores.defvjp(_forward, _backward)
