"""Graphs: paths, order, checks."""

import jax
import pytest

from jaxrobust import gated
from tests.gated.problems import skipping


def test_nodes_are_inputs_hidden_or_outputs():
    graph = skipping()
    assert graph.inputs == ("x", "z")
    assert graph.outputs == ("y", "w")
    assert set(graph.hidden) == {"a", "b", "c"}
    at = {name: place for place, name in enumerate(graph.order)}
    assert all(at[source] < at[target] for source, target in graph.ends.values())
    assert graph.shape("xa") == (4, 3)


def test_graphs_are_static():
    assert skipping() == skipping()
    assert len({skipping(), skipping(), gated.chain([2, 3, 1])}) == 2


def test_paths_are_all_ways():
    """Against a walk from every input."""
    graph = skipping()

    def walk(node, edges):
        if node in graph.outputs:
            yield edges
        for edge, target in graph.outgoing(node):
            yield from walk(target, (*edges, edge))

    expected = {edges for source in graph.inputs for edges in walk(source, ())}
    paths = gated.find_paths(graph)
    assert {path.edges for path in paths} == expected
    assert len(paths) == len(expected) == 15
    for path in paths:
        assert path.source == graph.ends[path.edges[0]][0]
        assert path.target == graph.ends[path.edges[-1]][1]
    assert [p.target for p in paths] == sorted((p.target for p in paths), reverse=True)


def test_builders():
    assert gated.chain([3, 4, 2]).ends == {"w1": ("x", "h1"), "w2": ("h1", "y")}
    assert gated.chain([3, 2]).ends == {"w1": ("x", "y")}
    assert len(gated.find_paths(gated.pathways([3, 4, 4, 2], 5))) == 5
    routing = gated.routing(3, 4, 8, 5)
    assert len(gated.find_paths(routing)) == 9
    assert routing.shape("shared") == (8, 8)


def test_an_output_may_lead_on():
    graph = gated.Graph(
        {"x": 2, "y": 2, "z": 1}, {"a": ("x", "y"), "b": ("y", "z")}, outputs=("y", "z")
    )
    assert [path.edges for path in gated.find_paths(graph)] == [("a",), ("a", "b")]


def test_too_many_paths_are_not_listed():
    names = [f"n{k}" for k in range(41)]
    edges = {f"{side}{k}": (names[k], names[k + 1]) for k in range(40) for side in "ab"}
    graph = gated.Graph(dict.fromkeys(names, 1), edges)
    with pytest.raises(ValueError, match=r"graph has 1,099,511,627,776 paths, more than max_paths"):
        gated.find_paths(graph)
    params = gated.init_normal(jax.random.key(0), graph, 1.0)
    assert gated.apply(graph, params, {"n0": [[1.0]]}, gated.Gates())["n40"].shape == (1, 1)


@pytest.mark.parametrize(
    ("nodes", "edges", "outputs", "message"),
    [
        ({}, {"e": ("a", "b")}, (), "nodes must not be empty"),
        ({"a": 1, "b": 1}, {}, (), "edges must not be empty"),
        ({"a": 0, "b": 1}, {"e": ("a", "b")}, (), "nodes.'a'. must be"),
        ({"a": 1}, {"e": ("a", "b")}, (), "unknown node 'b'"),
        ({"a": 1, "b": 1, "c": 1}, {"e": ("a", "b")}, (), r"\['c'\] have none"),
        ({"a": 1, "b": 1}, {"e": ("a", "b")}, ("c",), "'c' is none of"),
        ({"a": 1, "b": 1}, {"e": ("a", "b")}, ("a",), "no edge leads to 'a'"),
        ({"a": 1, "b": 1}, {"e": "ab"}, (), "must be .from, to."),
        (
            {"a": 1, "b": 1, "c": 1},
            {"e": ("a", "b"), "f": ("b", "c"), "g": ("c", "b")},
            (),
            "cycle, as (b -> c -> b|c -> b -> c)",
        ),
        ({"a": 1, "b": 1}, {"e": ("a", "b"), "f": ("b", "b")}, (), "cycle, as b -> b"),
    ],
)
def test_bad_graphs(nodes, edges, outputs, message):
    with pytest.raises(ValueError, match=message):
        gated.Graph(nodes, edges, outputs)
