"""Random sketches of per-example gradients, from the factors of the gradients."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust import trees
from jaxrobust.per_example import _algebra
from jaxrobust.per_example._backward import Pass, factors_of, map_chunks, recorded, run
from jaxrobust.per_example._batching import reduce_examples
from jaxrobust.per_example._plan import Leaf
from jaxrobust.per_example._trace import LossFn, Traced, trace
from jaxrobust.per_example._uses import Factors, Sizes

_HIGHEST = jax.lax.Precision.HIGHEST
# What the projections of a leaf may cost, in multiply-adds per position: relative to its own size,
# and to the size of all leaves together.
_OWN_BUDGET, _COMMON_BUDGET = 0.35, 0.05
# The number of positions that this is weighed for; not the actual one, see `sketch_shapes`.
_TYPICAL_POSITIONS = {"dot": 1, "lookup": 1, "conv": 256}
# Of leaves whose gradients are formed, the most entries that are sketched by one dense matrix.
_DENSE_SIZE = 4096


@dataclasses.dataclass(frozen=True)
class Shape:
    """A sketch of ``blocks * rank**2`` numbers: P^T G Q for as many blocks of P, Q of that rank."""

    blocks: int
    rank: int

    @property
    def width(self) -> int:
        """Columns of all blocks of P together."""
        return self.blocks * self.rank


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
      key: PRNG key. The same key, ``dim`` and shapes of params give the same maps: sketches of
        different batches, and of different params, may be compared.
      dim: length r of a sketch. A multiple of 256 gives the most freedom to trade variance for
        cost, a multiple of 4 or 16 some, another number none.
      has_aux: whether ``loss_fn`` returns ``(loss, aux)``.

    Returns:
      A function of ``(params, batch)`` that returns ``(B, dim)``, float32 at least; with
      ``has_aux``, ``(sketches, aux)``.

      The variance of :math:`\langle s, s'\rangle` over keys is at most

      .. math:: \sum_l \frac{(1+2/k_l)^2 \|g_l\|^2\|g'_l\|^2 - \langle g_l,g'_l\rangle^2}{r/k_l^2}
                + \frac1r \sum_{l\ne m} \big(\|g_l\|^2\|g'_m\|^2
                + \langle g_l,g'_l\rangle\langle g_m,g'_m\rangle\big),

      where :math:`k_l`, 1 to 16, is the rank of the leaf's Kronecker blocks: 1 where the leaf is
      large enough to pay for it, more where projections would cost more than about a third of the
      products with the leaf. A leaf of at most ``dim`` entries adds nothing to the first sum; one
      of at most 4096 whose gradient is formed anyway adds at most
      :math:`2\|g_l\|^2\|g'_l\|^2/r`.

    Raises:
      ValueError: if ``dim`` is not a positive integer; at the call, as :func:`gradients`.
      TypeError: at the call, as :func:`gradients`.

    Source:
      The projection of both factors: Choe et al., arXiv:2405.13954 (LoGra), there with one block
      of full rank; the blocks, the sum over leaves and the variance are derived here.
    """
    if not isinstance(dim, int) or isinstance(dim, bool) or dim < 1:
        raise ValueError(f"dim must be a positive integer, got {dim!r}")

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
    total = jnp.zeros((traced.batch_size, dim), jnp.float32)
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
    """Random words for every leaf, from one draw: a generator takes long to compile."""
    # Seen as a constant the key would have XLA draw all of them while it compiles.
    words = jax.random.bits(jax.lax.optimization_barrier(key), (sum(counts),), jnp.uint32)
    ends = list(itertools.accumulate(counts))
    return [words[end - count : end] for end, count in zip(ends, counts, strict=True)]


