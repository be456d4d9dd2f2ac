r"""Primal-dual interior-point method for the maximum margin in a norm of group norms.

The problem, for signed examples :math:`a_i` (n of them) with their d = G k coordinates in G groups of k:

.. math:: \max_{\|w\| \le 1} \min_i \langle a_i, w\rangle \;=\; \min_{q \in \Delta_n} \Big\|\sum_i q_i a_i\Big\|_*

with :math:`\|w\| = \sum_g \beta_g \|w_g\|_2` ("sum": l1, Fourier-l1, and l2 with one group) or
:math:`\|w\| = \max_g \|w_g\|_2 / \beta_g` ("max": linf, Fourier-linf). As a cone program both sides have interior points
for *any* data (w = 0 and q uniform), so there is no infeasible case: data that no w separates have the optimum 0, and
the q found then is the proof.

Each iteration solves one symmetric n x n (or d x d, whichever is smaller) system. Written for float32: slacks are
iterates of their own, never differences of large numbers, and the two bounds are evaluated from w and q directly, so
that rounding in the iteration can make the gap larger but never wrong.

Source: Mehrotra's predictor-corrector method with Nesterov-Todd scaling, as in Vandenberghe, "The CVXOPT linear and
quadratic cone program solvers" (2010); the elimination that leaves one row per example is derived here.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve

from jaxrobust.linear import _second_order_cones as cones
from jaxrobust.linear._second_order_cones import Point

Ball = Literal["sum", "max"]
_DENSE_ROWS = 2048  # up to this many examples an n x n system is solved even if d is smaller


class Iterate(NamedTuple):
    """Primal and dual variables, all slacks positive."""

    w: jax.Array  # (G, k): weights; the tail of the cones' primal point
    offset: jax.Array  # (): gamma, the margin all examples exceed by their slack
    slack: jax.Array  # (n,) > 0: <a_i, w> - gamma
    q: jax.Array  # (n,) > 0: dual weights of the examples
    head: jax.Array  # (G,): t_g > ||w_g||; for "max" the constant beta
    z: Point  # dual cone points: head (G,), tail (G, k) = -sum_i q_i a_i
    budget: jax.Array  # () > 0: 1 - sum_g beta_g t_g; unused for "max"
    price: jax.Array  # () > 0: dual of the budget; unused for "max"


class Solution(NamedTuple):
    """Best point of each side so far, with its own bound."""

    w: jax.Array  # (G, k): weights of the best lower bound, norm 1
    q: jax.Array  # (n,): dual weights of the best upper bound, on the simplex
    lower: jax.Array  # (): min_i <a_i, w>
    upper: jax.Array  # (): ||sum_i q_i a_i||_*
    iterations: jax.Array  # () int32: Newton systems factorised


class _Step(NamedTuple):
    """Directions of every member of :class:`Iterate`."""

    w: jax.Array
    offset: jax.Array
    slack: jax.Array
    q: jax.Array
    head: jax.Array
    z: Point
    budget: jax.Array
    price: jax.Array


class _Targets(NamedTuple):
    """Right-hand sides of the linearised complementarity conditions."""

    rows: jax.Array  # (n,): target of d(slack * q)
    cones: Point  # target of d(lambda o lambda), in scaled coordinates
    budget: jax.Array  # (): target of d(budget * price)


def group_norm(ball: Ball, w: jax.Array, beta: jax.Array) -> jax.Array:
    """The weights' norm, ``()``."""
    lengths = jnp.sqrt(jnp.sum(w**2, axis=-1))
    return jnp.sum(beta * lengths) if ball == "sum" else jnp.max(lengths / beta)


def dual_group_norm(ball: Ball, v: jax.Array, beta: jax.Array) -> jax.Array:
    """The norm dual to :func:`group_norm`, ``()``."""
    lengths = jnp.sqrt(jnp.sum(v**2, axis=-1))
    return jnp.max(lengths / beta) if ball == "sum" else jnp.sum(beta * lengths)


