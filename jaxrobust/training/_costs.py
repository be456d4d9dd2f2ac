"""What looks and refreshes cost, in training steps, counted before they are made.

Counted and not measured, so that a run does the same every time. Besides multiply-adds there is
what they do not tell: a call from Python, an iteration of a loop of a program, or the decision
about a point take so many multiply-adds' worth of time, as measured on two cores of a CPU that make
25e9 of them in a second.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import per_example, trees
from jaxrobust.training import _looks as looks
from jaxrobust.training._state import TrainState
from jaxrobust.training._steps import LossFn

_CALL = 1e6  # 40 us
_STOP = 1.2e7  # to leave the loop of training steps, and to begin it again
_STEP, _OF_PARAM = 4e5, 10.0  # of a training step, besides the gradient; and of each number of it
_ONE_BY_ONE = 1e4  # of a short loop, about points that are assigned to clusters
_DECIDE = 1e4  # about a point that may change its cluster
# Programs that are called, besides that of the sketches.
_CALLS_BETWEEN, _CALLS_OF_PROBES, _CALLS_OF_REFRESH, _CALLS_OF_JUDGE = 12, 40, 80, 200
_CALLS_OF_NOISE, _CALLS_OF_VERDICT, _CALLS_OF_SNAPSHOT = 8, 3, 12
_FORWARD = 1 / 3  # of a gradient: one of three products

# Members of every cluster whose gradients tell what clusters gain.
PROBES_PER_CLUSTER = 8


class Costs(NamedTuple):
    """In training steps."""

    look: float  # at what is known already
    between: float  # losses of some examples at two points
    probes: float  # sketches of some examples, and what a refresh would bring by these
    refresh: float


def costs_of(
    loss_fn: LossFn,
    state: TrainState,
    data: Any,
    *,
    num_probes: int,
    num_clusters: int | None,
    dim: int,
    max_passes: int,
    cost: float | None,
) -> Costs:
    """For a state and data; ``cost`` of a refresh relative to a pass of steps, None to count."""
    size, number = state.sampler.batch_size, state.sampler.num_examples
    gradient = per_example.gradient_cost(loss_fn, state.params, data)
    sketch = per_example.sketch_cost(loss_fn, state.params, data, dim)
    step = gradient * size + _STEP + _OF_PARAM * trees.size(state.params)
    between = 2 * _FORWARD * gradient * num_probes + _CALLS_BETWEEN * _CALL
    half = num_probes // 2
    ahead = _clusters(half, num_clusters, dim, looks.PASSES_AHEAD)
    if num_clusters is not None:  # others are assigned one by one
        ahead = 2 * (ahead + half * (num_clusters * dim + _ONE_BY_ONE))
    probes = num_probes * sketch + ahead + _CALLS_OF_PROBES * _CALL
    if cost is None:
        fit = _fit(number, num_clusters, dim, max_passes)
        judged = 0.0
        if not sketches_are_exact(state.params, dim):
            of_all = num_probes
            if num_clusters is not None:
                of_all = num_clusters * of_each(num_probes, num_clusters)
                of_all = number if 2 * of_all >= number else of_all
            judged = min(of_all, number) * sketch + _CALLS_OF_JUDGE * _CALL
        refresh = (number * sketch + fit + judged + _CALLS_OF_REFRESH * _CALL) / step
    else:
        refresh = cost * number / size
    return Costs(_STOP / step, between / step, probes / step, refresh)


class SnapshotCosts(NamedTuple):
    """In training steps without a snapshot."""

    look: float
    between: float  # losses of some examples at three points
    snapshot: float  # the mean gradient of all
    more: float  # of a step with a snapshot, besides what one without takes
    verdict: float  # losses of all examples

    def trial(self, steps: int) -> float:
        """A snapshot, so many steps with it, a stop, and the loss before and after."""
        return self.snapshot + steps * self.more + self.look + 2 * self.verdict


def snapshot_costs_of(
    loss_fn: LossFn, state: TrainState, data: Any, *, num_probes: int
) -> SnapshotCosts:
    """For a state and data, and so many examples that are looked at."""
    size, number = state.sampler.batch_size, state.sampler.num_examples
    gradient = per_example.gradient_cost(loss_fn, state.params, data)
    of_params = _OF_PARAM * trees.size(state.params)
    step = gradient * size + _STEP + of_params
    costs = SnapshotCosts(
        look=_STOP,
        between=3 * _FORWARD * gradient * num_probes + _CALLS_OF_NOISE * _CALL,
        snapshot=gradient * number + _CALLS_OF_SNAPSHOT * _CALL,
        more=gradient * size + _STEP / 8 + 2 * of_params,
        verdict=_FORWARD * gradient * number + _CALLS_OF_VERDICT * _CALL,
    )
    return SnapshotCosts(*(cost / step for cost in costs))


def of_each(num_probes: int, num_clusters: int) -> int:
    """Members of every cluster that are looked at."""
    return max(PROBES_PER_CLUSTER, num_probes // num_clusters)


def sketches_are_exact(params: Any, dim: int) -> bool:
    """Whether sketches of this length hold all that there is of a gradient: of one small array."""
    leaves = jax.tree.leaves(params)
    return len(leaves) == 1 and jnp.size(leaves[0]) <= dim


def sample_size(num_clusters: int) -> int:
    """Of the examples that are clustered first, where there are more than twice as many."""
    return max(4096, 64 * num_clusters)


# Passes until the clusters of a sample no longer change, about.
_PASSES_OF_SAMPLE = 16


def _fit(number: int, num_clusters: int | None, dim: int, passes: int) -> float:
    """Of all examples, and of a sample before, where there is one."""
    if num_clusters is None:
        return 0.0
    cost = _clusters(number, num_clusters, dim, passes)
    few = sample_size(num_clusters)
    if number > 2 * few:
        cost += _clusters(few, num_clusters, dim, _PASSES_OF_SAMPLE)
    return cost


def _clusters(number: int, num_clusters: int | None, dim: int, passes: int) -> float:
    """Of a fit: seeds and first sums as much as a pass each, and passes."""
    if num_clusters is None:
        return 0.0
    return number * (num_clusters * dim * (passes + 2) + _DECIDE * passes)
