"""Argument checks shared by the files of this room."""

from __future__ import annotations

import math
import operator
from typing import Any, SupportsIndex

import numpy as np


def whole(name: str, value: SupportsIndex, low: int, high: int | None = None) -> int:
    """``value`` as an int in low..high; TypeError or ValueError naming the argument otherwise."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None
    if number < low or (high is not None and number > high):
        limit = f"at least {low}" if high is None else f"in {low}..{high}"
        raise ValueError(f"{name} must be {limit}, got {number}")
    return number


def positive(name: str, value: float) -> float:
    """``value`` as a finite float above zero; an error naming the argument otherwise."""
    number = _real(name, value)
    if not (number > 0 and math.isfinite(number)):
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")
    return number


def fraction(name: str, value: float) -> float:
    """``value`` as a float in [0, 1); an error naming the argument otherwise."""
    number = _real(name, value)
    if not 0 <= number < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value!r}")
    return number


def _real(name: str, value: Any) -> float:
    """``value`` as a float; TypeError naming the argument otherwise, also for a number in words."""
    try:
        if isinstance(value, str | bytes) or np.ndim(value) != 0:
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a real number, got {value!r}") from None
