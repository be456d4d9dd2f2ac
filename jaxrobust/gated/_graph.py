"""Graphs of linear maps: which nodes there are, what leads where, and the paths through them."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxrobust import trees

MAX_PATHS = 10_000


class Path(NamedTuple):
    """A way from an input to an output."""

    edges: tuple[str, ...]  # in the order of the way
    source: str  # node where it begins
    target: str  # node where it ends


@dataclasses.dataclass(frozen=True)
class Graph:
    r"""A directed graph without cycles: a vector at every node, a matrix on every edge.

    ::

        Graph({"x": 4, "h": 8, "y": 3}, {"in": ("x", "h"), "out": ("h", "y")})

    It is static: hashable, compared by what it holds, and may be a static argument of ``jit``.
    Nodes without incoming edges are inputs.

    Args:
      nodes: sizes of the vectors, by name.
      edges: ``(from, to)`` of each edge, by name; two nodes may have several.
      outputs: nodes that have targets; by default those that no edge leaves.

    Raises:
      ValueError: for an unknown node, a cycle (which is told), a node without an edge, an output
        that is an input, or sizes below 1.
    """

    nodes: Any  # a mapping is given; ((name, size), ..) is kept
    edges: Any  # a mapping is given; ((name, (from, to)), ..) is kept
    outputs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = dataclasses.field(init=False, compare=False)
    order: tuple[str, ...] = dataclasses.field(init=False, compare=False, repr=False)

    def __post_init__(self):
        """Checks everything, and finds inputs and an order."""
        sizes = {str(name): trees.check_count(f"nodes[{name!r}]", size)
                 for name, size in _items("nodes", self.nodes)}  # fmt: skip
        ends = {str(name): _checked_ends(name, pair, sizes)
                for name, pair in _items("edges", self.edges)}  # fmt: skip
        entered, left = ({pair[side] for pair in ends.values()} for side in (1, 0))
        alone = [name for name in sizes if name not in entered | left]
        if alone:
            raise ValueError(f"nodes must have an edge each, but {alone} have none")
        outputs = tuple(self.outputs) or tuple(name for name in sizes if name not in left)
        for name in outputs:
            if name not in sizes:
                raise ValueError(f"outputs must name nodes, but {name!r} is none of {list(sizes)}")
            if name not in entered:
                raise ValueError(f"outputs must not be inputs, but no edge leads to {name!r}")
        keep = lambda name, value: object.__setattr__(self, name, value)
        keep("nodes", tuple(sizes.items()))
        keep("edges", tuple(ends.items()))
        keep("outputs", outputs)
        keep("inputs", tuple(name for name in sizes if name not in entered))
        keep("order", _order(sizes, ends))

    @property
    def sizes(self) -> dict[str, int]:
        """Of the vectors, by node."""
        return dict(self.nodes)

    @property
    def ends(self) -> dict[str, tuple[str, str]]:
        """``(from, to)`` by edge."""
        return dict(self.edges)

    @property
    def hidden(self) -> tuple[str, ...]:
        """Nodes between inputs and outputs, in order; an output that an edge leaves is one too."""
        left = {source for _, (source, _) in self.edges}
        return tuple(n for n in self.order if n not in self.inputs and n in left)

    def incoming(self, node: str) -> tuple[tuple[str, str], ...]:
        """``(edge, node it comes from)``, in the order of the edges."""
        return tuple((name, source) for name, (source, target) in self.edges if target == node)

    def outgoing(self, node: str) -> tuple[tuple[str, str], ...]:
        """``(edge, node it leads to)``."""
        return tuple((name, target) for name, (source, target) in self.edges if source == node)

    def shape(self, edge: str) -> tuple[int, int]:
        """Of the matrix of an edge: rows for where it leads, columns for where it comes from."""
        source, target = self.ends[edge]
        return self.sizes[target], self.sizes[source]


def chain(sizes: Sequence[int]) -> Graph:
    """A deep linear network: nodes ``x, h1, .., y``, edges ``w1, w2, ..``.

    Args:
      sizes: of the nodes, two or more.
    """
    return pathways(sizes, 1)


def pathways(sizes: Sequence[int], number: int) -> Graph:
    """Several deep linear networks side by side, from one input ``x`` to one output ``y``.

    Args:
      sizes: of the nodes on each way, input and output included.
      number: of ways. With one, names are as those of :func:`chain`; with several, those of the
        k-th way end in ``_k``, as in ``h1_0`` and ``w2_0``.
    """
    if len(sizes) < 2:
        raise ValueError(f"sizes must be of two nodes at least, got {tuple(sizes)}")
    trees.check_count("number", number)
    nodes, edges = {"x": sizes[0]}, {}
    for way in range(number):
        end = f"_{way}" if number > 1 else ""
        names = ["x", *(f"h{layer}{end}" for layer in range(1, len(sizes) - 1)), "y"]
        nodes |= dict(zip(names, sizes, strict=True))
        edges |= {f"w{layer}{end}": pair for layer, pair in enumerate(itertools.pairwise(names), 1)}
    return Graph(nodes, edges)


def routing(num_domains: int, size_in: int, size_hidden: int, size_out: int) -> Graph:
    """Inputs ``x0, x1, ..`` and outputs ``y0, y1, ..`` that share one hidden edge, ``shared``.

    ``x_i -in_i-> h1 -shared-> h2 -out_o-> y_o``.
    """
    trees.check_count("num_domains", num_domains)
    domains = range(num_domains)
    nodes = {f"x{i}": size_in for i in domains} | {"h1": size_hidden, "h2": size_hidden}
    nodes |= {f"y{o}": size_out for o in domains}
    edges = {f"in{i}": (f"x{i}", "h1") for i in domains} | {"shared": ("h1", "h2")}
    return Graph(nodes, edges | {f"out{o}": ("h2", f"y{o}") for o in domains})


def find_paths(graph: Graph, max_paths: int = MAX_PATHS) -> tuple[Path, ...]:
    """All ways from inputs to outputs, output by output.

    Raises:
      ValueError: if there are more than ``max_paths``, before they are listed.
    """
    check_paths(graph, max_paths)
    ways: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {}
    for node in graph.order:
        if node in graph.inputs:
            ways[node] = ((node, ()),)
        else:
            ways[node] = tuple(
                (begin, (*edges, edge))
                for edge, source in graph.incoming(node)
                for begin, edges in ways[source]
            )
    return tuple(
        Path(edges, begin, output) for output in graph.outputs for begin, edges in ways[output]
    )


def check_paths(graph: Graph, max_paths: int) -> None:
    """Raises if there are too many, which are counted without listing them."""
    trees.check_count("max_paths", max_paths)
    number = sum(ways_to(graph)[output] for output in graph.outputs)
    if number > max_paths:
        raise ValueError(f"graph has {number:,} paths, more than max_paths={max_paths:,}")


def ways_to(graph: Graph) -> dict[str, int]:
    """In how many ways every node is reached from inputs."""
    found: dict[str, int] = {}
    for node in graph.order:
        ways = sum(found[source] for _, source in graph.incoming(node))
        found[node] = 1 if node in graph.inputs else ways
    return found


def _items(name: str, given: Any) -> list[tuple[str, Any]]:
    found = list(given.items()) if isinstance(given, Mapping) else list(given)
    if not found:
        raise ValueError(f"{name} must not be empty")
    return found


def _checked_ends(edge: str, pair: Any, sizes: Mapping[str, int]) -> tuple[str, str]:
    if isinstance(pair, str) or len(pair) != 2:
        raise ValueError(f"edges[{edge!r}] must be (from, to), got {pair!r}")
    for node in pair:
        if node not in sizes:
            raise ValueError(f"edges[{edge!r}] names the unknown node {node!r}; known: {[*sizes]}")
    return str(pair[0]), str(pair[1])


def _order(sizes: Mapping[str, int], ends: Mapping[str, tuple[str, str]]) -> tuple[str, ...]:
    """Every node after all that lead to it."""
    waits = {name: [s for s, t in ends.values() if t == name] for name in sizes}
    done: list[str] = []
    while len(done) < len(sizes):
        ready = [n for n in sizes if n not in done and all(s in done for s in waits[n])]
        if not ready:
            raise ValueError(f"edges must not make a cycle, as {' -> '.join(_cycle(done, waits))}")
        done += ready
    return tuple(done)


def _cycle(done: Sequence[str], waits: Mapping[str, Sequence[str]]) -> list[str]:
    """Back from any node that waits, along those that wait too, until one comes again."""
    node = next(name for name in waits if name not in done)
    seen: list[str] = []
    while node not in seen:
        seen.append(node)
        node = next(source for source in waits[node] if source not in done)
    return [*reversed(seen[seen.index(node) :]), seen[-1]]
