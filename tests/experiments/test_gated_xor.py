"""The experiment `gated_xor`: claims that can fail, gates, a short run."""

import copy

import numpy as np
import pytest

from experiments import gated_xor, plots
from experiments.gated_xor import Config


def found():
    """As if measured."""
    return {
        "aligned": {"gaps": np.array([2e-3, 2e-4])},
        "gated": {"gap": np.array([3e-3])},
        "relu": {"gap": np.array([3e-3])},
        "units": [{"off": np.zeros(3), "points": np.ones(3)}],
        "gatings": {"one point each": {"s": 2**0.5 / 4}, "halves of the plane": {"s": 0.5}},
    }


def failing(made):
    return [c.statement for c in gated_xor.claims(made) if not c.holds]


def test_claims_hold_for_what_theory_says():
    assert failing(found()) == []


@pytest.mark.parametrize(
    ("part", "name", "value", "number"),
    [
        ("aligned", "gaps", np.array([1e-2, 1e-3]), 1),
        ("aligned", "gaps", np.array([2e-3, 1e-4]), 1),
        ("gated", "gap", np.array([0.1]), 1),
        ("relu", "gap", np.array([0.003, 0.1]), 1),
        ("gatings", "halves of the plane", {"s": 0.3}, 1),
        ("gatings", "one point each", {"s": 0.4}, 1),
    ],
)
def test_claims_fail_for_other_numbers(part, name, value, number):
    made = copy.deepcopy(found())
    made[part][name] = value
    assert len(failing(made)) == number
    made = copy.deepcopy(found())
    made["units"] = [{"off": np.array([0.5]), "points": np.array([2])}]
    assert len(failing(made)) == 2


def test_other_gates():
    gates = gated_xor.gatings()
    assert gates["all points"]["s"] == pytest.approx(0, abs=1e-12)
    assert gates["all points"]["loss"] == pytest.approx(0.5)  # no linear map is XoR
    assert gates["halves of the plane"]["s"] == pytest.approx(0.5)
    assert gates["halves of the plane"]["loss"] == pytest.approx(0, abs=1e-12)


def test_bad_sizes():
    with pytest.raises(ValueError, match="units must be at least 16"):
        Config(units=2)


@pytest.mark.slow
def test_a_short_run():
    result = gated_xor.run(Config(seeds=1))
    assert [c.statement for c in result.claims if c.should_hold and not c.holds] == []
    for figure, caption in gated_xor.plot(result).values():
        assert plots.png(figure)
        assert caption
