"""Under jit, vmap, scan: the same numbers, and no compilation twice."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import norms
from tests.norms.cases import CASES

pytestmark = pytest.mark.usefixtures("x64")

EPS = float(np.finfo(np.float64).eps)


def everything(norm, x, radius):
    """All that a norm can do, without derivatives."""
    return norm.value(x), norm.lmo(x), norm.project(x, radius), norm.prox(x, radius)


def assert_close(found, expected):
    # Fused and batched arithmetic may round differently, some eps per operation.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=100 * EPS), found, expected)


@pytest.mark.parametrize("name", ["l1", "l1.5", "fourier-l1-even", "nuclear"])
def test_jit_of_vmap_with_a_radius_each(name):
    case = CASES[name]
    batch = np.stack([case.draw(1), case.draw(2), np.zeros(case.shape)] + 3 * [case.draw(3)])
    batch[-1].flat[1] = np.nan
    radii = np.array([0.5, 100.0, 0.0, -1.0, np.nan, 0.5])
    mapped = jax.jit(jax.vmap(functools.partial(everything, case.norm)))(batch, radii)
    for index in range(3):
        expected = everything(case.norm, batch[index], radii[index])
        assert_close([part[index] for part in mapped], list(expected))
    # The value of a bad radius is not known when an error could be raised. A step must not look
    # valid then, nor may it after a NaN. (The compiler can undo what works without it.)
    assert all(np.all(np.isnan(part[3:5])) for part in mapped[2:])
    assert all(np.isnan(np.ravel(part[5])[1]) for part in mapped[1:])
    assert np.isnan(mapped[0][5])


def test_vmap_without_jit():
    batch = np.stack([CASES["l1"].draw(seed) for seed in range(3)])
    np.testing.assert_allclose(jax.vmap(norms.l1.value)(batch), np.abs(batch).sum(1), rtol=8 * EPS)


def test_equal_norms_share_one_compilation():
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def value(norm, x):
        traces.append(norm)
        return norm.value(x)

    x = np.array([1.0, -2.0])
    same = [
        (norms.l2, norms.lp(2), norms.lp(2.0), norms.l2.dual, norms.as_norm("L2")),
        (norms.fourier(norms.l1), norms.fourier(norms.lp(1), -1), norms.fourier(norms.l1, (-1,))),
        (norms.fourier(norms.l1, (0, -2)), norms.fourier(norms.l1, (-2, 0))),
        (norms.nuclear, norms.schatten(1), norms.spectral.dual),
    ]
    for group in same:
        assert len(set(group)) == 1
    for norm in same[0]:
        value(norm, x)
    assert traces == [norms.l2]
    value(norms.l1, x)
    assert len(traces) == 2


def test_different_norms_are_different():
    different = [norms.l1, norms.nuclear, norms.fourier(norms.l1), norms.fourier(norms.l1, 0)]
    assert len(set(different)) == len(different)


def test_norms_are_immutable():
    with pytest.raises(AttributeError):
        norms.l2.p = 3  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("name", ["l1", "fourier-linf-even"])
def test_projected_gradient_in_a_scan(name):
    # The nearest point to a target in a ball, by steps of 1/2: within 2^-50 after 50 of them.
    case = CASES[name]
    target = case.draw(1)

    @jax.jit
    def solve(radius):
        def step(x, _):
            return case.norm.project(0.5 * (x + target), radius), case.norm.value(x)

        return jax.lax.scan(step, jnp.zeros(case.shape), length=50)

    x, lengths = solve(0.5)
    np.testing.assert_allclose(x, case.norm.project(target, 0.5), atol=100 * EPS)
    assert lengths[0] == 0
    np.testing.assert_allclose(lengths[1:], 0.5, rtol=100 * EPS)


def test_steepest_ascent_in_a_scan():
    # Coordinate ascent on <g, x> - x^2/2 with unit steps moves the largest coordinate.
    g = jnp.array([3.0, 1.0, -2.0])
    path = jax.lax.scan(lambda x, _: (x + norms.l1.lmo(g - x),) * 2, jnp.zeros(3), length=4)[1]
    expected = [[1, 0, 0], [2, 0, 0], [2, 0, -1], [3, 0, -1]]
    np.testing.assert_array_equal(path, expected)


class _Keeper(logging.Handler):
    def __init__(self, records: list[logging.LogRecord]):
        super().__init__()
        self.records = records

    def emit(self, record: logging.LogRecord):
        self.records.append(record)


@pytest.mark.parametrize(
    "name", ["l1", "l1.5", "l2", "linf", "fourier-l1-even", "fourier-linf-odd"]
)
def test_called_eagerly_nothing_is_compiled_twice(name):
    """Loops, whose bodies are new functions at every call, among them."""
    norm, x = CASES[name].norm, CASES[name].draw(0)

    def everything_eagerly(x):
        low, high = -np.ones(x.shape), np.ones(x.shape)
        found = norm.project(x, 0.5), norm.prox(x, 0.5), norm.lmo(x), norm.value(x)
        boxed = norm.project_in_box(x, 0.5, low, high), norm.lmo_in_box(x, 0.5, low, high)
        return jax.block_until_ready((found, boxed))

    everything_eagerly(x)
    with jax.log_compiles():
        records = []
        handler = _Keeper(records)
        logger = logging.getLogger("jax")
        logger.addHandler(handler)
        try:
            everything_eagerly(x + 1.0)
        finally:
            logger.removeHandler(handler)
    assert [r.getMessage() for r in records if "Compiling" in r.getMessage()] == []
