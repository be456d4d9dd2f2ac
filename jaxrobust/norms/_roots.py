"""The multiplier of a projection: where a norm that falls in it is 1."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrobust import trees

_BETWEEN = 3  # every so many steps the bracket is halved, whatever Newton says


def multiplier(
    norm_and_slope: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    high: jax.Array,
) -> jax.Array:
    """A t in (0, high] with norm(t) = 1, by Newton within a bracket.

    Ten steps or so; halving alone takes as many as there are digits, and more where t is far below
    the upper end. There is no derivative of it: the projection on an lp ball has one of its own,
    those on ball and box have none.

    Args:
      norm_and_slope: of t: the norm, which falls in t; and by how much, for each unit of t, or 0
        where that is not known. A norm that overflows, to infinity or NaN, is above 1.
      high: where the norm is at most 1.
    """
    info = jnp.finfo(high.dtype)
    most, noise = _BETWEEN * info.nmant, 4 * info.eps

    def narrow(carry):
        count, low, high, t, _ = carry
        norm, slope = norm_and_slope(t)
        is_above = ~(norm <= 1)
        low, high = jnp.where(is_above, t, low), jnp.where(is_above, high, t)
        is_known = (slope > 0) & jnp.isfinite(slope) & jnp.isfinite(norm)
        newton = t + (norm - 1) / jnp.where(is_known, slope, 1)
        # In many dimensions it is far below its bound: its size is found first.
        middle = jnp.where(low > 0, jnp.sqrt(low) * jnp.sqrt(high), high / 256)
        by_newton = is_known & (newton > low) & (newton < high)
        by_newton &= count % _BETWEEN != _BETWEEN - 1
        # Up to rounding errors, of the norm or of t.
        is_there = jnp.abs(norm - 1) <= noise
        is_there |= is_known & (jnp.abs(newton - t) <= noise * t)
        after = jnp.where(by_newton, newton, middle)
        return count + 1, low, high, jnp.where(is_there, t, after), is_there

    def goes_on(carry):
        count, low, high, _, is_there = carry
        return (count < most) & ~is_there & (low < high)

    zero = jnp.zeros_like(high)
    # Not from 0, where powers of what is far outside of the ball overflow.
    begin = jnp.asarray(0), zero, high, high / 2, zero > 0
    return jax.lax.while_loop(goes_on, narrow, trees.vary_alike(begin))[3]
