r"""One step of an attack, for any norm.

A step moves along the direction of steepest ascent in the norm, :math:`u(g)=\arg\max_{\|u\|\le 1}
\langle u,g\rangle`, and is projected: :math:`\delta \leftarrow P(\delta + \eta\, u(g))`. Where the
gradient is constant the best perturbation :math:`\epsilon\, u(g)` must stay where it is. It does
for the exponents 1, 2 and infinity; for others the normal of the ball at :math:`u` is another
direction than :math:`u`, and the step would lead away; so it would in a box, but for lp norms of
entries. There, and for norms of which nothing is known, a step is a part of the way to the extreme
point of all that is allowed, as in Frank-Wolfe.

The steepest direction of an l1 ball is one coordinate. Many at once get further at first: the
gradient is stretched and projected on the unit ball, which leaves its largest entries, the fewer
the longer it was stretched.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust.attacks import _threat as threats
from jaxrobust.attacks._threat import Threat, spread
from jaxrobust.norms import Lp, Norm

# How far a gradient is stretched before it is projected on an l1 ball: at first, for each feature
# (a fifth of normal numbers are left then, about), and in the end, when hardly more than one is.
_FIRST_STRETCH, _LAST_STRETCH = 5.0, 1e4
# An entry counts as at its bound from this part of the way on: rounding leaves most of them short
# of it, and a step that went to the one with the largest gradient would be lost on that.
_AT_BOUND = 0.999


def is_projected(norm: Norm, threat: Threat) -> bool:
    """Whether steepest ascent and projection leave the extreme points where they are."""
    is_exact = threat.lower is None or isinstance(norm, Lp)
    return is_exact and getattr(norm, "p", None) in (1, 2, math.inf)


def stretch_at(delta: jax.Array, share: jax.Array | float) -> jax.Array:
    """``(B,)``: of l1 steps after such a share of all, geometrically."""
    first = _FIRST_STRETCH / delta[0].size
    stretch = first ** (1 - jnp.asarray(share, delta.dtype)) * _LAST_STRETCH**share
    return jnp.full(len(delta), stretch, delta.dtype)


def moved(
    norm: Norm,
    threat: Threat,
    delta: jax.Array,
    gradient: jax.Array,
    size: jax.Array,
    stretch: jax.Array,
    memory: Any,
) -> tuple[jax.Array, Any]:
    """A step up; ``size (B,)`` in units of eps, 2 to the other side of the ball.

    With the memory of :func:`threats.extreme` for the next one.
    """
    ndim = delta.ndim
    if not is_projected(norm, threat):
        part = spread(jnp.minimum(size / 2, 1), ndim)
        goal, memory = threats.extreme(norm, threat, gradient, memory)
        # Where the gradient is zero there is nowhere to go.
        has_direction = jnp.any(threats.flat(gradient) != 0, axis=1)
        # As a mean and not as a step, which would be rounded out of the ball.
        mean = (1 - part) * delta + part * goal
        return jnp.where(spread(has_direction, ndim), mean, delta), memory
    if getattr(norm, "p", None) == 1:
        along = _sparse_in_box(norm, threat, delta, gradient, stretch)
    else:
        along = jax.vmap(norm.lmo)(gradient)
    far = delta + spread(size * threat.eps, ndim) * along
    return threats.project(norm, threat, far), memory


def _sparse_in_box(
    norm: Norm, threat: Threat, delta: jax.Array, gradient: jax.Array, stretch: jax.Array
) -> jax.Array:
    """Of the entries that can still move; those at their bounds are held if they are worth more."""
    if threat.lower is None:
        return _sparse(norm, gradient, stretch)
    above, below = delta >= _AT_BOUND * threat.upper, delta <= _AT_BOUND * threat.lower
    at_bound = jnp.where(gradient > 0, above, below)
    along = _sparse(norm, jnp.where(at_bound, 0, gradient), stretch)
    # Further outwards than any other entry moves: the projection takes as much from all, and they
    # are to get to their bounds. Not those of smaller gradient than all that moves: their part of
    # the ball is needed.
    size = jnp.abs(gradient)
    furthest = jnp.max(threats.flat(jnp.abs(along)), axis=1)
    least = jnp.min(threats.flat(jnp.where(along != 0, size, jnp.inf)), axis=1)
    held = at_bound & (size >= spread(least, delta.ndim))
    return jnp.where(held, jnp.sign(gradient) * spread(2 * furthest, delta.ndim), along)


def _sparse(norm: Norm, gradient: jax.Array, stretch: jax.Array) -> jax.Array:
    largest = jax.vmap(norm.dual.value)(gradient)
    factor = stretch / jnp.where(largest > 0, largest, 1)
    stretched = spread(factor, gradient.ndim) * gradient
    on_ball = jax.vmap(norm.project)(stretched)
    # A short one is inside of the ball; a step is to have its length.
    length = jax.vmap(norm.value)(on_ball)
    return on_ball / spread(jnp.where(length > 0, length, 1), gradient.ndim)
