"""Traces a loss to a program, and checks what it is given."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from jaxrobust import trees
from jaxrobust.per_example._plan import Plan, plan

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
    paths = [jax.tree_util.keystr(path) for path, _ in with_paths]
    batch_leaves, batch_structure, batch_size = check_batch(batch)
    aux_structures = []

    def program(leaves, example):
        result = loss_fn(params_structure.unflatten(leaves), batch_structure.unflatten(example))
        loss, aux = _check_result(result, has_aux)
        aux_leaves, aux_structure = jax.tree.flatten(aux)
        aux_structures.append(aux_structure)
        return [loss, *aux_leaves]

    example = [_abstract(leaf, leaf.shape[1:]) for leaf in batch_leaves]
    with explained():
        closed = jax.make_jaxpr(program)([_abstract(leaf, leaf.shape) for leaf in leaves], example)
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


def check_batch(batch: Any) -> tuple[list[jax.Array], Any, int]:
    """The leaves of a batch, their structure, and its size."""
    with_paths, structure = jax.tree_util.tree_flatten_with_path(batch)
    if not with_paths:
        raise ValueError(f"batch has no arrays: got {batch!r}")
    leaves = []
    for path, leaf in with_paths:
        where = f"batch{jax.tree_util.keystr(path)}"
        if not hasattr(leaf, "shape"):
            raise TypeError(f"{where} must be an array, got {type(leaf).__name__}")
        if not leaf.shape:
            raise ValueError(f"{where} must have a leading axis of examples, got a scalar")
        leaves.append(_as_array(leaf))
    sizes = {leaf.shape[0] for leaf in leaves}
    if len(sizes) > 1:
        found = ", ".join(
            f"batch{jax.tree_util.keystr(path)}: {leaf.shape[0]}"
            for (path, _), leaf in zip(with_paths, leaves, strict=True)
        )
        raise ValueError(f"batch must have one number of examples in all leaves, got {found}")
    (size,) = sizes
    if size == 0:
        raise ValueError("batch is empty: it has 0 examples")
    return leaves, structure, size


def check_loss(loss_fn: LossFn, params: Any, batch: Any, *, has_aux: bool) -> int:
    """Checks all arguments without computing anything, and returns the size of the batch."""
    trees.check_floating("params", params)
    batch_leaves, structure, batch_size = check_batch(batch)
    example = structure.unflatten([_abstract(leaf, leaf.shape[1:]) for leaf in batch_leaves])
    abstract = jax.tree.map(lambda leaf: _abstract(leaf, jnp.shape(leaf)), params)
    with explained():
        jax.eval_shape(
            lambda params, example: _check_result(loss_fn(params, example), has_aux)[0],
            abstract,
            example,
        )
    return batch_size


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


def _check_pure(closed: core.ClosedJaxpr) -> None:
    changed = [effect for effect in closed.effects if "state" in type(effect).__module__]
    if changed:
        raise ValueError(
            "loss_fn reads or changes state outside of itself (a jax.Ref); it must be a pure "
            "function of (params, example)"
        )


def _as_array(leaf: Any) -> Any:
    return leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jnp.asarray(leaf)


def _abstract(leaf: Any, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """What a leaf of another shape looks like to a trace."""
    leaf = _as_array(leaf)
    weak = leaf.weak_type if isinstance(leaf, jax.ShapeDtypeStruct) else jax.typeof(leaf).weak_type
    return jax.ShapeDtypeStruct(shape, leaf.dtype, weak_type=weak)


def _check_result(result: Any, has_aux: bool) -> tuple[jax.Array, Any]:
    if has_aux:
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(
                f"loss_fn must return (loss, aux) with has_aux=True, got {type(result).__name__}"
            )
        loss, aux = result
    else:
        loss, aux = result, None
    if not hasattr(loss, "dtype") or jnp.shape(loss) != ():
        got = f"shape {loss.shape}" if hasattr(loss, "shape") else type(loss).__name__
        raise ValueError(
            f"loss_fn must return a scalar, the loss of one example, got {got}; it is called with "
            "one example, without the batch axis"
        )
    if not jnp.issubdtype(loss.dtype, jnp.floating):
        raise TypeError(f"loss_fn must return a real floating scalar, got {loss.dtype}")
    return loss, aux
