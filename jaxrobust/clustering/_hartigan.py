"""Hartigan's method: points move while a move lowers the objective, by its exact change."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.clustering._objectives import (
    Objective,
    by_cluster,
    cost_of_joining,
    gain_of_leaving,
)
from jaxrobust.clustering._sums import Sums, squared_distances

# Moves are made together if they gain at least this share of what each by itself would.
_LEAST_SHARE = 0.25


class Proposal(NamedTuple):
    """The best move of every point of a block."""

    target: jax.Array  # (n,) int32: where it would go
    change: jax.Array  # (n,): of the objective, if it alone moved; below zero for an improvement
    rank: jax.Array  # (n,) int32: place among those that would go there, the best first


def pass_over(
    sums: Sums,
    blocks: jax.Array,
    assignments: jax.Array,
    weights: jax.Array,
    objective: Objective,
) -> tuple[Sums, jax.Array]:
    """One pass over the points, block by block, which never raises the objective.

    Args:
      sums: of the clusters.
      blocks: points ``(blocks, n, d)``.
      assignments: ``(blocks, n)`` int32.
      weights: ``(blocks, n)``, 1 for points and 0 for padding.
      objective: what is lowered.

    Returns:
      Sums and assignments after the pass.
    """

    def step(state, block):
        sums, most = state
        points, assigned, weight = block
        proposal = propose(sums, points, assigned, weight, objective)
        sums, assigned, most = apply(sums, points, assigned, proposal, objective, most)
        return (sums, jnp.clip(2 * most, 1, points.shape[0])), assigned

    most = jnp.asarray(blocks.shape[1], jnp.int32)
    (sums, _), assignments = jax.lax.scan(step, (sums, most), (blocks, assignments, weights))
    return sums, assignments


def propose(
    sums: Sums, points: jax.Array, assigned: jax.Array, weight: jax.Array, objective: Objective
) -> Proposal:
    """The best move of every point, as if it were the only one."""
    distances = squared_distances(points, sums.centers)
    own = jnp.take_along_axis(distances, assigned[:, None], axis=1)[:, 0]
    joining = cost_of_joining(sums, distances, objective)
    elsewhere = jnp.arange(distances.shape[1])[None, :] != assigned[:, None]
    joining = jnp.where(elsewhere, joining, jnp.inf)
    target = jnp.argmin(joining, axis=1).astype(assigned.dtype)  # the lowest index of equal ones
    change = jnp.min(joining, axis=1) - gain_of_leaving(sums, assigned, own, objective)
    change = jnp.where(weight > 0, change, jnp.inf)
    return Proposal(target, change, _ranks(target, change))


def _ranks(target: jax.Array, change: jax.Array) -> jax.Array:
    """How many others of the block would go to the same cluster for more, or as much and before."""
    # All pairs of a block at once: sorting and counting takes many small steps.
    place = jnp.arange(target.size)
    ahead = (change[None, :] < change[:, None]) | (
        (change[None, :] == change[:, None]) & (place[None, :] < place[:, None])
    )
    return jnp.sum(ahead & (target[None, :] == target[:, None]), axis=1, dtype=jnp.int32)


def apply(
    sums: Sums,
    points: jax.Array,
    assigned: jax.Array,
    proposal: Proposal,
    objective: Objective,
    most: jax.Array,
) -> tuple[Sums, jax.Array, jax.Array]:
    """Makes as many of the proposed moves as lower the objective together.

    Each change is exact for a move by itself. Together they may gain less than their sum, or even
    raise the objective, as when all run to the smallest cluster. Then only the better half of those
    into each cluster is tried, and so on; in the end only the best move of all.

    Args:
      sums: of the clusters.
      points: ``(n, d)``.
      assigned: ``(n,)`` their clusters.
      proposal: their best moves.
      objective: what is lowered.
      most: () int32: how many moves into each cluster are tried first.

    Returns:
      Sums and assignments after the moves, and how many into each cluster were made at most.
    """
    before = by_cluster(sums, objective)
    best = jnp.arange(points.shape[0]) == jnp.argmin(proposal.change)

    def attempt(most):
        moves = jnp.where(most > 0, proposal.rank < most, best) & (proposal.change < 0)
        moved = sums.moved(points, assigned, proposal.target, moves)
        # Summed over the differences: what did not change cancels exactly.
        change = jnp.sum(by_cluster(moved, objective) - before)
        promised = jnp.sum(jnp.where(moves, proposal.change, 0))
        return moved, moves, change <= _LEAST_SHARE * promised

    def halve(state):
        most = state[0] // 2
        return most, attempt(most)

    most, (moved, moves, accepted) = jax.lax.while_loop(
        lambda state: ~state[1][2] & (state[0] > 0), halve, (most, attempt(most))
    )
    kept = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), moved, sums)
    return kept, jnp.where(accepted & moves, proposal.target, assigned), most
