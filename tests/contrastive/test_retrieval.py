"""Retrieval metrics against sorted lists, ties in all orders, and chance."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contrastive import oracles
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxrobust import contrastive
from tests.contrastive.problems import embeddings

TIES: Any = ("expected", "pessimistic", "optimistic")
KS = (1, 3, 10)


def problem(seed=0, num_x=9, captions=(1, 2, 3), dim=4, grid=None):
    """Images with some captions each; on a grid there are ties."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(num_x), rng.choice(captions, num_x))
    rng.shuffle(groups)
    x = rng.normal(size=(num_x, dim))
    y = x[groups] + rng.normal(size=(len(groups), dim))
    if grid:
        x, y = (np.round(z * grid) / grid for z in (x, y))
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32), groups


def check(found, scores, match, ties, rng, draws_error):
    recall, mean_rank, precision, ranks = oracles.ranking(scores, match, KS, ties, rng)
    np.testing.assert_allclose(found.recall, recall, atol=100 * draws_error + 1e-4)
    np.testing.assert_allclose(found.mean_rank, mean_rank, atol=len(scores[0]) * draws_error + 1e-5)
    np.testing.assert_allclose(found.mean_average_precision, precision, atol=draws_error + 1e-6)
    if not draws_error:
        assert found.median_rank == np.floor(np.median(ranks)) + 1
    assert found.num_queries == match.any(axis=1).sum()


@pytest.mark.parametrize("block_size", [2, 512])
@pytest.mark.parametrize("grid", [None, 1])
@pytest.mark.parametrize("ties", TIES)
def test_against_sorted_lists(ties, grid, block_size):
    x, y, groups = problem(grid=grid)
    found = contrastive.retrieval_metrics(
        x, y, groups, ks=KS, ties=ties, similarity="dot", average_precision=True,
        block_size=block_size,
    )  # fmt: skip
    scores = np.asarray(x, np.float64) @ np.asarray(y, np.float64).T
    match = np.arange(len(x))[:, None] == groups[None, :]
    # 400 random orders for each of 9 queries or more: five standard errors of at most 1/2 each.
    error = 5 * 0.5 / np.sqrt(400 * 9) if grid and ties == "expected" else 0.0
    rng = np.random.default_rng(1)
    check(found.x_to_y, scores, match, ties, rng, error)
    check(found.y_to_x, scores.T, match.T, ties, rng, error)
    np.testing.assert_allclose(
        found.rsum, found.x_to_y.recall.sum() + found.y_to_x.recall.sum(), rtol=1e-6
    )


def in_all_orders(scores, match, ks):
    """Recall, mean rank and average precision, exact: the mean over all orders of tied items."""
    number = scores.shape[1]
    recalls, ranks, precisions = [], [], []
    for row, fits in zip(scores, match, strict=True):
        for order in itertools.permutations(range(number)):
            ranked = np.asarray(order)[np.argsort(-row[list(order)], kind="stable")]
            places = np.flatnonzero(fits[ranked])
            ranks.append(places[0] + 1)
            recalls.append([100.0 * (places[0] < k) for k in ks])
            precisions.append(np.mean(np.arange(1, len(places) + 1) / (places + 1)))
    return np.mean(recalls, axis=0), np.mean(ranks), np.mean(precisions)


