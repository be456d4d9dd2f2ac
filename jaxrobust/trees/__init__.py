"""Pytree linear algebra: inner products, norms, stacking, and the dtype policy of the library.

A *tree* is any pytree of floating arrays. Sums accumulate in float32 at least
(:func:`accumulator`), so that bfloat16 trees do not lose their small leaves, and inner products are
elementwise products and sums, so that a TPU's default bfloat16 matrix passes do not enter a
quantity that defines an algorithm. Besides: rows of arrays of examples, and what each device does
with its own, where these are sharded over explicit mesh axes; and :func:`compiled`, which is
``jit`` but for loops that are slow on a CPU, with what looks into traced programs.
"""

from jaxrobust.trees._algebra import add, dot, l2_norm, scale, size, stack, unstack
from jaxrobust.trees._checks import broadcasts_to, check_count, check_examples
from jaxrobust.trees._devices import (
    bring_together,
    first_axis,
    gather,
    is_sharded,
    on_each_device,
    take,
    vary_alike,
    vary_like,
)
from jaxrobust.trees._dtypes import accumulator, cast_like, check_floating, promote
from jaxrobust.trees._jaxprs import bodies, primitives, scan_sizes
from jaxrobust.trees._programs import compiled

__all__ = [
    "accumulator",
    "add",
    "bodies",
    "bring_together",
    "broadcasts_to",
    "cast_like",
    "check_count",
    "check_examples",
    "check_floating",
    "compiled",
    "dot",
    "first_axis",
    "gather",
    "is_sharded",
    "l2_norm",
    "on_each_device",
    "primitives",
    "promote",
    "scale",
    "scan_sizes",
    "size",
    "stack",
    "take",
    "unstack",
    "vary_alike",
    "vary_like",
]
