"""The experiment `gated_routing`: claims that can fail, closed forms, a short run."""

import copy

import numpy as np
import pytest

from experiments import gated_routing, plots
from experiments.gated_routing import DOMAINS, LEVELS, SCALES, SWEPT, Config
from jaxrobust import gated


def found():
    """As if measured, from two starts."""
    pairs = gated.band(DOMAINS, 4)
    values = (DOMAINS * gated_routing.singular_values()) ** (1 / 3)
    times = np.array([74.5, 155.0, 312.0])
    rising, falling = np.geomspace(0.1, 100, len(SCALES)), [220, 170, 5, *[0.01] * 6]
    two = lambda column: np.stack([np.asarray(column, float)] * 2, axis=1)
    return {
        "race": {
            "step gap": 1e-13, "flow gap": 1e-9, "predicted": times, "pairs": pairs,
            "crossed": np.stack([times, 1.05 * times]), "shared": np.stack([values, values]),
            "errors": np.full((2, DOMAINS, DOMAINS), 1e-3),
        },
        "outputs": {"others": two(falling), "trained": two(np.zeros(len(SWEPT)))},
        "scales": {"others": two(rising), "trained": two(np.zeros(len(SCALES)))},
        "edge": {"0.99": 0.1, "1.01": 10.0},
        "routes": {"solved": 4 * 7 ** (1 / 3), "predicted": 4 * 7 ** (1 / 3)},
    }  # fmt: skip


def failing(made):
    return [c.statement for c in gated_routing.claims(Config(), made) if not c.holds]


def test_claims_hold_for_what_theory_says():
    assert failing(found()) == []


@pytest.mark.parametrize(
    ("part", "name", "value", "number"),
    [
        ("race", "step gap", 1e-9, 1),
        ("race", "flow gap", 1e-3, 1),
        ("race", "predicted", np.array([70.0, 155.0, 312.0]), 1),
        ("race", "crossed", np.ones((2, 3)) * 90.0, 1),
        ("race", "shared", np.ones((2, 4)), 1),
        ("race", "errors", np.full((2, DOMAINS, DOMAINS), 50.0), 1),
        ("outputs", "others", np.full((len(SWEPT), 2), 0.01), 2),
        ("outputs", "others", np.full((len(SWEPT), 2), 200.0), 2),
        ("scales", "others", np.ones((len(SCALES), 2)), 1),
        ("scales", "trained", np.ones((len(SCALES), 2)), 1),
        ("edge", "0.99", 2.0, 1),
        ("edge", "1.01", 0.5, 1),
        ("routes", "solved", 7.0, 1),
    ],
)
def test_claims_fail_for_other_numbers(part, name, value, number):
    made = copy.deepcopy(found())
    made[part][name] = value
    assert len(failing(made)) == number


def test_the_closed_form_has_the_losses_of_the_figure():
    epochs = np.arange(501)
    losses = gated_routing.in_closed_form(epochs)
    assert losses[0] == pytest.approx(244, rel=1e-3)
    crossed = gated.crossing_times(epochs, losses, LEVELS)
    np.testing.assert_allclose(crossed, [74.5, 155.0, 312.0], atol=0.6)


def test_bad_sizes():
    with pytest.raises(ValueError, match="seeds must be at least 2"):
        Config(seeds=1)


@pytest.mark.slow
def test_a_short_run():
    result = gated_routing.run(Config(seeds=2))
    assert [c.statement for c in result.claims if c.should_hold and not c.holds] == []
    for figure, caption in gated_routing.plot(result).values():
        assert plots.png(figure)
        assert caption