def _num_words(traced: Traced, leaf: int, shapes: dict, dim: int) -> int:
    """How many random words the map of a leaf is made of."""
    plan, shape = traced.plan.leaves[leaf], traced.leaves[leaf].shape
    if plan.method == "unused":
        return 0
    if plan.method in ("expand", "chunks"):
        return _num_words_of_array(shape, dim)
    if _is_kept_whole(plan, dim):
        return _num_words_of_array((_num_entries(plan),), dim)
    return sum(
        -(-_num_signs(group[0].sizes, shapes[leaf, number]) // 32)
        for number, group in enumerate(plan.groups)
    )


def _num_signs(size: Sizes, shape: Shape) -> int:
    return (size.blocks * size.rows + size.columns) * shape.width


def _num_words_of_array(shape: tuple[int, ...], dim: int) -> int:
    size = math.prod(shape)
    if size <= dim:
        return 1 + -(-size // 32)
    if size <= _DENSE_SIZE:
        return -(-size * dim // 32)
    return -(-(size // shape[-1] + shape[-1]) * dim // max(_ranks(dim)) // 32)


def _num_entries(plan: Leaf) -> int:
    return sum(group[0].layout.size for group in plan.groups)


def _is_kept_whole(plan: Leaf, dim: int) -> bool:
    """Whether the gradients are so small that they are formed, and sketched without error."""
    return _num_entries(plan) <= dim


def sketch_shapes(traced: Traced, dim: int) -> dict[tuple[int, int], Shape]:
    """The shape of the sketch of each group of uses, ``(leaf, group)``.

    It depends on the leaves alone, not on the number of positions or of examples, so that sketches
    of sequences of different lengths fit together.
    """
    firsts = {
        (leaf, number): group[0]
        for leaf in traced.plan.leaves_by("factors", "instantiate")
        for number, group in enumerate(traced.plan.leaves[leaf].groups)
    }
    common = _COMMON_BUDGET * sum(use.layout.size for use in firsts.values())
    return {
        at: _shape(use.sizes, _TYPICAL_POSITIONS[use.site.kind], dim, common)
        for at, use in firsts.items()
    }


def _shape(size: Sizes, positions: int, dim: int, common: float) -> Shape:
    """The smallest rank that the budgets allow: it has the least variance."""
    entries = size.blocks * size.rows * size.columns
    budget = positions * max(_OWN_BUDGET * entries, common)
    for rank in _ranks(dim):
        shape = Shape(dim // rank**2, rank)
        if min(_costs(size._replace(positions=positions), shape)) <= budget:
            break
    return shape


def _costs(size: Sizes, shape: Shape) -> tuple[int, int]:
    """Multiply-adds of a sketch: from projected factors, and from the gradient formed."""
    blocks, positions, rows, columns = size
    last = shape.blocks * shape.rank**2
    projected = blocks * positions * ((rows + columns) * shape.width + last)
    formed = blocks * rows * columns * (positions + shape.width) + columns * last
    return projected, formed


def _ranks(dim: int) -> list[int]:
    return [rank for rank in (1, 2, 4, 8, 16) if dim % rank**2 == 0]


def _signs(words: jax.Array, size: int) -> jax.Array:
    """Random signs ``(size,)``, float32, from the bits of random words."""
    bits = (words[:, None] >> jnp.arange(32, dtype=jnp.uint32)[None, :]) & 1
    return (1.0 - 2.0 * bits.astype(jnp.float32)).reshape(-1)[:size]


def _of_leaf(
    traced: Traced, done: Pass, words: jax.Array, leaf: int, shapes: dict, dim: int
) -> jax.Array:
    """Sketches of the gradients of one leaf that is known by its factors, ``(B, dim)``."""
    plan, found = traced.plan.leaves[leaf], recorded(traced, done, leaf)
    if _is_kept_whole(plan, dim):

        def gradient(inputs, cotangents):
            parts = factors_of(traced, leaf, inputs, cotangents)
            return jnp.concatenate([_algebra.instantiate(part).reshape(-1) for part in parts])

        return _of_arrays(words, jax.vmap(gradient)(*found), dim)
    total, begin = jnp.zeros(()), 0
    for number, group in enumerate(plan.groups):
        shape, size = shapes[leaf, number], group[0].sizes
        count = _num_signs(size, shape)
        end = begin + -(-count // 32)
        left, right = _matrices(_signs(words[begin:end], count), size, shape)
        begin = end

        positions = sum(use.sizes.positions for use in group)
        projected, formed = _costs(size._replace(positions=positions), shape)
        contract = _from_factors if projected <= formed else _from_gradient

        def one(inputs, cotangents, number=number, contract=contract, maps=(left, right, shape)):
            uses = factors_of(traced, leaf, inputs, cotangents)[number]
            return (), contract(uses, *maps)

        total = total + reduce_examples(one, *found, matrices=positions > 1)[1]
    return total


def _matrices(signs: jax.Array, size: Sizes, shape: Shape) -> tuple[jax.Array, jax.Array]:
    """P ``(blocks, rows, width)`` and Q ``(columns, width)``, scaled."""
    count = size.blocks * size.rows * shape.width
    # 1/sqrt(blocks) for the mean over blocks and 1/rank for that over the entries of each.
    left = signs[:count] / (math.sqrt(shape.blocks) * shape.rank)
    return (
        left.reshape(size.blocks, size.rows, shape.width),
        signs[count:].reshape(size.columns, shape.width),
    )


def _from_factors(
    uses: Sequence[Factors], left: jax.Array, right: jax.Array, shape: Shape
) -> jax.Array:
    """sum_t (P^T a_t)(Q^T d_t)^T for each block of P and Q, flattened."""
    total = jnp.zeros(())
    for use in uses:
        dtype = trees.accumulator(use.d.dtype)
        a = use.project(left)
        d = jnp.einsum(
            "gto,ok->gtk", use.d, right, precision=_HIGHEST, preferred_element_type=dtype
        )
        a = a.reshape(-1, shape.blocks, shape.rank)
        d = d.reshape(-1, shape.blocks, shape.rank)
        if shape.blocks == 1:
            product = jnp.matmul(a[:, 0].T, d[:, 0], precision=_HIGHEST)
        else:  # small matrices: elementwise is faster than many small products
            product = jnp.sum(a[..., :, None] * d[..., None, :], axis=0)
        total = total + product.reshape(-1)
    return total


def _from_gradient(
    uses: Sequence[Factors], left: jax.Array, right: jax.Array, shape: Shape
) -> jax.Array:
    """P^T G Q for each block of P and Q, flattened, with the gradient formed."""
    gradient = _algebra.instantiate(uses)
    return _of_matrix(gradient.reshape(-1, gradient.shape[-1]), left, right, shape)


def _of_matrix(matrix: jax.Array, left: jax.Array, right: jax.Array, shape: Shape) -> jax.Array:
    half = jnp.matmul(left.reshape(matrix.shape[0], -1).T, matrix, precision=_HIGHEST)
    half = half.reshape(shape.blocks, shape.rank, -1)
    if shape.rank == 1:
        return jnp.sum(half[:, 0] * right.T, axis=1)
    right = right.reshape(-1, shape.blocks, shape.rank)
    return jnp.einsum("brc,cbs->brs", half, right, precision=_HIGHEST).reshape(-1)


def _of_arrays(words: jax.Array, gradients: jax.Array, dim: int) -> jax.Array:
    """Sketches of gradients ``(B, *leaf)``."""
    gradients = trees.promote(gradients)
    size, columns = math.prod(gradients.shape[1:]), gradients.shape[-1]
    flat = gradients.reshape(-1, size)
    if size <= dim:
        # Entry by entry, with random signs, from a random place on: exact within the leaf.
        place = words[0] % dim
        signed = jnp.pad(flat * _signs(words[1:], size)[None, :], ((0, 0), (0, dim - size)))
        return jnp.roll(signed, place.astype(jnp.int32), axis=1)
    if size <= _DENSE_SIZE:
        matrix = _signs(words, size * dim).reshape(size, dim) / math.sqrt(dim)
        return jnp.matmul(flat, matrix, precision=_HIGHEST)
    rank = max(_ranks(dim))
    shape = Shape(dim // rank**2, rank)
    sizes = Sizes(1, 1, size // columns, columns)
    left, right = _matrices(_signs(words, _num_signs(sizes, shape)), sizes, shape)
    return jax.vmap(lambda g: _of_matrix(g.reshape(sizes.rows, columns), left, right, shape))(flat)
