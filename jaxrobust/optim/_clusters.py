"""Cluster means of the gradient as control variates: SAGA with one slot per cluster."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from jaxrobust import trees
from jaxrobust.optim._arguments import check_scalar, required

_HOW = "the index, in 0 ... num_clusters - 1, of the cluster that the batch was drawn from"


class ClusterControlVariateState(NamedTuple):
    """State of :func:`cluster_control_variate`; K times the memory of the params, and once more."""

    table: Any  # like the params, with a leading axis K: control variate C_k of each cluster
    mean: Any  # like the params, float32 at least: sum over k of p_k C_k
    seen: jax.Array  # (K,) bool: whether a batch of the cluster has come; C_k is 0 before
    age: jax.Array  # () int32: updates since the mean was last summed up from the table


def cluster_control_variate(
    num_clusters: int,
    proportions: Sequence[float] | np.ndarray | jax.Array,
    *,
    decay: float | jax.Array = 0.0,
    table_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Subtracts from the gradient of a cluster what it was before, and adds the mean of that.

    A step's batch is drawn from one cluster k alone, which was drawn with probability
    :math:`q_k`; the updates u are the mean gradient of the batch. With the cluster's share
    :math:`p_k = N_k/N` of the examples,

    .. math::

       v = \frac{p_k}{q_k}\,(u - C_k) + \sum_j p_j C_j, \qquad
       \text{then}\quad C_k \leftarrow \delta\,C_k + (1-\delta)\,u .

    The mean of v is that of all examples, :math:`\sum_k p_k\bar g_k`, whatever the C are: they
    have been fixed before the draw. ``update`` needs the keyword ``cluster``, and takes ``weight``
    = :math:`p_k/q_k`, by default 1, that is, clusters drawn by their shares. Such batches are
    those of :func:`sampling.one_cluster`, with the loop of :mod:`training` or in one's own::

        sampler = sampling.one_cluster(assignments, 16)
        variate = optim.cluster_control_variate(len(sampler.shares), sampler.shares)
        optimizer = optax.chain(variate, optax.sgd(0.2))
        state, where = optimizer.init(params), sampler.init(jax.random.key(0))
        update = jax.jit(optimizer.update)
        for _ in range(num_steps):
            cluster = sampler.cluster(where)
            draw, where = sampler.next(where)
            batch = data[draw.indices]
            updates, state = update(gradient(params, batch), state, params, cluster=cluster)
            params = optax.apply_updates(params, updates)

    At fixed C the trace of the covariance of v is, with the mean :math:`\bar g_k` and the
    variance :math:`\sigma_k^2/B` of u within cluster k and
    :math:`d_k = \bar g_k - C_k`,

    .. math::

       \sum_k \frac{p_k^2}{q_k}\Bigl(\frac{\sigma_k^2}{B} + \|d_k\|^2\Bigr)
       - \Bigl\|\sum_k p_k d_k\Bigr\|^2 ,

    and that of the plain estimator, :math:`(p_k/q_k)\,u`, the same with C = 0. So what it removes
    is the noise *between* clusters, and of the noise within them nothing. Where the members of a
    cluster share one gradient, v is exact (at the same parameters) once every cluster has been
    seen, and a constant learning rate converges as that of SAGA does with K in place of N slots.
    Where the noise within clusters prevails, C itself is noisy, and may do harm: :math:`\delta`
    averages it, at the price of older gradients in it. With a batch of members of *every* cluster
    no noise between clusters is left to remove: that is stratified sampling, and needs no control
    variate.

    **Memory**: the table is K times as large as the parameters. It may be stored in fewer bits
    (``table_dtype``): v stays unbiased, since the mean is that of the stored values.

    Args:
      num_clusters: K.
      proportions: p, ``(K,)``, not negative, of sum 1.
      decay: :math:`\delta` in [0, 1), of the averages in the table. The first batch of a cluster is
        stored as it is.
      table_dtype: of the table; None for that of the params, float32 at least.

    Returns:
      A transform whose state is a :class:`ClusterControlVariateState`. Updates keep structure,
      shapes and dtypes; the computation is in float32 at least. Each update moves the running mean
      by :math:`p_k` times the change of :math:`C_k`; every K-th sums it up anew from the table, so
      that rounding errors from a time of large gradients do not stay behind as a bias.

      ============================  ============================================================
      case                          result
      ============================  ============================================================
      cluster not seen before       C is 0 there: less noise is removed, nothing is biased
      cluster out of range          updates are NaN (traced; else an error), table and mean stay
      updates not finite            they enter the table: put ``optax.apply_if_finite`` around
      inside ``optax.MultiSteps``   all accumulated batches must be of the same cluster
      ``optax.tree_map_params``     the table counts as like the params, but has the axis K first
      ============================  ============================================================

    Raises:
      ValueError: if ``num_clusters`` is not 1 or more, ``proportions`` has another shape, a
        negative or NaN entry, or another sum than 1 (by more than 1e-5), or ``decay`` is not in
        [0, 1); at ``update``, if ``cluster`` or ``weight`` is not a scalar, or a concrete
        ``cluster`` is out of range.
      TypeError: if a number is none, or ``table_dtype`` is not floating; at ``update``, if
        ``cluster`` is missing or not an integer.

    Source:
      Defazio, Bach, Lacoste-Julien, "SAGA", NIPS 2014, arXiv:1407.0202, where every example has a
      slot of its own. Slots shared by clusters, weights and decay are derived here.
    """
    shares = _check_proportions(num_clusters, proportions)
    check_scalar("decay", decay, lambda d: 0 <= d < 1, "in [0, 1)")
    if table_dtype is not None and not jnp.issubdtype(table_dtype, jnp.floating):
        raise TypeError(f"table_dtype must be floating, got {table_dtype}")
    size = len(shares)

    def init_fn(params):
        mean = jax.tree.map(jnp.zeros_like, trees.promote(params))
        # Not jnp.zeros: a broadcast keeps the sharding of the parameter.
        table = jax.tree.map(
            lambda m: jnp.broadcast_to(m.astype(table_dtype or m.dtype), (size, *m.shape)), mean
        )
        seen, age = jnp.zeros(size, bool), jnp.zeros((), jnp.int32)
        return ClusterControlVariateState(table, mean, seen, age)

    def update_fn(updates, state, params=None, **extra_args):
        del params
        cluster = _check_cluster(required(extra_args, "cluster", _HOW), size)
        weight = extra_args.get("weight", 1.0)
        check_scalar("weight", weight, lambda w: w >= 0, "0 or more")
        if not jax.tree.leaves(updates):
            return updates, state
        trees.check_floating("updates", updates)
        drawn = jnp.arange(size) == cluster  # (K,); nowhere if it is out of range
        weight = jnp.where(jnp.any(drawn), weight, jnp.nan)
        gradient, old = trees.promote(updates), _slot(state.table, cluster)
        residual = jax.tree.map(jnp.subtract, gradient, old)
        corrected = trees.add(state.mean, residual, weight=weight)
        state = _store(state, drawn, cluster, gradient, old, shares, decay)
        return trees.cast_like(corrected, updates), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _slot(table: Any, cluster: jax.Array) -> Any:
    return trees.promote(
        jax.tree.map(lambda t: jax.lax.dynamic_index_in_dim(t, cluster, keepdims=False), table)
    )


