"""Defects of the code that was published: what it got wrong is right here."""

import jax
import numpy as np

from jaxrobust import attacks, norms
from tests.attacks.problems import binary
from tests.norms.test_bands import moduli

KEY = jax.random.key(0)


def test_every_example_is_attacked_in_l1():
    """A maximum over all examples moves one of them alone."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=10)
    x = np.float32(rng.normal(size=(4, 10)) * np.array([[1], [10], [100], [1000]]))
    y = (x @ w > 0).astype(int)
    found = attacks.apgd(
        binary, np.float32(w), x, y, norm="l1", eps=0.5, key=KEY, num_steps=20, loss="margin"
    )
    lowered = np.abs(np.asarray(found.perturbations) @ w)
    np.testing.assert_allclose(lowered, 0.5 * np.abs(w).max(), rtol=1e-5)


def test_momentum_is_of_perturbations():
    """With the image in its place, white images were attacked to 0.04 of what is possible."""
    rng = np.random.default_rng(1)
    w = np.float32(rng.normal(size=(32, 32, 1)))
    x = np.ones((2, 32, 32, 1), np.float32)
    y = np.array([0, 1])
    norm = norms.fourier(norms.linf, (0, 1))
    found = attacks.apgd(
        binary, w, x, y, norm=norm, eps=8 / 255, key=KEY, num_steps=20, loss="margin"
    )
    signs = np.array([1, -1])
    gained = signs * np.einsum("bhwc,hwc->b", np.asarray(found.perturbations), w)
    best = 8 / 255 * moduli(w, (0, 1)).sum()
    assert np.all(gained >= (1 - 1e-5) * best)


def test_the_box_does_not_break_the_ball():
    rng = np.random.default_rng(2)
    w = np.float32(rng.normal(size=(16, 16, 1)))
    x = np.float32(rng.integers(0, 2, size=(3, 16, 16, 1)))
    norm = norms.fourier(norms.linf, (0, 1))
    found = attacks.pgd(
        binary, w, x, np.array([0, 1, 0]), norm=norm, eps=8 / 255, key=KEY, num_steps=10,
        bounds=(0, 1), loss="margin",
    )  # fmt: skip
    for one in np.asarray(found.perturbations):
        assert moduli(one, (0, 1)).max() <= 8 / 255 * (1 + 1e-6)
        assert np.abs(one).max() > 1e-3
    clipped = np.clip(
        x + np.asarray(jax.vmap(norm.lmo)(np.broadcast_to(w, x.shape))) * 8 / 255, 0, 1
    )
    assert max(moduli(one, (0, 1)).max() for one in clipped - x) > 1.1 * 8 / 255
