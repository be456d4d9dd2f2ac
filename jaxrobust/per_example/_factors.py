"""The two factors of per-example gradients, for methods that are written in terms of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.per_example._backward import Pass, factors_of, recorded, run
from jaxrobust.per_example._batching import map_examples
from jaxrobust.per_example._norms import aux_of
from jaxrobust.per_example._trace import LossFn, Traced, trace


class Factors(NamedTuple):
    """Gradients of a part of a leaf as sums of outer products over T positions, of B examples.

    Entry (i, o) of block g of an example's gradient is ``sum_t a[g, t, i] d[g, t, o]``.
    """

    a: jax.Array  # (B, blocks, T, rows): inputs of the operations that use the leaf
    d: jax.Array  # (B, blocks, T, columns): cotangents of their outputs


def factors(loss_fn: LossFn, *, has_aux: bool = False) -> Callable[[Any, Any], Any]:
    r"""The factors of all gradients, :math:`g_i = \sum_t a_{it} d_{it}^T`, where they have any.

    For a dense layer a is its input and d the cotangent of its output; a sequence or loop has many
    positions t, a convolution one for every window, which is a row of a. Blocks are the groups of a
    convolution, the batch axes of a product, and layers of a scan: parts of a leaf that do not mix.
    A leaf that is used several times has the positions of all its uses one after the other.

    Args:
      loss_fn: ``loss_fn(params, example) -> ()``, the loss of one example.
      has_aux: whether ``loss_fn`` returns ``(loss, aux)``.

    Returns:
      A function of ``(params, batch)`` that returns a dictionary, with ``has_aux`` ``(dictionary,
      aux)``. It has the leaves that are used in products or convolutions, by their path in
      ``params`` as in :func:`explain`, for each a tuple of :class:`Factors`: one for each part of
      the leaf that is used by itself. Left out are leaves that are only looked up, and those that
      :func:`explain` shows as expanded, in chunks or unused: biases and scales, above all. The
      windows of convolutions and one-hot rows of tables are formed, which takes memory;
      :func:`norms`, :func:`dots`, :func:`sketches` and :func:`gram` do without where they can.

    Raises:
      ValueError, TypeError: at the call, as :func:`norms`.
    """

    def per_example_factors(params: Any, batch: Any) -> Any:
        traced = trace(loss_fn, params, batch, has_aux=has_aux)
        done = run(traced)
        found = {}
        for leaf in traced.plan.leaves_by("factors", "instantiate"):
            uses = [use for group in traced.plan.leaves[leaf].groups for use in group]
            if any(use.site.kind != "lookup" for use in uses):
                found[traced.paths[leaf]] = _of_leaf(traced, done, leaf)
        return (found, aux_of(traced, done)) if has_aux else found

    return per_example_factors


def _of_leaf(traced: Traced, done: Pass, leaf: int) -> tuple[Factors, ...]:
    def one(*of_example):
        return tuple(
            Factors(
                jnp.concatenate([use.rows() for use in group], axis=1),
                jnp.concatenate([use.d for use in group], axis=1),
            )
            for group in factors_of(traced, leaf, *of_example)
        )

    return map_examples(one, *recorded(traced, done, leaf))
