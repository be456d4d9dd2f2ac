"""Functions of the library as one program each, so that tests do not wait for the compiler."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function under ``jax.jit``: arrays are traced, all other arguments are known.

    Called as it is, JAX compiles a program for every operation, which takes ten times as long. Each
    test of one file finds what another has compiled.
    """
    programs: dict[Any, Callable[..., Any]] = {}

    @functools.wraps(function)
    def call(*arguments, **options):
        leaves, structure = jax.tree.flatten((arguments, options))
        arrays = [leaf if isinstance(leaf, jax.Array | np.ndarray) else None for leaf in leaves]
        known = [
            leaf if array is None else None for leaf, array in zip(leaves, arrays, strict=True)
        ]

        def run(arrays):
            both = zip(arrays, known, strict=True)
            given = [other if array is None else array for array, other in both]
            arguments, options = jax.tree.unflatten(structure, given)
            return function(*arguments, **options)

        # With types: 1, 1.0 and True are equal. A tree without arrays in place of its leaves has a
        # structure of its own, for None is no leaf.
        key = structure, jax.tree.structure(arrays), tuple((type(z), z) for z in known)
        try:
            program = programs.setdefault(key, jax.jit(run))
        except TypeError:  # an option that is not hashable
            program = jax.jit(run)
        return program(arrays)

    return call
