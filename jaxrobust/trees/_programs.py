"""Programs whose loops run in Python, where XLA is slow inside of compiled ones.

On a CPU, XLA runs a convolution inside of a compiled loop 10 to 15 times slower than outside
(measured with jax 0.10: 70 instead of 5 ms for a step of a small CNN). A function is traced as for
``jit``; what comes out is cut at the loops with convolutions in them. What is between two cuts, and
the body of a loop, is a program each, and the loop around a body is one of Python.
"""

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend import core

from jaxrobust.trees._jaxprs import bodies, primitives, scan_sizes

_CALLS = frozenset({"jit", "pjit"})
_SLOW = "conv_general_dilated"
# From the inputs of a program to its outputs.
Run = Callable[[Sequence[Any]], list[Any]]


def compiled(function: Callable[..., Any], num_static: int) -> Callable[..., Any]:
    """Like ``jax.jit``, and as fast for convolutions in loops as outside of them, on a CPU.

    Args:
      function: of hashable arguments, and then of pytrees of arrays, none of them by name.
      num_static: how many of the first arguments are hashable.

    Returns:
      A function of the same arguments and results. Under a transformation, on other backends, and
      without convolutions in loops it is ``jax.jit`` of the function. Otherwise it waits where a
      loop of unknown length decides whether to go on, and at choices with such loops in them.
      ``jax.debug_nans`` looks at what comes out of each piece.
    """
    whole = jax.jit(function, static_argnums=tuple(range(num_static)))

    @functools.wraps(function)
    def call(*arguments):
        leaves = jax.tree.leaves(arguments[num_static:])
        if not _may_be_cut(leaves):
            return whole(*arguments)
        traced = whole.trace(*arguments)
        # More inputs than arguments: the function closes over something that is being traced.
        run = _cut(traced.jaxpr) if len(traced.jaxpr.in_avals) == len(leaves) else None
        if run is None:
            return whole(*arguments)
        arrays = [z if isinstance(z, jax.Array) else jnp.asarray(z) for z in leaves]
        found = [z if isinstance(z, jax.Array) else jnp.asarray(z) for z in run(arrays)]
        return jax.tree.unflatten(jax.tree.structure(traced.out_info), found)

    return call


def _may_be_cut(leaves: Sequence[Any]) -> bool:
    """Whether nothing is being traced, and loops may be slow."""
    if jax.default_backend() != "cpu" or jax.config.jax_disable_jit:  # pyright: ignore
        return False
    # Inside of `jit` known arguments are no tracers, but what is made of known numbers is.
    return not any(isinstance(leaf, Tracer) for leaf in [*leaves, jnp.zeros(())])


# By the traced program, which JAX keeps as long as the function, arguments of the same kind and the
# settings of JAX; the pieces must not refer to it, or it would never go.
_known: "weakref.WeakKeyDictionary[Any, Run | None]" = weakref.WeakKeyDictionary()


def _cut(closed: core.ClosedJaxpr) -> Run | None:
    """A program in pieces; None without slow loops."""
    if closed not in _known:
        jaxpr = closed.jaxpr
        _known[closed] = _pieces(jaxpr, closed.consts) if _has_slow_loops(jaxpr) else None
    return _known[closed]


# What is slow -------------------------------------------------------------------------------------


def _has_slow_loops(jaxpr: core.Jaxpr) -> bool:
    return any(_is_slow(eqn) for eqn in jaxpr.eqns)


def _is_slow(eqn: core.JaxprEqn) -> bool:
    """Whether it is a loop with a convolution in it, or a call or choice with such a loop in it.

    Loops inside of what has a derivative of its own, or is computed again, stay as they are.
    """
    name = eqn.primitive.name
    if name == "scan" and eqn.params["length"] == 0:
        return False
    if name == "while" and eqn.params["cond_jaxpr"].out_avals[0].shape:
        return False  # of `vmap`: every row has an end of its own
    if name in ("scan", "while"):
        return any(_SLOW in primitives(body) for body in bodies(eqn))
    is_plain = name == "cond" or (name in _CALLS and not _is_placed(eqn))
    return is_plain and any(map(_has_slow_loops, bodies(eqn)))


