r"""Restarted primal-dual hybrid gradient for the maximum margin in any norm that can project.

Solves the same saddle point as :mod:`jaxrobust.linear._interior_point`,

.. math:: \max_{\|w\|\le 1}\min_{q\in\Delta_n}\langle q, A w\rangle,

with nothing but matrix-vector products, the norm's Euclidean projection and the projection on the
simplex: the method for lp, Schatten and user-defined norms. Both sides are compact, so the duality
gap of any pair is finite and computed exactly; it decides when to restart from the average.

With perturbations, of which the worst counts, the dual side has one of them besides q, for they are
the same for all examples:

.. math:: \max_{\|w\|\le 1}\min_i \langle a_i, w\rangle - \epsilon\|w\|_{p*}
          = \max_{\|w\|\le 1}\min_{q\in\Delta_n,\,\|\delta\|_p\le\epsilon}
            \langle q, A w\rangle - \langle\delta, w\rangle .

Source: Chambolle and Pock 2011 for the iteration; Applegate et al., "Faster first-order primal-dual
methods for linear programming using restarts and sharpness" (2023) for restarting from the average
once the gap has fallen by a constant factor, and for balancing the two step sizes by the distances
travelled.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from optax import projections

from jaxrobust.linear._interior_point import Solution
from jaxrobust.norms import Norm

_CHUNK = 50  # iterations between two evaluations of the gap
_PATIENCE = 20_000  # iterations in which the gap must fall by a tenth
_AT_REST = 1e-10  # distance that counts as none
_HIGHEST = jax.lax.Precision.HIGHEST


class Saddle(NamedTuple):
    """The problem."""

    a: jax.Array  # (n, *feature_shape)
    norm: Norm  # of w
    perturbation: Norm | None = None
    eps: float | jax.Array = 0.0  # its radius

    def up(self, point: "_Point") -> jax.Array:
        """The derivative by w."""
        pull = jnp.tensordot(point.q, self.a, axes=1, precision=_HIGHEST)
        return pull if self.perturbation is None else pull - point.delta

    def margins(self, w: jax.Array) -> jax.Array:
        """``(n,)``, of examples as they are."""
        return jnp.tensordot(self.a, w, axes=w.ndim, precision=_HIGHEST)

    def moved(self, point: "_Point", w: jax.Array, sigma: jax.Array) -> "_Point":
        """Another dual side, after a step at w."""
        pushed = point.q - sigma * self.margins(w)
        point = point._replace(q=projections.projection_simplex(pushed))
        if self.perturbation is None:
            return point
        return point._replace(delta=self.perturbation.project(point.delta + sigma * w, self.eps))

    def worst(self, w: jax.Array) -> jax.Array:
        """What the worst perturbation takes off every margin."""
        if self.perturbation is None:
            return jnp.zeros((), w.dtype)
        return self.eps * self.perturbation.dual.value(w)


class _Point(NamedTuple):
    w: jax.Array  # (*feature_shape,)
    q: jax.Array  # (n,)
    delta: jax.Array  # (*feature_shape,); () without perturbations


class _Carry(NamedTuple):
    current: _Point
    total: _Point  # sum of the iterates since the last restart
    count: jax.Array  # (): iterates in the sum
    origin: _Point  # where the last restart was
    origin_gap: jax.Array  # (): gap there
    last_gap: jax.Array  # (): gap of the candidate at the last look
    balance: jax.Array  # (): ratio of the dual to the primal step size
    mark: jax.Array  # (): best gap when it had last fallen by a tenth
    marked: jax.Array  # () int32: the iteration that was
    best: Solution


def solve(
    saddle: Saddle,
    *,
    tolerance: float | jax.Array,
    rounding: float | jax.Array,
    max_iterations: int | jax.Array,
) -> Solution:
    """Runs until ``upper - lower <= tolerance * upper``, or ``upper <= rounding``, or the limit.

    Args:
      saddle: the problem, its examples scaled so that the largest dual norm of one is about 1.
      tolerance: relative gap to stop at.
      rounding: upper bound under which a margin cannot be told from zero, to stop at.
      max_iterations: hard limit on iterations (two products with ``a`` each).

    Returns:
      The best bounds met and their points; ``w`` has the shape of one example.
    """
    a = saddle.a
    size = _operator_norm(a)
    step = 0.98 / (size if saddle.perturbation is None else jnp.hypot(size, 1))

    def unfinished(carry: _Carry):
        best = carry.best
        gap_open = best.upper - best.lower > tolerance * best.upper
        moves = best.iterations - carry.marked < _PATIENCE
        return gap_open & (best.upper > rounding) & (best.iterations < max_iterations) & moves

    nothing = jnp.zeros_like(a[0])
    delta = jnp.zeros((), a.dtype) if saddle.perturbation is None else nothing
    start = _Point(nothing, jnp.full(a.shape[0], 1 / a.shape[0], a.dtype), delta)
    first = _bounds(saddle, start)
    gap = first.upper - first.lower
    initial = _Carry(
        current=start,
        total=_zeros(start),
        count=jnp.zeros((), a.dtype),
        origin=start,
        origin_gap=gap,
        last_gap=gap,
        balance=jnp.ones((), a.dtype),
        mark=gap,
        marked=jnp.int32(0),
        best=first,
    )
    return jax.lax.while_loop(unfinished, lambda carry: _advance(saddle, step, carry), initial).best


def _advance(saddle: Saddle, step: jax.Array, carry: _Carry) -> _Carry:
    """One chunk of iterations, then the decision whether to restart."""
    tau, sigma = step / carry.balance, step * carry.balance

    def iterate(_, state):
        point, total = state
        w = saddle.norm.project(point.w + tau * saddle.up(point), 1.0)
        new = saddle.moved(point, 2 * w - point.w, sigma)._replace(w=w)
        return new, jax.tree.map(jnp.add, total, new)

    current, total = jax.lax.fori_loop(0, _CHUNK, iterate, (carry.current, carry.total))
    count = carry.count + _CHUNK
    average = jax.tree.map(lambda x: x / count, total)
    at_current, at_average = _bounds(saddle, current), _bounds(saddle, average)
    current_gap, average_gap = (
        at_current.upper - at_current.lower,
        at_average.upper - at_average.lower,
    )
    use_average = average_gap < current_gap
    candidate = _select(use_average, average, current)
    gap = jnp.minimum(current_gap, average_gap)

    # Restart when the gap fell enough, or fell and has begun to rise again, or after a long time
    # without either.
    long_ago = count >= 0.4 * (carry.best.iterations + _CHUNK)
    fell = gap <= 0.8 * carry.origin_gap
    restart = (gap <= 0.2 * carry.origin_gap) | (fell & (gap > carry.last_gap)) | long_ago
    best = _better(_better(carry.best, at_current), at_average)._replace(
        iterations=carry.best.iterations + _CHUNK
    )
    fallen = best.upper - best.lower < 0.9 * carry.mark
    return _Carry(
        current=_select(restart, candidate, current),
        total=_select(restart, _zeros(total), total),
        count=jnp.where(restart, 0, count),
        origin=_select(restart, candidate, carry.origin),
        origin_gap=jnp.where(restart, gap, carry.origin_gap),
        last_gap=gap,
        balance=jnp.where(restart, _rebalance(carry, candidate), carry.balance),
        mark=jnp.where(fallen, best.upper - best.lower, carry.mark),
        marked=jnp.where(fallen, best.iterations, carry.marked),
        best=best,
    )


def _rebalance(carry: _Carry, candidate: _Point) -> jax.Array:
    """Geometric mean of the old balance and the ratio of distances since the last restart."""
    moved_w = jnp.sqrt(jnp.sum((candidate.w - carry.origin.w) ** 2))
    moved_q = jnp.sqrt(
        jnp.sum((candidate.q - carry.origin.q) ** 2)
        + jnp.sum((candidate.delta - carry.origin.delta) ** 2)
    )
    # Where one side has come to rest and the other has a long way to go, the ratio is extreme, and
    # has to be: examples of length 1 and 1e-6 take 250 iterations with it and 100,000 without.
    known = (moved_w > _AT_REST) | (moved_q > _AT_REST)
    ratio = jnp.maximum(moved_q, _AT_REST) / jnp.maximum(moved_w, _AT_REST)
    return jnp.clip(jnp.sqrt(carry.balance * jnp.where(known, ratio, carry.balance)), 1e-6, 1e6)


def _bounds(saddle: Saddle, point: _Point) -> Solution:
    length = saddle.norm.value(point.w)
    w = point.w / jnp.where(length > 0, length, 1)
    lower = jnp.min(saddle.margins(w)) - saddle.worst(w)
    point = point._replace(q=point.q / jnp.sum(point.q))
    upper = saddle.norm.dual.value(saddle.up(point))
    return Solution(w, point.q, lower, upper, jnp.int32(0), point.delta)


def _better(best: Solution, found: Solution) -> Solution:
    """The better of each side; ``best`` where ``found`` is not finite."""
    better_w = (found.lower > best.lower) & jnp.all(jnp.isfinite(found.w))
    better_q = (found.upper < best.upper) & jnp.all(jnp.isfinite(found.q))
    return Solution(
        jnp.where(better_w, found.w, best.w),
        jnp.where(better_q, found.q, best.q),
        jnp.where(better_w, found.lower, best.lower),
        jnp.where(better_q, found.upper, best.upper),
        best.iterations,
        jnp.where(better_q, found.delta, best.delta),
    )


def _operator_norm(a: jax.Array) -> jax.Array:
    """Largest singular value of the (n, d) matrix, by 60 power iterations."""
    flat = a.reshape(a.shape[0], -1)

    def power(_, v):
        v = jnp.matmul(flat.T, jnp.matmul(flat, v, precision=_HIGHEST), precision=_HIGHEST)
        return v / jnp.maximum(jnp.sqrt(jnp.sum(v**2)), jnp.finfo(v.dtype).tiny)

    # Started from a fixed generic vector: a constant one may be orthogonal to the leading singular
    # vector.
    start = jnp.cos(1.0 + jnp.arange(flat.shape[1], dtype=flat.dtype) ** 1.5)
    v = jax.lax.fori_loop(0, 60, power, start / jnp.sqrt(jnp.sum(start**2)))
    # Power iteration approaches from below; 5 % covers what is missing where the gap of singular
    # values is small.
    norm = 1.05 * jnp.sqrt(jnp.sum(jnp.matmul(flat, v, precision=_HIGHEST) ** 2))
    return jnp.maximum(norm, jnp.finfo(norm.dtype).tiny)


def _zeros(point: _Point) -> _Point:
    return jax.tree.map(jnp.zeros_like, point)


def _select(condition: jax.Array, a: _Point, b: _Point) -> _Point:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)