def solve(
    a: jax.Array,
    beta: jax.Array,
    ball: Ball,
    *,
    tolerance: float | jax.Array,
    zero: float | jax.Array,
    max_iterations: int,
) -> Solution:
    """Runs until ``upper - lower <= tolerance * upper``, or ``upper <= zero``, or progress ends.

    Args:
      a: ``(n, G, k)`` signed examples, scaled so that the largest dual norm of one is about 1.
      beta: ``(G,)`` positive group weights.
      ball: which of the two norms bounds w.
      tolerance: relative gap to stop at.
      zero: upper bound under which the data count as not separable.
      max_iterations: hard limit on Newton steps.

    Returns:
      The best bounds met and their points. Bounds hold to rounding whether or not the method converged.
    """
    gram = _gram(a) if a.shape[1] == 1 and a.shape[0] <= a.shape[2] else None

    def unfinished(carry):
        _, best, stalled = carry
        gap_open = best.upper - best.lower > tolerance * best.upper
        return gap_open & (best.upper > zero) & (best.iterations < max_iterations) & (stalled < 6)

    def iterate(carry):
        point, best, stalled = carry
        point = _newton(a, beta, ball, gram, point)
        found = _bounds(a, beta, ball, point, best)
        gained = (found.upper - found.lower) < 0.97 * (best.upper - best.lower)
        broken = ~jnp.isfinite(point.offset)
        stalled = jnp.where(gained, 0, stalled + 1) + 100 * broken.astype(jnp.int32)
        return point, found, stalled

    start = _start(a, beta, ball)
    first = _bounds(a, beta, ball, start, None)
    return jax.lax.while_loop(unfinished, iterate, (start, first, jnp.int32(0)))[1]


def _times(a: jax.Array, w: jax.Array) -> jax.Array:
    return jnp.tensordot(a, w, axes=2, precision=jax.lax.Precision.HIGHEST)


def _transposed_times(a: jax.Array, q: jax.Array) -> jax.Array:
    return jnp.tensordot(q, a, axes=1, precision=jax.lax.Precision.HIGHEST)


def _gram(a: jax.Array) -> jax.Array:
    flat = a.reshape(a.shape[0], -1)
    return jnp.matmul(flat, flat.T, precision=jax.lax.Precision.HIGHEST)


def _start(a: jax.Array, beta: jax.Array, ball: Ball) -> Iterate:
    n, groups, _ = a.shape
    dtype = a.dtype
    q = jnp.full(n, 1 / n, dtype)
    tail = -_transposed_times(a, q)
    lengths = jnp.sqrt(jnp.sum(tail**2, axis=-1))
    one = jnp.ones((), dtype)
    if ball == "sum":
        price = 1.2 * jnp.max(lengths / beta) + 0.1
        head, z_head = 1 / (2 * groups * beta), beta * price
    else:
        price, head, z_head = one, beta, lengths + 0.1 / (groups * beta)
    return Iterate(jnp.zeros_like(tail), -one, jnp.ones(n, dtype), q, head, Point(z_head, tail), 0.5 * one, price)


def _bounds(a: jax.Array, beta: jax.Array, ball: Ball, point: Iterate, best: Solution | None) -> Solution:
    """Evaluates both bounds at a point from its w and q alone, and keeps the better of each side."""
    length = group_norm(ball, point.w, beta)
    w = point.w / jnp.where(length > 0, length, 1)
    lower = jnp.min(_times(a, w))
    q = point.q / jnp.sum(point.q)
    upper = dual_group_norm(ball, _transposed_times(a, q), beta)
    if best is None:
        return Solution(w, q, lower, upper, jnp.int32(0))
    better_w, better_q = lower > best.lower, upper < best.upper  # both false on NaN
    return Solution(
        jnp.where(better_w, w, best.w),
        jnp.where(better_q, q, best.q),
        jnp.where(better_w, lower, best.lower),
        jnp.where(better_q, upper, best.upper),
        best.iterations + 1,
    )


