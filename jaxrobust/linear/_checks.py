"""Checks of examples and labels that all functions of the room share."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import trees


def is_concrete(*arrays: Any) -> bool:
    """Whether the values, not only the shapes, can be looked at."""
    return not any(isinstance(array, jax.core.Tracer) for array in arrays)


def check_examples(x: jax.Array, y: jax.Array) -> None:
    """Raises unless ``x (n, *features)`` is finite and floating and ``y (n,)`` has one label per example.

    Values are looked at only outside of a trace.
    """
    trees.check_floating("x", x)
    if jnp.ndim(x) < 2:
        raise ValueError(f"x must have shape (n, *features) with at least one feature axis, got {jnp.shape(x)}")
    if jnp.shape(y) != (x.shape[0],):
        raise ValueError(f"y must have shape ({x.shape[0]},), one label per row of x, got {jnp.shape(y)}")
    if is_concrete(x) and not bool(jnp.all(jnp.isfinite(x))):
        bad = np.unique(np.argwhere(~np.isfinite(np.asarray(x)))[:, 0])
        raise ValueError(f"x has NaN or infinite entries, in examples {bad[:5].tolist()} ({bad.size} in all)")


def check_signs(y: jax.Array) -> None:
    """Raises unless every label is -1 or +1; not checked under a trace."""
    if is_concrete(y):
        values = np.unique(np.asarray(y))
        if not np.all(np.isin(values, (-1, 1))):
            raise ValueError(f"y must hold -1 and +1 only for a binary problem, got values {values[:6].tolist()}")


def check_classes(y: jax.Array, num_classes: int) -> None:
    """Raises unless the labels are integers in [0, num_classes); the range is not checked under a trace."""
    if not jnp.issubdtype(jnp.result_type(y), jnp.integer):
        raise TypeError(f"y must hold integer class labels for a problem of {num_classes} classes, got {y.dtype}")
    if is_concrete(y):
        low, high = int(jnp.min(y)), int(jnp.max(y))
        if low < 0 or high >= num_classes:
            raise ValueError(f"y must hold classes 0..{num_classes - 1}, got values from {low} to {high}")


def check_problem(w: jax.Array, x: jax.Array, y: jax.Array) -> bool:
    """Checks weights against examples; returns whether the problem has several classes.

    ``w`` of one example's shape is a binary problem, one more leading axis (at least 2) makes it multiclass.
    """
    check_examples(x, y)
    trees.check_floating("w", w)
    features = x.shape[1:]
    if jnp.shape(w) == features:
        check_signs(y)
        return False
    if jnp.ndim(w) == len(features) + 1 and jnp.shape(w)[1:] == features and jnp.shape(w)[0] >= 2:
        check_classes(y, w.shape[0])
        return True
    raise ValueError(f"w must have shape {features} (binary) or (classes, *{features}), got {jnp.shape(w)}")