@pytest.mark.parametrize("seed", range(4))
def test_expected_ties_are_the_mean_of_all_orders(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 3, (5, 6)).astype(np.float32)
    labels_x, labels_y = rng.integers(0, 3, 5), np.array([0, 1, 2, 0, 1, 0])
    # Rows of the unit matrix, so that the inner products are these scores.
    found = contrastive.retrieval_metrics(
        jnp.asarray(scores), jnp.eye(6), (labels_x, labels_y), ks=(1, 2, 4), similarity="dot",
        average_precision=True,
    ).x_to_y  # fmt: skip
    match = labels_x[:, None] == labels_y[None, :]
    recall, rank, precision = in_all_orders(scores, match, (1, 2, 4))
    np.testing.assert_allclose(found.recall, recall, rtol=1e-5)
    np.testing.assert_allclose(found.mean_rank, rank, rtol=1e-5)
    np.testing.assert_allclose(found.mean_average_precision, precision, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("average_precision", [False, True])
def test_a_large_gallery_needs_less_than_a_gibibyte(average_precision):
    """25,000 captions of 5,000 images, D = 256; all scores would be 477 MiB, sorted ones more."""
    num_x, num_y, dim = 5_000, 25_000, 256
    groups = jnp.arange(num_y, dtype=jnp.int32) // 5
    metrics = lambda x, y: contrastive.retrieval_metrics(
        x, y, groups, average_precision=average_precision
    )
    shapes = [jax.ShapeDtypeStruct((n, dim), jnp.float32) for n in (num_x, num_y)]
    analysis: Any = jax.jit(metrics).lower(*shapes).compile().memory_analysis()
    assert analysis.temp_size_in_bytes < 2**30


@pytest.mark.slow
def test_25000_captions_of_5000_images():
    """Against ranks by NumPy in float64, some queries at a time."""
    rng = np.random.default_rng(0)
    groups = np.arange(25_000) // 5
    x = rng.normal(size=(5_000, 32))
    y = x[groups] + 2.5 * rng.normal(size=(25_000, 32))
    x, y = (np.asarray(z, np.float32) for z in (x, y))
    arrays = jnp.asarray(x), jnp.asarray(y), jnp.asarray(groups)
    found = contrastive.retrieval_metrics(*arrays, ks=(1, 5, 10))
    unit_x, unit_y = (z / np.linalg.norm(z.astype(float), axis=1, keepdims=True) for z in (x, y))
    of_x, of_y = [], []
    for rows in np.split(np.arange(5_000), 10):
        scores = unit_x[rows] @ unit_y.T
        best = scores.reshape(len(rows), 5_000, 5)[np.arange(len(rows)), rows].max(axis=1)
        of_x.append(np.sum(scores > best[:, None], axis=1))
    for rows in np.split(np.arange(25_000), 25):
        scores = unit_y[rows] @ unit_x.T
        own = scores[np.arange(len(rows)), groups[rows]]
        of_y.append(np.sum(scores > own[:, None], axis=1))
    for ranking, above in ((found.x_to_y, of_x), (found.y_to_x, of_y)):
        ranks = np.concatenate(above)
        recall = [100 * np.mean(ranks < k) for k in (1, 5, 10)]
        assert 1 < recall[0] < 99
        # Scores in float32 may exchange a few neighbours.
        np.testing.assert_allclose(ranking.recall, recall, atol=0.05)
        np.testing.assert_allclose(ranking.mean_rank, 1 + ranks.mean(), rtol=1e-4)
        assert abs(ranking.median_rank - (1 + np.floor(np.median(ranks)))) <= 1


def test_ranks_in_a_large_gallery():
    """Of 40 queries among 25,000 captions, against all scores in float64."""
    rng = np.random.default_rng(0)
    num_y, queries = 25_000, 40
    images = rng.normal(size=(num_y // 5, 256))
    y = np.repeat(images, 5, axis=0) + 9 * rng.normal(size=(num_y, 256))
    x = images[:queries]
    ids = (np.arange(queries), np.arange(num_y) // 5)
    arrays = [jnp.asarray(z, jnp.float32) for z in (x, y)]
    found = contrastive.retrieval_metrics(
        arrays[0], arrays[1], ids, ties="pessimistic", tolerance=0.0
    )
    x, y = (oracles.normalized(z) for z in arrays)
    scores, match = x @ y.T, ids[0][:, None] == ids[1][None, :]
    check_ranks(found.x_to_y, scores, match, least_median=1)
    asked = match.any(axis=0)  # captions of other images have no match, and no rank
    check_ranks(found.y_to_x, scores.T[asked], match.T[asked], least_median=0)


def check_ranks(found, scores, match, least_median):
    """Pessimistic ranks of all queries, but for those whose best match is nearly tied."""
    best = np.where(match, scores, -np.inf).max(axis=1)
    ranks = 1 + np.sum(~match & (scores >= best[:, None]), axis=1)
    # So far apart that float32 puts them in the same order.
    gaps = np.abs(np.where(match, np.inf, scores) - best[:, None]).min(axis=1)
    sure = gaps > 1e-6
    assert sure.mean() > 0.9
    assert least_median < np.median(ranks) < 1_000
    assert found.num_queries == len(ranks)
    np.testing.assert_allclose(
        found.recall, [100 * np.mean(ranks <= k) for k in (1, 5, 10)],
        atol=100 * np.mean(~sure) + 1e-4,
    )  # fmt: skip
    assert abs(float(found.mean_rank) - ranks.mean()) <= np.mean(~sure) + 1e-3


@pytest.mark.parametrize("ties", TIES)
def test_class_labels(ties):
    """Many matches for each query; a class that the other side does not have is left out."""
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=(n, 4)), jnp.float32) for n in (20, 30))
    labels_x, labels_y = rng.integers(0, 4, 20), rng.integers(0, 3, 30)
    found = contrastive.retrieval_metrics(
        x, y, (labels_x, labels_y), ks=KS, ties=ties, average_precision=True
    )
    scores = oracles.normalized(x) @ oracles.normalized(y).T
    match = labels_x[:, None] == labels_y[None, :]
    assert not match.any(axis=1).all()
    check(found.x_to_y, scores, match, ties, rng, 0.0)
    check(found.y_to_x, scores.T, match.T, ties, rng, 0.0)


@pytest.mark.parametrize("shape", [(40, 7), (100, 33), (257, 64)])
def test_a_collapsed_model_scores_chance(shape):
    """Five captions for each image: chance of the sampling without replacement."""
    number, dim = shape
    one = np.random.default_rng(0).normal(size=dim)
    x = jnp.asarray(np.tile(one, (number, 1)), jnp.float32)
    y = jnp.repeat(x, 5, axis=0)
    groups = np.repeat(np.arange(number), 5)
    found = contrastive.retrieval_metrics(x, y, groups)
    ks = np.array([1, 5, 10])
    miss = [np.prod([(5 * number - 5 - i) / (5 * number - i) for i in range(k)]) for k in ks]
    np.testing.assert_allclose(found.x_to_y.recall, 100 * (1 - np.array(miss)), rtol=1e-4)
    np.testing.assert_allclose(found.y_to_x.recall, 100 * ks / number, rtol=1e-4)
    worst = contrastive.retrieval_metrics(x, y, groups, ties="pessimistic")
    assert float(worst.rsum) == 0
    best = contrastive.retrieval_metrics(x, y, groups, ties="optimistic")
    assert float(best.rsum) == 600  # the trap


def test_folds_are_the_mean_of_their_parts():
    x, y, groups = problem(num_x=12)
    found = contrastive.retrieval_metrics(x, y, groups, folds=3)
    parts = []
    for rows in np.arange(12).reshape(3, 4):
        mine = np.isin(groups, rows)
        parts.append(contrastive.retrieval_metrics(x[rows], y[mine], groups[mine] - rows[0]))
    for name in ("x_to_y", "y_to_x"):
        np.testing.assert_allclose(
            getattr(found, name).recall, np.mean([getattr(p, name).recall for p in parts], axis=0)
        )
    np.testing.assert_allclose(found.rsum, np.mean([p.rsum for p in parts]), rtol=1e-6)


def test_under_jit():
    x, y, groups = problem()
    function = lambda x, y: contrastive.retrieval_metrics(x, y, groups).rsum
    np.testing.assert_allclose(jax.jit(function)(x, y), function(x, y))


@pytest.mark.parametrize("similarity", ["euclidean", "order", "dot"])
@pytest.mark.parametrize("block_size", [2, 512])
def test_other_similarities(similarity, block_size):
    """One of which is not symmetric: y has to be below x, whichever is the query."""
    x, y, groups = problem()
    a, b = np.asarray(x, np.float64)[:, None], np.asarray(y, np.float64)[None]
    scores = {
        "euclidean": lambda: -np.linalg.norm(a - b, axis=2),
        "order": lambda: -np.linalg.norm(np.maximum(b - a, 0), axis=2),
        "dot": lambda: np.sum(a * b, axis=2),
    }[similarity]()
    match = np.arange(9)[:, None] == groups[None, :]
    found = contrastive.retrieval_metrics(
        x, y, groups, ks=KS, similarity=similarity, average_precision=True, block_size=block_size,
        ties="pessimistic",
    )  # fmt: skip
    rng = np.random.default_rng(0)
    check(found.x_to_y, scores, match, "pessimistic", rng, 0)
    check(found.y_to_x, scores.T, match.T, "pessimistic", rng, 0)


@pytest.mark.parametrize("similarity", ["euclidean", "order"])
def test_no_differences_of_all_pairs_are_kept(similarity):
    """A block of scores is 16 MiB, differences of a block of queries and items would be 4 GiB."""
    n, m, dim, block = 2_048, 8_192, 256, 512
    function = lambda x, y: (
        contrastive.retrieval_metrics(
            x, y, jnp.arange(m) % n, similarity=similarity, block_size=block
        ).rsum
    )
    shapes = [jax.ShapeDtypeStruct((k, dim), jnp.float32) for k in (n, m)]
    analysis: Any = jax.jit(function).lower(*shapes).compile().memory_analysis()
    assert analysis.temp_size_in_bytes < 300 * 2**20


@pytest.mark.parametrize("both_sides", [True, False])
def test_groups_that_are_spread(both_sides):
    """Over explicit mesh axes, as the embeddings are."""
    x, y = embeddings(number=16)
    labels = (jnp.arange(16) % 5, jnp.arange(16) % 5) if both_sides else jnp.arange(16)[::-1]
    wanted = contrastive.retrieval_metrics(x, y, labels)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Explicit,))
    rows = NamedSharding(mesh, PartitionSpec("batch"))
    with jax.set_mesh(mesh):
        found = contrastive.retrieval_metrics(*jax.device_put((x, y, labels), rows))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize(("best", "steps"), [(16.0, 1), (0.5, 17), (0.5, 400)])
