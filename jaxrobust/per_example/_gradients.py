"""The slow twin: per-example gradients as arrays."""

from collections.abc import Callable
from typing import Any

import jax

from jaxrobust import trees
from jaxrobust.per_example._batching import map_in_chunks
from jaxrobust.per_example._trace import LossFn, check_loss, explained


def gradients(
    loss_fn: LossFn, *, chunk_size: int | None = None, has_aux: bool = False
) -> Callable[[Any, Any], Any]:
    r"""Per-example gradients :math:`g_i = \nabla_\theta \ell(\theta, x_i)`, all of them in memory.

    It is ``vmap(grad(loss_fn), (None, 0))``, in chunks if asked for: the reference for everything
    else in this room, and what to use when the gradients themselves are wanted.

    Args:
      loss_fn: ``loss_fn(params, example) -> ()``, the loss of one example, without the batch axis;
        with ``has_aux``, ``(loss, aux)``.
      chunk_size: number of examples whose gradients are computed at once; None for all. The result
        is of the same size either way, what is computed on the way is not. Not heeded for a batch
        that is sharded over explicit mesh axes, which is spread over devices already.
      has_aux: whether ``loss_fn`` returns something else along with the loss.

    Returns:
      A function of ``(params, batch)``. The leaves of ``batch`` are ``(B, ...)``. It returns a tree
      like ``params`` with leaves ``(B, *leaf)``; with ``has_aux``, ``(gradients, aux)``, the leaves
      of ``aux`` with a leading axis B.

    Raises:
      ValueError: if ``chunk_size`` is less than 1; at the call, if ``batch`` is empty, has leaves
        of different lengths or a scalar, a leaf of ``params`` has no entries, or the loss is not a
        scalar array.
      TypeError: at the call, if a leaf of ``params`` or the loss is not real floating, or a leaf of
        ``batch`` or of aux is no array of numbers.
    """
    if chunk_size is not None:
        chunk_size = trees.check_count("chunk_size", chunk_size)

    def per_example_gradients(params: Any, batch: Any) -> Any:
        batch_size, _ = check_loss(loss_fn, params, batch, has_aux=has_aux)
        params, batch = trees.vary_alike((params, batch))

        def one(example):
            return jax.grad(loss_fn, has_aux=has_aux)(params, example)

        with explained():
            return map_in_chunks(one, batch, chunk_size or batch_size)

    return per_example_gradients
