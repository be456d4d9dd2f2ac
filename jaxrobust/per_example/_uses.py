"""One use of a parameter leaf: the factors of its gradient, for one example.

At every site the gradient of the leaf is a sum of outer products over positions,

    g[gamma, i, o] = sum_t a[gamma, t, i] * d[gamma, t, o],

with *a* from the site's data input and *d* the cotangent of its output. The axis ``gamma`` runs
over blocks that do not mix (batch axes of a product, groups of a convolution, layers of a scan).
A :class:`Layout` says to which entries of the leaf ``g`` belongs.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import trees
from jaxrobust.per_example._arrange import arrange
from jaxrobust.per_example._convolution import Convolution
from jaxrobust.per_example._interpret import narrow_axis
from jaxrobust.per_example._projection import RowMatrices
from jaxrobust.per_example._sites import Site
from jaxrobust.per_example._views import Piece, Strided, shape_of

Axes = tuple[tuple[int, int], ...]  # (length, stride in the leaf) of each axis


class Layout(NamedTuple):
    """Entry (gamma, i, o) of a gradient is the leaf's flat entry ``offset + strides * index``."""

    blocks: Axes
    rows: Axes
    columns: Axes
    offset: int

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(n for n, _ in (*self.blocks, *self.rows, *self.columns))


class Sizes(NamedTuple):
    """Lengths of the axes of a use."""

    blocks: int
    positions: int
    rows: int
    columns: int


@dataclasses.dataclass(frozen=True)
class Use:
    """A piece of a leaf at a site, and how the factors follow from what was recorded there."""

    site: Site
    piece: Piece
    layout: Layout
    sizes: Sizes
    factors: Callable[[jax.Array, jax.Array], "Factors"]  # of one example's input and cotangent
    num_taps: int = 1  # of a convolution: rows are ``(taps, channels)``
    num_pixels: int = 0  # of a convolution: positions of its input

    def swapped(self) -> "Use":
        """The use with rows and columns exchanged; for products."""

        def factors(data: jax.Array, cotangent: jax.Array) -> Factors:
            found = self.factors(data, cotangent)
            return Factors(found.rows(), found.d.shape[2], found.d)

        blocks, rows, columns, offset = self.layout
        sizes = self.sizes._replace(rows=self.sizes.columns, columns=self.sizes.rows)
        layout = Layout(blocks, columns, rows, offset)
        return dataclasses.replace(self, layout=layout, sizes=sizes, factors=factors)


@dataclasses.dataclass(frozen=True)
class Factors:
    """The factors of one example at one use.

    Exactly one of ``a``, ``index`` and ``unfold`` is there. ``index`` stands for one-hot rows: row
    ``index[t]`` is 1, none if it is out of range.
    """

    d: jax.Array  # (blocks, positions, columns)
    num_rows: int
    a: jax.Array | None = None  # (blocks, positions, rows)
    index: jax.Array | None = None  # (positions,) int
    unfold: Callable[[], jax.Array] | None = None  # makes `a`: the windows of a convolution
    project_windows: Callable[[RowMatrices], jax.Array] | None = None  # with unfold: see `project`
    num_taps: int = 1  # with unfold: as of the use

    def rows(self) -> jax.Array:
        """``a``, made if it was not there."""
        if self.a is not None:
            return self.a
        if self.unfold is not None:
            return self.unfold()
        return jax.nn.one_hot(self.index, self.num_rows, dtype=self.d.dtype)[None]

    def project(self, matrices: RowMatrices) -> jax.Array:
        """``a @ matrices``, ``(blocks, positions, width)``."""
        # Matrices for the rows of another use of the leaf may be cut into other taps, or none.
        if self.project_windows is not None and matrices.shape.num_taps == self.num_taps:
            return self.project_windows(matrices)
        if self.index is not None:
            return matrices.dense().at[:, self.index].get(mode="fill", fill_value=0)
        return matrices.of_rows(self.rows(), trees.accumulator(self.d.dtype))


