"""Checks of examples and labels that all functions of the room share."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust import trees

Array = jax.Array | np.ndarray  # what the functions of the room take


def is_concrete(*arrays: Any) -> bool:
    """Whether the values, not only the shapes, can be looked at."""
    return not any(isinstance(array, Tracer) for array in arrays)


def check_examples(x: Array, y: Array) -> None:
    """Raises unless ``x (n, *features)`` is finite and floating, and ``y (n,)`` has its labels.

    Values are looked at only where they are known: not those of traced arrays.
    """
    check_array("x", x)
    if x.ndim < 2:
        raise ValueError(
            f"x must have shape (n, *features) with at least one feature axis, got {x.shape}"
        )
    if not hasattr(y, "dtype"):
        raise TypeError(f"y must be an array of labels, got {type(y).__name__}")
    if y.shape != (x.shape[0],):
        raise ValueError(
            f"y must have shape ({x.shape[0]},), one label per row of x, got {y.shape}"
        )
    if is_concrete(x) and not _is_finite(x):
        finite = np.isfinite(np.asarray(x)).reshape(len(x), -1)
        bad = np.flatnonzero(~np.all(finite, axis=1))
        raise ValueError(
            f"x has NaN or infinite entries, in examples {bad[:5].tolist()} ({bad.size} in all)"
        )


def _is_finite(x: Array) -> bool:
    if not isinstance(x, jax.Array):
        return bool(np.all(np.isfinite(x)))
    # Under jit even what is computed from a known array would be traced.
    with jax.ensure_compile_time_eval():
        return bool(_is_finite_on_device(x))


@jax.jit
def _is_finite_on_device(x: jax.Array) -> jax.Array:
    # Where x lies and in one pass: x is neither copied to the host nor to an array of booleans.
    # 0 * NaN and 0 * inf are NaN, and a sum, unlike a maximum, keeps NaN also over several devices.
    return jnp.sum(x * 0) == 0


def check_array(name: str, array: Any) -> None:
    """Raises unless it is one floating array, and not empty."""
    if not hasattr(array, "dtype"):
        raise TypeError(f"{name} must be a floating array, got {type(array).__name__}")
    trees.check_floating(name, array)


def check_signs(y: Array) -> None:
    """Raises unless every label is -1 or +1; not checked if ``y`` is traced."""
    if is_concrete(y):
        values = np.unique(np.asarray(y))
        if not np.all(np.isin(values, (-1, 1))):
            found = values[:6].tolist()
            raise ValueError(f"y must hold -1 and +1 only for a binary problem, got values {found}")


def check_classes(y: Array, num_classes: int) -> None:
    """Raises unless the labels are integers in [0, num_classes).

    The range is not checked if ``y`` is traced.
    """
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise TypeError(
            f"y must hold integer class labels for a problem of {num_classes} classes, "
            f"got {y.dtype}"
        )
    if is_concrete(y):
        low, high = int(np.min(np.asarray(y))), int(np.max(np.asarray(y)))
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"y must hold classes 0..{num_classes - 1}, got values from {low} to {high}"
            )


def check_problem(w: Array, x: Array, y: Array) -> bool:
    """Checks weights against examples; returns whether the problem has several classes.

    ``w`` of one example's shape is a binary problem, one more leading axis (at least 2) makes it
    multiclass.
    """
    check_examples(x, y)
    check_array("w", w)
    features = x.shape[1:]
    if w.shape == features:
        check_signs(y)
        return False
    if w.ndim == len(features) + 1 and w.shape[1:] == features and w.shape[0] >= 2:
        check_classes(y, w.shape[0])
        return True
    shapes = f"{features} (binary) or (classes, *{features})"
    raise ValueError(f"w must have shape {shapes}, got {w.shape}")


def check_nonnegative(name: str, values: Any) -> None:
    """Raises unless these are real numbers, one or an array, none known to be negative or NaN."""
    if not _is_real(values):
        raise TypeError(f"{name} must be a real number or an array of them, got {values!r}")
    if is_concrete(values) and not np.all(np.asarray(values) >= 0):
        raise ValueError(f"{name} must be 0 or more, got {values}")


def check_positive(name: str, value: Any, *, must_be_known: bool = False) -> None:
    """Raises unless this is one real number, not known to be zero, negative or NaN.

    ``must_be_known`` is for what decides while tracing: then a traced number is refused as well.
    """
    if not _is_real(value) or jnp.ndim(value) != 0:
        raise TypeError(f"{name} must be a real number, got {value!r}")
    if not is_concrete(value):
        if must_be_known:
            raise TypeError(
                f"{name} must be a known number where the data are known, got the traced {value}"
            )
    elif not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")


def _is_real(values: Any) -> bool:
    if isinstance(values, bool) or not isinstance(
        values, int | float | np.generic | np.ndarray | jax.Array
    ):
        return False
    dtype = getattr(values, "dtype", type(values))
    return jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
