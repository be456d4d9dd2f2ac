"""Clusters without members get one."""

import jax
import jax.numpy as jnp


def fill_empty(own: jax.Array, assignments: jax.Array, num_clusters: int) -> jax.Array:
    """Gives every empty cluster the point that is farthest from its own center, as its only member.

    Of points in clusters with more than one member; for several empty clusters one after the
    other, the lowest index first.

    Args:
      own: distances to the center of the cluster, ``(N,)``.
      assignments: ``(N,)`` int32.
      num_clusters: K, at most N.
    """
    counts = jnp.zeros(num_clusters, jnp.int32).at[assignments].add(1)

    def fill(state):
        counts, assignments = state
        empty = jnp.argmin(counts).astype(assignments.dtype)
        # A point that was moved is alone, so it is not moved again.
        farthest = jnp.argmax(jnp.where(counts[assignments] > 1, own, -jnp.inf))
        counts = counts.at[assignments[farthest]].add(-1).at[empty].add(1)
        return counts, assignments.at[farthest].set(empty)

    return jax.lax.while_loop(lambda state: jnp.min(state[0]) == 0, fill, (counts, assignments))[1]