def _newton(a: jax.Array, beta: jax.Array, ball: Ball, gram: jax.Array | None, point: Iterate) -> Iterate:
    """One predictor-corrector step."""
    n, groups, _ = a.shape
    primal = Point(point.head, point.w)
    scaling = cones.nesterov_todd(primal, point.z)
    scaled = cones.scale(scaling, point.z)
    direction = _factorise(a, beta, ball, gram, point, scaling)

    degree = n + groups + (1 if ball == "sum" else 0)
    budget = point.budget * point.price if ball == "sum" else jnp.zeros_like(point.price)
    mu = (jnp.sum(point.slack * point.q) + jnp.sum(scaled.head**2) + jnp.sum(scaled.tail**2) + budget) / degree

    square = cones.product(scaled, scaled)
    affine = direction(_Targets(-point.slack * point.q, Point(-square.head, -square.tail), -point.price * point.budget))
    length = jnp.minimum(1.0, _longest_step(ball, point, scaling, scaled, affine))
    # Mehrotra's rule: the further the pure Newton direction can go, the less centring.
    centre = (1 - length) ** 3 * mu

    second_order = cones.product(
        cones.unscale(scaling, Point(affine.head, affine.w)), cones.scale(scaling, affine.z)
    )
    targets = _Targets(
        centre - point.slack * point.q - affine.slack * affine.q,
        Point(centre - square.head - second_order.head, -square.tail - second_order.tail),
        centre - point.price * point.budget - affine.price * affine.budget,
    )
    step = direction(targets)
    length = jnp.minimum(1.0, 0.99 * _longest_step(ball, point, scaling, scaled, step))
    return jax.tree.map(lambda x, dx: x + length * dx, point, Iterate(*step))


def _longest_step(ball: Ball, point: Iterate, scaling: cones.Scaling, scaled: Point, step: _Step) -> jax.Array:
    primal = cones.longest_step(scaled, cones.unscale(scaling, Point(step.head, step.w)))
    dual = cones.longest_step(scaled, cones.scale(scaling, step.z))
    limits = [primal, dual, _ratio(point.slack, step.slack), _ratio(point.q, step.q)]
    if ball == "sum":
        limits += [_ratio(point.budget, step.budget), _ratio(point.price, step.price)]
    return jnp.min(jnp.stack(limits))


def _ratio(x: jax.Array, dx: jax.Array) -> jax.Array:
    return jnp.min(jnp.where(dx < 0, -x / jnp.where(dx < 0, dx, -1), jnp.inf))


