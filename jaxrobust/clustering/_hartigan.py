"""Hartigan's method: points move while a move lowers the objective, by its exact change."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.clustering._batches import map_batches
from jaxrobust.clustering._leaders import numbers_where
from jaxrobust.clustering._objectives import (
    Objective,
    by_cluster,
    cost_of_joining,
    gain_of_leaving,
)
from jaxrobust.clustering._repair import fill_empty
from jaxrobust.clustering._smallest import smallest
from jaxrobust.clustering._sums import Sums, squared_distances, sums_about_members, sums_of

# Moves are made together if they gain at least this share of what each by itself would.
_LEAST_SHARE = 0.25
# That are formed at once: 64 MiB.
_MOST_DISTANCES = 2**24


class Proposal(NamedTuple):
    """The best move of every point of a block."""

    target: jax.Array  # (n,) int32: where it would go
    change: jax.Array  # (n,): of the objective, if it alone moved; below zero for an improvement


def pass_over(
    sums: Sums,
    points: jax.Array,
    weights: jax.Array,
    assignments: jax.Array,
    middle: jax.Array,
    objective: Objective,
    block_size: int,
    is_first: jax.Array | bool = False,
) -> tuple[Sums, jax.Array]:
    """One pass over the points, block by block, which never raises the objective.

    Points that would gain nothing by a move at the beginning of the pass are left out: after a few
    passes these are nearly all. In the first one, in which the centers move most, all are looked at
    again: that ends lower.

    Args:
      sums: of the clusters.
      points: ``(N, d)``.
      weights: ``(N,)``, how often each point counts.
      assignments: ``(N,)`` int32.
      middle: ``(d,)``, the mean of the points, about.
      objective: what is lowered.
      block_size: points whose moves are decided at once.
      is_first: () bool, whether to look at all points.

    Returns:
      Sums and assignments after the pass.
    """
    number, size = points.shape[0], block_size
    wants = jax.lax.cond(
        is_first,
        lambda: jnp.ones(number, bool),
        lambda: _want_to_move(sums, points, weights, assignments, objective, middle),
    )
    # The numbers of those that do, in order, then N for each of the others.
    waiting = numbers_where(wants)
    waiting = jnp.pad(waiting, (0, -number % size), constant_values=number)
    count = jnp.sum(wants, dtype=jnp.int32)

    def block(state):
        begin, sums, assignments, most = state
        places = jax.lax.dynamic_slice_in_dim(waiting, begin, size)
        rows, weight, assigned = (
            array.at[places].get(mode="clip") for array in (points, weights, assignments)
        )
        weight = jnp.where(places < number, weight, 0)
        proposal = propose(sums, rows, weight, assigned, objective, middle)
        sums, assigned, most = apply(sums, rows, weight, assigned, proposal, objective, most)
        assignments = assignments.at[places].set(assigned, mode="drop")
        return begin + size, sums, assignments, jnp.clip(2 * most, 1, size)

    start = (jnp.int32(0), sums, assignments, jnp.int32(size))
    _, sums, assignments, _ = jax.lax.while_loop(lambda state: state[0] < count, block, start)
    return sums, assignments


def _want_to_move(
    sums: Sums,
    points: jax.Array,
    weights: jax.Array,
    assignments: jax.Array,
    objective: Objective,
    middle: jax.Array,
) -> jax.Array:
    """Whether the best move of a point alone would lower the objective, ``(N,)`` bool."""

    def of_some(some):
        points, weights, assigned = some
        _, change = _best_moves(sums, points, weights, assigned, objective, middle)
        return change < 0

    number, count = points.shape[0], sums.counts.size
    if number * count <= _MOST_DISTANCES:
        return of_some((points, weights, assignments))
    return map_batches(of_some, (points, weights, assignments), max(1, _MOST_DISTANCES // count))


def _best_moves(
    sums: Sums,
    points: jax.Array,
    weight: jax.Array,
    assigned: jax.Array,
    objective: Objective,
    middle: Any,
) -> tuple[jax.Array, jax.Array]:
    """Where each would go, and the change of the objective by that alone over its weight."""
    # About the mean, for distances are found from products: their error is eps of the norms.
    distances = squared_distances(points, sums.centers, middle)
    own = jnp.take_along_axis(distances, assigned[:, None], axis=1)[:, 0]
    joining = cost_of_joining(sums, distances, weight, objective)
    elsewhere = jnp.arange(distances.shape[1])[None, :] != assigned[:, None]
    joining = jnp.where(elsewhere, joining, jnp.inf)
    target, cost = smallest(joining)
    gain = gain_of_leaving(sums, assigned, own, weight, objective)
    return target.astype(assigned.dtype), cost - gain


def propose(
    sums: Sums,
    points: jax.Array,
    weight: jax.Array,
    assigned: jax.Array,
    objective: Objective,
    middle: jax.Array | None = None,
) -> Proposal:
    """The best move of every point, as if it were the only one; of weight zero, none."""
    target, change = _best_moves(sums, points, weight, assigned, objective, middle)
    return Proposal(target, jnp.where(weight > 0, weight * change, jnp.inf))


def _ranks(proposal: Proposal) -> jax.Array:
    """How many others of the block would go to the same cluster for more, or as much and before."""
    target, change = proposal
    # All pairs of a block at once: sorting and counting takes many small steps.
    place = jnp.arange(target.size)
    ahead = (change[None, :] < change[:, None]) | (
        (change[None, :] == change[:, None]) & (place[None, :] < place[:, None])
    )
    return jnp.sum(ahead & (target[None, :] == target[:, None]), axis=1, dtype=jnp.int32)


def apply(
    sums: Sums,
    points: jax.Array,
    weight: jax.Array,
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
      weight: ``(n,)``.
      assigned: ``(n,)`` their clusters.
      proposal: their best moves.
      objective: what is lowered.
      most: () int32: how many moves into each cluster are tried first.

    Returns:
      Sums and assignments after the moves, and how many into each cluster were made at most.
    """
    before = by_cluster(sums, objective)
    size = points.shape[0]
    best = jnp.arange(size) == jnp.argmin(proposal.change)

    def attempt(most):
        # Mostly all moves are accepted at once, and places are of no interest.
        ranks = jax.lax.cond(
            most < size, lambda: _ranks(proposal), lambda: jnp.zeros(size, jnp.int32)
        )
        moves = jnp.where(most > 0, ranks < most, best) & (proposal.change < 0)
        moved = sums.moved(points, assigned, proposal.target, jnp.where(moves, weight, 0))
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


