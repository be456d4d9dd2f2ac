"""Samplers: unbiased by enumeration, right marginals, the same under every transformation."""

import functools
import itertools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.sharding import NamedSharding, PartitionSpec
from sampling import oracles

from jaxrobust import sampling
from jaxrobust.sampling import _samplers

RNG = np.random.default_rng(0)
ASSIGNMENTS = np.array([0, 0, 2, 2, 2, 2, 0, 3])  # cluster 1 is empty
GRADIENTS = RNG.normal(size=(8, 3)) + 1.0
SPREAD = np.array([3.0, 0.0, 0.5, 0.0])
SCORES = np.array([1.0, 2, 3, 1, 0, 1, 5, 2])
# What the enumeration sums up is exact; the library's shares and scores are float32.
TOLERANCE: Any = {"rtol": 3e-5, "atol": 1e-6}


@functools.partial(jax.jit, static_argnums=(1, 2))
def draws(sampler, num_keys, number=0):
    """Indices and weights of the first draw, or a later one, with many keys: (num_keys, B) each."""

    def one(key):
        state = sampler.init(key)
        for _ in range(number):
            _, state = sampler.next(state)
        return sampler.next(state)[0]

    return jax.vmap(one)(jax.random.split(jax.random.key(0), num_keys))


def cases():
    """Samplers of 8 examples with what their enumeration needs: name, sampler, oracle options."""
    one = np.zeros(8, int)
    for replacement in (True, False):
        yield (
            sampling.uniform(8, 3, replacement=replacement),
            {"assignments": one, "shares": np.ones(1), "replacement": replacement},
        )
    mixed = 0.75 * SCORES / SCORES.sum() + 0.25 / 8
    yield (
        sampling.importance(SCORES, 3, uniform_share=0.25),
        {"assignments": one, "shares": np.ones(1), "scores": mixed},
    )
    for batch_size in (3, 4):  # of 3 clusters with members
        allocations: list[tuple[Any, bool]] = [
            ("equal", True),
            ("proportional", True),
            ("neyman", True),
            ("neyman", False),
        ]
        for allocation, cover in allocations:
            for replacement in (True, False):
                spread = SPREAD if allocation == "neyman" else None
                options = {"uniform_share": 0.2, "cover": cover}
                shares = oracles.shares_of(ASSIGNMENTS, batch_size, allocation, spread, **options)
                yield (
                    sampling.stratified(
                        ASSIGNMENTS,
                        batch_size,
                        allocation=allocation,
                        spread=spread,
                        replacement=replacement,
                        **options,
                    ),
                    {"assignments": ASSIGNMENTS, "shares": shares, "replacement": replacement},
                )
    # In every stratum by itself a quarter of the draws ignores the scores.
    sums, sizes = np.bincount(ASSIGNMENTS, SCORES), np.bincount(ASSIGNMENTS)
    within = 0.75 * SCORES / sums[ASSIGNMENTS] + 0.25 / sizes[ASSIGNMENTS]
    yield (
        sampling.stratified(ASSIGNMENTS, 4, scores=SCORES, uniform_share=0.25),
        {
            "assignments": ASSIGNMENTS,
            "shares": oracles.shares_of(ASSIGNMENTS, 4, "equal"),
            "scores": within,
        },
    )
    yield (
        sampling.stratified(
            ASSIGNMENTS, 2, allocation="proportional", scores=SCORES, uniform_share=0.25
        ),
        {
            "assignments": ASSIGNMENTS,
            "shares": oracles.shares_of(ASSIGNMENTS, 2, "proportional"),
            "scores": within,
        },
    )


CASES = list(cases())
# Each kind of draw once; the others, which differ in their numbers alone, in CI.
FEW = (0, 1, 2, 4, 9, 19, 20)


def marginals():
    """Samplers, and the expected share of the draws that each example has."""
    for index in FEW:
        sampler, options = CASES[index]
        shares = np.zeros(8)
        for probability, indices, _ in oracles.batches(batch_size=sampler.batch_size, **options):
            shares += probability * np.bincount(indices, minlength=8) / sampler.batch_size
        yield pytest.param(sampler, shares, id=str(index))
    groups = np.array([0, 0, 0, 1, 2, 2])
    shares = 1 / (3 * np.bincount(groups)[groups])
    yield pytest.param(sampling.redundancy_removed(groups, 2), shares, id="groups")


