"""The whole network in training: gradient descent, and gradient flow."""

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import trees
from jaxrobust.gated._graph import Graph
from jaxrobust.gated._moments import Moments, loss_from_moments
from jaxrobust.gated._network import Dataset, Params, check_params, loss
from jaxrobust.gated._reduced import Trajectory, solve


def simulate(
    graph: Graph,
    params: Params,
    data: Dataset | Moments,
    *,
    rate: float,
    num_steps: int,
    record_every: int = 1,
    keep_params: bool = False,
    warn_above: float | None = None,
) -> Trajectory:
    """Gradient descent on all examples at once, compiled.

    Args:
      graph: nodes and edges.
      params: at first.
      data: examples, or their :func:`moments`, with which a step costs the same for any number of
        them.
      rate: of a step.
      num_steps: how many.
      record_every: steps between two records; the last step is recorded if it divides them.
      keep_params: whether to keep the params of all records.
      warn_above: the largest rate that is stable, such as :func:`max_stable_rate`; above it there
        is a warning before the run.

    Returns:
      :class:`Trajectory`, whose times are steps, from 0 on.
    """
    check_params(graph, params)
    trees.check_count("num_steps", num_steps)
    trees.check_count("record_every", record_every, most=num_steps)
    if not rate > 0:
        raise ValueError(f"rate must be positive, got {rate}")
    if warn_above is not None and rate > warn_above:
        warnings.warn(
            f"rate {rate:.4g} is above {warn_above:.4g}, the largest at which gradient descent is "
            "stable in the end: it will not settle there",
            stacklevel=2,
        )
    records = num_steps // record_every
    params = {name: jnp.asarray(value) for name, value in params.items()}
    kept, losses = _descend(graph, params, data, rate, records, record_every, keep_params)
    times = jnp.arange(records + 1) * record_every
    return Trajectory(times, kept, losses)


@functools.partial(jax.jit, static_argnums=(0, 4, 5, 6))
def _descend(
    graph: Graph, params: Params, data: Any, rate: Any, records: int, every: int, keep: bool
) -> tuple[Any, jax.Array]:
    of = loss_of(graph, data)

    def step(_, params):
        return jax.tree.map(lambda p, g: p - rate * g, params, jax.grad(of)(params))

    def record(params, _):
        after = jax.lax.fori_loop(0, every, step, params)
        # The params themselves in any case, of which the last are the result.
        return after, (after if keep else None, of(after))

    last, (kept, losses) = jax.lax.scan(record, params, length=records)
    losses = jnp.concatenate([of(params)[None], losses])
    if not keep:
        return last, losses
    whole = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), params, kept)
    return whole, losses


def loss_of(graph: Graph, data: Dataset | Moments) -> Any:
    """The loss as a function of params."""
    if isinstance(data, Moments):
        return lambda params: loss_from_moments(graph, params, data)
    return lambda params: loss(graph, params, data)


def gradient_flow(
    graph: Graph,
    params: Params,
    data: Dataset | Moments,
    times: Any,
    *,
    tau: float = 1.0,
    rtol: float = 1e-8,
) -> Trajectory:
    r"""The whole network under :math:`\tau \dot W = -\nabla L`, by an adaptive method of order 8.

    Args:
      graph: nodes and edges.
      params: at time 0.
      data: examples or moments.
      times: ``(T,)``, rising, 0 or more.
      tau: the unit of time.
      rtol: relative tolerance of every step.

    Returns:
      :class:`Trajectory` with all params ``(T, ..)``.
    """
    check_params(graph, params)
    of = loss_of(graph, data)
    field = lambda params: jax.tree.map(lambda g: -g / tau, jax.grad(of)(params))
    found = solve(field, params, times, rtol)
    return Trajectory(jnp.asarray(times), found, jax.vmap(of)(found))


def crossing_times(times: Any, losses: Any, levels: Any) -> np.ndarray:
    """When a falling curve first is at each level, between two records linearly; NaN if never.

    Steep curves are compared by these: at one time they may be far apart, and yet the same.
    """
    times, losses = np.asarray(times, float), np.asarray(losses, float)
    found = []
    for level in np.atleast_1d(levels):
        below = np.flatnonzero(losses <= level)
        if not below.size:
            found.append(np.nan)
            continue
        k = below[0]
        if k == 0:
            found.append(times[0])
            continue
        share = (losses[k - 1] - level) / (losses[k - 1] - losses[k])
        found.append(times[k - 1] + share * (times[k] - times[k - 1]))
    return np.asarray(found)
