"""Proximal gradient steps: against the conditions of the minimum, closed forms and NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import norms, optim

NORMS = ["l1", "l2", "linf", norms.lp(1.5), norms.fourier(norms.l1), norms.fourier(norms.linf)]
NAMES = [norms.as_norm(norm).name for norm in NORMS]


def least_squares(num_rows=15, num_features=24, seed=0):
    """f(w) = |Aw - b|^2 / 2 in float64, and the Lipschitz constant of its gradient."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(num_rows, num_features)), rng.normal(size=num_rows)
    f = lambda w: 0.5 * jnp.sum((jnp.asarray(a) @ w - jnp.asarray(b)) ** 2)
    return f, a, b, float(np.linalg.norm(a, 2)) ** 2


def rate_of(state: Any) -> jax.Array:
    """The next learning rate."""
    return state.learning_rate


def minimise(optimizer, f, w, num_steps):
    """The state after so many steps, and the params."""
    optimizer = optax.with_extra_args_support(optimizer)

    def step(carry, _):
        w, state = carry[0], carry[1]
        value, gradient = jax.value_and_grad(f)(w)
        updates, state = optimizer.update(gradient, state, w, value=value, value_fn=f)
        return (optax.apply_updates(w, updates), state), rate_of(state)

    run = jax.jit(lambda w: jax.lax.scan(step, (w, optimizer.init(w)), length=num_steps))
    (w, state), rates = run(w)
    return state, w, np.asarray(rates)


@pytest.mark.parametrize("norm", NORMS, ids=NAMES)
@pytest.mark.parametrize("searched", [False, True], ids=["rate", "fista"])
def test_the_conditions_of_the_minimum_hold(x64, norm, searched):
    """|f'(w)|_* <= strength, and -<f'(w), w> = strength |w|: necessary and sufficient."""
    norm = norms.as_norm(norm)
    f, *_, lipschitz = least_squares()
    at_zero = norm.dual.value(jax.grad(f)(jnp.zeros(24)))
    strength = float(0.3 * at_zero)
    if searched:
        optimizer = optim.fista(norm, strength, learning_rate=10.0)
    else:
        optimizer = optim.proximal_gradient(1 / lipschitz, norm, strength)
    state, _, _ = minimise(optimizer, f, jnp.zeros(24), 1500)
    w, gradient = state.solution, jax.grad(f)(state.solution)
    length = float(norm.value(w))
    assert length > 0.05
    assert float(norm.dual.value(gradient)) <= strength * (1 + 1e-7)
    assert float(-jnp.sum(gradient * w)) == pytest.approx(strength * length, rel=1e-7)
    # From the strength on at which zero is the minimum, it is found exactly.
    above = optim.proximal_gradient(1 / lipschitz, norm, float(1.001 * at_zero))
    start = jnp.full(24, 1e-3)
    assert not np.any(minimise(above, f, start, 4000)[0].solution)


def test_a_quadratic_of_curvature_1_needs_one_step():
    target = jnp.asarray([3.0, -0.2, 0.5, -2.0])
    f = lambda w: 0.5 * jnp.sum((w - target) ** 2)
    state, w, _ = minimise(optim.proximal_gradient(1.0, "l1", 0.5), f, jnp.zeros(4), 1)
    np.testing.assert_allclose(state.solution, [2.5, 0, 0, -1.5], atol=1e-6)
    np.testing.assert_allclose(w, state.solution, atol=1e-6)


@pytest.mark.parametrize(("accelerated", "restart"), [(True, True), (True, False), (False, True)])
def test_steps_are_those_of_numpy(x64, accelerated, restart):
    f, a, b, lipschitz = least_squares()
    rate, strength = 1 / lipschitz, 0.4
    options = {"accelerated": accelerated, "restart": restart}
    optimizer = optim.proximal_gradient(rate, "l1", strength, **options)
    y = before = np.linspace(-1, 1, 24)
    t, restarts = 1.0, 0
    for number in range(1, 120):
        z = y - rate * a.T @ (a @ y - b)
        x = np.sign(z) * np.maximum(np.abs(z) - rate * strength, 0)
        if restart and (y - x) @ (x - before) > 0:
            t, restarts = 1.0, restarts + 1
        after = (1 + np.sqrt(1 + 4 * t**2)) / 2
        y = x + (t - 1) / after * (x - before) if accelerated else x
        before, t = x, after
        if number in (1, 5, 119):
            state, w, _ = minimise(optimizer, f, jnp.linspace(-1.0, 1.0, 24), number)
            np.testing.assert_allclose(state.solution, x, atol=1e-12)
            np.testing.assert_allclose(w, y, atol=1e-12)
    assert (restarts > 0) == (accelerated and restart)


