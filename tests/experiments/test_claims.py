"""Whether a claim holds is computed, and what does not hold cannot be hidden."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.claims import Claim

WHO = ("Fake 2020, Theorem 1", "A number is right")
numbers = st.floats(-1e6, 1e6)


def test_holds_cannot_be_handed_in():
    with pytest.raises(TypeError, match="holds"):
        Claim(source="a", statement="b", measured=(0, 0), low=1, expected="1", holds=True)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="holds"):
        Claim.at_least(*WHO, 0.0, 1.0, holds=True)  # type: ignore[call-arg]
    claim = Claim.at_least(*WHO, 0.0, 1.0)
    with pytest.raises(AttributeError):
        claim.holds = True  # type: ignore[misc]


@pytest.mark.parametrize(
    ("claim", "holds"),
    [
        (Claim.at_least(*WHO, 1.0, 1.0), True),
        (Claim.at_least(*WHO, 0.99, 1.0), False),
        (Claim.at_least(*WHO, 0.99, 1.0, tolerance=0.02), True),
        (Claim.at_most(*WHO, 1.0, 1.0), True),
        (Claim.at_most(*WHO, 1.01, 1.0), False),
        (Claim.at_most(*WHO, 1.01, 1.0, tolerance=0.02), True),
        (Claim.between(*WHO, 0.5, 0.0, 1.0), True),
        (Claim.between(*WHO, 1.5, 0.0, 1.0), False),
        (Claim.between(*WHO, -0.5, 0.0, 1.0), False),
        (Claim.between(*WHO, 1.5, 0.0, 1.0, tolerance=0.5), True),
        (Claim.close(*WHO, 1.0, 1.0), True),
        (Claim.close(*WHO, 1.1, 1.0, atol=0.05), False),
        (Claim.close(*WHO, 11.0, 10.0, rtol=0.1), True),
        (Claim.close(*WHO, -11.5, -10.0, rtol=0.1), False),
    ],
)
def test_holds_follows_from_the_measurement(claim: Claim, holds: bool):
    assert claim.holds is holds
    assert claim.verdict == ("holds" if holds else "does not hold")


@given(measured=numbers, low=numbers, width=st.floats(0, 1e3))
def test_between_is_what_it_says(measured, low, width):
    assert Claim.between(*WHO, measured, low, low + width).holds == (low <= measured <= low + width)


@pytest.mark.parametrize("array", [np.array([[0.9, 1.2], [1.0, 0.4]]), jnp.array([0.9, 1.2, 0.4])])
def test_every_number_of_an_array_counts(array):
    claim = Claim.at_least(*WHO, array, 0.5)
    assert not claim.holds
    assert claim.count == array.size
    assert claim.measured == (pytest.approx(0.4), pytest.approx(1.2))
    assert Claim.at_least(*WHO, array, 0.3).holds


@pytest.mark.parametrize("measured", [math.nan, [1.0, math.nan, 1.0], np.float32("nan")])
def test_nan_never_holds(measured):
    assert not Claim.at_least(*WHO, measured, -1e300).holds
    assert not Claim.at_most(*WHO, measured, 1e300).holds
    assert not Claim.between(*WHO, measured, -1e300, 1e300).holds
    assert not Claim.close(*WHO, measured, 1.0, atol=1e300).holds
    nan_claim = Claim.at_least(*WHO, measured, 0.0)
    assert not Claim.all_of(*WHO, [nan_claim, Claim.close(*WHO, 1.0, 1.0)]).holds


def test_a_bound_that_is_nan_never_holds():
    assert not Claim.at_least(*WHO, 1.0, math.nan).holds
    assert not Claim.close(*WHO, 1.0, math.nan, atol=1.0).holds


def test_all_of_needs_every_part():
    good, bad = Claim.at_least(*WHO, 1.0, 0.5), Claim.at_least(*WHO, 1.0, 2.0)
    assert Claim.all_of(*WHO, [good, good]).holds
    both = Claim.all_of(*WHO, [good, bad])
    assert not both.holds
    assert both.measured == (1.0, 1.0)
    assert both.parts == (good, bad)


def test_what_is_known_not_to_hold_needs_a_reason():
    with pytest.raises(ValueError, match="reason"):
        Claim.at_least(*WHO, 0.0, 1.0, should_hold=False)
    with pytest.raises(ValueError, match="reason"):
        Claim.at_least(*WHO, 0.0, 1.0, should_hold=False, reason="  ")
    claim = Claim.at_least(*WHO, 0.0, 1.0, should_hold=False, reason="too few steps")
    assert claim.verdict == "not reproduced"
    assert Claim.at_least(*WHO, 2.0, 1.0, should_hold=False).verdict == "holds here"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Claim.at_least("", "b", 1.0, 1.0), "source"),
        (lambda: Claim.at_least("a", " ", 1.0, 1.0), "statement"),
        (lambda: Claim.at_least(*WHO, [], 1.0), "measured must not be empty"),
        (lambda: Claim.all_of(*WHO, []), "claims must not be empty"),
        (lambda: Claim.between(*WHO, 1.0, -math.inf, math.inf), "low or high must be finite"),
        (lambda: Claim.between(*WHO, 1.0, 2.0, 1.0), "low must not exceed high"),
        (lambda: Claim.at_least(*WHO, 1.0, 1.0, tolerance=-0.1), "tolerance"),
        (lambda: Claim.close(*WHO, 1.0, 1.0, rtol=math.nan), "rtol"),
        (lambda: Claim.close(*WHO, 1.0, 1.0, atol=-1.0), "atol"),
    ],
)
def test_claims_that_say_nothing_are_refused(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("measured", ["0.9", 1j, [None]])
def test_only_real_numbers_are_measurements(measured):
    with pytest.raises(TypeError, match="measured must be real numbers"):
        Claim.at_least(*WHO, measured, 0.0)


@pytest.mark.parametrize(
    "claim",
    [
        Claim.at_least(*WHO, [0.5, 0.7], 0.4, tolerance=0.1),
        Claim.close(*WHO, 0.1, 0.1, atol=1e-9, reason="a note"),
        Claim.at_most(*WHO, math.inf, 1.0, should_hold=False, reason="it diverges"),
        Claim.all_of(*WHO, [Claim.at_least(*WHO, 1.0, 2.0), Claim.close(*WHO, 1.0, 1.0)]),
    ],
)
def test_json_round_trip(claim: Claim):
    text = json.dumps(claim.to_json(), allow_nan=False)
    assert Claim.from_json(json.loads(text)) == claim


def test_json_round_trip_of_nan():
    plain = json.loads(json.dumps(Claim.at_least(*WHO, math.nan, 0.0).to_json(), allow_nan=False))
    assert plain["measured"] == [None, None]
    again = Claim.from_json(plain)
    assert math.isnan(again.measured[0])
    assert not again.holds


def test_a_file_that_was_tampered_with_is_refused():
    plain = Claim.at_least(*WHO, 0.0, 1.0).to_json()
    assert plain["holds"] is False
    with pytest.raises(ValueError, match="holds=True does not follow"):
        Claim.from_json({**plain, "holds": True})
