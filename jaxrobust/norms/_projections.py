"""Euclidean projections of weighted magnitudes on lp balls."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.norms import _lp_ball, _magnitudes
from jaxrobust.norms._magnitudes import Magnitudes, Weights
from jaxrobust.norms._sharding import shard_like
from jaxrobust.norms._threshold import soft_threshold


def project(p: float, a: Magnitudes, c: Weights, radius: jax.Array) -> Magnitudes:
    """Magnitudes of the Euclidean (weighted) projection on the lp ball of ``radius``.

    For magnitudes outside the ball; the caller keeps what is inside. NaN where ``radius`` is.
    """
    if p == math.inf:
        return [jnp.minimum(leaf, radius) for leaf in a]
    unit = _magnitudes.scaling(_magnitudes.largest(a))[1]
    ratio = radius / unit
    # A ball so small that magnitudes in units of its radius could overflow is as good as a point.
    info = jnp.finfo(ratio.dtype)
    is_ball = (ratio > info.tiny / info.eps) & (ratio < jnp.inf)
    safe_ratio = jnp.where(is_ball, ratio, 1)
    scaled = [leaf / unit for leaf in a]
    if p == 1:
        projected = _project_l1(scaled, c, safe_ratio)
    elif p == 2:
        shrink = safe_ratio / jnp.maximum(_magnitudes.value(2, scaled, c), safe_ratio)
        projected = [leaf * shrink for leaf in scaled]
    else:
        projected = _lp_ball.project(p, [leaf / safe_ratio for leaf in scaled], c)
        projected = [leaf * safe_ratio for leaf in projected]
    zero = jnp.where(radius >= 0, 0, jnp.nan)
    return [
        jnp.where(is_ball, unit * shard_like(new, old), zero * old)
        for new, old in zip(projected, a, strict=True)
    ]


def _project_l1(a: Magnitudes, c: Weights, radius: jax.Array) -> Magnitudes:
    projected = soft_threshold(a, c, [np.ones(())] * len(a), radius)
    # The threshold carries a rounding error of the size of the largest magnitude's, which may be
    # more than the radius; the projection has norm `radius` nevertheless.
    norm = _magnitudes.value(1, projected, c)
    return [leaf * (radius / jnp.where(norm > 0, norm, radius)) for leaf in projected]


def project_weighted_l1(
    a: Magnitudes, c: Weights, s: Magnitudes | Weights, radius: jax.Array
) -> Magnitudes:
    """Magnitudes of the projection on the ball sum c s a <= radius, for some outside of it.

    Where ``s`` is zero they are as they were.
    """
    shapes = [jnp.broadcast_to(weight, leaf.shape) for weight, leaf in zip(s, a, strict=True)]
    new = soft_threshold(a, c, shapes, radius)
    # Free magnitudes aside, the norm is the radius, whatever the rounding errors of the threshold.
    norm = _magnitudes.total([n * w * leaf for n, w, leaf in zip(c, shapes, new, strict=True)])
    factor = radius / jnp.where(norm > 0, norm, 1)
    return [
        jnp.where((w > 0) & (norm > 0), factor, 1) * leaf
        for w, leaf in zip(shapes, new, strict=True)
    ]
