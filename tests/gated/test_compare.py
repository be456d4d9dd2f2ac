"""One call for all: what it says, and that each part of it is right; in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import gated
from tests.gated.problems import diagonalizable, drawn, skipping

pytestmark = pytest.mark.usefixtures("x64")
KEY = jax.random.key(0)


def compared(graph, data, **options):
    given = {"key": KEY, "scale": 0.3, "rate": 2e-3, "num_steps": 6_000, "record_every": 60}
    return gated.compare(graph, data, **given | options)


def apart(depth=2, number=2, seed=0):
    """Pathways that are on for examples of their own."""
    rng = np.random.default_rng(seed)
    graph = gated.pathways([3, *[5] * (depth - 1), 3], number)
    u, v = (np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(2))
    x = np.concatenate([rng.uniform(1, 2, 3)[:, None] * v.T for _ in range(number)])
    strengths = rng.uniform(0.5, 2, (number, 3))
    y = np.concatenate([(u * s).T for s in strengths])
    y[2] = 0  # a mode that is to be forgotten
    way = np.repeat(np.arange(number), 3)
    end = (lambda k: f"_{k}") if number > 1 else (lambda k: "")
    gates = gated.Gates(node={f"h1{end(k)}": (way == k).astype(float) for k in range(number)})
    return graph, gated.Dataset({"x": x}, {"y": y}, gates if depth > 1 else gated.Gates())


@pytest.mark.parametrize(("depth", "number"), [(1, 1), (2, 1), (2, 3), (3, 2), (4, 1)])
def test_pathways_on_their_own(depth, number):
    found = compared(*apart(depth, number))
    assert found.applies, found
    assert found.closed_form_gap < 1e-8
    assert found.gap < 0.02
    assert found.reasons[-1] == "closed form: pathways on their own"
    assert str(found).startswith("the theory applies: ")


@pytest.mark.parametrize(("num_domains", "num_trained"), [(3, 2), (3, 3)])
def test_a_shared_edge(num_domains, num_trained):
    pairs = gated.band(num_domains, num_trained)
    y = gated.hierarchy_targets(2)
    graph, data = gated.routing_dataset(
        pairs, np.eye(4), np.linalg.qr(y @ y.T)[0] * [2, 2, 1, 1], 6
    )
    x = np.eye(4)
    graph, data = gated.routing_dataset(pairs, x, x * np.array([2.0, 1.5, 1.0, 0.5]), 6)
    found = compared(graph, data, rate=0.01, num_steps=8_000, record_every=100)
    assert found.closed_form_gap < 1e-8
    assert found.reasons[-1] == "closed form: a shared edge in the middle"
    assert found.applies


def test_where_there_is_no_closed_form():
    graph, data = diagonalizable()
    found = compared(graph, data, rate=0.01, num_steps=1_000, record_every=10)
    assert found.closed_form is None
    assert np.isnan(found.closed_form_gap)
    assert found.reasons[-1] == "no closed form: paths are on together"
    assert found.gap < 0.05


def test_where_there_are_no_common_modes():
    graph = skipping()
    data, _ = drawn(graph)
    found = compared(graph, data, num_steps=20, record_every=10)
    assert found.reduced is None
    assert not found.applies
    assert "does not apply, least of all to" in str(found)


def test_small_random_params_are_nearly_on_the_manifold():
    """They align first; large ones are another regime."""
    graph, data = apart(2, 1)
    small = compared(graph, data, init="orthogonal", scale=0.01, rate=5e-3, num_steps=8_000)
    large = compared(graph, data, init="normal", scale=3.0, rate=5e-3, num_steps=8_000)
    assert small.gap < large.gap
    assert not large.applies
    assert "not on the manifold" in str(large)


def test_bad_input():
    with pytest.raises(ValueError, match="init must be one of"):
        compared(*apart(), init="zero")


def test_a_rate_that_is_not_stable_is_warned_of_before_the_run():
    graph, data = apart()
    known = gated.moments(graph, data)
    modes = gated.diagonalize(graph, known)
    settled = compared(graph, data, rate=0.01, num_steps=20_000, record_every=1_000)
    assert settled.reduced is not None
    end = {name: values[-1] for name, values in settled.reduced.params.items()}
    largest = float(gated.stable_rate(graph, end, modes))
    options = {"num_steps": 2_000, "record_every": 2_000}
    with pytest.warns(UserWarning, match=f"is above {largest:.4g}, the largest"):
        off = compared(graph, data, rate=1.02 * largest, **options)
    assert not off.applies
    near = compared(graph, data, rate=0.98 * largest, **options)  # warnings are errors here
    assert near.simulated.losses[-1] < near.simulated.losses[0]


@pytest.mark.parametrize("depth", [2, 3])
def test_stable_rates_of_equal_paths(depth):
    s = np.array([2.0, 0.5])
    graph = gated.chain([2, *[3] * (depth - 1), 2])
    modes = gated.diagonalize(
        graph,
        gated.moments(graph, gated.Dataset({"x": np.eye(2)}, {"y": np.diag(s)}, weight=np.ones(2))),
    )
    b = {name: jnp.asarray(modes.s[0] ** (1 / depth)) for name, _ in graph.edges}
    found = gated.stable_rate(graph, b, modes)
    np.testing.assert_allclose(found, gated.max_stable_rate([1] * depth, 1.0, depth, s), rtol=1e-9)
    domains = 3
    graph, data = gated.routing_dataset(np.ones((domains, domains), bool), np.eye(2), np.diag(s), 4)
    modes = gated.diagonalize(graph, gated.moments(graph, data))
    counts = np.array([domains, domains**2, domains])
    beta = (modes.s[0] * domains**2 / np.prod(counts) ** 0.5) ** (1 / 3)
    scaled = lambda name: (domains if name == "shared" else domains**0.5) * beta
    b = {name: jnp.asarray(scaled(name)) for name, _ in graph.edges}
    found = gated.stable_rate(graph, b, modes)
    expected = gated.max_stable_rate(counts, 1 / domains**2, 3, s)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_where_nothing_curves_every_rate_is_stable():
    graph = gated.chain([2, 2, 2])
    data = gated.Dataset({"x": np.eye(2)}, {"y": np.zeros((2, 2))})
    modes = gated.diagonalize(graph, gated.moments(graph, data))
    nothing = {name: jnp.zeros(2) for name, _ in graph.edges}
    assert gated.stable_rate(graph, nothing, modes) == np.inf
