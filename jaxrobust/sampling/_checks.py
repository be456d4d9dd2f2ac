"""Checks of arguments, with messages that name them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust import trees

# Places and sums of two of them are int32.
MOST_EXAMPLES = 2**30


def check_count(name: str, value: Any, most: int = MOST_EXAMPLES) -> int:
    """A positive integer, NumPy's included, that fits a place."""
    return trees.check_count(name, value, most=most)


def check_share(name: str, value: float) -> float:
    """A number in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value}")
    return value


def check_scores(name: str, scores: Any, num_examples: int | None = None) -> jax.Array:
    """Scores ``(N,)`` in float32 at least; unless traced, finite, not negative, not all zero."""
    scores = trees.bring_together(jnp.asarray(scores))
    if not jnp.issubdtype(scores.dtype, jnp.floating) and not jnp.issubdtype(
        scores.dtype, jnp.integer
    ):
        raise TypeError(f"{name} must be real numbers, got {scores.dtype}")
    shape = "(N,)" if num_examples is None else f"({num_examples},)"
    if scores.ndim != 1 or scores.size == 0 or num_examples not in (None, scores.size):
        raise ValueError(f"{name} must be of shape {shape}, got {scores.shape}")
    if not isinstance(scores, Tracer):
        found = np.asarray(scores, np.float64)
        for wrong, what in ((~np.isfinite(found), "finite"), (found < 0, "0 or more")):
            if wrong.any():
                raise ValueError(
                    f"{name} must be {what}; {wrong.sum()} of {found.size} are not, of examples "
                    f"{some(np.nonzero(wrong)[0])}"
                )
        if not found.any():
            raise ValueError(f"{name} must not all be 0: there would be nothing to draw by")
    return scores.astype(jnp.promote_types(scores.dtype, jnp.float32))


def check_assignments(name: str, assignments: Any, num_clusters: int | None) -> jax.Array:
    """Assignments ``(N,)`` as int32; unless traced, all in range."""
    assignments = trees.bring_together(jnp.asarray(assignments))
    if assignments.size and not jnp.issubdtype(assignments.dtype, jnp.integer):
        raise TypeError(f"{name} must be integers, got {assignments.dtype}")
    if assignments.ndim != 1 or assignments.size == 0:  # a list of none has a floating dtype
        raise ValueError(f"{name} must be of shape (N,), got {assignments.shape}")
    if not isinstance(assignments, Tracer):
        found = np.asarray(assignments)
        wrong = (found < 0) | (found >= (MOST_EXAMPLES if num_clusters is None else num_clusters))
        if wrong.any():
            most = "" if num_clusters is None else str(num_clusters - 1)
            raise ValueError(
                f"{name} must be in 0..{most}; {wrong.sum()} are not, of examples "
                f"{some(np.nonzero(wrong)[0])}"
            )
    return assignments.astype(jnp.int32)


def check_clusters(assignments: Any, num_clusters: int | None) -> tuple[jax.Array, int]:
    """Assignments, and the number of clusters: the largest plus 1 if it is not given."""
    if num_clusters is not None:
        num_clusters = check_count("num_clusters", num_clusters)
    assignments = check_assignments("assignments", assignments, num_clusters)
    if num_clusters is None:
        if isinstance(assignments, Tracer):
            raise ValueError("num_clusters must be given when assignments are traced")
        num_clusters = int(np.max(np.asarray(assignments))) + 1
    return assignments, num_clusters


def some(indices: np.ndarray) -> str:
    """The first of many numbers."""
    shown = ", ".join(map(str, indices[:10]))
    return f"{shown}, ..." if indices.size > 10 else shown
