"""Snapshots for variance reduction, taken as training goes on."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import sampling
from jaxrobust.training import _snapshot_memory as in_memory
from jaxrobust.training._automatic_snapshots import AutomaticSnapshots
from jaxrobust.training._plans import (
    Plan,
    Report,
    check_counts,
    check_schedule,
    next_call_from,
    own_memory,
    scheduled,
    with_own_memory,
)
from jaxrobust.training._state import TrainState
from jaxrobust.training._steps import Extras, LossFn
from jaxrobust.training._strata import check_automatic

_NAME = "snapshots"  # of the memory


class Snapshots(NamedTuple):
    """What :func:`snapshots` returns: arguments of :func:`train`."""

    plan: Plan
    extras: Extras


def snapshots(
    loss_fn: LossFn,
    *,
    first: int = 0,
    every: int = 500,
    batch_size: int = 128,
    automatic: bool = False,
    plateau: float = 0.1,
    overhead: float = 0.05,
    num_probes: int = 2048,
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

    With ``automatic`` there are no snapshots unless they pay, and until then steps are plain ones,
    of one gradient. Two looks ``every`` steps apart tell whether noise holds the training loss up:
    it falls by a share ``plateau`` at most, and is lower in the middle between the params of both,
    in which noise has half the variance, by two standard errors over ``num_probes`` examples; by
    twice as much it would fall without noise. If steps as they are would take longer to come there
    than the first snapshot costs, with the second gradients until the next one, and if the
    differences of gradients to those at the first look have at most half of their variance, a
    snapshot is tried. It has brought something if the loss of all examples is then lower than in
    that middle. Snapshots go on from there, for as they end noise comes back, until both the mean
    training loss is above what it was before the first, and the loss above that in the middle.
    Each time that no noise is found, or a trial brought nothing, the next look waits for ``every``
    steps more than the last time. What looks and trials cost that brought nothing is at most a
    share ``overhead`` of the steps so far.

    Args:
      loss_fn: ``loss_fn(params, example) -> ()``, the loss of one example.
      first: step of the first snapshot, or look.
      every: steps between two.
      batch_size: examples whose gradient is found at once.
      automatic: whether to take snapshots only where they pay.
      plateau: with ``automatic``, the largest fall of the loss in ``every`` steps, relative to the
        loss, at which training may be limited by noise. A loss that is not above 0 never is.
      overhead: with ``automatic``, the largest share of looks and of trials in the steps so far, as
        counted in multiply-adds with an allowance for calls, of a CPU; above 0.
      num_probes: with ``automatic``, examples whose losses are looked at; of an eighth of them, and
        64 at least, also the gradients.

    Returns:
      :class:`Snapshots`. The snapshot is in ``state.memory``, and so in checkpoints; with
      ``automatic`` also the params of the last look, or in that middle. It then reports
      ``snapshot`` (1 or 0), ``fall`` and ``gain_between`` as :func:`resample` does, ``ratio_ahead``
      (of the variances), and ``fallen``: how much lower the loss is than in the middle.

    Raises:
      ValueError: for numbers out of range; at a snapshot, for gradients that are not finite, with
        the examples.

    Source:
      Johnson and Zhang, 2013, for what a snapshot does. When to take one: ours.
    """
    check_schedule(first, every)
    check_counts(batch_size=batch_size, num_probes=num_probes)
    check_automatic(plateau, overhead)

    def call(state: TrainState, data: Any) -> tuple[TrainState, Report]:
        return in_memory.taken(loss_fn, scheduled(state, every), data, batch_size), {}

    if automatic:
        call = AutomaticSnapshots(loss_fn, every, plateau, overhead, num_probes, batch_size).call
    plan = with_own_memory(_NAME, Plan(next_call_from(first), call))
    return Snapshots(plan, _Extras(loss_fn))


@dataclasses.dataclass(frozen=True)
class _Extras:
    """The keywords of :func:`optim.svrg`; without a snapshot zeros, which take no gradient."""

    loss_fn: LossFn

    def __call__(self, state: TrainState, batch: Any, weights: jax.Array) -> dict[str, Any]:
        memory = own_memory(_NAME, state)
        if not in_memory.has_snapshot(memory):
            zeros = jax.tree.map(jnp.zeros_like, state.params)
            return {"snapshot_gradient": zeros, "snapshot_mean": zeros}
        snapshot = in_memory.snapshot_of(state.params, memory)
        there = sampling.value_and_grad(self.loss_fn)(snapshot.params, batch, weights)[1]
        return {"snapshot_gradient": there, "snapshot_mean": snapshot.mean}

    def reads(self, name: str) -> bool:
        """Which parts of the memory a step needs, see :func:`take_steps`."""
        plan, _, part = name.partition("/")
        return plan == _NAME and in_memory.is_part(part)
