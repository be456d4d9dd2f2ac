"""Inner products of all pairs of per-example gradients."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust import trees
from jaxrobust.per_example import _algebra
from jaxrobust.per_example._backward import Pass, factors_of, map_chunks, recorded, run
from jaxrobust.per_example._batching import map_examples
from jaxrobust.per_example._devices import bring_together, on_each_device
from jaxrobust.per_example._norms import aux_of
from jaxrobust.per_example._plan import EXPAND_BYTES
from jaxrobust.per_example._trace import LossFn, Traced, check_batch, trace
from jaxrobust.per_example._uses import Factors, Use

_HIGHEST = jax.lax.Precision.HIGHEST


def gram(loss_fn: LossFn, *, has_aux: bool = False) -> Callable[..., Any]:
    r"""Inner products :math:`\langle g_i, g_j\rangle` of all pairs of gradients, exactly.

    The empirical neural tangent kernel of the loss. From the factors of the gradients where that is
    cheaper than forming them: for a single product it is
    :math:`\langle a_i, a_j\rangle\langle d_i, d_j\rangle`.

    Args:
      loss_fn: ``loss_fn(params, example) -> ()``, the loss of one example.
      has_aux: whether ``loss_fn`` returns ``(loss, aux)``.

    Returns:
      A function of ``(params, batch, other=None)``. Without ``other`` it returns the symmetric
      ``(B, B)`` of one batch, else ``(B, B')`` between two batches whose examples have the same
      shapes; float32 at least. With ``has_aux``, ``(gram, aux)``, or ``(gram, aux, aux of other)``.
      Inside of ``jax.shard_map`` the pairs are those of the examples of the device.

    Raises:
      ValueError, TypeError: at the call, as :func:`norms`; ValueError if ``other`` has another
        structure than ``batch``, or its examples have other shapes or dtypes.
    """

    def per_example_gram(params: Any, batch: Any, other: Any = None) -> Any:
        if other is not None:
            _check_same_examples(batch, other)
        left = trace(loss_fn, params, batch, has_aux=has_aux)
        right = left if other is None else trace(loss_fn, params, other, has_aux=has_aux)
        # What is done in chunks may depend on the size of the batch; one plan for both.
        larger = max(left, right, key=lambda traced: traced.batch_size)
        left, right = left.with_plan(larger.plan), right.with_plan(larger.plan)
        left_pass = run(left)
        right_pass = left_pass if other is None else run(right)
        total = _all_products(left, left_pass, right, right_pass)
        if not has_aux:
            return total
        aux = aux_of(left, left_pass)
        return (total, aux) if other is None else (total, aux, aux_of(right, right_pass))

    return per_example_gram


def _all_products(left: Traced, left_pass: Pass, right: Traced, right_pass: Pass) -> jax.Array:
    """The sum of the inner products over all leaves, ``(B, B')``."""
    total = jnp.zeros((), trees.accumulator(jnp.result_type(*left.leaves)))
    for leaf in left.plan.leaves_by("expand"):
        total = total + _products(
            left_pass.expanded[leaf], bring_together(right_pass.expanded[leaf])
        )
    for leaf in left.plan.leaves_by("factors", "instantiate"):
        for number in range(len(left.plan.leaves[leaf].groups)):
            total = total + _of_group(left, left_pass, right, right_pass, leaf, number)
    if left.plan.leaves_by("chunks"):
        total = total + _of_chunks(left, right)
    return jnp.broadcast_to(total, (left.batch_size, right.batch_size))


def _check_same_examples(batch: Any, other: Any) -> None:
    leaves, structure, _ = check_batch(batch)
    other_leaves, other_structure, _ = check_batch(other, "other")
    if structure != other_structure:
        raise ValueError(
            f"other must have the structure of batch, {structure}, got {other_structure}"
        )
    ours, theirs = ([(x.shape[1:], x.dtype) for x in found] for found in (leaves, other_leaves))
    if ours != theirs:
        raise ValueError(f"other must have examples like those of batch, {ours}, got {theirs}")


def _products(left: jax.Array, right: jax.Array) -> jax.Array:
    """Inner products of arrays ``(B, ...)`` and ``(B', ...)``."""
    left, right = trees.promote((left, right))
    left, right = left.reshape(left.shape[0], -1), right.reshape(right.shape[0], -1)
    return jnp.matmul(left, right.T, precision=_HIGHEST)


def _of_group(
    left: Traced, left_pass: Pass, right: Traced, right_pass: Pass, leaf: int, number: int
) -> jax.Array:
    group = left.plan.leaves[leaf].groups[number]
    ours = recorded(left, left_pass, leaf)
    theirs = bring_together(recorded(right, right_pass, leaf))

    def factors(*found):
        return factors_of(left, leaf, *found)[number]

    if _is_single_product(group):

        def single(*found):
            (use,) = factors(*found)
            return use.rows()[:, 0], use.d[:, 0]

        (a, d), (other_a, other_d) = map_examples(single, *ours), map_examples(single, *theirs)
        return jnp.sum(_by_block(a, other_a) * _by_block(d, other_d), axis=-1)
    if _is_cheaper_formed(group, left.batch_size, right.batch_size):
        form = lambda *found: _algebra.instantiate(factors(*found))
        return _products(map_examples(form, *ours), map_examples(form, *theirs))

    def rows(ours, theirs):
        def row(found):
            uses = _algebra.merge(factors(*found))
            return jax.vmap(lambda *others: _inner(uses, _algebra.merge(factors(*others))))(*theirs)

        return (), jax.lax.map(row, ours)

    return on_each_device(rows, ours, theirs)[1]


def _inner(uses: Sequence[Factors], others: Sequence[Factors]) -> jax.Array:
    return functools.reduce(jnp.add, [_algebra.inner(a, b) for a in uses for b in others])


def _by_block(first: jax.Array, second: jax.Array) -> jax.Array:
    """Inner products ``(B, B', blocks)`` of ``(B, blocks, k)`` and ``(B', blocks, k)``."""
    first, second = trees.promote((first, second))
    return jnp.einsum("bgk,cgk->bcg", first, second, precision=_HIGHEST)


def _is_single_product(group: tuple[Use, ...]) -> bool:
    return len(group) == 1 and group[0].site.kind == "dot" and group[0].sizes.positions == 1


def _is_cheaper_formed(group: tuple[Use, ...], left: int, right: int) -> bool:
    """Whether gradients are formed: fewer multiply-adds, and room for those of both batches."""
    blocks, _, rows, columns = group[0].sizes
    positions = sum(use.sizes.positions for use in group)
    if any(use.site.kind == "lookup" for use in group):
        rows_cost = 1
    else:
        rows_cost = rows
    entries = blocks * rows * columns
    formed = entries * (left * right + (left + right) * positions)
    by_factors = left * right * blocks * positions**2 * (rows_cost + columns)
    return formed < by_factors and 4 * entries * (left + right) <= EXPAND_BYTES


def _of_chunks(left: Traced, right: Traced) -> jax.Array:
    """Inner products over the leaves whose gradients are too large to be kept for all examples."""
    # One map over a sharded axis cannot be inside of another.
    right = dataclasses.replace(right, batch=bring_together(right.batch))

    def row(ours):
        def against(theirs):
            return sum(trees.dot(ours[leaf], theirs[leaf]) for leaf in ours)

        return map_chunks(right, against)

    rows = map_chunks(left, row)
    return rows.reshape(left.batch_size, math.prod(rows.shape[1:]))
