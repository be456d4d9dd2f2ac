"""What a plan is, and what plans have in common: schedules, memory, sketches, samplers."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import clustering, sampling, trees
from jaxrobust.training._state import TrainState
from jaxrobust.training._steps import LossFn

NEVER = 2**31 - 1  # a step that no run comes to, for steps are int32
# What a call of a plan reports, for the log.
Report = dict[str, float | int | str]


CHOSEN = "chose_sampler"  # in the memory of a plan that has


class Plan(NamedTuple):
    """A way to sample that follows training; see :func:`remove_redundancy` and :func:`resample`.

    Both functions depend on the state alone, so that a resumed run does what the first would have
    done. The state of a plan is in ``state.memory``, a dict of arrays, under names of its own: a
    run that goes on with a plan of another kind leaves that of the first alone.
    """

    # From the state to the step of the next call, or None if there is none to come.
    next_call: Callable[[TrainState], int | None]
    # (state, data) -> the state with another sampler or memory, and a report.
    call: Callable[[TrainState, Any], tuple[TrainState, Report]]
    # The kinds of it and of those it is made of, which are the names of their parts of the memory.
    kinds: tuple[str, ...] = ()


def combined(*plans: Plan) -> Plan:
    """Several plans in one run, such as strata and the snapshots of SVRG.

    ::

        strata = training.resample(loss_fn, num_clusters=32)
        snapshots = training.snapshots(loss_fn)
        plan = training.combined(strata, snapshots.plan)

    Each is called at its own steps, in this order where two are due at once. Of plans that change
    the sampler, the one called last decides.

    Args:
      *plans: of different kinds, at least one.

    Returns:
      :class:`Plan`. Its reports have the names ``kind/name`` of what the plans report, as far as
      they have a kind.

    Raises:
      ValueError: without plans, or if two are of one kind, which would share their memory.
    """
    kinds = [kind for plan in plans for kind in plan.kinds]
    if not plans:
        raise ValueError("plans must not be empty")
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise ValueError(f"plans must be of different kinds, got {kind!r} more than once")

    def next_call(state: TrainState) -> int | None:
        steps = [plan.next_call(state) for plan in plans]
        return min((step for step in steps if step is not None), default=None)

    def call(state: TrainState, data: Any) -> tuple[TrainState, Report]:
        reports: Report = {}
        for plan in plans:
            due = plan.next_call(state)
            if due is not None and due <= int(state.step):
                state, report = plan.call(state, data)
                prefix = f"{plan.kinds[0]}/" if len(plan.kinds) == 1 else ""
                reports |= {prefix + key: value for key, value in report.items()}
        return state, reports

    return Plan(next_call, call, tuple(kinds))


def with_own_memory(name: str, plan: Plan) -> Plan:
    """The plan with a part of the memory to itself, of names that begin with ``name/``."""

    def next_call(state: TrainState) -> int | None:
        return plan.next_call(state._replace(memory=own_memory(name, state)))

    def call(state: TrainState, data: Any) -> tuple[TrainState, Report]:
        after, report = plan.call(state._replace(memory=own_memory(name, state)), data)
        others = {key: v for key, v in state.memory.items() if not key.startswith(f"{name}/")}
        own = {f"{name}/{key}": value for key, value in after.memory.items()}
        return after._replace(memory=others | own), report

    return Plan(next_call, call, (name,))


def own_memory(name: str, state: TrainState) -> dict[str, jax.Array]:
    """The part of the memory of one kind of plan, by short names."""
    prefix = f"{name}/"
    return {k[len(prefix) :]: v for k, v in state.memory.items() if k.startswith(prefix)}


def next_call_from(first: int) -> Callable[[TrainState], int | None]:
    """A plan's ``next_call``: what its memory says, or ``first`` before the first call."""

    def next_call(state: TrainState) -> int | None:
        step = int(state.memory.get("next_call", first))
        return None if step < 0 else step

    return next_call


def scheduled(state: TrainState, wait: int | None) -> TrainState:
    """With the next call so many steps from now, or none."""
    # NumPy's numbers, for each array that JAX makes takes a while.
    step = -1 if wait is None else min(int(state.step) + wait, NEVER)
    memory = {"next_call": np.int32(step), "wait": np.int32(0 if wait is None else wait)}
    return state._replace(memory=state.memory | memory)