def _factorise(
    a: jax.Array, beta: jax.Array, ball: Ball, gram: jax.Array | None, point: Iterate, scaling: cones.Scaling
) -> Callable[[_Targets], _Step]:
    r"""Eliminates everything but the rows, factorises, and returns targets -> step.

    With :math:`Q_g` the block by which a change of the dual tail moves w (for "sum" the tail block of :math:`W_g^2`, for
    "max", where the head is fixed, its Schur complement), the rows' system is
    :math:`(A Q A^\top + \mathrm{diag}(s/q))\,dq - m\,d\pi - 1\,d\gamma = r`, bordered by one row for the budget's price
    and one for :math:`\sum_i q_i = 1`.
    """
    eta2, axis = scaling.eta**2, scaling.axis
    tail2 = jnp.sum(axis.tail**2, axis=-1)
    # Q_g = eta^2 (I + curve x x^T) with x the tail of the scaling's axis.
    curve = jnp.full_like(tail2, 2.0) if ball == "sum" else -2 / (1 + 2 * tail2)

    def apply_q(v):
        inner = jnp.sum(axis.tail * v, axis=-1)
        return eta2[:, None] * (v + (curve * inner)[:, None] * axis.tail)

    # The rows of the active examples alone are singular once there are more of them than features. Since sum(dq) is
    # known, anchor * 1 1^T may be added to the matrix and anchor * missing_sum to the right: same solution, and well
    # conditioned.
    diagonal = point.slack / point.q
    anchor = _mean_diagonal(a, scaling.eta)
    solve_rows = _row_solver(a, gram, scaling.eta, axis.tail, curve, diagonal, anchor)

    head_tail = (2 * eta2 * axis.head)[:, None] * axis.tail  # W^2's head-tail block
    head_head = eta2 * (axis.head**2 + tail2)
    moved_by_price = _times(a, beta[:, None] * head_tail)  # m: A W^2_th beta
    ones = jnp.ones_like(point.q)

    missing_rows = point.slack + point.offset - _times(a, point.w)
    missing_tail = -point.z.tail - _transposed_times(a, point.q)
    missing_sum = 1 - jnp.sum(point.q)
    if ball == "sum":
        missing_head = point.z.head - beta * point.price  # du = beta dprice - missing_head
        missing_budget = point.budget - 1 + jnp.sum(beta * point.head)
        border = jnp.stack([moved_by_price, ones], axis=1)
        corner = jnp.sum(beta**2 * head_head) + point.budget / point.price
    else:
        border = ones[:, None]
    solved_border = solve_rows(border)
    # Row sums of the eliminated system: symmetric positive definite, 2 x 2 or 1 x 1.
    schur = jnp.matmul(border.T, solved_border, precision=jax.lax.Precision.HIGHEST)

    def direction(targets: _Targets) -> _Step:
        pull = cones.scale(scaling, cones.divide(targets.cones, cones.scale(scaling, point.z)))
        if ball == "sum":
            still = pull.tail + head_tail * missing_head[:, None] - apply_q(missing_tail)
        else:
            still = pull.tail - head_tail * (pull.head / head_head)[:, None] - apply_q(missing_tail)
        rhs = missing_rows + targets.rows / point.q - _times(a, still) + anchor * missing_sum
        solved = solve_rows(rhs[:, None])[:, 0]
        inner = jnp.matmul(border.T, solved, precision=jax.lax.Precision.HIGHEST)
        if ball == "sum":
            rhs_budget = (
                missing_budget
                + targets.budget / point.price
                + jnp.sum(beta * (pull.head + head_head * missing_head))
                - jnp.sum(beta[:, None] * head_tail * missing_tail)
            )
            # dq = solved + solved_border @ (dprice, doffset), put into the budget's row and into sum(dq).
            matrix = jnp.stack(
                [jnp.stack([corner - schur[0, 0], -schur[0, 1]]), jnp.stack([schur[1, 0], schur[1, 1]])]
            )
            right = jnp.stack([rhs_budget + inner[0], missing_sum - inner[1]])
            d_price, d_offset = _solve_2x2(matrix, right)
            dq = solved + solved_border[:, 0] * d_price + solved_border[:, 1] * d_offset
        else:
            d_price = jnp.zeros_like(point.price)
            d_offset = (missing_sum - inner[0]) / schur[0, 0]
            dq = solved + solved_border[:, 0] * d_offset
        dz_tail = missing_tail - _transposed_times(a, dq)
        if ball == "sum":
            dz_head = beta * d_price - missing_head
            dw = pull.tail - head_tail * dz_head[:, None] - apply_q(dz_tail)
            d_head = pull.head - head_head * dz_head - jnp.sum(head_tail * dz_tail, axis=-1)
            d_budget = (targets.budget - point.budget * d_price) / point.price
        else:
            dz_head = (pull.head - jnp.sum(head_tail * dz_tail, axis=-1)) / head_head
            dw = pull.tail - head_tail * (pull.head / head_head)[:, None] - apply_q(dz_tail)
            d_head, d_budget = jnp.zeros_like(point.head), jnp.zeros_like(point.budget)
        d_slack = (targets.rows - point.slack * dq) / point.q
        return _Step(dw, d_offset, d_slack, dq, d_head, Point(dz_head, dz_tail), d_budget, d_price)

    return direction