class Passes(NamedTuple):
    """What passes over the points end at."""

    assignments: jax.Array  # (N,) int32
    sums: Sums
    objective: jax.Array  # ()
    number: jax.Array  # () int32: of passes
    converged: jax.Array  # () bool: whether the last one gained less than the tolerance


@functools.partial(jax.jit, static_argnames=("num_clusters", "objective", "block_size"))
def pass_until(
    points: jax.Array,
    weights: jax.Array | None,
    start: jax.Array,
    sums: Sums | None,
    num_clusters: int,
    objective: Objective,
    *,
    max_passes: int,
    tolerance: float,
    block_size: int,
) -> Passes:
    """Passes until one lowers the objective by less than that share of it.

    Args:
      points: ``(N, d)``.
      weights: ``(N,)``, how often each counts; None for once.
      start: ``(N,)`` int32, assignments.
      sums: those of the start, if it is a good one; then the first pass is as all others.
      num_clusters: K.
      objective: what is lowered.
      max_passes: passes at most.
      tolerance: see above.
      block_size: points whose moves are decided at once.
    """
    weights = None if weights is None else weights.astype(points.dtype)
    settled = sums is not None
    if sums is None:
        sums = sums_about_members(points, start, num_clusters, weights)
    middle = sums.middle
    counts = jnp.ones(points.shape[0], points.dtype) if weights is None else weights

    def one_pass(state: Passes) -> Passes:
        sums, assignments = pass_over(
            state.sums, points, counts, state.assignments, middle, objective, block_size,
            (state.number == 0) & (not settled),
        )  # fmt: skip
        assignments, sums = jax.lax.cond(
            jnp.any(sums.counts == 0),
            lambda: _filled(sums, points, assignments, weights),
            # Anew, so that rounding errors do not add up; about centers close to the means.
            lambda: (assignments, sums_of(points, assignments, sums.centers, weights)),
        )
        after = jnp.sum(by_cluster(sums, objective))
        converged = state.objective - after <= tolerance * state.objective
        return Passes(assignments, sums, after, state.number + 1, converged)

    value = jnp.sum(by_cluster(sums, objective))
    begin = Passes(start, sums, value, jnp.int32(0), jnp.bool_(False))
    goes_on = lambda state: ~state.converged & (state.number < max_passes)
    return jax.lax.while_loop(goes_on, one_pass, begin)


def _filled(
    sums: Sums, points: jax.Array, assignments: jax.Array, weights: jax.Array | None
) -> tuple[jax.Array, Sums]:
    """Without empty clusters, which are left if no point gains by being alone, as with copies."""
    number = sums.counts.size
    own = jnp.sum((points - sums.centers[assignments]) ** 2, axis=1)
    assignments = fill_empty(own, assignments, number)
    return assignments, sums_about_members(points, assignments, number, weights)
