r"""lp norms of weighted non-negative magnitudes, the arithmetic under every norm of this room.

Entries of a vector, singular values of a matrix and moduli of Fourier coefficients are all
*magnitudes* :math:`a_i \ge 0` that count with a *weight* :math:`c_i > 0` (2 for a Fourier
coefficient that stands for a conjugate pair, else 1), both in the norm
:math:`(\sum_i c_i a_i^p)^{1/p}` and in the inner product :math:`\sum_i c_i a_i b_i`. Everything
here takes a list of magnitude arrays and a list of weights that broadcast against them, and never
concatenates the arrays (a model's leaves may be sharded differently).
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Magnitudes = list[jax.Array]
Weights = list[np.ndarray]


def largest(a: Magnitudes) -> jax.Array:
    """The largest magnitude, ``()``; NaN if any is."""
    return functools.reduce(jnp.maximum, [_top(leaf) for leaf in a])


def _top(leaf: jax.Array) -> jax.Array:
    # On the CPU the maximum over the shards of an array drops NaN, if it is not on all of them. An
    # `or` over the shards drops nothing. Added, for to the derivative a selection is a constant.
    top = jnp.max(leaf)
    return top + jnp.where(jnp.any(jnp.isnan(leaf)), jnp.nan, jnp.zeros_like(top))


def total(terms: Sequence[Any]) -> jax.Array:
    """The sum of all entries, ``()``."""
    return functools.reduce(jnp.add, [jnp.sum(term) for term in terms])


def value(p: float, a: Magnitudes, c: Weights) -> jax.Array:
    """The weighted lp norm, ``()``."""
    top = largest(a)
    if p == math.inf:
        return top
    if p == 1:
        return total([w * leaf for leaf, w in zip(a, c, strict=True)])
    # In units of the largest, a^p neither overflows (a = 1e30, p = 2) nor vanishes (a = 1e-30).
    # The unit cancels, so it is a constant to the derivative. It is 1 where there is nothing to
    # scale; there the norm is the largest magnitude itself: 0, infinite or NaN.
    scalable, unit = scaling(top)
    scaled = [leaf / unit for leaf in a]
    if p == 2:
        square = total([w * (leaf * leaf) for leaf, w in zip(scaled, c, strict=True)])
        return jnp.where(scalable, unit * jnp.sqrt(jnp.where(scalable, square, 1)), top)
    powers = total([w * leaf**p for leaf, w in zip(scaled, c, strict=True)])
    return jnp.where(scalable, unit * jnp.where(scalable, powers, 1) ** (1 / p), top)


def scaling(top: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Whether magnitudes can be divided by their largest, and what to divide them by: it, or 1."""
    scalable = (top > 0) & (top < jnp.inf)
    return scalable, jax.lax.stop_gradient(jnp.where(scalable, top, 1))


def lmo(p: float, a: Magnitudes, c: Weights) -> Magnitudes:
    """Magnitudes of the maximiser of the weighted inner product over the unit lp ball.

    They are zero where ``a`` is zero.
    """
    if p == math.inf:
        # jnp.sign keeps NaN, and gives 0 at 0.
        return [jnp.sign(leaf) for leaf in a]
    if p == 1:
        return _one_hot_at_largest(a, c)
    if p == 2:
        top = largest(a)
        scaled = [leaf / scaling(top)[1] for leaf in a]
        square = total([w * leaf**2 for leaf, w in zip(scaled, c, strict=True)])
        norm = jnp.sqrt(jnp.where(top == 0, 1, square))  # whose derivative at 0 would be NaN
        return [leaf / norm for leaf in scaled]
    # q - 1 = 1/(p-1): u = a^(q-1) / ||a||_q^(q-1); scaled by the largest magnitude as in `value`.
    exponent = 1 / (p - 1)
    top = largest(a)
    _, unit = scaling(top)
    powers = [(leaf / unit) ** exponent for leaf in a]
    norm = jnp.where(top == 0, 1, value(p, powers, c))
    return [leaf / norm for leaf in powers]


def _one_hot_at_largest(a: Magnitudes, c: Weights) -> Magnitudes:
    """All of the unit l1 norm on one magnitude: the first largest one of the first leaf with it."""
    tops = [_top(leaf) for leaf in a]
    top = functools.reduce(jnp.maximum, tops)
    length = (top > 0).astype(top.dtype)
    # A broken gradient must not become a valid step. NaN is added, for the compiler makes a product
    # with a mask a selection, and there 0 * NaN is 0. Both branches are arrays: of two Python
    # numbers JAX 0.12 makes, under vmap over an explicit mesh axis, an array without a mesh.
    broken = jnp.where(jnp.isnan(top), top, jnp.zeros_like(top))
    placed, result = jnp.asarray(False), []
    for leaf, weight, leaf_top in zip(a, c, tops, strict=True):
        here = (leaf_top == top) & ~placed
        placed |= here
        # An argmax by reductions alone: it neither flattens nor gathers a sharded leaf.
        is_top = leaf == top
        position = jnp.maximum(_positions(leaf.shape), leaf.size * ~is_top)
        is_first = here & is_top & (position == jnp.min(position))
        size = length.astype(leaf.dtype) / weight
        result.append(is_first.astype(leaf.dtype) * size + broken.astype(leaf.dtype))
    return result


def _positions(shape: tuple[int, ...]) -> jax.Array:
    """The index that each entry has in the flattened array."""
    position = jnp.zeros(shape, jnp.int32)
    for axis, size in enumerate(shape):
        position = position * size + jax.lax.broadcasted_iota(jnp.int32, shape, axis)
    return position
