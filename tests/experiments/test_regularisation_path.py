"""The experiment `regularisation_path`: a short run, and claims that can fail."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import plots, regularisation_path
from experiments.regularisation_path import (
    DIGITS,
    GAUSSIAN,
    PENALTIES,
    STRENGTHS,
    TABLE,
    Config,
    Found,
)
from jaxrobust import linear, norms


def found():
    """As if measured, on two data sets of which the first is that of the table."""
    by = {}
    for name in PENALTIES:
        rows = np.interp(
            np.log(STRENGTHS)[::-1],
            np.log([1e-7, 1e-5, 1e-3, 1e-1]),
            np.asarray(TABLE.get(name, TABLE["l1"]))[::-1],
        )[::-1]
        of_sets = np.stack([rows, rows])
        path = np.stack([np.linspace(0.5, 0.97, len(STRENGTHS))] * 2)
        by[name] = Found(
            of_sets, np.full_like(of_sets, 0.97), path, path - 0.1, np.full(2, 0.85),
            np.full_like(of_sets, 1e-5), np.full_like(of_sets, 100),
        )  # fmt: skip
    return {
        GAUSSIAN: by,
        DIGITS: {name: Found(*(part[:1] for part in f)) for name, f in by.items()},
    }


def changed(**fields):
    """The same with other numbers of l1 on Gaussian data."""
    made = found()
    made[GAUSSIAN]["l1"] = made[GAUSSIAN]["l1"]._replace(**fields)
    return made


def failing(made, config=None):
    return [
        c.statement
        for c in regularisation_path.claims(config or Config(), made)
        if c.should_hold and not c.holds
    ]


def test_claims_hold_for_what_was_measured_before():
    assert failing(found()) == []
    # With more steps the table says nothing.
    more = regularisation_path.claims(Config(steps=30_000), changed(cold=np.ones((2, 7))))
    assert [c.verdict for c in more].count("not reproduced") == 3


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({"gap": np.full((2, 7), 2e-4)}, 1),
        ({"warm": np.full((2, 7), 0.9)}, 0),
        ({"warm": np.full((2, 7), 0.84)}, 2),
        ({"promised": np.array([0.8, 0.98])}, 1),
        ({"least": np.tile([0, 0, 0, 0, 0.96, 0, 0.87], (2, 1))}, 1),
        ({"warm": np.linspace(1.0, 0.96, 14).reshape(2, 7)[:, ::-1] * [[1], [1]]}, 0),
        ({"warm": np.tile([0.5, 0.9, 0.8, 0.9, 0.95, 0.96, 0.97], (2, 1))}, 1),
        ({"cold": np.ones((2, 7))}, 3),  # neither the table nor the best one in between
        ({"cold": np.tile(np.linspace(1, 0.5, 7), (2, 1))}, 2),  # the best one is the first
        ({"cold_l2": np.full((2, 7), 0.9)}, 1),
    ],
)
def test_claims_fail_for_other_numbers(fields, count):
    assert len(failing(changed(**fields))) == count


def test_the_least_margin_that_theory_leaves(x64):
    """Of the softplus alone; weights that reach no more are a solution up to the gap told."""
    path = linear.RegularizationPath(
        strengths=jnp.ones(1), w=jnp.asarray([[[3.0, 4.0]]]), objective=jnp.asarray([[2.0]]),
        lower_bound=jnp.asarray([[1.998]]), gap=jnp.asarray([[1e-3]]),
        converged=jnp.ones((1, 1), bool), num_steps=jnp.ones((1, 1), int),
    )  # fmt: skip
    ((least,),) = regularisation_path.least_of(norms.l2, path, np.full((1, 1), 1.2), 7)
    smallest = np.logaddexp(0, -6 * least)
    assert smallest == pytest.approx(7 * (np.logaddexp(0, -6.0) + 2e-3))


def test_the_least_margin_that_is_promised(x64):
    """Of two examples, of which a solution may favour one: the one at the edge keeps the promise.

    And of one example alone, which every solution separates as far as its norm allows.
    """
    x = jnp.asarray([[1.0, 0.0], [1.0, 1.0]])
    y = jnp.ones(2, int)
    best = np.array([float(linear.max_margin(x, y, norms.l2).margin)])
    (least,) = regularisation_path.promised(best, 2, STRENGTHS[-1])
    path = linear.regularization_path(x, y, norms.l2, STRENGTHS, tolerance=1e-6, max_steps=50_000)
    reached = float(linear.margin(path.w[-1], x, y, norms.l2)) / best[0]
    assert 0.8 < least < reached <= 1 + 1e-6
    assert regularisation_path.promised(best, 1, STRENGTHS[-1])[0] > 0.98
    many = regularisation_path.promised(np.array([0.1, 1.0]), 100, STRENGTHS[-1])
    assert np.all(many < least)
    assert regularisation_path.promised(best, 2, 1e-2)[0] < least


@pytest.mark.slow
def test_a_short_run():
    """On one Gaussian data set, with a tenth of the steps: the path is solved all the same."""
    result = regularisation_path.run(Config(seeds=1, steps=300))
    by_statement = {c.statement: c for c in result.claims}
    solved = next(c for s, c in by_statement.items() if s.startswith("the path is solved"))
    nearly = next(c for s, c in by_statement.items() if s.startswith("at λ = 1e-7 the classifier"))
    assert solved.holds
    assert nearly.holds
    for figure, caption in regularisation_path.plot(result).values():
        assert plots.png(figure)
        assert caption
