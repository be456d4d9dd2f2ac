"""The network of a graph: what it computes, its loss, and what training conserves."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import trees
from jaxrobust.gated._graph import Graph

Params = dict[str, jax.Array]


class Gates(NamedTuple):
    """Factors that come with every example; what is not named has 1."""

    node: Mapping[str, Any] = {}  # (N,) of a node, or (N, size), one for each of its units
    edge: Mapping[str, Any] = {}  # (N,) of an edge


class Dataset(NamedTuple):
    """Examples: inputs, targets and gates."""

    x: dict[str, Any]  # by input (N, size)
    y: dict[str, Any]  # by output (N, size)
    gates: Gates = Gates()
    # (N,): what each example counts, the loss being their sum with these weights. None for a mean,
    # 1 / N each: all rates and times depend on it.
    weight: Any = None


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """A matrix product as exact as the dtype allows."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def hidden(graph: Graph, params: Params, x: Mapping[str, Any], gates: Gates) -> dict[str, Any]:
    r"""The vectors of all nodes, ``(N, size)`` each.

    .. math:: h_v = g_v x_v \text{ (inputs)}, \qquad
       h_v = g_v \sum_{e: t(e) = v} g_e W_e h_{s(e)}.

    It costs one matrix product for each edge, however many paths there are.

    Args:
      graph: nodes and edges.
      params: matrices ``(size of to, size of from)`` by edge.
      x: inputs ``(N, size)`` by node.
      gates: of nodes and edges.

    Raises:
      ValueError: for inputs, params or gates that are missing, unknown, or of a wrong shape.

    Source:
      Saxe, Sodhani & Lewallen, "The neural race reduction", arXiv:2207.10430.
    """
    check_params(graph, params)
    number = check_inputs(graph, x)
    check_gates(graph, gates, number)
    found: dict[str, jax.Array] = {}
    for node in graph.order:
        if node in graph.inputs:
            value = jnp.asarray(x[node])
        else:
            terms = [
                _gated(product(found[source], params[edge].T), gates.edge.get(edge))
                for edge, source in graph.incoming(node)
            ]
            value = functools.reduce(jnp.add, terms)
        found[node] = _gated(value, gates.node.get(node))
    return found


def apply(graph: Graph, params: Params, x: Mapping[str, Any], gates: Gates) -> dict[str, jax.Array]:
    """The vectors of the outputs; see :func:`hidden`."""
    found = hidden(graph, params, x, gates)
    return {name: found[name] for name in graph.outputs}


def loss(graph: Graph, params: Params, data: Dataset) -> jax.Array:
    r"""Half the squared error of all outputs, :math:`\sum_n c_n \tfrac12 \sum_v \|y_v - h_v\|^2`.

    With :math:`c_n` the weights of the data, 1 / N by default.
    """
    weight = weights(graph, data)
    found = apply(graph, params, data.x, data.gates)
    squared = sum(jnp.sum((data.y[name] - found[name]) ** 2, axis=1) for name in graph.outputs)
    return 0.5 * jnp.sum(weight * squared)


def weights(graph: Graph, data: Dataset) -> jax.Array:
    """``(N,)``: what each example counts."""
    number = check_inputs(graph, data.x)
    _check_named("y", data.y, graph.outputs)
    for name in graph.outputs:
        _check_shape(f"y[{name!r}]", data.y[name], (number, graph.sizes[name]))
    dtype = jnp.result_type(*data.x.values())
    if data.weight is None:
        return jnp.full(number, 1 / number, dtype)
    _check_shape("weight", data.weight, (number,))
    return jnp.asarray(data.weight, dtype)


