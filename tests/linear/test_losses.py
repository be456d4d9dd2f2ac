"""Log-domain losses against exact arithmetic with 500 digits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import linear
from tests.linear import oracles

LOSSES = ["exponential", "logistic"]
DTYPES = ["float32", "float64"]

# From both ends to both sides of every place where a formula might change, twice as dense there.
MARGINS = np.array(
    [*(s * m for m in (1e-30, 0.1, 1, 3, 9.5, 9.6, 10, 21.5, 21.7, 25, 90, 104, 700, 750, 1000)
       for s in (-1, 1)), 0.0]
)  # fmt: skip


def eps(dtype) -> float:
    return float(np.finfo(dtype).eps)


@pytest.fixture(autouse=True)
def _x64(x64):
    """float64 is one of the dtypes."""


@functools.partial(jax.jit, static_argnames="loss")
def value_and_gradient(margins, loss, where=None):
    return jax.value_and_grad(linear.log_loss)(margins, loss, where=where)


@functools.partial(jax.jit, static_argnames="loss")
def dual_weights(margins, loss, where=None):
    return linear.dual_weights(margins, loss, where=where)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", LOSSES)
def test_one_margin(loss, dtype):
    """Value and derivative at each margin on its own."""
    margins = MARGINS.astype(dtype)
    found = jax.vmap(lambda m: value_and_gradient(m[None], loss))(margins)
    expected = np.array([oracles.log_of_mean_loss([m], loss) for m in margins])
    # exp rounds its argument's rounding; the logarithm's own is relative to the larger of 1 and it.
    atol = 4 * eps(dtype) * np.maximum(1, np.abs(expected))
    assert found[0].dtype == dtype
    assert np.all(np.abs(found[0] - expected) <= atol)
    slopes = np.array([oracles.slopes_of_log([m], loss)[0] for m in margins])
    np.testing.assert_allclose(found[1][:, 0], slopes, rtol=8 * eps(dtype), atol=tiny(dtype))


def tiny(dtype) -> float:
    """What is below the smallest normal number counts as zero."""
    return float(np.finfo(dtype).tiny)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("offset", [-1000, -20, 0, 20, 1000])
def test_mean_of_several(loss, dtype, offset):
    margins = (np.array([0.0, 0.5, 3.0, 40.0, 0.25]) + offset).astype(dtype)
    value, gradient = value_and_gradient(margins, loss)
    expected = oracles.log_of_mean_loss(margins, loss)
    scale = np.abs(margins).max()
    np.testing.assert_allclose(value, expected, atol=8 * eps(dtype) * scale)
    slopes = oracles.slopes_of_log(margins, loss)
    np.testing.assert_allclose(gradient, slopes, rtol=30 * eps(dtype), atol=tiny(dtype))
    q = np.asarray(dual_weights(margins, loss))
    # The logarithms of the slopes are of the size of the margins, and rounded to that.
    rtol = 8 * eps(dtype) * scale
    expected = oracles.dual_weights(margins, loss)
    np.testing.assert_allclose(q, expected, rtol=rtol, atol=tiny(dtype))
    np.testing.assert_allclose(q.sum(), 1, rtol=8 * eps(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_step_where_the_formula_changes(dtype):
    """Value and slope of neighbouring margins differ by what their distance explains."""
    m = np.linspace(0, 60, 20001).astype(dtype)
    values, slopes = jax.vmap(lambda m: value_and_gradient(m[None], "logistic"))(m)
    # The slope goes from -0.72 to -1 and its derivative is at most 0.2 in size.
    steps = np.diff(np.asarray(values, np.float64)) / np.diff(m.astype(np.float64))
    noise = 4 * eps(dtype) * 60 / (60 / 20000)
    np.testing.assert_allclose(steps, slopes[1:, 0], atol=0.2 * 60 / 20000 + noise)
    assert np.all(np.abs(np.diff(slopes[:, 0])) < 0.2 * 60 / 20000 + 16 * eps(dtype))


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_is_that_of_the_loss_over_the_loss(loss):
    margins = np.array([-1.0, 0.3, 2.0])
    plain = {"exponential": lambda m: jnp.exp(-m), "logistic": lambda m: jnp.log1p(jnp.exp(-m))}
    value, gradient = jax.jit(jax.value_and_grad(lambda m: jnp.mean(plain[loss](m))))(margins)
    np.testing.assert_allclose(value_and_gradient(margins, loss)[1], gradient / value)


@pytest.mark.parametrize("loss", LOSSES)
def test_margins_of_1000_still_train_in_float32(loss):
    """The loss and its gradient are zero there; the logarithm's finds the larger margin."""
    x = np.array([[3.0, 1.0], [1.0, 3.0], [2.0, 0.0]], np.float32)
    y = np.array([1.0, 1.0, 1.0], np.float32)
    start = np.array([800.0, 300.0], np.float32)
    assert np.all(x @ start >= 1000)

    @jax.jit
    def run(start):
        log_loss = lambda w: linear.log_loss(linear.margins(w, x, y), loss)
        w = jax.lax.fori_loop(0, 20, lambda _, w: w - 20 * jax.grad(log_loss)(w), start)
        stuck = jax.grad(lambda w: jnp.exp(log_loss(w)))(start)
        return w, stuck, log_loss(start), log_loss(w)

    w, stuck, before, after = run(start)
    assert not np.any(stuck)
    assert w.dtype == np.float32
    assert np.all(np.isfinite(w))
    assert after < before - 100
    assert normalised(w, x) > normalised(start, x) + 0.01


