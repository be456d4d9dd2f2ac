"""Estimators of the gradient, their variances, and how these are measured."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampling import oracles

from jaxrobust import per_example, sampling
from jaxrobust.trees import _programs

RNG = np.random.default_rng(1)


def loss(params, example):
    x, y = example
    return (jnp.dot(x, params["w"]) + params["b"] - y) ** 2


def problem(num_examples=10, seed=0):
    rng = np.random.default_rng(seed)
    params = {"w": rng.normal(size=3), "b": rng.normal()}
    data = (rng.normal(size=(num_examples, 3)), rng.normal(size=num_examples))
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (params, data))


def flat(gradients):
    leaves = jax.tree.leaves(gradients)
    return np.concatenate(
        [np.asarray(leaf, np.float64).reshape(leaf.shape[0], -1) for leaf in leaves], axis=1
    )


def test_weighted_gradient():
    params, data = problem()
    weights = jnp.arange(10.0)
    value, gradient = sampling.value_and_grad(loss)(params, data, weights)
    each = per_example.gradients(loss)(params, data)
    wanted = jax.tree.map(
        lambda g: (
            jnp.mean(jnp.moveaxis(g, 0, -1) * weights, axis=-1)
            if g.ndim == 1
            else jnp.mean(g * weights[:, None], axis=0)
        ),
        each,
    )
    losses = jax.vmap(loss, (None, 0))(params, data)
    np.testing.assert_allclose(value, jnp.mean(losses * weights), rtol=1e-6)
    for key in wanted:
        np.testing.assert_allclose(gradient[key], wanted[key], rtol=1e-5)
    with pytest.raises(ValueError, match=r"weights must be of shape \(10,\), got \(9,\)"):
        sampling.value_and_grad(loss)(params, data, weights[1:])
    with pytest.raises(ValueError, match="batch must have arrays"):
        sampling.value_and_grad(loss)(params, (data[0], data[1][1:]), weights)


def test_the_published_variance_of_a_large_mean_with_little_noise():
    """No difference of large numbers: 50 entries of mean 1000 and standard deviation 0.1."""
    estimator = lambda key: 1000 + 0.1 * jax.random.normal(key, (50,))
    found = sampling.measure(estimator, jax.random.key(0), 50, paper=True)
    # 50 x 0.01 x (1 + 1/50), known to sqrt(2 / 2500) from 2,500 numbers
    np.testing.assert_allclose(found.trace, 0.51, rtol=0.15)


def test_a_loss_of_another_shape_is_refused():
    """Of shape (1,), losses and weights would make a matrix."""
    params, data = problem()
    wrong = lambda params, example: loss(params, example)[None]
    with pytest.raises(ValueError, match=r"must return a scalar, .* got shape \(1,\)"):
        sampling.value_and_grad(wrong)(params, data, jnp.ones(10))


def test_weights_are_not_rounded_in_bfloat16():
    """Losses of 1 and weights that add up to the number of draws."""
    one = lambda params, example: (params * 0 + 1).astype(jnp.bfloat16)
    weights = jnp.asarray([0.997, 1.003, 1.001, 0.999])
    found, _ = sampling.value_and_grad(one)(jnp.bfloat16(2), jnp.zeros(4), weights)
    assert found == 1


@pytest.mark.parametrize("coefficient", [1.0, 0.6])
def test_svrg(coefficient):
    """Its estimate for every batch; over all of them unbiased, with the variance it should have."""
    params, data = problem(6)
    old, _ = problem(6, seed=1)
    svrg = sampling.svrg(loss, coefficient=coefficient, batch_size=4)  # 6 = 4 + 2 that are padded
    snapshot = jax.jit(svrg.snapshot)(old, data)
    gradients, before = (flat(per_example.gradients(loss)(p, data)) for p in (params, old))
    np.testing.assert_allclose(
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(snapshot.mean)]),
        before.mean(axis=0),
        rtol=1e-5,
    )
    sampler = sampling.stratified(
        np.array([0, 0, 0, 1, 1, 1]), 2, scores=[1.0, 2, 3, 1, 1, 2], uniform_share=0.0
    )
    scores = np.array([1.0, 2, 3, 1, 1, 2])
    take = jax.jit(
        lambda rows, weights: svrg.gradient(
            params, jax.tree.map(lambda leaf: leaf[rows], data), weights, snapshot
        )
    )
    mean, square = np.zeros(4), 0.0
    for chance, rows, weights in oracles.batches(
        np.array([0, 0, 0, 1, 1, 1]), 2, np.array([0.5, 0.5]), scores
    ):
        found = take(rows, jnp.asarray(weights, jnp.float32))
        estimate = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(found)])
        mean, square = mean + chance * estimate, square + chance * (estimate**2).sum()
    np.testing.assert_allclose(mean, gradients.mean(axis=0), rtol=1e-4)
    # The constant of the snapshot's mean adds no variance.
    exact = sampling.variance(jnp.asarray(gradients - coefficient * before), sampler)
    np.testing.assert_allclose(square - (mean**2).sum(), exact, rtol=1e-3)


def convolutional(params, example):
    """A loss that is looped over in Python on a CPU."""
    x, y = example
    row = jnp.tile(x, 4)[None, None, :]
    out = jax.lax.conv_general_dilated(row, params["kernel"], (1,), "SAME")
    return (jnp.sum(jnp.tanh(out)) - y) ** 2


@pytest.mark.parametrize("name", ["plain", "convolutional"])
def test_snapshot_in_batches(name, monkeypatch):
    """The mean of the gradients; of other params and data it compiles nothing."""
    loss_fn = loss if name == "plain" else convolutional
    traces, cuts, cut = [], [], _programs._cut
    monkeypatch.setattr(_programs, "_cut", lambda closed: cuts.append(cut(closed)) or cuts[-1])

    def counted(params, example):
        traces.append(1)
        return loss_fn(params, example)

    svrg = sampling.svrg(counted, batch_size=4)
    for seed in range(2):
        params, data = problem(10, seed=seed)
        if name == "convolutional":
            kernel = np.random.default_rng(seed).normal(size=(2, 1, 3))
            params = {"kernel": jnp.asarray(kernel, jnp.float32)}
        mean = flat(per_example.gradients(loss_fn)(params, data)).mean(axis=0)
        found = svrg.snapshot(params, data).mean
        found = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(found)])
        np.testing.assert_allclose(found, mean, rtol=1e-5)
        if seed == 0:
            first = len(traces)
    assert len(traces) == first > 0
    if jax.default_backend() == "cpu":
        assert [bool(run) for run in cuts] == [name == "convolutional"] * 2


def test_what_svrg_refuses():
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="coefficient must be finite"):
            sampling.svrg(loss, coefficient=value)
    snapshot = sampling.svrg(loss).snapshot
    params, (x, y) = problem(6)
    for wrong in ((x[:0], y[:0]), (x, y[:4])):
        with pytest.raises(ValueError, match="data must have arrays"):
            snapshot(params, wrong)


def test_svrg_at_the_snapshot_has_no_variance():
    params, data = problem()
    svrg = sampling.svrg(loss)
    snapshot = svrg.snapshot(params, data)
    draw, _ = (s := sampling.uniform(10, 3)).next(s.init(jax.random.key(0)))
    batch = jax.tree.map(lambda leaf: leaf[draw.indices], data)
    found = svrg.gradient(params, batch, draw.weights, snapshot)
    for key in params:
        np.testing.assert_allclose(found[key], snapshot.mean[key], rtol=1e-5)


def spread(gradients, assignments):
    """S_k of every cluster."""
    return np.array(
        [
            ((g := gradients[assignments == k]) - g.mean(axis=0)).__pow__(2).sum()
            if (assignments == k).any()
            else 0.0
            for k in range(assignments.max() + 1)
        ]
    )


@pytest.mark.parametrize("seed", range(6))
def test_inequalities_of_the_literature(seed):
    """Spec 4.2, item 8, for random partitions of 24 gradients into 4."""
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(24, 5)) * rng.gamma(1.0, size=(24, 1)) + 0.3
    assignments = rng.integers(0, 4, 24)
    points = jnp.asarray(gradients, jnp.float32)
    spreads = spread(gradients, assignments)

    def of(sampler):
        return float(sampling.variance(points, sampler))

    def stratified(assignments, size, **options):
        return of(
            sampling.stratified(assignments, size, num_clusters=4, replacement=True, **options)
        )

    uniform = of(sampling.uniform(24, 4, replacement=True))
    close = 1 + 1e-5
    total = ((gradients - gradients.mean(axis=0)) ** 2).sum() / 24
    np.testing.assert_allclose(uniform, total / 4, rtol=1e-5)
    np.testing.assert_allclose(
        of(sampling.uniform(24, 8, replacement=True)), uniform / 2, rtol=1e-6
    )
    # The published estimator: J / N^2, at most K times uniform draws.
    sizes = np.bincount(assignments, minlength=4)
    equal = stratified(assignments, 4)
    np.testing.assert_allclose(equal, (sizes * spreads).sum() / 24**2, rtol=1e-5)
    assert equal <= 4 * uniform * close
    balanced = rng.permutation(np.arange(24) % 4)
    assert stratified(balanced, 4) <= uniform * close
    # Proportional, with whole numbers of draws: 24 of 24.
    proportional = stratified(assignments, 24, allocation="proportional")
    np.testing.assert_allclose(proportional, spreads.sum() / 24**2, rtol=1e-5)
    assert proportional <= of(sampling.uniform(24, 24, replacement=True)) * close
    # Neyman with many draws, of which the fractions matter little.
    options = {"allocation": "neyman", "spread": spreads, "uniform_share": 0.0}
    neyman = stratified(assignments, 4000, **options)
    np.testing.assert_allclose(
        neyman, np.sqrt(sizes * spreads).sum() ** 2 / 24**2 / 4000, rtol=5e-3
    )
    assert neyman <= stratified(assignments, 4000, allocation="proportional") * (1 + 2e-3)
    # Importance sampling by the norms.
    norms = np.linalg.norm(gradients, axis=1)
    mean = np.linalg.norm(gradients.mean(axis=0))
    np.testing.assert_allclose(
        of(sampling.importance(norms, 4, uniform_share=0.0)),
        (norms.mean() ** 2 - mean**2) / 4,
        rtol=1e-4,
    )


@pytest.mark.parametrize("scores", [None, np.arange(1.0, 25.0)])
def test_the_sampler_of_some_examples(scores):
    """All of them in another order: the same variance. Some: as made for these alone."""
    rng = np.random.default_rng(0)
    points = jnp.asarray(rng.normal(size=(24, 5)), jnp.float32)
    assignments = rng.integers(0, 3, 24)
    make = lambda a, s: sampling.stratified(a, 3, scores=s, num_clusters=3)
    whole = make(assignments, scores)
    order = jnp.asarray(rng.permutation(24))
    found = sampling.variance(points[order], sampling.restrict(whole, order))
    np.testing.assert_allclose(found, sampling.variance(points, whole), rtol=1e-5)
    few = np.sort(order[:15])
    of_few = make(assignments[few], None if scores is None else scores[few])
    if scores is not None:  # the uniform share is of all examples of a cluster
        sums, sizes = np.bincount(assignments, scores), np.bincount(assignments)
        mixed = 0.9 * scores / sums[assignments] + 0.1 / sizes[assignments]
        of_few = sampling.stratified(
            assignments[few], 3, scores=mixed[few], num_clusters=3, uniform_share=0.0
        )
    restricted = sampling.restrict(whole, jnp.asarray(few))
    np.testing.assert_allclose(
        sampling.variance(points[few], restricted),
        sampling.variance(points[few], of_few),
        rtol=1e-5,
    )


def test_one_example_has_no_variance():
    for sampler in (
        sampling.uniform(1, 3),
        sampling.importance([2.0], 3),
        sampling.stratified([0], 3),
    ):
        assert float(sampling.variance(jnp.ones((1, 4)), sampler)) < 1e-10


def test_clusters_of_copies_have_no_variance():
    points = jnp.asarray(np.repeat(RNG.normal(size=(3, 4)), [5, 1, 2], axis=0), jnp.float32)
    sampler = sampling.stratified(np.repeat([0, 1, 2], [5, 1, 2]), 3)
    assert float(sampling.variance(points, sampler)) < 1e-12


# Measuring ----------------------------------------------------------------------------------------


def gaussian(mean, deviation):
    return lambda key: {"a": mean + deviation * jax.random.normal(key, mean.shape)}


def test_measure_against_numpy():
    mean = jnp.asarray(RNG.normal(size=(4, 5)), jnp.float32)
    estimator = gaussian(mean, 0.7)
    found = jax.jit(lambda key: sampling.measure(estimator, key, 30, batch_size=8))(
        jax.random.key(0)
    )
    _, key = jax.random.split(jax.random.key(0))
    draws = np.stack([np.ravel(estimator(k)["a"]) for k in jax.random.split(key, 30)]).astype(float)
    center = draws.mean(axis=0)
    trace = ((draws - center) ** 2).sum() / 29
    signal = (center**2).sum() - trace / 30
    np.testing.assert_allclose(np.ravel(found.mean["a"]), center, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.trace, trace, rtol=1e-4)
    np.testing.assert_allclose(found.signal, signal, rtol=1e-3)
    np.testing.assert_allclose(found.average_variance, trace / 20, rtol=1e-4)
    np.testing.assert_allclose(found.noise_scale, 8 * trace / signal, rtol=1e-3)
    ratio = trace / signal
    np.testing.assert_allclose(found.normalized_variance, ratio / (1 + ratio), rtol=1e-3)
    assert float(found.dead_entries) == 0


def test_measure_as_published():
    """About the mean of other draws, with the absolute constant."""
    mean = jnp.asarray(RNG.normal(size=20) * 1e-3, jnp.float32)
    estimator = gaussian(mean, 2e-4)
    found = sampling.measure(estimator, jax.random.key(0), 12, paper=True)
    first, key = jax.random.split(jax.random.key(0))
    other, draws = (
        np.stack([estimator(k)["a"] for k in jax.random.split(one, 12)]).astype(float)
        for one in (first, key)
    )
    off = (draws - other.mean(axis=0)) ** 2
    np.testing.assert_allclose(found.trace, off.sum() / 12, rtol=1e-3)
    wanted = (off.sum(axis=0) / ((draws**2).sum(axis=0) + 1e-7)).mean()
    np.testing.assert_allclose(found.entrywise_normalized_variance, wanted, rtol=1e-3)


@pytest.mark.parametrize("num_draws", [10, 50])
def test_ceilings_of_pure_noise(num_draws):
    """The published statistic ends at 1 + 1/(T-2), and its variance is 1 + 1/T too large."""
    estimator = gaussian(jnp.zeros(4000), 3.0)
    paper, ours = (
        sampling.measure(estimator, jax.random.key(1), num_draws, paper=paper)
        for paper in (True, False)
    )
    # 4000 entries: a standard error of about 0.5 % / sqrt(T / 10).
    np.testing.assert_allclose(
        paper.entrywise_normalized_variance, 1 + 1 / (num_draws - 2), rtol=0.02
    )
    np.testing.assert_allclose(paper.average_variance, 9 * (1 + 1 / num_draws), rtol=0.02)
    np.testing.assert_allclose(ours.average_variance, 9, rtol=0.02)


def test_normalized_variance_of_known_ratio():
    """Squared mean / variance = r for every entry: 1/(1+r)."""
    found = sampling.measure(gaussian(jnp.full(3000, 2.0), 1.0), jax.random.key(0), 40)
    np.testing.assert_allclose(found.normalized_variance, 1 / 5, rtol=0.02)
    np.testing.assert_allclose(found.noise_to_signal, 1 / 4, rtol=0.02)


def test_measure_counts_dead_entries():
    found = sampling.measure(
        gaussian(jnp.zeros(4), jnp.array([1.0, 0, 0, 1])), jax.random.key(0), 5
    )
    assert float(found.dead_entries) == 0.5
    with pytest.raises(ValueError, match="num_draws must be at least 2, got 1"):
        sampling.measure(gaussian(jnp.zeros(4), 1.0), jax.random.key(0), 1)


@pytest.mark.parametrize(("batch_size", "draws"), [(3, 1.5), (4, 2.0), (5, 2.5), (7, 3.5)])
def test_what_a_fraction_of_a_draw_costs(batch_size, draws):
    """Two clusters that are alike: a whole number of draws each costs nothing."""
    points = np.random.default_rng(0).normal(size=(2_000, 2)).astype(np.float32)
    points = jnp.asarray(np.concatenate([points, points]))
    strata = sampling.stratified(np.repeat([0, 1], 2_000), batch_size, allocation="proportional")
    uniform = sampling.uniform(4_000, batch_size, replacement=True)
    whole = int(draws)
    cost = 1 + (draws - whole) * (whole + 1 - draws) / (whole * (whole + 1))
    found = sampling.variance(points, strata) / sampling.variance(points, uniform)
    assert found == pytest.approx(cost, rel=0.003)


def test_what_a_sampler_of_some_examples_refuses():
    sampler = sampling.stratified(np.arange(10) % 3, 4)
    for wrong in ([0, 0, 3], [0, 10], [-1, 2]):
        with pytest.raises(ValueError, match=r"examples must be different ones in 0\.\.9"):
            sampling.restrict(sampler, jnp.array(wrong))
    with pytest.raises(ValueError, match="examples must be at least one, got none"):
        sampling.restrict(sampler, jnp.array([], jnp.int32))
    groups: Any = sampling.redundancy_removed(np.arange(5), 2)
    with pytest.raises(TypeError, match="sampler must be a Sampler, got GroupSampler"):
        sampling.restrict(groups, jnp.arange(3))
