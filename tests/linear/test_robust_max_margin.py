"""The largest margin under the worst perturbations: against CVXPY, and its bounds by NumPy."""

import cvxpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import linear, norms

PAIRS = [("l2", "linf"), ("l2", "l1"), ("l1", "l2"), ("linf", "l2"), ("l2", "l2")]


def separable(num_examples=10, num_features=18, seed=0):
    """Gaussian examples; so few that they are separable."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_examples, num_features))
    return x, np.where(rng.normal(size=num_examples) > 0, 1, -1)


def conic(x, y, norm, perturbation, eps):
    """1 / min |w| where y_i <w, x_i> - eps |w|_* >= 1 for all i."""
    w = cvxpy.Variable(x.shape[1])
    margins = cvxpy.multiply(y, x @ w) - eps * cvxpy.norm(w, perturbation.dual.p)
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.norm(w, norm.p)), [margins >= 1])
    return 1 / float(problem.solve(solver=cvxpy.CLARABEL))  # type: ignore[arg-type]


@pytest.mark.parametrize(("norm", "perturbation"), PAIRS, ids="-".join)
@pytest.mark.parametrize("share", [0.25, 0.8])
def test_margins_are_those_of_the_conic_program(x64, norm, perturbation, share):
    """At a quarter and four fifths of the largest radius."""
    x, y = separable()
    norm, perturbation = norms.as_norm(norm), norms.as_norm(perturbation)
    eps = share * float(linear.max_margin(x, y, perturbation.dual).margin)
    found = linear.max_margin(x, y, norm, perturbation=perturbation, eps=eps, tolerance=1e-6)
    expected = conic(x, y, norm, perturbation, eps)
    assert found.converged
    assert found.separable
    assert found.margin == pytest.approx(expected, rel=2e-6)
    # By NumPy, from the weights alone.
    w = np.asarray(found.w)
    order = {"l1": 1, "l2": 2, "linf": np.inf}
    worst = eps * np.linalg.norm(w, order[perturbation.dual.name])
    margin = (np.min(y * (x @ w)) - worst) / np.linalg.norm(w, order[norm.name])
    assert found.margin == pytest.approx(margin, rel=1e-12)
    assert found.upper_bound >= found.margin


def test_where_the_norms_are_dual_it_is_the_one_without_perturbations(x64):
    x, y = separable()
    eps = 0.5 * float(linear.max_margin(x, y, "l1").margin)
    found = linear.max_margin(x, y, "l1", perturbation="linf", eps=eps)
    plain = linear.max_margin(x, y, "l1")
    assert found.margin == pytest.approx(float(plain.margin) - eps, rel=2e-4)
    nothing = linear.max_margin(x, y, "l2", perturbation="linf", eps=0.0)
    assert nothing.margin == pytest.approx(float(linear.max_margin(x, y, "l2").margin), rel=2e-4)


def test_beyond_the_largest_radius_nothing_separates_robustly(x64):
    x, y = separable()
    eps = 1.1 * float(linear.max_margin(x, y, "l1").upper_bound)
    found = linear.max_margin(x, y, "l2", perturbation="linf", eps=eps)
    assert not found.separable
    assert found.upper_bound < 1e-6


def test_several_radii_under_vmap_and_other_scales():
    x, y = separable()
    x = x.astype(np.float32)
    solve = lambda eps: linear.max_margin(x, y, "l2", perturbation="linf", eps=eps).margin
    radii = jnp.asarray([0.05, 0.1])
    together = jax.jit(jax.vmap(solve))(radii)
    np.testing.assert_allclose(together, [solve(0.05), solve(0.1)], rtol=3e-4)
    scaled = linear.max_margin(1e4 * x, y, "l2", perturbation="linf", eps=1e3)
    assert scaled.margin == pytest.approx(1e4 * float(together[1]), rel=3e-4)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"eps": 0.1}, "perturbation must be the norm"),
        ({"perturbation": "linf", "eps": -0.1}, "eps must be 0 or more"),
        ({"perturbation": "linf", "eps": np.ones(3)}, "eps must be one number"),
        ({"perturbation": "l0", "eps": 0.1}, "norm"),
        ({"perturbation": "linf", "eps": 0.1, "method": "interior_point"}, "interior_point"),
    ],
)
def test_bad_input(options, match):
    x, y = separable()
    with pytest.raises(ValueError, match=match):
        linear.max_margin(x, y, "l2", **options)
    with pytest.raises(ValueError, match="num_classes must be None"):
        linear.max_margin(x, (y > 0).astype(int), "l2", num_classes=2, perturbation="linf", eps=0.1)
