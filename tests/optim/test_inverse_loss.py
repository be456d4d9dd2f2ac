"""The step 1 / (B^2 L): its value, its trajectory, and the same on log L."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import norms, optim
from tests.optim import oracles

X = oracles.separable(5, 8, seed=0)
LOSSES = {
    "exponential": (oracles.exponential, lambda w: jnp.mean(jnp.exp(-(X @ w)))),
    "logistic": (oracles.logistic, lambda w: jnp.mean(jax.nn.softplus(-(X @ w)))),
}


def _log_exponential(w, x=X):
    return jax.nn.logsumexp(-(x @ w)) - jnp.log(len(x))


def _trajectory(tx, loss_fn, num_steps: int, size: int = 8):
    """Parameters after each step, from zero, on the full batch."""

    def step(carry, _):
        params, state = carry
        value, grad = jax.value_and_grad(loss_fn)(params)
        updates, state = tx.update(grad, state, params, value=value)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    start = jnp.zeros(size)
    return np.asarray(jax.lax.scan(step, (start, tx.init(start)), None, length=num_steps)[1])


def _bound(name: str) -> float:
    return max(oracles.VECTOR[name].dual(row) for row in X)


# --- the factor -----------------------------------------------------------------------------------


def _factor(value, bound=2.0, **kwargs):
    tx = optim.scale_by_inverse_loss(bound, **kwargs)
    updates = jnp.array([1.0, 0.0])
    return np.asarray(tx.update(updates, tx.init(updates), value=value)[0])


@pytest.mark.parametrize("value", [0.5, 1e-30, 1e10])
def test_factor(value):
    np.testing.assert_allclose(_factor(value), [1 / (4 * value), 0], rtol=1e-6)


def test_factor_has_a_largest_value():
    np.testing.assert_allclose(_factor(0.5, max_learning_rate=0.2), [0.2, 0])
    np.testing.assert_allclose(_factor(0.5, max_learning_rate=9.0), [0.5, 0])


def test_factor_where_the_bound_squared_overflows():
    np.testing.assert_allclose(_factor(1e-30, bound=1e22), [1e-14, 0], rtol=1e-6)


@pytest.mark.parametrize("value", [-0.5, np.nan])
@pytest.mark.parametrize("limit", [np.inf, 1.0])
def test_an_impossible_loss_is_not_silent(value, limit):
    assert np.all(np.isnan(_factor(value, max_learning_rate=limit)))


def test_an_underflown_loss():
    np.testing.assert_array_equal(_factor(0.0), [np.inf, np.nan])
    np.testing.assert_array_equal(_factor(0.0, max_learning_rate=3.0), [3, 0])


def test_bfloat16_loss_and_updates():
    """Only the result is rounded: 1 / (9 * 0.75) to bfloat16."""
    tx = optim.scale_by_inverse_loss(3.0)
    updates = jnp.ones(2, jnp.bfloat16)
    scaled, _ = tx.update(updates, tx.init(updates), value=jnp.bfloat16(0.75))
    np.testing.assert_array_equal(scaled, jnp.full(2, 1 / 6.75, jnp.bfloat16))


@pytest.mark.parametrize("bound", [0.0, -1.0, np.nan, np.inf])
def test_bad_bound(bound):
    with pytest.raises(ValueError, match="bound must be positive and finite"):
        optim.scale_by_inverse_loss(bound)
    with pytest.raises(ValueError, match="bound must be positive and finite"):
        optim.loss_scaled_steepest_descent("l2", bound)


def test_bad_arguments():
    for limit in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="max_learning_rate must be positive"):
            optim.scale_by_inverse_loss(1.0, max_learning_rate=limit)
    with pytest.raises(ValueError, match="learning_rate must be"):
        optim.loss_scaled_steepest_descent("l2", 1.0, learning_rate=-1.0)
    with pytest.raises(TypeError, match="bound must be a real number"):
        optim.scale_by_inverse_loss("B")  # type: ignore[arg-type]


def test_bad_value():
    tx = optim.loss_scaled_steepest_descent("l2", 1.0)
    grad = jnp.ones(3)
    with pytest.raises(TypeError, match="value"):
        tx.update(grad, tx.init(grad))
    with pytest.raises(ValueError, match=r"value must be the loss, a scalar, got shape \(3,\)"):
        tx.update(grad, tx.init(grad), value=jnp.ones(3))
    with pytest.raises(TypeError, match="value must have a real floating dtype, got int32"):
        tx.update(grad, tx.init(grad), value=jnp.int32(1))


# --- the trajectory -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "loss"),
    [*((name, "exponential") for name in oracles.VECTOR), ("l1", "logistic"), ("linf", "logistic")],
)
def test_trajectory_and_descent(name: str, loss: str, x64):
    """50 steps are those of a NumPy loop, and each lowers the loss."""
    numpy_loss, loss_fn = LOSSES[loss]
    bound, w, values, expected = _bound(name), np.zeros(8), [], []
    for _ in range(50):
        value, grad = numpy_loss(w, X)
        w = w - oracles.VECTOR[name].direction(grad) / (bound**2 * value)
        values.append(value)
        expected.append(w)
    assert np.all(np.diff(values) < 0)
    tx = optim.loss_scaled_steepest_descent(name, bound)
    # Rounding errors of 1e-16 a step; the factor of 1e4 is for their growth over 50 of them.
    np.testing.assert_allclose(_trajectory(tx, loss_fn, 50), expected, rtol=1e-11, atol=1e-11)


def test_sum_or_mean_makes_no_difference(x64):
    """As long as gradient and value are of the same loss."""
    tx = optim.loss_scaled_steepest_descent("linf", _bound("linf"))
    mean = _trajectory(tx, lambda w: jnp.mean(jnp.exp(-(X @ w))), 20)
    total = _trajectory(tx, lambda w: jnp.sum(jnp.exp(-(X @ w))), 20)
    np.testing.assert_allclose(mean, total, rtol=1e-11, atol=1e-11)


def test_schedule_and_limit_in_the_alias(x64):
    """The learning rate multiplies what the limit leaves."""
    _, loss_fn = LOSSES["logistic"]
    first = {
        limit: _trajectory(
            optim.loss_scaled_steepest_descent(
                "l2", 1.0, learning_rate=optim.inverse_sqrt(0.5), max_learning_rate=limit
            ),
            loss_fn,
            1,
        )
        for limit in (0.1, np.inf)
    }
    grad = oracles.logistic(np.zeros(8), X)[1]
    np.testing.assert_allclose(first[0.1][0], -0.5 * 0.1 * grad, rtol=1e-12)
    np.testing.assert_allclose(first[np.inf][0], -0.5 / np.log(2) * grad, rtol=1e-12)


# --- the log domain -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["l1", "l2", "linf", "fourier-linf"])
def test_log_domain_is_the_same_trajectory(name: str, x64):
    """A constant step 1 / B^2 on log L."""
    bound = _bound(name)
    scaled = optim.loss_scaled_steepest_descent(name, bound)
    constant = optim.steepest_descent(1 / bound**2, name)
    a = _trajectory(scaled, LOSSES["exponential"][1], 100)
    b = _trajectory(constant, _log_exponential, 100)
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_log_domain_goes_on_where_float32_stands_still():
    """The gradient underflows near exp(-87), the smallest normal number; that of log L does not."""
    x = np.array([[1.0, 0.2], [0.8, -0.3]], np.float32)
    bound = float(np.max(np.sum(np.abs(x), axis=1)))

    def run(tx, loss_fn):
        return _trajectory(tx, loss_fn, 3000, size=2)

    scaled = optim.loss_scaled_steepest_descent("linf", bound)
    iterates = run(scaled, lambda w: jnp.mean(jnp.exp(-(x @ w))))
    np.testing.assert_array_equal(iterates[-1], iterates[-2000])
    assert 80 < np.min(x @ iterates[-1]) < 105  # 103 where subnormal numbers are kept
    constant = optim.steepest_descent(1 / bound**2, "linf")
    assert np.min(x @ run(constant, lambda w: _log_exponential(w, x))[-1]) > 1000


def test_docstring_recipe():
    """The bound by vmap, as documented, for a norm whose dual is another one."""
    bound = jnp.max(jax.vmap(norms.linf.dual.value)(jnp.asarray(X, jnp.float32)))
    np.testing.assert_allclose(bound, _bound("linf"), rtol=1e-6)
    optim.loss_scaled_steepest_descent(norms.linf, bound)
