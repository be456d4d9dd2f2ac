"""Checks of hyperparameters and of keywords of ``update``, shared by this room's transforms."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from jaxrobust import trees


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


def required(extra_args: Mapping[str, Any], name: str, how: str) -> Any:
    """The keyword ``name`` of ``update``.

    A transform that asks here, and not by its signature, can say where the value comes from.

    Args:
      extra_args: the keywords that ``update`` got.
      name: of the one that is needed.
      how: what it is and how to get it; it ends the message.

    Raises:
      TypeError: if it is missing or None.
    """
    if extra_args.get(name) is None:
        raise TypeError(f"update needs the keyword {name}: {how}")
    return extra_args[name]


def required_scalar(extra_args: Mapping[str, Any], name: str, how: str) -> jax.Array:
    """As :func:`required`, for a real floating scalar; returned in float32 at least.

    Raises:
      TypeError: if it is missing, None or not real floating.
      ValueError: if it has axes.
    """
    value = required(extra_args, name, how)
    trees.check_floating(name, value)
    if jnp.shape(value) != ():
        raise ValueError(f"{name} must be a scalar, got shape {jnp.shape(value)}")
    return trees.promote(value)


def required_tree(extra_args: Mapping[str, Any], name: str, how: str, updates: Any) -> Any:
    """As :func:`required`, for a tree like the updates; returned in float32 at least.

    Where ``optax.masked`` (or ``partition``) has hidden a part of the updates, and left this tree
    whole, the same part is hidden here.

    Raises:
      TypeError: if it is missing or None, or a leaf is not real floating.
      ValueError: if structure or shapes differ from those of ``updates``.
    """
    tree = required(extra_args, name, how)
    is_hidden = lambda node: isinstance(node, optax.MaskedNode)
    outer = jax.tree.structure(updates, is_leaf=is_hidden)
    try:
        parts = outer.flatten_up_to(tree)
    except (ValueError, TypeError) as error:  # which of them depends on the kinds of the nodes
        raise ValueError(f"{name} differs from the updates in structure: {error}") from error
    hidden = map(is_hidden, jax.tree.leaves(updates, is_leaf=is_hidden))
    parts = [optax.MaskedNode() if h else part for h, part in zip(hidden, parts, strict=True)]
    visible = outer.unflatten(parts)
    if jax.tree.structure(visible) != jax.tree.structure(updates):
        found, expected = jax.tree.structure(visible), jax.tree.structure(updates)
        raise ValueError(f"{name} differs from the updates in structure: {found}, not {expected}")
    trees.check_floating(name, visible)
    pairs = zip(jax.tree_util.tree_leaves_with_path(visible), jax.tree.leaves(updates), strict=True)
    for (path, leaf), update in pairs:
        if jnp.shape(leaf) != jnp.shape(update):
            where = f"{name}{jax.tree_util.keystr(path)}"
            raise ValueError(
                f"{where} must have the shape {jnp.shape(update)} of the updates, got "
                f"{jnp.shape(leaf)}"
            )
    return trees.promote(visible)


def _is_real(value: Any) -> bool:
    if not isinstance(value, int | float | np.generic | np.ndarray | jax.Array):
        return False
    dtype = jnp.result_type(value)  # of a bool it is neither
    return jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
