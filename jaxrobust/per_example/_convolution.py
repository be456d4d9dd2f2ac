"""The factors of a convolution's kernel: windows of its input, and cotangents of its output."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxrobust.per_example._arrange import arrange
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
        self.num_positions = (
            math.prod(self.loops[i] for i in positions)
            * shape_of(site.output)[out_batch]
            * math.prod(self.out_sizes)
        )

    def columns(self, cotangent: jax.Array) -> jax.Array:
        """``d (blocks, positions, columns)``, scaled as the kernel is."""
        d = self._split(cotangent, self.numbers.out_spec)
        return d if self.piece.scale == 1.0 else d * jnp.asarray(self.piece.scale, d.dtype)

    def unfold(self, data: jax.Array) -> jax.Array:
        """``a (blocks, positions, rows)``: the window of the input at every position."""
        padded = self._padded(data)
        windows = self._split(padded, self.numbers.lhs_spec, joined=False)
        num_space = len(self.out_sizes)
        first = windows.ndim - num_space - 1  # of the axes of space; the channels are last
        # The windows axis by axis, the last first: fewer and longer copies than tap by tap.
        for place in reversed(range(num_space)):
            step = self.parameters["window_strides"][place]
            dilation = self.parameters["rhs_dilation"][place]
            span = (self.out_sizes[place] - 1) * step + 1
            begins = [tap * dilation for tap in range(self.kernel[place])]
            taps = [
                jax.lax.slice_in_dim(windows, begin, begin + span, step, axis=first + place)
                for begin in begins
            ]
            windows = jnp.concatenate(taps, axis=-1) if len(taps) > 1 else taps[0]
        num_blocks = self.num_groups * math.prod(self.loops[i] for i in self.blocks)
        return windows.reshape(num_blocks, -1, windows.shape[-1])

    def convolve(self, data: jax.Array, matrices: jax.Array) -> jax.Array:
        """``a @ matrices``, one ``(rows, width)`` per block, by a convolution without windows."""
        lengths = [self.loops[i] for i in self.blocks]
        kernels = matrices.reshape(*lengths, self.num_groups, *self.kernel, matrices.shape[-1])
        # The loops are mapped over: those with weights of their own with their matrices.
        mapped = self._convolve_once
        for stride in reversed(self.piece.loops):
            mapped = jax.vmap(mapped, in_axes=(0, None if stride is None else 0))
        return self._split(mapped(data, kernels), self.numbers.out_spec)

    def _convolve_once(self, data: jax.Array, kernels: jax.Array) -> jax.Array:
        """With kernels ``(groups, *kernel, width)``: outputs of all groups, group by group."""
        joined = jnp.moveaxis(kernels, 0, -2).reshape(*kernels.shape[1:-1], -1)
        axes = [*self.row_axes, self.numbers.rhs_spec[0]]  # where each axis of `joined` belongs
        weights = joined.transpose([axes.index(axis) for axis in range(joined.ndim)])
        return jax.lax.conv_general_dilated(
            data,
            weights.astype(data.dtype),
            self.parameters["window_strides"],
            self.parameters["padding"],
            self.parameters["lhs_dilation"],
            self.parameters["rhs_dilation"],
            self.numbers,
            self.num_groups,
            precision=jax.lax.Precision.HIGHEST,
        )

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

    def _padded(self, data: jax.Array) -> jax.Array:
        config = [(0, 0, 0)] * data.ndim
        axes = [len(self.loops) + axis for axis in self.numbers.lhs_spec[2:]]
        paddings, dilations = self.parameters["padding"], self.parameters["lhs_dilation"]
        for axis, (low, high), dilation in zip(axes, paddings, dilations, strict=True):
            config[axis] = (low, high, dilation - 1)
        return jax.lax.pad(data, jnp.zeros((), data.dtype), config)
