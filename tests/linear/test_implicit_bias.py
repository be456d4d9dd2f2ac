"""What theory predicts: the table, that pairs are dual, and what it refuses to predict."""

from typing import Any

import numpy as np
import pytest

from jaxrobust import linear, norms

OPTIMIZERS = {
    "gradient_descent": (norms.l2, norms.l2),
    "coordinate_descent": (norms.l1, norms.linf),
    "sign_descent": (norms.linf, norms.l1),
    "fourier_coordinate_descent": (norms.fourier(norms.l1), norms.fourier(norms.linf)),
    "fourier_phase_descent": (norms.fourier(norms.linf), norms.fourier(norms.l1)),
    "spectral_descent": (norms.spectral, norms.nuclear),
}
# Name and depth (None: as it comes).
ARCHITECTURES = {
    ("plain", None): (norms.l2, norms.l2),
    ("plain", 1): (norms.l2, norms.l2),
    ("fully_connected", None): (norms.l2, norms.l2),
    ("fully_connected", 5): (norms.l2, norms.l2),
    ("diagonal", None): (norms.l1, norms.linf),
    ("diagonal", 1): (norms.l2, norms.l2),
    ("convolution", None): (norms.fourier(norms.l1), norms.fourier(norms.linf)),
    ("convolution", 1): (norms.l2, norms.l2),
}


@pytest.mark.parametrize("subject", OPTIMIZERS)
def test_optimizers(subject):
    check(linear.theory(subject), *OPTIMIZERS[subject])
    assert linear.implicit_bias(subject) == OPTIMIZERS[subject][0]


@pytest.mark.parametrize(("name", "depth"), ARCHITECTURES)
def test_architectures(name, depth):
    expected = ARCHITECTURES[name, depth]
    check(linear.theory(name, depth=depth), *expected)
    assert linear.implicit_bias(name, depth=depth) == expected[0]
    build = getattr(linear, name)
    model = build(4) if name == "plain" else build(4, depth=2 if depth is None else depth)
    assert linear.theory(model) == linear.theory(name, depth=depth)


def test_a_depth_of_numpy():
    depth: Any = np.int64(2)
    assert linear.theory("diagonal", depth=depth) == linear.theory("diagonal", depth=2)
    assert linear.implicit_bias("convolution", depth=depth) == norms.fourier(norms.l1)


@pytest.mark.parametrize("norm", [norms.lp(3), norms.l1, norms.nuclear, norms.fourier(norms.l2)])
def test_steepest_descent_in_any_norm(norm):
    theory = linear.theory(norm)
    check(theory, norm, norm.dual)
    assert norm.name in theory.subject


def check(theory, norm, threat):
    assert theory.norm == norm
    assert theory.threat == threat == norm.dual
    assert theory.threat.dual == norm
    assert "separable" in theory.conditions
    assert "arXiv" in theory.source
    assert theory.proved


def test_the_norms_of_the_prediction_are_dual_in_numbers():
    """Robust radius in the threat's norm, and margin in the weights' norm, of the same weights."""
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(4,)).astype(np.float32), rng.normal(size=(3, 4)).astype(np.float32)
    y = np.sign(x @ w)
    theory = linear.theory("sign_descent")
    radius = linear.robust_radius(w, x, y, theory.threat)
    np.testing.assert_allclose(linear.margin(w, x, y, theory.norm), radius, rtol=1e-6)
    np.testing.assert_allclose(radius, np.min(y * (x @ w)) / np.abs(w).max(), rtol=1e-6)


@pytest.mark.parametrize("name", ["convolution", "diagonal"])
@pytest.mark.parametrize("depth", [3, 7])
def test_a_quasi_norm_has_no_dual(name, depth):
    message = rf"depth {depth} .*stationary points of an l_\(2/{depth}\) quasi-norm.*no dual"
    with pytest.raises(ValueError, match=message):
        linear.theory(name, depth=depth)
    with pytest.raises(ValueError, match=message):
        linear.implicit_bias(getattr(linear, name)(4, depth=depth))


@pytest.mark.parametrize(
    ("subject", "depth", "error", "message"),
    [
        ("adam", None, ValueError, "unknown 'adam'; known: gradient_descent, .*or a Norm"),
        ("adam", 2, ValueError, "unknown 'adam'"),
        (3, None, TypeError, "subject must be a name, a Norm or a LinearModel, got 3"),
        ("convolution", 0, ValueError, "depth of a convolution model must be an integer of at"),
        ("convolution", 2.0, ValueError, "depth of a convolution model must be an integer"),
        ("diagonal", True, ValueError, "depth of a diagonal model must be an integer"),
        ("plain", 2, ValueError, "depth of a plain model must be 1, got 2"),
        ("sign_descent", 2, ValueError, "depth is for architectures given by name"),
        (norms.l1, 2, ValueError, "depth is for architectures given by name"),
        (linear.diagonal(3), 2, ValueError, "depth is for architectures given by name"),
    ],
)
def test_bad_input(subject, depth, error, message):
    with pytest.raises(error, match=message):
        linear.theory(subject, depth=depth)
    with pytest.raises(error, match=message):
        linear.implicit_bias(subject, depth=depth)
