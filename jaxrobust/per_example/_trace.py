"""Traces a loss to a program, and checks what it is given."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jaxrobust import trees
from jaxrobust.per_example._devices import type_of_example
from jaxrobust.per_example._plan import Plan, plan

# Have named axes, but send nothing along those that are around the loss.
_NO_COMMUNICATION = frozenset({"axis_index", "pvary", "shard_map"})

LossFn = Callable[..., Any]  # (params, example) -> scalar, or with has_aux (scalar, aux)


@dataclasses.dataclass(frozen=True)
class Traced:
    """A loss as a program of ``[*leaves, *example]``, and what it is to be run on."""

    closed: core.ClosedJaxpr
    plan: Plan
    leaves: list[Any]  # of the params: arrays, or their shapes and dtypes
    paths: list[str]  # how to reach each, for messages
    params_structure: Any
    batch: list[Any]  # leaves of the batch, each (B, ...): arrays, or their shapes and dtypes
    batch_size: int
    aux_structure: Any  # None without aux

    def with_plan(self, plan: Plan) -> "Traced":
        """The same under another plan for the same program."""
        return dataclasses.replace(self, plan=plan)


def trace(loss_fn: LossFn, params: Any, batch: Any, *, has_aux: bool) -> Traced:
    """Traces ``loss_fn(params, example)`` for one example of the batch.

    Raises:
      ValueError, TypeError: for what cannot be differentiated or is no batch; the message names
        the argument.
    """
    trees.check_floating("params", params)
    with_paths, params_structure = jax.tree_util.tree_flatten_with_path(params)
    leaves = [_as_array(leaf) for _, leaf in with_paths]
    paths = [leaf_name(path) for path, _ in with_paths]
    batch_leaves, batch_structure, batch_size = check_batch(batch)
    leaves, batch_leaves = trees.vary_alike((leaves, batch_leaves))
    aux_structures = []

    def program(leaves, example):
        result = loss_fn(params_structure.unflatten(leaves), batch_structure.unflatten(example))
        loss, aux = _check_result(result, has_aux)
        aux_leaves, aux_structure = jax.tree.flatten(aux)
        aux_structures.append(aux_structure)
        return [loss, *aux_leaves]

    example = [type_of_example(leaf) for leaf in batch_leaves]
    with explained():
        closed = jax.make_jaxpr(program)(list(map(_type_of, leaves)), example)
    _check_pure(closed)
    shapes, itemsizes = (
        [leaf.shape for leaf in leaves],
        [leaf.dtype.itemsize for leaf in leaves],
    )
    return Traced(
        closed,
        plan(closed, shapes, itemsizes, batch_size),
        leaves,
        paths,
        params_structure,
        batch_leaves,
        batch_size,
        aux_structures[-1] if has_aux else None,
    )


def leaf_name(path: Any) -> str:
    """A leaf of the params as messages name it; params that are one array have no path."""
    return jax.tree_util.keystr(path) or "params"


def check_batch(batch: Any, name: str = "batch") -> tuple[list[jax.Array], Any, int]:
    """The leaves of a batch, their structure, and its size; ``name`` is the argument's."""
    with_paths, structure = jax.tree_util.tree_flatten_with_path(batch)
    if not with_paths:
        raise ValueError(f"{name} has no arrays: got {batch!r}")
    leaves = []
    for path, leaf in with_paths:
        where = f"{name}{jax.tree_util.keystr(path)}"
        if not hasattr(leaf, "shape"):
            raise TypeError(f"{where} must be an array, got {type(leaf).__name__}")
        if isinstance(leaf, np.ndarray | np.generic) and leaf.dtype.kind in "OSUMm":
            raise TypeError(f"{where} must be an array of numbers, got {leaf.dtype}")
        if not leaf.shape:
            raise ValueError(f"{where} must have a leading axis of examples, got a scalar")
        leaves.append(_as_array(leaf))
    sizes = {leaf.shape[0] for leaf in leaves}
    if len(sizes) > 1:
        found = ", ".join(
            f"{name}{jax.tree_util.keystr(path)}: {leaf.shape[0]}"
            for (path, _), leaf in zip(with_paths, leaves, strict=True)
        )
        raise ValueError(f"{name} must have one number of examples in all leaves, got {found}")
    (size,) = sizes
    if size == 0:
        raise ValueError(f"{name} is empty: it has 0 examples")
    return leaves, structure, size


