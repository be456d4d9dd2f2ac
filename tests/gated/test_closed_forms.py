"""Closed forms against their equations, solved to 1e-11; in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from jaxrobust import gated

pytestmark = pytest.mark.usefixtures("x64")
TIGHT = {"method": "DOP853", "rtol": 1e-12, "atol": 1e-14}


def solved(field, start, times):
    found = solve_ivp(lambda t, y: field(y), (0, times[-1]), start, t_eval=times, **TIGHT)
    return found.y


@pytest.mark.parametrize(("s", "d", "u0", "tau"), [(1.5, 1.0, 1e-3, 1.0), (0.7, 0.5, 2.0, 3.0)])
def test_two_layers(s, d, u0, tau):
    times = np.linspace(0, 12, 50)
    (expected,) = solved(lambda u: 2 * u * (s - d * u) / tau, [u0], times)
    found = gated.two_layer(times, s, u0, d, tau)
    np.testing.assert_allclose(found, expected, atol=1e-8)
    back = gated.two_layer_time(found[1:20], s, u0, d, tau)
    np.testing.assert_allclose(back, times[1:20], rtol=1e-8)


@pytest.mark.parametrize(("a0", "b0"), [(0.5, 0.1), (0.1, 0.7), (0.6, -0.2), (-0.6, 0.2), (-1, -2)])
@pytest.mark.parametrize("d", [1.0, 0.4])
def test_two_layers_of_unequal_strength(a0, b0, d):
    times, s = np.linspace(0, 6, 40), 1.3
    field = lambda z: [z[1] * (s - d * z[0] * z[1]), z[0] * (s - d * z[0] * z[1])]
    a, b = solved(field, [a0, b0], times)
    np.testing.assert_allclose(gated.two_layer_unbalanced(times, s, a0, b0, d), a * b, atol=1e-8)


@pytest.mark.parametrize("depth", [2, 3, 4, 6])
def test_deep(depth):
    s, u0, rate = 1.7, 0.05, 0.6
    (expected,) = solved(
        lambda u: depth * rate * u ** (2 - 2 / depth) * (s - u), [u0], np.linspace(0, 5, 30)
    )
    found = gated.deep(np.linspace(0, 5, 30), s, u0, depth, rate)
    np.testing.assert_allclose(found, expected, atol=1e-8)
    times = gated.deep_time(expected[:8], s, u0, depth, rate)
    np.testing.assert_allclose(times, np.linspace(0, 5, 30)[:8], atol=1e-8)


def test_depth_lengthens_the_plateau_as_a_power():
    """u0^-(L-2)/L / ((L-2) s), and the logarithm for two layers."""
    for depth in (3, 5):
        small = [float(gated.deep_time(0.5, 1.0, u0, depth)) for u0 in (1e-9, 1e-12)]
        expected = 1e-12 ** -((depth - 2) / depth) / (depth - 2)
        assert small[1] == pytest.approx(expected, rel=0.05)


def test_riccati():
    """From any rotation of balanced matrices, against the whole equation."""
    rng = np.random.default_rng(0)
    size, hidden, out = 4, 6, 3
    left, right = np.linalg.qr(rng.normal(size=(hidden, 3)))[0], rng.normal(size=(out, size))
    u, s, v = np.linalg.svd(rng.normal(size=(out, size)), full_matrices=False)
    w1 = 0.3 * left @ np.diag(s) @ v
    w2 = 0.3 * u @ np.diag(s) @ left.T
    np.testing.assert_allclose(w1 @ w1.T, w2.T @ w2, atol=1e-12)

    def field(z):
        a, b = z[: w1.size].reshape(w1.shape), z[w1.size :].reshape(w2.shape)
        error = right - b @ a
        return np.concatenate([(b.T @ error).ravel(), (error @ a.T).ravel()])

    times = np.array([0.0, 0.3, 1.0, 3.0])
    ways = solved(field, np.concatenate([w1.ravel(), w2.ravel()]), times)
    for t, z in zip(times, ways.T, strict=True):
        a, b = z[: w1.size].reshape(w1.shape), z[w1.size :].reshape(w2.shape)
        q = np.concatenate([a.T, b])
        np.testing.assert_allclose(gated.riccati(t, w1, w2, right), q @ q.T, atol=1e-8)
    late = np.asarray(gated.riccati(500.0, w1, w2, right))  # e^{Ft} would overflow
    np.testing.assert_allclose(late[size:, :size], right, atol=1e-6)


def test_xor():
    """Each pathway sees one point: s = sqrt(2)/4 and d = 1/2; from aligned weights."""
    graph, data = gated.xor_dataset(size_hidden=3)
    moments = gated.moments(graph, data)
    b0, params = 0.3, {}
    for k in range(4):
        x, y = data.x["x"][k] / 2**0.5, data.y["y"][k]
        unit = np.linalg.qr(np.random.default_rng(k).normal(size=(3, 1)))[0]
        params |= {f"w1_{k}": b0 * unit @ x[None, :], f"w2_{k}": b0 * y[:, None] @ unit.T}
    times = np.linspace(0, 30, 60)
    found = gated.gradient_flow(graph, params, moments, times, rtol=1e-11)
    np.testing.assert_allclose(found.losses, gated.xor_loss(times, b0**2), atol=1e-8)
    assert gated.xor_loss(0.0, 1e-300) == pytest.approx(0.5)


@pytest.mark.parametrize(("num_domains", "num_trained"), [(4, 2), (7, 4), (3, 3)])
@pytest.mark.parametrize("b0", [0.08, 0.4])
def test_routing(num_domains, num_trained, b0):
    s, m, k = 3.0, num_domains, num_trained

    def field(z):
        left = s - z[0] * z[1] * z[2]
        return [k / m**2 * z[1] * z[2] * left, k / m * z[0] * z[2] * left,
                k / m**2 * z[0] * z[1] * left]  # fmt: skip

    times = np.linspace(0, (60 if b0 < 0.1 else 6) * m / k, 200)
    expected = solved(field, [b0] * 3, times)
    found = gated.routing_modes(times, s, m, k, b0)
    np.testing.assert_allclose(found, expected, atol=1e-8)
    moving = (expected[1] < 0.95 * expected[1, -1]) & (times > 0)  # near its end t has no digits
    back = gated.routing_time(expected[1][moving], s, m, k, b0)
    np.testing.assert_allclose(back, times[moving], rtol=1e-7)
    # Of trained pairs alone: c = 1 / (K M), and times are shorter by K / M.
    faster = gated.routing_time(expected[1][moving], s, m, k, b0, 1 / (k * m))
    np.testing.assert_allclose(faster, back * k / m, rtol=1e-9)


def test_the_race_of_equal_pathways():
    """Of the routing graph with all pairs trained: rates and the edge of stability."""
    m, s = 3, 2.0
    pairs = np.ones((m, m), bool)
    graph, data = gated.routing_dataset(pairs, np.eye(2), s * np.eye(2), 4)
    modes = gated.diagonalize(graph, gated.moments(graph, data))
    counts = [m, m * m, m]
    beta = 0.1
    b = {name: jnp.full(2, (m * m if name == "shared" else m) ** 0.5 * beta)
         for name, _ in graph.edges}  # fmt: skip
    times = np.linspace(0, 8, 30)
    found = gated.solve_reduced(graph, b, modes, times)
    rate = float(gated.race_rate(counts, 1 / m**2, 3))
    u = gated.deep(times, s, float(np.prod(np.sqrt(counts))) * beta**3, 3, rate)
    assert found.strengths is not None
    np.testing.assert_allclose(np.abs(found.strengths[:, 0, 0]), u, atol=1e-8)

    edge = float(gated.max_stable_rate(counts, 1 / m**2, 3, s))
    scale = (s / np.prod(np.sqrt(counts))) ** (1 / 3)
    at_minimum = {name: jnp.full(2, (m * m if name == "shared" else m) ** 0.5 * scale * 1.0001)
                  for name, _ in graph.edges}  # fmt: skip
    params = gated.init_decoupled(jax.random.key(0), graph, modes, at_minimum)
    moments = gated.moments(graph, data)
    for share, is_stable in ((0.99, True), (1.01, False)):
        run = gated.simulate(graph, params, moments, rate=share * edge, num_steps=400)
        assert (run.losses[-1] < run.losses[0]) == is_stable


def test_shared_routes_are_faster_than_dedicated_ones():
    """By K M^(1/3) at the same weight of a pair: the pathway-count law."""
    k, m = 4, 7
    shared = float(gated.race_rate([k, k * m, k], 1.0, 3))
    assert shared == pytest.approx(k * m ** (1 / 3))


def test_bad_input():
    with pytest.raises(ValueError, match="depth must be 2 or more"):
        gated.deep_time(0.5, 1.0, 0.1, 1)
    with pytest.raises(ValueError, match="counts must have 3 numbers"):
        gated.race_rate([1, 2], 1.0, 3)
    with pytest.raises(ValueError, match="num_domains must be 2 or more"):
        gated.routing_time(0.5, 1.0, 1, 1, 0.1)
