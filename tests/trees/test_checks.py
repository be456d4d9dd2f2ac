"""Checks of arguments."""

import numpy as np
import pytest

from jaxrobust import trees


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_integers_of_any_kind(value):
    found = trees.check_count("number", value, most=3)
    assert found == 3
    assert type(found) is int


@pytest.mark.parametrize("value", [True, 1.0, "1", None, 0, -1])
def test_what_is_no_count_is_named(value):
    with pytest.raises(ValueError, match="number must be an integer of at least 1, got"):
        trees.check_count("number", value)


def test_bounds_are_told():
    with pytest.raises(ValueError, match=r"number must be an integer in 0\.\.4, got 5"):
        trees.check_count("number", 5, least=0, most=4)
    assert trees.check_count("number", 0, least=0, most=4) == 0


@pytest.mark.parametrize(
    ("shape", "like", "does"),
    [
        ((), (2, 3), True),
        ((3,), (2, 3), True),
        ((2, 1), (2, 3), True),
        ((2,), (2, 3), False),
        ((4, 2, 3), (2, 3), False),  # the other one would be stretched
        ((0,), (1,), False),
    ],
)
def test_broadcasts_to(shape, like, does):
    assert trees.broadcasts_to(shape, like) == does
