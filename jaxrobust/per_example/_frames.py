"""Which part of a leaf each of its uses is, so that one random map serves all parts.

A leaf may be used in slices whose lengths are those of the examples. A map that is made for the
whole leaf, of which every slice takes its part, is the same for all lengths.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxrobust.per_example._uses import Axes, Layout, Sizes, Use, sizes_of


class Part(NamedTuple):
    """A group of uses, and which blocks, rows and columns of the frame it has."""

    number: int  # of the group
    blocks: np.ndarray
    rows: np.ndarray
    columns: np.ndarray


class Frame(NamedTuple):
    """Blocks, rows and columns of a leaf, or of a part of it, that have a map of their own."""

    sizes: Sizes  # positions are those of the first use
    first: Use  # one of the uses in it
    parts: list[Part]  # no two of them have an entry in common


class _Span(NamedTuple):
    """Entries ``start + step * range(count)`` of ``size`` that lie ``unit`` apart in the leaf."""

    unit: int
    size: int
    start: int
    step: int
    count: int


def frames_of(groups: Sequence[Sequence[Use]], shape: tuple[int, ...]) -> list[Frame]:
    """The frames of a leaf's groups of uses: one for all slices along the same axes."""
    frames: dict[tuple, Frame] = {}
    for number, (first, *_) in enumerate(groups):
        spans = _spans(first.layout, shape)
        # The rows of a kernel are taps by channels; part of them would be other taps.
        if spans is None or (first.num_taps > 1 and any(s.count != s.size for s in spans[1])):
            spans = _as_they_are(first.layout)
        blocks, rows, columns = (tuple((s.size, s.unit) for s in group) for group in spans)
        rest = first.layout.offset - sum(s.start * s.unit for group in spans for s in group)
        whole = Layout(blocks, rows, columns, rest)
        part = Part(number, *map(_numbers, spans))
        new = Frame(sizes_of(whole, first.sizes.positions), first, [])
        frames.setdefault((whole, first.num_taps), new).parts.append(part)
    return list(frames.values())


def _spans(layout: Layout, shape: tuple[int, ...]) -> list[list[_Span]] | None:
    """Blocks, rows and columns as parts of the leaf's axes; None if they are not."""
    groups: tuple[Axes, ...] = (layout.blocks, layout.rows, layout.columns)
    found: list[list[_Span | None]] = [[None] * len(axes) for axes in groups]
    places = [(g, i) for g, axes in enumerate(groups) for i in range(len(axes))]
    taken: list[_Span] = []
    # Axes of length 1 come last, for such an axis need not be one of the leaf's.
    for g, i in sorted(places, key=lambda place: groups[place[0]][place[1]][0] == 1):
        span = _span(*groups[g][i], layout.offset, shape)
        if span is None or any(_overlap(span, other) for other in taken):
            if groups[g][i][0] == 1:
                continue
            return None
        taken.append(span)
        found[g][i] = span
    return [[span for span in group if span is not None] for group in found]


def _span(length: int, stride: int, offset: int, shape: tuple[int, ...]) -> _Span | None:
    """An axis of a layout as part of one axis of the leaf, or of several that follow each other."""
    unit = 1
    for axis in reversed(range(len(shape))):
        size = shape[axis]
        if unit <= abs(stride) < unit * size:
            if stride % unit:
                return None
            while length > size and axis > 0 and abs(stride) == unit:
                axis -= 1
                size *= shape[axis]
            start, step = offset // unit % size, stride // unit
            inside = 0 <= start + step * (length - 1) < size
            return _Span(unit, size, start, step, length) if inside or length == 0 else None
        unit *= size
    return None


def _overlap(first: _Span, second: _Span) -> bool:
    return first.unit < second.unit * second.size and second.unit < first.unit * first.size


def _as_they_are(layout: Layout) -> list[list[_Span]]:
    """The axes of a layout by themselves."""
    groups: tuple[Axes, ...] = (layout.blocks, layout.rows, layout.columns)
    return [[_Span(stride, n, 0, 1, n) for n, stride in axes] for axes in groups]


def _numbers(spans: Sequence[_Span]) -> np.ndarray:
    """The numbers of the entries of the spans together, among all that they are part of."""
    numbers = np.zeros(1, np.int32)
    for span in spans:
        chosen = span.start + span.step * np.arange(span.count, dtype=np.int32)
        numbers = (numbers[:, None] * span.size + chosen[None, :]).reshape(-1)
    return numbers
