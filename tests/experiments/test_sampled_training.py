"""The experiment `sampled_training`: its clock and its levels, and that each claim can fail."""

from typing import Any

import numpy as np
import pytest

from experiments import plots, sampled_training, sampled_training_claims, sampled_training_runs
from experiments.sampled_training import PRESETS, Config
from experiments.sampled_training_claims import (
    best_reach,
    clean_claims,
    least_test_losses,
    loss_ratios,
    redundancy_claims,
    redundancy_gains,
    to_accuracy,
    to_loss,
    to_test_loss,
    unbiased_claims,
)
from experiments.sampled_training_runs import (
    AUTOMATIC,
    AUTOMATIC_SVRG,
    AUTOMATICS,
    FOUND,
    KNOWN,
    NOISY,
    UNBIASED,
    UNIFORM,
    Curve,
    Redundancy,
)

SMALL = Config(
    copied=10, copies=20, distinct=60, clean=250, steps=40, evaluate_every=10, rates=(0.05,),
    seeds=2, unbiased_steps=120,
)  # fmt: skip


@pytest.fixture(scope="module")
def result():
    """A short run of everything."""
    return sampled_training.run(SMALL)


def curve(values, seconds_per_step=0.1, refreshing=0.0):
    """Evaluated at every tenth step, with a refresh before the first."""
    steps = 10.0 * np.arange(1, len(values) + 1)
    seconds = refreshing + seconds_per_step * steps
    return Curve(steps, seconds, np.array(values), 1 - np.array(values), refreshing, [])


@pytest.mark.slow
def test_a_short_run_has_all_its_parts(result):
    assert set(result.series["accuracy"]) == {"copies", "clean"}
    assert set(result.series["accuracy"]["copies"]) == {UNIFORM, FOUND, KNOWN}
    (found,) = result.series["unbiased"].values()
    assert set(found) == set(UNBIASED)
    assert len(result.claims) == 13
    figures = sampled_training.plot(result)
    assert set(figures) == {"redundancy", "unbiased"}
    for figure, caption in figures.values():
        assert plots.png(figure)
        assert caption


def test_the_training_set_is_what_it_says():
    made = sampled_training_runs.problem("digits", "mlp", Redundancy(5, 7, 20), 3)
    assert len(made.groups) == 55
    counts = np.bincount(made.groups)
    assert sorted(counts) == [1] * 20 + [7] * 5
    images, labels = map(np.asarray, made.train)
    for group in range(25):
        members = images[made.groups == group]
        assert len(set(labels[made.groups == group])) == 1
        spread = members.std(axis=0).mean() if len(members) > 1 else 0.02
        assert 0.01 < spread < 0.03  # of the noise, 0.02
    # No image of the training set is in the test set.
    test = np.asarray(made.test[0])
    distances = np.abs(images[counts[made.groups] == 1][:, None] - test[None]).max(axis=2)
    assert distances.min() > 0
    with pytest.raises(ValueError, match="digits has 1797 images, 1900 are wanted"):
        sampled_training_runs.problem("digits", "mlp", Redundancy(0, 1, 1900), 0)


def test_wrong_labels_are_as_many_as_said():
    made, plain = (
        sampled_training_runs.problem("digits", "linear", Redundancy(5, 7, 45, wrong), 3)
        for wrong in (0.2, 0.0)
    )
    np.testing.assert_array_equal(made.train[0], plain.train[0])
    wrong = np.asarray(made.train[1]) != np.asarray(plain.train[1])
    assert len(np.unique(made.groups[wrong])) == 10  # of 50 images
    assert all(len(set(wrong[made.groups == group])) == 1 for group in range(50))  # copies alike
    np.testing.assert_array_equal(made.test[1], plain.test[1])


@pytest.mark.parametrize("kind", ["linear", "mlp", "cnn"])
def test_networks_learn(kind):
    made = sampled_training_runs.problem("digits", kind, Redundancy(0, 1, 300), 0)
    run = sampled_training_runs.run_once(
        made, UNIFORM, 0.03, seed=0, batch_size=16, steps=150, evaluate_every=50,
        refresh_every=100, watch="accuracy",
    )  # fmt: skip
    assert run.values[-1] > 0.75
    assert run.steps.tolist() == [50, 100, 150]
    assert (np.diff(run.seconds) > 0).all()


def test_the_clock_counts_steps_and_refreshes_alone():
    records = [
        {"event": "refresh", "step": 0, "took": 2.0},
        {"event": "train", "step": 5, "took": 1.0},
        {"event": "evaluate", "step": 5, "took": 100.0, "value": 0.5, "test_loss": 2.0},
        {"event": "train", "step": 10, "took": 3.0},
        {"event": "save", "step": 10, "took": 50.0},
        {"event": "evaluate", "step": 10, "took": 100.0, "value": 0.7, "test_loss": 1.0},
    ]
    found = sampled_training_runs._curve(records)
    assert found.seconds.tolist() == [3.0, 6.0]
    assert found.steps.tolist() == [5, 10]
    assert found.refreshing == 2.0
    assert found.test_losses.tolist() == [2.0, 1.0]


