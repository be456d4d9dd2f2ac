"""Checkpoints: a whole state, and what it must fit."""

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import sampling, trees
from jaxrobust.training._plans import CHOSEN
from jaxrobust.training._state import TrainState

# The kinds of sampler that a checkpoint may hold; their arrays and static sizes are its fields.
_SAMPLER_STATES = {
    "Sampler": sampling.State,
    "GroupSampler": sampling.GroupState,
    "ClusterSampler": sampling.ClusterState,
}
_SAMPLERS = {name: getattr(sampling, name) for name in _SAMPLER_STATES}
# Leaves that are computed from numbers; all others are indices and counts.
_ROUNDED = ("shares", "running", "widths")
_STATIC = ("num_examples", "batch_size", "replacement")


def save(folder: str | Path, state: TrainState, *, keep: int = 3) -> None:
    """Writes a state to ``folder/<step>``, with Orbax.

    Params, optimizer, sampler and its state, the memory of the plan, key and step: all that the
    trajectory depends on.

    Args:
      folder: of the checkpoints of one run; it is made if it is not there.
      state: what to save. One that was saved at the same step is replaced, and kept until then.
      keep: how many checkpoints to keep, the newest.

    Raises:
      TypeError: for a sampler that is not one of :mod:`sampling`.
      ValueError: if the folder has a checkpoint of a later step: it is of another run.
    """
    import orbax.checkpoint as ocp  # not in the core

    check_sampler_kind(state.sampler)
    parts = _parts(state)
    arrays = {
        name: [_plain(leaf) for leaf in jax.tree.leaves(part)] for name, part in parts.items()
    }
    # An empty list would be a node that Orbax does not bring back.
    arrays = {
        name: dict(zip(map(str, range(len(a))), a, strict=True)) for name, a in arrays.items() if a
    }
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
    composite = ocp.args.Composite(
        arrays=ocp.args.StandardSave(arrays), description=ocp.args.JsonSave(_describe(state))
    )
    step = int(state.step)
    check_folder(folder, step)
    with (
        _kept_until_replaced(Path(folder).absolute(), step),
        ocp.CheckpointManager(Path(folder).absolute(), options=options) as manager,
    ):
        manager.save(step, args=composite, force=True)
        manager.wait_until_finished()


def check_sampler_kind(sampler: Any) -> None:
    """Raises a TypeError for a sampler that cannot be saved."""
    kind = type(sampler).__name__
    if kind not in _SAMPLERS:
        raise TypeError(f"state.sampler must be one of {sorted(_SAMPLERS)} to be saved, got {kind}")


def check_folder(folder: str | Path, step: int) -> None:
    """Raises if there are checkpoints of later steps, which the newest would be taken for."""
    folder = Path(folder)
    _recover(folder)
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    later = sorted(int(name) for name in names if name.isdigit() and int(name) > step)
    if later:
        raise ValueError(
            f"folder: {folder} has checkpoints of later steps than {step}, {later}; they are of "
            "another run, so give another folder, or remove them"
        )


def _recover(folder: Path) -> None:
    """Brings back a checkpoint that was moved away by a process that was ended before it wrote."""
    for aside in folder.glob(".replaced-*") if folder.is_dir() else ():
        old = folder / aside.name.removeprefix(".replaced-")
        if old.exists():
            shutil.rmtree(aside)
        else:
            aside.rename(old)


@contextlib.contextmanager
def _kept_until_replaced(folder: Path, step: int) -> Iterator[None]:
    """Moves a checkpoint of the same step away, and back if there comes no other."""
    old, aside = folder / str(step), folder / f".replaced-{step}"
    if not old.exists():
        yield
        return
    shutil.rmtree(aside, ignore_errors=True)
    old.rename(aside)
    try:
        yield
    except BaseException:
        shutil.rmtree(old, ignore_errors=True)
        aside.rename(old)
        raise
    shutil.rmtree(aside)


