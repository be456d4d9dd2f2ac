"""Checks of options."""

from typing import Any

import numpy as np
from jax.core import Tracer


def check_positive(name: str, value: Any) -> None:
    """Raises unless it is a known number above 0 and finite."""
    if isinstance(value, Tracer | bool | str) or np.ndim(value) != 0:
        raise TypeError(f"{name} must be a known number, got {value!r}")
    if not 0 < float(value) < float("inf"):
        raise ValueError(f"{name} must be positive and finite, got {value}")