def test_acceleration_keeps_its_rate_on_a_hard_quadratic(x64):
    """Without a restart f(x_k) - f* <= 2 |w0 - w*|^2 / (rate (k + 1)^2); plain steps do not."""
    size = 200
    chain = 2 * np.eye(size) - np.eye(size, k=1) - np.eye(size, k=-1)  # Nesterov's worst case
    f = lambda w: 0.5 * w @ (jnp.asarray(chain) @ w) - w[0]
    best = np.linalg.solve(chain, np.eye(size)[0])
    excess = {}
    for accelerated in (True, False):
        options = {"accelerated": accelerated, "restart": False}
        optimizer = optim.proximal_gradient(0.25, "l1", 0.0, **options)
        state, _, _ = minimise(optimizer, f, jnp.zeros(size), 150)
        excess[accelerated] = float(f(state.solution) - f(jnp.asarray(best)))
    assert excess[True] <= 2 * np.sum(best**2) / (0.25 * 151**2)
    assert excess[False] > 3 * excess[True]


def test_the_search_finds_a_rate_that_suffices_and_raises_it_where_the_curvature_falls():
    """From 1,000 down at the first step; on a logistic loss it grows as the loss falls."""
    f, *_, lipschitz = least_squares()
    f32 = lambda w: f(w).astype(jnp.float32)
    _, _, rates = minimise(
        optim.fista("l1", 0.4, learning_rate=1e3, increase=1.0), f32, jnp.zeros(24), 50
    )
    assert np.all(np.diff(rates) <= 0)  # as published
    assert rates[-1] >= 0.5 / lipschitz  # half of what always suffices is reached at worst
    margins = jnp.asarray([1.0, 2.0, 1.5])
    logistic = lambda w: jnp.mean(jax.nn.softplus(-margins * w[0]))
    _, _, rates = minimise(optim.fista("l1", 1e-5), logistic, jnp.zeros(1), 200)
    assert rates[-1] > 1e3


def test_a_rate_that_is_a_schedule(x64):
    f, *_, lipschitz = least_squares()
    rate = 1 / lipschitz
    halved = lambda count: jnp.where(count < 3, rate, rate / 2)
    _, w, rates = minimise(optim.proximal_gradient(halved, "l2", 0.1), f, jnp.ones(24), 5)
    np.testing.assert_allclose(rates, [rate] * 3 + [rate / 2] * 2)
    assert np.all(np.isfinite(w))


def test_the_solution_is_found_inside_of_a_chain():
    optimizer = optax.chain(optax.clip(10.0), optim.proximal_gradient(0.1, "l1", 0.1))
    state = optimizer.init(jnp.ones(3))
    np.testing.assert_array_equal(optax.tree.get(state, "solution"), np.ones(3))


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: optim.proximal_gradient(0.0, "l1", 0.1), ValueError, "learning_rate"),
        (lambda: optim.proximal_gradient(0.1, "l1", -0.1), ValueError, "strength"),
        (lambda: optim.proximal_gradient(0.1, "l0", 0.1), ValueError, "norm"),
        (lambda: optim.fista("l1", 0.1, learning_rate=np.inf), ValueError, "learning_rate"),
        (lambda: optim.fista("l1", 0.1, increase=0.9), ValueError, "increase"),
        (lambda: optim.fista("l1", 0.1, max_backtracks=0), ValueError, "max_backtracks"),
        (lambda: optim.fista("l1", "0.1"), TypeError, "strength"),  # type: ignore[arg-type]
    ],
)
def test_arguments_out_of_range(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_what_update_needs():
    w = jnp.ones(3)
    for optimizer in (optim.proximal_gradient(0.1, "l1", 0.1), optim.fista("l1", 0.1)):
        with pytest.raises(ValueError, match="params"):
            optimizer.update(w, optimizer.init(w))
    optimizer = optim.fista("l1", 0.1)
    with pytest.raises(TypeError, match="value_fn"):
        optimizer.update(w, optimizer.init(w), w, value=jnp.float32(1))
    with pytest.raises(TypeError, match="keyword value:"):
        optimizer.update(w, optimizer.init(w), w, value_fn=jnp.sum)
