"""One forward and one backward pass over a batch, with everything per-example found on the way."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import trees
from jaxrobust.per_example._batching import map_in_chunks
from jaxrobust.per_example._devices import check_mesh
from jaxrobust.per_example._interpret import Arrays, evaluate
from jaxrobust.per_example._plan import EXPAND_BYTES
from jaxrobust.per_example._trace import Traced, explained
from jaxrobust.per_example._uses import Factors
from jaxrobust.per_example._views import shape_of


class Pass(NamedTuple):
    """What one pass over B examples gives. Leaves are named by their number."""

    losses: jax.Array  # (B,)
    aux: list[jax.Array]  # each (B, ...)
    inputs: Arrays  # data input of every site, each (B, ...)
    cotangents: Arrays  # cotangent of the output of every site, each (B, ...)
    expanded: dict[int, jax.Array]  # (B, *leaf): gradients of the leaves that were expanded
    gradients: dict[int, jax.Array]  # (*leaf): sum over the batch, of the leaves asked for


def run(traced: Traced, differentiate: Collection[int] = ()) -> Pass:
    """Runs the program on the batch, forwards and backwards.

    Args:
      traced: the program and its batch.
      differentiate: leaves whose summed gradient is wanted from differentiation.
    """
    check_mesh(traced.batch)
    plan = traced.plan
    direct = {i: traced.leaves[i] for i in differentiate}

    def start(example):
        del example
        copies = {i: traced.leaves[i] for i in plan.leaves_by("expand")}
        probes = {
            path: jnp.zeros((*site.loops, *shape_of(site.output)), site.output.aval.dtype)
            for path, site in plan.sites.items()
        }
        return copies, probes

    # Mapped over the batch, they are sharded as the batch is.
    copies, probes = trees.vary_like(jax.vmap(start)(traced.batch), traced.batch)

    def total(direct, copies, probes):
        def one(example, copies, probes):
            given = {**direct, **copies}
            leaves = [given.get(i, leaf) for i, leaf in enumerate(traced.leaves)]
            (loss, *aux), inputs = evaluate(traced.closed, [*leaves, *example], plan.sites, probes)
            return loss, aux, inputs

        losses, aux, inputs = jax.vmap(one)(traced.batch, copies, probes)
        return jnp.sum(losses), (losses, aux, inputs)

    differentiated = jax.grad(total, argnums=(0, 1, 2), has_aux=True)
    with explained():
        found, (losses, aux, inputs) = differentiated(direct, copies, probes)
    gradients, expanded, cotangents = found
    return Pass(losses, aux, inputs, cotangents, expanded, gradients)


def recorded(traced: Traced, done: Pass, leaf: int) -> tuple[Arrays, Arrays]:
    """What was recorded at the sites of one leaf: data inputs and cotangents, each (B, ...)."""
    paths = {use.site.path for group in traced.plan.leaves[leaf].groups for use in group}
    return (
        {path: done.inputs[path] for path in paths},
        {path: done.cotangents[path] for path in paths},
    )


def factors_of(
    traced: Traced, leaf: int, inputs: Arrays, cotangents: Arrays
) -> list[list[Factors]]:
    """The factors of a leaf for one example, by group, from what one example's pass recorded."""
    return [
        [use.factors(inputs[use.site.path], cotangents[use.site.path]) for use in group]
        for group in traced.plan.leaves[leaf].groups
    ]


def map_chunks(
    traced: Traced, statistic: Callable[[dict[int, jax.Array]], Any], *, summed: bool = False
) -> Any:
    """``statistic`` of each example's gradients of the leaves that are done in chunks.

    A pass of its own over the batch, in chunks so small that their gradients take no more than
    EXPAND_BYTES. The result has a leading axis B, or is summed over the batch.
    """
    numbers = traced.plan.leaves_by("chunks")
    each = sum(traced.leaves[i].nbytes for i in numbers)

    def one(example):
        def loss(chosen):
            leaves = [chosen.get(i, leaf) for i, leaf in enumerate(traced.leaves)]
            return evaluate(traced.closed, [*leaves, *example], {}, {})[0][0]

        return statistic(jax.grad(loss)({i: traced.leaves[i] for i in numbers}))

    if not summed:
        return map_in_chunks(one, traced.batch, max(1, EXPAND_BYTES // each))

    if trees.is_sharded(traced.batch[0]):
        found = jax.vmap(one)(traced.batch)
        return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), found)

    def add(total, example):
        return jax.tree.map(jnp.add, total, one(example)), ()

    start = jax.tree.map(
        lambda s: jnp.zeros(s.shape, s.dtype),
        jax.eval_shape(one, [leaf[0] for leaf in traced.batch]),
    )
    return jax.lax.scan(add, trees.vary_like(start, traced.batch), traced.batch)[0]
