"""Scores of picked pairs: of anchors with partners, and with the candidates that were mined."""

import functools

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
    return _scores(similarity, x, y, of_x, of_y)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scores(similarity: Similarity, x, y, of_x, of_y):
    return _forward(similarity, x, y, of_x, of_y)[0]


def _forward(similarity, x, y, of_x, of_y):
    found = (
        _one_way(functools.partial(_of_chunk, similarity, False), x, y, of_x),
        _one_way(functools.partial(_of_chunk, similarity, True), y, x, of_y),
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
    return jax.lax.fori_loop(0, -(-number // _CHUNK), put, nothing)


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
    x, y, of_x, of_y = kept
    # Of bfloat16 the sums would lose what is small.
    zeros = jax.tree.map(jnp.zeros_like, trees.promote((x, y)))
    slopes = trees.vary_like(zeros, (kept, cotangents))
    slopes = _add_one_way(similarity, False, slopes, x, y, of_x, cotangents[0])
    slopes = _add_one_way(similarity, True, slopes[::-1], y, x, of_y, cotangents[1])[::-1]
    return (*trees.cast_like(slopes, (x, y)), None, None)


def _add_one_way(similarity, flip, slopes, anchors, candidates, columns, cotangent):
    """The gradients by anchors and candidates, with those of one direction."""
    number = anchors.shape[0]
    size = min(_CHUNK, number)
    if columns.shape[1] == 0:
        return slopes

    def add(chunk, slopes):
        at, start = _chunk(chunk, number)  # what the last one sees again counts nothing
        new = start + jnp.arange(size) >= chunk * size
        picked = at(columns)
        of = functools.partial(_of_chunk, similarity, flip)
        _, pull = jax.vjp(of, at(anchors), candidates[picked])
        own, others = pull(jnp.where(new[:, None], at(cotangent), 0))
        first, second = slopes
        first = jax.lax.dynamic_update_slice_in_dim(first, at(first) + own, start, 0)
        flat = others.reshape(-1, others.shape[-1])
        return first, second.at[picked.reshape(-1)].add(flat.astype(second.dtype))

    if number == size:
        return add(0, slopes)
    return jax.lax.fori_loop(0, -(-number // size), add, slopes)


_scores.defvjp(_forward, _backward)
