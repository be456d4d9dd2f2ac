"""How close near-duplicates are, told from the data."""

import jax
import jax.numpy as jnp

_HIGHEST = jax.lax.Precision.HIGHEST
# Cosine distances below this are rounding errors of float32.
_LEAST_DISTANCE = 1e-6
# How many standard deviations two kinds of neighbours must be apart. Half of a normal distribution
# and the other half are 2.7 apart, those of a uniform one 3.5: neither is two kinds.
_SEPARATION = 4.5


@jax.jit
def copy_tolerance(points: jax.Array) -> jax.Array:
    r"""The cosine distance that separates copies from other neighbours; 0 if there is no gap.

    Every point has a distance to its nearest other one. Where some points have copies and others do
    not, the logarithms of these distances are of two kinds, with a gap between: they are split in
    two where the variance within both is least (Otsu, 1979), and the split is believed if the means
    :math:`m_1, m_2` are at least 4.5 standard deviations apart (Ashman's
    :math:`D=\sqrt2\,|m_1-m_2|/\sqrt{s_1^2+s_2^2}`). Images that are merely alike have no gap.

    Args:
      points: ``(M, d)``, at least 4; zero points have no neighbours and do not count.

    Returns:
      ``()``: the distance that is as many standard deviations above the copies as it is below the
      others.
    """
    lengths = jnp.linalg.norm(points, axis=1)
    there = lengths > 0
    points = points / jnp.where(there, lengths, 1)[:, None]
    distances = 1 - jnp.matmul(points, points.T, precision=_HIGHEST)
    other = there[None, :] & ~jnp.eye(len(points), dtype=bool)
    nearest = jnp.min(jnp.where(other, distances, 2.0), axis=1)
    # Points that do not count go to the end, and the end is no place to split.
    logs = jnp.sort(jnp.where(there, jnp.log(jnp.maximum(nearest, _LEAST_DISTANCE)), jnp.inf))
    number = jnp.sum(there)
    counted = jnp.isfinite(logs)
    logs = jnp.where(counted, logs, 0)
    logs = jnp.where(counted, logs - jnp.sum(logs) / number, 0)  # for the squares, see below
    sums, squares = jnp.cumsum(logs), jnp.cumsum(logs**2)
    low = jnp.arange(1, len(points) + 1, dtype=logs.dtype)
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
    middle = jnp.sum(jnp.where(there, jnp.log(jnp.maximum(nearest, _LEAST_DISTANCE)), 0)) / number
    found = jnp.exp(between + middle)
    return jnp.where((apart >= _SEPARATION) & (number >= 4), found, 0)