def balance(graph: Graph, params: Params) -> dict[str, jax.Array]:
    r"""By hidden node what gradient flow conserves, ``(size, size)``.

    .. math:: Q_v = \sum_{e: t(e) = v} W_e W_e^\top - \sum_{e: s(e) = v} W_e^\top W_e.

    With one gate for all units of a node it does not change in time, whatever the data; gradient
    descent changes it in proportion to its rate. With gates for each unit its diagonal is kept.
    Not of an output that an edge leaves: its targets act on one side alone.
    """
    check_params(graph, params)
    inner = [node for node in graph.hidden if node not in graph.outputs]
    total = lambda parts: functools.reduce(jnp.add, parts)
    return {
        node: total([product(params[e], params[e].T) for e, _ in graph.incoming(node)])
        - total([product(params[e].T, params[e]) for e, _ in graph.outgoing(node)])
        for node in inner
    }


def init_normal(key: jax.Array, graph: Graph, scale: float, dtype: Any = float) -> Params:
    """Independent normal numbers with standard deviation scale / sqrt(size of from)."""
    keys = jax.random.split(key, len(graph.edges))
    shapes = {name: graph.shape(name) for name, _ in graph.edges}
    return {
        name: scale / shape[1] ** 0.5 * jax.random.normal(own, shape, dtype)
        for own, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def init_orthogonal(key: jax.Array, graph: Graph, gain: float, dtype: Any = float) -> Params:
    """Matrices with orthonormal rows or columns, whichever are fewer, times ``gain``."""
    keys = jax.random.split(key, len(graph.edges))
    make = jax.nn.initializers.orthogonal(gain)
    return {
        name: make(own, graph.shape(name), dtype)
        for own, (name, _) in zip(keys, graph.edges, strict=True)
    }


def _gated(value: jax.Array, gate: Any) -> jax.Array:
    if gate is None:
        return value
    gate = jnp.asarray(gate, value.dtype)
    return value * (gate[:, None] if gate.ndim == 1 else gate)


# Checks -------------------------------------------------------------------------------------------


def check_params(graph: Graph, params: Any) -> None:
    """Raises unless there is a matrix of the right shape for every edge."""
    names = [name for name, _ in graph.edges]
    _check_named("params", params, names)
    for name in names:
        _check_shape(f"params[{name!r}]", params[name], graph.shape(name))


def check_inputs(graph: Graph, x: Any) -> int:
    """The number of examples."""
    _check_named("x", x, graph.inputs)
    number = np.shape(x[graph.inputs[0]])[:1]
    if number in ((), (0,)):
        raise ValueError("x must hold one example or more, (N, size) by input")
    for name in graph.inputs:
        trees.check_floating(f"x[{name!r}]", jnp.asarray(x[name]))
        _check_shape(f"x[{name!r}]", x[name], (*number, graph.sizes[name]))
    return number[0]


def check_gates(graph: Graph, gates: Gates, number: int, *, per_unit: bool = True) -> None:
    """Raises for gates of what there is not, or of another number of examples."""
    for kind, known in (("node", graph.sizes), ("edge", graph.ends)):
        for name, gate in getattr(gates, kind).items():
            if name not in known:
                raise ValueError(f"gates.{kind} names the unknown {kind} {name!r}; {[*known]}")
            shape = np.shape(gate)
            if kind == "node" and shape == (number, graph.sizes[name]):
                if per_unit:
                    continue
                raise ValueError(
                    f"gates.node[{name!r}] must be one number for each example here, "
                    f"({number},): paths are of nodes, not of units; give units with one gate a "
                    "node of their own"
                )
            _check_shape(f"gates.{kind}[{name!r}]", gate, (number,))


def _check_named(argument: str, given: Any, names: Any) -> None:
    if not isinstance(given, Mapping):
        raise TypeError(f"{argument} must be a mapping by name, got {type(given).__name__}")
    missing, unknown = ([*dict.fromkeys(a)] for a in (
        (n for n in names if n not in given), (n for n in given if n not in names)
    ))  # fmt: skip
    if missing or unknown:
        raise ValueError(
            f"{argument} must have {list(names)}; missing: {missing}, unknown: {unknown}"
        )


def _check_shape(argument: str, array: Any, shape: tuple[int, ...]) -> None:
    if np.shape(array) != shape:
        raise ValueError(f"{argument} must have shape {shape}, got {np.shape(array)}")
