"""Checks of arguments, with messages that name them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust import trees


def check_points(name: str, points: Any, *, distances: bool = True) -> jax.Array:
    """Points ``(N, d)`` in float32 at least; if they are not traced, finite ones.

    With ``distances`` such that squared distances, and sums of N of them, are finite as well.
    """
    return check_and_sum(name, points, distances=distances)[0]


def check_and_sum(
    name: str, points: Any, *, distances: bool = True
) -> tuple[jax.Array, float | None]:
    """The same; and 4 N times the sum of squares, unless traced or without ``distances``."""
    trees.check_floating(name, points)
    if jnp.ndim(points) != 2:
        raise ValueError(f"{name} must be of shape (N, d), got {jnp.shape(points)}")
    total = None if isinstance(points, Tracer) else float(_total(points, distances))
    if total is not None and not np.isfinite(total):
        (bad,) = np.nonzero(~np.asarray(_are_finite(points)))
        if bad.size == 0:
            raise ValueError(
                f"{name} must be small enough for sums of their squared distances to be finite in "
                f"{trees.accumulator(points.dtype)}; the largest entry is "
                f"{float(jnp.max(jnp.abs(points))):.3g}: scale them"
            )
        raise ValueError(
            f"{name} must be finite; {bad.size} of {len(points)} are not: {_some(bad)}"
        )
    ready = trees.promote(trees.bring_together(jnp.asarray(points)))
    return ready, total if distances else None


def check_rows(name: str, points: Any) -> jax.Array:
    """Arrays ``(N, ...)`` of real numbers as rows ``(N, d)``; if they are not traced, finite."""
    leaves = jax.tree.leaves(points)
    for leaf in leaves:
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not (jnp.issubdtype(dtype, jnp.number) or dtype == jnp.bool_):
            raise TypeError(f"{name} must be arrays of numbers, got {dtype or type(leaf).__name__}")
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(f"{name} must be arrays of real numbers, got {dtype}")
    number = trees.check_examples(name, points)
    leaves = trees.bring_together(leaves)
    promoted = trees.promote([jnp.asarray(leaf).reshape(number, -1) for leaf in leaves])
    return check_points(name, jnp.concatenate(promoted, axis=1), distances=False)


def check_assignments(name: str, assignments: Any, num_points: int, num_clusters: int) -> jax.Array:
    """Assignments as int32; if they are not traced, all in range."""
    assignments = jnp.asarray(assignments)
    if not jnp.issubdtype(assignments.dtype, jnp.integer):
        raise TypeError(f"{name} must be integers, got {assignments.dtype}")
    if assignments.shape != (num_points,):
        raise ValueError(f"{name} must be of shape ({num_points},), got {assignments.shape}")
    if not isinstance(assignments, Tracer):
        found = np.asarray(assignments)
        (bad,) = np.nonzero((found < 0) | (found >= num_clusters))
        if bad.size:
            raise ValueError(
                f"{name} must be in 0..{num_clusters - 1}; {bad.size} are not, of points "
                f"{_some(bad)}"
            )
    return trees.bring_together(assignments).astype(jnp.int32)


def check_tolerance(name: str, value: Any) -> None:
    """Raises for a tolerance that is negative or NaN, unless it is traced."""
    if not isinstance(value, Tracer) and not np.all(np.asarray(value) >= 0):
        raise ValueError(f"{name} must be at least 0, got {value}")


@functools.partial(jax.jit, static_argnums=1)
def _total(points: jax.Array, distances: bool) -> jax.Array:
    """Finite if all points are, and with ``distances`` their objective as well."""
    # A sum of numbers is many times faster than an "all". Zero times what is not finite is NaN.
    if not distances:
        return jnp.sum(points * 0)
    # The objective is at most 4 N times the sum of squares.
    return 4.0 * points.shape[0] * jnp.sum(trees.promote(points) ** 2)


@jax.jit  # one program: no mask of the size of the points
def _are_finite(points: jax.Array) -> jax.Array:
    return jnp.all(jnp.isfinite(points), axis=1)


def _some(indices: np.ndarray) -> str:
    shown = ", ".join(map(str, indices[:10]))
    return f"{shown}, ..." if indices.size > 10 else shown
