"""Sketches that are exact for what gradients have in common with those of some examples."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import trees
from jaxrobust.per_example._backward import run
from jaxrobust.per_example._cost import cost_of_gradient, shapes_of, trace_shapes
from jaxrobust.per_example._plan import EXPAND_BYTES
from jaxrobust.per_example._products import (
    Others,
    cost_of_products,
    inner_products,
    keep,
    keep_chunks,
)
from jaxrobust.per_example._sketches import sketch
from jaxrobust.per_example._trace import LossFn, trace

_HIGHEST = jax.lax.Precision.HIGHEST
# Gradients of the landmarks that are formed take at most this for one part of a leaf.
_ROOM = 4 * EXPAND_BYTES
# The batches that the form of the landmarks is chosen for.
_TYPICAL_BATCH = 128


class Landmarks(NamedTuple):
    """What is kept of M landmark examples, at some params."""

    others: Others  # their gradients, in a form for inner products
    used: jax.Array  # (M,) bool: which have finite gradients; the others are no landmarks
    to_coordinates: jax.Array  # (M, M): from inner products to coordinates in their span
    sketched: jax.Array  # (M, dim - M): the random sketch of each coordinate direction


class LandmarkSketches(NamedTuple):
    """What :func:`landmark_sketches` returns: two pure functions."""

    # (params, examples) -> Landmarks
    prepare: Callable[[Any, Any], Landmarks]
    # (params, batch, landmarks) -> (B, dim)
    sketch: Callable[[Any, Any, Landmarks], jax.Array]


def landmark_sketches(loss_fn: LossFn, *, key: jax.Array, dim: int) -> LandmarkSketches:
    r"""Sketches as of :func:`sketches`, exact within the span of the gradients of M examples.

    Gradients of different examples have much in common. With P the orthogonal projection onto the
    span of the gradients :math:`l_1..l_M` of M *landmark* examples, a sketch is

    .. math:: s_i = \big(c_i,\; S(g_i - P g_i)\big), \qquad
              \langle c_i, c_j\rangle = \langle P g_i, P g_j\rangle,

    with the M coordinates :math:`c_i` of :math:`Pg_i`, from the exact inner products
    :math:`\langle g_i, l_m\rangle`, and S the random map of :func:`sketches` to ``dim - M``
    numbers for the rest. Given the landmarks it is unbiased,
    :math:`\mathbb E\langle s_i,s_j\rangle=\langle g_i,g_j\rangle`, and its variance is that of
    :func:`sketches` for :math:`g-Pg` alone: zero where the landmarks span all gradients, as with
    all examples for landmarks, or copies of them.

    Args:
      loss_fn: ``loss_fn(params, example) -> ()``, the loss of one example.
      key: PRNG key of S.
      dim: length of a sketch, at least the number of landmarks.

    Returns:
      Two functions. ``prepare(params, examples)`` with M landmark examples, a pytree of arrays
      ``(M, ...)``, gives :class:`Landmarks`, a pytree; ``sketch(params, batch, landmarks)``, at the
      same params, gives ``(B, dim)``, float32 at least. Only sketches of the same landmarks may be
      compared. Beside a pass over the landmarks it costs M inner products per example: for a dense
      layer, M times the sum of its two sizes; a layer with many positions, as a convolution, has
      its gradients formed, one example's at a time or as many as there is room for, and M of them
      kept. Leaves without factors (see :func:`explain`) keep those of all landmarks.

      Directions of the span along which the landmarks have less than ``M * eps`` of the squares
      that they have along the largest are left to S, so that coordinates have relative errors of
      about ``sqrt(eps)`` at most.
      Landmarks whose gradients are not finite count as if they were not there.

    Raises:
      ValueError: if ``dim`` is not a positive integer or less than M; at the call, as
        :func:`norms`.
      TypeError: at the call, as :func:`norms`.

    Source:
      The coordinates are Nyström features of the gradient kernel (Williams and Seeger, 2000); the
      random sketch of what they leave, which makes them unbiased, is this library's.
    """
    dim = trees.check_count("dim", dim)

    def prepare(params: Any, examples: Any) -> Landmarks:
        traced = trace(loss_fn, params, examples, has_aux=False)
        if traced.batch_size > dim:
            raise ValueError(
                f"dim must be at least the number of landmarks, {traced.batch_size}, got {dim}"
            )
        done = run(traced)
        others = keep(traced, done, _TYPICAL_BATCH, _ROOM)
        others.whole.update(keep_chunks(traced))
        gram = trees.bring_together(inner_products(traced, done, others))
        gram = jnp.broadcast_to(gram, [traced.batch_size] * 2)
        used = jnp.isfinite(jnp.diagonal(gram))
        to_coordinates = _whiten(jnp.where(used[:, None] & used[None, :], gram, 0))
        if traced.batch_size == dim:
            return Landmarks(others, used, to_coordinates, jnp.zeros((dim, 0), gram.dtype))
        random = sketch(traced, done, key, dim - traced.batch_size)
        random = trees.bring_together(jnp.where(used[:, None], random, 0))
        sketched = jnp.matmul(to_coordinates.T, random, precision=_HIGHEST)
        return Landmarks(others, used, to_coordinates, sketched)

    def of_batch(params: Any, batch: Any, landmarks: Landmarks) -> jax.Array:
        traced = trace(loss_fn, params, batch, has_aux=False)
        done = run(traced)
        products = inner_products(traced, done, landmarks.others)
        number = landmarks.to_coordinates.shape[0]
        products = jnp.broadcast_to(products, (traced.batch_size, number))
        products = jnp.where(landmarks.used[None, :], products, 0)
        inside = jnp.matmul(products, landmarks.to_coordinates, precision=_HIGHEST)
        if number == dim:
            return inside
        random = sketch(traced, done, key, dim - number)
        rest = random - jnp.matmul(inside, landmarks.sketched, precision=_HIGHEST)
        return jnp.concatenate([inside, rest], axis=1)

    return LandmarkSketches(prepare, of_batch)


def _whiten(gram: jax.Array) -> jax.Array:
    """W with ``W W^T`` the pseudo-inverse of a Gram matrix: ``W^T`` of products is coordinates."""
    values, vectors = jnp.linalg.eigh((gram + gram.T) / 2)
    # Smaller ones are rounding errors of the larger.
    least = gram.shape[0] * jnp.finfo(gram.dtype).eps * jnp.maximum(values[-1], 0)
    kept = values > least
    scale = jnp.where(kept, 1 / jnp.sqrt(jnp.where(kept, values, 1)), 0)
    return vectors * scale[None, :]


def landmarks_pay(loss_fn: LossFn, params: Any, batch: Any, number: int) -> bool:
    """Whether inner products with so many landmarks cost less than a plain gradient.

    In multiply-adds, the gradient being three times all products with weights. It looks once per
    loss function and shapes, and may be asked of arrays that are traced.

    Args:
      loss_fn: ``loss_fn(params, example) -> ()``, the loss of one example.
      params: pytree of floating arrays.
      batch: pytree of arrays ``(B, ...)``; B does not matter.
      number: of landmarks.
    """
    return _pay(loss_fn, *shapes_of(params, batch), number)


@functools.lru_cache(maxsize=256)
def _pay(loss_fn: LossFn, structure: Any, types: Any, number: int) -> bool:
    traced = trace_shapes(loss_fn, structure, types)
    return cost_of_products(traced, number, _ROOM) <= cost_of_gradient(traced)