@pytest.mark.parametrize("number", [0, 3])
@pytest.mark.parametrize(("sampler", "shares"), list(marginals()))
def test_marginals(sampler, shares, number):
    """Of the first draw, and of one to which others have led."""
    num_keys = 4000
    indices = np.asarray(draws(sampler, num_keys, number).indices)
    # One place of each batch, so that the counted ones are independent.
    places = np.random.default_rng(1).integers(0, sampler.batch_size, num_keys)
    counts = np.bincount(indices[np.arange(num_keys), places], minlength=len(shares))
    assert counts[shares == 0].sum() == 0
    wanted = num_keys * shares[shares > 0]
    assert scipy.stats.chisquare(counts[shares > 0], wanted).pvalue > 1e-4


@pytest.mark.parametrize(("sampler", "options"), CASES, ids=range(len(CASES)))
def test_enumeration(sampler, options):
    """Every batch that can come: the estimate is unbiased, and `variance` is its variance."""
    found = oracles.batches(batch_size=sampler.batch_size, **options)
    mean, variance = oracles.mean_and_variance(GRADIENTS, found)
    np.testing.assert_allclose(mean, GRADIENTS.mean(axis=0), rtol=1e-9)
    exact = sampling.variance(jnp.asarray(GRADIENTS, jnp.float32), sampler)
    np.testing.assert_allclose(exact, variance, **TOLERANCE)
    gram = jnp.asarray(GRADIENTS @ GRADIENTS.T, jnp.float32)
    np.testing.assert_allclose(sampling.variance(gram, sampler, gram=True), variance, rtol=1e-4)


@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        pytest.param(*case, id=str(i), marks=() if i in FEW else pytest.mark.slow)
        for i, case in enumerate(CASES)
    ],
)
def test_draws_follow_the_enumeration(sampler, options):
    """Batches that `next` draws are those of the enumeration, as often, and weighted so."""
    num_keys = 4000
    chances: dict[tuple, float] = {}
    weights_of: dict[tuple, np.ndarray] = {}
    for probability, indices, weights in oracles.batches(batch_size=sampler.batch_size, **options):
        # Within a batch the order has no meaning; the members say what the weights are.
        order = np.argsort(indices, kind="stable")
        batch = tuple(indices[order].tolist())
        chances[batch] = chances.get(batch, 0) + probability
        weights_of[batch] = weights[order]
    indices, weights = map(np.asarray, draws(sampler, num_keys))
    counts = dict.fromkeys(chances, 0)
    for row, weight in zip(indices, weights, strict=True):
        order = np.argsort(row, kind="stable")
        batch = tuple(row[order].tolist())
        counts[batch] += 1
        np.testing.assert_allclose(weight[order], weights_of[batch], rtol=1e-5)
    often = [batch for batch, p in chances.items() if p * num_keys >= 5]
    observed = [counts[b] for b in often] + [num_keys - sum(counts[b] for b in often)]
    wanted = [num_keys * chances[b] for b in often]
    wanted.append(num_keys - sum(wanted))
    if wanted[-1] < 1e-6:
        assert observed.pop() == 0
        wanted.pop()
    assert scipy.stats.chisquare(observed, wanted).pvalue > 1e-4


def test_a_pass_visits_every_member_once():
    sampler = sampling.stratified(ASSIGNMENTS, 5, allocation="proportional")

    def step(state, _):
        draw, state = sampler.next(state)
        return state, draw.indices

    _, found = jax.lax.scan(step, sampler.init(jax.random.key(3)), None, length=120)
    found = np.asarray(found).reshape(-1)
    for cluster in (0, 2, 3):
        (members,) = np.nonzero(np.equal(ASSIGNMENTS, cluster))
        visits = [i for i in found if ASSIGNMENTS[i] == cluster]
        passes = [visits[i : i + len(members)] for i in range(0, len(visits), len(members))]
        assert all(sorted(one) == members.tolist() for one in passes[:-1])
        if len(members) > 2:
            assert len({tuple(one) for one in passes}) > 3  # the order differs