def restore(
    folder: str | Path,
    template: TrainState,
    *,
    step: int | None = None,
    check_sampler: bool = True,
) -> TrainState:
    """Reads a state that :func:`save` wrote.

    Args:
      folder: where the checkpoints are.
      template: a state of the same model, optimizer and data, as :func:`init` gives it; its values
        do not matter, but for those of its sampler, which must be the saved one unless a plan
        chose that.
      step: which checkpoint; None for the newest.
      check_sampler: whether the saved sampler must be that of the template, unless a plan of this
        library chose it. False where a plan of your own changes samplers, or you do.

    Returns:
      The state, with which training goes on as if it had not been interrupted.

    Raises:
      FileNotFoundError: if there is no such checkpoint; the message says which there are.
      ValueError: if params or optimizer have other leaves than the template's, or the sampler has
        another number of examples or batch size; unless a plan chose it, also for a sampler of
        another kind, other replacement, other sizes or other values. The message names the first
        that differs.
    """
    import orbax.checkpoint as ocp

    folder = Path(folder).absolute()
    if not folder.is_dir():
        raise FileNotFoundError(f"folder: there are no checkpoints, {folder} does not exist")
    _recover(folder)
    with ocp.CheckpointManager(folder) as manager:
        steps = sorted(manager.all_steps())
        if not steps or (step is not None and step not in steps):
            wanted = "a checkpoint" if step is None else f"step {step}"
            raise FileNotFoundError(f"folder: {folder} has not {wanted}; it has steps {steps}")
        chosen = steps[-1] if step is None else step
        description = manager.restore(
            chosen, args=ocp.args.Composite(description=ocp.args.JsonRestore())
        )["description"]
        _check(description, _describe(template), check_sampler)
        arrays = manager.restore(
            chosen, args=ocp.args.Composite(arrays=ocp.args.StandardRestore())
        )["arrays"]
    state = _assemble(template, description, arrays)
    if check_sampler and not _is_chosen(description["memory"], template.memory):
        _check_values(state.sampler, template.sampler)
    return state


def _parts(state: TrainState) -> dict[str, Any]:
    return {
        "step": state.step,
        "params": state.params,
        "opt_state": state.opt_state,
        "sampler": state.sampler,
        "sampler_state": state.sampler_state,
        "memory": state.memory,
        "key": state.key,
        "recent_loss": state.recent_loss,
    }


def _describe(state: TrainState) -> dict[str, Any]:
    """What the arrays mean, in JSON."""
    sampler = state.sampler
    return {
        "params": _leaves(state.params),
        "opt_state": _leaves(state.opt_state),
        "memory": sorted(state.memory),
        "keys": {
            "key": _key_kind(state.key),
            "sampler_state": _key_kind(state.sampler_state.key),
        },
        "sampler": {
            "kind": type(sampler).__name__,
            "there": [n for n, value in sorted(vars(sampler).items()) if value is not None],
            "leaves": _leaves(sampler),
            **{name: getattr(sampler, name) for name in _STATIC if hasattr(sampler, name)},
        },
    }


def _leaves(tree: Any) -> list[list[Any]]:
    """Path, shape and dtype of every leaf."""
    found, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [
        [jax.tree_util.keystr(path), list(jnp.shape(leaf)), str(jnp.result_type(leaf))]
        for path, leaf in found
    ]


def _check(saved: dict[str, Any], wanted: dict[str, Any], check_sampler: bool) -> None:
    for part in ("params", "opt_state"):
        _check_leaves("another model or optimizer", part, saved[part], wanted[part])
    chosen = not check_sampler or _is_chosen(saved["memory"], wanted["memory"])
    there, here = saved["sampler"], wanted["sampler"]
    for name in ("num_examples", "batch_size", *(() if chosen else ("kind", "replacement"))):
        if there.get(name) != here.get(name):
            raise ValueError(
                f"template: the checkpoint is of another sampler: {name} is {there.get(name)} "
                f"there, {here.get(name)} in the template"
            )
    if not chosen:
        _check_leaves("another sampler", "it", there["leaves"], here["leaves"])


