"""What the network computes, its moments, and what training conserves; in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import gated
from tests.gated.problems import drawn, largest, skipping

pytestmark = pytest.mark.usefixtures("x64")


def unrolled(graph, params, data):
    """Outputs as sums over paths, by NumPy."""
    number = len(next(iter(data.x.values())))
    gate = lambda of, name: np.asarray(of.get(name, np.ones(number)))
    found = {name: np.zeros((number, graph.sizes[name])) for name in graph.outputs}
    for path in gated.find_paths(graph):
        g = gate(data.gates.node, path.source)
        value = np.asarray(data.x[path.source])
        for edge in path.edges:
            target = graph.ends[edge][1]
            g = g * gate(data.gates.edge, edge) * gate(data.gates.node, target)
            value = value @ np.asarray(params[edge]).T
        found[path.target] += g[:, None] * value
    return found


def test_outputs_are_sums_over_paths():
    graph = skipping()
    data, params = drawn(graph)
    found = gated.apply(graph, params, data.x, data.gates)
    for name, expected in unrolled(graph, params, data).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weighted", [True, False])
def test_the_loss_of_moments_is_that_of_examples(weighted):
    graph = skipping()
    data, params = drawn(graph, weighted=weighted)
    found = unrolled(graph, params, data)
    weight = data.weight if weighted else np.full(9, 1 / 9)
    squared = sum(np.sum((data.y[n] - found[n]) ** 2, axis=1) for n in graph.outputs)
    expected = 0.5 * np.sum(weight * squared)
    assert gated.loss(graph, params, data) == pytest.approx(expected, rel=1e-12)
    moments = gated.moments(graph, data)
    assert gated.loss_from_moments(graph, params, moments) == pytest.approx(expected, rel=1e-12)


def test_the_gradient_is_a_sum_over_paths():
    graph = skipping()
    data, params = drawn(graph)
    moments = gated.moments(graph, data)
    expected = jax.grad(lambda p: -gated.loss(graph, p, data))(params)
    assert largest(expected, gated.path_gradient(graph, params, moments)) < 1e-13
    found = jax.grad(lambda p: -gated.loss_from_moments(graph, p, moments))(params)
    assert largest(expected, found) < 1e-12


def test_targets_where_the_output_is_off_only_shift_the_loss():
    graph = gated.chain([2, 3, 2])
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 5, 2))
    gates = gated.Gates(node={"y": np.array([1.0, 0, 1, 0, 1])})
    params = gated.init_normal(jax.random.key(0), graph, 1.0)
    gradient = lambda y: jax.grad(
        lambda p: gated.loss(graph, p, gated.Dataset({"x": x}, {"y": y}, gates))
    )(params)
    assert largest(gradient(y), gradient(y * gates.node["y"][:, None])) < 1e-15


def test_balance_is_conserved():
    """Its rate of change along the gradient is zero, whatever the scalar gates."""
    graph = skipping()
    data, params = drawn(graph)
    slope = jax.grad(lambda p: -gated.loss(graph, p, data))(params)
    _, change = jax.jvp(lambda p: gated.balance(graph, p), (params,), (slope,))
    scale = max(float(jnp.abs(g).max()) for g in slope.values())
    assert set(change) == {"a", "b", "c"}
    for part in change.values():
        assert np.abs(part).max() < 1e-14 * max(scale, 1)


def test_drift_of_balance_is_proportional_to_the_rate():
    graph = gated.chain([3, 4, 2])
    data, params = drawn_chain(graph)
    drift = []
    for rate in (1e-2, 1e-3):
        found = gated.simulate(
            graph, params, data, rate=rate, num_steps=round(5 / rate), record_every=round(5 / rate)
        )
        before, after = (gated.balance(graph, p)["h1"] for p in (params, found.params))
        drift.append(float(jnp.abs(after - before).max()))
    assert drift[0] / drift[1] == pytest.approx(10, rel=0.1)


def test_with_gates_for_units_the_diagonal_is_conserved():
    graph = gated.chain([3, 4, 2])
    data, params = drawn_chain(graph)
    gates = gated.Gates(node={"h1": np.random.default_rng(1).normal(size=(6, 4))})
    data = data._replace(gates=gates)
    slope = jax.grad(lambda p: -gated.loss(graph, p, data))(params)
    _, change = jax.jvp(lambda p: gated.balance(graph, p), (params,), (slope,))
    assert np.abs(np.diag(change["h1"])).max() < 1e-14
    assert np.abs(change["h1"]).max() > 1e-3
    with pytest.raises(ValueError, match=r"gates.node\['h1'\] must be one number for each example"):
        gated.moments(graph, data)


def drawn_chain(graph):
    rng = np.random.default_rng(0)
    data = gated.Dataset({"x": rng.normal(size=(6, 3))}, {"y": rng.normal(size=(6, 2))})
    return data, gated.init_normal(jax.random.key(0), graph, 0.5)


def test_relu_networks_are_gated_ones():
    rng = np.random.default_rng(0)
    params = [jnp.asarray(rng.normal(size=s)) for s in ((7, 3), (5, 7), (2, 5))]
    x, y = jnp.asarray(rng.normal(size=(9, 3))), jnp.asarray(rng.normal(size=(9, 2)))
    x = x.at[0].set(0)  # all units are at exactly 0 there
    graph, of_edges, gates = gated.as_gated(params, x)
    found = gated.apply(graph, of_edges, {"x": x}, gates)["y"]
    np.testing.assert_array_equal(found, gated.relu_network(params, x))
    plain = jax.grad(lambda p: 0.5 * jnp.mean(jnp.sum((y - gated.relu_network(p, x)) ** 2, 1)))
    data = gated.Dataset({"x": x}, {"y": y}, gates)
    gated_gradient = jax.grad(lambda p: gated.loss(graph, p, data))(of_edges)
    for one, other in zip(plain(params), gated_gradient.values(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13, atol=1e-15)
    np.testing.assert_array_equal(gated.relu_gates(params, x)[0][0], 0)


def test_the_tangent_kernel():
    graph = skipping()
    data, params = drawn(graph, number=3)
    kernel = np.asarray(gated.ntk(graph, params, data))
    assert kernel.shape == (15, 15)
    slope = jax.grad(lambda p: gated.apply(graph, p, data.x, data.gates)["w"][2, 1])(params)
    other = jax.grad(lambda p: gated.apply(graph, p, data.x, data.gates)["y"][0, 1])(params)
    expected = sum(float(jnp.sum(slope[e] * other[e])) for e in slope)
    assert kernel[2 * 5 + 2 + 1, 1] == pytest.approx(expected)


def test_similarities():
    graph = gated.chain([3, 4, 2])
    data, params = drawn_chain(graph)
    expected = (data.x["x"] @ np.asarray(params["w1"]).T) @ (
        data.x["x"] @ np.asarray(params["w1"]).T
    ).T
    np.testing.assert_allclose(gated.rsa(graph, params, data, "h1"), expected)
    with pytest.raises(ValueError, match="node must be one of"):
        gated.rsa(graph, params, data, "h7")


def test_bad_input():
    graph = gated.chain([3, 4, 2])
    data, params = drawn_chain(graph)
    x = data.x
    with pytest.raises(ValueError, match=r"params must have \['w1', 'w2'\]; missing: \['w2'\]"):
        gated.apply(graph, {"w1": params["w1"]}, x, gated.Gates())
    with pytest.raises(ValueError, match=r"params\['w2'\] must have shape \(2, 4\)"):
        gated.apply(graph, params | {"w2": params["w1"]}, x, gated.Gates())
    with pytest.raises(ValueError, match=r"x\['x'\] must have shape \(6, 3\)"):
        gated.apply(graph, params, {"x": x["x"][:, :2]}, gated.Gates())
    with pytest.raises(ValueError, match=r"gates.node\['h1'\] must have shape \(6,\)"):
        gated.apply(graph, params, x, gated.Gates(node={"h1": np.ones(5)}))
    with pytest.raises(ValueError, match="gates.edge names the unknown edge 'h1'"):
        gated.apply(graph, params, x, gated.Gates(edge={"h1": np.ones(6)}))
    with pytest.raises(ValueError, match=r"y\['y'\] must have shape"):
        gated.loss(graph, params, gated.Dataset(x, {"y": np.ones((6, 3))}))
    with pytest.raises(ValueError, match=r"weight must have shape \(6,\)"):
        gated.loss(graph, params, data._replace(weight=np.ones(3)))
    with pytest.raises(TypeError, match="params must be a mapping"):
        gated.apply(graph, [params], x, gated.Gates())  # pyright: ignore[reportArgumentType]
