"""What is in a traced program."""

from collections.abc import Iterator
from typing import Any

import jax
from jax.extend import core


def bodies(eqn: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """The programs in the parameters of an equation."""
    is_program = lambda leaf: isinstance(leaf, core.Jaxpr | core.ClosedJaxpr)
    for leaf in jax.tree.leaves(list(eqn.params.values()), is_leaf=is_program):
        if is_program(leaf):
            yield leaf.jaxpr if isinstance(leaf, core.ClosedJaxpr) else leaf


def primitives(jaxpr: core.Jaxpr) -> Iterator[str]:
    """The names of all equations, those of bodies included."""
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name
        for body in bodies(eqn):
            yield from primitives(body)


def scan_sizes(eqn: core.JaxprEqn, body: core.Jaxpr) -> tuple[int, int]:
    """How many inputs of a ``scan`` are constants, and how many are state; the rest are sliced."""
    # Found by the shapes, for JAX names the numbers differently in different versions: what is
    # sliced, or stacked, has one axis more outside of the body than inside.
    number_of_axes = lambda atom: len(getattr(atom.aval, "shape", ()))
    is_longer: Any = lambda outer, inner: number_of_axes(outer) > number_of_axes(inner)
    num_stacked = sum(map(is_longer, eqn.outvars, body.outvars))
    num_sliced = sum(map(is_longer, eqn.invars, body.invars))
    num_carry = len(eqn.outvars) - num_stacked
    return len(eqn.invars) - num_carry - num_sliced, num_carry
