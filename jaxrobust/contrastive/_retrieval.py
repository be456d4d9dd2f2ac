"""How well embeddings retrieve each other: recall, ranks and average precision, block by block."""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust import trees
from jaxrobust.contrastive import _pairs as pairs
from jaxrobust.contrastive._checks import check_choice, check_range
from jaxrobust.contrastive._passes import by_blocks
from jaxrobust.contrastive._similarity import Similarity, centering, prepared, similarity_of

Ties = Literal["expected", "pessimistic", "optimistic"]
TIES = ("expected", "pessimistic", "optimistic")


class Ranking(NamedTuple):
    """How the queries of one side rank the items of the other, but for those without a match."""

    recall: jax.Array  # (len(ks),): % of queries with a match among the first k
    median_rank: jax.Array  # (): of the first match, the best being 1, rounded down
    mean_rank: jax.Array  # (): likewise, not rounded
    mean_average_precision: jax.Array  # (): in 0..1, over all matches; NaN if not asked for
    num_queries: jax.Array  # (): queries with a match


class Retrieval(NamedTuple):
    """Both directions."""

    x_to_y: Ranking
    y_to_x: Ranking
    rsum: jax.Array  # (): sum of all recalls, in %


def retrieval_metrics(
    x: jax.Array,
    y: jax.Array,
    groups: Any = None,
    *,
    ks: tuple[int, ...] = (1, 5, 10),
    ties: Ties = "expected",
    tolerance: float = 1e-6,
    similarity: Any = "cosine",
    average_precision: bool = False,
    folds: int = 1,
    block_size: int = 512,
) -> Retrieval:
    r"""Recall@K, ranks and mean average precision, with x as queries, and with y.

    The rank of a query is that of its first match among all items of the other side, by descending
    score. Scores that differ by at most ``tolerance`` are ties, and what happens to them matters: a
    collapsed model, which gives all items the same score, is perfect if they are broken in its
    favour.

    ================  ============================================================================
    ``expected``      the mean over all orders of tied items: a collapsed model scores chance
    ``pessimistic``   matches come last among tied items
    ``optimistic``    matches come first: never report it alone
    ================  ============================================================================

    Args:
      x: ``(n, D)`` floating, embeddings, such as of images.
      y: ``(m, D)``, such as of captions.
      groups: which belong together. None: row i to row i. ``(m,)`` int: the row of x that each y
        belongs to, such as the image of a caption. A tuple of ids ``(n,)`` and ``(m,)``, int: those
        with equal ids, such as class labels.
      ks: the K of Recall@K.
      ties: see the table.
      tolerance: of scores, 0 or more. Products of float32 differ by rounding even where embeddings
        are the same; where scores are much larger than 1, as ``"dot"`` and ``"euclidean"`` may
        have them, by more.
      similarity: as in :func:`hinge_loss`.
      average_precision: whether to compute that; it sorts all scores. Ties are then chains of
        scores, each within ``tolerance`` of the next.
      folds: the rows of x are cut into so many parts, each is evaluated with its own y, and what is
        returned is the mean; n must be a multiple of it.
      block_size: queries whose scores are formed at once: memory ``(block_size, m)``, or n.

    Returns:
      :class:`Retrieval`.

    Raises:
      ValueError: for shapes that do not fit, embeddings that are not finite or no query with a
        match (unless traced), and numbers or names out of range.
      TypeError: for groups that are not integers, embeddings that are not floating.

    Source:
      Recall, ranks and folds as in the code of Faghri et al., arXiv:1707.05612, which breaks ties
      by the order of a sort. Expected average precision: McSherry and Najork, ECIR 2008.
    """
    x, y = pairs.check_embeddings("x", x), pairs.check_embeddings("y", y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y must have the same number of columns, got {x.shape}, {y.shape}")
    check_choice("ties", ties, TIES)
    check_range("tolerance", tolerance, 0, None)
    ks = tuple(trees.check_count("ks", k) for k in np.atleast_1d(np.asarray(ks)).tolist())
    if not ks:
        raise ValueError("ks must not be empty")
    folds = trees.check_count("folds", folds)
    x, y = trees.bring_together((x, y))
    ids_x, ids_y = trees.bring_together(_ids(groups, len(x), len(y)))
    options = _Options(
        similarity_of(similarity), ks, ties, float(tolerance), bool(average_precision),
        trees.check_count("block_size", block_size),
    )  # fmt: skip
    if folds == 1:
        return _metrics(options, x, y, ids_x, ids_y)
    parts = [_metrics(options, *part) for part in _folds(x, y, ids_x, ids_y, folds)]
    return jax.tree.map(lambda *leaves: jnp.mean(jnp.stack(leaves).astype(float), axis=0), *parts)


class _Options(NamedTuple):
    similarity: Similarity
    ks: tuple[int, ...]
    ties: Ties
    tolerance: float
    average_precision: bool
    block_size: int


def _ids(groups: Any, num_x: int, num_y: int) -> tuple[jax.Array, jax.Array]:
    if groups is None:
        if num_x != num_y:
            raise ValueError(
                f"x and y must have as many rows, got {num_x} and {num_y}; or give groups"
            )
        own = jnp.arange(num_x, dtype=jnp.int32)
        return own, own
    if isinstance(groups, tuple) and len(groups) == 2:
        return (
            pairs.check_labels("groups[0]", groups[0], num_x),
            pairs.check_labels("groups[1]", groups[1], num_y),
        )
    of_y = pairs.check_labels("groups", groups, num_y)
    if not isinstance(of_y, Tracer):
        found = np.asarray(of_y)
        wrong = (found < 0) | (found >= num_x)
        if wrong.any():
            raise ValueError(
                f"groups must be rows of x, in 0..{num_x - 1}; {wrong.sum()} are not, the first of "
                f"y {int(np.argmax(wrong))}"
            )
    return jnp.arange(num_x, dtype=of_y.dtype), of_y


def _folds(x, y, ids_x, ids_y, folds: int):
    if any(isinstance(array, Tracer) for array in (x, y, ids_x, ids_y)):
        raise ValueError("folds must be 1 under jit: their sizes depend on the groups")
    if len(x) % folds:
        raise ValueError(f"folds must divide the {len(x)} rows of x, got {folds}")
    size = len(x) // folds
    ids_x, ids_y = np.asarray(ids_x), np.asarray(ids_y)
    for number in range(folds):
        rows = slice(number * size, (number + 1) * size)
        (mine,) = np.nonzero(np.isin(ids_y, ids_x[rows]))
        if mine.size == 0:
            raise ValueError(f"folds must leave a y to every part of x; part {number} has none")
        yield x[rows], y[mine], jnp.asarray(ids_x[rows]), jnp.asarray(ids_y[mine])


def _metrics(options: _Options, x, y, ids_x, ids_y) -> Retrieval:
    found = _both(options, x, y, ids_x, ids_y)
    counts = (found.x_to_y.num_queries, found.y_to_x.num_queries)
    if not any(isinstance(count, Tracer) for count in counts) and not all(map(int, counts)):
        raise ValueError("groups must let at least one x belong to a y; none does")
    return found


@functools.partial(jax.jit, static_argnums=0)
def _both(options: _Options, x, y, ids_x, ids_y) -> Retrieval:
    similarity = options.similarity
    centered = centering(similarity, x)
    # In float32 at least: nothing of embeddings in half precision is rounded once more.
    x, y = (prepared(similarity, trees.promote(centered(z))) for z in (x, y))
    flipped = lambda a, b: similarity.scores(b, a).T
    one = _ranking(options, similarity.scores, x, y, ids_x, ids_y)
    other = _ranking(options, flipped, y, x, ids_y, ids_x)
    return Retrieval(one, other, jnp.sum(one.recall) + jnp.sum(other.recall))


class _Found(NamedTuple):
    """What a query sees."""

    above: jax.Array  # (n,) int: items above its best match that are none
    tied: jax.Array  # (n,) int: items tied with it that are none
    matches: jax.Array  # (n,) int: matches tied with it, itself among them
    there: jax.Array  # (n,) bool: whether it has a match
    precision: jax.Array  # (n,): average precision


def _ranking(options: _Options, scores_of, queries, items, ids_queries, ids_items) -> Ranking:
    def of_query(scores, own):
        match = own == ids_items
        best = jnp.max(jnp.where(match, scores, -jnp.inf))
        off = scores - best  # one difference for all: rounded otherwise, one may be neither
        above = jnp.sum(~match & (off > options.tolerance))
        tied = jnp.sum(~match & (jnp.abs(off) <= options.tolerance))
        matches = jnp.sum(match & (-off <= options.tolerance))
        # A score that is NaN is no match that was found: it is the last.
        lost = jnp.isnan(best)
        above = jnp.where(lost, jnp.sum(~match), above)
        tied, matches = jnp.where(lost, 0, tied), jnp.where(lost, 1, matches)
        precision = jnp.nan
        if options.average_precision:
            known = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
            precision = jnp.where(lost, 0, _average_precision(known, match, options))
        return _Found(above, tied, matches, jnp.any(match), jnp.asarray(precision, scores.dtype))

    def of_block(block):
        # Of a whole block: row by row, the similarity would not see that items are the same.
        embeddings, own = block
        return jax.vmap(of_query)(scores_of(embeddings, items), own)

    found = by_blocks(of_block, (queries, ids_queries), options.block_size)
    number = jnp.sum(found.there)

    def mean(of):
        total = jnp.sum(jnp.where(found.there, of, 0)) / jnp.maximum(number, 1)
        return jnp.where(number > 0, total, jnp.nan)

    ranks = _ranks(found, options.ties)
    # Queries without a match go to the end, where the median does not see them.
    ordered = jnp.sort(jnp.where(found.there, ranks, jnp.inf))
    middle = (ordered[jnp.maximum(number - 1, 0) // 2] + ordered[number // 2]) / 2
    return Ranking(
        recall=jnp.stack([100 * mean(_recall(found, k, options.ties)) for k in options.ks]),
        median_rank=jnp.where(number > 0, jnp.floor(middle) + 1, jnp.nan),
        mean_rank=mean(ranks) + 1,
        mean_average_precision=mean(found.precision) if options.average_precision else
        jnp.asarray(jnp.nan, ranks.dtype),
        num_queries=number,
    )  # fmt: skip


def _ranks(found: _Found, ties: Ties) -> jax.Array:
    """Ranks from 0; the expected one of the first of several matches among tied items."""
    if ties == "optimistic":
        return found.above.astype(float)
    if ties == "pessimistic":
        return (found.above + found.tied).astype(float)
    return found.above + found.tied / (found.matches + 1)


def _recall(found: _Found, k: int, ties: Ties) -> jax.Array:
    """Whether a match is among the first k; for expected ties, with which probability."""
    if ties != "expected":
        return (_ranks(found, ties) < k).astype(float)
    # None of the matches is among the r first of the tied items: C(t, r) / C(t + p, r), which is
    # the product of (t - i) / (t + p - i).
    places = k - found.above

    def draw(i, missed):
        factor = jnp.maximum(found.tied - i, 0) / jnp.maximum(found.tied + found.matches - i, 1)
        return missed * jnp.where(i < places, factor, 1)

    missed = jax.lax.fori_loop(0, k, draw, jnp.ones_like(places, float))
    return jnp.where(places > 0, 1 - missed, 0)


def _average_precision(scores: jax.Array, match: jax.Array, options: _Options) -> jax.Array:
    """Of one query, ``()``; 0 without a match."""
    # A group of ties is a chain of scores each within the tolerance of the next.
    ordered, relevant = jax.lax.sort((-scores, match.astype(jnp.int32)), num_keys=1)
    place = jnp.arange(len(scores))
    is_first = jnp.concatenate([jnp.array([True]), jnp.diff(ordered) > options.tolerance])
    start = jax.lax.cummax(jnp.where(is_first, place, 0))
    is_last = jnp.concatenate([is_first[1:], jnp.array([True])])
    end = jax.lax.cummin(jnp.where(is_last, place, len(scores)), reverse=True)
    until = jnp.cumsum(relevant)
    before = jnp.where(start > 0, until[jnp.maximum(start - 1, 0)], 0)
    inside = until[end] - before  # matches of the group
    size, number = end - start + 1, place - start  # of the group; place in it, from 0
    if options.ties == "expected":
        others = jnp.where(size > 1, (inside - 1) / jnp.maximum(size - 1, 1), 0)
        chance, found = inside / size, before + 1 + number * others
    else:
        first = 0 if options.ties == "optimistic" else size - inside
        among = number - first  # place among the matches of the group
        chance = ((among >= 0) & (among < inside)).astype(float)
        found = before + 1 + among
    return jnp.sum(chance * found / (place + 1)) / jnp.maximum(jnp.sum(relevant), 1)