def to_leaf(gradient: jax.Array, layout: Layout, shape: tuple[int, ...]) -> jax.Array:
    """A gradient ``(blocks, rows, columns)`` at its entries of a leaf, zero at the others."""
    axes = [*layout.blocks, *layout.rows, *layout.columns]
    gradient = gradient.reshape([n for n, _ in axes])
    order = sorted(range(len(axes)), key=lambda i: (-axes[i][1], -axes[i][0]))
    rest = math.prod(shape)
    if layout.size == rest and layout.offset == 0:
        for i in order:
            length, stride = axes[i]
            rest //= length
            if length != 1 and stride != rest:
                break
        else:  # the whole leaf in another order of its axes
            return gradient.transpose(order).reshape(shape)
    index = jnp.full((1,) * len(axes), layout.offset, jnp.int32)
    for axis, (_, stride) in enumerate(axes):
        index = index + stride * jax.lax.broadcasted_iota(jnp.int32, gradient.shape, axis)
    flat = jnp.zeros((math.prod(shape),), gradient.dtype)
    return flat.at[index.reshape(-1)].add(gradient.reshape(-1)).reshape(shape)


def from_leaf(array: jax.Array, layout: Layout, sizes: Sizes) -> jax.Array:
    """An array of a leaf's shape at the entries of a gradient: the adjoint of `to_leaf`."""
    zeros = jnp.zeros((sizes.blocks, sizes.rows, sizes.columns), array.dtype)
    place = lambda gradient: to_leaf(gradient, layout, array.shape)
    # Not by linear_transpose, which is particular about where in a mesh the array is.
    (found,) = jax.vjp(place, trees.vary_like(zeros, array))[1](array)
    return found


def uses_of(site: Site) -> list[Use]:
    """The uses of leaves at a site, one for each piece."""
    make = {"dot": _dot, "conv": _convolution, "lookup": _lookup}[site.kind]
    return [make(site, piece) for piece in site.pieces]


def _loop_axes(site: Site, piece: Piece) -> tuple[list[int], list[int], Axes]:
    """Loops that are blocks (each iteration has weights of its own), loops that are positions."""
    blocks = [i for i, stride in enumerate(piece.loops) if stride is not None]
    positions = [i for i, stride in enumerate(piece.loops) if stride is None]
    axes = tuple(
        (site.loops[i], stride) for i, stride in enumerate(piece.loops) if stride is not None
    )
    return blocks, positions, axes


def _axes(view: Strided, which: Sequence[int]) -> Axes:
    return tuple((view.shape[i], view.strides[i]) for i in which)


def _dot(site: Site, piece: Piece) -> Use:
    (lhs_contract, rhs_contract), (lhs_batch, rhs_batch) = site.eqn.params["dimension_numbers"]
    contract, batch = (lhs_contract, lhs_batch), (rhs_contract, rhs_batch)
    ours, theirs = (contract, batch) if site.operand == 0 else (batch, contract)
    data_ndim = len(shape_of(site.eqn.invars[1 - site.operand]))
    parameter_ndim = len(piece.view.shape)
    free = [i for i in range(parameter_ndim) if i not in ours[0] and i not in ours[1]]
    data_free = [i for i in range(data_ndim) if i not in theirs[0] and i not in theirs[1]]
    # The output has the batch axes, those of the left, those of the right operand.
    num_batch, first = len(ours[1]), len(free) if site.operand == 0 else len(data_free)
    left = list(range(num_batch, num_batch + first))
    right = list(range(num_batch + first, num_batch + len(free) + len(data_free)))
    out_free, out_data = (left, right) if site.operand == 0 else (right, left)
    blocks, positions, loop_axes = _loop_axes(site, piece)
    loops = len(site.loops)

    def at(axes: Sequence[int]) -> list[int]:
        return [loops + axis for axis in axes]

    data_groups = [
        [*blocks, *at(theirs[1])],
        [*positions, *at(data_free)],
        at(theirs[0]),
    ]
    out_groups = [[*blocks, *at(range(num_batch))], [*positions, *at(out_data)], at(out_free)]
    box = [(piece.start[i], piece.view.shape[i]) for i in range(parameter_ndim)]
    data_boxes = {loops + theirs[k][j]: box[axis] for k in (0, 1) for j, axis in enumerate(ours[k])}
    out_boxes = {
        **{loops + j: box[axis] for j, axis in enumerate(ours[1])},
        **{loops + out_free[j]: box[axis] for j, axis in enumerate(free)},
    }
    layout = Layout(
        (*loop_axes, *_axes(piece.view, ours[1])),
        _axes(piece.view, ours[0]),
        _axes(piece.view, free),
        piece.view.offset,
    )

    def factors(data: jax.Array, cotangent: jax.Array) -> Factors:
        a = arrange(data, data_groups, data_boxes)
        return Factors(arrange(cotangent, out_groups, out_boxes, piece.scale), a.shape[2], a)

    data_shape = (*site.loops, *shape_of(site.eqn.invars[1 - site.operand]))
    num_positions = math.prod(data_shape[i] for i in data_groups[1])
    return Use(site, piece, layout, sizes_of(layout, num_positions), factors)


