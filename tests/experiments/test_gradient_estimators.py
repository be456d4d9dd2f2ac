"""The closed formulas of the variances: by enumeration, and against `sampling.variance`."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import gradient_estimators as estimators
from jaxrobust import sampling

N, D, K, B = 12, 3, 3, 6
ASSIGNED = np.array([0, 0, 1, 2, 1, 1, 0, 2, 2, 2, 2, 0])


@pytest.fixture(scope="module")
def gradients() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(N, D)) + 1.5


@pytest.fixture(scope="module")
def moments(gradients) -> estimators.Moments:
    return estimators.moments(jnp.asarray(gradients, jnp.float32), jnp.asarray(ASSIGNED), K)


def trace(draws: np.ndarray, chances: np.ndarray) -> float:
    """Of the covariance of the mean of independent draws with these probabilities."""
    mean = chances @ draws
    return float(chances @ np.sum((draws - mean) ** 2, axis=1))


def test_plain_double_and_importance(gradients, moments):
    found = estimators.of_all(moments, B)
    even = np.full(N, 1 / N)
    norms = np.linalg.norm(gradients, axis=1)
    p = norms / norms.sum()
    expected = {
        estimators.SG: trace(gradients, even) / B,
        estimators.DOUBLE: trace(gradients, even) / (2 * B),
        estimators.IMPORTANCE: trace(gradients / (N * p[:, None]), p) / B,
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5)  # float32


def test_equal_draws_by_enumeration(gradients, moments):
    members = [np.flatnonzero(k == ASSIGNED) for k in range(K)]
    draws = [
        sum(len(m) * gradients[i] for m, i in zip(members, chosen, strict=True)) / N
        for chosen in itertools.product(*members)
    ]
    exact = trace(np.array(draws), np.full(len(draws), 1 / len(draws)))
    assert estimators.equal(moments, K) == pytest.approx(exact, rel=1e-5)


def test_neyman_is_the_least_over_allocations(moments):
    sizes, spreads = np.asarray(moments.sizes), np.asarray(moments.spreads)
    shares = np.random.default_rng(1).dirichlet(np.ones(K), size=20_000)
    of_shares = np.sum(sizes * spreads / (N**2 * B * shares), axis=1)
    least = estimators.neyman(moments, B)
    assert least <= of_shares.min() <= 1.01 * least
    assert estimators.proportional(moments, B) == pytest.approx(
        np.sum(sizes * spreads / (N**2 * B * sizes / N)), rel=1e-5
    )


def test_importance_within_clusters(gradients, moments):
    for k in range(K):
        mine = gradients[k == ASSIGNED]
        norms = np.linalg.norm(mine, axis=1)
        p = norms / norms.sum()
        expected = trace(mine / (len(mine) * p[:, None]), p)
        found = estimators.importance_spreads(moments)[k] / len(mine)
        assert found == pytest.approx(expected, rel=1e-4)
    assert estimators.neyman_with_importance(moments, B) <= estimators.neyman(moments, B)


def test_whole_draws_are_those_of_the_samplers(gradients, moments):
    exact = lambda sampler: float(sampling.variance(jnp.asarray(gradients), sampler))
    equal = sampling.stratified(ASSIGNED, K, replacement=True)
    assert exact(equal) == pytest.approx(estimators.equal(moments, K), rel=1e-5)
    uniform = sampling.uniform(N, B, replacement=True)
    assert exact(uniform) == pytest.approx(estimators.of_all(moments, B)[estimators.SG], rel=1e-5)
    # 4, 3 and 5 of 12 draws are whole
    proportional = sampling.stratified(ASSIGNED, N, allocation="proportional", replacement=True)
    assert exact(proportional) == pytest.approx(estimators.proportional(moments, N), rel=1e-5)


def test_empty_clusters_do_not_count(gradients, moments):
    shifted = estimators.moments(
        jnp.asarray(gradients, jnp.float32), jnp.asarray(2 * ASSIGNED), 2 * K
    )
    for formula in (estimators.equal, estimators.proportional, estimators.neyman):
        assert formula(shifted, B) == pytest.approx(formula(moments, B), rel=1e-5)


def test_copies_have_no_variance_within_their_clusters(gradients):
    copies = jnp.asarray(gradients[ASSIGNED], jnp.float32)
    found = estimators.of_clusters(estimators.moments(copies, jnp.asarray(ASSIGNED), K), B)
    assert max(found.values()) < 1e-6


def test_moments_are_those_of_the_sums_of_batches(gradients, moments):
    points, assigned = jnp.asarray(gradients, jnp.float32), jnp.asarray(ASSIGNED)
    center = jnp.mean(points, axis=0) + 0.1  # need not be exact
    parts = [estimators.sums(points[at], center, assigned[at], K) for at in (slice(5), slice(5, N))]
    left_out = estimators.sums(points, center, jnp.full(N, -1), K)
    total = jax.tree.map(lambda *leaves: sum(leaves), *parts, left_out)
    found = estimators.summarize(total, assigned, center)
    for ours, expected in zip(found, moments, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=2e-5)


def test_the_normalised_variance_is_one_for_pure_noise(moments):
    assert estimators.normalised(1.0, moments._replace(signal=jnp.float32(0))) == 1
    assert estimators.normalised(1.0, moments._replace(signal=jnp.float32(3))) == 0.25
