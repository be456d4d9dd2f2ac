"""Norms by name."""

import math

import pytest

from jaxrobust import norms
from tests.norms.cases import CASES

NAMED = {
    "l1": norms.l1,
    "l2": norms.l2,
    "linf": norms.linf,
    "spectral": norms.spectral,
    "nuclear": norms.nuclear,
    "fourier-l1": norms.fourier(norms.l1),
    "fourier-l2": norms.fourier(norms.l2),
    "fourier-linf": norms.fourier(norms.linf),
}


def test_every_name():
    assert set(norms.names()) == set(NAMED)
    for name, norm in NAMED.items():
        assert norms.as_norm(name) == norms.as_norm(name.upper()) == norm


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("l1.5", norms.lp(1.5)),
        ("L3", norms.lp(3)),
        ("l1.0", norms.l1),
        ("l10", norms.lp(10)),
        ("fourier-l3", norms.fourier(norms.lp(3))),
        ("Schatten-3", norms.schatten(3)),
    ],
)
def test_names_with_a_number(name, norm):
    assert norms.as_norm(name) == norm


@pytest.mark.parametrize("name", CASES)
def test_norms_know_their_names(name):
    norm = CASES[name].norm
    assert norms.as_norm(norm) is norm
    if "axes" not in norm.name:
        assert norms.as_norm(norm.name) == norm


@pytest.mark.parametrize(
    ("name", "hint"),
    [("l_inf", "linf"), ("fourier_l1", "fourier-l1"), ("nuklear", "nuclear"), ("inf", "linf")],
)
def test_unknown_name_is_answered_with_the_nearest(name, hint):
    with pytest.raises(ValueError, match=f"attack: unknown norm '{name}'; did you mean '{hint}'?"):
        norms.as_norm(name, argument="attack")


@pytest.mark.parametrize("name", ["", "l0.5", "l0", "l-1", "lp", "l1.5.2", "l1 ", "fourier-l0.9"])
def test_no_name_of_a_norm(name):
    with pytest.raises(ValueError, match="norm: unknown norm .* Known: l1, l2, .* 'l<p>'"):
        norms.as_norm(name)


@pytest.mark.parametrize("thing", [2, math.inf, None, norms.lp, ("l1",)])
def test_no_norm_and_no_name(thing):
    with pytest.raises(TypeError, match=r"^norm must be a Norm such as norms.l2 or its name"):
        norms.as_norm(thing)
