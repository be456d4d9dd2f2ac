"""Checks of arguments that several rooms have."""

import operator
from typing import Any

import jax
import numpy as np


def check_count(name: str, value: Any, *, least: int = 1, most: int | None = None) -> int:
    """The argument as an int, NumPy's integers included.

    Raises:
      ValueError: if it is no integer in ``least..most``, or a bool. The message names it.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        bounds = f"of at least {least}" if most is None else f"in {least}..{most}"
        raise ValueError(f"{name} must be an integer {bounds}, got {value!r}")
    return number


def broadcasts_to(shape: tuple[int, ...], like: tuple[int, ...]) -> bool:
    """Whether an array of this shape can be stretched to that one."""
    try:
        return np.broadcast_shapes(shape, like) == like
    except ValueError:
        return False


def check_examples(name: str, data: Any) -> int:
    """The number of examples, which all leaves ``(N, ...)`` have, at least one."""
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(data)]
    lengths = {shape[:1] for shape in shapes}
    if len(lengths) != 1 or lengths == {()} or lengths == {(0,)}:
        raise ValueError(
            f"{name} must have arrays (N, ...) with one number of examples, at least 1, in all "
            f"leaves; got shapes {shapes}"
        )
    return shapes[0][0]