def _store(
    state: ClusterControlVariateState,
    drawn: jax.Array,
    cluster: jax.Array,
    gradient: Any,
    old: Any,
    shares: Any,
    decay: Any,
) -> ClusterControlVariateState:
    seen_before = jnp.any(drawn & state.seen)
    rate = jnp.where(jnp.any(drawn), jnp.where(seen_before, 1 - decay, 1), 0)

    def blend(u, c, table):
        # At rate 1 the gradient itself: c + (u - c) rounds, and keeps a NaN for ever.
        return jnp.where(rate == 1, u, c + rate * (u - c)).astype(table.dtype)

    new = jax.tree.map(blend, gradient, old, state.table)
    table = jax.tree.map(
        lambda t, n: jax.lax.dynamic_update_index_in_dim(t, n, cluster, 0), state.table, new
    )
    share = jnp.sum(jnp.where(drawn, jnp.asarray(shares, jnp.result_type(float)), 0))
    fresh = state.age + 1 >= len(state.seen)  # K sums of K rows each: one row per update

    def summed_up():
        return jax.tree.map(
            lambda t, m: _weighted_sum(shares, t).astype(m.dtype), table, state.mean
        )

    def moved():
        # By the values as stored, so that the mean is that of the table for any dtype of it.
        change = jax.tree.map(jnp.subtract, trees.promote(new), old)
        return trees.add(state.mean, change, weight=share)

    mean = jax.lax.cond(fresh, summed_up, moved)
    age = jnp.where(fresh, 0, state.age + 1)
    return ClusterControlVariateState(table, mean, state.seen | drawn, age)


def _weighted_sum(shares: Any, rows: jax.Array) -> jax.Array:
    rows = trees.promote(rows)
    column = jnp.asarray(shares, rows.dtype).reshape(-1, *[1] * (rows.ndim - 1))
    # Not a matrix product, of which TPUs and GPUs round the factors.
    return jnp.sum(column * rows, axis=0)


def _check_cluster(cluster: Any, size: int) -> jax.Array:
    if not jnp.issubdtype(jnp.result_type(cluster), jnp.integer):
        raise TypeError(f"cluster must be an integer, got {jnp.result_type(cluster)}")
    if jnp.shape(cluster) != ():
        raise ValueError(f"cluster must be a scalar, got shape {jnp.shape(cluster)}")
    if not isinstance(cluster, Tracer) and not 0 <= int(cluster) < size:
        raise ValueError(f"cluster must be in 0 ... {size - 1}, got {int(cluster)}")
    return jnp.asarray(cluster, jnp.int32)


def _check_proportions(num_clusters: Any, proportions: Any) -> Any:
    """As float64 NumPy where they are known, and else (``inject_hyperparams``) as they came."""
    check_scalar("num_clusters", num_clusters, lambda k: k >= 1 and k == int(k), "an integer >= 1")
    shape = np.shape(proportions)
    if len(shape) != 1 or shape[0] < 1:
        raise ValueError(f"proportions must have shape (num_clusters,), got {shape}")
    if not isinstance(num_clusters, Tracer) and shape != (int(num_clusters),):
        raise ValueError(f"proportions must have shape ({int(num_clusters)},), got {shape}")
    if isinstance(proportions, Tracer):
        return proportions
    shares = np.asarray(proportions, np.float64)
    # Float32 shares sum to 1 up to 6e-8; those of bfloat16 do not, and would bias the mean.
    if not (np.all(shares >= 0) and abs(shares.sum() - 1) <= 1e-5):
        raise ValueError(f"proportions must be 0 or more and have the sum 1, got {proportions}")
    return shares