def test_uniform_without_replacement_is_epochs():
    sampler = sampling.uniform(10, 4)
    step = jax.jit(lambda state: sampler.next(state))
    state, found = sampler.init(jax.random.key(0)), []
    for _ in range(10):
        draw, state = step(state)
        found.append(np.asarray(draw.indices))
        np.testing.assert_array_equal(draw.weights, 1)
    epochs = np.concatenate(found).reshape(4, 10)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(10), (4, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_published_weights():
    """One draw of each of M clusters weighs M N_k / N."""
    sampler = sampling.stratified(ASSIGNMENTS, 3)
    draw, _ = sampler.next(sampler.init(jax.random.key(0)))
    np.testing.assert_allclose(np.sort(draw.weights), np.array([1, 3, 4]) * 3 / 8, rtol=1e-6)


_FIFTHS = np.arange(50) % 5
SAMPLERS = {
    "uniform": sampling.uniform(50, 7),
    "uniform, replacement": sampling.uniform(50, 7, replacement=True),
    "equal": sampling.stratified(_FIFTHS, 7),
    "neyman": sampling.stratified(
        _FIFTHS, 7, allocation="neyman", spread=np.arange(5.0), cover=False
    ),
    "scores within strata": sampling.stratified(_FIFTHS, 7, scores=np.arange(50.0)),
    "importance": sampling.importance(np.arange(50.0), 7),
    "stratified": sampling.stratified(np.arange(50) % 5, 7, allocation="proportional"),
    "redundancy_removed": sampling.redundancy_removed(np.arange(50) // 3, 7),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_same_draws_everywhere(name):
    """Eagerly, jitted, without jit, in a scan, mapped over keys, and on a mesh of 8 devices."""
    sampler = SAMPLERS[name]

    def run(sampler, key):
        def step(state, _):
            draw, state = sampler.next(state)
            return state, draw

        return jax.lax.scan(step, sampler.init(key), None, length=12)[1]

    keys = jax.random.split(jax.random.key(1), 2)
    jitted = jax.jit(run)
    wanted = jitted(sampler, keys[1])
    state, eager = sampler.init(keys[1]), []
    for _ in range(12):
        draw, state = sampler.next(state)
        eager.append(draw)
    eager = jax.tree.map(lambda *rows: jnp.stack(rows), *eager)
    chex.assert_trees_all_equal(wanted, eager)
    with jax.disable_jit():
        draw, _ = sampler.next(sampler.init(keys[1]))
    chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf[0], wanted), draw)
    chex.assert_trees_all_equal(
        wanted, jax.tree.map(lambda x: x[1], jax.vmap(run, (None, 0))(sampler, keys))
    )
    for axis_type in (jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit):
        mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
        whole = NamedSharding(mesh, PartitionSpec())
        with jax.set_mesh(mesh):
            placed = jax.device_put((sampler, keys[1]), whole)
            chex.assert_trees_all_equal(wanted, jax.device_get(jitted(*placed)))


@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
def test_from_arrays_that_are_spread(kind):
    """Scores, assignments, spreads and gradients, as they come from a sharded batch."""
    key = jax.random.key(0)

    def of(scores, assignments, spread, gradients):
        samplers = (
            sampling.importance(scores, 4),
            sampling.stratified(assignments, 4, num_clusters=8),
            sampling.stratified(
                assignments, 8, num_clusters=8, allocation="neyman", spread=spread, scores=scores
            ),
            sampling.redundancy_removed(assignments, 2),
        )
        return [
            (sampler.next(sampler.init(key))[0], sampling.variance(gradients, sampler))
            for sampler in samplers
        ]

    arrays = [
        jnp.asarray(a) for a in (SCORES + 0.5, ASSIGNMENTS % 3, np.ones(8), GRADIENTS)
    ]  # fmt: skip
    arrays = [a.astype(jnp.float32) if a.dtype != jnp.int32 else a for a in arrays]
    wanted = jax.jit(of)(*arrays)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        placed = jax.device_put(arrays, NamedSharding(mesh, PartitionSpec("data")))
        found = jax.jit(of)(*placed)
        eager = sampling.importance(placed[0], 4)
        eager.next(eager.init(key))
    chex.assert_trees_all_close(jax.device_get(found), jax.device_get(wanted), rtol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_keys_and_steps_differ(name):
    sampler = SAMPLERS[name]
    first, second = draws(sampler, 2).indices
    assert (first != second).any()
    _, state = sampler.next(sampler.init(jax.random.key(0)))
    again, _ = sampler.next(state)
    assert (sampler.next(sampler.init(jax.random.key(0)))[0].indices != again.indices).any()


def test_new_clusters_compile_nothing():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(sampler, state):
        return sampler.next(state)

    for seed in range(3):
        assignments = np.random.default_rng(seed).permutation(np.arange(40) % 4)
        sampler = sampling.stratified(assignments, 8, num_clusters=4)
        draw, _ = step(sampler, sampler.init(jax.random.key(0)))
        assert np.bincount(assignments[draw.indices]).tolist() == [2, 2, 2, 2]


def test_made_under_jit():
    @jax.jit
    def first(assignments, spread, scores):
        sampler = sampling.stratified(
            assignments, 6, allocation="neyman", spread=spread, num_clusters=4, scores=scores
        )
        return sampler.next(sampler.init(jax.random.key(2)))[0]

    sampler = sampling.stratified(
        ASSIGNMENTS, 6, allocation="neyman", spread=SPREAD, num_clusters=4, scores=SCORES
    )
    eager = sampler.next(sampler.init(jax.random.key(2)))[0]
    found = first(jnp.asarray(ASSIGNMENTS), jnp.asarray(SPREAD), jnp.asarray(SCORES))
    chex.assert_trees_all_close(found, eager, rtol=1e-6)


def test_weights_undo_extreme_scores():
    """Scores over 12 orders of magnitude: the expectation, from the actual probabilities, is 1."""
    scores = np.logspace(-12, 0, 2000)
    sampler = sampling.importance(scores, 1, uniform_share=0.0)
    chances = np.diff(np.asarray(sampler.running), prepend=0) / float(
        np.asarray(sampler.running)[-1]
    )
    assert chances.min() > 0
    indices, weights = map(np.asarray, draws(sampler, 3000))
    np.testing.assert_allclose(weights * 2000 * chances[indices], 1, rtol=1e-6)
    np.testing.assert_allclose(chances[-1], scores[-1] / scores.sum(), rtol=1e-5)


@pytest.mark.parametrize("sizes", [[1, 2, 3, 30], [7, 1, 1, 1, 1, 200]])
def test_counts_are_expected_ones_rounded(sizes):
    assignments = np.repeat(np.arange(len(sizes)), sizes)
    sampler = sampling.stratified(assignments, 17, allocation="proportional")
    expected = 17 * np.array(sizes) / sum(sizes)
    offsets = jnp.asarray(np.linspace(0, sampler.unit - 1, 1001), jnp.int32)
    counts = np.asarray(jax.vmap(lambda u: sampler.allocate(u)[1])(offsets))
    assert (counts.sum(axis=1) == 17).all()
    assert (abs(counts - expected[None, :]) < 1).all()
    np.testing.assert_allclose(counts.mean(axis=0), expected, atol=2e-3)


LATE = np.random.default_rng(0).integers(0, 63, 60_000)
LATE[-1] = 63
RARE: dict[str, Any] = {
    "last": (LATE, 32, {"allocation": "neyman", "spread": np.r_[np.ones(63), 0]}),
    "one of many": (np.r_[np.zeros(599_999, int), 1], 8, {"allocation": "proportional"}),
    "several": (np.r_[np.zeros(999_992, int), 1:9], 4096, {"allocation": "proportional"}),
    "without spread": (
        np.array([0, 0, 1, 1]),
        1,
        {"allocation": "neyman", "spread": [1.0, 0.0], "uniform_share": 0.0},
    ),
    "equal": (np.arange(60_000) % 7, 14, {"allocation": "equal"}),
}


@pytest.mark.parametrize("name", RARE)
def test_strata_that_are_seldom_drawn_are_not_lost(name):
    """The expected weight of every stratum, over all offsets: exactly its size."""
    assignments, batch_size, options = RARE[name]
    sampler = sampling.stratified(assignments, batch_size, **options)
    steps = np.unique(np.r_[0, np.asarray(sampler.edges) % sampler.unit, sampler.unit])
    counts = jax.vmap(lambda u: sampler.allocate(u)[1])(jnp.asarray(steps[:-1], jnp.int32))
    weights = np.asarray(jax.vmap(sampler.weights_of_strata)(counts), np.float64)
    lengths = np.diff(steps)[:, None] / sampler.unit
    expected = np.sum(lengths * np.asarray(counts) * weights, axis=0) / batch_size
    sizes = np.asarray(sampler.sizes) / len(assignments)
    np.testing.assert_allclose(expected, sizes, rtol=3e-7)  # weights are float32
    if name == "equal":
        assert len(steps) == 2  # as many draws from each at every step


@pytest.mark.parametrize("batch_size", [64, 4096])
def test_many_strata_have_their_shares(batch_size):
    """No draw weighs more than it should because its stratum is small beside rounding errors."""
    sizes = np.random.default_rng(4).integers(1, 40, 20_000)
    assignments = np.repeat(np.arange(len(sizes)), sizes)
    sampler = sampling.stratified(assignments, batch_size, allocation="proportional")
    assert sampler.edges[-1] == batch_size * sampler.unit
    weights = sampler.weights_of_strata(jnp.zeros(len(sizes), jnp.int32))
    np.testing.assert_allclose(weights, 1, rtol=1e-3)  # a unit of the narrowest strata


def test_scores_of_other_strata_change_nothing():
    """Within each stratum a share of the draws ignores the scores, and bounds the weights."""
    strata = np.repeat([0, 1, 2], 100)
    scores = np.random.default_rng(0).gamma(1.0, size=300)
    scores[150], scores[200:] = 1e-6, 0.0  # a stale score, and a stratum without any
    chances = []
    for louder in (1.0, 1e10):
        given = scores * np.where(strata == 0, louder, 1)
        sampler = sampling.stratified(strata, 3, scores=given, uniform_share=0.1)
        running: Any = sampler.running
        counts = np.diff(np.asarray(running), prepend=0).astype(float).reshape(3, 100)
        chances.append(counts / counts.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(chances[1], chances[0], rtol=1e-6)
    ours = scores.reshape(3, 100)[:2]
    wanted = 0.9 * ours / ours.sum(axis=1, keepdims=True) + 0.1 / 100
    np.testing.assert_allclose(chances[0][:2], wanted, rtol=1e-5)
    np.testing.assert_allclose(chances[0][2], 1 / 100, rtol=1e-6)
    assert 1 / (100 * chances[0].min()) <= 10 * (1 + 1e-5)


FAR = 100 + 0.1 * np.random.default_rng(3).normal(size=(40, 20))


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda groups: sampling.redundancy_removed(groups, 4), id="groups"),
        pytest.param(lambda groups: sampling.one_cluster(groups, 4), id="one cluster"),
        pytest.param(
            lambda groups: sampling.stratified(groups, 4, allocation="proportional"), id="strata"
        ),
    ],
)
def test_variance_of_gradients_that_are_far_from_zero(make):
    """What all gradients have in common adds nothing, and takes no digits away."""
    groups = np.arange(40) // 2
    sampler = make(groups)
    near = sampling.variance(jnp.asarray(FAR - FAR.mean(axis=0), jnp.float32), sampler)
    far = sampling.variance(jnp.asarray(FAR, jnp.float32), sampler)
    # Numbers near 100 are rounded by 4e-6, 4e-5 of their deviation.
    np.testing.assert_allclose(far, near, rtol=1e-4)


