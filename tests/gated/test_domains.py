"""Items that look different in every domain, scores of pairs, scales of first weights; float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import gated
from tests.gated.problems import largest

pytestmark = pytest.mark.usefixtures("x64")


def domains(number=3, items=7, seed=0):
    """Pairs of which some are trained, items in every input domain, targets in every output."""
    rng = np.random.default_rng(seed)
    pairs = gated.band(number, 2)
    return pairs, rng.normal(size=(number, items, 4)), rng.normal(size=(number, items, 2))


def one_by_one(pairs, x, y, weight, size_hidden=5):
    """Every item of every trained pair as an example."""
    number, items, _ = x.shape
    trained = np.argwhere(pairs)
    graph = gated.routing(number, x.shape[2], size_hidden, y.shape[2])
    put = lambda side, k, rows: np.concatenate(
        [rows * (pair[side] == k) for pair in trained]
    )  # fmt: skip
    nodes = {f"y{o}": np.repeat(trained[:, 1] == o, items).astype(float) for o in range(number)}
    return graph, gated.Dataset(
        {f"x{i}": put(0, i, x[i]) for i in range(number)},
        {f"y{o}": put(1, o, y[o]) for o in range(number)},
        gated.Gates(node=nodes),
        np.full(len(trained) * items, weight),
    )


@pytest.mark.parametrize("weight", [None, 0.3])
def test_moments_of_domains_are_those_of_all_examples(weight):
    pairs, x, y = domains()
    graph, data = one_by_one(pairs, x, y, 1 / (9 * 7) if weight is None else weight)
    found = gated.routing_moments(pairs, x, y, weight=weight)
    assert largest(found, gated.moments(graph, data)) < 1e-14
    params = gated.init_normal(jax.random.key(0), graph, 0.5)
    own = gated.loss_from_moments(graph, params, found)
    np.testing.assert_allclose(own, gated.loss(graph, params, data), rtol=1e-12)


def test_moments_of_domains_refuse_what_does_not_fit():
    pairs, x, y = domains()
    with pytest.raises(ValueError, match=r"x must be \(3, items, size\), got \(2, 7, 4\)"):
        gated.routing_moments(pairs, x[:2], y)
    with pytest.raises(ValueError, match="the same items, got 7 and 6"):
        gated.routing_moments(pairs, x, y[:, :6])
    with pytest.raises(ValueError, match="with one that is trained"):
        gated.routing_moments(np.zeros((3, 3), bool), x, y)


def test_scores_of_pairs_of_domains():
    pairs, x, y = domains()
    graph, _ = one_by_one(pairs, x, y, 1.0)
    params = gated.init_normal(jax.random.key(1), graph, 1.0)
    of = lambda name, array: {f"{name}{k}": part for k, part in enumerate(array)}
    labels = {f"y{o}": part.argmax(axis=1) for o, part in enumerate(y)}
    right = lambda found, label: jnp.argmax(found, axis=1) == label
    shares = gated.transfer_matrix(graph, params, of("x", x), labels, score=right)
    errors = gated.transfer_matrix(graph, params, of("x", x), of("y", y))
    for i in range(3):
        for o in range(3):
            path = (params[f"out{o}"] @ params["shared"] @ params[f"in{i}"]).T
            out = x[i] @ path
            assert shares[i, o] == pytest.approx(np.mean(out.argmax(axis=1) == labels[f"y{o}"]))
            np.testing.assert_allclose(errors[i, o], 0.5 * np.mean(np.sum((out - y[o]) ** 2, 1)))
    with pytest.raises(ValueError, match=r"one number for each item, \(7,\), got \(\)"):
        gated.transfer_matrix(
            graph, params, of("x", x), of("y", y), score=lambda a, b: jnp.sum(a - b)
        )


def test_small_weights_move_and_large_ones_hardly_do():
    graph = gated.chain([4, 16, 3])
    rng = np.random.default_rng(0)
    data = gated.Dataset({"x": np.eye(4)}, {"y": rng.normal(size=(4, 3))})
    options = {"key": jax.random.key(0), "num_steps": 2_000, "num_starts": 2}
    rate = lambda scale: 0.1 / max(1.0, scale) ** 2
    found = gated.sweep_scales(graph, data, [0.01, 1.0, 30.0], rate=rate, **options)
    assert found.losses.shape == found.moved.shape == (3, 2)
    assert found.params["w1"].shape == (3, 2, 16, 4)
    assert np.all(found.losses < 1e-3)
    assert np.all(found.moved[0] > 10)
    assert np.all(found.moved[2] < 0.4)  # not 0: what large weights compute at first is undone
    # As one run of its own.
    start = gated.init_orthogonal(jax.random.split(options["key"], 2)[1], graph, 1.0)
    end = gated.simulate(graph, start, data, rate=0.1, num_steps=2_000)
    np.testing.assert_allclose(found.params["w2"][1, 1], end.params["w2"], rtol=1e-9)
    np.testing.assert_allclose(found.losses[1, 1], end.losses[-1], rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init": "decoupled"}, "init must be one of"),
        ({"scales": [0.1, 0.0]}, "scales must be positive"),
        ({"scales": []}, "scales must be positive"),
        ({"rate": lambda scale: 0.0}, "rate must be positive"),
        ({"num_starts": 0}, "num_starts"),
    ],
)
def test_bad_sweeps(options, message):
    graph = gated.chain([2, 2])
    data = gated.Dataset({"x": np.eye(2)}, {"y": np.eye(2)})
    given = {"scales": [0.1], "key": jax.random.key(0), "rate": 0.1, "num_steps": 2} | options
    with pytest.raises(ValueError, match=message):
        gated.sweep_scales(graph, data, given.pop("scales"), **given)


def test_compare_takes_moments():
    pairs, x, y = domains()
    graph, data = one_by_one(pairs, x, y, 1.0)
    known = gated.moments(graph, data)
    options = {"key": jax.random.key(0), "scale": 0.1, "rate": 1e-3, "num_steps": 3}
    one, other = (gated.compare(graph, given, init="normal", **options) for given in (data, known))
    np.testing.assert_array_equal(one.simulated.losses, other.simulated.losses)
    assert str(one) == str(other)


def test_inputs_that_tell_the_context():
    targets = [np.eye(3), 2 * np.eye(3)]
    graph, data = gated.context_dataset(targets, [(0, 1), (1,)], 4, with_context=True)
    assert graph.sizes["x"] == 5
    np.testing.assert_array_equal(data.x["x"][:, 3:], np.repeat(np.eye(2), 3, axis=0))
    np.testing.assert_array_equal(data.x["x"][:, :3], np.tile(np.eye(3), (2, 1)))
