"""What an attacker may add to an example: a ball of any norm, and the box of valid inputs.

The norm is static; what differs between examples is in :class:`Threat`. All functions act on a
batch of perturbations ``(B, *features)``, each on its own.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.norms import Lp, Norm

# Of alternating projections, for norms without a closed form in a box: for the first gradient of an
# attack half as many as for all the next ones together, at most 100; and for each of these, which
# are much like those before.
_MOST_AT_FIRST, _SWEEPS = 100, 10


class Threat(NamedTuple):
    """How far each example may be moved."""

    eps: jax.Array  # (B,) float: radius of the ball
    # (B, *features) float: perturbations that reach the bounds of inputs; None without bounds.
    lower: Any  # 0 or less
    upper: Any  # 0 or more


def project(norm: Norm, threat: Threat, delta: jax.Array) -> jax.Array:
    """The nearest perturbations that are allowed; for some norms with a box nearly so."""
    if threat.lower is not None:
        within = functools.partial(norm.project_in_box, num_sweeps=_SWEEPS)
        return jax.vmap(within)(delta, threat.eps, threat.lower, threat.upper)
    found = jax.vmap(norm.project)(delta, threat.eps)
    if isinstance(norm, Lp):
        return found
    # Of a spectrum that is put together again the norm is off by rounding errors of all features.
    length = jax.vmap(norm.value)(found)
    factor = threat.eps / jnp.where(length > threat.eps, length, threat.eps)
    return spread(factor, delta.ndim) * found


def memory(norm: Norm, threat: Threat, gradient: jax.Array, num_steps: int) -> Any:
    """What :func:`extreme` needs to know of the gradients before; here of the first one."""
    if threat.lower is None:
        return None
    nothing = jax.vmap(norm.memory_in_box)(gradient)
    first = min(_MOST_AT_FIRST, num_steps * _SWEEPS // 2)
    return _within(norm, threat, nothing, gradient, first)[1]


def extreme(
    norm: Norm, threat: Threat, gradient: jax.Array, memory: Any, num_sweeps: int = _SWEEPS
) -> tuple[jax.Array, Any]:
    """The allowed perturbation with the largest inner product; zero for a zero gradient.

    With what it knows then, for the next gradient.
    """
    if threat.lower is None:
        return spread(threat.eps, gradient.ndim) * jax.vmap(norm.lmo)(gradient), memory
    return _within(norm, threat, memory, gradient, num_sweeps)


def _within(
    norm: Norm, threat: Threat, memory: Any, gradient: jax.Array, num_sweeps: int
) -> tuple[jax.Array, Any]:
    within = functools.partial(norm.lmo_in_box_after, num_sweeps=num_sweeps)
    return jax.vmap(within)(memory, gradient, threat.eps, threat.lower, threat.upper)


def drawn(norm: Norm, threat: Threat, key: jax.Array, like: jax.Array) -> jax.Array:
    """Random perturbations: directions of independent normal numbers, as far as is allowed."""
    direction, length = of_finite_norm(norm, jax.random.normal(key, like.shape, like.dtype))
    return project(norm, threat, spread(threat.eps / length, like.ndim) * direction)


def of_finite_norm(norm: Norm, direction: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Directions and their norms ``(B,)``, above 0; projected where something must not be moved."""
    length = jax.vmap(norm.value)(direction)
    is_finite = jnp.isfinite(length)
    inside = jax.vmap(lambda d: norm.project(d, 1.0))(direction)
    direction = jnp.where(spread(is_finite, direction.ndim), direction, inside)
    length = jnp.where(is_finite, length, jax.vmap(norm.value)(inside))
    return direction, jnp.where(length > 0, length, 1)


def in_norm_beyond(norm: Norm, threat: Threat, delta: jax.Array) -> jax.Array:
    """``(B,)``: by which part of its radius a perturbation is outside of the ball; 0 inside."""
    return jnp.maximum(jax.vmap(norm.value)(delta) / threat.eps - 1, 0)


def out_of_bounds(threat: Threat, delta: jax.Array) -> jax.Array:
    """``(B,)``: how far the worst feature is out of bounds, in units of the input; 0 inside."""
    if threat.lower is None:
        return jnp.zeros_like(threat.eps)
    beyond = jnp.maximum(threat.lower - delta, delta - threat.upper)
    return jnp.maximum(jnp.max(flat(beyond), axis=1), 0)


def spread(of_examples: jax.Array, ndim: int) -> jax.Array:
    """``(B,)`` as ``(B, 1, ..)`` of so many axes."""
    return of_examples.reshape(-1, *[1] * (ndim - 1))


def flat(batch: jax.Array) -> jax.Array:
    """``(B, *features)`` as ``(B, D)``."""
    return batch.reshape(len(batch), -1)
