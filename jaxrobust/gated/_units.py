"""ReLU networks as gated linear ones: a gate for each unit and example, and back."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxrobust.gated._graph import Graph, chain
from jaxrobust.gated._network import Gates, product


def relu_network(params: Sequence[jax.Array], x: jax.Array) -> jax.Array:
    """Outputs of a ReLU network without biases: ``(N, out)`` of matrices ``(to, from)``."""
    for matrix in params[:-1]:
        x = jax.nn.relu(product(x, matrix.T))
    return product(x, params[-1].T)


def relu_gates(params: Sequence[jax.Array], x: jax.Array) -> list[jax.Array]:
    """Of every hidden layer ``(N, size)``: 1 where a unit is on, else 0, also at exactly 0."""
    gates = []
    for matrix in params[:-1]:
        before = product(x, matrix.T)
        gates.append((before > 0).astype(before.dtype))
        x = before * gates[-1]
    return gates


def as_gated(
    params: Sequence[jax.Array], x: jax.Array
) -> tuple[Graph, dict[str, jax.Array], Gates]:
    """The gated network that computes what a ReLU network does on these examples.

    Its gates are those of the network now: gradients by the matrices are the same too, and it stays
    the same network as long as no unit switches.

    Args:
      params: matrices ``(to, from)`` of the layers, one or more.
      x: ``(N, in)``.

    Returns:
      A :func:`chain`, its params by edge, and gates for each unit of the hidden nodes.
    """
    graph = chain([params[0].shape[1], *(matrix.shape[0] for matrix in params)])
    names = [name for name, _ in graph.edges]
    gates = {f"h{k}": gate for k, gate in enumerate(relu_gates(params, x), 1)}
    return graph, dict(zip(names, map(jnp.asarray, params), strict=True)), Gates(node=gates)
