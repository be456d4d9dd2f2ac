"""Dual norms: each norm's dual, and the steepest direction that attains it."""

import functools
import math

import hypothesis
import hypothesis.extra.numpy as hnp
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxrobust import norms
from tests.norms import oracles
from tests.norms.cases import CASES, FEW

pytestmark = pytest.mark.usefixtures("x64")

EPS = float(np.finfo(np.float64).eps)
# The fixture x64 holds for all examples of a test, as it should.
examples = hypothesis.settings(
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)


def vectors(shape):
    return hnp.arrays(np.float64, shape, elements=st.floats(-100, 100, allow_subnormal=False))


@functools.cache
def compiled(name):
    """The norm, its dual and the steepest direction in one program, under x64."""
    norm = CASES[name].norm
    return jax.jit(lambda x: (norm.value(x), norm.dual.value(x), norm.lmo(x)))


@pytest.mark.parametrize("name", CASES)
def test_lmo_attains_the_dual_norm(name):
    case = CASES[name]
    for seed in range(3):
        g = case.draw(seed)
        u = np.asarray(compiled(name)(g)[2])
        # At most 24 products, after an FFT or SVD and back: some tens of eps of the largest.
        dual = case.truth.dual.value(g)
        np.testing.assert_allclose(np.sum(u * g), dual, rtol=100 * EPS)
        np.testing.assert_allclose(case.truth.value(u), 1, rtol=100 * EPS)
        assert u.shape == g.shape


@pytest.mark.parametrize("name", CASES)
def test_dual_of_dual_is_the_norm_itself(name):
    norm = CASES[name].norm
    assert norm.dual.dual == norm
    assert hash(norm.dual.dual) == hash(norm)
    assert type(norm.dual) is type(norm)


@pytest.mark.parametrize("p", [1.01, 1.1, 4 / 3, 1.7, 2.0, 3.0, 7.0, 10.0, 1e3, 1e6])
def test_exponents_are_conjugate(p):
    q = norms.lp(p).dual.p
    assert 1 / p + 1 / q == pytest.approx(1, rel=2 * EPS)
    assert norms.lp(p).dual.dual.p == pytest.approx(p, rel=4 * EPS)


@pytest.mark.parametrize("p", [1.01, 1.1, 1.7, 7.0, 10.0, 1e3, 1e6, 1.000001])
def test_decimal_exponents_come_back_exactly(p):
    # p / (p - 1) twice makes 10 into 9.999999999999996, which is another norm to `jit`.
    assert norms.lp(p).dual.dual == norms.lp(p)


def test_dual_pairs_by_name():
    assert norms.l1.dual == norms.linf
    assert norms.linf.dual == norms.l1
    assert norms.l2.dual == norms.l2
    assert norms.lp(1.5).dual == norms.lp(3)
    assert norms.spectral.dual == norms.nuclear
    assert norms.nuclear.dual == norms.spectral
    image = norms.fourier(norms.l1, (0, 1))
    assert image.dual == norms.fourier(norms.linf, (0, 1))
    assert image.dual != norms.fourier(norms.linf)


@pytest.mark.parametrize(
    "name",
    ["l1", "l1.5", "l10", "linf", "fourier-l1-odd", "fourier-linf-even", "fourier-linf-image"]
    + ["spectral", "nuclear"],
)
def test_dual_is_the_largest_inner_product_over_the_ball(name):
    case = CASES[name]
    g = case.draw(5)
    expected = oracles.support(case.truth, g)
    _, dual, _ = compiled(name)(g)
    np.testing.assert_allclose(dual, expected, rtol=oracles.accuracy(case.truth))


@pytest.mark.parametrize("name", FEW)
@examples
@hypothesis.given(data=st.data())
def test_norm_and_dual_inequalities(name, data):
    case, values = CASES[name], compiled(name)
    x, g = data.draw(vectors(case.shape)), data.draw(vectors(case.shape))
    value = float(values(x)[0])
    of_g, dual, u = (np.asarray(found) for found in values(g))
    slack = 1 + 100 * EPS
    assert abs(np.sum(x * g)) <= value * dual * slack  # Hoelder
    assert float(values(x + g)[0]) <= (value + of_g) * slack
    assert float(values(-2.5 * x)[0]) == pytest.approx(2.5 * value, rel=100 * EPS)
    # The maximiser itself, in the ball and as good as the dual norm. A Fourier coefficient or a
    # singular value below eps * ||g||_2 * N counts as zero, N = 24 of them at most.
    assert case.truth.value(u) <= 1 + 100 * EPS
    assert np.sum(u * g) == pytest.approx(dual, rel=24**2 * EPS, abs=1e-300)


def test_names():
    named = {
        "l1": norms.l1,
        "linf": norms.linf,
        "l1.5": norms.lp(1.5),
        "Fourier-linf": norms.fourier(norms.linf),
        "Fourier-l1(axes=(0, 1))": norms.fourier(norms.l1, (0, 1)),
        "spectral": norms.spectral,
        "nuclear": norms.nuclear,
        "Schatten-3": norms.schatten(3),
    }
    assert {norm.name: norm for norm in named.values()} == named
    assert repr(norms.lp(math.inf)) == "norms.linf"
