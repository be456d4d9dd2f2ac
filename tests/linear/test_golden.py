"""The smallest norms that separate the golden data: 1 over the largest margin.

Provenance: ``min ||w|| s.t. y_i <w, x_i> >= 1`` by CVXPY and CLARABEL on the data that the public
code of Faghri et al., arXiv:2102.08868, draws (see ``data.logistic_gaussian``). Of the rows with
n = 10 and n = 3, seed 0, the comments of that code record the same digits.
"""

import functools

import jax
import numpy as np
import pytest

from jaxrobust import data, linear, norms
from tests.linear import oracles
from tests.linear.cases import padded
from tests.norms.oracles import Truth

pytestmark = pytest.mark.usefixtures("x64")

NORMS = {
    "linf": (norms.linf, Truth(np.inf)),
    "l2": (norms.l2, Truth(2)),
    "l1": (norms.l1, Truth(1)),
    "fourier-l1": (norms.fourier(norms.l1), Truth(1, "spectrum", (0,))),
}

# Rows of seeds 0, 1, 2; columns as in NORMS.
TABLE = {
    100: [
        (0.1626, 1.0955, 7.9403, 8.8834),
        (0.1965, 1.3253, 9.2178, 10.0752),
        (0.1925, 1.2622, 9.1225, 10.4457),
    ],
    50: [
        (0.1233, 0.8392, 4.9138, 6.1172),
        (0.1094, 0.7952, 4.8640, 5.9139),
        (0.1182, 0.8603, 5.7059, 6.5430),
    ],
    25: [
        (0.0714, 0.5392, 2.9116, 3.9042),
        (0.0635, 0.4967, 3.1959, 3.5195),
        (0.0752, 0.5221, 2.8308, 3.7522),
    ],
    12: [
        (0.0454, 0.3492, 1.7621, 2.2079),
        (0.0447, 0.3430, 1.7473, 2.3008),
        (0.0440, 0.3489, 1.9335, 2.2574),
    ],
    10: [
        (0.0422, 0.3411, 1.8497, 1.9895),
        (0.0444, 0.3286, 1.4563, 2.1834),
        (0.0375, 0.2946, 1.4292, 1.6182),
    ],
    6: [
        (0.0310, 0.2428, 0.9789, 1.5687),
        (0.0356, 0.2894, 1.3665, 1.6510),
        (0.0349, 0.2674, 1.0703, 1.7890),
    ],
    3: [
        (0.0201, 0.1605, 0.6876, 0.9352),
        (0.0224, 0.1761, 0.7099, 0.9871),
        (0.0203, 0.1706, 0.7546, 0.9694),
    ],
}


@functools.cache
def golden(n: int, seed: int):
    dataset = data.logistic_gaussian(n, num_test=0, seed=seed)
    return np.asarray(dataset.x_train, float), np.asarray(dataset.y_train, float)


def accuracy(name: str) -> float:
    """Half a unit of the last digit and a little; the second-order cones are known to less."""
    return 1e-3 if name == "fourier-l1" else 6e-5


@pytest.mark.parametrize("name", NORMS)
def test_max_margin(name):
    column = list(NORMS).index(name)
    solve = jax.jit(
        lambda x, y: linear.max_margin(x, y, NORMS[name][0], tolerance=1e-6),
        compiler_options={"xla_backend_optimization_level": 0},  # runs for less than it compiles
    )
    for n, rows in TABLE.items():
        for seed, row in enumerate(rows):
            result = solve(*padded(*golden(n, seed), rows=100))
            assert result.converged, (n, seed)
            assert result.iterations <= 20, (n, seed)
            np.testing.assert_allclose(
                1 / result.margin, row[column], atol=accuracy(name), err_msg=f"{n=} {seed=}"
            )


@pytest.mark.parametrize("name", NORMS)
def test_cvxpy(name):
    column = list(NORMS).index(name)
    for n, rows in TABLE.items():
        for seed, row in enumerate(rows):
            signed = oracles.signed_examples(*golden(n, seed))
            optimum = oracles.largest_margin(NORMS[name][1], signed)
            np.testing.assert_allclose(1 / optimum, row[column], atol=accuracy(name))


@pytest.mark.parametrize(
    ("p", "norm", "power"),
    [pytest.param(4.0, 0.12161, 0.0002, marks=pytest.mark.slow), (1.5, 0.65275, 0.5274)],
    ids=["l4", "l1.5"],
)
def test_lp_norms_are_not_their_powers(p, norm, power):
    """What the public code records is the p-th power: its lp norms lack the root."""
    x, y = golden(10, 0)
    optimum = oracles.largest_margin(Truth(p), oracles.signed_examples(x, y))
    np.testing.assert_allclose(1 / optimum, norm, atol=6e-6)
    np.testing.assert_allclose(optimum**-p, power, atol=6e-5)
    result = linear.max_margin(x, y, norms.lp(p), tolerance=2e-5)
    assert result.converged
    np.testing.assert_allclose(1 / result.margin, norm, rtol=2e-5, atol=6e-6)
    found = linear.margin(result.w, x, y, norms.lp(p))
    np.testing.assert_allclose(found, result.margin, rtol=1e-12)
