r"""Primal-dual interior-point method for the maximum margin in a norm of group norms.

The problem, for signed examples :math:`a_i` (n of them) with d = G k coordinates in G groups of k:

.. math:: \max_{\|w\| \le 1} \min_i \langle a_i, w\rangle
          \;=\; \min_{q \in \Delta_n} \Big\|\sum_i q_i a_i\Big\|_*

As a cone program both sides have interior points for *any* data (w = 0 and q uniform), so there is
no infeasible case: data that no w separates have the optimum 0, and the q found then is the proof.

Each iteration factorises one symmetric n x n (or d x d) matrix. Written with float32 in mind:
slacks are iterates of their own, never differences of large numbers, and the two bounds are
evaluated from w and q directly, so that rounding in the iteration can make the gap larger but never
wrong.

Source: Mehrotra's predictor-corrector method with Nesterov-Todd scaling, as in Vandenberghe, "The
CVXOPT linear and quadratic cone program solvers" (2010); the elimination that leaves one row per
example is derived here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.linear import _row_system
from jaxrobust.linear import _second_order_cones as cones
from jaxrobust.linear._balls import Ball, Iterate
from jaxrobust.linear._second_order_cones import Point, Scaling

_HIGHEST = jax.lax.Precision.HIGHEST
_PATIENCE = 6  # Newton steps without progress before giving up


class Solution(NamedTuple):
    """Best point of each side so far, with its own bound."""

    w: jax.Array  # (G, k): weights of the best lower bound, norm 1
    q: jax.Array  # (n,): dual weights of the best upper bound, on the simplex
    lower: jax.Array  # (): min_i <a_i, w>
    upper: jax.Array  # (): ||sum_i q_i a_i||_*
    iterations: jax.Array  # () int32: Newton systems factorised
    delta: Any = None  # like w: the dual side's perturbation, where there is one


class _Targets(NamedTuple):
    """Right-hand sides of the linearised complementarity conditions."""

    rows: jax.Array  # (n,): target of d(slack * q)
    cones: Point  # target of d(lambda o lambda), in scaled coordinates
    budget: jax.Array  # (): target of d(budget * price)


def solve(
    a: jax.Array,
    ball: Ball,
    *,
    tolerance: float | jax.Array,
    rounding: float | jax.Array,
    max_iterations: int | jax.Array,
) -> Solution:
    """Runs until ``upper - lower <= tolerance * upper``, or ``rounding``, or progress ends.

    Args:
      a: ``(n, G, k)`` signed examples, scaled so that the largest dual norm of one is about 1.
      ball: the unit ball that bounds w.
      tolerance: relative gap to stop at.
      rounding: upper bound under which a margin cannot be told from zero, to stop at.
      max_iterations: hard limit on Newton steps.

    Returns:
      The best bounds met and their points, valid to rounding whether or not it converged.
    """
    limits = {"tolerance": tolerance, "rounding": rounding}
    found = _iterate(a, ball, max_iterations=max_iterations, **limits)
    if _row_system.is_dense(a):
        return found
    # With far more examples than features the d x d systems lose digits, and the gap gets stuck
    # between 1e-4 and 1e-3. By then the examples that matter, at most d + 1, are known.
    return _polish(a, ball, found, max_iterations=max_iterations - found.iterations, **limits)


def _polish(a: jax.Array, ball: Ball, found: Solution, **options) -> Solution:
    """Solves the problem of the examples closest to the boundary alone, if the gap is still open.

    Its weights are checked against all examples, and its dual weights are dual weights of the whole
    problem (zero for the rest), so both bounds remain proofs.
    """
    size = min(a.shape[0], max(2 * a.shape[1] * a.shape[2], 512))

    def on_closest(best: Solution) -> Solution:
        rows = jax.lax.top_k(-_times(a, best.w), size)[1]
        part = _iterate(a[rows], ball, **options)
        lower = jnp.min(_times(a, part.w))
        better_w, better_q = lower > best.lower, part.upper < best.upper
        return Solution(
            jnp.where(better_w, part.w, best.w),
            jnp.where(better_q, jnp.zeros_like(best.q).at[rows].set(part.q), best.q),
            jnp.where(better_w, lower, best.lower),
            jnp.where(better_q, part.upper, best.upper),
            best.iterations + part.iterations,
        )

    is_open = found.upper - found.lower > options["tolerance"] * found.upper
    return jax.lax.cond(
        is_open & (found.upper > options["rounding"]), on_closest, lambda x: x, found
    )


def _iterate(a: jax.Array, ball: Ball, *, tolerance, rounding, max_iterations) -> Solution:
    """The interior-point iteration on all rows of ``a``."""
    known_gram = _row_system.gram(a)

    def unfinished(carry):
        _, best, stalled = carry
        gap_open = best.upper - best.lower > tolerance * best.upper
        undecided = best.upper > rounding
        return gap_open & undecided & (best.iterations < max_iterations) & (stalled < _PATIENCE)

    def advance(carry):
        point, best, stalled = carry
        point = _newton(a, ball, known_gram, point)
        found = _bounds(a, ball, point, best)
        gained = (found.upper - found.lower) < 0.97 * (best.upper - best.lower)
        broken = ~jnp.isfinite(point.offset)
        return point, found, jnp.where(broken, _PATIENCE, jnp.where(gained, 0, stalled + 1))

    start = _start(a, ball)
    carry = start, _bounds(a, ball, start, None), jnp.int32(0)
    return jax.lax.while_loop(unfinished, advance, carry)[1]


def _times(a: jax.Array, w: jax.Array) -> jax.Array:
    return jnp.tensordot(a, w, axes=2, precision=_HIGHEST)


def _transposed_times(a: jax.Array, q: jax.Array) -> jax.Array:
    return jnp.tensordot(q, a, axes=1, precision=_HIGHEST)


def _start(a: jax.Array, ball: Ball) -> Iterate:
    """W = 0, q uniform, and everything else well inside."""
    n = a.shape[0]
    q = jnp.full(n, 1 / n, a.dtype)
    tail = -_transposed_times(a, q)
    head, z_head, budget, price = ball.start(tail)
    ones = jnp.ones(n, a.dtype)
    return Iterate(
        jnp.zeros_like(tail), -ones[0], ones, q, head, Point(z_head, tail), budget, price
    )


def _bounds(a: jax.Array, ball: Ball, point: Iterate, best: Solution | None) -> Solution:
    """Evaluates both bounds from w and q alone, and keeps the better of each side."""
    length = ball.norm(point.w)
    w = point.w / jnp.where(length > 0, length, 1)
    q = point.q / jnp.sum(point.q)
    lower, upper = jnp.min(_times(a, w)), ball.dual_norm(_transposed_times(a, q))
    if best is None:
        return Solution(w, q, lower, upper, jnp.int32(0))
    # Asked of the points, not of the bounds: a minimum over shards may have dropped a NaN.
    better_w = (lower > best.lower) & jnp.all(jnp.isfinite(w))
    better_q = (upper < best.upper) & jnp.all(jnp.isfinite(q))
    return Solution(
        jnp.where(better_w, w, best.w),
        jnp.where(better_q, q, best.q),
        jnp.where(better_w, lower, best.lower),
        jnp.where(better_q, upper, best.upper),
        best.iterations + 1,
    )


def _newton(a: jax.Array, ball: Ball, known_gram: jax.Array | None, point: Iterate) -> Iterate:
    """One predictor-corrector step."""
    scaling = cones.nesterov_todd(Point(point.head, point.w), point.z)
    scaled = cones.scale(scaling, point.z)
    direction = _linearise(a, ball, known_gram, point, scaling)

    square = cones.product(scaled, scaled)
    rows, budget = point.slack * point.q, point.budget * point.price
    affine = direction(_Targets(-rows, Point(-square.head, -square.tail), -budget))
    length = jnp.minimum(1.0, _longest_step(ball, point, scaling, scaled, affine))
    # Mehrotra's rule: the further the pure Newton direction can go, the less centring.
    total = jnp.sum(rows) + jnp.sum(square.head) + budget
    centre = (1 - length) ** 3 * total / (point.q.size + ball.degree())

    moved = cones.unscale(scaling, Point(affine.head, affine.w))
    second_order = cones.product(moved, cones.scale(scaling, affine.z))
    step = direction(
        _Targets(
            centre - rows - affine.slack * affine.q,
            Point(centre - square.head - second_order.head, -square.tail - second_order.tail),
            centre - budget - affine.price * affine.budget,
        )
    )
    length = jnp.minimum(1.0, 0.99 * _longest_step(ball, point, scaling, scaled, step))
    return jax.tree.map(lambda x, dx: x + length * dx, point, step)


def _linearise(
    a: jax.Array, ball: Ball, known_gram: jax.Array | None, point: Iterate, scaling: Scaling
) -> Callable[[_Targets], Iterate]:
    """Eliminates everything but the rows and the border, factorises; returns targets -> step."""
    missing_rows = point.slack + point.offset - _times(a, point.w)
    missing_tail = -point.z.tail - _transposed_times(a, point.q)
    # The rows of the active examples alone are singular once there are more of them than features.
    # As sum(dq) is known, anchor * 1 1^T may be added to the matrix and anchor * sum(dq) to the
    # right: same solution, well conditioned.
    anchor = jnp.mean(jnp.sum(jnp.sum(a**2, axis=-1) * (scaling.eta**2)[None], axis=-1))
    diagonal = point.slack / point.q
    solve_rows = _row_system.factorise(a, known_gram, ball.blocks(scaling), anchor, diagonal)
    border = ball.border(lambda w: _times(a, w), scaling, point)
    solved_border = solve_rows(border.columns)
    inner_matrix = _row_system.matmul(border.columns.T, solved_border) - border.corner

    def direction(targets: _Targets) -> Iterate:
        lam = cones.scale(scaling, point.z)
        pull = cones.scale(scaling, cones.divide(targets.cones, lam))
        at_rest = ball.at_rest(scaling, point, pull, missing_tail)
        goal = ball.border_target(scaling, point, pull, missing_tail, targets.budget)
        right = missing_rows + targets.rows / point.q - _times(a, at_rest) + anchor * goal[-1]
        solved = solve_rows(right[:, None])[:, 0]
        unknowns = _solve_small(inner_matrix, goal - _row_system.matmul(border.columns.T, solved))
        dq = solved + _row_system.matmul(solved_border, unknowns)
        d_price = unknowns[0] if unknowns.size == 2 else jnp.zeros_like(point.price)
        dz_tail = missing_tail - _transposed_times(a, dq)
        rest = ball.finish(scaling, point, pull, dz_tail, d_price, targets.budget)
        return Iterate(
            w=rest.w,
            offset=unknowns[-1],
            slack=(targets.rows - point.slack * dq) / point.q,
            q=dq,
            head=rest.head,
            z=Point(rest.z_head, dz_tail),
            budget=rest.budget,
            price=d_price,
        )

    return direction


def _solve_small(matrix: jax.Array, right: jax.Array) -> jax.Array:
    """Solves the 1 x 1 or 2 x 2 system of the border."""
    if right.size == 1:
        return right / matrix[0]
    (p, q), (r, s) = matrix
    return jnp.stack([s * right[0] - q * right[1], p * right[1] - r * right[0]]) / (p * s - q * r)


def _longest_step(
    ball: Ball, point: Iterate, scaling: Scaling, scaled: Point, step: Iterate
) -> jax.Array:
    """The largest multiple of a step that leaves every variable inside, ``()``."""
    limits = [
        cones.longest_step(scaled, cones.unscale(scaling, Point(step.head, step.w))),
        cones.longest_step(scaled, cones.scale(scaling, step.z)),
        *(_ratio(getattr(point, name), getattr(step, name)) for name in ("slack", "q")),
        # For MaxBall both stand still and do not limit.
        *(_ratio(getattr(point, name), getattr(step, name)) for name in ("budget", "price")),
    ]
    return jnp.min(jnp.stack(limits))


def _ratio(x: jax.Array, dx: jax.Array) -> jax.Array:
    return jnp.min(jnp.where(dx < 0, -x / jnp.where(dx < 0, dx, -1), jnp.inf))
