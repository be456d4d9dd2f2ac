r"""The two unit balls that a norm of group norms can have, and what they do to a Newton step.

With d = G k coordinates in G groups and weights :math:`\beta_g > 0`:

- :class:`SumBall`: :math:`\sum_g \beta_g \|w_g\|_2 \le 1` (l1, Fourier-l1). As cones:
  :math:`\|w_g\| \le t_g`, and a budget :math:`1 - \sum_g\beta_g t_g \ge 0` whose dual is its price.
- :class:`MaxBall`: :math:`\max_g \|w_g\|_2 / \beta_g \le 1` (linf, Fourier-linf, and l2 as one
  group). As cones: :math:`\|w_g\| \le \beta_g`. The heads are constants and there is no budget.

Derivation of a step, with :math:`W_g` the Nesterov-Todd scaling of cone g, ``pull`` the scaled
target of its complementarity condition, and ``missing`` the residuals of the linear conditions:
:math:`(dt, dw) = \mathrm{pull} - W^2 (du, dv)` with :math:`dv = \mathrm{missing} - A^\top dq`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.linear._row_system import Blocks
from jaxrobust.linear._second_order_cones import Point, Scaling


class Iterate(NamedTuple):
    """Primal and dual variables of the interior-point method; everything is strictly inside."""

    w: jax.Array  # (G, k): weights, the tail of the cones' primal point
    offset: jax.Array  # (): gamma, the margin that every example exceeds by its slack
    slack: jax.Array  # (n,) > 0: <a_i, w> - gamma
    q: jax.Array  # (n,) > 0: dual weights of the examples
    head: jax.Array  # (G,): t_g > ||w_g||; the constant beta for MaxBall
    z: Point  # dual cone points: head (G,), tail (G, k) = -sum_i q_i a_i
    budget: jax.Array  # () > 0: 1 - sum_g beta_g t_g; stays 1 for MaxBall
    price: jax.Array  # () > 0: dual of the budget; stays 0 for MaxBall


class Border(NamedTuple):
    """Unknowns besides dq that stay in the eliminated system: the offset, before it the price."""

    columns: jax.Array  # (n, m): how they enter the rows of the examples
    corner: jax.Array  # (m, m): how they enter their own rows


class ConeStep(NamedTuple):
    """The part of a Newton step that belongs to the cones and the budget."""

    w: jax.Array  # (G, k)
    head: jax.Array  # (G,)
    z_head: jax.Array  # (G,)
    budget: jax.Array  # ()


class SumBall(NamedTuple):
    """Weighted sum of the groups' lengths at most 1."""

    beta: jax.Array  # (G,) > 0

    def norm(self, w: jax.Array) -> jax.Array:
        """The norm whose unit ball it is, ``()``."""
        return jnp.sum(self.beta * _lengths(w))

    def dual_norm(self, v: jax.Array) -> jax.Array:
        """Its dual, ``()``."""
        return jnp.max(_lengths(v) / self.beta)

    def degree(self) -> int:
        """Number of complementarity conditions besides the examples'."""
        return self.beta.size + 1

    def start(self, tail: jax.Array) -> tuple[jax.Array, ...]:
        """Heads, dual heads, budget and price well inside, for w = 0 and the dual tails given."""
        price = 1.2 * self.dual_norm(tail) + 0.1
        head = 1 / (2 * self.beta.size * self.beta)
        return head, self.beta * price, jnp.full_like(price, 0.5), price

    def blocks(self, scaling: Scaling) -> Blocks:
        """Q: the tail block of W^2."""
        return Blocks(scaling.eta, jnp.full_like(scaling.eta, 2.0), scaling.axis.tail)

    def border(self, times, scaling: Scaling, point: Iterate) -> Border:
        """Columns and corner of (price, offset); ``times`` is multiplication by A."""
        head_head, head_tail = _squared_scaling(scaling)
        column = times(self.beta[:, None] * head_tail)
        own = jnp.sum(self.beta**2 * head_head) + point.budget / point.price
        corner = jnp.zeros((2, 2), own.dtype).at[0, 0].set(own)
        return Border(jnp.stack([column, jnp.ones_like(point.q)], axis=1), corner)

    def at_rest(self, scaling: Scaling, point: Iterate, pull: Point, missing: jax.Array):
        """Dw for dq = 0 and unchanged price."""
        _, head_tail = _squared_scaling(scaling)
        missing_head = point.z.head - self.beta * point.price
        shift = head_tail * missing_head[:, None]
        return pull.tail + shift - self.blocks(scaling).apply(missing)

    def border_target(
        self, scaling: Scaling, point: Iterate, pull: Point, missing: jax.Array, target: jax.Array
    ) -> jax.Array:
        """Right-hand sides of the border's rows, ``(2,)``."""
        head_head, head_tail = _squared_scaling(scaling)
        missing_head = point.z.head - self.beta * point.price
        budget = (
            point.budget
            - 1
            + jnp.sum(self.beta * point.head)  # residual of the budget's equation
            + target / point.price
            + jnp.sum(self.beta * (pull.head + head_head * missing_head))
            - jnp.sum(self.beta[:, None] * head_tail * missing)
        )
        return jnp.stack([-budget, 1 - jnp.sum(point.q)])

    def finish(
        self,
        scaling: Scaling,
        point: Iterate,
        pull: Point,
        dz_tail: jax.Array,
        d_price: jax.Array,
        target: jax.Array,
    ) -> ConeStep:
        """The cones' step, from the dual tails' step and the price's."""
        head_head, head_tail = _squared_scaling(scaling)
        # The residual first: it is small, and so is the step; their sum with the price is neither.
        dz_head = self.beta * d_price - (point.z.head - self.beta * point.price)
        dw = pull.tail - head_tail * dz_head[:, None] - self.blocks(scaling).apply(dz_tail)
        d_head = pull.head - head_head * dz_head - jnp.sum(head_tail * dz_tail, axis=-1)
        return ConeStep(dw, d_head, dz_head, (target - point.budget * d_price) / point.price)


