"""Inner products of all pairs of per-example gradients."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust.per_example._backward import Pass, run
from jaxrobust.per_example._norms import aux_of
from jaxrobust.per_example._products import inner_products, keep, of_chunks_in_pairs
from jaxrobust.per_example._trace import LossFn, Traced, check_batch, trace


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
    others = keep(right, right_pass, left.batch_size)
    total = inner_products(left, left_pass, others)
    if left.plan.leaves_by("chunks"):
        total = total + of_chunks_in_pairs(left, right)
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
