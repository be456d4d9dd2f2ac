"""Compares the fast way with the slow one, for users who want to trust it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import trees
from jaxrobust.per_example._gradients import gradients
from jaxrobust.per_example._norms import norms
from jaxrobust.per_example._trace import LossFn, check_batch, leaf_name

# 1000 rounding units are 0.98 in float16 and 7.8 in bfloat16, where no error would be too large.
_MOST_TOLERANCE = 0.05


@dataclasses.dataclass(frozen=True)
class Check:
    """How far the norms of every leaf are from those of ``vmap(grad)``.

    Errors are relative to the norm of the example's whole gradient, the largest over examples.
    """

    ok: bool  # whether all errors are at most the tolerance
    worst_leaf: str  # path of the leaf with the largest error
    worst_error: float
    errors: dict[str, float]  # by leaf
    tolerance: float
    num_examples: int

    def __str__(self) -> str:
        verdict = "agree" if self.ok else "DISAGREE"
        return (
            f"norms and vmap(grad) {verdict} on {self.num_examples} examples: largest error "
            f"{self.worst_error:.1e} of the gradient's norm, at {self.worst_leaf} (tolerance "
            f"{self.tolerance:.1e})"
        )


def check(
    loss_fn: LossFn, *, num_examples: int = 4, tolerance: float | None = None, has_aux: bool = False
) -> Callable[[Any, Any], Check]:
    """Holds :func:`norms` against ``vmap(grad)``, leaf by leaf, on the first few examples.

    Args:
      loss_fn: ``loss_fn(params, example) -> ()``, the loss of one example.
      num_examples: how many examples of the batch are taken, at most.
      tolerance: largest error relative to the norm of the example's gradient; by default 1000 times
        the rounding unit of the params' dtype (1.2e-4 in float32), and at most 5 %: in bfloat16 and
        float16, where each entry of a gradient is rounded by up to 0.4 %, what is missing from a
        leaf shows if it is more than that of the gradient.
      has_aux: whether ``loss_fn`` returns ``(loss, aux)``.

    Returns:
      A function of ``(params, batch)`` that returns a :class:`Check`; ``print`` it, or look at
      ``ok``. Not for use under ``jit``.

    Raises:
      ValueError: if ``num_examples`` is no positive integer or ``tolerance`` is not positive; at
        the call, as :func:`norms`.
      TypeError: at the call, as :func:`norms`.
    """
    num_examples = trees.check_count("num_examples", num_examples)
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}")

    def check_batch_of(params: Any, batch: Any) -> Check:
        leaves, structure, size = check_batch(batch)
        few = structure.unflatten(
            [leaf[: min(size, num_examples)] for leaf in trees.bring_together(leaves)]
        )
        fast = jax.tree.leaves(jax.jit(norms(loss_fn, by_leaf=True, has_aux=has_aux))(params, few))
        slow = jax.jit(gradients(loss_fn, has_aux=has_aux))(params, few)
        if has_aux:
            fast, slow = fast[: len(jax.tree.leaves(params))], slow[0]
        with_paths = jax.tree_util.tree_leaves_with_path(slow)
        exact = [_norms(leaf) for _, leaf in with_paths]
        whole = np.sqrt(sum(norm**2 for norm in exact))
        scale = np.where(whole > 0, whole, 1)
        errors = {
            leaf_name(path): float(np.max(np.abs(np.asarray(ours) - norm) / scale))
            for (path, _), ours, norm in zip(with_paths, fast, exact, strict=True)
        }
        dtype = jnp.result_type(*jax.tree.leaves(params))
        default = min(1000 * float(jnp.finfo(dtype).eps), _MOST_TOLERANCE)
        bar = default if tolerance is None else tolerance
        worst = max(errors, key=lambda path: np.nan_to_num(errors[path], nan=np.inf))
        return Check(
            ok=all(error <= bar for error in errors.values()),
            worst_leaf=worst,
            worst_error=errors[worst],
            errors=errors,
            tolerance=bar,
            num_examples=min(size, num_examples),
        )

    return check_batch_of


def _norms(leaf: jax.Array) -> np.ndarray:
    flat = trees.promote(leaf).reshape(leaf.shape[0], -1)
    return np.linalg.norm(np.asarray(flat, np.float64), axis=1)