def test_runs_that_are_compared_closely_take_turns():
    turns = sampled_training.in_turn(UNBIASED, 3)
    alike = set(sampled_training.NEEDED)
    assert set(turns[:4]) == set(turns[4:8]) == alike
    assert set(turns) == set(UNBIASED)
    assert {method: turns.count(method) for method in turns} == {
        method: 3 if method in alike else 1 for method in UNBIASED
    }
    assert sampled_training.in_turn((UNIFORM, FOUND, KNOWN), 3) == [UNIFORM, FOUND, KNOWN]
    slow, fast = curve([0.1, 0.9]), curve([0.1, 0.9], seconds_per_step=0.05)
    found = sampled_training_runs.fastest([slow, fast, slow])
    assert found.seconds.tolist() == fast.seconds.tolist()
    late = slow._replace(seconds=np.array([0.1, 3.0]))  # slow later
    assert sampled_training_runs.fastest([late, fast]).seconds.tolist() == [0.1, fast.seconds[1]]
    failed = curve([])
    assert sampled_training_runs.fastest([failed, failed]) is failed


def test_a_rate_that_is_too_high_reaches_nothing():
    made = sampled_training_runs.problem("digits", "mlp", Redundancy(0, 1, 100), 0)
    run = sampled_training_runs.run_once(
        made, UNIFORM, 1e12, seed=0, batch_size=16, steps=50, evaluate_every=10,
        refresh_every=100, watch="loss",
    )  # fmt: skip
    assert run.values.size == 0
    assert to_loss(run, 1.0) == (np.inf, np.inf)


def test_first_evaluation_that_is_good_enough():
    one = curve([0.5, 0.8, 0.7, 0.9])
    assert to_accuracy(one, 0.75) == (20, pytest.approx(2.0))
    assert to_accuracy(one, 0.95) == (np.inf, np.inf)
    assert to_loss(one, 0.5) == (10, pytest.approx(1.0))


def test_the_best_rate_is_the_one_that_gets_there_first():
    runs = {0.1: [curve([0.1, 0.9]), curve([0.1, 0.1])], 0.2: [curve([0.9]), curve([0.1, 0.9])]}
    rate, found = best_reach(runs, to_accuracy, [0.8, 0.8])
    assert rate == 0.2
    assert found[:, 0].tolist() == [10, 20]


def test_a_loss_is_reached_when_it_is_settled_there():
    """A moment of luck is not enough: of 30 values, three count at a time."""
    lucky = np.full(30, 1.0)
    lucky[4] = 0.1
    lucky[20:] = 0.2
    assert to_loss(curve(lucky), 0.3) == (220, pytest.approx(22.0))
    np.testing.assert_array_equal(sampled_training_claims.settled(lucky)[:2], np.inf)
    assert sampled_training_claims.settled(lucky)[2:].max() == 1
    runs = {0.1: [curve(lucky)], 0.2: [curve(np.full(30, 0.5))], 9.0: [curve([])]}
    assert sampled_training_claims.final_losses(runs) == [0.2]


def runs(found, uniform=(0.2, 0.4, 0.6, 0.8)):
    return {UNIFORM: {0.1: [curve(uniform)] * 2}, FOUND: {0.1: [found] * 2}}


def test_uniform_sampling_counts_at_its_fastest_rate():
    """The accuracy is that of its best rate, 0.8; another one is there after 20 steps, not 40."""
    uniform = {0.1: [curve([0.2, 0.4, 0.6, 0.8])] * 2, 0.3: [curve([0.2, 0.8, 0.7, 0.7])] * 2}
    methods = {UNIFORM: uniform, FOUND: {0.1: [curve([0.9])] * 2}}
    found, rows = redundancy_gains(methods)
    np.testing.assert_allclose(found[FOUND], 0.5)
    assert [row[1] for row in rows] == ["0.3", "0.1"]


def test_a_rate_counts_at_which_all_seeds_get_there():
    runs = {
        0.1: [curve([0.9]), curve([0.9]), curve([0.1])],
        0.2: [curve([0.1, 0.9])] * 3,
    }
    assert best_reach(runs, to_accuracy, [0.8] * 3)[0] == 0.2


def test_to_a_test_loss():
    """Lowest ones of uniform sampling 0.1, reached after 30 steps; the other never or after 20."""
    uniform = {0.1: [curve([0.1, 0.5, 0.9])] * 2, 0.3: [curve([0.1, 0.5, 0.6])] * 2}
    assert least_test_losses(uniform) == pytest.approx([0.101] * 2)
    other = lambda last: {UNIFORM: uniform, FOUND: {0.1: [curve([0.1, last])] * 2}}
    ratios = lambda last: loss_ratios(other(last), least_test_losses, to_test_loss)[FOUND]
    assert ratios(0.9) == pytest.approx((2 / 3, 2 / 3))
    assert ratios(0.8) == (np.inf, np.inf)


