"""The published clustering of gradients: centers of rank one for every layer."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import per_example, trees
from jaxrobust.clustering._batches import map_batches, sum_batches
from jaxrobust.clustering._exact import squared_to_centers
from jaxrobust.clustering._result import Clustering

LossFn = Callable[[Any, Any], jax.Array]
Assignment = Literal["running", "frozen"]
_HIGHEST = jax.lax.Precision.HIGHEST
# Centers begin at random numbers in 0..1 times this over the rows and columns: near zero.
_START = 1e-2


class RankOne(NamedTuple):
    """Centers ``c_k d_k^T`` for a part of a leaf, one for every block of it."""

    c: jax.Array  # (K, blocks, rows)
    d: jax.Array  # (K, blocks, columns)


@functools.partial(trees.compiled, num_static=2)
def squared_norms(loss_fn: LossFn, batch_size: int, params: Any, data: Any) -> jax.Array:
    """Squared norms ``(N,)`` of the gradients of the leaves that have factors."""
    names = _factors_of_one(loss_fn, params, data).keys()
    by_leaf = per_example.norms(loss_fn, by_leaf=True)

    def of_batch(batch):
        found = jax.tree_util.tree_leaves_with_path(by_leaf(params, batch))
        named = {jax.tree_util.keystr(path) or "params": norms for path, norms in found}
        return sum(named[name] ** 2 for name in names)

    return map_batches(of_batch, data, batch_size)


@functools.partial(trees.compiled, num_static=4)
def iterate(
    loss_fn: LossFn,
    num_clusters: int,
    assignment: Assignment,
    batch_size: int,
    params: Any,
    data: Any,
    squared: jax.Array,
    start: jax.Array | None,
    key: jax.Array,
    max_passes: int,
    min_size: int,
) -> Clustering:
    """So many assignments, each followed by new centers, from assignments or centers near zero."""
    num_examples = squared.size
    like = _factors_of_one(loss_fn, params, data)

    def distances(centers):
        of_batch = lambda batch: inner_products(
            per_example.factors(loss_fn)(params, batch), centers
        )
        products = map_batches(of_batch, data, batch_size)
        return squared_to_centers(squared, products, squares(centers))

    def update(centers, assignments):
        def of_batch(batch, weights):
            examples, assigned = batch
            members = jax.nn.one_hot(assigned, num_clusters, dtype=weights.dtype) * weights[:, None]
            return factor_sums(per_example.factors(loss_fn)(params, examples), members)

        sums = sum_batches(of_batch, (data, assignments), batch_size)
        counts = _counts(assignments, num_clusters).astype(squared.dtype)[:, None, None]
        keep_empty = lambda old, new: jnp.where(counts > 0, new / jnp.maximum(counts, 1), old)
        return jax.tree.map(keep_empty, centers, sums)

    def one_pass(state):
        before, centers, to_centers, number, _ = state
        if assignment == "running":
            after = assign_running(to_centers)
        else:
            after = jnp.argmin(before.sizes[None, :] * to_centers, axis=1).astype(jnp.int32)
        split_key = jax.random.fold_in(key, number + 1)
        after = split_largest(split_key, to_centers, after, min_size)
        centers = update(centers, after)
        same = jnp.all(after == before.assignments)
        sizes = _counts(after, num_clusters)
        return _Sized(after, sizes), centers, distances(centers), number + 1, same

    centers = near_zero(key, like, num_clusters)
    if start is None:
        begin = _Sized(
            jnp.full(num_examples, -1, jnp.int32),
            jnp.full(num_clusters, num_examples / num_clusters),
        )
    else:
        begin = _Sized(start, _counts(start, num_clusters))
        centers = update(centers, start)
    state = (begin, centers, distances(centers), jnp.int32(0), jnp.bool_(False))
    (assignments, sizes), centers, to_centers, number, same = jax.lax.while_loop(
        lambda state: state[3] < max_passes, one_pass, state
    )
    spreads = (
        jnp.zeros_like(squared, shape=num_clusters)
        .at[assignments]
        .add(_own(to_centers, assignments))
    )
    value = jnp.sum(sizes * spreads)
    return Clustering(assignments, sizes.astype(jnp.int32), centers, spreads, value, number, same)


class _Sized(NamedTuple):
    assignments: jax.Array  # (N,) int32
    sizes: jax.Array  # (K,) float


def assign_running(distances: jax.Array) -> jax.Array:
    """Example after example to the least ``(N_k + 1) D_ik``; the counts N_k begin at zero."""

    def step(counts, distance):
        target = jnp.argmin((counts + 1) * distance).astype(jnp.int32)
        return counts.at[target].add(1), target

    return jax.lax.scan(step, jnp.zeros_like(distances[0]), distances)[1]


def split_largest(
    key: jax.Array, distances: jax.Array, assignments: jax.Array, min_size: int | jax.Array
) -> jax.Array:
    """If the smallest cluster is too small, it gets a random half of the one with most distortion.

    Distortion is the share of J, members times the sum of their squared distances.
    """
    number = distances.shape[1]
    counts = _counts(assignments, number)
    own = _own(distances, assignments)
    share = counts * jnp.zeros(number, own.dtype).at[assignments].add(own)
    valid = (counts >= min_size) & (counts > 1)
    smallest, largest = jnp.argmin(counts), jnp.argmax(jnp.where(valid, share, -1))
    draws = jnp.where(assignments == largest, jax.random.uniform(key, assignments.shape), 2)
    half = jnp.sort(draws)[(counts[largest] // 2).astype(jnp.int32)]
    splits = (counts[smallest] < min_size) & jnp.any(valid)
    return jnp.where(splits & (draws < half), smallest.astype(assignments.dtype), assignments)


def inner_products(factors: Any, centers: Any) -> jax.Array:
    """``<g_i, C_k>`` over all layers, ``(B, K)``."""
    pairs = zip(_layers(factors), _layers(centers), strict=True)
    return functools.reduce(jnp.add, [_inner_products(a, d, *center) for (a, d), center in pairs])


def _inner_products(a: jax.Array, d: jax.Array, c: jax.Array, e: jax.Array) -> jax.Array:
    """Of one layer, by the cheaper of two ways; the gradient is ``sum_t a_t d_t^T``."""
    num_positions, rows, columns = *a.shape[2:], d.shape[3]
    if is_cheaper_by_positions(c.shape[0], num_positions, rows, columns):
        along = _einsum("bgti,kgi->bkgt", a, c) * _einsum("bgto,kgo->bkgt", d, e)
        return jnp.sum(along, axis=(2, 3))
    gradients = _einsum("bgti,bgto->bgio", a, d)
    return _einsum("bkgo,kgo->bk", _einsum("bgio,kgi->bkgo", gradients, c), e)


def is_cheaper_by_positions(num_clusters: int, positions: int, rows: int, columns: int) -> bool:
    """Whether products with the factors cost less than with the gradient, in multiply-adds."""
    by_gradient = positions * rows * columns + num_clusters * rows * columns
    return num_clusters * positions * (rows + columns + 1) <= by_gradient


def factor_sums(factors: Any, members: jax.Array) -> Any:
    """Sums over the members of each cluster of ``mean_t a_t`` and ``sum_t d_t``, as centers."""

    def of_layer(layer):
        c, d = jnp.mean(trees.promote(layer.a), axis=2), jnp.sum(trees.promote(layer.d), axis=2)
        return RankOne(_einsum("bk,bgi->kgi", members, c), _einsum("bk,bgo->kgo", members, d))

    return jax.tree.map(of_layer, factors, is_leaf=_is_layer)


def squares(centers: Any) -> jax.Array:
    """``||C_k||^2`` over all layers, ``(K,)``."""
    of_layer = lambda c, d: jnp.sum(jnp.sum(c**2, axis=2) * jnp.sum(d**2, axis=2), axis=1)
    return functools.reduce(jnp.add, [of_layer(*center) for center in _layers(centers)])


def near_zero(key: jax.Array, factors: Any, num_clusters: int) -> Any:
    """Random centers near zero, shaped as factors are."""

    def of_layer(layer, key):
        (blocks, rows), columns = (layer.a.shape[1], layer.a.shape[3]), layer.d.shape[3]
        draws = jax.random.uniform(key, (num_clusters, blocks, rows + columns))
        draws = draws.astype(trees.accumulator(layer.d.dtype)) * (_START / (rows + columns))
        return RankOne(draws[..., :rows], draws[..., rows:])

    layers, structure = jax.tree.flatten(factors, is_leaf=_is_layer)
    keys = jax.random.split(key, len(layers))  # layers of one shape begin differently
    return structure.unflatten(list(map(of_layer, layers, keys)))


def _factors_of_one(loss_fn: LossFn, params: Any, data: Any) -> dict[str, Any]:
    """The shapes of the factors of one example; what has none and should, is an error."""
    one = jax.tree.map(lambda leaf: jnp.asarray(leaf)[:1], data)
    for row in per_example.explain(loss_fn)(params, one).rows:
        if "arrangements" in row.reason:
            raise ValueError(
                f"method 'rank1' cannot do {row.leaf}: it is {row.reason}, so its gradient is no "
                "sum of outer products; use 'sketch' or 'exact'"
            )
    found = jax.eval_shape(per_example.factors(loss_fn), params, one)
    if not found:
        raise ValueError(
            "method 'rank1' needs a leaf of params that is used in products or convolutions, "
            "there is none; use 'sketch' or 'exact'"
        )
    return found


def _layers(tree: Any) -> list[Any]:
    return jax.tree.leaves(tree, is_leaf=_is_layer)


def _is_layer(node: Any) -> bool:
    return isinstance(node, (per_example.Factors, RankOne))


def _counts(assignments: jax.Array, number: int) -> jax.Array:
    return jnp.zeros(number).at[assignments].add(1)


def _own(distances: jax.Array, assignments: jax.Array) -> jax.Array:
    return jnp.take_along_axis(distances, assignments[:, None], axis=1)[:, 0]


def _einsum(subscripts: str, *operands: jax.Array) -> jax.Array:
    dtype = trees.accumulator(jnp.result_type(*operands))
    return jnp.einsum(subscripts, *operands, precision=_HIGHEST, preferred_element_type=dtype)
