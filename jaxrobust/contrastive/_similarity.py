"""How alike two embeddings are: cosine, inner product, distance, order, or the user's own."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import trees

_HIGHEST = jax.lax.Precision.HIGHEST
_CHUNK = 8  # features of which differences of all pairs are formed at once


class Similarity(NamedTuple):
    """A similarity of embeddings ``x`` and ``y``, in the two ways that losses need it.

    The score of a pair may depend on these two embeddings alone. Scores may be in any precision:
    they are cast to float32, or wider; what is prepared is cast to the dtype of the embeddings.
    """

    # (x (n, D), y (m, D)) -> (n, m): scores of all pairs
    scores: Callable[[jax.Array, jax.Array], jax.Array]
    # (x (..., D), y (..., D)) -> (...): scores of given pairs
    pairs: Callable[[jax.Array, jax.Array], jax.Array]
    # (z (..., D)) -> (..., D): what is done to every embedding first, once
    prepare: Callable[[jax.Array], jax.Array]
    # Whether `scores` are roots of differences of squared lengths, less exact than `pairs`. They
    # must not change where all embeddings move alike: what these have in common is taken out first.
    of_differences: bool = False
    # Whether `scores` are inner products of embeddings of any length, which rounding grows with.
    of_products: bool = False


def normalized(z: jax.Array) -> jax.Array:
    r"""Rows of length 1, :math:`z/\|z\|`; zero rows stay zero, and their gradient is zero.

    Args:
      z: ``(..., D)`` floating. Computed in float32 at least, and scaled by the largest entry first,
        so that squares neither overflow nor underflow.

    Returns:
      ``(..., D)``, of the dtype of z.
    """
    return trees.cast_like(_normalized(trees.promote(z)), z)


def _normalized(z: jax.Array) -> jax.Array:
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(z), axis=-1, keepdims=True))
    there = largest != 0  # NaN is
    scaled = z / jnp.where(there, largest, 1)
    squares = jnp.sum(scaled**2, axis=-1, keepdims=True)
    # The root of zero has no derivative: there 1 is taken instead, for both branches.
    return jnp.where(there, scaled / jnp.sqrt(jnp.where(there, squares, 1)), 0)


def inner_products(x: jax.Array, y: jax.Array) -> jax.Array:
    """``x @ y.T``, in float32 at least."""
    dtype = trees.accumulator(jnp.result_type(x, y))
    return jnp.matmul(x, y.T, precision=_HIGHEST, preferred_element_type=dtype)


def _inner_product(x: jax.Array, y: jax.Array) -> jax.Array:
    dtype = trees.accumulator(jnp.result_type(x, y))
    return jnp.sum(x.astype(dtype) * y.astype(dtype), axis=-1)


def _unchanged(z: jax.Array) -> jax.Array:
    return z


DOT = Similarity(inner_products, _inner_product, _unchanged, of_products=True)
COSINE = DOT._replace(prepare=normalized, of_products=False)


def _euclidean_scores(x: jax.Array, y: jax.Array) -> jax.Array:
    dtype = trees.accumulator(jnp.result_type(x, y))
    x, y = (z.astype(dtype) for z in (x, y))
    squares = [jnp.sum(z**2, axis=-1) for z in (x, y)]
    between = squares[0][:, None] + squares[1][None, :] - 2 * inner_products(x, y)
    return _score_of(jax.nn.relu(between), False)


def _euclidean_pairs(x: jax.Array, y: jax.Array) -> jax.Array:
    dtype = trees.accumulator(jnp.result_type(x, y))
    return _score_of(jnp.sum((x.astype(dtype) - y.astype(dtype)) ** 2, axis=-1), False)


EUCLIDEAN = Similarity(_euclidean_scores, _euclidean_pairs, _unchanged, of_differences=True)


def order(*, squared: bool = False) -> Similarity:
    r"""Order embeddings: how far a caption y is from being below an image x, coordinate-wise.

    .. math:: s(x,y) = -\|\max(0, y-x)\|_2 \qquad\text{or, squared,}\qquad
              s(x,y) = -\sum_d\max(0, y_d-x_d)^2

    Not symmetric. At pairs without a violation the score is 0 and its gradient zero. The two forms
    need other margins: 0.05 goes with embeddings whose coordinates are made positive (``abs``), as
    Vendrov et al. do, 0.2 without.

    Args:
      squared: the square, as Vendrov et al. compute it; by default its root, as VSE++ does.

    Returns:
      :class:`Similarity`. Differences of all pairs are formed for some coordinates at a time.

    Source:
      Vendrov et al., arXiv:1511.06361; the root: code of Faghri et al., arXiv:1707.05612.
    """
    return _ORDER_SQUARED if squared else _ORDER


def _order_pairs(squared: bool, x: jax.Array, y: jax.Array) -> jax.Array:
    dtype = trees.accumulator(jnp.result_type(x, y))
    violations = jax.nn.relu(y.astype(dtype) - x.astype(dtype))
    return _score_of(jnp.sum(violations**2, axis=-1), squared)


def _order_scores(squared: bool, x: jax.Array, y: jax.Array) -> jax.Array:
    dtype = trees.accumulator(jnp.result_type(x, y))
    dim = x.shape[-1]
    missing = -dim % _CHUNK  # zeros in both: no violation
    parts = [
        jnp.moveaxis(jnp.pad(z.astype(dtype), ((0, 0), (0, missing))).reshape(
            z.shape[0], -1, _CHUNK), 1, 0)
        for z in (x, y)
    ]  # fmt: skip

    @jax.checkpoint  # for the gradient differences are formed again, not kept
    def add(total, part):
        a, b = part
        return total + jnp.sum(jax.nn.relu(b[None, :, :] - a[:, None, :]) ** 2, axis=-1), None

    # Zeros that vary over the devices that the embeddings vary over.
    start = 0 * (parts[0][0, :, :1] + parts[1][0, :, 0][None, :])
    return _score_of(jax.lax.scan(add, start, tuple(parts))[0], squared)


def _score_of(square: jax.Array, squared: bool) -> jax.Array:
    if squared:
        return -square
    there = square != 0  # the root of zero has no derivative; NaN is not lost
    return jnp.where(there, -jnp.sqrt(jnp.where(there, square, 1)), 0)


def _order(squared: bool) -> Similarity:
    return Similarity(
        functools.partial(_order_scores, squared),
        functools.partial(_order_pairs, squared),
        _unchanged,
    )


_ORDER, _ORDER_SQUARED = _order(False), _order(True)
_OURS = (DOT, COSINE, EUCLIDEAN, _ORDER, _ORDER_SQUARED)
NAMED = {"cosine": COSINE, "dot": DOT, "euclidean": EUCLIDEAN, "order": _ORDER}


def similarity_of(given: Any) -> Similarity:
    """What the user means: a name, a :class:`Similarity`, or a function of two matrices."""
    if isinstance(given, Similarity):
        try:
            return given if given in _OURS else _wide(given)
        except TypeError as error:
            raise TypeError(f"similarity must be hashable, got {given!r}") from error
    if isinstance(given, str) and given in NAMED:
        return NAMED[given]
    if callable(given):
        try:
            return _own(given)
        except TypeError as error:
            raise TypeError(f"similarity must be hashable, got {given!r}") from error
    raise ValueError(
        f"similarity must be one of {sorted(NAMED)}, a function (x (n, D), y (m, D)) -> (n, m), or "
        f"a Similarity; got {given!r}"
    )


@functools.lru_cache(maxsize=64)  # the same object for the same one: it is a static argument
def _wide(given: Similarity) -> Similarity:
    """With scores in float32 at least, as those of ours are."""
    widened = lambda function: lambda x, y: trees.promote(function(x, y))
    return given._replace(scores=widened(given.scores), pairs=widened(given.pairs))


@functools.lru_cache(maxsize=64)
def _own(function: Callable[[jax.Array, jax.Array], jax.Array]) -> Similarity:
    def pairs(x, y):
        x, y = jnp.broadcast_arrays(x, y)
        rows = [z.reshape(-1, 1, z.shape[-1]) for z in (x, y)]
        return jax.vmap(scores)(*rows).reshape(x.shape[:-1])

    def scores(x, y):
        found = function(x, y)
        if jnp.shape(found) != (x.shape[0], y.shape[0]):
            raise ValueError(
                f"similarity must return scores of shape ({x.shape[0]}, {y.shape[0]}) for "
                f"embeddings {x.shape} and {y.shape}, got {jnp.shape(found)}"
            )
        return trees.promote(found)

    return Similarity(scores, pairs, _unchanged)


def centering(
    similarity: Similarity, z: jax.Array, valid: jax.Array | None = None, axis_name: Any = None
) -> Callable[[jax.Array], jax.Array]:
    """Takes out what embeddings have in common, where scores are differences of their squares.

    Of distances that are small beside the embeddings such a difference has few digits left. It is
    the mean of valid ``z (n, D)`` on all devices, the same for all blocks, and without a gradient:
    distances do not depend on it. What comes out is float32 at least.
    """
    if not similarity.of_differences:
        return _unchanged
    wide = jax.lax.stop_gradient(trees.promote(z))
    there = jnp.ones_like(wide, shape=z.shape[:1]) if valid is None else valid.astype(wide.dtype)
    total = jnp.sum(jnp.where(there[:, None] != 0, wide, 0), axis=0)
    number = jnp.sum(there)
    if axis_name is not None:
        total, number = jax.lax.psum((total, number), axis_name)
    middle = total / jnp.maximum(number, 1)
    return lambda z: trees.promote(z) - middle[None, :]


class Lengths(NamedTuple):
    """What rounding of scores grows with, ``(n,)`` each, without a gradient."""

    # Squared lengths, of pairs the sums of them: where scores are roots of differences of such
    # squares; 0 otherwise.
    differences: jax.Array
    # Lengths, of pairs the products of them: where scores are inner products; 0 otherwise.
    products: jax.Array

    def of_pairs(self, other: "Lengths") -> "Lengths":
        """Of each item and another one."""
        return Lengths(self.differences + other.differences, self.products * other.products)


def lengths_of(similarity: Similarity, z: jax.Array) -> Lengths:
    """Of embeddings ``(n, D)``."""
    z = jax.lax.stop_gradient(trees.promote(z))
    nothing = jnp.zeros_like(z, shape=z.shape[:1])
    if not (similarity.of_differences or similarity.of_products):
        return Lengths(nothing, nothing)
    squares = jnp.sum(z**2, axis=-1)
    if similarity.of_differences:
        return Lengths(squares, nothing)
    return Lengths(nothing, jnp.sqrt(squares))


def prepared(similarity: Similarity, z: jax.Array) -> jax.Array:
    """Embeddings as the similarity wants them, computed in float32 at least, in their dtype."""
    return similarity.prepare(trees.promote(z)).astype(z.dtype)
