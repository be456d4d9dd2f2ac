"""Batches of one cluster alone, drawn by its share of the examples."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.sampling._checks import check_clusters, check_count
from jaxrobust.sampling._sampler import Draw


class ClusterState(NamedTuple):
    """Where a :class:`ClusterSampler` is."""

    key: jax.Array  # PRNG key, the same for all steps
    step: jax.Array  # () int32: draws so far


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClusterSampler:
    """Draws batches of members of one cluster each; made by :func:`one_cluster`.

    A pytree, as :class:`Sampler` is: give it to a jitted step as an argument.
    """

    members: jax.Array  # (N,) int32: examples cluster by cluster
    starts: jax.Array  # (K,) int32: where each cluster begins there
    sizes: jax.Array  # (K,) int32: members; 0 if it is empty
    num_examples: int = dataclasses.field(metadata={"static": True})
    batch_size: int = dataclasses.field(metadata={"static": True})

    @property
    def shares(self) -> jax.Array:
        """Probabilities of the clusters, ``(K,)``: their shares of the examples."""
        return self.sizes / jnp.float32(self.num_examples)

    def init(self, key: jax.Array) -> ClusterState:
        """The state before the first draw."""
        return ClusterState(key, jnp.int32(0))

    def cluster(self, state: ClusterState) -> jax.Array:
        """``()`` int32: the cluster that the next draw is from."""
        key, _ = self._keys(state)
        # That of a random example: so its probability is exactly its share.
        place = jax.random.randint(key, (), 0, self.num_examples)
        found = jnp.searchsorted(self.starts + self.sizes, place, side="right")
        return found.astype(jnp.int32)

    @jax.jit
    def next(self, state: ClusterState) -> tuple[Draw, ClusterState]:
        """The next batch, all weights 1, and the state after it."""
        cluster, (_, key) = self.cluster(state), self._keys(state)
        places = jax.random.randint(key, (self.batch_size,), 0, self.sizes[cluster])
        indices = self.members[self.starts[cluster] + places]
        draw = Draw(indices, jnp.ones(self.batch_size, jnp.float32))
        return draw, ClusterState(state.key, state.step + 1)

    def _keys(self, state: ClusterState) -> jax.Array:
        return jax.random.split(jax.random.fold_in(state.key, state.step))


def one_cluster(
    assignments: Any, batch_size: int, *, num_clusters: int | None = None
) -> ClusterSampler:
    r"""All of a batch from one cluster, which is drawn by its share of the examples.

    Unbiased, with weights 1; of more variance than :func:`uniform`, for all examples of a batch
    have the mean of one cluster:

    .. math:: \sum_k p_k\Big(\frac{\sigma_k^2}{B}+\|\bar g_k\|^2\Big) - \|\bar g\|^2

    It is for :func:`optim.cluster_control_variate`, which takes out what is between clusters::

        sampler = sampling.one_cluster(clusters.assignments, 64)
        variate = optim.cluster_control_variate(len(sampler.shares), sampler.shares)
        optimizer = optax.chain(variate, optax.sgd(0.1))
        extras = lambda state, batch, weights: {
            "cluster": state.sampler.cluster(state.sampler_state)
        }
        state = training.init(params, optimizer, sampler, key=key)
        state, records = training.train(loss_fn, optimizer, state, data, 1000, extras=extras)

    Args:
      assignments: ``(N,)`` int, the cluster of every example.
      batch_size: B, 1 or more; draws within a cluster are independent.
      num_clusters: K; None for the largest assignment plus 1. Needed if assignments are traced.

    Returns:
      :class:`ClusterSampler`.

    Raises:
      ValueError: for assignments of another shape or out of range (unless traced), or a number out
        of range.
      TypeError: for assignments that are not integers.

    Source:
      As the batches of Faghri et al., arXiv:2007.04532, with one cluster in place of one member of
      each; the variance is derived in :func:`optim.cluster_control_variate`.
    """
    assignments, num_clusters = check_clusters(assignments, num_clusters)
    sizes = jnp.zeros(num_clusters, jnp.int32).at[assignments].add(1)
    return ClusterSampler(
        members=jnp.argsort(assignments, stable=True).astype(jnp.int32),
        starts=jnp.cumsum(sizes) - sizes,
        sizes=sizes,
        num_examples=assignments.size,
        batch_size=check_count("batch_size", batch_size),
    )
