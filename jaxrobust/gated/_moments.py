r"""All that training needs to know of the data: moments, of which there are as many as paths.

With a path's gate :math:`g_p`, the product of all gates on it, put all :math:`g_p x_{s(p)}` of
paths that end in an output side by side, :math:`z (N, D)`, and the products :math:`W_p` of their
matrices likewise, :math:`P (n, D)`: the output is :math:`P z`. Both are made edge by edge, in the
order of paths. With the second moments of z and the targets the loss is a polynomial of the params.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.gated._graph import MAX_PATHS, Graph, Path, check_paths, find_paths
from jaxrobust.gated._network import (
    Dataset,
    Params,
    check_gates,
    check_inputs,
    check_params,
    product,
    weights,
)


class Moments(NamedTuple):
    """Sums over examples with their weights, by output; see :func:`moments`."""

    yx: dict[str, jax.Array]  # (size, D): targets times z
    xx: dict[str, jax.Array]  # (D, D): z times z
    yy: jax.Array  # (): half the squared targets of all outputs


def moments(graph: Graph, data: Dataset, *, max_paths: int = MAX_PATHS) -> Moments:
    r"""What the loss depends on.

    Blocks of ``yx`` are :math:`\Sigma^{yx}(p) = \sum_n c_n g_p y_{t(p)} x_{s(p)}^\top`, those of
    ``xx`` :math:`\Sigma^x(j, p) = \sum_n c_n g_j x_{s(j)} x_{s(p)}^\top g_p`, in the order of
    :func:`find_paths`; see :func:`block`.

    Raises:
      ValueError: for data that do not fit the graph, gates for single units, or too many paths.
    """
    check_paths(graph, max_paths)
    check_gates(graph, data.gates, check_inputs(graph, data.x), per_unit=False)
    weight = weights(graph, data)
    z = _features(graph, data)
    weighted = {name: weight[:, None] * part for name, part in z.items()}
    y = {name: jnp.asarray(data.y[name], weight.dtype) for name in graph.outputs}
    squared = sum(jnp.sum(y[name] ** 2, axis=1) for name in graph.outputs)
    return Moments(
        {name: product(y[name].T, weighted[name]) for name in graph.outputs},
        {name: product(z[name].T, weighted[name]) for name in graph.outputs},
        0.5 * jnp.sum(weight * squared),
    )


def _features(graph: Graph, data: Dataset) -> dict[str, jax.Array]:
    """Z by output."""
    found: dict[str, jax.Array] = {}

    def gated(value: jax.Array, gate: Any) -> jax.Array:
        return value if gate is None else value * jnp.asarray(gate, value.dtype)[:, None]

    for node in graph.order:
        if node in graph.inputs:
            value = jnp.asarray(data.x[node])
        else:
            parts = [
                gated(found[source], data.gates.edge.get(edge))
                for edge, source in graph.incoming(node)
            ]
            value = jnp.concatenate(parts, axis=1)
        found[node] = gated(value, data.gates.node.get(node))
    return {name: found[name] for name in graph.outputs}


def predictor(graph: Graph, params: Params) -> dict[str, jax.Array]:
    """P by output ``(size, D)``: products of matrices of all paths to it, side by side."""
    check_params(graph, params)
    found: dict[str, jax.Array] = {}
    for node in graph.order:
        if node in graph.inputs:
            found[node] = jnp.eye(graph.sizes[node], dtype=jnp.result_type(*params.values()))
        else:
            found[node] = jnp.concatenate(
                [product(params[e], found[source]) for e, source in graph.incoming(node)], axis=1
            )
    return {name: found[name] for name in graph.outputs}


def loss_from_moments(graph: Graph, params: Params, moments: Moments) -> jax.Array:
    r"""The loss of the examples that the moments are of, at a price that does not depend on them.

    .. math:: L = \tfrac12 \langle \|y\|^2 \rangle - \sum_v \operatorname{tr}(P_v \Sigma_v^{yx\top})
       + \tfrac12 \sum_v \operatorname{tr}(P_v \Sigma^x_v P_v^\top).

    Near a perfect fit its terms cancel, so that it is exact to rounding errors of the first one.
    """
    total = moments.yy
    for name, of_paths in predictor(graph, params).items():
        mapped = product(of_paths, moments.xx[name])
        total = total - jnp.sum(of_paths * moments.yx[name]) + 0.5 * jnp.sum(of_paths * mapped)
    return total


def columns(graph: Graph, paths: tuple[Path, ...]) -> list[slice]:
    """Where the block of each path is along D of its output."""
    found, output, at = [], None, 0
    for path in paths:
        at = at if path.target == output else 0
        output, size = path.target, graph.sizes[path.source]
        found.append(slice(at, at + size))
        at += size
    return found


def block(graph: Graph, moments: Moments, path: Path, other: Path | None = None) -> jax.Array:
    """``Sigma^yx(p)``, or with another path to the same output ``Sigma^x(p, other)``."""
    paths = find_paths(graph)
    where = dict(zip(paths, columns(graph, paths), strict=True))
    if other is None:
        return moments.yx[path.target][:, where[path]]
    return moments.xx[path.target][where[path], where[other]]


def path_product(graph: Graph, params: Params, path: Path) -> jax.Array:
    """The product of the matrices along a path ``(size of its target, size of its source)``."""
    start = jnp.eye(graph.sizes[path.source], dtype=jnp.result_type(*params.values()))
    return functools.reduce(lambda found, edge: product(params[edge], found), path.edges, start)


def path_gradient(graph: Graph, params: Params, moments: Moments) -> Params:
    r"""Minus the gradient of the loss, as a sum over paths.

    .. math:: \sum_{p \ni e} W_{\bar t(p,e)}^\top \Big(\Sigma^{yx}(p) -
       \sum_{j: t(j) = t(p)} W_j \Sigma^x(j, p)\Big) W_{\bar s(p,e)}^\top.

    Every path on its own, as the theory says it: slow, for comparison.

    Source:
      Saxe, Sodhani & Lewallen, arXiv:2207.10430.
    """
    paths = find_paths(graph)
    products = {path: path_product(graph, params, path) for path in paths}
    found = {name: jnp.zeros_like(params[name]) for name, _ in graph.edges}
    for path in paths:
        error = block(graph, moments, path)
        for other in paths:
            if other.target == path.target:
                error = error - product(products[other], block(graph, moments, other, path))
        for at, edge in enumerate(path.edges):
            source, target = graph.ends[edge]
            before = path_product(graph, params, Path(path.edges[:at], path.source, source))
            after = path_product(graph, params, Path(path.edges[at + 1 :], target, path.target))
            found[edge] = found[edge] + product(product(after.T, error), before.T)
    return found
