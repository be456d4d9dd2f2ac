"""Gated deep linear networks: simulated, reduced exactly to a race of numbers, and solved.

::

    pairs = gated.band(7, 4)  # of 7 x 7 domains, each input is trained with 4 outputs
    graph, data = gated.routing_dataset(pairs, np.eye(4), gated.routing_targets(), 64)
    print(gated.compare(graph, data, key=key, scale=0.08, rate=0.02, num_steps=20_000))

A graph has a vector at every node and a matrix on every edge; gates, given with each example, open
and close nodes and edges. What it computes is linear in the params of each edge and in the inputs;
how it learns is not: pathways race, and those that are shared by more of the data win.
"""

from jaxrobust.gated._closed_forms import (
    deep,
    deep_time,
    max_stable_rate,
    race_rate,
    riccati,
    routing_modes,
    routing_time,
    two_layer,
    two_layer_time,
    two_layer_unbalanced,
    xor_loss,
)
from jaxrobust.gated._compare import Comparison, compare
from jaxrobust.gated._datasets import (
    band,
    context_dataset,
    hierarchy_targets,
    routing_dataset,
    routing_moments,
    routing_targets,
    xor_dataset,
)
from jaxrobust.gated._graph import Graph, Path, chain, find_paths, pathways, routing
from jaxrobust.gated._modes import (
    Modes,
    diagonalize,
    effective_singular_values,
    init_decoupled,
)
from jaxrobust.gated._moments import (
    Moments,
    block,
    loss_from_moments,
    moments,
    path_gradient,
    path_product,
    predictor,
)
from jaxrobust.gated._network import (
    Dataset,
    Gates,
    apply,
    balance,
    hidden,
    init_normal,
    init_orthogonal,
    loss,
)
from jaxrobust.gated._probes import ntk, rsa, transfer_matrix
from jaxrobust.gated._reduced import (
    Trajectory,
    path_strengths,
    reduced_flow,
    reduced_loss,
    simulate_reduced,
    solve_reduced,
    stable_rate,
    step_reduced,
)
from jaxrobust.gated._simulate import crossing_times, gradient_flow, simulate
from jaxrobust.gated._sweep import ScaleSweep, sweep_scales
from jaxrobust.gated._units import as_gated, relu_gates, relu_network

__all__ = [
    "Comparison",
    "Dataset",
    "Gates",
    "Graph",
    "Modes",
    "Moments",
    "Path",
    "ScaleSweep",
    "Trajectory",
    "apply",
    "as_gated",
    "balance",
    "band",
    "block",
    "chain",
    "compare",
    "context_dataset",
    "crossing_times",
    "deep",
    "deep_time",
    "diagonalize",
    "effective_singular_values",
    "find_paths",
    "gradient_flow",
    "hidden",
    "hierarchy_targets",
    "init_decoupled",
    "init_normal",
    "init_orthogonal",
    "loss",
    "loss_from_moments",
    "max_stable_rate",
    "moments",
    "ntk",
    "path_gradient",
    "path_product",
    "path_strengths",
    "pathways",
    "predictor",
    "race_rate",
    "reduced_flow",
    "reduced_loss",
    "relu_gates",
    "relu_network",
    "riccati",
    "routing",
    "routing_dataset",
    "routing_modes",
    "routing_moments",
    "routing_targets",
    "routing_time",
    "rsa",
    "simulate",
    "simulate_reduced",
    "solve_reduced",
    "stable_rate",
    "step_reduced",
    "sweep_scales",
    "transfer_matrix",
    "two_layer",
    "two_layer_time",
    "two_layer_unbalanced",
    "xor_dataset",
    "xor_loss",
]