def _solve_2x2(matrix: jax.Array, right: jax.Array) -> tuple[jax.Array, jax.Array]:
    determinant = matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]
    return (
        (matrix[1, 1] * right[0] - matrix[0, 1] * right[1]) / determinant,
        (matrix[0, 0] * right[1] - matrix[1, 0] * right[0]) / determinant,
    )


def _mean_diagonal(a: jax.Array, eta: jax.Array) -> jax.Array:
    return jnp.mean(jnp.sum(jnp.sum(a**2, axis=-1) * (eta**2)[None], axis=-1))


def _row_solver(
    a: jax.Array, gram: jax.Array | None, eta: jax.Array, axis: jax.Array, curve: jax.Array, diagonal: jax.Array,
    anchor: jax.Array,
) -> Callable[[jax.Array], jax.Array]:
    """Solver of ``(B B^T + diag(diagonal)) x = r`` for ``r (n, m)``, with ``B = A Q^(1/2)``."""
    n, groups, k = a.shape
    tail2 = jnp.sum(axis**2, axis=-1)
    root = curve / (jnp.sqrt(jnp.maximum(1 + curve * tail2, 0)) + 1)  # I + curve x x^T = (I + root x x^T)^2
    matmul = _matmul
    if gram is not None:
        along = _times(a, axis)
        matrix = eta[0] ** 2 * (gram + curve[0] * along[:, None] * along[None, :]) + anchor + jnp.diag(diagonal)
        return _refined(matrix, lambda x: matmul(matrix, x))

    if k == 1:
        b = (a * ((1 + root * tail2) * eta)[None, :, None]).reshape(n, -1)
    else:
        along = jnp.sum(a * axis[None], axis=-1)
        b = (eta[None, :, None] * (a + (root[None] * along)[:, :, None] * axis[None])).reshape(n, -1)
    # The n x n form is the more accurate one; the other is for n too large for it.
    if n <= max(groups * k, _DENSE_ROWS):
        matrix = matmul(b, b.T) + anchor + jnp.diag(diagonal)
        return _refined(matrix, lambda x: matmul(matrix, x))

    # More examples than features: (B B^T + D)^-1 = D^-1 - D^-1 B (I + B^T D^-1 B)^-1 B^T D^-1.
    b = jnp.concatenate([b, jnp.sqrt(anchor) * jnp.ones((n, 1), b.dtype)], axis=1)
    weighted = b / diagonal[:, None]
    inner = _refined_inner(jnp.eye(b.shape[1], dtype=b.dtype) + matmul(b.T, weighted))

    def woodbury(r):
        return (r - matmul(b, inner(matmul(weighted.T, r)))) / diagonal[:, None]

    def solve_rows(r):
        x = woodbury(r)
        for _ in range(2):
            x = x + woodbury(r - matmul(b, matmul(b.T, x)) - diagonal[:, None] * x)
        return x

    return solve_rows


def _matmul(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def _refined_inner(matrix: jax.Array) -> Callable[[jax.Array], jax.Array]:
    # Unit diagonal first: the entries range over many orders of magnitude late in the iteration, harmlessly so.
    scale = 1 / jnp.sqrt(jnp.diagonal(matrix))
    jitter = 4 * jnp.finfo(matrix.dtype).eps
    unit = matrix * scale[:, None] * scale[None, :] + jitter * jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    factor = cho_factor(unit, lower=True)
    return lambda r: scale[:, None] * cho_solve(factor, scale[:, None] * r)


def _refined(matrix: jax.Array, times: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """Cholesky solve, with two steps of iterative refinement against the jitter and float32."""
    inner = _refined_inner(matrix)

    def solve_rows(r):
        x = inner(r)
        for _ in range(2):
            x = x + inner(r - times(x))
        return x

    return solve_rows
