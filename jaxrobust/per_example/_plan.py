"""How the gradient of every leaf is found: decided from the traced program, by counted cost."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from jaxrobust.per_example import _sites
from jaxrobust.per_example._sites import Path, Site
from jaxrobust.per_example._uses import Layout, Use, uses_of

# unused:      the loss does not depend on the leaf
# factors:     squared norms from pairs of positions
# instantiate: the example's gradient is made from the factors, and dropped again; of a leaf that is
#              used in slices, those of all slices, otherwise it is done by factors
# expand:      every example gets a copy of the leaf; its gradient is the example's
# chunks:      as expand, in a pass of its own over few examples at a time
Method = Literal["unused", "factors", "instantiate", "expand", "chunks"]

# Copies of leaves for every example take at most this many bytes for all leaves together; what is
# larger is done in chunks of examples that take as much.
EXPAND_BYTES = 2**26
# Up to this size the entries of two uses of a leaf are compared one by one.
_ENUMERABLE = 2**20


@dataclasses.dataclass(frozen=True)
class Leaf:
    """What is done for one leaf."""

    method: Method
    groups: tuple[tuple[Use, ...], ...] = ()  # uses with the same entries; groups are disjoint
    formed: tuple[bool, ...] = ()  # by group: whether squared norms are those of formed gradients
    reason: str = ""  # why it is not done by factors
    cost: int = 0  # multiply-adds per example, besides those of the pass itself

    @property
    def num_positions(self) -> int:
        """Positions of all uses together; with one, the gradient is an outer product."""
        return sum(use.sizes.positions for group in self.groups for use in group)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is done for every leaf, and the sites that are needed for it."""

    leaves: tuple[Leaf, ...]
    sites: dict[Path, Site]

    def leaves_by(self, *methods: Method) -> list[int]:
        """Numbers of the leaves that are done by one of these methods."""
        return [number for number, leaf in enumerate(self.leaves) if leaf.method in methods]


def plan(closed, shapes: Sequence[tuple[int, ...]], itemsizes: Sequence[int], batch_size: int):
    """Decides for a program whose first inputs are leaves of these shapes."""
    found = _sites.walk(closed, len(shapes))
    uses: dict[int, list[Use]] = {number: [] for number in range(len(shapes))}
    for site in found.sites:
        for use in uses_of(site):
            uses[use.piece.leaf].append(use)
    leaves = []
    for number, shape in enumerate(shapes):
        if number not in found.used:
            leaves.append(Leaf("unused"))
        elif number in found.opaque:
            leaves.append(_whole(shape, f"used by {found.opaque[number]}"))
        else:
            leaves.append(_by_factors(uses[number], shape))
    leaves = _in_chunks(leaves, shapes, itemsizes, batch_size)
    needed = {
        use.site.path: use.site
        for leaf in leaves
        if leaf.method in ("factors", "instantiate")
        for group in leaf.groups
        for use in group
    }
    return Plan(tuple(leaves), needed)


def _whole(shape: tuple[int, ...], reason: str) -> Leaf:
    return Leaf("expand", reason=reason, cost=math.prod(shape))


def _in_chunks(leaves, shapes, itemsizes, batch_size: int) -> list[Leaf]:
    """The largest of the leaves to expand go to a pass of their own if all together are too big."""
    sizes = {
        number: batch_size * math.prod(shapes[number]) * itemsizes[number]
        for number, leaf in enumerate(leaves)
        if leaf.method == "expand"
    }
    total, result = sum(sizes.values()), list(leaves)
    for number in sorted(sizes, key=lambda n: sizes[n], reverse=True):
        if total <= EXPAND_BYTES:
            break
        total -= sizes[number]
        result[number] = dataclasses.replace(result[number], method="chunks")
    return result


