"""Rich and lazy: the same training from weights of several scales."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import trees
from jaxrobust.gated._graph import Graph
from jaxrobust.gated._moments import Moments
from jaxrobust.gated._network import Dataset, Params, init_normal, init_orthogonal
from jaxrobust.gated._simulate import simulate

INITS = {"orthogonal": init_orthogonal, "normal": init_normal}


class ScaleSweep(NamedTuple):
    """Of S scales, R starts each."""

    scales: np.ndarray  # (S,)
    params: Params  # leaves (S, R, ..): in the end
    losses: np.ndarray  # (S, R): in the end
    # (S, R): how far all params moved over how long they were at first, in Euclidean norm. Well
    # above 1 features are learned (rich); well below it weights only fit (lazy), the less they move
    # the wider the network is.
    moved: np.ndarray


def sweep_scales(
    graph: Graph,
    data: Dataset | Moments,
    scales: Sequence[float],
    *,
    key: jax.Array,
    rate: float | Callable[[float], float],
    num_steps: int,
    num_starts: int = 1,
    init: str = "orthogonal",
) -> ScaleSweep:
    """Gradient descent from small to large weights: the same random matrices, scaled.

    From small weights networks learn features, which untrained pairs of domains share; from large
    ones they hardly move, as a kernel machine (:func:`ntk`) does.

    Args:
      graph: nodes and edges.
      data: examples or moments.
      scales: of the first params, positive.
      key: of the random matrices.
      rate: of a step, or a function of the scale, for larger weights allow only smaller steps.
      num_steps: of each run.
      num_starts: random starts of each scale, which are trained at once.
      init: ``"orthogonal"`` or ``"normal"``, see :func:`init_orthogonal`, :func:`init_normal`.

    Returns:
      :class:`ScaleSweep`.

    Raises:
      ValueError: for an unknown init, scales or rates that are not positive.
    """
    if init not in INITS:
        raise ValueError(f"init must be one of {tuple(INITS)}, got {init!r}")
    trees.check_count("num_starts", num_starts)
    sizes = np.asarray(scales, float)
    if sizes.ndim != 1 or not sizes.size or not np.all(sizes > 0):
        raise ValueError(f"scales must be positive numbers, one or more, got {scales}")
    units = jax.vmap(lambda k: INITS[init](k, graph, 1.0))(jax.random.split(key, num_starts))
    rows: list[tuple[Any, ...]] = []
    for scale in sizes.tolist():
        start = jax.tree.map(lambda unit, scale=scale: scale * unit, units)
        step = float(rate(scale)) if callable(rate) else rate
        train = lambda params, step=step: simulate(
            graph, params, data, rate=step, num_steps=num_steps, record_every=num_steps
        )
        end = jax.vmap(train)(start)
        apart = jax.tree.map(jnp.subtract, end.params, start)
        moved = jax.vmap(trees.l2_norm)(apart) / jax.vmap(trees.l2_norm)(start)
        rows.append((end.params, np.asarray(end.losses[:, -1]), np.asarray(moved)))
    params, losses, moved = zip(*rows, strict=True)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    return ScaleSweep(sizes, stacked, np.stack(losses), np.stack(moved))
