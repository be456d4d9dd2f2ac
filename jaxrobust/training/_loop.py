"""The loop: steps, and between them refreshes, evaluations, checkpoints and a log."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrobust import trees
from jaxrobust.training._checkpoints import check_folder, check_sampler_kind, save
from jaxrobust.training._log import Log, Record
from jaxrobust.training._plans import Plan
from jaxrobust.training._state import TrainState
from jaxrobust.training._steps import Extras, LossFn, Program, Transform, padded_steps


class DivergenceError(FloatingPointError):
    """A training loss, or params, that are not finite.

    Attributes:
      records: of the run until then, as :func:`train` returns them.
      state: the last one at which it stopped before; its params are finite, as its losses were.
    """

    def __init__(self, message: str, records: list[Record], state: TrainState):
        """``message`` says which step, and what its loss is."""
        super().__init__(message)
        self.records = records
        self.state = state


def train(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    data: Any,
    num_steps: int,
    *,
    plan: Plan | None = None,
    extras: Extras | None = None,
    transform: Transform | None = None,
    evaluate: Callable[[Any], dict[str, Any]] | None = None,
    evaluate_every: int | None = None,
    checkpoints: str | Path | None = None,
    checkpoint_every: int | None = None,
    log: str | Path | None = None,
    log_every: int = 100,
    progress: bool = False,
) -> tuple[TrainState, list[Record]]:
    """Trains until ``state.step`` is ``num_steps``.

    The steps between two events run as one program. Params depend on the state alone, not on when
    something is logged, evaluated or saved: a run resumed from a checkpoint has the same trajectory
    as one that was not interrupted: bit for bit on the same CPU, and on an accelerator if its sums
    over clusters are in the same order every time, which few promise.

    Args:
      loss_fn: ``loss_fn(params, example) -> ()``, the loss of one example.
      optimizer: an Optax transformation.
      state: of :func:`init` or :func:`restore`.
      data: pytree of arrays ``(N, ...)``, all examples.
      num_steps: the number of the last step, counted from the first of the run and not from
        ``state``: a resumed run is given the same number.
      plan: when and how the sampler changes; None to keep that of the state.
      extras: from ``(state, batch, weights)`` to further keywords of ``optimizer.update``.
      transform: from ``(key, params, batch)`` to the batch that is learned from, as in
        :func:`take_steps`. A plan sees the data as they are.
      evaluate: from params to a dict of numbers, for the log.
      evaluate_every: steps between evaluations; there is one after the last step as well.
      checkpoints: folder to save the state in; None for no checkpoints.
      checkpoint_every: steps between them; there is one after the last step as well.
      log: file that a JSON line is appended to for every record; None for none.
      log_every: steps between records of the training loss.
      progress: whether to show a bar (needs tqdm).

    Returns:
      The state after the last step, and the records: dicts with ``event`` ("train", "refresh",
      "evaluate", "save"), ``step``, ``seconds`` since the start of this call, what is particular to
      the event, and ``took``, its seconds. A training record has ``loss``, the mean of the weighted
      batch losses since the last one.

    Raises:
      ValueError: for numbers out of range, data that are not the sampler's, or a folder that has
        checkpoints of later steps than the state's.
      DivergenceError: if a training loss or params are not finite. It has the records, and the
        last state before; both are in the files as well, if these are wanted, but for a state that
        was given to this call.
      TypeError: for checkpoints of a sampler that is not one of :mod:`sampling`.

    Whatever else stops the run, an interrupt or an error in ``evaluate``: with ``checkpoints``,
    what was reached is saved first.
    """
    for name, steps in (
        ("evaluate_every", evaluate_every),
        ("checkpoint_every", checkpoint_every),
        ("log_every", log_every),
    ):
        if steps is not None:
            trees.check_count(name, steps)
    num_steps = trees.check_count("num_steps", num_steps, least=0, most=2**31 - 1)
    if checkpoints is not None:
        check_sampler_kind(state.sampler)
        check_folder(checkpoints, int(state.step))
    data = jax.tree.map(jnp.asarray, data)  # once: arrays of NumPy are copied at every call
    advance = functools.partial(padded_steps, Program(loss_fn, optimizer, extras, transform))
    actions = _actions(evaluate, evaluate_every, checkpoints, checkpoint_every)
    with Log(log) as records, _bar(progress, int(state.step), num_steps) as bar:
        first = int(state.step)
        try:
            while True:
                if int(state.step) < num_steps:
                    state = _refresh(state, data, plan, records)
                step = int(state.step)
                for name, every, action in actions:
                    if step >= num_steps or (step and step % every == 0):
                        records.timed(name, step, action, state)
                if step >= num_steps:
                    return state, records.records
                stops = [every for _, every, _ in actions] + [log_every]
                stop = min([num_steps, *(step + every - step % every for every in stops)])
                state = _advance(advance, state, data, stop, plan, records)
                bar(int(state.step))
        except BaseException:
            if checkpoints is not None and int(state.step) > first:
                save(checkpoints, state)
            raise


def _actions(
    evaluate: Callable[[Any], dict[str, Any]] | None,
    evaluate_every: int | None,
    checkpoints: str | Path | None,
    checkpoint_every: int | None,
) -> list[tuple[str, int, Callable[[TrainState], Record]]]:
    never = 2**62
    actions: list[tuple[str, int, Callable[[TrainState], Record]]] = []
    if evaluate is not None:
        function = evaluate
        actions.append(
            ("evaluate", evaluate_every or never, lambda state: _numbers(function(state.params)))
        )
    if checkpoints is not None:
        folder = Path(checkpoints)

        def keep(state: TrainState) -> Record:
            save(folder, state)
            return {}

        actions.append(("save", checkpoint_every or never, keep))
    return actions


def _refresh(state: TrainState, data: Any, plan: Plan | None, records: Log) -> TrainState:
    """Calls the plan if it is its turn."""
    if plan is None:
        return state
    due = plan.next_call(state)
    if due is None or due > int(state.step):
        return state
    start = time.perf_counter()
    state, report = plan.call(state, data)
    jax.block_until_ready(state)  # or what the refresh began is waited for off its clock
    records.add("refresh", int(state.step), report, time.perf_counter() - start)
    after = plan.next_call(state)
    if after is not None and after <= int(state.step):
        raise ValueError(f"the plan wants its next call at step {after}, which has passed")
    return state


def _advance(
    advance: Callable[[TrainState, Any, int], tuple[TrainState, jax.Array]],
    state: TrainState,
    data: Any,
    stop: int,
    plan: Plan | None,
    records: Log,
) -> TrainState:
    """Steps up to ``stop``, or to where the plan wants to be called."""
    due = None if plan is None else plan.next_call(state)
    stop = stop if due is None else min(stop, due)
    step, start = int(state.step), time.perf_counter()
    after, losses = advance(state, data, stop - step)
    found = np.asarray(losses, np.float64)[: stop - step]
    records.add("train", stop, {"loss": float(found.mean())}, time.perf_counter() - start)
    if not np.isfinite(found).all():
        bad = step + int(np.argmin(np.isfinite(found)))
        message = f"the training loss of step {bad} is {found[bad - step]}"
        raise DivergenceError(message, records.records, state)
    if not _all_finite(after.params):  # finite losses may have gradients that are not
        message = f"params are not finite after a step from {step} to {stop - 1}"
        raise DivergenceError(message, records.records, state)
    return after


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    # Zero times what is not finite is NaN; a sum is faster than an "all".
    return jnp.isfinite(sum(jnp.sum(leaf * 0) for leaf in jax.tree.leaves(tree)))


def _numbers(found: dict[str, Any]) -> Record:
    return {name: float(np.asarray(value)) for name, value in found.items()}


@contextlib.contextmanager
def _bar(wanted: bool, start: int, stop: int) -> Iterator[Callable[[int], Any]]:
    """What is told the number of steps made, and shows them."""
    if not wanted:
        yield lambda step: None
        return
    import tqdm  # not in the core

    with tqdm.tqdm(total=stop, initial=start, unit="step") as bar:
        yield lambda step: bar.update(step - bar.n)
