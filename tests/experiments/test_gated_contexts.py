"""The experiment `gated_contexts`: the task, where units are on, claims that can fail, a run."""

import copy

import numpy as np
import pytest

from experiments import gated_contexts, plots
from experiments.gated_contexts import ALL, CONTEXTS, GATINGS, Config

TIMES = np.arange(0, 1_001.0)


def falling(half):
    """Losses of two starts, at half of the first after so long."""
    return np.stack([2.0 / (1 + np.exp((TIMES - half) / 5))] * 2)


def found():
    """As if measured."""
    halves = {"one each": 120, "one for all, one each": 110, "one for all, one off in each": 60}
    gatings = {name: {"losses": falling(half), "least": 0.0} for name, half in halves.items()}
    gatings["one for all"] = {"losses": 0.5 + falling(60), "least": 0.5}
    # Of the shape of the nearest, exactly.
    relu = {"losses": falling(60), "shares": np.array([[0, 0.1, 0.8, 0.1, 0.0]] * 2)}
    gatings["one each"]["losses"] = np.sqrt(falling(120) / 2) * 2  # another shape
    gatings["one for all, one each"]["losses"] = np.sqrt(falling(110) / 2) * 2
    return {"times": TIMES, "gatings": gatings, "relu": relu}


def failing(made):
    return [c.statement for c in gated_contexts.claims(Config(), made) if not c.holds]


def test_claims_hold_for_what_theory_says():
    assert failing(found()) == []


@pytest.mark.parametrize(
    ("change", "number"),
    [
        (lambda made: made["gatings"]["one for all"].update(least=0.0), 1),
        (lambda made: made["gatings"]["one each"].update(least=0.1), 1),
        (lambda made: made["gatings"]["one each"].update(losses=falling(60)), 1),
        (lambda made: made["relu"].update(losses=1 + falling(60)), 2),
        (lambda made: made["relu"].update(losses=falling(300)), 1),
        (lambda made: made["relu"].update(shares=np.array([[0, 0.8, 0.1, 0.1, 0]])), 1),
        (lambda made: made["relu"].update(losses=np.sqrt(falling(60) / 2) * 2), 1),
    ],
)
def test_claims_fail_for_other_numbers(change, number):
    made = copy.deepcopy(found())
    change(made)
    assert len(failing(made)) == number, failing(made)


def test_no_linear_map_knows_all_features():
    targets = gated_contexts.targets()
    items = len(targets[0])
    x = np.concatenate([np.tile(np.eye(items), (CONTEXTS, 1)),
                        np.repeat(np.eye(CONTEXTS), items, axis=0)], axis=1)  # fmt: skip
    y = np.concatenate(targets)
    left = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    assert np.sum(left**2) > 0.05 * np.sum(y**2)
    for context in ALL:  # each context alone is known by heart
        own = slice(context * items, (context + 1) * items)
        assert np.linalg.matrix_rank(x[own]) == items
    assert set(map(len, GATINGS["one for all, one off in each"][1:])) == {CONTEXTS - 1}


def test_where_units_are_on():
    items = 8
    x = np.concatenate([np.tile(np.eye(items), (CONTEXTS, 1)),
                        np.repeat(np.eye(CONTEXTS), items, axis=0)], axis=1)  # fmt: skip
    inner = np.zeros((4, items + CONTEXTS))
    inner[0, items:] = [1, 1, -1]  # by the context alone, in two of them
    inner[1, :items], inner[1, items:] = 1, [0, 0, -2]  # likewise, by the item too
    inner[2, 0] = 1  # for one item in every context
    inner[3] = 1e-4  # small
    inner[3, -1] = -1e-4
    outer = np.ones((5, 4)) / np.maximum(np.linalg.norm(inner, axis=1), 0.1)
    on, size = gated_contexts.on_in([inner, outer], x)
    assert on.shape == (3, CONTEXTS, items)
    np.testing.assert_allclose(size, 5**0.5)
    shares = gated_contexts.by_contexts([inner, outer], x)
    np.testing.assert_allclose(shares, np.array([1, 0, 2, 0, 2]) / 3)


def test_bad_sizes():
    with pytest.raises(ValueError, match="seeds must be at least 1"):
        Config(seeds=0)


@pytest.mark.slow
def test_a_short_run():
    result = gated_contexts.run(Config(seeds=1))
    assert [c.statement for c in result.claims if c.should_hold and not c.holds] == []
    for figure, caption in gated_contexts.plot(result).values():
        assert plots.png(figure)
        assert caption
