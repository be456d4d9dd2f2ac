r"""Which examples a step sees, and what each counts.

A sampler gives indices **and weights**, so that ``mean(weights * losses[indices])`` is unbiased for
the mean loss, whatever it prefers::

    sampler = sampling.stratified(clusters.assignments, 64)
    state = sampler.init(key)
    draw, state = sampler.next(state)
    batch = jax.tree.map(lambda leaf: leaf[draw.indices], data)
    loss, gradient = sampling.value_and_grad(loss_fn)(params, batch, draw.weights)

============================  ==================================================================
:func:`uniform`               every example alike, in passes or with replacement
:func:`importance`            in proportion to scores, such as gradient norms
:func:`stratified`            a share of the batch from each cluster: equal, proportional, Neyman;
                              with scores within clusters, if wanted
:func:`redundancy_removed`    every group of near-duplicates once: **another objective**
:func:`one_cluster`           a whole batch from one cluster, for
                              :func:`optim.cluster_control_variate`
:func:`variance`              exact variance of the gradient of a draw, for any of these
:func:`restrict`              the sampler of some of the examples, to judge it by these
:func:`measure`               the same, and more, by drawing from any estimator
:func:`value_and_grad`        the weighted mini-batch gradient
:func:`svrg`                  with a snapshot as control variate
:func:`shard`                 the rows of one of several processes
============================  ==================================================================

Samplers are pytrees: pass them to a jitted step as arguments, and one with new clusters or scores
compiles nothing. A draw takes time in proportion to the batch, for the random orders of passes are
functions and not shuffled arrays; the state is a key and a few integers.
"""

from jaxrobust.sampling._estimates import SVRG, Snapshot, svrg, value_and_grad
from jaxrobust.sampling._measure import Measurement, measure
from jaxrobust.sampling._one_cluster import ClusterSampler, ClusterState, one_cluster
from jaxrobust.sampling._redundancy import GroupSampler, GroupState, redundancy_removed
from jaxrobust.sampling._sampler import Draw, Sampler, State, restrict
from jaxrobust.sampling._samplers import Allocation, importance, stratified, uniform
from jaxrobust.sampling._shard import shard
from jaxrobust.sampling._variance import variance

__all__ = [
    "Allocation",
    "ClusterSampler",
    "ClusterState",
    "Draw",
    "GroupSampler",
    "GroupState",
    "Measurement",
    "SVRG",
    "Sampler",
    "Snapshot",
    "State",
    "importance",
    "measure",
    "one_cluster",
    "redundancy_removed",
    "restrict",
    "shard",
    "stratified",
    "svrg",
    "uniform",
    "value_and_grad",
    "variance",
]