_samplers_sums = _samplers._sums


def test_as_many_equal_scores_as_float32_cannot_count(monkeypatch):
    """Added up in parts, which are small here: the running sums of float16 ones would stay 2048."""
    monkeypatch.setattr(_samplers, "_PART", 64)
    sizes = jnp.asarray([6100, 0, 1, 2091])
    strata = jnp.repeat(jnp.arange(4), sizes, total_repeat_length=8192)
    ones = jnp.ones(8192, jnp.float16)
    np.testing.assert_array_equal(_samplers._sums(ones, strata, sizes), [6100, 0, 1, 2092])
    # These are what scores are divided by.
    halves = lambda *args: 2 * _samplers_sums(*args)
    running = lambda: np.asarray(sampling.importance(np.ones(8), 3, uniform_share=0.0).running)
    plain = running()
    monkeypatch.setattr(_samplers, "_sums", halves)
    np.testing.assert_allclose(running(), plain / 2, rtol=1e-6)


def test_variance_knows_what_is_seldom_drawn():
    """An outlier alone in a stratum that is hardly drawn is no reason for a variance of zero."""
    gradients = np.zeros((60_000, 1), np.float32)
    gradients[-1] = 1e6
    sampler = sampling.stratified(
        LATE, 32, allocation="neyman", spread=np.r_[np.ones(63), 0], uniform_share=1e-3
    )
    uniform = sampling.uniform(60_000, 32)
    assert sampling.variance(gradients, sampler) > sampling.variance(gradients, uniform)


