"""Checks of numbers, with messages that name the argument."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def check_range(
    name: str, value: Any, low: float, high: float | None, *, above=False, below=False
) -> None:
    """Raises for what is no number, and, unless it is traced, for one out of range.

    ``above`` and ``below`` leave out the ends; without ``high`` it must be finite.
    """
    if np.ndim(value) != 0:
        raise ValueError(f"{name} must be a number, got shape {np.shape(value)}")
    if isinstance(value, Tracer):
        return
    number = float(value)
    fits = number > low if above else number >= low
    most = math.inf if high is None else high
    fits &= number < most if below or high is None else number <= most
    if not fits:
        words = f"above {low}" if above else f"at least {low}"
        words += "" if high is None else f" and {'below' if below else 'at most'} {high}"
        words += " and finite" if math.isinf(number) else ""
        raise ValueError(f"{name} must be {words}, got {value}")


def check_choice(name: str, value: Any, known: tuple[str, ...]) -> None:
    """Raises for a name that is not among those known."""
    if value not in known:
        raise ValueError(f"{name} must be one of {known}, got {value!r}")


def is_floating(leaf: Any) -> bool:
    """Whether this is a leaf of params that is learned, and not a count or an index."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