def sizes_of(layout: Layout, positions: int) -> Sizes:
    """Lengths of the axes of a layout joined."""
    blocks, rows, columns = (
        math.prod(n for n, _ in axes) for axes in (layout.blocks, layout.rows, layout.columns)
    )
    return Sizes(blocks, positions, rows, columns)


def _lookup(site: Site, piece: Piece) -> Use:
    eqn, loops = site.eqn, len(site.loops)
    out_ndim = len(shape_of(site.output))
    if eqn.primitive.name == "gather":
        (axis,) = eqn.params["dimension_numbers"].start_index_map
        offset = list(eqn.params["dimension_numbers"].offset_dims)
        # Without a promise to the contrary being kept, JAX's gradient drops what is out of range.
        fills = eqn.params["mode"] != jax.lax.GatherScatterMode.CLIP
    else:
        axis, fills = narrow_axis(eqn), False
        offset = [i for i in range(out_ndim) if i != axis]
    rest = [i for i in range(out_ndim) if i not in offset]
    columns = [i for i in range(len(piece.view.shape)) if i != axis]
    layout = Layout((), _axes(piece.view, [axis]), _axes(piece.view, columns), piece.view.offset)
    groups = [[], [*range(loops), *(loops + i for i in rest)], [loops + i for i in offset]]
    num_rows = piece.view.shape[axis]

    def factors(data: jax.Array, cotangent: jax.Array) -> Factors:
        d = arrange(cotangent, groups, {}, piece.scale)
        return Factors(d, num_rows, index=_rows_read(data.reshape(-1), num_rows, fills=fills))

    shape = (*site.loops, *shape_of(site.output))
    positions = math.prod(shape[i] for i in groups[1])
    return Use(site, piece, layout, sizes_of(layout, positions), factors)


def _rows_read(index: jax.Array, num_rows: int, *, fills: bool) -> jax.Array:
    """Which row each number stands for, int32; ``num_rows`` for none."""
    # Narrow integers may not hold num_rows, wide ones may not fit into int32 before they are cut.
    if index.dtype.itemsize < 4:
        index = index.astype(jnp.int32)
    if fills:
        # What is out of range was filled in, not read; or read, but its gradient is dropped.
        index = jnp.where((index >= 0) & (index < num_rows), index, num_rows)
    else:
        index = jnp.clip(index, 0, num_rows - 1)
    return index.astype(jnp.int32)


def _convolution(site: Site, piece: Piece) -> Use:
    blocks, positions, loop_axes = _loop_axes(site, piece)
    geometry = Convolution(site, piece, blocks, positions)
    layout = Layout(
        (*loop_axes, *geometry.group_axes),
        _axes(piece.view, geometry.row_axes),
        (geometry.column_axis,),
        piece.view.offset,
    )

    def factors(data: jax.Array, cotangent: jax.Array) -> Factors:
        return Factors(
            geometry.columns(cotangent),
            math.prod(n for n, _ in layout.rows),
            unfold=functools.partial(geometry.unfold, data),
            project_windows=functools.partial(geometry.project, data),
            num_taps=geometry.num_taps,
        )

    sizes = sizes_of(layout, geometry.num_positions)
    return Use(site, piece, layout, sizes, factors, geometry.num_taps, geometry.num_pixels)
