"""Snapshots for variance reduction, taken as training goes on."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import per_example, sampling, trees
from jaxrobust.training._plans import (
    Plan,
    Report,
    check_schedule,
    next_call_from,
    not_finite,
    own_memory,
    scheduled,
    with_own_memory,
)
from jaxrobust.training._state import TrainState
from jaxrobust.training._steps import Extras, LossFn

_NAME = "snapshots"  # of the memory


class Snapshots(NamedTuple):
    """What :func:`snapshots` returns: arguments of :func:`train`."""

    plan: Plan
    extras: Extras


def snapshots(
    loss_fn: LossFn, *, first: int = 0, every: int = 500, batch_size: int = 128
) -> Snapshots:
    r"""What :func:`optim.svrg` needs: at every refresh the params, and the mean gradient there.

    ::

        optimizer = optax.chain(optim.svrg(), optax.sgd(0.1))
        plan, extras = training.snapshots(loss_fn, every=500)
        state, _ = training.train(
            loss_fn, optimizer, state, data, 5000, plan=plan, extras=extras
        )

    A refresh takes one pass over the data, and a step two gradients instead of one. Before the
    first snapshot the gradient is that of the batch alone.

    Args:
      loss_fn: ``loss_fn(params, example) -> ()``, the loss of one example.
      first: step of the first snapshot.
      every: steps between two.
      batch_size: examples whose gradient is found at once.

    Returns:
      :class:`Snapshots`. The snapshot is in ``state.memory``, and so in checkpoints.

    Raises:
      ValueError: for numbers out of range; at a snapshot, for gradients that are not finite, with
        the examples.

    Source:
      Johnson and Zhang, 2013.
    """
    check_schedule(first, every)
    svrg = sampling.svrg(loss_fn, batch_size=batch_size)
    gradient = sampling.value_and_grad(loss_fn)

    def call(state: TrainState, data: Any) -> tuple[TrainState, Report]:
        snapshot = svrg.snapshot(state.params, data)
        if not bool(_is_finite(snapshot.mean)):  # it would stay until the next snapshot
            raise not_finite(state, _are_not_finite(loss_fn, state.params, data, batch_size), None)
        state = scheduled(state, every)
        return state._replace(memory=state.memory | _flat(snapshot)), {}

    def extras(state: TrainState, batch: Any, weights: jax.Array) -> dict[str, Any]:
        zeros = jax.tree.map(jnp.zeros_like, state.params)
        memory = own_memory(_NAME, state)
        if "0" not in memory:
            return {"snapshot_gradient": zeros, "snapshot_mean": zeros}
        snapshot = _unflat(state.params, memory)
        there = gradient(snapshot.params, batch, weights)[1]
        return {"snapshot_gradient": there, "snapshot_mean": snapshot.mean}

    plan = with_own_memory(_NAME, Plan(next_call_from(first), call))
    return Snapshots(plan, extras)


# The memory of a plan has arrays by name, so that a checkpoint needs to know no structure.


def _flat(snapshot: sampling.Snapshot) -> dict[str, jax.Array]:
    return {str(number): leaf for number, leaf in enumerate(jax.tree.leaves(snapshot))}


def _unflat(params: Any, memory: dict[str, jax.Array]) -> sampling.Snapshot:
    structure = jax.tree.structure(sampling.Snapshot(params, params))
    return structure.unflatten([memory[str(number)] for number in range(structure.num_leaves)])


@jax.jit
def _is_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def _are_not_finite(loss_fn: LossFn, params: Any, data: Any, batch_size: int) -> np.ndarray:
    """Which examples have such gradients, ``(N,)`` bool; or all, if only their sum is not."""
    lengths = jax.jit(per_example.norms(loss_fn))
    number = len(jax.tree.leaves(data)[0])
    rows = [jnp.arange(at, min(at + batch_size, number)) for at in range(0, number, batch_size)]
    found = [np.asarray(lengths(params, trees.take(data, some))) for some in rows]
    is_bad = ~np.isfinite(np.concatenate(found))
    return is_bad if is_bad.any() else ~is_bad
