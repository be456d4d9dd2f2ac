"""Where parameters meet the data in a traced program.

The walk goes through a jaxpr, into the bodies of ``jit``, ``checkpoint`` and ``scan``, and finds
every equation with a parameter on one side and the example on the other. Where the equation is a
product, a convolution or a table look-up it becomes a *site*: the gradient of the parameter follows
from the equation's data input and the cotangent of its output. Leaves that meet the data in any
other way are *opaque*.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.extend import core

from jaxrobust import trees
from jaxrobust.per_example import _views
from jaxrobust.per_example._views import Pieces, is_differentiable, shape_of

Path = tuple[int, ...]  # number of the equation, of the equation in its body, and so on

# Equations whose body is run once, with the equation's inputs.
CALLS = frozenset(
    {"jit", "pjit", "closed_call", "core_call", "eval_jaxpr", "remat", "remat2", "checkpoint"}
)
# Through these a gradient does not pass.
_CONSTANT = frozenset({"stop_gradient"})


@dataclasses.dataclass(frozen=True)
class Site:
    """An equation in which a structured parameter meets data."""

    path: Path
    kind: str  # "dot", "conv" or "lookup"
    eqn: core.JaxprEqn
    operand: int  # which input is the parameter
    pieces: Pieces
    loops: tuple[int, ...]  # lengths of the scans around it, outermost first

    @property
    def output(self) -> Any:
        """The variable that comes out, of one iteration."""
        return self.eqn.outvars[0]


@dataclasses.dataclass(frozen=True)
class Walk:
    """What the walk has found."""

    sites: tuple[Site, ...]
    opaque: dict[int, str]  # leaf -> the first equation that sees it whole
    used: frozenset[int]


@dataclasses.dataclass(frozen=True)
class _Parameter:
    """A variable made of parameters alone."""

    leaves: frozenset[int]
    pieces: Pieces | None  # None: made in a way that is not followed


_DATA = "data"  # a variable that depends on the example
_CONST = "const"  # one that depends on neither
_Kind = _Parameter | str


def walk(closed: core.ClosedJaxpr, num_leaves: int) -> Walk:
    """Finds the sites of a loss whose first ``num_leaves`` inputs are parameters, the rest data.

    The loss is the first output; what only the others need is left out.
    """
    if _has_references(closed.jaxpr):
        # What is written to a Ref comes out where it is read: no equation leads from one to the
        # other, and nothing can be said of single parameters.
        everything = dict.fromkeys(range(num_leaves), "a program that writes to a jax.Ref")
        return Walk((), everything, frozenset(everything))
    walker = _Walker()
    inputs: list[_Kind] = []
    for number, variable in enumerate(closed.jaxpr.invars):
        leaf = number < num_leaves
        inputs.append(_of_leaf(number, shape_of(variable)) if leaf else _DATA)
    wanted = [number == 0 for number in range(len(closed.jaxpr.outvars))]
    loss, *_ = walker.run(closed.jaxpr, inputs, wanted, (), ())
    walker.see_whole(loss, "output")
    return Walk(tuple(walker.sites), walker.opaque, frozenset(walker.used))


def _of_leaf(number: int, shape: tuple[int, ...]) -> _Parameter:
    return _Parameter(frozenset({number}), _views.whole_leaf(number, shape))


class _Walker:
    def __init__(self):
        self.sites: list[Site] = []
        self.opaque: dict[int, str] = {}
        self.used: set[int] = set()

    def see_whole(self, kind: _Kind, name: str) -> None:
        """Notes that a variable enters something that has no rule."""
        if isinstance(kind, _Parameter):
            self.used |= kind.leaves
            for leaf in kind.leaves:
                self.opaque.setdefault(leaf, name)

    def run(
        self,
        jaxpr: core.Jaxpr,
        inputs: Sequence[_Kind],
        wanted: Sequence[bool],
        path: Path,
        loops: tuple[int, ...],
    ) -> list[_Kind]:
        """Walks a jaxpr whose inputs are of these kinds; the kinds of its wanted outputs."""
        known: dict[Any, _Kind] = dict.fromkeys(jaxpr.constvars, _CONST)
        known.update(zip(jaxpr.invars, inputs, strict=True))

        def kind(atom) -> _Kind:
            return _CONST if isinstance(atom, core.Literal) else known[atom]

        for number, (eqn, needed) in enumerate(
            zip(jaxpr.eqns, _needed(jaxpr, wanted), strict=True)
        ):
            if any(needed):
                kinds = [kind(atom) for atom in eqn.invars]
                outputs = self.equation(eqn, kinds, needed, (*path, number), loops)
            else:  # as good as a constant: nothing wanted is made of it
                outputs = [_CONST] * len(eqn.outvars)
            for variable, output in zip(eqn.outvars, outputs, strict=True):
                without = _CONST if isinstance(output, _Parameter) else output
                known[variable] = output if is_differentiable(variable) else without
        return [kind(atom) for atom in jaxpr.outvars]

    def equation(
        self,
        eqn: core.JaxprEqn,
        kinds: list[_Kind],
        needed: Sequence[bool],
        path: Path,
        loops: tuple[int, ...],
    ) -> list[_Kind]:
        """Walks one equation; the kinds of its outputs, of which these are needed."""
        name, number = eqn.primitive.name, len(eqn.outvars)
        parameters = [kind for kind in kinds if isinstance(kind, _Parameter)]
        if name in _CONSTANT or not parameters:
            return [_DATA if _DATA in kinds else _CONST] * number
        if name in CALLS:
            return self.run(open_jaxpr(body_of(eqn)), kinds, needed, path, loops)
        if _DATA not in kinds:
            return _derive(eqn, kinds)
        if name == "scan":
            return self.scan(eqn, kinds, path, loops)
        if not any(map(is_differentiable, eqn.outvars)):
            return [_DATA] * number  # a comparison, an index: nothing to differentiate
        site = self.site(eqn, kinds, path, loops)
        if site is None:
            for kind in kinds:
                self.see_whole(kind, name)
        else:
            self.sites.append(site)
            self.used |= {piece.leaf for piece in site.pieces}
        return [_DATA] * number

    def scan(
        self, eqn: core.JaxprEqn, kinds: list[_Kind], path: Path, loops: tuple[int, ...]
    ) -> list[_Kind]:
        """Walks the body once; what the loop changes depends on the data."""
        length, body = eqn.params["length"], open_jaxpr(body_of(eqn))
        num_consts, num_carry = trees.scan_sizes(eqn, body)
        inside: list[_Kind] = []
        for number, kind in enumerate(kinds):
            if num_consts <= number < num_consts + num_carry:
                self.see_whole(kind, "scan carry")
                inside.append(_DATA)
            elif isinstance(kind, _Parameter):
                sliced = number >= num_consts
                pieces = kind.pieces and _views.enter_loop(kind.pieces, length, sliced=sliced)
                inside.append(_Parameter(kind.leaves, pieces))
            else:
                inside.append(kind)
        everything = [True] * len(body.outvars)
        for output in self.run(body, inside, everything, path, (*loops, length)):
            self.see_whole(output, "scan output")
        return [_DATA] * len(eqn.outvars)

    def site(
        self, eqn: core.JaxprEqn, kinds: list[_Kind], path: Path, loops: tuple[int, ...]
    ) -> Site | None:
        """The equation as a site, if it is one."""
        operands = [i for i, kind in enumerate(kinds) if isinstance(kind, _Parameter)]
        parameter = kinds[operands[0]]
        if len(operands) != 1 or not isinstance(parameter, _Parameter) or not parameter.pieces:
            return None
        rule = _RULES.get(eqn.primitive.name)
        if rule is None or not rule(eqn, operands[0], parameter.pieces):
            return None
        output: Any = eqn.outvars[0]
        if jnp.issubdtype(output.aval.dtype, jnp.complexfloating):
            return None  # a real parameter times complex data: the real part is its gradient
        kind = {"dot_general": "dot", "conv_general_dilated": "conv"}.get(
            eqn.primitive.name, "lookup"
        )
        return Site(path, kind, eqn, operands[0], parameter.pieces, loops)


def _needed(jaxpr: core.Jaxpr, wanted: Sequence[bool]) -> list[list[bool]]:
    """Of every equation, which outputs the wanted outputs of the jaxpr are made of.

    An output without entries, as of a window larger than the image, is nothing to be made of.
    """
    alive = {
        atom
        for atom, is_wanted in zip(jaxpr.outvars, wanted, strict=True)
        if is_wanted and not isinstance(atom, core.Literal)
    }
    result = []
    for eqn in reversed(jaxpr.eqns):
        needed = [var in alive and 0 not in shape_of(var) for var in eqn.outvars]
        if any(needed):
            alive.update(atom for atom in eqn.invars if not isinstance(atom, core.Literal))
        result.append(needed)
    return result[::-1]


def _derive(eqn: core.JaxprEqn, kinds: list[_Kind]) -> list[_Kind]:
    """The outputs of an equation of parameters and constants alone."""
    parameters = [kind for kind in kinds if isinstance(kind, _Parameter)]
    leaves = frozenset().union(*(parameter.leaves for parameter in parameters))
    followed = None
    if all(parameter.pieces for parameter in parameters):
        operands = [kind.pieces if isinstance(kind, _Parameter) else None for kind in kinds]
        followed = _views.follow(eqn, operands)
    if followed is None:
        return [_Parameter(leaves, None)] * len(eqn.outvars)
    return [
        _Parameter(frozenset(p.leaf for p in pieces), pieces) if pieces else _CONST
        for pieces in followed
    ]


def _has_references(jaxpr: core.Jaxpr) -> bool:
    """Whether there are mutable arrays in the program, or in a body that the walk goes into."""
    variables = [*jaxpr.invars, *(variable for eqn in jaxpr.eqns for variable in eqn.outvars)]
    # Their type is in no public module of JAX.
    if any(type(variable.aval).__name__ == "AbstractRef" for variable in variables):
        return True
    return any(
        _has_references(open_jaxpr(body_of(eqn)))
        for eqn in jaxpr.eqns
        if eqn.primitive.name in CALLS or eqn.primitive.name == "scan"
    )


def body_of(eqn: core.JaxprEqn) -> core.Jaxpr | core.ClosedJaxpr:
    """The program that a call or a ``scan`` runs."""
    return eqn.params["jaxpr"] if "jaxpr" in eqn.params else eqn.params["call_jaxpr"]


def open_jaxpr(jaxpr: core.Jaxpr | core.ClosedJaxpr) -> core.Jaxpr:
    """The program without its constants."""
    return jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr


def _is_whole(pieces: Pieces, shape: tuple[int, ...]) -> bool:
    return len(pieces) == 1 and pieces[0].view.shape == shape


def _is_table(pieces: Pieces, shape: tuple[int, ...]) -> bool:
    """Whether it is one whole table, the same in every iteration of the loops around."""
    return _is_whole(pieces, shape) and all(stride is None for stride in pieces[0].loops)


def _dot(eqn: core.JaxprEqn, operand: int, pieces: Pieces) -> bool:
    del eqn, operand, pieces
    return True


def _convolution(eqn: core.JaxprEqn, operand: int, pieces: Pieces) -> bool:
    kernel = shape_of(eqn.invars[1])
    return operand == 1 and _is_whole(pieces, kernel) and eqn.params["batch_group_count"] == 1


def _gather(eqn: core.JaxprEqn, operand: int, pieces: Pieces) -> bool:
    """Whether whole rows (or slices across one axis) of a table are looked up."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    table = shape_of(eqn.invars[0])
    if operand != 0 or not _is_table(pieces, table) or numbers.operand_batching_dims:
        return False
    if len(numbers.start_index_map) != 1 or numbers.collapsed_slice_dims != numbers.start_index_map:
        return False
    (axis,) = numbers.start_index_map
    return all(size == (1 if i == axis else table[i]) for i, size in enumerate(sizes))


def _dynamic_slice(eqn: core.JaxprEqn, operand: int, pieces: Pieces) -> bool:
    """Whether one row (or slice across one axis) of a table is taken."""
    table, sizes = shape_of(eqn.invars[0]), eqn.params["slice_sizes"]
    narrow = [i for i, size in enumerate(sizes) if size != table[i]]
    return operand == 0 and _is_table(pieces, table) and len(narrow) == 1 and sizes[narrow[0]] == 1


_RULES = {
    "conv_general_dilated": _convolution,
    "dot_general": _dot,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
}
