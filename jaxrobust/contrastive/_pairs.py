"""A batch of pairs: checked arguments, and what losses know of it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust import trees


class Positives(NamedTuple):
    """Who belongs together, besides a pair."""

    ids: jax.Array  # (B,) int
    mask: jax.Array | None  # (B, B) bool


def check_embeddings(name: str, z: Any, valid: Any = None) -> jax.Array:
    """Embeddings ``(B, D)`` of a floating dtype; if they are not traced, finite ones.

    Rows that are not valid may hold anything: they become ones, for zero times NaN is NaN, and a
    similarity of the user's own may have no value at zero.
    """
    trees.check_floating(name, z)
    if jnp.ndim(z) != 2:
        raise ValueError(f"{name} must be of shape (B, D), got {jnp.shape(z)}")
    if valid is not None:
        z = jnp.where(check_valid("valid", valid, len(z))[:, None], z, 1)
    if not isinstance(z, Tracer):
        rows = np.asarray(z if jnp.result_type(z).itemsize >= 4 else trees.promote(z))
        (bad,) = np.nonzero(~np.isfinite(rows).all(axis=1))
        if bad.size:
            shown = ", ".join(map(str, bad[:10])) + (", ..." if bad.size > 10 else "")
            raise ValueError(f"{name} must be finite; {bad.size} of {len(z)} rows are not: {shown}")
    return jnp.asarray(z)


def check_alike(x: jax.Array, y: jax.Array) -> None:
    """Row i of one belongs to row i of the other."""
    if x.shape != y.shape:
        raise ValueError(f"x and y must be of one shape (B, D), got {x.shape} and {y.shape}")


def check_positives(positives: Any, x: jax.Array, num_candidates: int) -> Positives:
    """None, ids ``(B,)`` or a mask ``(B, number of candidates)``."""
    number = x.shape[0]
    own = jnp.arange(number)
    if positives is None:
        return Positives(own, None)
    positives = check_ids("positives", positives)
    if positives.ndim == 1 and jnp.issubdtype(positives.dtype, jnp.integer):
        if positives.shape != (number,):
            raise ValueError(
                f"positives must be ids of shape ({number},), got shape {positives.shape}"
            )
        return Positives(positives, None)
    if positives.ndim == 2 and positives.dtype == jnp.bool_:
        if positives.shape != (number, num_candidates):
            raise ValueError(
                f"positives must be a mask of shape ({number}, {num_candidates}), got shape "
                f"{positives.shape}"
            )
        return Positives(own, positives)
    raise TypeError(
        f"positives must be None, integer ids ({number},) or a boolean mask ({number}, "
        f"{num_candidates}); got {positives.dtype}{positives.shape}"
    )


def check_valid(name: str, valid: Any, number: int) -> jax.Array:
    """None, or booleans ``(B,)``."""
    if valid is None:
        return jnp.ones(number, bool)
    valid = jnp.asarray(valid)
    if valid.shape != (number,) or valid.dtype != jnp.bool_:
        raise ValueError(f"{name} must be booleans ({number},), got {valid.dtype}{valid.shape}")
    return valid


def check_weights(weights: Any, valid: Any, number: int) -> jax.Array | None:
    """None, or numbers ``(B,)``, 0 for padding, whose weights may be anything."""
    if weights is None:
        return None
    given, weights = weights, trees.promote(jnp.asarray(weights))
    if weights.shape != (number,):
        raise ValueError(f"weights must be of shape ({number},), got {weights.shape}")
    # Of what was given: under jit even a constant becomes traced by what is done to it.
    is_known = not (isinstance(given, Tracer) or isinstance(valid, Tracer))
    if is_known:
        counted = np.asarray(given) if valid is None else np.asarray(given)[np.asarray(valid)]
        if not np.isfinite(counted).all():
            raise ValueError("weights must be finite")
    return weights if valid is None else jnp.where(valid, weights, 0)


def check_margin(margin: Any, number: int) -> jax.Array:
    """``()`` or ``(B, B)``, finite unless traced; without a gradient."""
    margins = jnp.asarray(margin, jnp.result_type(float))
    if margins.shape not in ((), (number, number)):
        raise ValueError(f"margin must be a number or ({number}, {number}), got {margins.shape}")
    # Of what was given: under jit even a constant becomes traced by what is done to it.
    if not isinstance(margin, Tracer) and not np.isfinite(np.asarray(margin)).all():
        raise ValueError("margin must be finite")
    return jax.lax.stop_gradient(margins)


def check_ids(name: str, ids: Any) -> jax.Array:
    """As an array, integers in JAX's default integer type; ValueError for those that do not fit."""
    given = ids if isinstance(ids, jax.Array | Tracer) else np.asarray(ids)
    if not jnp.issubdtype(given.dtype, jnp.integer):
        return jnp.asarray(given)
    fits = jnp.iinfo(jnp.result_type(int))
    if not isinstance(given, Tracer) and given.size:
        found = np.asarray(given)
        if found.min() <= fits.min or found.max() > fits.max:
            raise ValueError(
                f"{name} must fit into {fits.dtype}, got ids from {found.min()} to {found.max()}; "
                "number them, by numpy.unique(..., return_inverse=True)"
            )
    return jnp.asarray(given).astype(fits.dtype)


def check_labels(name: str, labels: Any, number: int) -> jax.Array:
    """Integers ``(B,)``."""
    labels = check_ids(name, labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"{name} must be integers, got {labels.dtype}")
    if labels.shape != (number,):
        raise ValueError(f"{name} must be of shape ({number},), got {labels.shape}")
    return labels


def check_number(name: str, value: Any) -> Any:
    """A scalar, finite unless it is traced."""
    if jnp.ndim(value) != 0:
        raise ValueError(f"{name} must be a number, got shape {jnp.shape(value)}")
    if not isinstance(value, Tracer) and not np.isfinite(np.asarray(value)):
        raise ValueError(f"{name} must be finite, got {value}")
    return value


def check_block_size(block_size: Any) -> int | None:
    """None, or a positive integer."""
    return None if block_size is None else trees.check_count("block_size", block_size)