class TestRedundancyRemoved:
    GROUPS = np.array([0, 1, 0, 2, 0, 3, 1, 0])

    def test_groups_and_members_take_turns(self):
        sampler = sampling.redundancy_removed(self.GROUPS, 3)
        state, found = sampler.init(jax.random.key(5)), []
        for _ in range(16):
            draw, state = sampler.next(state)
            found += draw.indices.tolist()
            np.testing.assert_array_equal(draw.weights, 1)
        passes = self.GROUPS[np.array(found)].reshape(12, 4)
        np.testing.assert_array_equal(np.sort(passes, axis=1), np.tile(np.arange(4), (12, 1)))
        of_largest = [i for i in found if self.GROUPS[i] == 0]
        for i in range(0, 12, 4):
            assert sorted(of_largest[i : i + 4]) == [0, 2, 4, 7]

    def test_its_objective_and_variance(self):
        """The mean over groups of the mean over members; the variance by enumeration."""
        means = np.stack([GRADIENTS[g == self.GROUPS].mean(axis=0) for g in range(4)])
        second = np.array([(GRADIENTS[g == self.GROUPS] ** 2).sum(1).mean() for g in range(4)])
        within = (second - (means**2).sum(axis=1)).mean() / 2
        between = ((means - means.mean(axis=0)) ** 2).sum(axis=1).mean() / 2 * (4 - 2) / (4 - 1)
        sampler = sampling.redundancy_removed(self.GROUPS, 2)
        exact = sampling.variance(jnp.asarray(GRADIENTS, jnp.float32), sampler)
        np.testing.assert_allclose(exact, within + between, **TOLERANCE)
        # All pairs of groups, and of their members, as likely as each other.
        members = [np.flatnonzero(g == self.GROUPS) for g in range(4)]
        mean, square = np.zeros(3), 0.0
        for one, other in itertools.combinations(range(4), 2):
            for pair in itertools.product(members[one], members[other]):
                chance = 1 / (6 * len(members[one]) * len(members[other]))
                estimate = GRADIENTS[list(pair)].mean(axis=0)
                mean, square = mean + chance * estimate, square + chance * (estimate**2).sum()
        np.testing.assert_allclose(mean, means.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(exact, square - (mean**2).sum(), **TOLERANCE)
        indices = np.asarray(draws(sampler, 20000).indices)
        estimates = GRADIENTS[indices].mean(axis=1)
        error = np.sqrt((within + between) / 20000)
        assert np.linalg.norm(estimates.mean(axis=0) - means.mean(axis=0)) < 4 * error
        spread = estimates.var(axis=0).sum()
        assert abs(spread / (within + between) - 1) < 0.06  # about 5 standard errors

    def test_without_copies_it_is_uniform(self):
        """Every example in every pass."""
        sampler = sampling.redundancy_removed(np.arange(12), 5)
        state, found = sampler.init(jax.random.key(0)), []
        for _ in range(12):
            draw, state = sampler.next(state)
            found += draw.indices.tolist()
        passes = np.sort(np.array(found).reshape(5, 12), axis=1)
        np.testing.assert_array_equal(passes, np.tile(np.arange(12), (5, 1)))


def test_shards_are_the_global_draw():
    sampler = sampling.importance(np.arange(1.0, 51.0), 8)  # so that all weights differ
    draw, _ = sampler.next(sampler.init(jax.random.key(0)))
    assert len(set(np.asarray(draw.weights).tolist())) > 4
    for number in (1, 2, 8):
        parts = [sampling.shard(draw, i, number) for i in range(number)]
        joined = jax.tree.map(lambda *rows: jnp.concatenate(rows), *parts)
        chex.assert_trees_all_equal(joined, draw)
    chex.assert_trees_all_equal(sampling.shard(draw), draw)
    with pytest.raises(ValueError, match="num_shards must divide the batch size 8, got 3"):
        sampling.shard(draw, 0, 3)
    with pytest.raises(ValueError, match=r"shard_index must be in 0\.\.1"):
        sampling.shard(draw, 2, 2)


BAD = {
    "num_examples": lambda: sampling.uniform(0, 3),
    "batch_size": lambda: sampling.uniform(5, 0),
    "batch_size must be an integer": lambda: sampling.uniform(5, 2.5),  # type: ignore[arg-type]
    "scores must be 0 or more; 1 of 3 are not, of examples 1": lambda: sampling.importance(
        [1.0, -1, 0], 2
    ),
    "scores must be finite; 2 of 3": lambda: sampling.importance([np.nan, np.inf, 1], 2),
    "scores must not all be 0": lambda: sampling.importance([0, 0], 2),
    r"scores must be of shape \(N,\)": lambda: sampling.importance(np.ones((2, 2)), 2),
    r"scores must be of shape \(8,\)": lambda: sampling.stratified(
        ASSIGNMENTS, 4, scores=np.ones(7)
    ),
    r"uniform_share must be in \[0, 1\]": lambda: sampling.importance([1.0], 2, uniform_share=1.5),
    "assignments must be in 0..3; 1 are not, of examples 2": lambda: sampling.stratified(
        [0, 1, 4], 4, num_clusters=4
    ),
    r"assignments must be in 0\.\.; 1 are not": lambda: sampling.stratified([0, -1], 4),
    "batch_size must be at least the number of clusters that have members, 3, got 2": (
        lambda: sampling.stratified(ASSIGNMENTS, 2)
    ),
    "allocation must be one of": lambda: sampling.stratified(
        ASSIGNMENTS,
        4,
        allocation="optimal",  # type: ignore[arg-type]
    ),
    'spread must be given for allocation="neyman"': lambda: sampling.stratified(
        ASSIGNMENTS, 4, allocation="neyman"
    ),
    "spread must be given for .*and for no other": lambda: sampling.stratified(
        ASSIGNMENTS, 4, spread=SPREAD
    ),
    r"spread must be of shape \(4,\)": lambda: sampling.stratified(
        ASSIGNMENTS, 4, allocation="neyman", spread=[1.0]
    ),
    r"not for clusters \[1\]": lambda: sampling.stratified(
        ASSIGNMENTS, 4, allocation="neyman", spread=[1.0, -1, 0, 0]
    ),
    "groups must be numbered without gaps": lambda: sampling.redundancy_removed([0, 2, 2], 2),
    "gradients must be of the 4 examples of the sampler, got 8": lambda: sampling.variance(
        jnp.asarray(GRADIENTS), sampling.uniform(4, 2)
    ),
    "gradients must be finite; 1 of 2 are not: 1": lambda: sampling.variance(
        jnp.array([[0.0], [jnp.nan]]), sampling.uniform(2, 2)
    ),
    r"gradients must be \(N, N\)": lambda: sampling.variance(
        jnp.ones((2, 3)), sampling.uniform(2, 2), gram=True
    ),
    "at most as many draws as groups, 2": lambda: sampling.variance(
        jnp.ones((3, 2)), sampling.redundancy_removed([0, 1, 1], 3)
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message):
    with pytest.raises(ValueError, match=message):
        BAD[message]()


def test_bad_types():
    with pytest.raises(TypeError, match="assignments must be integers, got float32"):
        sampling.stratified(np.ones(3, np.float32), 2)
    with pytest.raises(TypeError, match="scores must be real numbers, got bool"):
        sampling.importance(np.ones(3, bool), 2)
    with pytest.raises(ValueError, match="num_clusters must be given when assignments are traced"):
        jax.jit(lambda a: sampling.stratified(a, 2).members)(jnp.zeros(3, jnp.int32))


@pytest.mark.parametrize("size", [1e-38, 1e37])
def test_neither_scores_nor_spreads_overflow(size):
    """float32 ends at 3.4e38, and a sum of eight of these would be beyond."""
    scores, spread = (np.asarray(size * a, np.float32) for a in (SCORES * 5, SPREAD * 10))
    for found, expected in (
        (sampling.importance(scores, 3), sampling.importance(SCORES, 3)),
        (
            sampling.stratified(ASSIGNMENTS, 3, scores=scores),
            sampling.stratified(ASSIGNMENTS, 3, scores=SCORES),
        ),
        (
            sampling.stratified(ASSIGNMENTS, 4, allocation="neyman", spread=spread),
            sampling.stratified(ASSIGNMENTS, 4, allocation="neyman", spread=SPREAD),
        ),
    ):
        np.testing.assert_allclose(found.shares, expected.shares, rtol=1e-5)
        if expected.running is not None and found.running is not None:
            # Sums of integers of about 2**30 / 8, rounded from float32.
            np.testing.assert_allclose(found.running, expected.running, rtol=1e-6)
