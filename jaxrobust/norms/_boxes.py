r"""Balls cut by a box: projections on what is in both, and linear maximisation over it.

The box contains zero, so that scaling a point of it down keeps it inside. For lp norms of entries
both problems fall apart into entries but for one multiplier: with magnitudes :math:`a_i` and *caps*
:math:`k_i \ge 0`, how far the box lets an entry go in its direction, the solution is

.. math:: u_i = \min(s_\mu(a_i), k_i)

where :math:`s_\mu` is the solution without a box and :math:`\mu` makes the norm the radius. For
other norms :func:`alternate` comes close to them.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import trees
from jaxrobust.norms import _lp_ball, _magnitudes, _roots
from jaxrobust.norms._magnitudes import Magnitudes

_RELAXATION = 1.6  # of `alternate`: between 1 and 2; about half of the sweeps of 1


# Compiled as one, as is `lmo`: called eagerly, their loops would be compiled anew at every call.
@functools.partial(jax.jit, static_argnums=0)
def project(p: float, a: Magnitudes, caps: Magnitudes, radius: jax.Array) -> Magnitudes:
    """Magnitudes of the projection on the lp ball and the box; no derivative of it is right."""
    if p == 2:
        return _project_l2(a, caps, radius)
    inside = [jnp.minimum(leaf, cap) for leaf, cap in zip(a, caps, strict=True)]
    if p == math.inf:
        return [jnp.minimum(leaf, radius) for leaf in inside]
    unit = _magnitudes.scaling(radius)[1]
    scaled, limits = ([leaf / unit for leaf in leaves] for leaves in (a, caps))
    moved = _soft_threshold(scaled, limits) if p == 1 else _shrink(p, scaled, limits)
    moved = [jnp.minimum(leaf * unit, cap) for leaf, cap in zip(moved, caps, strict=True)]
    is_in_ball = _magnitudes.value(p, inside, _ones(a)) <= radius
    # A ball that is a point, or whose radius is NaN.
    nothing = jnp.where(radius >= 0, 0, jnp.nan)
    moved = [jnp.where(radius > 0, leaf, nothing) for leaf in moved]
    found = [jnp.where(is_in_ball, *both) for both in zip(inside, moved, strict=True)]
    return _kept(p, found, caps, radius)


def _project_l2(a: Magnitudes, caps: Magnitudes, radius: jax.Array) -> Magnitudes:
    """For p = 2: outside of the ball it is the maximiser for the direction of a."""
    unit = _magnitudes.scaling(radius)[1]
    inside = [jnp.minimum(leaf, cap) for leaf, cap in zip(a, caps, strict=True)]
    # As a sum of squares: overflow is outside, and what vanishes is inside.
    is_in_ball = _magnitudes.total([(leaf / unit) ** 2 for leaf in inside]) <= 1
    is_in_ball = (is_in_ball & (radius > 0)) | (radius == jnp.inf)
    moved = _shortened(_stretch(a, [cap / unit for cap in caps]))
    # A ball that is a point, or whose radius is NaN.
    nothing = jnp.where(radius >= 0, 0, jnp.nan)
    return [
        jnp.where(is_in_ball, one, jnp.where(radius > 0, jnp.minimum(unit * other, cap), nothing))
        for one, other, cap in zip(inside, moved, caps, strict=True)
    ]


@functools.partial(jax.jit, static_argnums=0)
def lmo(p: float, a: Magnitudes, caps: Magnitudes, radius: jax.Array) -> Magnitudes:
    """Magnitudes of the maximiser of the inner product; zero where ``a`` is."""
    if p == math.inf:
        return [
            jnp.minimum(radius, cap) * jnp.sign(leaf) for leaf, cap in zip(a, caps, strict=True)
        ]
    if p == 2:
        unit = _magnitudes.scaling(radius)[1]
        u = _shortened(_stretch(a, [cap / unit for cap in caps]))
        u = [jnp.minimum(unit * leaf, cap) for leaf, cap in zip(u, caps, strict=True)]
        u = [jnp.where(radius > 0, leaf, radius * leaf) for leaf in u]
        everything = [jnp.where(leaf > 0, cap, 0) for leaf, cap in zip(a, caps, strict=True)]
        is_all = (radius == jnp.inf) & ~jnp.isnan(_magnitudes.largest(a))
        return [jnp.where(is_all, *both) for both in zip(everything, u, strict=True)]
    flat, limits = _flat(a), _flat(caps)
    limits = jnp.where(flat > 0, limits, 0)
    u = _fill(flat, limits, radius) if p == 1 else _grow(p, flat, limits, radius)
    u = jnp.where(jnp.any(jnp.isnan(flat)), jnp.nan, u)  # a broken gradient is no valid step
    return _kept(p, _split(u, a), caps, radius)


def _fill(a: jax.Array, caps: jax.Array, radius: jax.Array) -> jax.Array:
    """For p = 1: the largest entries up to their caps while some of the radius is left."""
    order = jnp.argsort(-a, stable=True)
    sorted_caps = caps[order]
    before = jnp.concatenate([jnp.zeros_like(sorted_caps[:1]), jnp.cumsum(sorted_caps)[:-1]])
    filled = jnp.clip(radius - before, 0, sorted_caps)
    return jnp.zeros_like(a).at[order].set(filled)


def _stretch(a: Magnitudes, caps: Magnitudes) -> Magnitudes:
    """For p = 2 and radius 1: u = min(s a, cap) with one s for all, of length 1 or at its caps.

    In s^2 the square of the norm is concave and has kinks where entries reach their caps: Newton
    comes from below and is exact after the last kink. Each round is one pass.
    """
    unit = _magnitudes.scaling(_magnitudes.largest(a))[1]
    shares = [(leaf / unit) ** 2 for leaf in a]
    limits = [cap**2 for cap in caps]

    def capped(t: jax.Array) -> list[jax.Array]:
        return [t * share >= limit for share, limit in zip(shares, limits, strict=True)]

    def onwards(carry):
        t, _ = carry
        which = capped(t)
        held = [jnp.where(w, limit, 0) for w, limit in zip(which, limits, strict=True)]
        growing = [jnp.where(w, 0, share) for w, share in zip(which, shares, strict=True)]
        slope = _magnitudes.total(growing)
        after = jnp.maximum(1 - _magnitudes.total(held), 0) / jnp.where(slope == 0, 1, slope)
        return jnp.maximum(after, t), t  # which keeps NaN

    whole = _magnitudes.total(shares)  # none is at its cap at first
    first = 1 / jnp.where(whole == 0, 1, whole)
    is_on = lambda carry: carry[0] > carry[1]
    begin = trees.vary_alike((first, jnp.zeros_like(first)))
    t, _ = jax.lax.while_loop(is_on, onwards, begin)
    s = jnp.sqrt(t)
    return [jnp.minimum(s * (leaf / unit), cap) for leaf, cap in zip(a, caps, strict=True)]


def _shortened(u: Magnitudes) -> Magnitudes:
    """What rounding has put outside of the unit ball of p = 2, brought back."""
    square = _magnitudes.total([leaf**2 for leaf in u])
    factor = 1 / jnp.sqrt(jnp.maximum(square, 1))
    return [factor * leaf for leaf in u]


def _grow(p: float, a: jax.Array, caps: jax.Array, radius: jax.Array) -> jax.Array:
    """For other p, 1 < p < inf: u = min(s a^(q-1), cap) with one s for all."""
    top = jnp.max(a)
    direction = (a / jnp.where(top > 0, top, 1)) ** (1 / (p - 1))
    caps = jnp.where(direction > 0, caps, 0)  # a power may be too small for the dtype
    unit = jnp.where(radius > 0, radius, 1)
    limits = caps / unit

    def growth(is_free: jax.Array) -> jax.Array:
        """The s of those that are free, if all others are at their caps."""
        rest = 1 - jnp.sum(jnp.where(is_free, 0, limits**p))
        share = jnp.sum(jnp.where(is_free, direction**p, 0))
        return (jnp.maximum(rest, 0) / jnp.where(share > 0, share, 1)) ** (1 / p)

    # What is at its cap stays there, for s grows as fewer share what is left: few rounds are
    # enough, and there is nothing to sort.
    def fewer(carry):
        is_free, s, _ = carry
        after = is_free & (s * direction < limits)
        return after, growth(after), jnp.any(after != is_free)

    is_free = direction > 0
    begin = trees.vary_alike((is_free, growth(is_free), jnp.asarray(True)))
    is_free, s, _ = jax.lax.while_loop(lambda carry: carry[2], fewer, begin)
    return unit * jnp.where(is_free, s * direction, limits)


def _soft_threshold(a: Magnitudes, caps: Magnitudes) -> Magnitudes:
    """For p = 1 and radius 1: u = min(max(a - t, 0), cap)."""
    threshold = lambda t: [jnp.clip(leaf - t, 0, cap) for leaf, cap in zip(a, caps, strict=True)]
    top = _magnitudes.largest(a)

    def norm_and_slope(t):
        # Between its kinks the norm is linear in t, by as many entries as are between their ends.
        free = [(leaf > t) & (leaf - t < cap) for leaf, cap in zip(a, caps, strict=True)]
        number = _magnitudes.total([leaf.astype(t.dtype) for leaf in free])
        return _magnitudes.total(threshold(t)), number

    return threshold(_roots.multiplier(norm_and_slope, top))


def _shrink(p: float, a: Magnitudes, caps: Magnitudes) -> Magnitudes:
    """Other p, radius 1: u + t u^(p-1) = a, and at most the cap."""

    def capped(t):
        return [
            jnp.minimum(_lp_ball.shrink(p, leaf, t), cap) for leaf, cap in zip(a, caps, strict=True)
        ]

    def norm_and_slope(t):
        u = capped(t)
        return _lp_ball.norm_and_slope(
            p, u, [jnp.where(leaf < cap, 1, 0) for leaf, cap in zip(u, caps, strict=True)],
            _ones(a), t,
        )  # fmt: skip

    top = _magnitudes.value(p / (p - 1), a, _ones(a))
    return capped(_roots.multiplier(norm_and_slope, top))


def _kept(p: float, u: Magnitudes, caps: Magnitudes, radius: jax.Array) -> Magnitudes:
    """What rounding has put outside of box and ball, brought back; the box keeps what is shrunk."""
    u = [jnp.minimum(leaf, cap) for leaf, cap in zip(u, caps, strict=True)]
    norm = _magnitudes.value(p, u, _ones(u))
    factor = jnp.minimum(1, radius / jnp.where(norm > 0, norm, 1))
    return [jnp.where(norm > radius, factor * leaf, leaf) for leaf in u]


def _ones(a: Magnitudes) -> list[Any]:
    return [1.0] * len(a)


def _flat(a: Magnitudes) -> jax.Array:
    return jnp.concatenate([leaf.reshape(-1) for leaf in a])


def _split(flat: jax.Array, like: Magnitudes) -> Magnitudes:
    ends = np.cumsum([leaf.size for leaf in like])[:-1].tolist()
    return [
        part.reshape(leaf.shape) for part, leaf in zip(jnp.split(flat, ends), like, strict=True)
    ]


def alternate(
    project: Callable[[Any], Any],
    towards: Callable[[Any], Any],
    memory: tuple[Any, Any],
    lower: Any,
    upper: Any,
    num_sweeps: int | jax.Array,
) -> tuple[Any, tuple[Any, Any]]:
    r"""Near to the best point that is in a ball and in a box, by ADMM.

    A sweep, with :math:`\bar u = 1.6 u - 0.6 v`: :math:`u \leftarrow` the best point of the box,
    pulled to :math:`v - \lambda`; :math:`v \leftarrow P(\bar u + \lambda)`, of the ball;
    :math:`\lambda \leftarrow \lambda + \bar u - v`. Where images are black or white Dykstra's
    alternating projections take five times as many sweeps.

    Args:
      project: on the ball.
      towards: the best point without ball and box if it is pulled to its argument.
      memory: :math:`v` and :math:`\lambda` to begin with: a point of the ball and zero, or those
        that a similar problem ended with, from which it does not take as long.
      lower: ends of the box.
      upper: ends of the box.
      num_sweeps: at most; fewer where nothing changes any more.

    Returns:
      :math:`u`, which is in the box, and the memory.

    Source:
      Boyd et al., "Distributed optimization and statistical learning via the alternating direction
      method of multipliers", 2011, sections 3 and 3.4.3.
    """
    on, minus = jax.tree.map, functools.partial(jax.tree.map, jnp.subtract)
    still = 10 * jnp.finfo(jnp.result_type(*jax.tree.leaves(memory))).eps

    def goes_on(carry):
        count, _, v, _, moved = carry
        return (count < num_sweeps) & (moved > still * trees.l2_norm(v))

    def sweep(carry):
        count, _, v, held, _ = carry
        u = on(jnp.clip, towards(minus(v, held)), lower, upper)
        beyond = on(lambda a, b: _RELAXATION * a + (1 - _RELAXATION) * b, u, v)
        raised = on(jnp.add, beyond, held)
        new = project(raised)
        moved = trees.l2_norm(minus(u, new)) + trees.l2_norm(minus(v, new))
        return count + 1, u, new, minus(raised, new), moved

    far = jnp.full_like(trees.l2_norm(memory[0]), jnp.inf)
    begin = jnp.asarray(0), memory[0], *memory, far
    _, u, v, held, _ = jax.lax.while_loop(goes_on, sweep, trees.vary_alike(begin))
    return u, (v, held)
