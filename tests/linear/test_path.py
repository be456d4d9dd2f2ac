"""The path of regularised classifiers: against CVXPY, and its own bound by NumPy."""

import cvxpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import linear, norms

NORMS = ["l1", "l2", "linf", norms.fourier(norms.l1)]
STRENGTHS = (0.1, 1e-2, 1e-4)


def separable(num_examples=9, num_features=16, seed=0):
    """Gaussian examples; so few that they are separable."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_examples, num_features))
    return x, np.where(rng.normal(size=num_examples) > 0, 1, -1)


def norm_in_cvxpy(norm, w):
    """The norm as an expression."""
    if norm.name == "Fourier-l1":
        size = w.size
        dft = np.fft.fft(np.eye(size), norm="ortho")
        parts = cvxpy.vstack([dft.real @ w, dft.imag @ w])
        return cvxpy.sum(cvxpy.norm(parts, 2, axis=0))
    return cvxpy.norm(w, norm.p)


@pytest.mark.parametrize("loss", ["logistic", "exponential"])
@pytest.mark.parametrize("norm", NORMS, ids=[norms.as_norm(norm).name for norm in NORMS])
def test_objectives_are_those_of_cvxpy(x64, norm, loss):
    norm = norms.as_norm(norm)
    x, y = separable()
    path = linear.regularization_path(x, y, norm, STRENGTHS, loss=loss, tolerance=1e-6)
    assert np.all(path.converged)
    w = cvxpy.Variable(x.shape[1])
    m = cvxpy.multiply(y, x @ w)
    losses = cvxpy.logistic(-m) if loss == "logistic" else cvxpy.exp(-m)
    for at, strength in enumerate(STRENGTHS):
        problem = cvxpy.Problem(
            # Of order 1, for the solver stops at absolute errors of 1e-8 as well.
            cvxpy.Minimize(cvxpy.sum(losses) / (len(y) * strength) + norm_in_cvxpy(norm, w))
        )
        best = strength * float(problem.solve(solver=cvxpy.CLARABEL))  # type: ignore[arg-type]
        # Within the gap above it, and CVXPY's own accuracy below.
        assert path.objective[at] == pytest.approx(best, rel=2e-6)
        assert path.lower_bound[at] <= best * (1 + 1e-6)


def test_the_bound_and_the_objective_by_numpy(x64):
    x, y = separable()
    path = linear.regularization_path(x, y, "l1", STRENGTHS, tolerance=1e-3)
    for strength, w, objective, bound in zip(
        STRENGTHS, path.w, path.objective, path.lower_bound, strict=True
    ):
        m = y * (x @ np.asarray(w))
        expected = np.mean(np.logaddexp(0, -m)) + strength * np.abs(w).sum()
        assert objective == pytest.approx(expected, rel=1e-12)
        alpha = 1 / (1 + np.exp(m))
        alpha = alpha * min(1, strength / np.max(np.abs((alpha * y) @ x / len(y))))
        entropy = -alpha * np.log(alpha) - (1 - alpha) * np.log(1 - alpha)
        assert bound == pytest.approx(np.mean(entropy), rel=1e-12)


@pytest.mark.parametrize("norm", NORMS, ids=[norms.as_norm(norm).name for norm in NORMS])
def test_the_margin_tends_to_the_largest_one(x64, norm):
    """The last of decreasing strengths is near the classifier of the largest margin."""
    x, y = separable()
    strengths = np.geomspace(1e-1, 1e-9, 9)
    path = linear.regularization_path(x, y, norm, strengths, tolerance=1e-3)
    best = linear.max_margin(x, y, norm).margin
    share = [float(linear.margin(w, x, y, norm) / best) for w in path.w]
    assert share[-1] > 0.96  # the rest falls with the logarithm of the strength
    assert share[-1] > share[4] > share[0]


def test_zero_from_the_strength_on_at_which_it_is_the_minimum(x64):
    """That is the dual norm of the gradient at zero."""
    x, y = separable()
    norm = norms.linf
    least = float(norm.dual.value(jnp.asarray(y @ x / len(y) / 2)))
    path = linear.regularization_path(x, y, norm, [1.01 * least, 0.9 * least])
    assert not np.any(path.w[0])
    assert path.num_steps[0] == 0
    assert np.any(path.w[1])


def test_float32_images_several_problems_and_one_program():
    x, y = separable(8, 16)
    x = x.reshape(8, 4, 4).astype(np.float32)
    norm = norms.fourier(norms.l1, (0, 1))
    solve = jax.jit(jax.vmap(lambda x, y: linear.regularization_path(x, y, norm, STRENGTHS)))
    both = solve(np.stack([x, x[::-1]]), np.stack([y, y[::-1]]))
    one = linear.regularization_path(x, y, norm, STRENGTHS)
    assert one.w.shape == (3, 4, 4)
    assert one.w.dtype == jnp.float32
    assert np.all(both.converged)
    np.testing.assert_allclose(both.objective, [one.objective] * 2, rtol=2e-4)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"strengths": []}, ValueError, "strengths"),
        ({"strengths": [0.1, 0.0]}, ValueError, "strengths must be positive"),
        ({"strengths": 0.1}, ValueError, "strengths must have shape"),
        ({"loss": "hinge"}, ValueError, "loss"),
        ({"norm": "l0"}, ValueError, "norm"),
        ({"tolerance": 0.0}, ValueError, "tolerance"),
        ({"max_steps": 0}, ValueError, "max_steps"),
        ({"y": np.zeros(9, int)}, ValueError, "y must hold -1 and"),
        ({"x": np.full((9, 16), np.nan)}, ValueError, "x has NaN"),
    ],
)
def test_bad_input(change, error, match):
    x, y = separable()
    given = {"x": x, "y": y, "norm": "l1", "strengths": STRENGTHS} | change
    with pytest.raises(error, match=match):
        linear.regularization_path(**given)
