"""SVRG: its mean and its variance over all batches, its best coefficient, its convergence."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import optim
from tests.optim import docstrings

NUM_EXAMPLES, BATCH_SIZE = 5, 2
RNG = np.random.default_rng(0)
GRADIENTS = RNG.normal(size=(NUM_EXAMPLES, 4)) + 1
# Correlated with the gradients, and of three times their size: the best coefficient is near 1/4.
SNAPSHOT = 3 * GRADIENTS + 2 * RNG.normal(size=GRADIENTS.shape)


def _trace(a, b):
    """Trace of the covariance of the rows of a and of b, each row with probability 1/n."""
    return np.mean(np.sum((a - a.mean(0)) * (b - b.mean(0)), axis=1))


COVARIANCE = _trace(GRADIENTS, SNAPSHOT)
BEST = COVARIANCE / _trace(SNAPSHOT, SNAPSHOT)


def _all_updates(coefficient, gradients=GRADIENTS, snapshot=SNAPSHOT):
    """The updates of all N^B batches, which are equally likely."""
    batches = np.array(list(itertools.product(range(NUM_EXAMPLES), repeat=BATCH_SIZE)))
    tx = optim.svrg(coefficient)
    mean = jnp.asarray(snapshot.mean(0))

    def one(u, s):
        return tx.update(u, tx.init(u), snapshot_gradient=s, snapshot_mean=mean)[0]

    batch_means = [jnp.asarray(g[batches].mean(1)) for g in (gradients, snapshot)]
    return np.asarray(jax.vmap(one)(*batch_means))


@pytest.mark.parametrize("coefficient", [0.0, 0.5, 1.0, -2.0, BEST])
def test_mean_and_variance_over_all_batches(coefficient, x64):
    """Unbiased for every coefficient; the variance is that of the docstring."""
    updates = _all_updates(coefficient)
    np.testing.assert_allclose(updates.mean(0), GRADIENTS.mean(0), rtol=1e-13)
    expected = (
        _trace(GRADIENTS, GRADIENTS)
        - 2 * coefficient * COVARIANCE
        + coefficient**2 * _trace(SNAPSHOT, SNAPSHOT)
    ) / BATCH_SIZE
    np.testing.assert_allclose(_trace(updates, updates), expected, rtol=1e-12)


def test_best_coefficient(x64):
    """Covariance over variance; it leaves 1 - rho^2, where a coefficient of 1 does harm."""
    variance = {a: _trace(u, u) for a in (0, BEST, 1) for u in [_all_updates(a)]}
    variance_g, variance_s = _trace(GRADIENTS, GRADIENTS), _trace(SNAPSHOT, SNAPSHOT)
    rho_squared = COVARIANCE**2 / (variance_g * variance_s)
    np.testing.assert_allclose(variance[BEST] / variance[0], 1 - rho_squared, rtol=1e-12)
    assert BEST < 0.5 < rho_squared
    assert variance[1] > variance[0]
    for a in (BEST - 0.02, BEST + 0.02):
        updates = _all_updates(a)
        assert _trace(updates, updates) > variance[BEST]


def test_nothing_is_left_at_the_snapshot(x64):
    updates = _all_updates(1.0, snapshot=GRADIENTS)
    np.testing.assert_allclose(updates, np.tile(GRADIENTS.mean(0), (len(updates), 1)), rtol=1e-14)


def test_schedule():
    """It sees the number of updates made: 1, 1/2, 0, 0."""
    tx = optim.svrg(optax.linear_schedule(1.0, 0.0, 2))
    state, update = tx.init(jnp.ones(1)), jax.jit(tx.update)
    extras = {"snapshot_gradient": jnp.array([5.0]), "snapshot_mean": jnp.array([3.0])}
    found = []
    for _ in range(4):
        updates, state = update(jnp.array([10.0]), state, **extras)
        found.append(float(updates[0]))
    assert found == [8, 9, 10, 10]


def test_keywords_are_not_rounded_to_the_dtype_of_the_updates():
    """255.5 is 256 in bfloat16."""
    tx: Any = optim.svrg()
    u = jnp.full(1, 256, jnp.bfloat16)
    extras = {"snapshot_gradient": jnp.array([255.5]), "snapshot_mean": jnp.zeros(1)}
    updates, _ = tx.update(u, tx.init(u), **extras)
    assert updates.dtype == jnp.bfloat16
    assert updates[0] == 0.5


def test_example_of_the_docstring():
    """It converges at a constant learning rate to the least squares; SGD does not."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(32, 3)).astype(np.float32), rng.normal(size=32).astype(np.float32)

    def mean_loss(w, data):
        return jnp.mean((data[0] @ w - data[1]) ** 2) / 2

    def batches(data):
        order = rng.permutation(32).reshape(8, 4)
        return [(data[0][rows], data[1][rows]) for rows in order]

    def distance(optimizer_of_svrg):
        fake = type("fake", (), {"svrg": staticmethod(optimizer_of_svrg)})
        names = {"params": jnp.zeros(3), "data": (x, y), "num_epochs": 30, "optim": fake}
        names |= {"mean_loss": mean_loss, "batches": batches, "jax": jax, "optax": optax}
        exec(docstrings.example(optim.svrg), names)
        return float(np.max(np.abs(names["params"] - np.linalg.lstsq(x, y)[0])))

    assert distance(optim.svrg) < 1e-5
    assert distance(lambda: optim.svrg(0.0)) > 1e-2


