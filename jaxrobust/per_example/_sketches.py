"""Random sketches of per-example gradients, from the factors of the gradients."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust import trees
from jaxrobust.per_example import _algebra
from jaxrobust.per_example._backward import Pass, factors_of, map_chunks, recorded, run
from jaxrobust.per_example._batching import map_examples, reduce_examples
from jaxrobust.per_example._frames import Frame, frames_of
from jaxrobust.per_example._norms import sum_of_groups
from jaxrobust.per_example._projection import (
    RowMatrices,
    Shape,
    matrices,
    num_signs,
    part_of_columns,
    signs_from,
)
from jaxrobust.per_example._trace import LossFn, Traced, trace
from jaxrobust.per_example._uses import Factors, Sizes, Use

_HIGHEST = jax.lax.Precision.HIGHEST
# What the projections of a leaf may cost, in multiply-adds per position: relative to its own size,
# and to the size of all leaves together. A convolution shares its weights among so many positions
# that it would be the most of the cost if it might use as much of the latter.
_OWN_BUDGET = {"dot": 0.35, "lookup": 0.35, "conv": 0.2}
_COMMON_BUDGET = {"dot": 0.05, "lookup": 0.05, "conv": 0.01}
# The number of positions that this is weighed for; not the actual one, see `sketch_shapes`.
_TYPICAL_POSITIONS = {"dot": 1, "lookup": 1, "conv": 256}
# The most blocks of P and Q whose products are found among those of all pairs of blocks.
_FEW_BLOCKS = 4
# Of leaves whose gradients are formed, the most entries that are sketched one by one.
FOLDED_SIZE = 4096
# Pieces that are folded by a program that names each; more, by a loop.
_FEW_PIECES = 8


def sketches(
    loss_fn: LossFn, *, key: jax.Array, dim: int, has_aux: bool = False
) -> Callable[[Any, Any], Any]:
    r"""Sketches :math:`s_i` of all gradients, whose inner products estimate those of the gradients.

    .. math:: \mathbb E \langle s_i, s_j\rangle = \langle g_i, g_j\rangle

    Every leaf l has a random linear map :math:`S_l` of its own with
    :math:`\mathbb E S_l^T S_l = I`, and :math:`s_i = \sum_l S_l g_{i,l}`. For a leaf that is used
    in products the map is a Kronecker product of random signs, so that the sketch of a gradient
    :math:`\sum_t a_t d_t^T` is :math:`\sum_t (P^T a_t)(Q^T d_t)^T`, and no gradient is formed.
    One backward pass, without the products that give the mean gradient.

    Args:
      loss_fn: ``loss_fn(params, example) -> ()``, the loss of one example.
      key: PRNG key. The same loss, key, ``dim`` and shapes of params give the same maps: sketches
        of different batches, and of different params, may be compared. So may those of sequences of
        different lengths, also if the lengths say how much of a leaf is used, by slices along its
        axes; but not if they say which operations use it.
      dim: length r of a sketch. A multiple of 256 gives the most freedom to trade variance for
        cost, a multiple of 4 or 16 some, another number none.
      has_aux: whether ``loss_fn`` returns ``(loss, aux)``.

    Returns:
      A function of ``(params, batch)`` that returns ``(B, dim)``, float32 at least; with
      ``has_aux``, ``(sketches, aux)``.

      The variance of :math:`\langle s, s'\rangle` over keys is at most

      .. math:: \sum_l \frac{(1+2/c_l)(1+2/k_l) \|g_l\|^2\|g'_l\|^2 - \langle g_l,g'_l\rangle^2}
                             {r/k_l^2}
                + \frac1r \sum_{l\ne m} \big(\|g_l\|^2\|g'_m\|^2
                + \langle g_l,g'_l\rangle\langle g_m,g'_m\rangle\big),

      where :math:`k_l`, 1 to 16, is the rank of the leaf's Kronecker blocks: the smallest of which
      projections cost no more than about a third of the products with the leaf, a fifth for a
      convolution, or of what all leaves together allow; 16 if none does, and for leaves of more
      than 4096 entries whose gradients are formed anyway. :math:`c_l=k_l`, but for the kernel of a
      convolution over K taps :math:`\max(1, \lfloor k_l/K\rfloor)`, for there a column of P looks
      at few taps; the bound is met only if all of the gradient is in one tap. A leaf of at most
      ``dim`` entries adds nothing to the first sum; one of at most 4096 whose gradient is formed
      anyway adds at most :math:`2\|g_l\|^2\|g'_l\|^2/r`.

    Raises:
      ValueError: if ``dim`` is not a positive integer; at the call, as :func:`norms`.
      TypeError: at the call, as :func:`norms`.

    Source:
      The projection of both factors: Choe et al., arXiv:2405.13954 (LoGra), there with one block
      of full rank; the blocks, the sum over leaves and the variance are derived here.
    """
    dim = trees.check_count("dim", dim)

    def per_example_sketches(params: Any, batch: Any) -> Any:
        traced = trace(loss_fn, params, batch, has_aux=has_aux)
        done = run(traced)
        total = sketch(traced, done, key, dim)
        return (total, traced.aux_structure.unflatten(done.aux)) if has_aux else total

    return per_example_sketches


def sketch(traced: Traced, done: Pass, key: jax.Array, dim: int) -> jax.Array:
    """The sketches of a batch, ``(B, dim)``, from what its pass recorded."""
    shapes = sketch_shapes(traced, dim)
    words = _draw_words(key, [_num_words(traced, leaf, shapes, dim) for leaf in _leaves(traced)])
    dtype = trees.accumulator(jnp.result_type(*traced.leaves))
    total = jnp.zeros((traced.batch_size, dim), dtype)
    for leaf in traced.plan.leaves_by("expand"):
        total += _of_arrays(words[leaf], done.expanded[leaf], dim)
    for leaf in traced.plan.leaves_by("factors", "instantiate"):
        total += _of_leaf(traced, done, words[leaf], leaf, shapes, dim)
    if traced.plan.leaves_by("chunks"):

        def of_chunk(gradients):
            return sum(
                _of_arrays(words[leaf], gradient[None], dim)[0]
                for leaf, gradient in gradients.items()
            )

        total += map_chunks(traced, of_chunk)
    return total


def _leaves(traced: Traced) -> range:
    return range(len(traced.leaves))


def _draw_words(key: jax.Array, counts: list[int]) -> list[jax.Array]:
    """Random words for every leaf, from one draw: a generator takes long to compile.

    With a key that is known while tracing they are drawn then, once, and not in every call.
    """
    ends = list(itertools.accumulate(counts))
    with jax.ensure_compile_time_eval():
        # Seen as a constant of the program, the key would have XLA draw them while it compiles.
        known = not isinstance(key, Tracer)
        key = key if known else jax.lax.optimization_barrier(key)
        words = jax.random.bits(key, (ends[-1],), jnp.uint32)
        words = np.asarray(words) if known else words
    # The barriers keep XLA from computing with constants, and from drawing again for each leaf.
    parts = [words[end - count : end] for end, count in zip(ends, counts, strict=True)]
    return [jax.lax.optimization_barrier(jnp.asarray(part)) for part in parts]


def _num_words(traced: Traced, leaf: int, shapes: dict, dim: int) -> int:
    """How many random words the map of a leaf is made of."""
    array, method = traced.leaves[leaf], traced.plan.leaves[leaf].method
    if method == "unused":
        return 0
    if method in ("expand", "chunks") or is_kept_whole(array, dim):
        return _num_words_of_array(array.shape, dim)
    frames = frames_of_leaf(traced, leaf)
    return sum(-(-_num_signs(f.sizes, shapes[leaf, f.parts[0].number]) // 32) for f in frames)


def frames_of_leaf(traced: Traced, leaf: int) -> list[Frame]:
    """What the groups of uses of a leaf are sketched by: one pair of maps for each frame."""
    return frames_of(traced.plan.leaves[leaf].groups, traced.leaves[leaf].shape)


def _num_signs(size: Sizes, shape: Shape) -> int:
    return num_signs(size.blocks, size.rows, size.columns, shape)


def _num_words_of_array(shape: tuple[int, ...], dim: int) -> int:
    size = math.prod(shape)
    if size <= FOLDED_SIZE:
        return -(-size // dim) + -(-size // 32)
    return -(-(size // shape[-1] + shape[-1]) * dim // max(_ranks(dim)) // 32)


def is_kept_whole(leaf: jax.Array, dim: int) -> bool:
    """Whether the gradients are so small that they are formed, and sketched without error."""
    return math.prod(leaf.shape) <= dim


def sketch_shapes(traced: Traced, dim: int) -> dict[tuple[int, int], Shape]:
    """The shape of the sketch of each group of uses, ``(leaf, group)``.

    It depends on the leaves alone, not on the number of positions or of examples, so that sketches
    of sequences of different lengths fit together.
    """
    leaves = traced.plan.leaves_by("factors", "instantiate")
    total = sum(math.prod(traced.leaves[leaf].shape) for leaf in leaves)
    return {
        (leaf, part.number): _shape(frame, dim, total)
        for leaf in leaves
        for frame in frames_of_leaf(traced, leaf)
        for part in frame.parts
    }


def _shape(frame: Frame, dim: int, total: int) -> Shape:
    """The smallest rank that the budgets allow: it has the least variance."""
    kind = frame.first.site.kind
    positions = _TYPICAL_POSITIONS[kind]
    size = frame.sizes._replace(positions=positions)
    own = size.blocks * size.rows * size.columns
    budget = positions * max(_OWN_BUDGET[kind] * own, _COMMON_BUDGET[kind] * total)
    for rank in _ranks(dim):
        shape = Shape(dim // rank**2, rank, frame.first.num_taps)
        projected, formed = (
            _cost_of_projecting(size, positions, shape),
            _cost_of_forming(size, shape),
        )
        if min(projected, formed) <= budget:
            break
    return shape


def _cost_of_projecting(size: Sizes, num_pixels: float, shape: Shape) -> float:
    """Multiply-adds of a sketch from projected factors."""
    pixels, windows = shape.pixel_cost(num_pixels), shape.window_cost(size.positions)
    of_rows = min(pixels, windows) * size.rows // shape.num_taps
    of_columns = size.columns * shape.width + shape.blocks * shape.rank**2
    return size.blocks * (of_rows + size.positions * of_columns)


def _cost_of_forming(size: Sizes, shape: Shape) -> int:
    """Multiply-adds of a sketch from the gradient, formed and then projected."""
    blocks, positions, rows, columns = size
    return columns * (blocks * rows * (positions + shape.width) + shape.blocks * shape.rank**2)


def _ranks(dim: int) -> list[int]:
    return [rank for rank in (1, 2, 4, 8, 16) if dim % rank**2 == 0]


def _of_leaf(
    traced: Traced, done: Pass, words: jax.Array, leaf: int, shapes: dict, dim: int
) -> jax.Array:
    """Sketches of the gradients of one leaf that is known by its factors, ``(B, dim)``."""
    found = recorded(traced, done, leaf)
    if is_kept_whole(traced.leaves[leaf], dim):

        def gradient(inputs, cotangents):
            parts = factors_of(traced, leaf, inputs, cotangents)
            return sum_of_groups(traced, leaf, [_algebra.instantiate(part) for part in parts])

        return _of_arrays(words, map_examples(gradient, *found), dim)
    dtype, parts, begin = trees.accumulator(traced.leaves[leaf].dtype), [], 0
    for frame in frames_of_leaf(traced, leaf):
        shape = shapes[leaf, frame.parts[0].number]
        count = _num_signs(frame.sizes, shape)
        end = begin + -(-count // 32)
        left, right = _matrices(signs_from(words[begin:end], count, dtype), frame.sizes, shape)
        begin = end
        for part in frame.parts:
            maps = left.of_part(part.blocks, part.rows), part_of_columns(right, part.columns)
            parts.append(_of_part(traced, leaf, part.number, found, *maps))
    return functools.reduce(jnp.add, parts)


def _of_part(
    traced: Traced, leaf: int, number: int, found: Any, left: RowMatrices, right: jax.Array
) -> jax.Array:
    """Sketches of what one group of uses contributes to the gradients of a leaf, ``(B, dim)``."""
    projected = _is_projected(traced.plan.leaves[leaf].groups[number], left.shape)
    contract = _from_factors if projected else _from_gradient

    def one(inputs, cotangents, maps):
        uses = factors_of(traced, leaf, inputs, cotangents)[number]
        entries, right = maps
        return (), contract(uses, RowMatrices(entries, left.shape), right)

    # Factors are projected by one product for the whole batch.
    maps = left.entries, right
    return reduce_examples(one, *found, matrices=not projected, shared=maps)[1]


def _is_projected(group: Sequence[Use], shape: Shape) -> bool:
    """Whether factors are projected, instead of the gradient that is formed from them."""
    positions = sum(use.sizes.positions for use in group)
    formed = _cost_of_forming(group[0].sizes._replace(positions=positions), shape)
    return _cost_of_projecting_all(group, shape) <= formed


def _cost_of_projecting_all(group: Sequence[Use], shape: Shape) -> float:
    total = 0.0
    for use in group:
        pixels = use.num_pixels or use.sizes.positions
        # Pixels are projected only where the matrices are cut into the taps of this use.
        pixels = pixels if use.num_taps == shape.num_taps else math.inf
        total += _cost_of_projecting(use.sizes, pixels, shape)
    return total


def cost_of_group(group: Sequence[Use], shape: Shape) -> int:
    """Multiply-adds of the sketch of one group of uses, as it is made."""
    positions = sum(use.sizes.positions for use in group)
    formed = _cost_of_forming(group[0].sizes._replace(positions=positions), shape)
    return int(min(_cost_of_projecting_all(group, shape), formed))


def _matrices(signs: jax.Array, size: Sizes, shape: Shape) -> tuple[RowMatrices, jax.Array]:
    return matrices(signs, size.blocks, size.rows, size.columns, shape)


def _from_factors(uses: Sequence[Factors], left: RowMatrices, right: jax.Array) -> jax.Array:
    """sum_t (P^T a_t)(Q^T d_t)^T for each block of P and Q, flattened."""
    products, shape = [], left.shape
    for use in uses:
        dtype = trees.accumulator(use.d.dtype)
        a = use.project(left)
        d = jnp.einsum(
            "gto,ok->gtk", use.d, right, precision=_HIGHEST, preferred_element_type=dtype
        )
        a = a.reshape(-1, shape.width)
        d = d.reshape(-1, shape.width)
        if shape.blocks <= _FEW_BLOCKS:  # all pairs of blocks in one product, for the equal pairs
            pairs = jnp.matmul(a.T, d, precision=_HIGHEST)
            pairs = pairs.reshape(shape.blocks, shape.rank, shape.blocks, shape.rank)
            product = jnp.stack([pairs[i, :, i] for i in range(shape.blocks)])
        else:  # small matrices: elementwise is faster than many small products
            a = a.reshape(-1, shape.blocks, shape.rank)
            d = d.reshape(-1, shape.blocks, shape.rank)
            product = jnp.sum(a[..., :, None] * d[..., None, :], axis=0)
        products.append(product.reshape(-1))
    return functools.reduce(jnp.add, products)


def _from_gradient(uses: Sequence[Factors], left: RowMatrices, right: jax.Array) -> jax.Array:
    """P^T G Q for each block of P and Q, flattened, with the gradient formed."""
    gradient = _algebra.instantiate(uses)
    return _of_matrix(gradient.reshape(-1, gradient.shape[-1]), left, right)


def _of_matrix(matrix: jax.Array, left: RowMatrices, right: jax.Array) -> jax.Array:
    shape = left.shape
    dense = left.dense().reshape(matrix.shape[0], -1)
    half = jnp.matmul(dense.T, matrix, precision=_HIGHEST).reshape(shape.blocks, shape.rank, -1)
    if shape.rank == 1:
        return jnp.sum(half[:, 0] * right.T, axis=1)
    right = right.reshape(-1, shape.blocks, shape.rank)
    return jnp.einsum("brc,cbs->brs", half, right, precision=_HIGHEST).reshape(-1)


def _of_arrays(words: jax.Array, gradients: jax.Array, dim: int) -> jax.Array:
    """Sketches of gradients ``(B, *leaf)``."""

    def local(gradients, words):
        return (), _of_local_arrays(words, gradients, dim)

    return trees.on_each_device(local, gradients, words)[1]


def _of_local_arrays(words: jax.Array, gradients: jax.Array, dim: int) -> jax.Array:
    gradients = trees.promote(gradients)
    size, columns = math.prod(gradients.shape[1:]), gradients.shape[-1]
    flat = gradients.reshape(-1, size)
    if size <= FOLDED_SIZE:
        return _folded(words, flat, dim)
    rank = max(_ranks(dim))
    shape = Shape(dim // rank**2, rank)
    sizes = Sizes(1, 1, size // columns, columns)
    signs = signs_from(words, _num_signs(sizes, shape), flat.dtype)
    left, right = _matrices(signs, sizes, shape)
    return jax.vmap(lambda g: _of_matrix(g.reshape(sizes.rows, columns), left, right))(flat)


def _folded(words: jax.Array, rows: jax.Array, dim: int) -> jax.Array:
    """Every entry to one of ``dim`` places, with a random sign: a count sketch.

    In pieces of ``dim`` entries, each from a random place on, round and round. Two entries of one
    piece never meet, those of different pieces with probability ``1 / dim``: so no matrix of random
    signs is needed, and a single piece is sketched without error.
    """
    size = rows.shape[1]
    pieces = -(-size // dim)
    signs = signs_from(words[pieces:], size, rows.dtype)
    signed = jnp.pad(rows * signs[None, :], ((0, 0), (0, pieces * dim - size)))
    places = (words[:pieces] % dim).astype(jnp.int32)

    def piece(number):
        entries = jax.lax.dynamic_slice_in_dim(signed, number * dim, dim, axis=1)
        return jnp.roll(entries, places[number], axis=1)

    if pieces <= _FEW_PIECES:
        return functools.reduce(jnp.add, map(piece, range(pieces)))
    add = lambda number, total: total + piece(number)
    return jax.lax.fori_loop(1, pieces, add, piece(0))
