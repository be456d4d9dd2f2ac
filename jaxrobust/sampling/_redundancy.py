"""Sampling that counts every distinct signal once: it changes the objective, and says so."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxrobust.sampling._checks import check_assignments, check_count
from jaxrobust.sampling._sampler import Draw
from jaxrobust.sampling._visits import visit


class GroupState(NamedTuple):
    """Where a :class:`GroupSampler` is."""

    key: jax.Array  # PRNG key, the same for all steps
    epoch: jax.Array  # () int32: passes over the groups
    place: jax.Array  # () int32: groups visited in the current pass


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GroupSampler:
    """Draws batches of groups, one member of each; made by :func:`redundancy_removed`.

    A pytree, as :class:`Sampler` is: give it to a jitted step as an argument.
    """

    members: jax.Array  # (N,) int32: examples group by group
    starts: jax.Array  # (N,) int32: where each group begins there
    sizes: jax.Array  # (N,) int32: members of each group; 0 behind the last group
    num_groups: jax.Array  # () int32
    num_examples: int = dataclasses.field(metadata={"static": True})
    batch_size: int = dataclasses.field(metadata={"static": True})

    def init(self, key: jax.Array) -> GroupState:
        """The state before the first draw."""
        return GroupState(key, jnp.int32(0), jnp.int32(0))

    @jax.jit
    def next(self, state: GroupState) -> tuple[Draw, GroupState]:
        """The next batch, all weights 1, and the state after it."""
        group_key, member_key = jax.random.split(state.key)
        number = state.place + jnp.arange(self.batch_size, dtype=jnp.int32)
        epoch = state.epoch + number // self.num_groups
        count = jnp.full(number.shape, self.num_groups)
        group = visit(group_key, jnp.zeros_like(number), epoch, number % count, count)
        # A group is visited once in every pass over the groups, so the pass is the visit's number.
        size = self.sizes[group]
        place = visit(member_key, group, epoch // size, epoch % size, size)
        indices = self.members[self.starts[group] + place]
        after = state.place + self.batch_size
        epoch = state.epoch + after // self.num_groups
        draw = Draw(indices, jnp.ones(self.batch_size, jnp.float32))
        return draw, GroupState(state.key, epoch, after % self.num_groups)


def redundancy_removed(groups: Any, batch_size: int) -> GroupSampler:
    r"""Every group of near-duplicates counts once. **Biased** for the mean loss, on purpose.

    The mean over draws estimates another objective,

    .. math:: \frac1G\sum_{g=1}^G \frac1{N_g}\sum_{i\in g}\ell_i
              = \frac{1}{G}\sum_i \frac{\ell_i}{n_i},

    with G groups and :math:`n_i` the members of example i's group: what training on the data
    without the copies minimises, and all the same sees every copy. A group of one keeps the
    weight of one example: nothing is weighted up, outliers neither. Where all groups are of one
    example it is :func:`uniform` without replacement.

    In each pass over the groups every group is drawn once, in random order; its members take
    turns, in random order.

    Args:
      groups: ``Groups`` of :func:`clustering.duplicates`, or their assignments ``(N,)`` int:
        the group of every example, numbered from 0 without gaps.
      batch_size: B, 1 or more.

    Returns:
      :class:`GroupSampler`.

    Raises:
      ValueError: for assignments of another shape, out of range or with gaps (unless traced).
      TypeError: for assignments that are not integers.
    """
    assignments = jnp.asarray(getattr(groups, "assignments", groups))
    num_examples = assignments.size
    assignments = check_assignments("groups", assignments, num_examples)
    sizes = jnp.zeros(num_examples, jnp.int32).at[assignments].add(1)
    num_groups = jnp.max(assignments) + 1
    if not isinstance(sizes, Tracer) and int(jnp.sum(sizes > 0)) != int(num_groups):
        raise ValueError(
            f"groups must be numbered without gaps, got {int(jnp.sum(sizes > 0))} different "
            f"numbers up to {int(num_groups) - 1}"
        )
    return GroupSampler(
        members=jnp.argsort(assignments, stable=True).astype(jnp.int32),
        starts=jnp.cumsum(sizes) - sizes,
        sizes=sizes,
        num_groups=num_groups.astype(jnp.int32),
        num_examples=num_examples,
        batch_size=check_count("batch_size", batch_size),
    )
