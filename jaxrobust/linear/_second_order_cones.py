"""Algebra of a product of second-order cones, and its Nesterov-Todd scaling.

A point is a pair ``(head (G,), tail (G, k))``, one cone ``head >= ||tail||`` per group. Formulas:
Vandenberghe, "The CVXOPT linear and quadratic cone program solvers" (2010), sections 4 and 5,
written for G cones of one size.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Point(NamedTuple):
    """One vector per cone."""

    head: jax.Array  # (G,) floating
    tail: jax.Array  # (G, k) floating


class Scaling(NamedTuple):
    """The symmetric W with ``W z = W^-1 s``, as eta times that of a unit hyperbolic vector."""

    eta: jax.Array  # (G,): geometric mean of the two points' distances to the boundary, as a ratio
    axis: Point  # head^2 - ||tail||^2 = 1


def tail_norm(point: Point) -> jax.Array:
    """||tail|| per cone, (G,)."""
    return jnp.sqrt(jnp.sum(point.tail**2, axis=-1))


def distance(point: Point) -> jax.Array:
    """Head - ||tail|| per cone, (G,): positive inside."""
    return point.head - tail_norm(point)


def product(a: Point, b: Point) -> Point:
    """The Jordan product, per cone."""
    return Point(
        a.head * b.head + jnp.sum(a.tail * b.tail, axis=-1),
        a.head[:, None] * b.tail + b.head[:, None] * a.tail,
    )


def divide(point: Point, by: Point) -> Point:
    """The x with ``product(by, x) == point``."""
    inner = jnp.sum(by.tail * point.tail, axis=-1)
    head = (by.head * point.head - inner) / _determinant(by)
    return Point(head, (point.tail - head[:, None] * by.tail) / by.head[:, None])


def nesterov_todd(s: Point, z: Point) -> Scaling:
    """The scaling that maps the primal slack ``s`` and the dual ``z``, both inside, on one."""
    s_det, z_det = _determinant(s), _determinant(z)
    s_unit, z_unit = _multiply(1 / jnp.sqrt(s_det), s), _multiply(1 / jnp.sqrt(z_det), z)
    cosine = s_unit.head * z_unit.head + jnp.sum(s_unit.tail * z_unit.tail, axis=-1)
    gamma = jnp.sqrt((1 + cosine) / 2)
    tail = (s_unit.tail - z_unit.tail) / (2 * gamma)[:, None]
    # The head follows from the tail: head^2 - ||tail||^2 = 1 then holds to rounding, which keeps W
    # invertible.
    return Scaling((s_det / z_det) ** 0.25, Point(jnp.sqrt(1 + jnp.sum(tail**2, axis=-1)), tail))


def scale(w: Scaling, x: Point) -> Point:
    """W x."""
    inner = jnp.sum(w.axis.tail * x.tail, axis=-1)
    along = x.head + inner / (1 + w.axis.head)
    return _multiply(
        w.eta, Point(w.axis.head * x.head + inner, x.tail + along[:, None] * w.axis.tail)
    )


def unscale(w: Scaling, x: Point) -> Point:
    """W^-1 x."""
    inner = jnp.sum(w.axis.tail * x.tail, axis=-1)
    along = inner / (1 + w.axis.head) - x.head
    return _multiply(
        1 / w.eta, Point(w.axis.head * x.head - inner, x.tail + along[:, None] * w.axis.tail)
    )


def longest_step(scaled: Point, direction: Point) -> jax.Array:
    """Largest a with ``scaled + a * direction`` in all cones, ``()``; infinite without a limit.

    Both are in scaled coordinates, where the point is well inside and the quadratic does not
    cancel.
    """
    root = jnp.sqrt(_determinant(scaled))
    unit = _multiply(1 / root, scaled)
    along = unit.head * direction.head - jnp.sum(unit.tail * direction.tail, axis=-1)
    tail = direction.tail - ((along + direction.head) / (unit.head + 1))[:, None] * unit.tail
    shrink = jnp.max((jnp.sqrt(jnp.sum(tail**2, axis=-1)) - along) / root)
    return jnp.where(shrink > 0, 1 / jnp.where(shrink > 0, shrink, 1), jnp.inf)


def _determinant(point: Point) -> jax.Array:
    # (h - t)(h + t) instead of h^2 - t^2, which loses all digits close to the boundary.
    norm = tail_norm(point)
    tiny = jnp.finfo(norm.dtype).tiny
    return jnp.maximum((point.head - norm) * (point.head + norm), tiny)


def _multiply(factor: jax.Array, point: Point) -> Point:
    return Point(factor * point.head, factor[:, None] * point.tail)