# --- errors ---------------------------------------------------------------------------------------


def _update(**changes):
    tx = optim.svrg()
    updates = {"a": jnp.ones((2, 3)), "b": jnp.ones(2)}
    extras = {"snapshot_gradient": updates, "snapshot_mean": updates} | changes
    return jax.eval_shape(lambda u, e: tx.update(u, tx.init(u), **e), updates, extras)


@pytest.mark.parametrize("name", ["snapshot_gradient", "snapshot_mean"])
def test_a_missing_keyword_says_how_to_get_it(name):
    with pytest.raises(TypeError, match=rf"update needs the keyword {name}: .*{name}=grad\(snap"):
        _update(**{name: None})


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": jnp.ones((2, 3))}, "differs from the updates in structure"),
        ({"a": jnp.ones((2, 3)), "b": {"c": jnp.ones(2)}}, "differs from the updates in structure"),
        ([jnp.ones((2, 3)), jnp.ones(2)], "differs from the updates in structure"),
        (
            {"a": jnp.ones((3, 2)), "b": jnp.ones(2)},
            r"\['a'\] must have the shape \(2, 3\) of the updates, got \(3, 2\)",
        ),
        ({"a": jnp.ones((2, 3)), "b": jnp.float32(1)}, r"\['b'\] must have the shape \(2,\)"),
    ],
    ids=["missing", "deeper", "list", "shape", "scalar"],
)
def test_another_tree(tree, message):
    for name in ("snapshot_gradient", "snapshot_mean"):
        with pytest.raises(ValueError, match=name + r".*" + message):
            _update(**{name: tree})


def test_a_tree_of_integers():
    integers = {"a": jnp.ones((2, 3), int), "b": jnp.ones(2)}
    with pytest.raises(TypeError, match=r"snapshot_mean\['a'\] must have a real floating dtype"):
        _update(snapshot_mean=integers)


def test_a_tree_that_is_masked_as_the_updates_are():
    """By ``mask_compatible_extra_args``, or whole: the result is the same."""
    updates = {"a": jnp.ones(2), "b": jnp.ones(3)}
    extras = {"snapshot_gradient": {"a": jnp.full(2, 5.0), "b": jnp.ones(3)}}
    extras["snapshot_mean"] = {"a": jnp.full(2, 4.5), "b": jnp.ones(3)}
    for compatible in (True, False):
        mask = {"a": True, "b": False}
        tx: Any = optax.masked(optim.svrg(), mask, mask_compatible_extra_args=compatible)
        found = tx.update(updates, tx.init(updates), **extras)[0]
        np.testing.assert_array_equal(found["a"], [0.5, 0.5])


def test_bad_coefficients():
    for coefficient in (np.nan, np.inf):
        with pytest.raises(ValueError, match="coefficient must be finite"):
            optim.svrg(coefficient)
    with pytest.raises(TypeError, match="coefficient must be a real number"):
        optim.svrg("1")  # type: ignore[arg-type]