def test_an_item_above_the_match_is_above_or_tied(best, steps, ties):
    """Never neither, whatever is rounded: it would be told to be below."""
    above = np.float32(best)
    for _ in range(steps):
        above = np.nextafter(above, np.float32(np.inf))
    y = jnp.asarray([[best], [above]], jnp.float32)
    groups = (np.array([0]), np.array([0, 1]))
    found = contrastive.retrieval_metrics(
        jnp.ones((1, 1)), y, groups, ties=ties, similarity="dot"
    ).x_to_y  # fmt: skip
    is_tied = float(above) - best <= 1e-6
    wanted = {"optimistic": 1.0, "expected": 1.5, "pessimistic": 2.0}[ties] if is_tied else 2.0
    assert float(found.mean_rank) == wanted


def test_nan_is_not_found():
    """Under jit, where it cannot be refused."""
    x, y, groups = problem()
    y = y.at[:].set(jnp.nan)
    found = jax.jit(lambda x, y: contrastive.retrieval_metrics(x, y, groups).rsum)(x, y)
    # Pessimistic: every match is the last; of so few that may still be among the first ten.
    assert (
        float(found)
        <= contrastive.retrieval_metrics(x, jnp.ones_like(y), groups, ties="pessimistic").rsum
        + 1e-6
    )


