"""What is done for every leaf, as a table."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxrobust.per_example._trace import LossFn, Traced, trace

_MEANING = {
    "unused": "the loss does not depend on it: gradient zero",
    "factors": "squared norm from pairs of positions, no gradient formed",
    "factors, instantiate": "some of its slices in the one way, some in the other",
    "instantiate": "each example's gradient formed from its factors, then dropped",
    "expand": "a copy of the leaf for each example, in the same pass",
    "chunks": "a pass of its own over a few examples at a time",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One leaf of the params."""

    leaf: str  # its path, as in jax.tree_util.keystr; "params" if they are one array
    shape: tuple[int, ...]
    # "factors", "instantiate", "expand", "chunks" or "unused"; "factors, instantiate" for a leaf of
    # which some slices are done in the one way, some in the other
    method: str
    sites: tuple[str, ...]  # the operations that use it, with the lengths of the loops around
    cost: int  # multiply-adds per example beyond those of the forward and backward pass
    reason: str  # why no rule applies; empty if one does


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What is done for every leaf; prints as a table."""

    rows: tuple[Row, ...]

    def __str__(self) -> str:
        header = ["leaf", "shape", "method", "used by", "cost", "note"]
        cells = [
            [
                row.leaf,
                str(row.shape),
                row.method,
                ", ".join(row.sites) or "-",
                f"{row.cost:,}",
                row.reason or _MEANING[row.method],
            ]
            for row in self.rows
        ]
        widths = [max(len(row[i]) for row in [header, *cells]) for i in range(len(header))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in [header, ["-" * width for width in widths], *cells]
        ]
        return "\n".join(lines)


def explain(loss_fn: LossFn, *, has_aux: bool = False) -> Callable[[Any, Any], Explanation]:
    """Which rule finds the gradient norms of which leaf, and what it costs.

    Args:
      loss_fn: ``loss_fn(params, example) -> ()``, the loss of one example.
      has_aux: whether ``loss_fn`` returns ``(loss, aux)``.

    Returns:
      A function of ``(params, batch)`` that returns an :class:`Explanation`, whose ``rows`` hold
      one :class:`Row` per leaf and which prints as a table. Nothing is computed: shapes are enough
      (``jax.ShapeDtypeStruct``).

    Raises:
      ValueError, TypeError: at the call, as :func:`gradients`.
    """

    def explain_batch(params: Any, batch: Any) -> Explanation:
        return _explanation(trace(loss_fn, params, batch, has_aux=has_aux))

    return explain_batch


def _explanation(traced: Traced) -> Explanation:
    rows = []
    for path, leaf, plan in zip(traced.paths, traced.leaves, traced.plan.leaves, strict=True):
        sites = [_site(use.site) for group in plan.groups for use in group]
        both = any(plan.formed) and not all(plan.formed)
        method = "factors, instantiate" if both else plan.method
        rows.append(Row(path, leaf.shape, method, tuple(sites), plan.cost, plan.reason))
    return Explanation(tuple(rows))


def _site(site) -> str:
    loops = "".join(f" in a loop of {length}" for length in site.loops)
    return f"{site.eqn.primitive.name}{loops}"
