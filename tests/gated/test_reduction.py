"""The reduction: modes, the race of numbers, and the whole network beside it; in float64."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import gated
from tests.gated.problems import diagonalizable, drawn, skipping

pytestmark = pytest.mark.usefixtures("x64")


def made(seed=0):
    graph, data = diagonalizable(seed)
    moments = gated.moments(graph, data)
    return graph, moments, gated.diagonalize(graph, moments)


def routed(num_domains=4, num_trained=2, hidden=8, weight=None):
    x, y = np.eye(4), gated.routing_targets()
    pairs = gated.band(num_domains, num_trained)
    graph, data = gated.routing_dataset(pairs, x, y, hidden, weight=weight)
    moments = gated.moments(graph, data)
    return graph, moments, gated.diagonalize(graph, moments), pairs


@pytest.mark.parametrize("seed", range(4))
def test_common_modes_are_found(seed):
    graph, moments, modes = made(seed)
    assert modes.residual < 1e-12
    for k, path in enumerate(gated.find_paths(graph)):
        whole = modes.u["y"] * modes.s[k] @ modes.v["x"].T
        np.testing.assert_allclose(whole, gated.block(graph, moments, path), atol=1e-12)
    assert "the reduction applies" in modes.describe(graph)


def test_modes_of_many_domains_agree():
    graph, _, modes, pairs = routed()
    assert modes.residual < 1e-12
    expected = np.sqrt([185, 41, 9, 9]) / 16
    for k, path in enumerate(gated.find_paths(graph)):
        is_trained = pairs[int(path.source[1:]), int(path.target[1:])]
        np.testing.assert_allclose(np.abs(modes.s[k]), is_trained * expected, atol=1e-12)


def test_what_has_no_common_modes_says_so():
    graph = skipping()
    data, _ = drawn(graph)
    moments = gated.moments(graph, data)
    modes = gated.diagonalize(graph, moments)
    assert modes.residual > 0.1
    assert "does not apply, least of all to" in modes.describe(graph)
    b = {name: jnp.full(2, 0.1) for name, _ in graph.edges}
    with pytest.raises(ValueError, match="modes must be common to all paths for the reduction"):
        gated.solve_reduced(graph, b, modes, np.array([0.0, 1.0]))
    found = gated.solve_reduced(graph, b, modes, np.array([0.0, 1.0]), allow_residual=True)
    assert np.all(np.isfinite(found.losses))


def test_gradient_descent_is_the_euler_method_of_the_race():
    """With overlapping gates, at any rate."""
    graph, moments, modes = made()
    b = {
        name: jnp.asarray(np.random.default_rng(1).uniform(0.1, 0.5, 4)) for name, _ in graph.edges
    }
    params = gated.init_decoupled(jax.random.key(0), graph, modes, b)
    assert gated.reduced_loss(graph, b, modes) == pytest.approx(
        float(gated.loss_from_moments(graph, params, moments)), rel=1e-13
    )
    found = gated.simulate(graph, params, moments, rate=0.05, num_steps=400)

    def step(b, _):
        b = gated.step_reduced(graph, b, modes, 0.05)
        return b, gated.reduced_loss(graph, b, modes)

    last, losses = jax.lax.scan(step, b, length=400)
    np.testing.assert_allclose(found.losses[1:], losses, atol=1e-11)
    alone = gated.simulate_reduced(graph, b, modes, rate=0.05, num_steps=400)
    np.testing.assert_allclose(found.losses, alone.losses, atol=1e-11)
    for name, value in last.items():
        np.testing.assert_allclose(alone.params[name], value, atol=1e-12)
    strengths, left = gated.effective_singular_values(graph, found.params, modes)
    np.testing.assert_allclose(strengths, gated.path_strengths(graph, last), atol=1e-11)
    assert np.max(left) < 1e-11


def test_off_the_manifold_it_is_flagged():
    graph, _, modes = made()
    params = gated.init_decoupled(jax.random.key(0), graph, modes, 0.3)
    noisy = {name: w + 1e-3 * jax.random.normal(jax.random.key(1), w.shape)
             for name, w in params.items()}  # fmt: skip
    assert np.max(gated.effective_singular_values(graph, params, modes)[1]) < 1e-12
    assert np.min(gated.effective_singular_values(graph, noisy, modes)[1]) > 1e-3


def test_the_race_conserves_too():
    graph, _, modes, _ = routed()
    rng = np.random.default_rng(0)
    b = {name: jnp.asarray(rng.normal(size=4)) for name, _ in graph.edges}
    flow = gated.reduced_flow(graph, b, modes)
    ins = sum(b[f"in{i}"] * flow[f"in{i}"] for i in range(4))
    outs = sum(b[f"out{o}"] * flow[f"out{o}"] for o in range(4))
    np.testing.assert_allclose(ins, b["shared"] * flow["shared"], rtol=1e-12)
    np.testing.assert_allclose(outs, b["shared"] * flow["shared"], rtol=1e-12)


def test_the_solver_is_the_limit_of_small_steps():
    graph, moments, modes = made()
    params = gated.init_decoupled(jax.random.key(0), graph, modes, 0.2)
    b = {name: jnp.full(4, 0.2) for name, _ in graph.edges}
    times = np.linspace(0, 20, 201)
    solved = gated.solve_reduced(graph, b, modes, times)
    flow = gated.gradient_flow(graph, params, moments, times, rtol=1e-11)
    np.testing.assert_allclose(solved.losses, flow.losses, atol=1e-8)
    levels = solved.losses[0] * np.array([0.8, 0.5])
    exact = gated.crossing_times(times, solved.losses, levels)
    off = []
    for rate in (0.02, 0.005):
        found = gated.simulate(graph, params, moments, rate=rate, num_steps=round(20 / rate))
        crossed = rate * gated.crossing_times(found.times, found.losses, levels)
        off.append(np.abs(crossed - exact).max())
    assert off[1] < 0.4 * off[0]  # first order


def test_steps_do_not_depend_on_the_examples():
    """From moments and from examples the same run."""
    graph, data = diagonalizable()
    params = gated.init_orthogonal(jax.random.key(0), graph, 0.2)
    runs = [
        gated.simulate(graph, params, given, rate=0.05, num_steps=50, record_every=10)
        for given in (data, gated.moments(graph, data))
    ]
    np.testing.assert_allclose(runs[0].losses, runs[1].losses, rtol=1e-11)
    assert runs[0].times.tolist() == [0, 10, 20, 30, 40, 50]
    kept = gated.simulate(graph, params, data, rate=0.05, num_steps=50, keep_params=True)
    assert kept.params["w1_0"].shape == (51, 6, 4)
    np.testing.assert_array_equal(kept.params["w1_0"][0], params["w1_0"])


def test_untrained_pairs_are_right_after_decoupled_training():
    graph, moments, modes, pairs = routed(num_domains=4, num_trained=2)
    params = gated.init_decoupled(jax.random.key(0), graph, modes, 0.3)
    found = gated.simulate(graph, params, moments, rate=0.02, num_steps=20_000, record_every=5_000)
    x, y = np.eye(4), gated.routing_targets()
    error = gated.transfer_matrix(
        graph, found.params, dict.fromkeys(graph.inputs, x), dict.fromkeys(graph.outputs, y)
    )
    assert not pairs.all()
    assert np.max(error) < 1e-10


def test_bad_input():
    graph, moments, modes = made()
    params = gated.init_decoupled(jax.random.key(0), graph, modes, 0.3)
    with pytest.raises(ValueError, match="rate must be positive"):
        gated.simulate(graph, params, moments, rate=0.0, num_steps=3)
    with pytest.warns(UserWarning, match="rate 9 is above 0.1, the largest at which"):
        gated.simulate(graph, params, moments, rate=9.0, num_steps=1, warn_above=0.1)
    b = {name: jnp.full(4, 0.2) for name, _ in graph.edges}
    with pytest.raises(ValueError, match="times must rise"):
        gated.solve_reduced(graph, b, modes, np.array([1.0, 0.5]))
    with pytest.raises(ValueError, match="b must have the edges"):
        gated.reduced_loss(graph, {"w1_0": jnp.ones(4)}, modes)
    with pytest.raises(ValueError, match=r"must have shape \(4,\), one number for each mode"):
        gated.reduced_loss(graph, b | {"w1_0": jnp.ones(3)}, modes)
    small = gated.pathways([4, 2, 4], 4)
    with pytest.raises(ValueError, match="has size 2, less than the 4 modes"):
        gated.init_decoupled(jax.random.key(0), small, modes, 0.3)
    with pytest.raises(ValueError, match="num_trained"):
        gated.band(3, 4)


def test_without_the_solver_it_is_said_how_to_get_it(monkeypatch):
    graph, _, modes = made()
    b = {name: jnp.full(4, 0.2) for name, _ in graph.edges}
    monkeypatch.setitem(sys.modules, "diffrax", None)
    with pytest.raises(ImportError, match=r"not installed: pip install 'jaxrobust\[theory\]'"):
        gated.solve_reduced(graph, b, modes, np.array([0.0, 1.0]))
