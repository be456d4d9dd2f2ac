"""The plan that finds copies and lets each group count once."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust import clustering, sampling, trees
from jaxrobust.training._copies import copy_tolerance
from jaxrobust.training._plans import (
    Plan,
    Report,
    call_key,
    check_counts,
    check_schedule,
    next_call_from,
    scheduled,
    sketcher,
    some_rows,
    uniform_like,
    with_own_memory,
    with_sampler,
)
from jaxrobust.training._state import TrainState
from jaxrobust.training._steps import LossFn


def remove_redundancy(
    loss_fn: LossFn,
    *,
    tolerance: float | None = None,
    first: int = 0,
    every: int | None = None,
    num_probes: int = 1000,
    least: float = 0.05,
    dim: int = 256,
    batch_size: int = 128,
) -> Plan:
    r"""Finds groups of near-duplicates by their gradients, and lets each group count once.

    **This changes the objective**, from the mean loss over examples to that over groups: see
    :func:`sampling.redundancy_removed`. Two examples are near-duplicates if the cosine distance of
    the sketches of their gradients is at most the tolerance; one whose gradient is zero has no
    copies. By default the tolerance is found from the data: in the spanning tree of ``num_probes``
    random examples, edges between copies are much shorter than the others, and it is put into that
    gap; without a gap, or if those within groups are typically more than 0.1 long or the tolerance
    would be above 0.2, nothing is redundant. If less than a share ``least`` of the probes is
    redundant the call goes no further, which costs next to nothing. So copies are found if two of
    them are likely among the probes: in groups of r they must be a share of about
    ``least * N / (num_probes * r)`` of the data, or more. Otherwise all examples are sketched, in
    one pass, and grouped: first large groups, and if at least a share ``least`` of others of those
    that are left is redundant, all groups. For these every example is compared with one of each
    group, ``N * num_groups * dim`` multiply-adds: with many small groups more than some epochs of
    a small network.

    Args:
      loss_fn: ``loss_fn(params, example) -> ()``, the loss of one example, by whose gradients
        examples are compared. It need not be the one that is trained: with
        ``jax.lax.stop_gradient`` around the params of the first layers there is no backward pass
        through them, and the gradients of the others tell copies as well.
      tolerance: cosine distance, in [0, 2]; None to find it from the data. In the beginning of
        training, copies of an MNIST image with pixel noise 0.02 are at about 0.05 of each other,
        different images seldom below 0.1.
      first: step of the first call. Gradients are most telling early: after some hundred steps
        those of copies are small and their directions mostly noise.
      every: steps between calls; None for a single call.
      num_probes: examples that are looked at first, and among which groups are sought.
      least: least share of the probes that must be redundant.
      dim: length of a sketch.
      batch_size: examples whose gradients are sketched at once.

    Returns:
      :class:`Plan`. Reports ``redundancy``, the share of examples that another stands for,
      ``tolerance``, and ``num_groups`` if all were looked at.

    Raises:
      ValueError: for numbers out of range.
    """
    if tolerance is not None and not 0 <= tolerance <= 2:
        raise ValueError(f"tolerance must be in [0, 2], got {tolerance}")
    if not 0 <= least <= 1:
        raise ValueError(f"least must be in [0, 1], got {least}")
    check_schedule(first, every)
    check_counts(num_probes=num_probes, dim=dim, batch_size=batch_size)

    def call(state: TrainState, data: Any) -> tuple[TrainState, Report]:
        sketch_key, probe_key, group_key, fill_key, other_key = jax.random.split(call_key(state), 5)
        sketches = sketcher(loss_fn, state, sketch_key, dim, batch_size)
        rows = some_rows(probe_key, state.sampler.num_examples, num_probes)
        probes = _with_directions(fill_key, sketches(trees.take(data, rows), rows))
        limit = copy_tolerance(probes) if tolerance is None else jnp.float32(tolerance)
        near: dict[str, Any] = {"tolerance": limit, "metric": "cosine"}
        state = scheduled(state, every)
        redundancy = 0.0
        if tolerance is not None or float(limit) > 0:
            found = int(clustering.duplicates(probes, **near).num_groups)
            redundancy = 1 - found / probes.shape[0]
        if redundancy < least:
            if isinstance(state.sampler, sampling.GroupSampler):  # not the strata of another plan
                state = with_sampler(state, uniform_like(state.sampler))
            return state, {"redundancy": redundancy, "tolerance": float(limit)}
        points = _with_directions(fill_key, sketches(data))
        among = {"num_probes": num_probes, "key": group_key}
        groups = clustering.duplicates(points, **near, **among)
        # Groups of which no two were among the probes are not found yet. Others of the points that
        # are still alone tell whether there are any.
        others = _some_of(other_key, points, groups.counts == 1, max(4, num_probes // 2))
        if int(clustering.duplicates(others, **near).num_groups) <= (1 - least) * len(others):
            groups = clustering.duplicates(points, **near, **among, rest=True)
        number = int(groups.num_groups)
        sampler = sampling.redundancy_removed(groups, state.sampler.batch_size)
        redundancy = 1 - number / state.sampler.num_examples
        report: Report = {"redundancy": redundancy, "tolerance": float(limit), "num_groups": number}
        return with_sampler(state, sampler), report

    return with_own_memory("redundancy", Plan(next_call_from(first), call))


def _with_directions(key: jax.Array, points: jax.Array) -> jax.Array:
    """The points, and a random direction for those that have none: it is close to no other."""
    there = jnp.any(points != 0, axis=1)
    if bool(jnp.all(there)):  # drawing directions for nothing would take as long as the groups
        return points
    return jnp.where(there[:, None], points, jax.random.normal(key, points.shape, points.dtype))


@functools.partial(jax.jit, static_argnums=3)
def _some_of(key: jax.Array, points: jax.Array, wanted: jax.Array, number: int) -> jax.Array:
    """So many of the wanted points; random directions if there are not enough."""
    order_key, key = jax.random.split(key)
    order = jnp.where(wanted, jax.random.uniform(order_key, wanted.shape), 2)
    _, rows = jax.lax.top_k(-order, min(number, len(points)))
    others = jax.random.normal(key, (len(rows), points.shape[1]), points.dtype)
    return jnp.where(wanted[rows][:, None], points[rows], others)