def _is_placed(eqn: core.JaxprEqn) -> bool:
    """Whether a call says on which devices its arguments or results are."""
    places = [*eqn.params["in_shardings"], *eqn.params["out_shardings"]]
    return any(type(place).__name__ != "UnspecifiedValue" for place in places)


# Pieces -------------------------------------------------------------------------------------------


class _Piece(NamedTuple):
    run: Run
    inputs: list[Any]  # variables, or literals
    outputs: list[Any]  # variables


def _pieces(jaxpr: core.Jaxpr, consts: Sequence[Any]) -> Run:
    """A program as a sequence of programs, and loops between them."""
    inputs, outputs = [*jaxpr.constvars, *jaxpr.invars], list(jaxpr.outvars)
    if not _has_slow_loops(jaxpr):
        return _program(list(jaxpr.eqns), inputs, outputs, consts)
    pieces: list[_Piece] = []
    between: list[core.JaxprEqn] = []
    for number, eqn in enumerate(jaxpr.eqns):
        if _is_slow(eqn):
            pieces += _between(between, jaxpr, number)
            loop = _LOOPS.get(eqn.primitive.name, _call)(eqn)
            pieces.append(_Piece(loop, list(eqn.invars), list(eqn.outvars)))
            between = []
        else:
            between.append(eqn)
    pieces += _between(between, jaxpr, len(jaxpr.eqns))
    last = _last_readers(pieces, outputs)

    def run(arguments: Sequence[Any]) -> list[Any]:
        values = dict(zip(inputs, [*consts, *arguments], strict=True))
        for piece, done in zip(pieces, last, strict=True):
            found = piece.run(_read(values, piece.inputs))
            values.update(zip(piece.outputs, found, strict=True))
            for variable in done:
                del values[variable]
        return _read(values, outputs)

    return run


def _last_readers(pieces: Sequence[_Piece], outputs: Sequence[Any]) -> list[list[Any]]:
    """For every piece what nobody needs after it."""
    needed, last = set(_variables(outputs)), []
    for piece in reversed(pieces):
        there = dict.fromkeys([*_variables(piece.inputs), *piece.outputs])
        last.append([variable for variable in there if variable not in needed])
        needed.update(there)
    return last[::-1]


def _read(values: dict[Any, Any], atoms: Sequence[Any]) -> list[Any]:
    return [atom.val if isinstance(atom, core.Literal) else values[atom] for atom in atoms]


def _between(eqns: list[core.JaxprEqn], jaxpr: core.Jaxpr, end: int) -> list[_Piece]:
    """Equations in front of this one, as one program of what they need, to what is needed later."""
    if not eqns:
        return []
    made = {variable for eqn in eqns for variable in eqn.outvars}
    later = [*(atom for eqn in jaxpr.eqns[end:] for atom in eqn.invars), *jaxpr.outvars]
    read = _variables([atom for eqn in eqns for atom in eqn.invars])
    inputs = [variable for variable in read if variable not in made]
    outputs = [variable for variable in _variables(later) if variable in made]
    return [_Piece(_program(eqns, inputs, outputs, ()), inputs, outputs)]


def _variables(atoms: Sequence[Any]) -> list[Any]:
    """Each once, in this order; without literals, which cannot be looked up."""
    return list(dict.fromkeys(atom for atom in atoms if not isinstance(atom, core.Literal)))


def _program(
    eqns: Sequence[core.JaxprEqn], inputs: Sequence[Any], outputs: Sequence[Any], consts: Sequence
) -> Run:
    """Equations, compiled."""

    @jax.jit
    def program(arguments):
        values = dict(zip(inputs, [*consts, *arguments], strict=True))
        for eqn in eqns:
            parameters = eqn.primitive.get_bind_params(eqn.params)
            with eqn.ctx.manager:
                found = eqn.primitive.bind(*_read(values, eqn.invars), **parameters)
            values.update(
                zip(eqn.outvars, found if eqn.primitive.multiple_results else [found], strict=True)
            )
        return _read(values, outputs)

    return program


# Loops --------------------------------------------------------------------------------------------


def _call(eqn: core.JaxprEqn) -> Run:
    body = eqn.params["jaxpr"]
    return _pieces(body.jaxpr, body.consts)


