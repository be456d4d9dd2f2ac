"""Small graphs and data for the tests of gated networks."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import gated


def skipping() -> gated.Graph:
    """Two inputs, two outputs, skip edges, two edges between the same nodes."""
    return gated.Graph(
        {"x": 3, "z": 2, "a": 4, "b": 5, "c": 3, "y": 2, "w": 3},
        {
            "xa": ("x", "a"), "xb": ("x", "b"), "zb": ("z", "b"), "ab": ("a", "b"),
            "ab2": ("a", "b"), "ac": ("a", "c"), "bc": ("b", "c"), "cy": ("c", "y"),
            "by": ("b", "y"), "cw": ("c", "w"), "xw": ("x", "w"),
        },
    )  # fmt: skip


def drawn(graph, number=9, seed=0, weighted=True):
    """Examples with real gates on some nodes and edges, and params."""
    rng = np.random.default_rng(seed)
    of = lambda names: {name: rng.normal(size=(number, graph.sizes[name])) for name in names}
    nodes = {"a": rng.normal(size=number), "c": rng.normal(size=number),
             "y": rng.normal(size=number), "x": rng.normal(size=number)}  # fmt: skip
    edges = {"ab": rng.normal(size=number), "cw": rng.normal(size=number)}
    weight = rng.uniform(0.1, 1, number) if weighted else None
    data = gated.Dataset(of(graph.inputs), of(graph.outputs), gated.Gates(nodes, edges), weight)
    params = gated.init_normal(jax.random.key(seed), graph, 0.7)
    return data, params


def diagonalizable(seed=0, contexts=3):
    """A common path and pathways that are on in some contexts, with modes that all share.

    With overlapping gates, so that paths see each other.
    """
    rng = np.random.default_rng(seed)
    graph = gated.pathways([4, 6, 4], 1 + contexts)
    u, v = (np.linalg.qr(rng.normal(size=(4, 4)))[0] for _ in range(2))
    items = 4
    x = np.concatenate([np.eye(items) @ v.T] * contexts)
    strengths = rng.uniform(0.5, 3, (contexts, 4)) * rng.choice([-1, 1], (contexts, 4))
    y = np.concatenate([(u * s).T for s in strengths])
    context = np.repeat(np.arange(contexts), items)
    nodes = {f"h1_{1 + k}": (context != k).astype(float) for k in range(contexts)}
    return graph, gated.Dataset({"x": x}, {"y": y}, gated.Gates(node=nodes))


def as_numpy(tree):
    return jax.tree.map(np.asarray, tree)


def largest(a, b):
    """The largest difference between two trees, over the largest entry."""
    pairs = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    off = max(float(jnp.max(jnp.abs(x - y))) for x, y in pairs)
    return off / max(float(jnp.max(jnp.abs(x))) for x, _ in pairs)