class MaxBall(NamedTuple):
    """Largest weighted length of a group at most 1."""

    beta: jax.Array  # (G,) > 0

    def norm(self, w: jax.Array) -> jax.Array:
        """The norm whose unit ball it is, ``()``."""
        return jnp.max(_lengths(w) / self.beta)

    def dual_norm(self, v: jax.Array) -> jax.Array:
        """Its dual, ``()``."""
        return jnp.sum(self.beta * _lengths(v))

    def degree(self) -> int:
        """Number of complementarity conditions besides the examples'."""
        return self.beta.size

    def start(self, tail: jax.Array) -> tuple[jax.Array, ...]:
        """Heads, dual heads, budget and price, for w = 0 and the dual tails given."""
        one = jnp.ones((), tail.dtype)
        return self.beta, _lengths(tail) + 0.1 / (self.beta.size * self.beta), one, 0 * one

    def blocks(self, scaling: Scaling) -> Blocks:
        """Q: the heads cannot move, so the Schur complement of W^2's tail block."""
        squared = jnp.sum(scaling.axis.tail**2, axis=-1)
        return Blocks(scaling.eta, -2 / (1 + 2 * squared), scaling.axis.tail)

    def border(self, times, scaling: Scaling, point: Iterate) -> Border:
        """Column and corner of the offset."""
        del times, scaling
        return Border(jnp.ones_like(point.q)[:, None], jnp.zeros((1, 1), point.q.dtype))

    def at_rest(self, scaling: Scaling, point: Iterate, pull: Point, missing: jax.Array):
        """Dw for dq = 0."""
        del point
        head_head, head_tail = _squared_scaling(scaling)
        shift = head_tail * (pull.head / head_head)[:, None]
        return pull.tail - shift - self.blocks(scaling).apply(missing)

    def border_target(
        self, scaling: Scaling, point: Iterate, pull: Point, missing: jax.Array, target: jax.Array
    ) -> jax.Array:
        """Right-hand side of the border's row, ``(1,)``."""
        del scaling, pull, missing, target
        return (1 - jnp.sum(point.q))[None]

    def finish(
        self,
        scaling: Scaling,
        point: Iterate,
        pull: Point,
        dz_tail: jax.Array,
        d_price: jax.Array,
        target: jax.Array,
    ) -> ConeStep:
        """The cones' step, from the dual tails' step."""
        del d_price, target
        head_head, head_tail = _squared_scaling(scaling)
        dz_head = (pull.head - jnp.sum(head_tail * dz_tail, axis=-1)) / head_head
        dw = self.at_rest(scaling, point, pull, dz_tail)
        return ConeStep(dw, jnp.zeros_like(point.head), dz_head, jnp.zeros_like(point.budget))


Ball = SumBall | MaxBall


def _lengths(v: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(v**2, axis=-1))


def _squared_scaling(scaling: Scaling) -> tuple[jax.Array, jax.Array]:
    """Head-head ``(G,)`` and head-tail ``(G, k)`` blocks of W^2."""
    eta2, axis = scaling.eta**2, scaling.axis
    squared = jnp.sum(axis.tail**2, axis=-1)
    return eta2 * (axis.head**2 + squared), (2 * eta2 * axis.head)[:, None] * axis.tail
