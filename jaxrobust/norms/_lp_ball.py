r"""Projection on the unit ball of a weighted lp norm, 1 < p < inf, p != 2: no closed form.

The projection u of non-negative magnitudes a outside the ball solves

.. math:: u_i + \mu u_i^{p-1} = a_i, \qquad \sum_i c_i u_i^p = 1,

where the multiplier is :math:`\mu = \|a-u\|_q` with 1/p + 1/q = 1, so it lies in
:math:`[0, \|a\|_q]`, and :math:`\|u(\mu)\|_p` falls in it.
"""

import functools

import jax
import jax.numpy as jnp

from jaxrobust.norms import _magnitudes, _roots
from jaxrobust.norms._magnitudes import Magnitudes, Weights


# Compiled as one: called eagerly, the loops would be compiled anew at every call. The derivative is
# given by hand, for there is none of the search for the multiplier.
@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
@functools.partial(jax.jit, static_argnums=0)
def project(p: float, a: Magnitudes, c: Weights) -> Magnitudes:
    """Magnitudes of the projection on the unit ball, for ``a`` outside of it."""
    high = _magnitudes.value(p / (p - 1), a, c)
    shrunk = lambda t: [shrink(p, leaf, t) for leaf in a]
    everywhere = [1] * len(a)
    of = lambda t: norm_and_slope(p, shrunk(t), everywhere, c, t)
    return shrunk(_roots.multiplier(of, high))


def norm_and_slope(
    p: float, u: Magnitudes, free: list, c: Weights, multiplier: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Of the shrunk magnitudes: their norm, and how it falls in the multiplier.

    ``free`` is 1 where they change with the multiplier, else 0.
    """
    norm = _magnitudes.value(p, u, c)
    weights = [w * is_free for w, is_free in zip(c, free, strict=True)]
    _, _, curvature = _linearised(p, u, weights, multiplier)
    slope = curvature / jnp.where(norm > 0, norm, 1) ** (p - 1)
    return norm, slope


@project.defjvp
def _project_jvp(p, primals, tangents):
    # With t = 1 / (1 + mu (p-1) u^(p-2)), the equations give du = t (da - dmu u^(p-1)), where dmu
    # keeps u on the sphere: sum_i c_i u_i^(p-1) du_i = 0.
    (a, c), (a_dot, _) = primals, tangents
    u = project(p, a, c)
    # Never negative but for the rounding of what the compiler fuses; its power would be NaN then.
    moved = [jnp.maximum(x - y, 0) for x, y in zip(a, u, strict=True)]
    multiplier = _magnitudes.value(p / (p - 1), moved, c)
    slopes, normals, curvature = _linearised(p, u, c, multiplier)
    pull = [w * t * n for w, t, n in zip(c, slopes, normals, strict=True)]
    drift = _magnitudes.total([x * d for x, d in zip(pull, a_dot, strict=True)])
    multiplier_dot = drift / jnp.where(curvature == 0, 1, curvature)
    u_dot = [t * (d - multiplier_dot * n) for t, d, n in zip(slopes, a_dot, normals, strict=True)]
    return u, u_dot


def _linearised(p: float, u: Magnitudes, c: Weights, multiplier: jax.Array):
    """du/da and -du/dmu = du/da u^(p-1) in its two factors, and -d(norm)/dmu on the sphere."""
    slopes = [_slope(p, leaf, multiplier) for leaf in u]
    normals = [leaf ** (p - 1) for leaf in u]
    terms = [w * t * n**2 for w, t, n in zip(c, slopes, normals, strict=True)]
    return slopes, normals, _magnitudes.total(terms)


def _slope(p: float, u: jax.Array, multiplier: jax.Array) -> jax.Array:
    """The derivative of u with respect to a at a fixed multiplier; free of NaN at u = 0."""
    if p > 2:
        return 1 / (1 + multiplier * (p - 1) * u ** (p - 2))
    power = u ** (2 - p)
    below = power + multiplier * (p - 1)
    return power / jnp.where(below == 0, 1, below)


def shrink(p: float, a: jax.Array, multiplier: jax.Array) -> jax.Array:
    """The root u in [0, a] of u + multiplier * u^(p-1) = a, elementwise, by Newton from above."""
    # With t = u for p > 2 and t = u^(p-1) for p < 2 the equation reads slope * t + curve * t^s = a
    # with s > 1: convex and increasing in t, so Newton falls monotonically on the root from any
    # point above it. The start is the smaller of the two roots that one of the terms alone would
    # give, at most twice too large.
    if p > 2:
        s, slope, curve = p - 1, 1.0, multiplier
    else:
        s, slope, curve = 1 / (p - 1), multiplier, 1.0
    tiny = jnp.finfo(a.dtype).tiny
    start = jnp.minimum(a / jnp.maximum(slope, tiny), (a / jnp.maximum(curve, tiny)) ** (1 / s))

    def newton(_, t):
        residual = slope * t + curve * t**s - a
        gradient = slope + curve * s * t ** (s - 1)
        return jnp.clip(t - residual / jnp.maximum(gradient, tiny), 0, start)

    root = jax.lax.fori_loop(0, 8, newton, start)
    return jnp.minimum(root if p > 2 else root**s, a)