def _cond(eqn: core.JaxprEqn) -> Run:
    branches = [_pieces(branch.jaxpr, branch.consts) for branch in eqn.params["branches"]]
    most = len(branches) - 1
    return lambda arguments: branches[min(max(int(arguments[0]), 0), most)](arguments[1:])


def _while(eqn: core.JaxprEqn) -> Run:
    going, body = eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"]
    number = len(eqn.outvars)
    num_going = len(going.jaxpr.invars) - number
    goes_on, step = (_pieces(part.jaxpr, part.consts) for part in (going, body))
    num_fixed = len(body.jaxpr.invars) - number
    counter = _counter(going.jaxpr, body.jaxpr, num_fixed) if num_going == 0 else None

    def run(arguments: Sequence[Any]) -> list[Any]:
        fixed = list(arguments[: len(arguments) - number])
        state = list(arguments[len(fixed) :])
        of_step = fixed[num_going:]
        if counter is not None:  # nobody waits for a step to begin the next one
            for _ in range(int(state[counter[0]]), int(state[counter[1]])):
                state = step([*of_step, *state])
            return state
        while bool(goes_on([*fixed[:num_going], *state])[0]):
            state = step([*of_step, *state])
        return state

    return run


def _counter(going: core.Jaxpr, body: core.Jaxpr, num_fixed: int) -> tuple[int, int] | None:
    """Which parts of the state are a counter and its end, as `fori_loop` makes them; or None.

    The condition is counter < end, and a step adds one to the counter and leaves the end alone.
    """
    if len(going.eqns) != 1 or going.eqns[0].primitive.name != "lt":
        return None
    if list(going.outvars) != list(going.eqns[0].outvars):
        return None
    places = {variable: number for number, variable in enumerate(going.invars)}
    atoms = [a for a in going.eqns[0].invars if not isinstance(a, core.Literal) and a in places]
    if len(atoms) != 2:
        return None
    at, end = (places[atom] for atom in atoms)
    state = body.invars[num_fixed:]
    is_next = any(
        eqn.primitive.name == "add"
        and eqn.outvars[0] is body.outvars[at]
        and eqn.invars[0] is state[at]
        and isinstance(eqn.invars[1], core.Literal)
        and eqn.invars[1].val == 1
        for eqn in body.eqns
    )
    return (at, end) if is_next and body.outvars[end] is state[end] else None


def _scan(eqn: core.JaxprEqn) -> Run:
    body = eqn.params["jaxpr"]
    num_consts, num_carry = scan_sizes(eqn, body.jaxpr)
    step = _pieces(body.jaxpr, body.consts)
    places = range(eqn.params["length"])
    places = [np.int32(at) for at in (reversed(places) if eqn.params["reverse"] else places)]

    def run(arguments: Sequence[Any]) -> list[Any]:
        fixed, state = arguments[:num_consts], arguments[num_consts : num_consts + num_carry]
        sliced = arguments[num_consts + num_carry :]
        buffers: list[Any] = []
        for at in places:
            found = step([*fixed, *state, *(_row(sliced, at) if sliced else ())])
            state, rows = found[:num_carry], found[num_carry:]
            if rows:
                buffers = _with_row(buffers or _repeated(rows, len(places)), rows, at)
        return [*state, *buffers]

    return run


_LOOPS = {"scan": _scan, "while": _while, "cond": _cond}


@jax.jit
def _row(arrays: Sequence[Any], at: jax.Array) -> list[Any]:
    return [jax.lax.dynamic_index_in_dim(z, at, keepdims=False) for z in arrays]


@functools.partial(jax.jit, static_argnums=1)
def _repeated(rows: Sequence[Any], number: int) -> list[Any]:
    return [jnp.broadcast_to(row, (number, *row.shape)) for row in rows]


@functools.partial(jax.jit, donate_argnums=0)
def _with_row(buffers: Sequence[Any], rows: Sequence[Any], at: jax.Array) -> list[Any]:
    return [
        jax.lax.dynamic_update_index_in_dim(buffer, row, at, 0)
        for buffer, row in zip(buffers, rows, strict=True)
    ]
