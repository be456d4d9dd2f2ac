"""The algebra of second-order cones, by its defining equations, far from and close to the boundary.

In the cone algebra a point (h, t) acts as the arrow matrix [[h, t'], [t, h I]]. The scaling is the
symmetric W of the two points s and z with W z = W^-1 s.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.linear import _second_order_cones as cones

pytestmark = pytest.mark.usefixtures("x64")

EPS = np.finfo(np.float64).eps
GROUPS, SIZE = 12, 3


def inside(seed: int, distance: float = 1.0, size: int = SIZE) -> cones.Point:
    """Points of very different lengths, at a relative distance of the boundary."""
    rng = np.random.default_rng(seed)
    tail = rng.normal(size=(GROUPS, size)) * 10 ** rng.uniform(-3, 3, size=(GROUPS, 1))
    head = np.linalg.norm(tail, axis=1) * (1 + distance * rng.uniform(0.5, 1, size=GROUPS))
    return cones.Point(jnp.asarray(head), jnp.asarray(tail))


def vectors(point: cones.Point) -> np.ndarray:
    """One vector (h, t) per cone."""
    return np.concatenate([np.asarray(point.head)[:, None], np.asarray(point.tail)], axis=1)


def arrow(v: np.ndarray) -> np.ndarray:
    matrix = v[0] * np.eye(len(v))
    matrix[0, 1:] = matrix[1:, 0] = v[1:]
    return matrix


@pytest.mark.parametrize("size", [1, SIZE])
def test_product_and_division(size):
    a, b = inside(0, size=size), inside(1, size=size)
    product = jax.jit(cones.product)(a, b)
    expected = [arrow(u) @ v for u, v in zip(vectors(a), vectors(b), strict=True)]
    np.testing.assert_allclose(vectors(product), expected, rtol=1e-12)
    back = jax.jit(cones.divide)(product, a)
    np.testing.assert_allclose(vectors(back), vectors(b), rtol=1e-10)


def test_tail_norm_and_distance():
    a = inside(0)
    lengths = np.linalg.norm(a.tail, axis=1)
    np.testing.assert_allclose(cones.tail_norm(a), lengths, rtol=4 * EPS)
    np.testing.assert_allclose(cones.distance(a), a.head - lengths, rtol=1e-12)


@pytest.mark.parametrize("size", [1, SIZE])
@pytest.mark.parametrize("distance", [1.0, 1e-4, 1e-8])
def test_scaling(distance, size):
    s, z = inside(0, distance, size), inside(1, distance, size)

    @jax.jit
    def run(s, z):
        w = cones.nesterov_todd(s, z)
        return w, cones.scale(w, z), cones.unscale(w, s), cones.unscale(w, cones.scale(w, s))

    w, from_z, from_s, there_and_back = run(s, z)
    axis = vectors(w.axis)
    tails = np.linalg.norm(axis[:, 1:], axis=1)
    # W stretches by this much more in one direction than in another.
    rtol = 10 * EPS * (axis[:, 0] + tails) ** 2
    assert np.all(relative(from_z, from_s) < rtol)
    assert np.all(relative(there_and_back, s) < rtol)
    assert np.all(np.abs(axis[:, 0] ** 2 - tails**2 - 1) < rtol)


def relative(a: cones.Point, b: cones.Point) -> np.ndarray:
    """The length of the difference in units of the length of ``b``, per cone."""
    return np.linalg.norm(vectors(a) - vectors(b), axis=1) / np.linalg.norm(vectors(b), axis=1)


def test_scaling_is_symmetric_and_keeps_the_gap():
    s, z, other = inside(0), inside(1), inside(2)

    @jax.jit
    def run(s, z, other):
        w = cones.nesterov_todd(s, z)
        return cones.scale(w, z), cones.scale(w, other)

    scaled, moved = run(s, z, other)
    # <W z, W other> = <W^-1 s, W other> = <s, other>, for W is symmetric.
    inner = np.sum(vectors(scaled) * vectors(moved), axis=1)
    expected = np.sum(vectors(s) * vectors(other), axis=1)
    bound = np.linalg.norm(vectors(s), axis=1) * np.linalg.norm(vectors(other), axis=1)
    np.testing.assert_allclose(inner / bound, expected / bound, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_longest_step(seed):
    """The step ends on the boundary of one cone and inside of all others."""
    point = inside(seed)
    rng = np.random.default_rng(seed + 10)
    scale = np.asarray(point.head)
    direction = cones.Point(
        jnp.asarray(scale * rng.normal(size=GROUPS)),
        jnp.asarray(scale[:, None] * rng.normal(size=(GROUPS, SIZE))),
    )
    length = float(jax.jit(cones.longest_step)(point, direction))
    ends = vectors(point) + length * vectors(direction)
    distances = (ends[:, 0] - np.linalg.norm(ends[:, 1:], axis=1)) / scale
    assert abs(distances.min()) < 1e-12
    shorter = vectors(point) + 0.999 * length * vectors(direction)
    assert np.all(shorter[:, 0] > np.linalg.norm(shorter[:, 1:], axis=1))


def test_no_longest_step_into_the_cone():
    longest_step = jax.jit(cones.longest_step)
    assert longest_step(inside(0), inside(1)) == jnp.inf
    zero = jax.tree.map(jnp.zeros_like, inside(0))
    assert longest_step(inside(0), zero) == jnp.inf


def test_points_on_the_boundary_give_no_nan():
    """As far as rounding may push a point: the head equals the length of the tail."""
    tail = jnp.array([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]])
    edge, other = cones.Point(jnp.array([5.0, 0.0]), tail), cones.Point(jnp.ones(2), 0.1 * tail)
    for s, z in ((edge, other), (other, edge), (edge, edge)):
        w = cones.nesterov_todd(s, z)
        for array in jax.tree.leaves((w, cones.longest_step(other, edge))):
            assert not np.any(np.isnan(array))
