"""Pytree linear algebra: inner products, norms, stacking, and the dtype policy of the library.

A *tree* is any pytree of floating arrays. Sums accumulate in float32 at least
(:func:`accumulator`), so that bfloat16 trees do not lose their small leaves, and inner products are
elementwise products and sums, so that a TPU's default bfloat16 matrix passes do not enter a
quantity that defines an algorithm.
"""

from jaxrobust.trees._algebra import add, dot, l2_norm, scale, size, stack, unstack
from jaxrobust.trees._dtypes import accumulator, cast_like, check_floating, promote

__all__ = [
    "accumulator",
    "add",
    "cast_like",
    "check_floating",
    "dot",
    "l2_norm",
    "promote",
    "scale",
    "size",
    "stack",
    "unstack",
]
