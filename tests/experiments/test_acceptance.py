"""The experiment `acceptance`: its parts, its own claims, and what is told."""

import pytest

from experiments import acceptance, plots
from experiments.acceptance import Config
from experiments.claims import Claim


def test_numbers_that_others_recorded(monkeypatch):
    values = {name: expected for name, (_, _, expected) in acceptance.NORMS.items()}
    monkeypatch.setattr(acceptance, "smallest_norms", lambda: values)
    assert all(claim.holds for claim in acceptance.golden(Config()))
    for name in values:
        off = 2e-3 if name.startswith("Fourier") else 2e-4
        monkeypatch.setattr(
            acceptance, "smallest_norms", lambda n=name, o=off: {**values, n: values[n] + o}
        )
        (failing,) = [c.statement for c in acceptance.golden(Config()) if not c.holds]
        assert f"({name}," in failing


@pytest.mark.slow
def test_the_numbers_are_found_again():
    assert all(claim.holds for claim in acceptance.golden(Config()))


def test_what_is_told(monkeypatch):
    good = Claim.at_most("theory", "a is small", 1.0, 2.0)
    bad = Claim.at_most("theory", "b is small", 3.0, 2.0)
    open_ = Claim.at_most("theory", "c is small", 3.0, 2.0, should_hold=False, reason="few steps")
    parts = {"one": lambda config: [good, open_], "two": lambda config: [good] * config.seeds}
    monkeypatch.setattr(acceptance, "PARTS", parts)
    result = acceptance.run(Config(seeds=2))
    assert len(result.claims) == 5  # and that of the time
    assert result.summary.startswith("3 of 4 claims hold, and no other one should.")
    assert result.tables[0].rows[-1][:4] == ("all", 4, 3, 0)
    ((figure, caption),) = acceptance.plot(result).values()
    assert plots.png(figure)
    assert caption
    monkeypatch.setattr(acceptance, "PARTS", {"three": lambda config: [bad]})
    result = acceptance.run(Config())
    assert "1 should and do not" in result.summary
    assert result.tables[0].rows[0][:4] == ("three", 1, 0, 1)


@pytest.mark.slow
def test_bounds_hold_at_any_size():
    """The attacks, and the optimizers on data with many dimensions, of few steps."""
    config = Config(examples=2)
    claims = acceptance.attacks_on_linear(config) + acceptance.geometry_of_optimizers(config)
    assert not [c.statement for c in claims if c.should_hold and not c.holds]


def test_defects_of_the_published_code():
    claims = acceptance.published_defects(Config())
    assert [claim.holds for claim in claims] == [True] * 4


def test_bad_sizes():
    for name in ("seeds", "examples", "steps"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1"):
            Config(**{name: 0})
    with pytest.raises(ValueError, match="steps must be at least 1000, got 500"):
        Config(steps=500)
