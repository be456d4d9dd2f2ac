"""What a trained network has learned: pairs of domains, similarities, the tangent kernel."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust.gated._graph import Graph
from jaxrobust.gated._network import Dataset, Gates, Params, apply, hidden, product


def transfer_matrix(
    graph: Graph,
    params: Params,
    x: Mapping[str, Any],
    y: Mapping[str, Any],
    *,
    score: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """Mean score of every pair of an input and an output ``(inputs, outputs)``.

    All other inputs are zero, as if their gates were closed: a pair that was never trained is
    reached by switching gates. Targets of an output are the same for all inputs.

    Args:
      graph: nodes and edges.
      params: of the edges.
      x: by input ``(N, size)``: the same items in each domain.
      y: by output ``(N, size)``, or what else the score takes.
      score: of outputs ``(N, size)`` and targets: ``(N,)``; by default half the squared error.

    Raises:
      ValueError: for a score that is not one number for each item.
    """
    rows = []
    for source in graph.inputs:
        alone = {name: jnp.asarray(x[name]) * (name == source) for name in graph.inputs}
        found = apply(graph, params, alone, Gates())
        scores = [(score or _half_square)(found[o], jnp.asarray(y[o])) for o in graph.outputs]
        if any(part.shape != found[graph.outputs[0]].shape[:1] for part in scores):
            raise ValueError(
                "score must return one number for each item, "
                f"{found[graph.outputs[0]].shape[:1]}, got {scores[0].shape}"
            )
        rows.append(jnp.stack([jnp.mean(part) for part in scores]))
    return jnp.stack(rows)


def _half_square(found: jax.Array, y: jax.Array) -> jax.Array:
    return 0.5 * jnp.sum((found - y) ** 2, axis=1)


def rsa(graph: Graph, params: Params, data: Dataset, node: str) -> jax.Array:
    """Inner products of a node's vectors between all examples, ``(N, N)``.

    For representational similarity analysis.
    """
    if node not in graph.sizes:
        raise ValueError(f"node must be one of {list(graph.sizes)}, got {node!r}")
    vectors = hidden(graph, params, data.x, data.gates)[node]
    return product(vectors, vectors.T)


def ntk(graph: Graph, params: Params, data: Dataset) -> jax.Array:
    """The empirical tangent kernel ``(N n, N n)``: inner products of gradients of all outputs.

    Entry (i n + a, j n + b) is of output a of example i, all outputs in a row, and of b of j.
    """

    def outputs(params: Params) -> jax.Array:
        found = apply(graph, params, data.x, data.gates)
        return jnp.concatenate([found[name] for name in graph.outputs], axis=1).reshape(-1)

    jacobian = jax.jacrev(outputs)(params)
    rows = jnp.concatenate(
        [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(jacobian)], axis=1
    )
    return product(rows, rows.T)
