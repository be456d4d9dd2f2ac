"""Checks of scalar hyperparameters, shared by the transforms of this room."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def check_scalar(name: str, value: Any, allowed: Callable[[float], bool], meaning: str) -> None:
    """Raises unless ``value`` is a real scalar that is ``allowed``.

    Args:
      name: the argument's name, as the caller's user knows it; it opens the message.
      value: Python, NumPy or JAX number. Of a traced one (as under ``optax.inject_hyperparams``)
        only shape and dtype are checked.
      allowed: predicate; false for NaN if it is made of comparisons alone.
      meaning: ``allowed`` in words, for the message ``"<name> must be <meaning>"``.

    Raises:
      TypeError: if it is no real number.
      ValueError: if it is an array with axes, or not allowed.
    """
    if not _is_real(value):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    if jnp.ndim(value) != 0:
        raise ValueError(f"{name} must be a scalar, got shape {jnp.shape(value)}")
    # As a Python float: under jit even the comparison of a known jax.Array would be traced.
    if not isinstance(value, Tracer) and not allowed(float(value)):
        raise ValueError(f"{name} must be {meaning}, got {value}")


def _is_real(value: Any) -> bool:
    if not isinstance(value, int | float | np.generic | np.ndarray | jax.Array):
        return False
    dtype = jnp.result_type(value)  # of a bool it is neither
    return jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
