"""The theorem in small: steepest descent in a norm finds the largest margin in that norm."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import linprog

from jaxrobust import optim
from tests.optim import oracles

X = oracles.separable(6, 24, seed=1)
NORMS = {name: oracles.VECTOR[name].norm for name in ("l1", "l2", "linf")}


def _margin(name: str, w: np.ndarray) -> float:
    return np.min(X @ w) / NORMS[name](w)


def _largest_margin(name: str) -> float:
    """1 / min |w| subject to x_i w >= 1, as a linear program, for l1 and linf."""
    n, d = X.shape
    if name == "l1":  # w = u - v with u, v >= 0; minimise their sum
        result = linprog(np.ones(2 * d), A_ub=np.hstack([-X, X]), b_ub=-np.ones(n))
    else:  # minimise t with |w_j| <= t
        box = np.block([[np.eye(d), -np.ones((d, 1))], [-np.eye(d), -np.ones((d, 1))]])
        a = np.vstack([np.hstack([-X, np.zeros((n, 1))]), box])
        b = np.concatenate([-np.ones(n), np.zeros(2 * d)])
        result = linprog(np.eye(d + 1)[-1], A_ub=a, b_ub=b, bounds=(None, None))
    assert result.status == 0
    return 1 / result.fun


def _train(tx, num_steps: int = 4000) -> np.ndarray:
    """On the log of the exponential loss, from zero."""

    def step(carry, _):
        params, state = carry
        grad = jax.grad(lambda w: jax.nn.logsumexp(-(X @ w)))(params)
        updates, state = tx.update(grad, state, params)
        return (optax.apply_updates(params, updates), state), None

    start = jnp.zeros(X.shape[1])
    return np.asarray(jax.lax.scan(step, (start, tx.init(start)), None, length=num_steps)[0][0])


@pytest.mark.parametrize("name", ["l1", "linf"])
def test_largest_margin(name: str, x64):
    """Matched descent reaches it; gradient descent, by as many steps, does not."""
    best = _largest_margin(name)
    bound = max(oracles.VECTOR[name].dual(row) for row in X)
    scaled = _train(optim.steepest_descent(1 / bound**2, name))
    assert 0.97 < _margin(name, scaled) / best <= 1 + 1e-9
    normalized = _train(optim.normalized_steepest_descent(optim.inverse_sqrt(0.3), name))
    assert 0.97 < _margin(name, normalized) / best <= 1 + 1e-9
    gradient = _train(optim.steepest_descent(1 / max(np.sum(X**2, axis=1)), "l2"))
    assert _margin(name, gradient) / best < 0.9
    assert _margin("l2", gradient) > _margin("l2", scaled)