def test_bad_input():
    x, y, groups = problem()
    cases: Any = (
        ((x, y), {}, "x and y must have as many rows"),
        ((x, y[:, :3], groups), {}, "same number of columns"),
        ((x, y, groups + 1), {}, r"groups must be rows of x, in 0\.\.8"),
        ((x, y, groups), {"ties": "random"}, "ties must be one of"),
        ((x, y, groups), {"folds": 2}, "folds must divide the 9 rows"),
        ((x, y, groups), {"ks": (0,)}, "ks must be an integer of at least 1"),
        ((x, y, (np.zeros(9, int), np.ones(len(y), int))), {}, "groups must let at least one"),
        ((x.at[2].set(np.nan), y, groups), {}, "x must be finite; 1 of 9 rows are not: 2"),
    )
    for arguments, options, message in cases:
        with pytest.raises(ValueError, match=message):
            contrastive.retrieval_metrics(*arguments, **options)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "order"])
def test_half_precision_is_ranked_as_single(dtype, similarity):
    """By the same numbers: normalized rows are not rounded again."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(60, 24)), dtype)
    y = jnp.asarray(np.asarray(x, float) + 0.8 * rng.normal(size=x.shape), dtype)
    found = contrastive.retrieval_metrics(x, y, similarity=similarity)
    wide = contrastive.retrieval_metrics(
        x.astype(jnp.float32), y.astype(jnp.float32), similarity=similarity
    )
    jax.tree.map(np.testing.assert_array_equal, found, wide)