def check_loss(
    loss_fn: LossFn, params: Any, batch: Any, *, has_aux: bool
) -> tuple[int, core.ClosedJaxpr]:
    """Checks all arguments without computing anything: the size of the batch, and the program."""
    trees.check_floating("params", params)
    batch_leaves, structure, batch_size = check_batch(batch)
    params, batch_leaves = trees.vary_alike((jax.tree.map(_as_array, params), batch_leaves))
    example = structure.unflatten([type_of_example(leaf) for leaf in batch_leaves])
    abstract = jax.tree.map(_type_of, params)
    with explained():
        closed = jax.make_jaxpr(
            lambda params, example: _check_result(loss_fn(params, example), has_aux)[0]
        )(abstract, example)
    _check_pure(closed)
    return batch_size, closed


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Says in the terms of this room what JAX says in its own."""
    try:
        yield
    except NameError as error:
        if "unbound axis name" not in str(error):
            raise
        raise ValueError(
            "loss_fn couples examples: it communicates along a named axis, as batch normalisation "
            "in training mode does, and so has no per-example gradients; use the statistics of "
            f"evaluation mode ({error})"
        ) from error
    except jax.errors.UnexpectedTracerError as error:
        error.add_note(
            "loss_fn uses a traced value that belongs to another trace: it has kept one in a list, "
            "an attribute or a global in an earlier call. It must be a pure function of "
            "(params, example)."
        )
        raise
    except Exception as error:
        if type(error).__name__ == "ShardingTypeError":  # it is in no public module of JAX
            error.add_note(
                "JAX cannot map an operation of loss_fn, or its derivative, over a batch that is "
                "sharded over explicit mesh axes. Make the axes of the mesh automatic, or call "
                "this inside of jax.shard_map, where every device has examples of its own."
            )
        raise


def _check_pure(closed: core.ClosedJaxpr) -> None:
    changed = [effect for effect in closed.effects if "state" in type(effect).__module__]
    if changed:
        raise ValueError(
            "loss_fn reads or changes state outside of itself (a jax.Ref); it must be a pure "
            "function of (params, example)"
        )
    axes = _communication(closed.jaxpr)
    if axes:
        raise ValueError(
            f"loss_fn couples examples: it communicates along the named axes {sorted(axes)}, as "
            "batch normalisation in training mode does, and so has no per-example gradients; in "
            "jax.shard_map it must be computed by each device on its own"
        )


def _communication(jaxpr: core.Jaxpr) -> set[str]:
    """The named axes of what is around the loss along which it sends anything."""
    axes: set[str] = set()
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in _NO_COMMUNICATION:
            continue
        named = eqn.params.get("axis_name", eqn.params.get("axes", ()))
        # Numbers are axes of arrays.
        axes |= {n for n in (named if isinstance(named, tuple) else (named,)) if isinstance(n, str)}
        axes = axes.union(*map(_communication, trees.bodies(eqn)))
    return axes


def _as_array(leaf: Any) -> Any:
    return leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jnp.asarray(leaf)


def _type_of(leaf: Any) -> Any:
    return leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.typeof(leaf)


def _check_result(result: Any, has_aux: bool) -> tuple[jax.Array, Any]:
    if has_aux:
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(
                f"loss_fn must return (loss, aux) with has_aux=True, got {type(result).__name__}"
            )
        loss, aux = result
        _check_aux(aux)
    else:
        loss, aux = result, None
    if isinstance(loss, float | int):
        raise ValueError(
            f"loss_fn must return a scalar array, the loss of one example, got the number {loss}, "
            "which does not depend on params"
        )
    if not hasattr(loss, "dtype") or jnp.shape(loss) != ():
        got = f"shape {loss.shape}" if hasattr(loss, "shape") else type(loss).__name__
        raise ValueError(
            f"loss_fn must return a scalar, the loss of one example, got {got}; it is called with "
            "one example, without the batch axis"
        )
    if not jnp.issubdtype(loss.dtype, jnp.floating):
        raise TypeError(f"loss_fn must return a real floating scalar, got {loss.dtype}")
    return loss, aux


def _check_aux(aux: Any) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(aux):
        if not hasattr(leaf, "dtype") and not isinstance(leaf, bool | int | float | complex):
            raise TypeError(
                f"loss_fn must return arrays and numbers in aux, got {type(leaf).__name__} at "
                f"aux{jax.tree_util.keystr(path)}"
            )