def is_uniform(sampler: Any) -> bool:
    """Whether it draws all examples alike."""
    is_plain = isinstance(sampler, sampling.Sampler)
    return is_plain and sampler.sizes.size == 1 and sampler.running is None


def uniform_like(sampler: Any) -> Any:
    """Uniform over the same examples; the sampler itself if it is."""
    if is_uniform(sampler):
        return sampler
    return sampling.uniform(sampler.num_examples, sampler.batch_size)


def with_sampler(state: TrainState, sampler: Any) -> TrainState:
    """The state with another sampler, from its start; as it is with the same one.

    The memory says so, for checkpoints: the sampler is then not that of the template.
    """
    if sampler is state.sampler:
        return state
    key = jax.random.fold_in(state.sampler_state.key, state.step)
    memory = state.memory | {CHOSEN: jnp.bool_(True)}
    return state._replace(sampler=sampler, sampler_state=sampler.init(key), memory=memory)


def call_key(state: TrainState) -> jax.Array:
    """The PRNG key of a call of a plan at this step."""
    return jax.random.fold_in(state.key, state.step)


def sketcher(
    loss_fn: LossFn, state: TrainState, key: jax.Array, dim: int, batch_size: int
) -> Callable[..., jax.Array]:
    """Sketches of examples, all of them finite; of which, ``rows`` says for a message."""

    def sketches(data: Any, rows: jax.Array | None = None) -> jax.Array:
        found = clustering.gradient_sketches(
            loss_fn, state.params, data, key=key, dim=dim, batch_size=batch_size
        )
        spoiled = _zero_or_nan(found)
        if not bool(jnp.all(spoiled == 0)):
            raise not_finite(state, np.asarray(spoiled) != 0, rows)
        return found

    return sketches


def not_finite(state: TrainState, is_bad: np.ndarray, rows: jax.Array | None) -> ValueError:
    """The error for examples whose gradients are not; of which, ``rows`` says."""
    (bad,) = np.nonzero(is_bad)
    names = np.sort(bad if rows is None else np.asarray(rows)[bad])
    shown = ", ".join(map(str, names[:10])) + (", ..." if names.size > 10 else "")
    return ValueError(
        f"gradients must be finite at step {int(state.step)}; {bad.size} of {len(is_bad)} that "
        f"were looked at are not, of examples {shown}"
    )


@jax.jit
def _zero_or_nan(points: jax.Array) -> jax.Array:
    """0 for finite points, NaN for the others, ``(N,)``: a sum is faster than an "all"."""
    return jnp.sum(points * 0, axis=1)


@jax.jit
def call_keys(key: jax.Array, step: jax.Array) -> tuple[jax.Array, ...]:
    """Four PRNG keys of a call of a plan at this step; the second one is of :func:`some_of`."""
    keys = jax.random.split(jax.random.fold_in(key, step), 4)
    return tuple(keys[number] for number in range(4))


@functools.partial(jax.jit, static_argnums=0)
def some_of(number: int, key: jax.Array, step: jax.Array, data: Any) -> tuple[Any, jax.Array]:
    """So many different random examples at a call of a plan, and which they are."""
    num_examples = len(jax.tree.leaves(data)[0])
    rows = some_rows(call_keys(key, step)[1], num_examples, number)
    return trees.take(data, rows), rows


def some_rows(key: jax.Array, num_examples: int, number: int) -> jax.Array:
    """Which: the first of a pass, which takes no shuffle of all."""
    sampler = sampling.uniform(num_examples, min(number, num_examples))
    return sampler.next(sampler.init(key))[0].indices


def check_counts(**counts: int) -> None:
    """Raises a ValueError that names a count that is no integer, or too small."""
    for name, value in counts.items():
        # A mean and a variance need some, at least.
        trees.check_count(name, value, least=4 if name == "num_probes" else 1)


def check_schedule(first: int, every: int | None) -> None:
    """Both are steps."""
    trees.check_count("first", first, least=0, most=NEVER)
    if every is not None:
        trees.check_count("every", every, most=NEVER)
