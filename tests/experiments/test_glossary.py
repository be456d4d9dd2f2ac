"""The words of the report: found as words, and true."""

import numpy as np
import pytest

from experiments import glossary


def names(text: str) -> set[str]:
    return {term.name for terms in glossary.used_in(text).values() for term in terms}


def test_terms_are_found_as_words_of_their_own():
    assert {"Fourier-l1"} == names("bounded in Fourier-l1") - {"Fourier-linf"}
    assert "linf" not in names("Fourier-linf")
    assert "linf" in names("against linf.")
    assert "matched" in names("a Mismatched optimizer")
    assert names("nothing of that kind") == set()


def test_the_words_of_a_meaning_are_explained_too():
    assert {"margin", "dual norm", "l1", "linf", "Fourier-l1", "l2"} <= names("robust radius")


@pytest.mark.parametrize("name", ["coordinate descent", "sign descent", "gradient descent"])
def test_update_rules_are_those_of_the_optimizers(name: str):
    g = np.array([0.5, -3.0, 1.0, 2.0, 0.0], np.float32)
    largest = np.where(np.abs(g) == np.abs(g).max(), g, 0)
    said = {
        "coordinate descent": largest,
        "gradient descent": g,
        "sign descent": np.abs(g).sum() * np.sign(g),
    }
    np.testing.assert_allclose(update(name, g), said[name], rtol=1e-6)


@pytest.mark.parametrize("length", [5, 6])
def test_update_rules_of_the_fourier_optimizers(length: int):
    g = np.random.default_rng(length).normal(size=length).astype(np.float32)
    spectrum = np.fft.fft(g, norm="ortho")
    phases = np.fft.ifft(np.abs(spectrum).sum() * spectrum / np.abs(spectrum), norm="ortho").real
    np.testing.assert_allclose(update("Fourier phase", g), phases, atol=1e-5)
    strongest = np.abs(spectrum) >= np.abs(spectrum).max() * (1 - 1e-5)  # with its conjugate
    part = np.fft.ifft(np.where(strongest, spectrum, 0), norm="ortho").real
    np.testing.assert_allclose(update("Fourier coordinate", g), part / strongest.sum(), atol=1e-5)


def update(name: str, g: np.ndarray) -> np.ndarray:
    """What the optimizer subtracts from the weights with a step of 1."""
    from experiments.linear_training import METHODS

    return -np.asarray(steepest(METHODS[name], g))


def steepest(norm, g):
    import jax.numpy as jnp

    from jaxrobust import optim

    optimizer = optim.steepest_descent(1.0, norm)
    return optimizer.update(jnp.asarray(g), optimizer.init(jnp.asarray(g)))[0]
