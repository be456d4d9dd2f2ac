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
from jaxrobust.training._strata import check_overhead

# Of the memory. A run that goes on with the other kind begins anew, and forgets the first one.
_NAME, _AUTOMATIC = "snapshots", "automatic_snapshots"


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
    overhead: float = 0.03,
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

    The mean gradient is that of all examples: for samplers that are unbiased for the mean loss, and
    for batches that no transform changes.

    With ``automatic`` there are no snapshots unless they pay, and until then steps are plain ones,
    of one gradient. Two looks are far apart, by a fourth to three fourths of all steps, so that the
    noise of their params is independent and has half the variance in the middle m between them: it
    adds :math:`\nu = f(\theta_1)+f(\theta_2)-2f(m)` to the loss where this is about quadratic, and
    the progress is :math:`p = f(\theta_1)-f(\theta_2)`, both over ``num_probes`` examples.
    Snapshots take the noise away, once, and delay progress by what they cost, as long as they go
    on. So they are tried if :math:`\nu` is above 0, above p, and above twice the progress that is
    delayed if they go on for as many steps as there have been, each by two standard errors (of the
    choice of examples; there are none if it is all of them).

    After ``every`` steps the loss of all examples must be lower than in m, less half of p, or they
    end. If it is they go on, for as they end noise comes back. After 4, 8, 16, ... of them progress
    is seen without noise: if twice what is delayed of it in as many steps as there have been, and
    at most 16 times as many as it was seen in, is more than :math:`\nu`, they end. After 2, 4, 8,
    ..., and where the mean training loss is above that before the first, they end too if the loss
    is no longer as low. Each time that nothing was gained the next look waits for ``every`` steps
    more. Looks, and trials that end at their first verdict, are at most a share ``overhead`` of the
    steps; there is another look when all so far is two fifths of that. Trials that end later are
    counted afterwards, up to four snapshots of each, and make the next look later. All this is for
    a constant learning rate: where it falls noise goes by itself, and snapshots go on.

    Args:
      loss_fn: ``loss_fn(params, example) -> ()``, the loss of one example.
      first: step of the first snapshot; with ``automatic``, before which there is no look.
      every: steps between two snapshots.
      batch_size: examples whose gradient is found at once.
      automatic: whether to take snapshots only where they pay. Extras that you wrap should keep the
        method ``reads`` of these, or steps are compiled anew whenever the plan remembers something.
      overhead: with ``automatic``, the largest share of looks and of trials in the steps so far, as
        counted in multiply-adds with an allowance for calls, of a CPU; above 0. On an accelerator a
        call takes as long as more of them: give less.
      num_probes: with ``automatic``, examples whose losses are looked at.

    Returns:
      :class:`Snapshots`. The snapshot is in ``state.memory``, and so in checkpoints; with
      ``automatic`` also the params of the first look, while there is none. It then reports
      ``snapshot`` (1 or 0); of two looks, ``noise`` and ``progress``; with snapshots, by how much
      the loss has ``fallen`` below what it must be, and ``progress`` in as many steps as there have
      been.

    Raises:
      ValueError: for numbers out of range; before the first step, or when a plan puts it in place,
        for a sampler that removes redundancy, which is for another mean; at a snapshot, for
        gradients that are not finite, with the examples.

    Source:
      Johnson and Zhang, 2013, for what a snapshot does. When to take one: ours.
    """
    check_schedule(first, every)
    check_counts(batch_size=batch_size, num_probes=num_probes)
    check_overhead(overhead)

    def next_call(state: TrainState) -> int | None:
        in_memory.check_sampler(state.sampler)  # before the first step, not at a snapshot
        return next_call_from(first)(state)

    def call(state: TrainState, data: Any) -> tuple[TrainState, Report]:
        return in_memory.taken(loss_fn, scheduled(state, every), data, batch_size), {}

    name, other = (_AUTOMATIC, _NAME) if automatic else (_NAME, _AUTOMATIC)
    if automatic:
        call = AutomaticSnapshots(loss_fn, every, overhead, num_probes, batch_size).call
    own = with_own_memory(name, Plan(next_call, call))

    def call_alone(state: TrainState, data: Any) -> tuple[TrainState, Report]:
        memory = {k: v for k, v in state.memory.items() if not k.startswith(f"{other}/")}
        return own.call(state._replace(memory=memory), data)

    return Snapshots(own._replace(call=call_alone), _Extras(loss_fn, name))


@dataclasses.dataclass(frozen=True)
class _Extras:
    """The keywords of :func:`optim.svrg`; without a snapshot zeros, which take no gradient."""

    loss_fn: LossFn
    name: str  # of the memory

    def __call__(self, state: TrainState, batch: Any, weights: jax.Array) -> dict[str, Any]:
        memory = own_memory(self.name, state)
        if not in_memory.has_snapshot(memory):
            zeros = jax.tree.map(jnp.zeros_like, state.params)
            return {"snapshot_gradient": zeros, "snapshot_mean": zeros}
        snapshot = in_memory.snapshot_of(state.params, memory)
        there = sampling.value_and_grad(self.loss_fn)(snapshot.params, batch, weights)[1]
        return {"snapshot_gradient": there, "snapshot_mean": snapshot.mean}

    def reads(self, name: str) -> bool:
        """Which parts of the memory a step needs, see :func:`take_steps`."""
        plan, _, part = name.partition("/")
        return plan == self.name and in_memory.is_part(part)
