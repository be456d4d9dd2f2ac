"""Which programs a backend runs slowly inside of compiled loops."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.core import Tracer

from jaxrobust import trees
from jaxrobust.per_example._trace import LossFn


def slow_in_loops(loss_fn: LossFn) -> Callable[[Any, Any], bool]:
    """Whether a loop over batches is better a Python loop than a ``scan``.

    On a CPU, XLA runs a convolution inside of a compiled loop 10 to 15 times slower than outside
    (measured with jax 0.10: 70 instead of 5 ms for a step of a small CNN). On other backends, and
    for losses without convolutions, a compiled loop is at least as fast.

    Args:
      loss_fn: ``loss_fn(params, example) -> ()``, the loss of one example.

    Returns:
      A function of ``(params, batch)`` that returns a bool; False if any of them is traced, for
      then the loop is compiled in any case. It looks once per loss function and shapes.
    """

    def slow(params: Any, batch: Any) -> bool:
        leaves, structure = jax.tree.flatten((params, batch))
        if jax.default_backend() != "cpu" or any(isinstance(leaf, Tracer) for leaf in leaves):
            return False
        shapes = tuple(jax.typeof(leaf) for leaf in leaves)
        return _has_convolution(loss_fn, structure, shapes)

    return slow


@functools.lru_cache(maxsize=256)
def _has_convolution(loss_fn: LossFn, structure: Any, shapes: tuple[Any, ...]) -> bool:
    as_arrays = [jax.ShapeDtypeStruct(shape.shape, shape.dtype) for shape in shapes]
    params, batch = jax.tree.unflatten(structure, as_arrays)
    closed = jax.make_jaxpr(jax.vmap(loss_fn, (None, 0)))(params, batch)
    return "conv_general_dilated" in trees.primitives(closed.jaxpr)
