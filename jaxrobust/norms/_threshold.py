r"""Soft thresholds of l1 projections, found by Newton's method and not by sorting.

:math:`f(t) = \sum_i c_i s_i \max(a_i - t s_i, 0) - r` falls in t, convex and with a kink where an
entry vanishes. Newton from below rises to the root and is exact once the last kink is behind: ten
passes or so, where sorting moves all entries (on a CPU some twenty times as long).
"""

import jax
import jax.numpy as jnp

from jaxrobust import trees
from jaxrobust.norms import _magnitudes
from jaxrobust.norms._magnitudes import Magnitudes, Weights


# Compiled as one: called eagerly, the loop would be compiled anew at every call.
@jax.jit
def soft_threshold(
    a: Magnitudes, c: Weights, s: Magnitudes | Weights, radius: jax.Array
) -> Magnitudes:
    """Magnitudes max(a - t s, 0) of the projection on the ball sum c s a <= radius.

    Where ``s`` is zero they are as they were. For magnitudes outside of the ball. If the radius is
    less than rounding errors of the largest a / s, all of it goes to those that are largest.
    """
    # An entry is left while t < a / s; those of scale 0 are never counted.
    ends = [jnp.where(w > 0, leaf / jnp.where(w > 0, w, 1), -jnp.inf)
            for leaf, w in zip(a, s, strict=True)]  # fmt: skip
    ends = jax.lax.stop_gradient(ends)
    top = _magnitudes.largest(ends)
    rough = _root(*jax.lax.stop_gradient((a, c, s, radius)), ends)
    # From what is left alone t follows once more, with the right derivative. Something is left.
    kept = [(end > rough) | (end >= top) for end in ends]
    threshold = jnp.maximum(_newton(a, c, s, radius, kept), 0)
    new = [jnp.maximum(leaf - threshold * w, 0) for leaf, w in zip(a, s, strict=True)]
    parts = list(zip(new, c, s, kept, strict=True))
    left = _magnitudes.total([jnp.where(k, n * w * leaf, 0) for leaf, n, w, k in parts])
    weight = _magnitudes.total(
        [jnp.where(k, jnp.broadcast_to(n * w, leaf.shape), 0) for leaf, n, w, k in parts]
    )
    alike = radius / jnp.where(weight > 0, weight, 1)
    return [jnp.where((left == 0) & k, alike, leaf) for leaf, _, _, k in parts]


def _root(
    a: Magnitudes, c: Weights, s: Magnitudes | Weights, radius: jax.Array, ends: Magnitudes
) -> jax.Array:
    def onwards(carry):
        t, _ = carry
        kept = [end > t for end in ends]
        return jnp.maximum(_newton(a, c, s, radius, kept), t), t  # which keeps NaN

    # All entries are there at first, of which none is at its kink below the root.
    first = _newton(a, c, s, radius, [True] * len(a))
    is_on = lambda carry: carry[0] > carry[1]
    begin = trees.vary_alike((first, jnp.full_like(first, -jnp.inf)))
    return jax.lax.while_loop(is_on, onwards, begin)[0]


def _newton(
    a: Magnitudes, c: Weights, s: Magnitudes | Weights, radius: jax.Array, kept
) -> jax.Array:
    """The root if just these entries are left."""
    terms = list(zip(a, c, s, kept, strict=True))
    excess = _magnitudes.total([jnp.where(k, n * w * leaf, 0) for leaf, n, w, k in terms])
    slope = _magnitudes.total(
        [jnp.where(k, jnp.broadcast_to(n * w * w, leaf.shape), 0) for leaf, n, w, k in terms]
    )
    return (excess - radius) / jnp.where(slope == 0, 1, slope)
