"""The factors of a convolution's kernel: windows of its input, and cotangents of its output."""

import itertools
import math
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp

from jaxrobust import trees
from jaxrobust.per_example._arrange import arrange
from jaxrobust.per_example._projection import RowMatrices
from jaxrobust.per_example._sites import Site
from jaxrobust.per_example._views import Piece, shape_of


class Convolution:
    """A convolution site, inside of loops: its axes, and what is computed of one example.

    Rows of the kernel's gradient are ``(*kernel, input channel)``, columns the output channels of a
    group, blocks the loops with weights of their own and the groups.
    """

    def __init__(self, site: Site, piece: Piece, blocks: Sequence[int], positions: Sequence[int]):
        """``blocks`` and ``positions`` are the loops of either kind."""
        self.parameters, self.loops = site.eqn.params, site.loops
        self.numbers = self.parameters["dimension_numbers"]
        self.num_groups = self.parameters["feature_group_count"]
        self.piece, self.blocks, self.positions = piece, blocks, positions
        out_channel, in_channel, *space = self.numbers.rhs_spec
        self.row_axes = [*space, in_channel]
        self.kernel = [piece.view.shape[axis] for axis in self.row_axes]  # with its channels
        stride = piece.view.strides[out_channel]
        per_group = piece.view.shape[out_channel] // self.num_groups
        self.column_axis = (per_group, stride)
        self.group_axes = ((self.num_groups, per_group * stride),) if self.num_groups > 1 else ()
        out_batch, _, *out_space = self.numbers.out_spec
        self.out_sizes = [shape_of(site.output)[axis] for axis in out_space]
        repeats = math.prod(self.loops[i] for i in positions) * shape_of(site.output)[out_batch]
        self.num_positions = repeats * math.prod(self.out_sizes)
        in_sizes = shape_of(site.eqn.invars[1 - site.operand])
        self.num_pixels = repeats * math.prod(in_sizes[a] for a in self.numbers.lhs_spec[2:])

    def columns(self, cotangent: jax.Array) -> jax.Array:
        """``d (blocks, positions, columns)``, scaled as the kernel is."""
        d = self._split(cotangent, self.numbers.out_spec)
        return d if self.piece.scale == 1.0 else d * jnp.asarray(self.piece.scale, d.dtype)

    def unfold(self, data: jax.Array) -> jax.Array:
        """``a (blocks, positions, rows)``: the window of the input at every position."""
        windows = self._pad(self._split(data, self.numbers.lhs_spec, joined=False))
        # The windows axis by axis, the last first: fewer and longer copies than tap by tap.
        for place in reversed(range(len(self.out_sizes))):
            taps = [self._shift(windows, place, tap) for tap in range(self.kernel[place])]
            windows = jnp.concatenate(taps, axis=-1) if len(taps) > 1 else taps[0]
        return windows.reshape(self._num_blocks, -1, windows.shape[-1])

    def project(self, data: jax.Array, matrices: RowMatrices) -> jax.Array:
        """``a @ matrices``, ``(blocks, positions, width)``, by the cheaper way.

        A column of the matrices looks at few taps. So the channels are projected once, pixel by
        pixel, before windows are made; unless strides skip most of the pixels.
        """
        dtype = trees.accumulator(data.dtype)
        shape = matrices.shape
        if shape.pixel_cost(self.num_pixels) > shape.window_cost(self.num_positions):
            return matrices.of_rows(self.unfold(data), dtype)
        pixels = self._split(data, self.numbers.lhs_spec, joined=False)
        lengths = pixels.shape[:-1]
        pixels = pixels.reshape(self._num_blocks, -1, pixels.shape[-1])
        pixels = matrices.of_channels(pixels, dtype)
        pixels = self._pad(pixels.reshape(*lengths, *pixels.shape[2:]), num_behind=2)
        windows = []
        for tap, columns in zip(self._taps(), matrices.pairs_by_tap, strict=True):
            window = pixels[..., columns]
            for place, number in enumerate(tap):
                window = self._shift(window, place, number, num_behind=2)
            windows.append(window)
        joined = jnp.concatenate(windows, axis=-1) if len(windows) > 1 else windows[0]
        return matrices.join_pairs(joined.reshape(self._num_blocks, -1, *joined.shape[-2:]))

    @property
    def num_taps(self) -> int:
        """Positions in the kernel."""
        return math.prod(self.kernel[:-1])

    @property
    def _num_blocks(self) -> int:
        return self.num_groups * math.prod(self.loops[i] for i in self.blocks)

    def _taps(self) -> Iterator[tuple[int, ...]]:
        return itertools.product(*map(range, self.kernel[:-1]))

    def _shift(self, array: jax.Array, place: int, tap: int, num_behind: int = 1) -> jax.Array:
        """The pixels that one tap of the kernel meets, along one axis of space."""
        step = self.parameters["window_strides"][place]
        begin = tap * self.parameters["rhs_dilation"][place]
        span = (self.out_sizes[place] - 1) * step + 1
        axis = array.ndim - num_behind - len(self.out_sizes) + place
        return jax.lax.slice_in_dim(array, begin, begin + span, step, axis)

    def _split(self, array: jax.Array, spec: Sequence[int], *, joined: bool = True) -> jax.Array:
        """``(blocks, positions, channels)``, the channels of one group.

        Not joined: every axis by itself, those of space last but one.
        """
        batch, feature, *space = (len(self.loops) + axis for axis in spec)
        shape = array.shape
        split = (self.num_groups, shape[feature] // self.num_groups)
        array = array.reshape(*shape[:feature], *split, *shape[feature + 1 :])
        moved = [axis + (axis > feature) for axis in (batch, *space)]
        groups = [[*self.blocks, feature], [*self.positions, *moved], [feature + 1]]
        return arrange(array, groups if joined else [[i] for group in groups for i in group], {})

    def _pad(self, array: jax.Array, num_behind: int = 1) -> jax.Array:
        """With the convolution's padding and dilation of the input, on the axes of space."""
        parameters = self.parameters
        space = [
            (low, high, dilation - 1)
            for (low, high), dilation in zip(
                parameters["padding"], parameters["lhs_dilation"], strict=True
            )
        ]
        before = [(0, 0, 0)] * (array.ndim - num_behind - len(space))
        config = [*before, *space, *[(0, 0, 0)] * num_behind]
        return jax.lax.pad(array, jnp.zeros((), array.dtype), config)
