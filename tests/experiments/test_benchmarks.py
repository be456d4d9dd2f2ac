"""What the benchmarks count, and that both sides solve the same problem."""

import warnings

import numpy as np
import pytest

from experiments.benchmarks import (
    attacks,
    contrastive,
    gated,
    max_margin,
    per_example,
    per_example_models,
    timing,
)
from experiments.benchmarks.max_margin import GAP, Comparison, Rival

FINE = Rival("default", 2.0, 0.1 * GAP, False)


def compared(*rivals: Rival) -> Comparison:
    return Comparison(max_margin.SIZES[-1], "l2", 1.0, 0.5, 0.5 * GAP, rivals)


def test_the_fastest_run_that_reaches_the_gap_counts():
    fast = Rival("1e-04", 1.0, 0.9 * GAP, False)
    assert compared(FINE, fast).counted is fast
    assert compared(FINE, fast).times_faster == 2.0
    assert compared(FINE._replace(seconds=0.5), fast).counted.tolerance == "default"


def test_a_run_that_does_not_reach_the_gap_is_shown_and_does_not_count():
    rough = Rival("1e-04", 0.1, 1.9 * GAP, True)
    found = compared(FINE, rough)
    assert found.counted is FINE
    first, last = max_margin.notes([found])
    assert first.startswith("not reached by CLARABEL with 1e-04 tolerance: 500 x 2000 l2, gap 1.9e")
    assert first.endswith("(not counted)")
    assert last == "CVXPY warned of an inaccurate solution in 1 of 2 runs."
    neither = compared(FINE._replace(gap=2 * GAP), rough)
    assert neither.counted.tolerance == "default"
    assert "counted: no run reached it" in max_margin.notes([neither])[0]


def test_bars():
    assert max_margin.missed(compared(FINE._replace(seconds=2.6))) == []
    (slow,) = max_margin.missed(compared(FINE))
    assert "4.00 times faster, bar 5.0" in slow
    (wide,) = max_margin.missed(compared(FINE._replace(seconds=2.6))._replace(gap=2 * GAP))
    assert "gap 2.0e-04" in wide


@pytest.mark.parametrize("name", max_margin.NORMS)
@pytest.mark.parametrize("num_features", [5, 6])
def test_both_sides_mean_the_same_norm(name: str, num_features: int):
    import cvxpy as cp
    import jax.numpy as jnp

    value = np.random.default_rng(num_features).normal(size=num_features)
    w = cp.Variable(num_features, value=value)
    found = max_margin.NORMS[name].value(jnp.asarray(value, jnp.float32))
    assert float(max_margin.norm_of(w, name).value) == pytest.approx(float(found), rel=1e-5)


def test_inaccurate_solutions_are_counted_and_other_warnings_are_shown(monkeypatch):
    import cvxpy as cp

    solve = cp.Problem.solve

    def solve_and_warn(self, **options):
        warnings.warn(f"{message}. Try another solver.", stacklevel=1)
        return solve(self, **options)

    monkeypatch.setattr(cp.Problem, "solve", solve_and_warn)
    x, y = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([1.0, -1.0])
    message = max_margin.INACCURATE
    _, w, warned = max_margin.clarabel("l2", x, y, None)
    np.testing.assert_allclose(w, [1, -1], atol=1e-6)
    assert warned
    message = "Something else"
    with pytest.warns(UserWarning, match=message):
        assert not max_margin.clarabel("l2", x, y, None)[2]


def test_tables_are_aligned():
    shown = timing.table(["name", "s"], [["a", 0.123456], ["long name", 10]]).splitlines()
    assert shown == ["name           s", "-" * 16, "a          0.123", "long name     10"]


def measured(run: float, compiled: float = 1.0, temporary: int = 0) -> per_example.Measured:
    return per_example.Measured(1.0, compiled, run, temporary)


def test_what_per_example_misses():
    model = next(iter(per_example_models.models(quick=True).values()))()
    size = per_example.per_example_bytes(model)
    assert size == 4 * 8 * (20 * 30 + 30 + 30 * 10 + 10)
    good = {
        "mean gradient": measured(1.0),
        "value_grad_and_norms": measured(1.1),
        "norms": measured(0.6),
        "sketches": measured(1.0, 2.4, int(0.09 * size)),
        "vmap(grad)": measured(9.0),
    }
    assert per_example.misses("m", model, good, 9e-6) == []
    bad = {**good, "value_grad_and_norms": measured(1.2, 2.6), "norms": measured(1, 1, size)}
    found = per_example.misses("m", model, bad, float("nan"))
    assert [line.split(": ")[1].rsplit(" ", 3)[0] for line in found] == [
        "value_grad_and_norms / mean gradient",
        "compile time of value_grad_and_norms",
        "extra memory / (B, params)",
        "relative error of norms",
    ]


def test_per_example_prints_its_tables(capsys, monkeypatch):
    monkeypatch.delenv(per_example.VARIABLE, raising=False)
    missed = per_example.main(quick=True)
    printed = capsys.readouterr().out
    assert printed.count("MLP 20-30-10, B=8") == 2
    assert f"PyTorch not run: {per_example.VARIABLE} names no Python" in printed
    assert not any("relative error" in line for line in missed)


def test_wrong_norms_are_seen():
    model = next(iter(per_example_models.models(quick=True).values()))()
    programs = dict(per_example.functions(model))
    assert per_example.norm_error(model, programs) < 1e-6
    right = programs[per_example.FUSED]
    programs[per_example.FUSED] = lambda p, b: (*right(p, b)[:2], 1.0001 * right(p, b)[2])
    assert per_example.norm_error(model, programs) == pytest.approx(1e-4, rel=0.01)


