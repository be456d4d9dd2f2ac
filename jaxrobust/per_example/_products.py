"""Inner products of the gradients of a batch with those of other examples.

What is needed of the others is kept, so that they go with one batch after the other.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import trees
from jaxrobust.per_example import _algebra
from jaxrobust.per_example._backward import Pass, factors_of, map_chunks, recorded
from jaxrobust.per_example._batching import map_examples, map_in_chunks
from jaxrobust.per_example._plan import EXPAND_BYTES, Plan
from jaxrobust.per_example._trace import Traced
from jaxrobust.per_example._uses import Factors, Use

_HIGHEST = jax.lax.Precision.HIGHEST

Part = tuple[int, int]  # number of a leaf, and of a group of its uses


class Others(NamedTuple):
    """The gradients of M examples, each leaf in the form that makes products cheapest."""

    whole: dict[int, jax.Array]  # (M, *leaf): of leaves without factors
    single: dict[Part, tuple[jax.Array, jax.Array]]  # (M, blocks, rows), (M, blocks, columns)
    formed: dict[Part, jax.Array]  # (M, blocks, rows, columns)
    recorded: dict[Part, Any]  # what was recorded at the sites, (M, ...)


def keep(traced: Traced, done: Pass, batch_size: int, room: int = EXPAND_BYTES) -> Others:
    """What :func:`inner_products` needs of these examples, for batches of about this size.

    Gradients are formed of leaves of which those of all examples take at most ``room`` bytes.
    """
    others = Others({}, {}, {}, {})
    for leaf in traced.plan.leaves_by("expand"):
        others.whole[leaf] = trees.bring_together(done.expanded[leaf])
    for leaf, number in parts_of(traced.plan):
        group = traced.plan.leaves[leaf].groups[number]
        found = trees.bring_together(recorded(traced, done, leaf))
        if _is_single_product(group):
            others.single[leaf, number] = _rows_and_columns(traced, leaf, number, found)
        elif _is_cheaper_formed(group, batch_size, traced.batch_size, room):
            others.formed[leaf, number] = _form(traced, leaf, number, found)
        else:
            others.recorded[leaf, number] = found
    return others


def keep_chunks(traced: Traced) -> dict[int, jax.Array]:
    """The gradients of the leaves that are done in chunks, ``(M, *leaf)``: for ``Others.whole``."""
    if not traced.plan.leaves_by("chunks"):
        return {}
    return trees.bring_together(map_chunks(traced, lambda gradients: gradients))


def inner_products(traced: Traced, done: Pass, others: Others) -> jax.Array:
    """``<g_i, h_m>`` over all leaves that the others have, ``(B, M)``."""
    total = jnp.zeros((), trees.accumulator(jnp.result_type(*traced.leaves)))
    for leaf in traced.plan.leaves_by("expand"):
        total = total + _of_arrays(done.expanded[leaf], others.whole[leaf])
    for leaf, number in parts_of(traced.plan):
        found = recorded(traced, done, leaf)
        if (leaf, number) in others.single:
            ours = _rows_and_columns(traced, leaf, number, found)
            products = _of_products(ours, others.single[leaf, number])
        elif (leaf, number) in others.formed:
            products = _with_formed(traced, leaf, number, found, others.formed[leaf, number])
        else:
            products = _with_recorded(traced, leaf, number, found, others.recorded[leaf, number])
        total = total + products
    in_chunks = [leaf for leaf in traced.plan.leaves_by("chunks") if leaf in others.whole]
    if in_chunks:
        total = total + _of_chunks(traced, {leaf: others.whole[leaf] for leaf in in_chunks})
    return total


def parts_of(plan: Plan) -> list[Part]:
    """All groups of uses of leaves that have factors."""
    return [
        (leaf, number)
        for leaf in plan.leaves_by("factors", "instantiate")
        for number in range(len(plan.leaves[leaf].groups))
    ]


def cost_of_products(traced: Traced, num_others: int, room: int) -> int:
    """Multiply-adds per example of :func:`inner_products` with so many others, kept once."""
    many = 2**20  # examples, over which the cost of keeping the others is spread
    leaves = traced.plan.leaves_by("expand", "chunks")
    total = num_others * sum(math.prod(traced.leaves[leaf].shape) for leaf in leaves)
    for leaf, number in parts_of(traced.plan):
        group = traced.plan.leaves[leaf].groups[number]
        formed, by_factors = _costs(group, many, num_others)
        is_formed = _is_cheaper_formed(group, many, num_others, room)
        total += (formed if is_formed else by_factors) // many
    return total


# Arrays -------------------------------------------------------------------------------------------


def _of_arrays(left: jax.Array, right: jax.Array) -> jax.Array:
    """Inner products of arrays ``(B, ...)`` and ``(M, ...)``."""
    left, right = trees.promote((left, right))
    left, right = left.reshape(left.shape[0], -1), right.reshape(right.shape[0], -1)
    return jnp.matmul(left, right.T, precision=_HIGHEST)


def _of_chunks(traced: Traced, whole: dict[int, jax.Array]) -> jax.Array:
    def one(gradients):
        ours = ((gradients[leaf][None], others) for leaf, others in whole.items())
        return sum(_of_arrays(*pair)[0] for pair in ours)

    return map_chunks(traced, one)


# Single products ----------------------------------------------------------------------------------


def _is_single_product(group: tuple[Use, ...]) -> bool:
    return len(group) == 1 and group[0].site.kind == "dot" and group[0].sizes.positions == 1


def _rows_and_columns(traced: Traced, leaf: int, number: int, found: Any):
    def one(*of_example):
        (use,) = factors_of(traced, leaf, *of_example)[number]
        return use.rows()[:, 0], use.d[:, 0]

    return map_examples(one, *found)


def _of_products(ours: tuple[jax.Array, jax.Array], theirs: tuple[jax.Array, jax.Array]):
    """``sum_g <a_g, a'_g> <d_g, d'_g>``, ``(B, M)``, of factors ``(B, blocks, k)``."""
    (a, d), (other_a, other_d) = trees.promote(ours), trees.promote(theirs)
    if a.shape[1] == 1:  # many times faster than a batched product with a batch of one
        return _of_arrays(a, other_a) * _of_arrays(d, other_d)
    pairs = lambda x, y: jnp.einsum("bgk,cgk->gbc", x, y, precision=_HIGHEST)
    return jnp.sum(pairs(a, other_a) * pairs(d, other_d), axis=0)


# Gradients that are formed ------------------------------------------------------------------------


def _is_cheaper_formed(group: tuple[Use, ...], left: int, right: int, room: int) -> bool:
    """Whether gradients are formed: fewer multiply-adds, and room for those of the others."""
    blocks, _, rows, columns = group[0].sizes
    formed, by_factors = _costs(group, left, right)
    return formed < by_factors and 4 * blocks * rows * columns * right <= room


def _costs(group: tuple[Use, ...], left: int, right: int) -> tuple[int, int]:
    """Multiply-adds of all products with gradients formed, and from the factors of pairs."""
    blocks, _, rows, columns = group[0].sizes
    positions = sum(use.sizes.positions for use in group)
    rows_cost = 1 if any(use.site.kind == "lookup" for use in group) else rows
    formed = blocks * rows * columns * (left * right + (left + right) * positions)
    return formed, left * right * blocks * positions**2 * (rows_cost + columns)


def _form(traced: Traced, leaf: int, number: int, found: Any) -> jax.Array:
    form = lambda *of_example: _algebra.instantiate(factors_of(traced, leaf, *of_example)[number])
    return map_examples(form, *found)


def _with_formed(
    traced: Traced, leaf: int, number: int, found: Any, others: jax.Array
) -> jax.Array:
    """From the gradients of as many examples at a time as there is room for."""
    room = max(1, EXPAND_BYTES // (4 * math.prod(others.shape[1:])))
    if room >= traced.batch_size or trees.is_sharded(jax.tree.leaves(found)[0]):
        return _of_arrays(_form(traced, leaf, number, found), others)

    def one(of_example):
        gradient = _algebra.instantiate(factors_of(traced, leaf, *of_example)[number])
        return _of_arrays(gradient[None], others)[0]

    return map_in_chunks(one, found, room)


# Pairs of factors ---------------------------------------------------------------------------------


def _with_recorded(traced: Traced, leaf: int, number: int, found: Any, others: Any) -> jax.Array:
    def factors(of_example):
        return _algebra.merge(factors_of(traced, leaf, *of_example)[number])

    def rows(found, others):
        def row(ours):
            uses = factors(ours)
            return jax.vmap(lambda *theirs: _inner(uses, factors(theirs)))(*others)

        return (), jax.lax.map(row, found)

    return trees.on_each_device(rows, found, others)[1]


def _inner(uses: Sequence[Factors], others: Sequence[Factors]) -> jax.Array:
    return functools.reduce(jnp.add, [_algebra.inner(a, b) for a in uses for b in others])


def of_chunks_in_pairs(left: Traced, right: Traced) -> jax.Array:
    """Inner products over the leaves whose gradients are too large to be kept, ``(B, M)``."""
    # One map over a sharded axis cannot be inside of another.
    right = dataclasses.replace(right, batch=trees.bring_together(right.batch))

    def row(ours):
        def against(theirs):
            return sum(trees.dot(ours[leaf], theirs[leaf]) for leaf in ours)

        return map_chunks(right, against)

    rows = map_chunks(left, row)
    return rows.reshape(left.batch_size, math.prod(rows.shape[1:]))
