"""A snapshot for variance reduction in the memory of a plan: taken, read, dropped."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import per_example, sampling, trees
from jaxrobust.training._plans import not_finite
from jaxrobust.training._state import TrainState
from jaxrobust.training._steps import LossFn

# The memory of a plan has arrays by name, so that a checkpoint needs to know no structure. Those of
# a snapshot are numbers; nothing else that a plan of snapshots remembers is.


def check_sampler(sampler: Any) -> None:
    """Raises for one that is not for the mean loss of all examples, to which SVRG corrects."""
    if isinstance(sampler, sampling.GroupSampler):
        raise ValueError(
            "state.sampler must be unbiased for the mean loss of all examples where there are "
            "snapshots, got GroupSampler, which removes redundancy"
        )


def is_part(name: str) -> bool:
    """Whether the memory has a part of a snapshot under this name, of the plan's own ones."""
    return name.isdigit()


def has_snapshot(memory: dict[str, jax.Array]) -> bool:
    """Whether there is one."""
    return any(map(is_part, memory))


def snapshot_of(params: Any, memory: dict[str, jax.Array]) -> sampling.Snapshot:
    """The one that there is; its params have the structure of these."""
    structure = jax.tree.structure(sampling.Snapshot(params, params))
    return structure.unflatten([memory[str(number)] for number in range(structure.num_leaves)])


def taken(loss_fn: LossFn, state: TrainState, data: Any, batch_size: int) -> TrainState:
    """With a snapshot of the params, in place of the last one.

    Raises a ValueError that names the examples whose gradients are not finite: it would stay until
    the next snapshot.
    """
    snapshot = sampling.svrg(loss_fn, batch_size=batch_size).snapshot(state.params, data)
    if not bool(_is_finite(snapshot.mean)):
        raise not_finite(state, _are_not_finite(loss_fn, state.params, data, batch_size), None)
    parts = {str(number): leaf for number, leaf in enumerate(jax.tree.leaves(snapshot))}
    return state._replace(memory=state.memory | parts)


def dropped(state: TrainState) -> TrainState:
    """Without a snapshot."""
    memory = {name: value for name, value in state.memory.items() if not is_part(name)}
    return state._replace(memory=memory)


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