def test_redundancy_claims_can_fail():
    """Steps and seconds to 0.8, of 40 steps and 4 s of uniform sampling."""
    fast = redundancy_claims(runs(curve([0.9, 0.9], refreshing=0.5)), "mlp", "mnist")
    assert [claim.measured[0] for claim in fast] == pytest.approx([0.25, 1.5 / 4])
    assert all(claim.holds for claim in fast)
    slow_detection = redundancy_claims(runs(curve([0.9], refreshing=2.0)), "mlp", "mnist")
    assert [claim.holds for claim in slow_detection] == [True, False]
    more_steps = redundancy_claims(runs(curve([0.5, 0.9])), "mlp", "mnist")
    assert [claim.holds for claim in more_steps] == [False, True]
    # A CNN must gain more.
    middling = runs(curve([0.9], refreshing=1.2))
    assert redundancy_claims(middling, "mlp", "mnist")[1].holds
    assert not redundancy_claims(middling, "cnn", "mnist")[1].holds


def test_clean_claims_can_fail():
    plain = [curve([0.5, 0.90]), curve([0.5, 0.92])]
    claims = clean_claims({UNIFORM: {0.1: plain}, FOUND: {0.1: plain}}, "mnist")
    assert all(claim.holds for claim in claims)
    worse = [curve([0.5, 0.80]), curve([0.5, 0.82])]
    assert not clean_claims({UNIFORM: {0.1: plain}, FOUND: {0.1: worse}}, "mnist")[0].holds
    slower = [curve([0.5, 0.90], refreshing=1.0), curve([0.5, 0.92], refreshing=1.0)]
    assert not clean_claims({UNIFORM: {0.1: plain}, FOUND: {0.1: slower}}, "mnist")[1].holds


def test_the_loss_to_reach_is_the_median_of_the_end():
    """Of 30 values the last three: 0.3, 0.1 by chance, 0.3; two of three are so from 22 on."""
    values = [1.0] * 20 + [0.3] * 8 + [0.1, 0.3]
    base, fast = curve(values), curve([1.0, 0.3])
    ratios = loss_ratios({UNIFORM: {0.1: [base] * 2}, "SVRG": {0.1: [fast, base]}})
    assert ratios[UNIFORM] == (1.0, 1.0)
    assert ratios["SVRG"] == pytest.approx(((20 / 220 + 1) / 2,) * 2)


def claims_of(methods, source="mnist", name="linear, B = 8", switched=0.5, steps=20_000):
    ratios = {name: loss_ratios(methods)}
    on_test = {name: loss_ratios(methods, least_test_losses, to_test_loss)}
    switches = {name: dict.fromkeys(map(str, AUTOMATICS), switched)}
    config = Config(source=source, unbiased_steps=steps)
    return unbiased_claims(ratios, on_test, switches, {name: methods}, config)


def alike(values=(1.0, 0.5, 0.25, 0.12)):
    return {method: {0.1: [curve(values)] * 2} for method in UNBIASED}


LIMITED = f"{NOISY}, B = 8"


@pytest.mark.parametrize("method", AUTOMATICS)
def test_unbiased_claims_can_fail(method):
    number = 2 * AUTOMATICS.index(method)
    methods = alike()
    assert loss_ratios(methods)[method] == (1.0, 1.0)
    claims = claims_of(methods, name=LIMITED)
    assert all(claim.holds for claim in claims[:4])
    assert not claims[4].holds
    methods["SVRG"] = {0.1: [curve([0.2, 0.1])] * 2}
    methods[method] = {0.1: [curve([1.0, 0.9, 0.6, 0.3])] * 2}
    claims = claims_of(methods, name=LIMITED)
    assert [claim.holds for claim in claims[:4]] == [n != number for n in range(4)]
    assert claims[4].holds
    # Another sampler, or another setting, does not stand in for it.
    assert len(claims_of(methods)) == 4
    methods["SVRG"], methods["importance"] = alike()["SVRG"], methods["SVRG"]
    assert not claims_of(methods, name=LIMITED)[4].holds
    # The test loss, which is 1 minus these values, by itself.
    methods = alike([0.1, 0.5, 0.9, 0.9])
    methods[method] = {0.1: [curve([0.1, 0.1, 0.1, 0.9])] * 2}
    claims = claims_of(methods, name=LIMITED)
    assert [claim.holds for claim in claims[:4]] == [n != number + 1 for n in range(4)]


