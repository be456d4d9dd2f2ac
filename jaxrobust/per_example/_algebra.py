"""Norms and inner products of gradients given by their factors; all for one example.

Sums accumulate in float32 at least, products of matrices at the highest precision.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxrobust import trees
from jaxrobust.per_example._uses import Factors

_HIGHEST = jax.lax.Precision.HIGHEST


def instantiate(uses: Sequence[Factors]) -> jax.Array:
    """The gradient itself, ``(blocks, rows, columns)``, the sum over the uses."""
    return functools.reduce(jnp.add, map(_instantiate, uses))


def squared_norm(uses: Sequence[Factors]) -> jax.Array:
    r"""``||g||^2`` of the sum over the uses, without the gradient, ``()``.

    :math:`\sum_{s,t} \langle a_s, a_t\rangle \langle d_s, d_t\rangle` over all pairs of positions
    of all uses; a single position needs two norms only.
    """
    merged = merge(uses)
    if len(merged) == 1 and _is_product(merged[0]):
        return _squared_norm_of_product(merged[0])
    total = jnp.zeros((), _accumulator(merged[0].d))
    for i, first in enumerate(merged):
        total += inner(first, first)
        for second in merged[i + 1 :]:
            total += 2 * inner(first, second)
    return total


def _is_product(use: Factors) -> bool:
    """Whether every block of the gradient is one outer product."""
    return use.d.shape[1] == 1 and use.index is None


def _squared_norm_of_product(use: Factors) -> jax.Array:
    dtype = _accumulator(use.d)
    rows = jnp.sum(use.rows().astype(dtype) ** 2, axis=(1, 2))
    # The square of a small d may be below what float32 holds, and that of |a| d within it: so d is
    # scaled first. The root of 1 is taken for that of 0, whose derivative is infinite.
    lengths = jnp.where(rows > 0, jnp.sqrt(jnp.where(rows > 0, rows, 1)), 0)
    return jnp.sum((use.d.astype(dtype) * lengths[:, None, None]) ** 2)


def inner(first: Factors, second: Factors) -> jax.Array:
    """Inner product of two gradients of one layout, from their factors, ``()``."""
    dtype = _accumulator(first.d)
    if _is_product(first) and _is_product(second):
        rows = jnp.sum(first.rows().astype(dtype) * second.rows().astype(dtype), axis=(1, 2))
        columns = jnp.sum(first.d.astype(dtype) * second.d.astype(dtype), axis=(1, 2))
        return jnp.sum(rows * columns)
    columns = _pairs(first.d, second.d)
    if first.index is not None and second.index is not None:
        valid = first.index < first.num_rows
        same = (first.index[:, None] == second.index[None, :]) & valid[:, None]
        return jnp.sum(jnp.where(same, columns[0], 0))
    if first.index is not None:
        return jnp.sum(_looked_up(first.index, second.rows()[0]) * columns[0].astype(dtype))
    if second.index is not None:
        return jnp.sum(_looked_up(second.index, first.rows()[0]) * columns[0].T.astype(dtype))
    return jnp.sum(_pairs(first.rows(), second.rows()) * columns)


def inner_with(use: Factors, matrix: jax.Array) -> jax.Array:
    """Inner product of a gradient with an array ``(blocks, rows, columns)``, ``()``."""
    dtype = _accumulator(use.d)
    if use.index is not None:
        rows = matrix.at[:, use.index].get(mode="fill", fill_value=0)
    else:
        rows = jnp.einsum(
            "gti,gio->gto", use.rows(), matrix, precision=_HIGHEST, preferred_element_type=dtype
        )
    return jnp.sum(rows.astype(dtype) * use.d.astype(dtype))


def merge(uses: Sequence[Factors]) -> list[Factors]:
    """The same gradient by fewer uses: those of one kind become one with more positions."""
    looked_up = [(use, use.index) for use in uses if use.index is not None]
    others = [use for use in uses if use.index is None]
    merged = []
    if len(others) == 1:
        merged.append(others[0])
    elif others:
        d = jnp.concatenate([use.d for use in others], axis=1)
        a = jnp.concatenate([use.rows() for use in others], axis=1)
        merged.append(Factors(d, others[0].num_rows, a))
    if len(looked_up) == 1:
        merged.append(looked_up[0][0])
    elif looked_up:
        d = jnp.concatenate([use.d for use, _ in looked_up], axis=1)
        index = jnp.concatenate([index for _, index in looked_up])
        merged.append(Factors(d, looked_up[0][0].num_rows, index=index))
    return merged


def _instantiate(use: Factors) -> jax.Array:
    dtype = _accumulator(use.d)
    if use.index is not None:
        table = jnp.zeros((use.num_rows, use.d.shape[2]), dtype)
        # Out of range means dropped.
        return table.at[use.index].add(use.d[0].astype(dtype), mode="drop")[None]
    return jnp.einsum(
        "gti,gto->gio", use.rows(), use.d, precision=_HIGHEST, preferred_element_type=dtype
    )


def _pairs(first: jax.Array, second: jax.Array) -> jax.Array:
    """Inner products of all pairs of positions, ``(blocks, positions, positions)``."""
    dtype = _accumulator(first)
    return jnp.einsum(
        "gsk,gtk->gst", first, second, precision=_HIGHEST, preferred_element_type=dtype
    )


def _looked_up(index: jax.Array, rows: jax.Array) -> jax.Array:
    """Inner products of one-hot rows with ``rows (t, i)``: ``rows[t, index[s]]`` at (s, t)."""
    return rows.T.at[index].get(mode="fill", fill_value=0)


def _accumulator(array: jax.Array):
    return trees.accumulator(array.dtype)
