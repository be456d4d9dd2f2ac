"""The experiment `price_of_bias`: claims that can fail, its losses, and a short run."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import plots, price_of_bias
from experiments.price_of_bias import COORDINATE, DIAGONAL, GRADIENT, SHARES, Config
from jaxrobust import linear, norms


def found(**changes):
    """As if measured, on two data sets; changes by name of classifier and quantity."""
    rising = np.linspace(0.7, 1.0, len(SHARES))
    of = lambda values: np.stack([np.broadcast_to(values, len(SHARES))] * 2).astype(float)
    falling = np.linspace(0.9, 0.3, len(SHARES))
    made = {
        name: {"margin": of(0.99), "l1 margin": of(rising), "train": of(1.0), "test": of(test)}
        for name, test in (
            (GRADIENT, 0.6 * falling), (COORDINATE, falling), (DIAGONAL, falling),
            ("least l2 norm", 0.6 * falling), ("least l1 norm", falling),
        )
    }  # fmt: skip
    # Without perturbations gradient descent is nearly as good.
    made[GRADIENT]["test"][:, 0] = 0.85
    named = {"gd": GRADIENT, "cd": COORDINATE, "diagonal": DIAGONAL, "l2": "least l2 norm"}
    for name, fields in changes.items():
        made[named[name]] |= {key: of(value) for key, value in fields.items()}
    return made


def failing(made, config=None):
    claims = price_of_bias.claims(config or Config(), made)
    return [c.statement for c in claims if c.should_hold and not c.holds]


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({}, 0),
        ({"gd": {"margin": 0.9}}, 1),
        ({"cd": {"margin": 0.9}}, 1),
        ({"l2": {"l1 margin": np.linspace(1.0, 0.7, len(SHARES))}}, 1),
        ({"diagonal": {"train": 0.9}}, 1),
        ({"diagonal": {"test": 0.1}}, 1),
        ({"cd": {"test": 0.1}}, 1),
        ({"cd": {"test": [1.0, 0.5, 0.4, 0.3, 0.2]}}, 2),
    ],
)
def test_claims(changes, number):
    assert len(failing(found(**changes))) == number
    # Of few steps nothing but the certified bounds is asked.
    assert len(failing(found(**changes), Config(steps=200))) == ("l2" in changes)


def test_the_loss_is_that_of_the_worst_perturbation(x64):
    x, y, *_ = price_of_bias.examples(0)
    w = jnp.asarray(np.random.default_rng(0).normal(size=x.shape[1]))
    worst = x + linear.worst_case(w, x, y, norms.linf, 0.1)
    expected = np.log(np.mean(np.logaddexp(0, -np.asarray(y) * np.asarray(worst @ w))))
    assert price_of_bias.robust_loss(w, x, y, jnp.asarray(0.1)) == pytest.approx(expected)


@pytest.mark.slow
def test_a_short_run():
    result = price_of_bias.run(Config(seeds=1, steps=2_000))
    assert not [c.statement for c in result.claims if c.should_hold and not c.holds]
    for figure, caption in price_of_bias.plot(result).values():
        assert plots.png(figure)
        assert caption