@pytest.mark.parametrize("method", AUTOMATICS)
def test_claims_of_automatic_modes_where_noise_is_the_limit(method):
    """That one acts, and that it gains, each by itself; the reason has the figures of the run."""
    number = 5 + 2 * AUTOMATICS.index(method)
    pair = slice(number, number + 2)
    acts, gains = claims_of(alike(), name=LIMITED, switched=0.0)[pair]
    assert (acts.holds, gains.holds) == (False, False)
    assert (
        "0 of 0 calls it looked whether noise is the limit; 0 of 2 runs, at all rates"
        in acts.reason
    )
    assert "1.00 of the steps, 1.00 of the seconds" in gains.reason
    methods = alike()
    looked = {"gain_between": 0.1, "noise_share": 0.9, "ratio_ahead": 0.8, "sampler": "uniform"}
    fast = curve([0.2, 0.1])._replace(reports=[{"sampler": "uniform"}, looked])
    methods[method] = {0.1: [fast] * 2}
    acts, gains = claims_of(methods, name=LIMITED, switched=1.0)[pair]
    assert (acts.holds, gains.holds) == (True, True)
    reason = claims_of(methods, name=LIMITED, switched=0.0)[number].reason
    assert "in 2 of 4 calls" in reason
    assert "the share of noise was 0.9, the ratio of variances that probes promised 0.8" in reason


def test_automatic_svrg_must_gain_on_digits_in_long_runs():
    must = lambda **options: [c.should_hold for c in claims_of(alike(), name=LIMITED, **options)]
    assert must(source="digits") == [True] * 5 + [False] * 2 + [True] * 2
    assert must(source="digits", steps=9_999) == [True] * 5 + [False] * 4
    assert must(source="mnist") == [True] * 4 + [False] * 5


def test_an_automatic_mode_has_left_when_it_says_so():
    methods = alike()
    stays = [{"step": 5, "sampler": "uniform"}, {"step": 9, "snapshot": 0}]
    for more, share in (
        ([], 0.0),
        ([{"step": 10, "snapshot": 1}], 0.0),  # on trial
        ([{"step": 10, "snapshot": 1, "fallen": 0.1}], 1.0),
        ([{"step": 10, "sampler": "stratified"}], 1.0),
        ([{"step": 40, "snapshot": 1, "fallen": 0.1}], 0.0),  # it has the loss already
    ):
        one = methods[UNIFORM][0.1][0]._replace(reports=[*stays, *more])
        methods[AUTOMATIC_SVRG] = {0.1: [one] * 2}
        found = sampled_training_claims.share_of_switches(methods, AUTOMATIC_SVRG)
        assert found == share


def test_bad_values_are_refused():
    bad: list[dict[str, Any]] = [{"source": "cifar"}, {"model": "rnn"}, {"seeds": 1}]
    bad.append({"problems": ("cnn",)})
    bad += [{"methods": (UNIFORM,)}, {"methods": (*UNBIASED, "other")}]
    for options in [*bad, {"batch_size": 1}]:
        with pytest.raises(ValueError, match="must be"):
            Config(**options)
    assert {preset.source for preset in PRESETS.values()} == {"digits", "mnist"}


def test_misses_on_small_images_have_reasons_from_the_run():
    """The bars are the same; what they cannot be reached for is computed."""
    steps, seconds = redundancy_claims(runs(curve([0.5, 0.9], refreshing=0.5)), "mlp", "digits")
    assert (steps.should_hold, seconds.should_hold) == (False, False)
    assert (steps.holds, seconds.holds) == (False, False)
    assert "after 40 steps, of which the 10 between" in steps.reason
    assert "0.500 s for looks at the data, 12% of the 4.00 s" in seconds.reason
    # A rate at which runs diverge has nothing to tell.
    methods = alike()
    for runs_of in methods.values():
        runs_of[9.0] = [curve([])] * 2
    assert len(claims_of(methods, name=LIMITED)) == 9
    # The automatic mode has none: its bar stands for every setting.
    automatic = alike() | {AUTOMATIC: {0.1: [curve([1.0, 0.5], refreshing=5.0)] * 2}}
    claim = claims_of(automatic, "digits")[0]
    assert (claim.holds, claim.should_hold) == (False, True)


def test_an_accuracy_is_reached_when_it_is_settled_there():
    """Of 30 values, three count at a time: one of luck is not enough, in the end neither."""
    lucky = np.full(30, 0.5)
    lucky[[4, 29]] = 0.9
    lucky[20:] = np.maximum(lucky[20:], 0.8)
    assert sampled_training_claims.final(curve(lucky), 0.0) == 0.8
    assert to_accuracy(curve(lucky), 0.8) == (220, pytest.approx(22.0))
    assert to_accuracy(curve(lucky), 0.9) == (np.inf, np.inf)
    assert sampled_training_claims.final(curve([]), 0.0) == 0.0
