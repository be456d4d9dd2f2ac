"""Scores of picked pairs: of anchors with partners, and with the candidates that were mined."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust import trees
from jaxrobust.contrastive._similarity import Similarity, prepared

# Anchors whose pairs are looked at in one go. The rows of their candidates are gathered, and their
# gradients scattered, without arrays of the size of the batch. Rows of such a chunk are prepared as
# they are gathered; where one is all there is, once, as for the matrix of scores, and not for every
# pair: at 1024 pairs that is a fifth of the time of a loss.
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
    given = similarity, x, y, of_x, of_y
    if _is_one_chunk(x, y):
        similarity, x, y = _ready(similarity), prepared(similarity, x), prepared(similarity, y)
    found = (
        _one_way(functools.partial(_of_chunk, similarity, False), x, y, of_x),
        _one_way(functools.partial(_of_chunk, similarity, True), y, x, of_y),
    )
    return found, given[1:]


def _is_one_chunk(x, y):
    return max(x.shape[0], y.shape[0]) <= _CHUNK


def _ready(similarity: Similarity) -> Similarity:
    """Of embeddings that are prepared."""
    return similarity._replace(prepare=lambda z: z)


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


def _of_chunk(similarity: Similarity, flip: bool, anchors: jax.Array, rows: jax.Array) -> jax.Array:
    """Scores ``(n, k)`` of anchors ``(n, D)`` with rows ``(n, k, D)``."""
    pair = prepared(similarity, anchors)[:, None, :], prepared(similarity, rows)
    return similarity.pairs(*(pair[::-1] if flip else pair))


def _backward(similarity, kept, cotangents):
    x, y, _, _ = kept
    if _is_one_chunk(x, y):
        wide, pull = jax.vjp(lambda pair: _prepared_wide(similarity, pair), trees.promote((x, y)))
        # As they were compared, rounded; but their gradient is not, on its way.
        rows = trees.promote(trees.cast_like(wide, (x, y)))
        (slopes,) = pull(_slopes(_ready(similarity), rows[0], rows[1], kept, cotangents))
    else:
        slopes = _slopes(similarity, x, y, kept, cotangents)
    return (*trees.cast_like(slopes, (x, y)), None, None)


def _prepared_wide(similarity, pair):
    return trees.cast_like(jax.tree.map(similarity.prepare, pair), pair)


def _slopes(similarity, x, y, kept, cotangents):
    """The gradients by x and y, in float32 at least: of bfloat16 sums would lose what is small."""
    zeros = jax.tree.map(jnp.zeros_like, trees.promote((x, y)))
    slopes = trees.vary_like(zeros, (kept, cotangents))
    slopes = _add_one_way(similarity, False, slopes, x, y, kept[2], cotangents[0])
    return _add_one_way(similarity, True, slopes[::-1], y, x, kept[3], cotangents[1])[::-1]


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
        # What the last chunk sees again counts nothing.
        new = start + jnp.arange(len(picked)) >= chunk * len(picked)
        slope = jnp.where(new[:, None], at(cotangent), 0)
        own, others = pull(slope.astype(scores.dtype))
        first, second = slopes
        first = jax.lax.dynamic_update_slice_in_dim(first, at(first) + own, start, 0)
        flat = others.reshape(-1, others.shape[-1])
        return first, second.at[picked.reshape(-1)].add(flat.astype(second.dtype))

    return _for_chunks(number, add, slopes)


_scores.defvjp(_forward, _backward)