def test_rivals_stand_in_the_row_of_ours():
    ours = {key: measured(0.002) for key in (*per_example.OURS, per_example.SLOW)}
    ours[per_example.PLAIN] = measured(0.001)
    printed = {"torch": "2", "threads": 3, "plain": 0.004, "opacus_ghost": 0.005}
    peers = per_example.read_peers("m", {**printed, "backpack_l2": "ValueError: no"})
    assert peers.notes == ["PyTorch 2, 3 threads", "BackPACK cannot, on m: ValueError: no"]
    row = per_example.time_row("m", ours, peers)
    assert row == ["m", "1", *["2.00 (2)"] * 4, "4", "1.25 (5)", "-"]
    peers = per_example.read_peers("m", {"plain": "ValueError: none"})
    assert per_example.time_row("m", ours, peers)[-3:] == ["-", "-", "-"]
    assert "ValueError: none" in peers.notes[0]


PRINTED = {"size": 8, "torch": "2", "threads": 3, "metric_learning": "4", "dense": 0.02}


def test_what_contrastive_misses():
    found = contrastive.read_peers({**PRINTED, "batch_hard": 0.06})
    assert found.notes == ["PyTorch 2, 3 threads; pytorch-metric-learning 4"]
    at = lambda ours: found._replace(seconds=found.seconds | {contrastive.OURS: ours})
    assert contrastive.misses(8, at(0.01)) == []
    assert contrastive.misses(8, at(0.0125)) == [
        "contrastive: B=8: 1.6 times faster than dense PyTorch, 2.0",
        "contrastive: B=8: 4.8 times faster than batch-hard, 6.0",
    ]
    assert contrastive.cell(at(0.01), contrastive.METRIC_LEARNING) == "60 (6.0)"
    lost = contrastive.read_peers({**PRINTED, "batch_hard": "MemoryError: "})
    assert lost.notes[1] == "batch-hard cannot, at B=8: MemoryError: "
    lost.seconds[contrastive.OURS] = 0.01
    assert contrastive.misses(8, lost) == ["contrastive: B=8: batch-hard was not measured"]
    assert contrastive.cell(lost, contrastive.METRIC_LEARNING) == "-"


def test_contrastive_prints_its_tables(capsys, monkeypatch):
    monkeypatch.delenv(contrastive.VARIABLE, raising=False)
    assert contrastive.main(quick=True) == []  # no bars for sizes this small
    printed = capsys.readouterr().out
    assert f"PyTorch not run: {contrastive.VARIABLE} names no Python with PyTorch" in printed
    assert all(f"\n{size}" in printed for size in (*contrastive.QUICK_SIZES, 512))
    assert printed.count("\n50  ") == 2


def test_what_attacks_miss():
    printed = {
        "norm": "Linf", "torch": "2", "threads": 3, "off": 2e-6, "autoattack": [0.63, 12.0]
    }  # fmt: skip
    norm, found = attacks.read_peers({**printed, "apgd": "ValueError: no", "pgd": [0.7, 0.1]})
    assert norm == "linf"
    assert found.notes == ["PyTorch 2, 3 threads", "torchattacks APGD cannot, linf: ValueError: no"]
    assert found.accuracy == {"AutoAttack": 63, "torchattacks PGD": 70}
    whole = {**found.accuracy, "torchattacks APGD": 65.0}
    left = lambda ours, off=found.off: attacks.misses(norm, whole | {attacks.ENSEMBLE: ours}, off)
    assert left(63.4) == []
    assert left(63.6) == ["attacks: linf: 63.6 % left, AutoAttack 63.0 %"]
    assert left(63.4, 0.5) == ["attacks: linf: scores in PyTorch are off by 0.5: another network"]
    assert attacks.misses(norm, found.accuracy | {attacks.ENSEMBLE: 1.0}, 0.0) == [
        "attacks: linf: torchattacks APGD was not measured"
    ]
    lost = attacks.misses("l2", {attacks.ENSEMBLE: 1.0}, 0.0)
    assert [line.split(": ")[2] for line in lost] == [
        f"{name} was not measured" for name in attacks.PEERS.values()
    ]


@pytest.mark.slow
def test_attacks_print_their_tables(capsys, monkeypatch):
    monkeypatch.delenv(attacks.VARIABLE, raising=False)
    assert attacks.main(quick=True) == []
    printed = capsys.readouterr().out
    assert f"PyTorch not run: {attacks.VARIABLE} names no Python with PyTorch" in printed
    names = attacks.ENSEMBLE, attacks.APGD, attacks.PGD
    assert [printed.count(f"  {name} ") for name in names] == [2, 2, 2]


def test_gated_bars():
    fine = gated.Curve(512, 1.0, 0.005, (1.0, 1.0), 1e-6)
    even = {1_000: 1.0, 1_000_000: 1.05}
    assert gated.misses([fine], even) == []
    assert len(gated.misses([fine._replace(reduced=0.02)], even)) == 1
    assert len(gated.misses([fine._replace(off=0.1)], even)) == 1
    assert len(gated.misses([fine], {1_000: 1.0, 1_000_000: 1.2})) == 1


def test_gated_in_small(capsys):
    assert gated.main(quick=True) == []
    assert "times faster" in capsys.readouterr().out
    assert gated.curves(8, quick=True).off < gated.MOST_OFF
