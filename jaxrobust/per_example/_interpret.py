"""Runs a traced program, with probes added to what comes out of its sites.

A probe is an array of zeros that is added to the output of a site: its cotangent is the cotangent
of that output. The data input of the site is handed out as well. Nothing else of the program
changes, and XLA adds no zeros.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.extend import core

from jaxrobust import trees
from jaxrobust.per_example._sites import CALLS, Path, Site, body_of
from jaxrobust.per_example._views import shape_of

Arrays = dict[Path, jax.Array]
_CHECKPOINTS = frozenset({"remat", "remat2", "checkpoint"})


def evaluate(
    closed: core.ClosedJaxpr,
    arguments: Sequence[Any],
    sites: Mapping[Path, Site],
    probes: Arrays,
) -> tuple[list[Any], Arrays]:
    """The outputs of a program, and the data input of each site.

    Args:
      closed: the program.
      arguments: its inputs.
      sites: the sites to record, by path.
      probes: for each of them an array of the shape of its output; inside of loops with the
        lengths of the loops in front.

    Returns:
      The outputs, and for each site its data input, with the lengths of the loops in front.
    """
    return _run(closed.jaxpr, closed.consts, arguments, (), sites, probes)


def _run(jaxpr, consts, arguments, path: Path, sites, probes: Arrays) -> tuple[list[Any], Arrays]:
    values: dict[Any, Any] = {}
    values.update(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, arguments, strict=True))
    recorded: Arrays = {}
    for number, eqn in enumerate(jaxpr.eqns):
        here = (*path, number)
        inputs = [
            atom.val if isinstance(atom, core.Literal) else values[atom] for atom in eqn.invars
        ]
        inside = {at: probe for at, probe in probes.items() if at[: len(here)] == here}
        if not inside:
            outputs = _bind(eqn, inputs)
        elif here in sites:
            (output,) = _bind(eqn, inputs)
            outputs = [output + inside[here]]
            site = sites[here]
            recorded[here] = data_input(site, inputs)
        else:
            outputs, more = _enter(eqn, inputs, here, sites, inside)
            recorded.update(more)
        values.update(zip(eqn.outvars, outputs, strict=True))
    return [
        atom.val if isinstance(atom, core.Literal) else values[atom] for atom in jaxpr.outvars
    ], recorded


def data_input(site: Site, inputs: Sequence[Any]) -> jax.Array:
    """The input of a site from which, with the cotangent of its output, the gradient follows."""
    if site.eqn.primitive.name == "dynamic_slice":
        return inputs[1:][narrow_axis(site.eqn)]
    return inputs[1 - site.operand]


def narrow_axis(eqn: core.JaxprEqn) -> int:
    """The axis across which a ``dynamic_slice`` takes one row."""
    sizes, table = eqn.params["slice_sizes"], shape_of(eqn.invars[0])
    return next(i for i, size in enumerate(sizes) if size != table[i])


def _bind(eqn: core.JaxprEqn, inputs: Sequence[Any]) -> list[Any]:
    parameters = eqn.primitive.get_bind_params(eqn.params)
    with eqn.ctx.manager:
        outputs = eqn.primitive.bind(*inputs, **parameters)
    return list(outputs) if eqn.primitive.multiple_results else [outputs]


def _enter(eqn, inputs, path: Path, sites, probes: Arrays) -> tuple[list[Any], Arrays]:
    """Runs an equation with a body in which there are sites."""
    body, consts = _open(body_of(eqn))
    name = eqn.primitive.name
    if name == "scan":
        return _scan(eqn, body, consts, inputs, path, sites, probes)
    assert name in CALLS, name

    def run(inputs, probes):
        return _run(body, consts, inputs, path, sites, probes)

    if name in _CHECKPOINTS:
        keep = {key: eqn.params[key] for key in ("policy", "prevent_cse")}
        run = jax.checkpoint(run, **keep)
    return run(inputs, probes)


def _scan(eqn, body, consts, inputs, path: Path, sites, probes: Arrays) -> tuple[list, Arrays]:
    num_consts, num_carry = trees.scan_sizes(eqn, body)
    fixed, start = inputs[:num_consts], inputs[num_consts : num_consts + num_carry]

    def step(carry, slices):
        xs, probes = slices
        outputs, recorded = _run(body, consts, [*fixed, *carry, *xs], path, sites, probes)
        return outputs[:num_carry], (outputs[num_carry:], recorded)

    carry, (ys, recorded) = jax.lax.scan(
        step,
        start,
        (inputs[num_consts + num_carry :], probes),
        length=eqn.params["length"],
        reverse=eqn.params["reverse"],
        unroll=eqn.params["unroll"],
    )
    return [*carry, *ys], recorded


def _open(jaxpr) -> tuple[core.Jaxpr, Sequence[Any]]:
    return (jaxpr.jaxpr, jaxpr.consts) if isinstance(jaxpr, core.ClosedJaxpr) else (jaxpr, ())
