"""Euclidean projections of weighted magnitudes on lp balls."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from optax import projections

from jaxrobust.norms import _lp_ball, _magnitudes
from jaxrobust.norms._magnitudes import Magnitudes, Weights
from jaxrobust.norms._sharding import shard_like, unshard


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
    a = [unshard(leaf) for leaf in a]
    if all(np.all(w == 1) for w in c):
        # Optax's branches disagree on the dtype of what is not of JAX's default float dtype.
        dtype = jnp.result_type(float)
        projected = _optax_l1_ball([leaf.astype(dtype) for leaf in a], radius.astype(dtype))
        projected = [new.astype(old.dtype) for new, old in zip(projected, a, strict=True)]
    else:
        projected = _soft_threshold(a, c, radius)
    # The threshold carries a rounding error of the size of the largest magnitude's, which may be
    # more than the radius; the projection has norm `radius` nevertheless.
    norm = _magnitudes.value(1, projected, c)
    return [leaf * (radius / jnp.where(norm > 0, norm, radius)) for leaf in projected]


# Called eagerly, its `cond` would be compiled anew at every call.
_optax_l1_ball = jax.jit(projections.projection_l1_ball)


def soft_threshold(a: Magnitudes, c: Weights, s: Magnitudes, radius: jax.Array) -> Magnitudes:
    """Magnitudes max(a - t s, 0) of the projection on the ball sum c s a <= radius.

    Where ``s`` is zero they are as they were. For magnitudes outside of the ball.
    """
    shapes = [jnp.broadcast_to(weight, leaf.shape) for weight, leaf in zip(s, a, strict=True)]
    flat = lambda leaves: jnp.concatenate([leaf.reshape(-1) for leaf in leaves])
    scales, magnitudes = flat(shapes), flat(a)
    counts = flat([jnp.broadcast_to(w, leaf.shape) for w, leaf in zip(c, a, strict=True)])
    # Entry i is left while t < a_i / s_i: in this order t = max_k (sum c s a - r) / sum c s^2.
    ratio = magnitudes / jnp.where(scales > 0, scales, 1)
    order = jnp.argsort(jnp.where(scales > 0, -ratio, jnp.inf))
    sums = jnp.cumsum((counts * scales * magnitudes)[order]) - radius
    squares = jnp.cumsum((counts * scales**2)[order])
    rough = jnp.max(sums / jnp.where(squares > 0, squares, 1))
    kept = (ratio >= rough) & (scales > 0)
    excess = jnp.sum(jnp.where(kept, counts * scales * magnitudes, 0)) - radius
    total = jnp.sum(jnp.where(kept, counts * scales**2, 0))
    threshold = jnp.maximum(excess / jnp.where(total > 0, total, 1), 0)
    # Free magnitudes aside, the norm is the radius, whatever the rounding errors of the threshold.
    new = [jnp.maximum(leaf - threshold * w, 0) for leaf, w in zip(a, shapes, strict=True)]
    norm = _magnitudes.total([n * w * leaf for n, w, leaf in zip(c, shapes, new, strict=True)])
    factor = radius / jnp.where(norm > 0, norm, 1)
    return [
        jnp.where((w > 0) & (norm > 0), factor, 1) * leaf
        for w, leaf in zip(shapes, new, strict=True)
    ]


def _soft_threshold(a: Magnitudes, c: Weights, radius: jax.Array) -> Magnitudes:
    # The threshold t solves sum_i c_i max(a_i - t, 0) = r. Over the prefixes of the sorted
    # magnitudes t = max_k (sum_{i<=k} c_i a_i - r) / sum_{i<=k} c_i, for prefixes too short or too
    # long give less. That finds which magnitudes stay; from them alone t follows once more, without
    # the rounding errors of cumulative sums and with the right derivative.
    flat = jnp.concatenate([leaf.reshape(-1) for leaf in a])
    weights = jnp.concatenate(
        [jnp.broadcast_to(w, leaf.shape).reshape(-1) for leaf, w in zip(a, c, strict=True)]
    )
    descending, weights = jax.lax.sort((-jax.lax.stop_gradient(flat), weights), num_keys=1)
    sums = jnp.cumsum(-descending * weights) - jax.lax.stop_gradient(radius)
    rough = jnp.max(sums / jnp.cumsum(weights))
    kept = [w * (leaf >= rough) for leaf, w in zip(a, c, strict=True)]
    excess = _magnitudes.total([w * leaf for leaf, w in zip(a, kept, strict=True)]) - radius
    threshold = jnp.maximum(excess / _magnitudes.total(kept), 0)
    return [jnp.maximum(leaf - threshold, 0) for leaf in a]