def normalised(w, x) -> float:
    return np.min(x @ np.asarray(w)) / np.linalg.norm(w)


@pytest.mark.parametrize("loss", LOSSES)
def test_examples_left_out(loss):
    """Whatever their margins are: they change nothing, not even as NaN."""
    inside, where = np.array([0.3, -2.0, 5.0]), np.array([True, False, True, True, False])
    for bad in (0.0, -1e6, np.nan, np.inf, -np.inf):
        margins = np.full(5, bad)
        margins[where] = inside
        value, gradient = value_and_gradient(margins, loss, where)
        expected, slopes = value_and_gradient(inside, loss)
        np.testing.assert_allclose(value, expected)
        np.testing.assert_allclose(gradient[where], slopes)
        np.testing.assert_array_equal(gradient[~where], 0)
        q = np.asarray(dual_weights(margins, loss, where))
        np.testing.assert_allclose(q[where], dual_weights(inside, loss))
        np.testing.assert_array_equal(q[~where], 0)


@pytest.mark.parametrize("loss", LOSSES)
def test_no_example_at_all(loss):
    """As documented: no weight on any, and no mean."""
    margins, where = np.array([1.0, np.nan, -2.0]), np.zeros(3, bool)
    np.testing.assert_array_equal(linear.dual_weights(margins, loss, where=where), np.zeros(3))
    assert np.isnan(linear.log_loss(margins, loss, where=where))


def test_bfloat16_comes_back():
    margins = jnp.array([1.0, 20.0, 3.0], jnp.bfloat16)
    value, q = linear.log_loss(margins), linear.dual_weights(margins)
    assert value.dtype == q.dtype == jnp.bfloat16
    exact = oracles.log_of_mean_loss(np.asarray(margins, float), "logistic")
    np.testing.assert_allclose(float(value), exact, rtol=2**-8)


@pytest.mark.parametrize("function", [linear.log_loss, linear.dual_weights])
@pytest.mark.parametrize(
    ("margins", "options", "error", "message"),
    [
        (np.ones(3), {"loss": "hinge"}, ValueError, "loss must be one of .*got 'hinge'"),
        (np.ones(0), {}, ValueError, "margins is empty"),
        (np.ones((2, 2)), {}, ValueError, r"margins must be a vector \(n,\), got shape \(2, 2\)"),
        (np.ones(3, int), {}, TypeError, "margins must have a real floating dtype"),
        ([1.0, 2.0], {}, TypeError, "margins must be a floating array, got list"),
        (np.ones(3), {"where": np.ones(2, bool)}, ValueError, "where must have the shape of marg"),
    ],
)
def test_bad_input(function, margins, options, error, message):
    with pytest.raises(error, match=message):
        function(margins, **options)