def _is_chosen(*memories: Iterable[str]) -> bool:
    """Whether a plan chose the sampler, there or here."""
    return any(name.endswith(f"/{CHOSEN}") for memory in memories for name in memory)


def _check_values(there: Any, here: Any) -> None:
    """Indices are the same; shares and scores another device may have rounded otherwise."""
    both = map(jax.tree_util.tree_leaves_with_path, (there, here))
    for (path, a), (_, b) in zip(*both, strict=True):
        name = jax.tree_util.keystr(path)
        a, b = (np.asarray(trees.bring_together(leaf), np.float64) for leaf in (a, b))
        rounds = name.strip(".") in _ROUNDED
        most = 1e-6 * np.abs(b).max(initial=0)
        same = np.allclose(a, b, rtol=1e-4, atol=most) if rounds else np.array_equal(a, b)
        if not same:
            raise ValueError(
                "template: the checkpoint is of another sampler: it has other values of "
                f"{name} than the template; with check_sampler=False the saved one is taken"
            )


def _check_leaves(of: str, part: str, there: list[Any], here: list[Any]) -> None:
    for number in range(max(len(there), len(here))):
        a, b = (leaves[number] if number < len(leaves) else None for leaves in (there, here))
        if a != b:
            raise ValueError(
                f"template: the checkpoint is of {of}: {part} has {_show(a)} there, {_show(b)} in "
                "the template"
            )


def _show(leaf: list[Any] | None) -> str:
    return "no such leaf" if leaf is None else f"{leaf[0] or 'a leaf'} {leaf[2]}{leaf[1]}"


def _assemble(template: TrainState, description: dict[str, Any], arrays: Any) -> TrainState:
    def leaves(part: str) -> list[jax.Array]:
        found = arrays.get(part, {})
        return [jnp.asarray(np.asarray(found[str(number)])) for number in range(len(found))]

    def like(part: str) -> Any:
        old, structure = jax.tree.flatten(getattr(template, part))
        pairs = zip(leaves(part), old, strict=True)
        return structure.unflatten([_as_key(new, _key_kind(leaf)) for new, leaf in pairs])

    kinds = description["sampler"]
    kind, there = kinds["kind"], [n for n in kinds["there"] if n not in _STATIC]
    fields = dict.fromkeys([n for n in _SAMPLERS[kind].__dataclass_fields__ if n not in _STATIC])
    # The leaves of a sampler are its fields in the order of the class.
    names = [name for name in fields if name in there]
    fields |= dict(zip(names, leaves("sampler"), strict=True))
    static = {name: kinds[name] for name in _STATIC if name in kinds}
    state_leaves = leaves("sampler_state")
    return TrainState(
        step=leaves("step")[0],
        params=like("params"),
        opt_state=like("opt_state"),
        sampler=_SAMPLERS[kind](**fields, **static),
        sampler_state=_SAMPLER_STATES[kind](
            _as_key(state_leaves[0], description["keys"]["sampler_state"]), *state_leaves[1:]
        ),
        memory=dict(zip(description["memory"], leaves("memory"), strict=True)),
        key=_as_key(leaves("key")[0], description["keys"]["key"]),
        # Older checkpoints have none.
        recent_loss=(leaves("recent_loss") or [template.recent_loss])[0],
    )


# Keys of the new style have a dtype of their own, which files do not know.


def _key_kind(key: Any) -> str | None:
    if jnp.issubdtype(jnp.result_type(key), jax.dtypes.prng_key):
        return str(jax.random.key_impl(key))
    return None


def _plain(leaf: Any) -> Any:
    leaf = jnp.asarray(leaf)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    # As plain arrays they come back on any number of devices; what other processes have cannot be.
    return np.asarray(leaf) if leaf.is_fully_addressable else leaf


def _as_key(data: jax.Array, kind: str | None) -> jax.Array:
    return data if kind is None else jax.random.wrap_key_data(data, impl=kind)
