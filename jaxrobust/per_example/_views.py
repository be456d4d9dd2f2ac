"""Which entries of which parameter leaf a variable of a traced program consists of.

A variable that is made of parameters alone, by nothing but reshapes, transpositions, slices,
concatenations, casts and multiplications by numbers, is a set of *pieces*: boxes in it, each of
which is a strided view of one leaf. The gradient of such a variable is that of its leaves, in
another order.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.extend import core

Shape = tuple[int, ...]


class Strided(NamedTuple):
    """Entry ``i`` of the box is entry ``offset + sum(i * strides)`` of the flattened leaf."""

    shape: Shape
    strides: Shape
    offset: int = 0


@dataclasses.dataclass(frozen=True)
class Piece:
    """A box in a variable that holds ``scale`` times a strided view of a leaf."""

    leaf: int  # number of the leaf
    view: Strided  # its shape is that of the box
    start: Shape  # where the box begins in the variable
    scale: float = 1.0
    # For every loop (`scan`) around the variable, outermost first: the stride between what two
    # iterations see, or None if all see the same.
    loops: tuple[int | None, ...] = ()


Pieces = tuple[Piece, ...]


def shape_of(atom: Any) -> Shape:
    """The shape of a variable or literal of a jaxpr."""
    return atom.aval.shape


def is_differentiable(atom: Any) -> bool:
    """Whether a variable or literal of a jaxpr is of a floating or complex dtype."""
    return jnp.issubdtype(atom.aval.dtype, jnp.inexact)


def whole_leaf(leaf: int, shape: Shape) -> Pieces:
    """The variable that is the leaf itself."""
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return (Piece(leaf, Strided(shape, strides), (0,) * len(shape)),)


def follow(eqn: core.JaxprEqn, operands: Sequence[Pieces | None]) -> list[Pieces] | None:
    """What the outputs of an equation without data inputs consist of, or None if not pieces.

    Args:
      eqn: an equation of a jaxpr.
      operands: the pieces of each input; None for an input that holds no parameter.
    """
    rule = _RULES.get(eqn.primitive.name)
    return None if rule is None else rule(eqn, operands)


def enter_loop(pieces: Pieces, length: int, *, sliced: bool) -> Pieces | None:
    """The pieces as the body of a loop sees them: whole, or one index of the first axis."""
    if not sliced:
        return tuple(dataclasses.replace(p, loops=(*p.loops, None)) for p in pieces)
    if any(p.start[0] != 0 or p.view.shape[0] != length for p in pieces):
        return None
    return tuple(
        dataclasses.replace(
            p,
            view=Strided(p.view.shape[1:], p.view.strides[1:], p.view.offset),
            start=p.start[1:],
            loops=(*p.loops, p.view.strides[0]),
        )
        for p in pieces
    )


def _each(change: Callable[[core.JaxprEqn, Piece], Piece | None]):
    """The rule of an equation with one input whose pieces change one by one."""

    def rule(eqn, operands):
        changed = [change(eqn, piece) for piece in operands[0]]
        return None if None in changed else [tuple(changed)]

    return rule


def _same(eqn, operands):
    del eqn
    return [pieces if pieces is not None else () for pieces in operands]


def _cast(eqn, operands):
    # A parameter as an integer has no gradient; the walk sees to that by the dtype.
    return _same(eqn, operands) if jnp.issubdtype(eqn.params["new_dtype"], jnp.floating) else None


def _transpose(eqn, piece: Piece) -> Piece:
    return _permuted(piece, eqn.params["permutation"])


def _permuted(piece: Piece, order: Sequence[int]) -> Piece:
    shape, strides, offset = piece.view
    view = Strided(tuple(shape[i] for i in order), tuple(strides[i] for i in order), offset)
    return dataclasses.replace(piece, view=view, start=tuple(piece.start[i] for i in order))


def _reshape(eqn, operands):
    (source, *_), new = eqn.invars, tuple(eqn.params["new_sizes"])
    (pieces, *_) = operands
    if len(pieces) != 1 or pieces[0].view.shape != shape_of(source):
        return None  # boxes need not be boxes afterwards
    order = eqn.params["dimensions"]  # of the axes before they are joined: as of `order="F"`
    piece = pieces[0] if order is None else _permuted(pieces[0], order)
    strides = reshaped_strides(piece.view, new)
    if strides is None:
        return None
    view = Strided(new, strides, piece.view.offset)
    return [(dataclasses.replace(piece, view=view, start=(0,) * len(new)),)]


def reshaped_strides(view: Strided, new: Shape) -> Shape | None:
    """Strides of the view in another shape, or None if no strides do it."""
    # Old and new axes are consumed in groups of equal size; the old ones of a group must lie
    # behind each other without gaps.
    old = [(n, s) for n, s in zip(view.shape, view.strides, strict=True) if n != 1]
    strides: list[int] = []
    position = 0
    while position < len(new) and old:
        if new[position] == 1:
            strides.append(0)
            position += 1
            continue
        taken, size = position + 1, new[position]
        group = [old.pop(0)]
        while size != math.prod(n for n, _ in group):
            if size < math.prod(n for n, _ in group):
                size *= new[taken]
                taken += 1
            else:
                group.append(old.pop(0))
        if any(a[1] != b[0] * b[1] for a, b in zip(group, group[1:], strict=False)):
            return None
        last = group[-1][1]
        strides += [last * math.prod(new[i + 1 : taken]) for i in range(position, taken)]
        position = taken
    return (*strides, *([0] * (len(new) - len(strides))))


def _squeeze(eqn, piece: Piece) -> Piece:
    kept = [i for i in range(len(piece.start)) if i not in eqn.params["dimensions"]]
    shape, strides, offset = piece.view
    view = Strided(tuple(shape[i] for i in kept), tuple(strides[i] for i in kept), offset)
    return dataclasses.replace(piece, view=view, start=tuple(piece.start[i] for i in kept))


def _expand(eqn, operands):
    """broadcast_in_dim, as far as it adds axes of length 1."""
    source, shape = shape_of(eqn.invars[0]), eqn.params["shape"]
    if math.prod(source) != math.prod(shape):
        return None
    places = eqn.params["broadcast_dimensions"]

    def expand(piece: Piece) -> Piece:
        sizes, strides, start = [1] * len(shape), [0] * len(shape), [0] * len(shape)
        for axis, place in enumerate(places):
            sizes[place], strides[place] = piece.view.shape[axis], piece.view.strides[axis]
            start[place] = piece.start[axis]
        view = Strided(tuple(sizes), tuple(strides), piece.view.offset)
        return dataclasses.replace(piece, view=view, start=tuple(start))

    return [tuple(map(expand, operands[0]))]


def _slice(eqn, operands):
    begin, end = eqn.params["start_indices"], eqn.params["limit_indices"]
    steps = eqn.params["strides"] or (1,) * len(begin)
    return [_cut(operands[0], begin, end, steps)]


def _cut(pieces: Pieces, begin: Sequence[int], end: Sequence[int], steps: Sequence[int]) -> Pieces:
    """The pieces of ``variable[begin:end:steps]``."""
    result = []
    for piece in pieces:
        offset, sizes, strides, start = piece.view.offset, [], [], []
        for axis, (low, high, step) in enumerate(zip(begin, end, steps, strict=True)):
            origin, size, stride = (
                piece.start[axis],
                piece.view.shape[axis],
                piece.view.strides[axis],
            )
            first = max(0, math.ceil((origin - low) / step))  # index in the slice
            last = math.ceil((min(high, origin + size) - low) / step)
            sizes.append(last - first)
            strides.append(stride * step)
            start.append(first)
            offset += (low + first * step - origin) * stride
        if all(n > 0 for n in sizes):
            view = Strided(tuple(sizes), tuple(strides), offset)
            result.append(dataclasses.replace(piece, view=view, start=tuple(start)))
    return tuple(result)


def _split(eqn, operands):
    axis, shape = eqn.params["axis"], shape_of(eqn.invars[0])
    ends = np.cumsum(eqn.params["sizes"])
    outputs = []
    for end, size in zip(ends, eqn.params["sizes"], strict=True):
        low, high = [0] * len(shape), list(shape)
        low[axis], high[axis] = int(end - size), int(end)
        outputs.append(_cut(operands[0], low, high, [1] * len(shape)))
    return outputs


def _reverse(eqn, piece: Piece) -> Piece:
    shape, strides, offset = list(piece.view.shape), list(piece.view.strides), piece.view.offset
    start = list(piece.start)
    for axis in eqn.params["dimensions"]:
        offset += (shape[axis] - 1) * strides[axis]
        strides[axis] = -strides[axis]
        start[axis] = shape_of(eqn.invars[0])[axis] - start[axis] - shape[axis]
    view = Strided(tuple(shape), tuple(strides), offset)
    return dataclasses.replace(piece, view=view, start=tuple(start))


def _concatenate(eqn, operands):
    axis, position, result = eqn.params["dimension"], 0, []
    for variable, pieces in zip(eqn.invars, operands, strict=True):
        for piece in pieces or ():
            start = list(piece.start)
            start[axis] += position
            result.append(dataclasses.replace(piece, start=tuple(start)))
        position += shape_of(variable)[axis]
    return [tuple(result)]


def _pad(eqn, operands):
    config = eqn.params["padding_config"]
    if operands[1] is not None or any(lo < 0 or hi < 0 or inner for lo, hi, inner in config):
        return None

    def shift(piece: Piece) -> Piece:
        start = tuple(at + lo for at, (lo, _, _) in zip(piece.start, config, strict=True))
        return dataclasses.replace(piece, start=start)

    return [tuple(map(shift, operands[0] or ()))]


def _multiply(eqn, operands):
    number = _literal(eqn.invars[operands.index(None)]) if None in operands else None
    pieces = next(p for p in operands if p is not None)
    return None if number is None else [_scaled(pieces, number)]


def _divide(eqn, operands):
    number = _literal(eqn.invars[1])
    if operands[1] is not None or number is None or number == 0:
        return None
    return [_scaled(operands[0], 1 / number)]


def _scaled(pieces: Pieces, number: float) -> Pieces:
    return tuple(dataclasses.replace(p, scale=p.scale * number) for p in pieces)


def _literal(atom: Any) -> float | None:
    """The value of a scalar that is written in the program."""
    if isinstance(atom, core.Literal) and np.ndim(atom.val) == 0:
        return float(atom.val)
    return None


_RULES = {
    "broadcast_in_dim": _expand,
    "concatenate": _concatenate,
    "convert_element_type": _cast,
    "copy": _same,
    "copy_p": _same,
    "div": _divide,
    "mul": _multiply,
    "neg": lambda eqn, operands: [_scaled(operands[0], -1.0)],
    "optimization_barrier": _same,
    "pad": _pad,
    "reshape": _reshape,
    "reshard": _same,
    "rev": _each(_reverse),
    "sharding_constraint": _same,
    "slice": _slice,
    "split": _split,
    "squeeze": _each(_squeeze),
    "transpose": _each(_transpose),
}
