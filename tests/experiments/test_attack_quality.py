"""The experiment `attack_quality`: claims that can fail, and a short run."""

import numpy as np
import pytest

from experiments import attack_quality, plots
from experiments.attack_quality import APGD, LEAST, RADII, THREATS, Config


def linear(**lacking):
    """As if measured: what one example lacks, by attack; others reach all."""
    names = [*LEAST, "APGD, 10 classes", "Frank-Wolfe, 10 classes"]
    row = {name: np.asarray([1.0, 1.0 - lacking.get(name, 0.0)]) for name in names}
    found = dict.fromkeys(THREATS, row)
    found["linf"] = row | {"APGD, bounds": np.asarray([1.0, 1.0 - lacking.get("bounds", 0.0)])}
    return found


IMAGES = 60
ONE = 100 / IMAGES  # image, in points


def network(auto=60.0, ensemble=60.0, plain=60.0, clean=95.0):
    return {
        name: {
            "no attack": clean, "PGD, best of all": plain, APGD: auto,
            "ensemble": ensemble,
        }
        for name in RADII
    }  # fmt: skip


def failing(claims):
    return [c.statement for c in claims if not c.holds]


@pytest.mark.parametrize(
    ("lacking", "beyond", "number"),
    [
        ({}, [1e-8], 0),
        ({"APGD": 2e-6}, [0.0], 1),
        ({"Frank-Wolfe, 10 classes": 2e-6}, [0.0], 1),
        ({"bounds": 2e-6}, [0.0], 1),
        ({"PGD": 2e-6}, [0.0], 0),
        ({"PGD": 2e-4}, [0.0], 1),
        ({"Square": np.nan}, [0.0], 2),  # nor is it known to be at most all
        ({"minimum norm": -1e-6}, [0.0], 1),  # more than there is
        ({}, [1e-8, 1e-5], 1),
    ],
)
def test_claims_about_linear_classifiers(lacking, beyond, number):
    found = linear(**lacking)
    assert len(failing(attack_quality.linear_claims(found, beyond))) == number


@pytest.mark.parametrize(
    ("options", "number"),
    [
        ({}, 0),
        ({"auto": 60.0 + ONE}, 0),
        ({"auto": 60.0 + 2 * ONE}, 1),
        ({"ensemble": 60.0 + ONE}, 1),
        ({"clean": 65.0}, 1),
        ({"beyond": 2e-6}, 1),
    ],
)
def test_claims_about_the_network(options, number):
    beyond = {"linf": {"PGD": options.pop("beyond", 3e-7)}}
    claims = attack_quality.network_claims(network(**options), beyond, IMAGES)
    assert len(failing(claims)) == number


def test_how_far_inputs_are_outside():
    x = np.full((2, 3), 0.5, np.float32)
    inputs = x + np.asarray([[0.1, 0, 0], [0.1, -0.2, 0]], np.float32)
    assert attack_quality.outside("linf", 0.1, x, inputs) == pytest.approx(1.0, rel=1e-5)
    assert attack_quality.outside("l2", 0.1, x, inputs) == pytest.approx(5**0.5 - 1, rel=1e-5)
    assert attack_quality.outside("l2", 0.1, x, inputs + 0.45) == np.inf


@pytest.mark.slow
def test_a_short_run():
    sizes = {"examples": 3, "images": 20, "restarts": 1, "training_steps": 60}
    config = Config(threats=tuple(THREATS), **sizes)
    result = attack_quality.run(config)
    about_linear = result.claims[: len(LEAST) + 5]
    assert not failing(about_linear)
    for figure, caption in attack_quality.plot(result).values():
        assert plots.png(figure)
        assert caption
