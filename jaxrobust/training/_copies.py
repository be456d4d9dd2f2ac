"""How close near-duplicates are, told from the data."""

import jax
import jax.numpy as jnp

_HIGHEST = jax.lax.Precision.HIGHEST
# Cosine distances below this are rounding errors of float32.
_LEAST_DISTANCE = 1e-6
# How many standard deviations two kinds of edges must be apart. Half of a normal distribution and
# the other half are 2.7 apart, those of a uniform one 3.5: neither is two kinds. Measured: 1.9 to
# 2.7 for images without copies and 3.5 at most for Gaussian points, 4.1 to 7 with copies.
_SEPARATION = 3.8
# How far copies are apart at most, typically, and the largest tolerance. Further apart, as members
# of a compact class may be whose distances all are about the same in many dimensions, points are
# alike and no copies. Measured: 0.004 to 0.04 for copies of images with pixel noise 0.02, and
# tolerances up to 0.16; above 0.07 and above 0.35 for classes of Gaussian points.
_MOST_DISTANCE, _MOST_TOLERANCE = 0.1, 0.2
# Relative, over the number of edges: few points are further apart by chance.
_CHANCE = 10.0


@jax.jit
def copy_tolerance(points: jax.Array) -> jax.Array:
    r"""The cosine distance that separates copies from other neighbours; 0 if there is no gap.

    The points are joined by their minimum spanning tree, M - 1 edges. Within a group of copies its
    edges are short, and one longer edge leads from each group, or from each point without copies,
    to another: also where all points have copies, and where few have. If there are copies the
    logarithms of the lengths are of two kinds, with a gap between: they are split in two where the
    variance within both is least (Otsu, 1979), and the split is believed if the means
    :math:`m_1, m_2` are far apart in standard deviations, by :math:`3.8\,(1+10/M)` at least (that
    is Ashman's :math:`D=\sqrt2\,|m_1-m_2|/\sqrt{s_1^2+s_2^2}`; among few points gaps come by
    chance), and if the short ones are 0.1 at most in the geometric mean and the tolerance 0.2.
    Images that are merely alike have no gap, and points of compact classes are further apart than
    copies.

    Args:
      points: ``(M, d)``; zero points have no direction and do not count.

    Returns:
      ``()``: the distance that is as many standard deviations above the copies as it is below the
      others; 0 for less than 4 points.
    """
    lengths = jnp.linalg.norm(points, axis=1)
    there = lengths > 0
    points = points / jnp.where(there, lengths, 1)[:, None]
    distances = 1 - jnp.matmul(points, points.T, precision=_HIGHEST)
    edges = _spanning_tree(distances, there)
    # Edges that are not there go to the end, and the end is no place to split.
    logs = jnp.sort(jnp.log(jnp.maximum(edges, _LEAST_DISTANCE)))
    counted = jnp.isfinite(logs)
    number = jnp.sum(counted)
    logs = jnp.where(counted, logs, 0)
    middle = jnp.sum(logs) / jnp.maximum(number, 1)
    logs = jnp.where(counted, logs - middle, 0)  # for the squares: no difference of large numbers
    sums, squares = jnp.cumsum(logs), jnp.cumsum(logs**2)
    low = jnp.arange(1, len(logs) + 1, dtype=logs.dtype)
    high = jnp.maximum(number - low, 1)
    within_low = squares - sums**2 / low
    within_high = squares[-1] - squares - (sums[-1] - sums) ** 2 / high
    allowed = (low >= 2) & (number - low >= 2)
    split = jnp.argmin(jnp.where(allowed, within_low + within_high, jnp.inf))
    means = sums[split] / low[split], (sums[-1] - sums[split]) / high[split]
    variances = within_low[split] / low[split], within_high[split] / high[split]
    # Exact copies have no spread; a tenth, of the logarithm, keeps the rule finite.
    deviations = [jnp.sqrt(jnp.maximum(v, 0.01)) for v in variances]
    apart = jnp.sqrt(2.0) * (means[1] - means[0]) / jnp.hypot(*deviations)
    between = (means[0] * deviations[1] + means[1] * deviations[0]) / sum(deviations)
    found = jnp.exp(between + middle)
    least = _SEPARATION * (1 + _CHANCE / jnp.maximum(number, 1))
    close = (means[0] + middle <= jnp.log(_MOST_DISTANCE)) & (found <= _MOST_TOLERANCE)
    return jnp.where((apart >= least) & close & (number >= 4), found, 0)


def _spanning_tree(distances: jax.Array, there: jax.Array) -> jax.Array:
    """The edges of the minimum spanning tree of some of the points, ``(M - 1,)``; then infinity.

    Prim's algorithm: one point after the other joins, the closest to any that has.
    """
    first = jnp.argmax(there)
    waiting = there.at[first].set(False)

    def join(state, _):
        nearest, waiting = state
        candidates = jnp.where(waiting, nearest, jnp.inf)
        index = jnp.argmin(candidates)
        nearest = jnp.minimum(nearest, distances[index])
        return (nearest, waiting.at[index].set(False)), candidates[index]

    return jax.lax.scan(join, (distances[first], waiting), length=len(there) - 1)[1]