def _by_factors(uses: list[Use], shape: tuple[int, ...]) -> Leaf:
    groups: list[list[Use]] = []
    for use in uses:
        for number, group in enumerate(groups):
            aligned = _align(group, use)
            if aligned is not None:
                groups[number] = aligned
                break
            if not _disjoint(use.layout, group[0].layout):
                return _whole(shape, "used in different arrangements")
        else:
            groups.append([use])
    costs = [_costs(group) for group in groups]
    formed = tuple(by_instance < by_factors for by_factors, by_instance in costs)
    method: Method = "instantiate" if all(formed) else "factors"
    return Leaf(method, tuple(map(tuple, groups)), formed, cost=sum(map(min, costs)))


def _align(group: list[Use], use: Use) -> list[Use] | None:
    """The group with the use in it, all of one layout, if that can be."""
    layout = _normal(group[0].layout)
    if _normal(use.layout) == layout:
        return [*group, use]
    if use.site.kind == "dot" and _normal(use.swapped().layout) == layout:
        return [*group, use.swapped()]
    if all(other.site.kind == "dot" for other in group):
        swapped = [other.swapped() for other in group]
        if _normal(use.layout) == _normal(swapped[0].layout):
            return [*swapped, use]
    return None


def _costs(group: Sequence[Use]) -> tuple[int, int]:
    """Multiply-adds per example by factors and by instantiating."""
    blocks, _, rows, columns = group[0].sizes
    positions = sum(use.sizes.positions for use in group)
    looked_up = all(use.site.kind == "lookup" for use in group)
    row_cost = 1 if looked_up else rows
    if positions == 1:
        by_factors = blocks * (row_cost + columns)
    else:
        by_factors = blocks * positions**2 * (row_cost + columns + 1)
    by_instance = blocks * (positions * row_cost * columns + rows * columns)
    return by_factors, by_instance


def _normal(layout: Layout):
    """The layout without axes of length 1, and with axes joined that lie behind each other."""

    def joined(axes):
        result: list[tuple[int, int]] = []
        for length, stride in axes:
            if length == 1:
                continue
            if result and result[-1][1] == length * stride:
                result[-1] = (result[-1][0] * length, stride)
            else:
                result.append((length, stride))
        return tuple(result)

    return joined(layout.blocks), joined(layout.rows), joined(layout.columns), layout.offset


def _disjoint(first: Layout, second: Layout) -> bool:
    """Whether two layouts have no entry in common; False where that is not found out."""
    if _end(first) <= _begin(second) or _end(second) <= _begin(first):
        return True
    if _in_different_columns(first, second):
        return True
    if max(first.size, second.size) > _ENUMERABLE:
        return False
    return np.intersect1d(_entries(first), _entries(second)).size == 0


def _axes(layout: Layout) -> list[tuple[int, int]]:
    return [*layout.blocks, *layout.rows, *layout.columns]


def _entries(layout: Layout) -> np.ndarray:
    """The flat numbers of all entries."""
    entries = np.full((1,), layout.offset)
    for length, stride in _axes(layout):
        entries = (entries[:, None] + stride * np.arange(length)[None, :]).reshape(-1)
    return entries


def _begin(layout: Layout) -> int:
    return layout.offset + sum((n - 1) * min(s, 0) for n, s in _axes(layout))


def _end(layout: Layout) -> int:
    return layout.offset + sum((n - 1) * max(s, 0) for n, s in _axes(layout)) + 1


def _in_different_columns(first: Layout, second: Layout) -> bool:
    """Whether both lie in different intervals along one axis of the leaf, as slices do."""
    strides = {s for _, s in _axes(first)} & {s for _, s in _axes(second)}
    return any(
        a is not None and b is not None and (a[1] < b[0] or b[1] < a[0])
        for stride in strides
        if stride > 1
        for a, b in [(_interval(first, stride), _interval(second, stride))]
    )


def _interval(layout: Layout, stride: int) -> tuple[int, int] | None:
    """The least and largest entry modulo a stride, if the layout nowhere passes a multiple."""
    axes = _axes(layout)
    if any(s < 0 or (s > stride and s % stride) for _, s in axes):
        return None
    low = layout.offset % stride
    high = low + sum((n - 1) * s for n, s in axes if s < stride)
    return (low, high) if high < stride else None
