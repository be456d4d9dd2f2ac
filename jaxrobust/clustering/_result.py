"""What every clustering returns."""

from typing import Any, NamedTuple

import jax


class Clustering(NamedTuple):
    """A partition of N points into K clusters."""

    assignments: jax.Array  # (N,) int32: cluster of every point
    sizes: jax.Array  # (K,) int32: members
    centers: Any  # (K, d) float32 at least: means of the members; see `gradient_clusters`
    spreads: jax.Array  # (K,): S_k, sum over members of the squared distance to the center
    objective: jax.Array  # (): what was minimised
    num_passes: jax.Array  # () int32: passes over the points
    converged: jax.Array  # () bool: whether the last pass gained less than the tolerance
