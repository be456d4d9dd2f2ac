"""Clusters of points: against enumeration, definitions and invariances."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import clustering
from jaxrobust.clustering import _hartigan, _sample, _sums
from jaxrobust.clustering._seeding import seed_centers
from jaxrobust.clustering._smallest import smallest
from tests.clustering import oracles

KEY = jax.random.key(0)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("objective", oracles.OBJECTIVES)
def test_the_objective_is_its_definition(objective, x64):
    points, assignments = normal(40, 7), np.random.default_rng(1).integers(0, 5, 40)
    found = clustering.objective(points, assignments, 5, objective=objective)
    expected = oracles.OBJECTIVES[objective](points, assignments)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_identities_of_the_objective(x64):
    points, assignments = normal(20, 3), np.arange(20) % 4
    value = lambda x, a=assignments, k=4: clustering.objective(x, a, k)
    whole = 20 * np.sum((points - points.mean(0)) ** 2)
    np.testing.assert_allclose(value(points, np.zeros(20, int), 1), whole, rtol=1e-12)
    assert value(points, np.arange(20), 20) == 0
    rotation, _ = np.linalg.qr(normal(3, 3))
    for other in (points + 100, points @ rotation, points):
        np.testing.assert_allclose(value(other), value(points), rtol=1e-9)
    np.testing.assert_allclose(value(3 * points), 9 * value(points), rtol=1e-12)
    relabelled = np.array([2, 0, 3, 1])[assignments]
    np.testing.assert_allclose(value(points, relabelled), value(points), rtol=1e-12)


@pytest.mark.parametrize("objective", oracles.OBJECTIVES)
@pytest.mark.parametrize("num_clusters", [2, 3, 4])
def test_restarts_reach_the_optimum_and_nothing_is_below_it(objective, num_clusters):
    for seed in range(4):
        points = normal(8, 2, seed=seed)
        best = oracles.best(points, num_clusters, objective)
        found = [
            clustering.fit(
                points, num_clusters, key=key, objective=objective, tolerance=0.0, block_size=1
            )
            for key in jax.random.split(KEY, 12)
        ]
        values = np.array([f.objective for f in found])
        assert np.all(values >= best * (1 - 1e-5))
        np.testing.assert_allclose(values.min(), best, rtol=1e-5)


def test_in_one_dimension_k_means_is_contiguous_and_pairwise_need_not_be():
    values = normal(40)
    runs = [
        clustering.fit(values[:, None], 3, key=key, objective="kmeans", tolerance=0.0)
        for key in jax.random.split(KEY, 20)
    ]
    best = min(float(run.objective) for run in runs)
    np.testing.assert_allclose(best, oracles.contiguous_kmeans(values, 3), rtol=1e-5)
    # Eight points at 0 and two outliers on either side: together they cost 4, apart 8.
    points = np.array([0.0] * 8 + [-1.0, 1.0])[:, None]
    start = np.array([0] * 8 + [1, 1])
    stays = clustering.fit(points, 2, key=KEY, init=jnp.asarray(start), tolerance=0.0)
    assert stays.objective == 4.0
    np.testing.assert_array_equal(stays.assignments, start)


@pytest.mark.parametrize("one_is_empty", [False, True])  # the best move is then always there
@pytest.mark.parametrize("objective", oracles.OBJECTIVES)
def test_the_change_of_a_move_is_exact(objective, one_is_empty, x64):
    points, assignments = normal(30, 4), np.random.default_rng(2).integers(0, 4, 30)
    if one_is_empty:
        assignments[assignments == 3] = 2
    every = jnp.ones(30)
    sums = _sums.centered_sums(jnp.asarray(points), jnp.asarray(assignments), 4)
    proposal = _hartigan.propose(
        sums, jnp.asarray(points), every, jnp.asarray(assignments), objective
    )
    value = oracles.OBJECTIVES[objective]
    before = value(points, assignments)
    for i in range(30):
        moved = assignments.copy()
        changes = []
        for k in range(4):
            moved[i] = k
            changes.append(value(points, moved) - before if k != assignments[i] else np.inf)
        np.testing.assert_allclose(proposal.change[i], min(changes), rtol=1e-10, atol=1e-10)
        assert proposal.target[i] == np.argmin(changes)


@pytest.mark.parametrize("block_size", [1, 16, 1000])
@pytest.mark.parametrize("objective", oracles.OBJECTIVES)
def test_no_pass_raises_the_objective(objective, block_size):
    # From all in one cluster, where every point of a block wants to leave for the same other one.
    points = normal(300, 5) * np.random.default_rng(3).gamma(0.3, size=(300, 1))
    start = jnp.zeros(300, jnp.int32)
    values = [float(clustering.objective(points, start, 10, objective=objective))]
    for passes in range(1, 8):
        found = clustering.fit(
            points, 10, key=KEY, objective=objective, init=start, max_passes=passes,
            tolerance=0.0, block_size=block_size,
        )  # fmt: skip
        values.append(float(found.objective))
    assert np.all(np.diff(values) <= 1e-6 * values[0])
    assert values[-1] < 0.6 * values[0]


def test_frozen_sizes_raise_the_pairwise_objective():
    # The published assignment step, argmin N_k ||x - mu_k||^2 with N_k frozen: not a descent.
    points = normal(200, 10)
    start = np.random.default_rng(4).integers(0, 10, 200)
    means = np.stack([points[start == k].mean(0) for k in range(10)])
    distances = ((points[:, None] - means[None]) ** 2).sum(-1)
    frozen = np.argmin(np.bincount(start, minlength=10)[None] * distances, axis=1)
    before = float(clustering.objective(points, start, 10))
    assert float(clustering.objective(points, frozen, 10)) > before
    assert float(clustering.fit(points, 10, key=KEY, init=start).objective) < before


def test_blocks_are_as_good_as_one_point_at_a_time():
    points = normal(600, 20) * np.random.default_rng(5).gamma(0.5, size=(600, 1))
    fits = lambda size: [
        float(clustering.fit(points, 20, key=key, block_size=size, tolerance=1e-4).objective)
        for key in jax.random.split(KEY, 5)
    ]
    assert np.mean(fits(None)) <= 1.03 * np.mean(fits(1))


@pytest.mark.parametrize("objective", oracles.OBJECTIVES)
def test_copies_are_found(objective):
    distinct = normal(6, 8) + 50  # far from the origin: no spread may come of rounding
    points = distinct[np.random.default_rng(6).integers(0, 6, 100)]
    found = clustering.fit(points, 6, key=KEY, objective=objective, init="farthest")
    assert found.objective <= 1e-9
    assert len(np.unique(found.assignments)) == 6


@pytest.mark.parametrize("seeding", ["k-means++", "farthest"])
def test_copies_are_found_far_from_the_origin(seeding):
    """Where squared norms round more than the squared distance of the two kinds, 1."""
    points = np.full((8, 8), 1e4, np.float32)
    points[1::2, 0] += 1
    found = clustering.fit(jnp.asarray(points), 2, key=KEY, init=seeding)
    assert found.objective == 0
    kinds = np.asarray(found.assignments).reshape(4, 2)
    assert (kinds == kinds[:1]).all()


@pytest.mark.parametrize("objective", oracles.OBJECTIVES)
def test_points_whose_squares_vanish(objective):
    points = normal(15, 3).astype(np.float32)[np.arange(15) // 5] + 1e-3 * normal(15, 3, seed=1)
    plain = clustering.fit(jnp.asarray(points, jnp.float32), 3, key=KEY, objective=objective)
    for scale in (2.0**-80, 2.0**-45):  # 1e-24; 3e-14, whose objective has not vanished
        small = jnp.asarray(scale * points, jnp.float32)
        found = clustering.fit(small, 3, key=KEY, objective=objective)
        np.testing.assert_array_equal(found.assignments, plain.assignments)
        np.testing.assert_allclose(found.centers / scale, plain.centers, rtol=1e-6)
    np.testing.assert_allclose(found.objective / scale**2, plain.objective, rtol=1e-5)
    np.testing.assert_allclose(found.spreads / scale**2, plain.spreads, rtol=1e-5)


def test_no_cluster_stays_empty():
    points = normal(50, 3)
    found = clustering.fit(points, 7, key=KEY, init=jnp.zeros(50, jnp.int32))
    assert np.all(found.sizes > 0)
    assert np.sum(found.sizes) == 50
    assert np.all(clustering.fit(points, 50, key=KEY, tolerance=0.0).sizes == 1)


def test_what_is_returned_belongs_together():
    points = normal(90, 4)
    found = clustering.fit(points, 6, key=KEY)
    np.testing.assert_array_equal(found.sizes, np.bincount(found.assignments, minlength=6))
    for k in range(6):
        members = points[np.asarray(found.assignments) == k]
        np.testing.assert_allclose(found.centers[k], members.mean(0), atol=1e-5)
        spread = np.sum((members - members.mean(0)) ** 2)
        np.testing.assert_allclose(found.spreads[k], spread, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        found.objective, oracles.pairwise(points, np.asarray(found.assignments)), rtol=1e-5
    )
    assert found.converged
    cut = clustering.fit(points, 6, key=KEY, max_passes=1, tolerance=0.0)
    assert not cut.converged
    assert cut.num_passes == 1


def test_the_same_key_gives_the_same_clusters_and_jit_changes_nothing():
    points = jnp.asarray(normal(80, 5), jnp.float32)
    fit = lambda points, key: clustering.fit(points, 5, key=key)
    once, again = fit(points, KEY), jax.jit(fit)(points, KEY)
    np.testing.assert_array_equal(once.assignments, fit(points, KEY).assignments)
    np.testing.assert_array_equal(once.assignments, again.assignments)
    several = jax.vmap(fit, (None, 0))(points, jax.random.split(KEY, 3))
    alone = fit(points, jax.random.split(KEY, 3)[1])
    np.testing.assert_array_equal(several.assignments[1], alone.assignments)


def test_a_warm_start_ends_where_it_began():
    points = normal(200, 6)
    first = clustering.fit(points, 8, key=KEY, tolerance=0.0)
    again = clustering.fit(points, 8, key=KEY, init=first.assignments)
    assert again.num_passes == 1
    np.testing.assert_allclose(again.objective, first.objective, rtol=1e-6)


@pytest.mark.parametrize("objective", oracles.OBJECTIVES)
def test_further_points_go_where_they_add_least(objective, x64):
    """By definition, one after the other."""
    points, others = normal(60, 4) + 100, normal(25, 4, seed=1) * 1.5 + 100
    found = clustering.fit(points, 5, key=KEY, objective=objective)
    assigned = np.asarray(clustering.assign(found, others, objective=objective))
    centers = np.asarray(found.centers)
    sizes, spreads = np.array(found.sizes, float), np.array(found.spreads)
    for other, cluster in zip(others, assigned, strict=True):
        distances = ((other - centers) ** 2).sum(axis=1)
        grown = (sizes + 1) * (spreads + distances) - sizes * spreads
        assert cluster == np.argmin(grown if objective == "pairwise" else distances)
        sizes[cluster] += 1
        spreads[cluster] += distances[cluster]
    jitted = jax.jit(lambda x: clustering.assign(found, x, objective=objective))(others)
    np.testing.assert_array_equal(assigned, jitted)


def test_further_points_do_not_all_run_to_the_smallest_cluster():
    points = normal(400, 30)
    found = clustering.fit(points, 8, key=KEY)
    sizes = np.bincount(clustering.assign(found, normal(400, 30, seed=1)), minlength=8)
    assert sizes.min() > 25


def test_further_points_that_do_not_fit():
    points = normal(20, 4)
    found = clustering.fit(points, 3, key=KEY)
    with pytest.raises(ValueError, match=r"length of the centers, got \(5, 3\) and centers"):
        clustering.assign(found, normal(5, 3))
    with pytest.raises(ValueError, match="points must be finite; 1 of 20 are not: 2"):
        clustering.assign(found, np.where(np.arange(20)[:, None] == 2, np.nan, points))
    with pytest.raises(ValueError, match="objective must be one of"):
        clustering.assign(found, points, objective="best")  # type: ignore[arg-type]
    by_leaf = found._replace(centers={"w": jnp.zeros((3, 4))})
    with pytest.raises(ValueError, match="centers by leaf"):
        clustering.assign(by_leaf, points)


@pytest.mark.parametrize("seeding", ["k-means++", "farthest"])
def test_seeds_are_different_points(seeding):
    points = jnp.asarray(np.repeat(normal(12, 3), 10, axis=0), jnp.float32)
    for key in jax.random.split(KEY, 5):
        seeds = seed_centers(key, points, 12, seeding)
        assert len(np.unique(np.asarray(seeds) // 10)) == 12


def test_seeds_of_k_means_plus_plus_have_their_distribution():
    points = jnp.asarray([[0.0], [1.0], [3.0]], jnp.float32)
    keys = jax.random.split(KEY, 4000)
    seeds = np.asarray(jax.vmap(lambda k: seed_centers(k, points, 2, "k-means++"))(keys))
    after_zero = seeds[seeds[:, 0] == 0, 1]
    # Squared distances 1 and 9: the farther with probability 0.9, 4 standard errors of about 1300.
    assert abs(np.mean(after_zero == 2) - 0.9) < 4 * np.sqrt(0.09 / len(after_zero))


BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "shape": (np.zeros(5), {}, r"points must be of shape \(N, d\)"),
    "dtype": (np.zeros((5, 2), int), {}, "points.*floating"),
    "not finite": (np.array([[1.0], [np.nan], [np.inf], [2.0]]), {}, r"2 of 4 are not: 1, 2"),
    "too large": (np.full((5, 2), 1e19, np.float32), {}, r"points.*largest entry is 1e\+19: scale"),
    "no clusters": (
        np.ones((5, 2)),
        {"num_clusters": 0},
        "num_clusters must be an integer in 1..5",
    ),
    "too many": (np.ones((5, 2)), {"num_clusters": 6}, "num_clusters must be an integer in 1..5"),
    "objective": (np.ones((5, 2)), {"objective": "medoids"}, "objective must be one of"),
    "init": (np.ones((5, 2)), {"init": "random"}, "init must be one of"),
    "range": (np.ones((5, 2)), {"init": np.array([0, 1, 2, 0, -1])}, r"2 are not, of points 2, 4"),
    "length": (np.ones((5, 2)), {"init": np.zeros(4, int)}, r"init must be of shape \(5,\)"),
    "floats": (np.ones((5, 2)), {"init": np.zeros(5)}, "init must be integers"),
    "passes": (np.ones((5, 2)), {"max_passes": 0}, "max_passes must be an integer of at least 1"),
    "blocks": (np.ones((5, 2)), {"block_size": 0}, "block_size must be an integer of at least 1"),
    "tolerance": (np.ones((5, 2)), {"tolerance": np.nan}, "tolerance must be at least 0"),
}


@pytest.mark.parametrize("problem", BAD)
def test_bad_input(problem):
    points, options, message = BAD[problem]
    with pytest.raises((ValueError, TypeError), match=message):
        clustering.fit(points, **{"num_clusters": 2, "key": KEY, **options})


@pytest.mark.parametrize("objective", ["pairwise", "kmeans"])
def test_fitting_few_points_first(objective):
    """As good as from all points, and the same clusters where they are clear."""
    rng = np.random.default_rng(3)
    centers = rng.normal(size=(6, 8)) * 5
    groups = rng.integers(0, 6, 600)
    points = jnp.asarray(centers[groups] + rng.normal(size=(600, 8)), jnp.float32)
    fit = functools.partial(clustering.fit, points, 6, key=KEY, objective=objective)
    few, all_points = fit(sample_size=60), fit(sample_size=600)
    assert float(few.objective) <= 1.01 * float(all_points.objective)
    np.testing.assert_allclose(
        few.objective,
        clustering.objective(points, few.assignments, 6, objective=objective),
        rtol=1e-5,
    )
    with pytest.raises(ValueError, match="sample_size must be at least num_clusters, 6, got 5"):
        fit(sample_size=5)
    with pytest.raises(ValueError, match="sample_size"):
        fit(sample_size=0)


def test_few_points_that_are_far_away_get_clusters_of_their_own():
    """Among a sample of 1 in 9 they are seen, for they are drawn by their distance."""
    centers = 3 * normal(10, 8)
    points = np.concatenate(
        [centers[np.arange(2_700) % 10] + 0.05 * normal(2_700, 8, seed=1), 40 * normal(20, 8)]
    )
    # 20 clusters of a far point each and 4 of the others: about 70,000, local optima up to 110,000.
    # A sample of points alike has 0 to 3 of the 20, and ends at 440,000 to 4,500,000.
    for seed in range(6):
        found = clustering.fit(points, 24, key=jax.random.key(seed), sample_size=300, max_passes=10)
        assert found.objective < 200_000


def test_a_sample_stands_for_all_points():
    """Sums over it, with its weights, are those over all points, on the average."""
    points = normal(200, 3) * np.random.default_rng(4).gamma(0.3, size=(200, 1)) + 1
    keys = jax.random.split(KEY, 4_000)
    drawn, weights = jax.vmap(lambda key: _sample.draw(key, jnp.asarray(points), 20))(keys)
    for function in (
        lambda x: jnp.ones(x.shape[:-1]),
        lambda x: x[..., 0],
        lambda x: x[..., 1] ** 2,
    ):
        sums = np.sum(weights * function(drawn), axis=1)
        wanted = float(np.sum(function(jnp.asarray(points))))
        error = np.std(sums) / np.sqrt(len(sums))
        assert abs(np.mean(sums) - wanted) < 4 * error
        assert error < 0.05 * abs(wanted)
    for sample in drawn[:20]:
        assert len(np.unique(sample, axis=0)) == 20


@pytest.mark.parametrize("objective", oracles.OBJECTIVES)
def test_weights_are_copies(objective, x64):
    """A pass over points that count two and three times, and the change of their moves."""
    points = jnp.asarray(normal(30, 4))
    weights = np.random.default_rng(5).integers(1, 4, 30)
    copies = np.repeat(np.asarray(points), weights, axis=0)
    start = np.random.default_rng(2).integers(0, 4, 30)
    value = oracles.OBJECTIVES[objective]
    sums = _sums.sums_about_members(points, jnp.asarray(start), 4, jnp.asarray(weights, float))
    proposal = _hartigan.propose(
        sums, points, jnp.asarray(weights, float), jnp.asarray(start), objective
    )
    before = value(copies, np.repeat(start, weights))
    for i in range(30):
        moved = start.copy()
        moved[i] = proposal.target[i]
        change = value(copies, np.repeat(moved, weights)) - before
        np.testing.assert_allclose(proposal.change[i], change, rtol=1e-10, atol=1e-10)
    found = _hartigan.pass_until(
        points, jnp.asarray(weights, float), jnp.asarray(start), None, 4, objective,
        max_passes=20, tolerance=0.0, block_size=1,
    )  # fmt: skip
    wanted = value(copies, np.repeat(np.asarray(found.assignments), weights))
    np.testing.assert_allclose(found.objective, wanted, rtol=1e-10)
    assert found.objective < before


@pytest.mark.parametrize("objective", oracles.OBJECTIVES)
def test_points_join_a_sample(objective, x64):
    """By hand: blocks of 128, by the sums of the sample and of the blocks before."""
    points, sample = normal(300, 3), normal(40, 3, seed=1)
    groups = np.random.default_rng(3).integers(0, 5, 40)
    few = _sums.centered_sums(jnp.asarray(sample), jnp.asarray(groups), 5)
    assigned, sums = _sample.join(few, jnp.asarray(points), objective)
    members = [list(sample[groups == k]) for k in range(5)]
    wanted = np.zeros(300, int)
    for begin in 128 * np.random.default_rng(0).permutation(3):
        means = [np.mean(m, axis=0) for m in members]
        sizes = np.array([len(m) for m in members], float)
        spreads = np.array([np.sum((m - np.mean(m, axis=0)) ** 2) for m in members])
        block = range(begin, min(begin + 128, 300))
        for i in block:
            distances = np.sum((means - points[i]) ** 2, axis=1)
            costs = spreads + (sizes + 1) * distances if objective == "pairwise" else distances
            wanted[i] = int(np.argmin(costs))
        for i in block:
            members[wanted[i]].append(points[i])
    np.testing.assert_array_equal(assigned, wanted)
    exact = _sums.centered_sums(jnp.asarray(points), assigned, 5)
    np.testing.assert_allclose(sums.counts, exact.counts)
    np.testing.assert_allclose(sums.centers, exact.centers, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(sums.spreads, exact.spreads, rtol=1e-9)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32])
def test_the_smallest_of_rows(dtype):
    rows = jnp.asarray(np.random.default_rng(6).integers(0, 4, (500, 9)), dtype)  # many are equal
    found, values = smallest(rows)
    np.testing.assert_array_equal(found, np.argmin(rows, axis=1))
    np.testing.assert_array_equal(values, np.min(rows, axis=1))
    if dtype != jnp.int32:
        odd = jnp.array(
            [[jnp.inf, jnp.inf], [jnp.inf, -jnp.inf], [jnp.nan, 1], [1, jnp.nan]], dtype
        )
        found = np.asarray(smallest(odd)[0])
        assert found[:2].tolist() == [0, 1]
        assert set(found) <= {0, 1}


def sampled(points, num_clusters=5, sample_size=60, **options):
    return clustering.fit(
        points, num_clusters, key=KEY, sample_size=sample_size, **{"max_passes": 1, **options}
    )


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("algorithm", ["hartigan", "lloyd"])
def test_a_fit_from_a_sample_is_the_same_everywhere(algorithm, wide):
    jax.config.update("jax_enable_x64", wide)
    try:
        points = jnp.asarray(np.random.default_rng(7).normal(size=(2, 400, 4)), jnp.float32)
        objective: Any = "kmeans" if algorithm == "lloyd" else "pairwise"
        fit = functools.partial(sampled, algorithm=algorithm, objective=objective)
        plain = fit(points[0])
        assert plain.centers.dtype == jnp.float32
        for found in (
            fit(points[0]),
            jax.jit(fit)(points[0]),
            jax.tree.map(lambda leaf: leaf[0], jax.vmap(fit)(points)),
        ):
            np.testing.assert_array_equal(found.assignments, plain.assignments)
            np.testing.assert_allclose(found.objective, plain.objective, rtol=1e-5)
    finally:
        jax.config.update("jax_enable_x64", False)


@pytest.mark.parametrize("order", ["as they are", "sorted"])
@pytest.mark.parametrize("objective", oracles.OBJECTIVES)
def test_one_pass_from_a_sample_is_nearly_enough(objective, order):
    """Of points with long tails: without the weights of the sample it ends 10 % higher."""
    points = normal(6_000, 4) * np.random.default_rng(3).gamma(0.3, size=(6_000, 1))
    if order == "sorted":
        points = points[np.argsort(points[:, 0])]
    keys = jax.random.split(KEY, 5)
    fit = lambda key, **options: float(
        clustering.fit(
            points, 12, key=key, objective=objective, **{"sample_size": 600, **options}
        ).objective
    )
    short = np.mean([fit(key, max_passes=1) for key in keys])
    long = np.mean([fit(key, max_passes=30, tolerance=1e-5, sample_size=6_000) for key in keys])
    assert short < 1.05 * long


@pytest.mark.parametrize("algorithm", ["hartigan", "lloyd"])
@pytest.mark.parametrize("sample_size", [40, 200])
@pytest.mark.parametrize("distinct", [1, 3])
def test_copies_leave_no_cluster_empty(distinct, sample_size, algorithm):
    points = normal(distinct, 3)[np.arange(200) % distinct]
    objective: Any = "kmeans" if algorithm == "lloyd" else "pairwise"
    found = sampled(points, 7, sample_size=sample_size, algorithm=algorithm, objective=objective)
    assert found.sizes.min() >= 1
    assert found.sizes.sum() == 200
    np.testing.assert_array_equal(found.sizes, np.bincount(found.assignments, minlength=7))
    np.testing.assert_allclose(found.objective, 0, atol=1e-3)


def test_the_smallest_set_that_is_sampled():
    points = normal(121, 3)
    assert sampled(points).sizes.sum() == sampled(points[:120]).sizes.sum() + 1 == 121
