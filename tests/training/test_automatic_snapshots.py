"""Snapshots that are taken only where they pay: when the plan looks, tries, goes on and ends."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import optim, sampling, training
from jaxrobust.training import _costs, _looks, _steps

NUM_EXAMPLES = 400
SGD = optax.sgd(0.05)
OPTIMIZER = optax.chain(optim.svrg(), SGD)


def square(params, example):
    return (example[0] @ params - example[1]) ** 2


def regression(noise=1.0, seed=0):
    """Data of which no params have loss 0, unless there is no noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(NUM_EXAMPLES, 5))
    y = x @ rng.normal(size=5) * 4 + noise * rng.normal(size=NUM_EXAMPLES)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (x, y))


def start(size=4, optimizer=OPTIMIZER):
    sampler = sampling.uniform(NUM_EXAMPLES, size)
    return training.init(jnp.zeros(5), optimizer, sampler, key=jax.random.key(0))


def automatic(**options):
    defaults: dict[str, Any] = {"every": 50, "num_probes": 400, "batch_size": 64, "overhead": 1.0}
    return training.snapshots(square, automatic=True, **(defaults | options))


def run(snapshots, data, num_steps, state=None, **options):
    plan, extras = snapshots
    after, records = training.train(
        square, OPTIMIZER, start() if state is None else state, data, num_steps, plan=plan,
        extras=extras, **options,
    )  # fmt: skip
    return after, [record for record in records if record["event"] == "refresh"]


def mean_loss(params, data):
    x, y = (np.asarray(leaf, np.float64) for leaf in data)
    return float(np.mean((x @ np.asarray(params, np.float64) - y) ** 2))


def assert_same(a, b):
    """Bit for bit, keys included."""
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    plain = lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf
    chex.assert_trees_all_equal(*(jax.tree.map(plain, tree) for tree in (a, b)))


# What they bring ----------------------------------------------------------------------------------


def test_noise_is_found_and_taken_away():
    """Regression in batches of 4 comes to the loss of least squares, and stays there."""
    data = regression()
    after, reports = run(automatic(), data, 2_000)
    taken = [report["snapshot"] for report in reports]
    first = taken.index(1)
    assert all(taken[first:])
    assert reports[first]["step"] < 1_000
    assert {"fall", "gain_between", "ratio_ahead"} <= set(reports[first])
    assert reports[first + 1]["fallen"] > 0
    least = mean_loss(np.linalg.lstsq(np.asarray(data[0]), np.asarray(data[1]))[0], data)
    plain, _ = training.train(square, SGD, start(optimizer=SGD), data, 2_000)
    excess, without = (mean_loss(state.params, data) - least for state in (after, plain))
    assert excess < 1e-3 * without


@pytest.mark.parametrize("name", ["no noise in the data", "all in one batch"])
def test_without_gain_there_are_none_and_training_is_as_without_the_plan(name):
    data = regression(noise=0.0 if name == "no noise in the data" else 1.0)
    size = NUM_EXAMPLES if name == "all in one batch" else 4
    after, reports = run(automatic(), data, 1_000, start(size))
    assert len(reports) > 3
    assert not any(report["snapshot"] for report in reports)
    without, _ = training.train(square, SGD, start(size, SGD), data, 1_000)
    chex.assert_trees_all_equal(after.params, without.params)


def test_a_resumed_run_is_the_run_that_was_not_interrupted(tmp_path):
    """Interrupted between two looks, in the trial, and later."""
    data = regression()
    whole, reports = run(automatic(), data, 1_000)
    trial = next(report["step"] for report in reports if report["snapshot"])
    assert 100 < trial < 800
    for stop in (trial - 20, trial, trial + 20, trial + 120):
        half, _ = run(automatic(), data, stop)
        training.save(tmp_path / str(stop), half)
        back = training.restore(tmp_path / str(stop), start())
        assert_same(back, half)
        assert_same(run(automatic(), data, 1_000, back)[0], whole)


# When it acts -------------------------------------------------------------------------------------


def costs_of(data):
    """With 400 probes."""
    numbers = {"num_losses": 400, "num_gradients": 64}
    return _costs.snapshot_costs_of(square, start(), data, **numbers)


def called(plan, state, data, step, loss=1.0):
    state = state._replace(step=jnp.int32(step), recent_loss=jnp.float32(loss))
    return plan.call(state, data)


def next_call(plan, state) -> int:
    step = plan.next_call(state)
    assert step is not None
    return step


def parts(state):
    """Names in the memory, of params and snapshots only the first."""
    names = [name.removeprefix("snapshots/") for name in state.memory]
    return {name for name in names if name in ("0", "1", "before/0", "start_loss", "is_trial")}


@pytest.fixture
def told(monkeypatch):
    """What the looks tell from now on."""
    says = {"gain": 0.3, "error": 0.1, "left": 0.5}
    monkeypatch.setattr(
        _looks, "fall_between", lambda *_, **__: _looks.Fall(says["gain"], says["error"])
    )
    monkeypatch.setattr(_looks, "ratio_of_differences", lambda *_, **__: says["left"])
    return says


def tried(data, plan, losses=(1.0, 1.0)):
    """After two looks."""
    state, report = called(plan, start(), data, 10_000, losses[0])
    assert report == {"snapshot": 0}
    assert plan.next_call(state) == 10_050
    assert parts(state) == {"before/0"}
    return called(plan, state, data, 10_050, losses[1])


def test_a_snapshot_is_tried_where_all_looks_say_so(told):
    data, plan = regression(), automatic().plan
    state, report = tried(data, plan, (1.0, 0.95))
    assert report == {
        "snapshot": 1, "fall": pytest.approx(0.05), "gain_between": 0.3, "ratio_ahead": 0.5,
    }  # fmt: skip
    assert parts(state) == {"0", "1", "before/0", "start_loss", "is_trial"}
    assert plan.next_call(state) == 10_100


@pytest.mark.parametrize(
    ("says", "losses", "found"),
    [
        ({}, (1.0, 0.8), {"fall"}),
        ({"error": 0.2}, (1.0, 1.0), {"fall", "gain_between"}),
        ({"gain": -0.3}, (1.0, 1.0), {"fall", "gain_between"}),
        ({"left": 0.6}, (1.0, 1.0), {"fall", "gain_between", "ratio_ahead"}),
        ({"left": np.nan}, (1.0, 1.0), {"fall", "gain_between", "ratio_ahead"}),
        ({"gain": np.nan}, (1.0, 1.0), {"fall", "gain_between"}),
        ({}, (-1.0, -1.0), set()),
    ],
)
def test_a_snapshot_is_not_tried_where_one_says_no(told, says, losses, found):
    told.update(says)
    data, plan = regression(), automatic().plan
    state, report = tried(data, plan, losses)
    assert set(report) == found | {"snapshot"}
    assert report["snapshot"] == 0
    assert parts(state) == {"before/0"}
    assert next_call(plan, state) >= 10_100


def test_a_gain_that_steps_come_to_sooner_than_a_trial_ends_is_left_to_them(told, monkeypatch):
    """Half of the noise is 0.5 % of a loss that falls by 5 % in 50 steps: 10 steps ahead."""
    told.update(gain=0.0025 * 0.95, error=1e-4)
    data, plan = regression(), automatic().plan
    trial = costs_of(data).trial(50)
    assert trial > 10
    _, report = tried(data, plan, (1.0, 0.95))
    assert set(report) == {"snapshot", "fall", "gain_between"}
    told.update(gain=0.0025 * 0.95 * trial / 5 * 1.1)  # 11/10 of the trial
    _, report = tried(data, plan, (1.0, 0.95))
    assert report["snapshot"] == 1


def test_a_trial_that_brought_nothing_ends_and_the_next_look_is_later(told):
    data, plan = regression(), automatic().plan
    state, _ = tried(data, plan)
    waits = []
    for step in (10_100, 20_000, 40_000, 80_000):
        told.update(gain=-0.01)
        state, report = called(plan, state, data, step)
        assert report == {"snapshot": 0, "fallen": -0.01}
        assert not parts(state)
        waits.append(next_call(plan, state) - step)
        told.update(gain=0.3)
        state, _ = called(plan, state, data, step + 1_000)
        state, report = called(plan, state, data, step + 1_050)
        assert report["snapshot"] == 1
    assert waits == [100, 150, 200, 250]


def test_snapshots_go_on_until_the_loss_is_above_what_it_was(told):
    data, plan = regression(), automatic().plan
    state, _ = tried(data, plan, (1.0, 1.0))
    told.update(gain=0.01)
    state, report = called(plan, state, data, 10_100, 2.0)  # the mean is of older steps too
    assert report == {"snapshot": 1, "fallen": 0.01}
    told.update(gain=-9.0)
    state, report = called(plan, state, data, 10_150, 1.0)
    assert report == {"snapshot": 1}  # nobody looked
    told.update(gain=0.01)
    state, report = called(plan, state, data, 10_200, 1.1)
    assert report == {"snapshot": 1, "fallen": 0.01}
    told.update(gain=np.nan)
    state, report = called(plan, state, data, 10_250, 1.1)
    assert report == {"snapshot": 0, "fallen": pytest.approx(np.nan, nan_ok=True)}
    assert not parts(state)


@pytest.mark.parametrize("says", [{}, {"gain": -1.0}, {"left": 0.9}])
def test_looks_and_trials_that_bring_nothing_are_a_small_share_of_the_steps(told, says):
    """All of them together, counted here from what is reported."""
    told.update(says)
    data, plan = regression(), automatic(overhead=0.02, every=7).plan
    costs = costs_of(data)
    state, spent, trials = start(), 0.0, 0
    for _ in range(30):
        step = next_call(plan, state)
        told.update(gain=says.get("gain", 0.3))
        if "snapshots/is_trial" in state.memory:
            told.update(gain=0.0)  # it brought nothing
            spent += costs.trial(7)
            trials += 1
        elif step:
            spent += costs.look
        state, report = called(plan, state, data, step)
        spent += ("gain_between" in report) * costs.between
        spent += ("ratio_ahead" in report) * costs.probes
        np.testing.assert_allclose(float(state.memory["snapshots/spent"]), spent, rtol=1e-5)
        assert spent <= 0.02 * step * (1 + 1e-5)
    assert trials > 3 if not says else trials == 0


def test_first_is_the_step_of_the_first_look():
    """If it can be afforded then."""
    data = regression()
    plan = automatic(first=300, overhead=np.inf).plan
    assert plan.next_call(start()) == 300
    state, report = called(plan, start(), data, 300)
    assert report == {"snapshot": 0}
    assert parts(state) == {"before/0"}
    state, _ = called(automatic(overhead=0.01).plan, start(), data, 300)
    assert not parts(state)


# Parts --------------------------------------------------------------------------------------------


def test_looks_compile_no_step_anew():
    """A snapshot does once; what a plan remembers besides does not."""
    jax.clear_caches()
    _, reports = run(automatic(), regression(), 1_000)
    assert {0, 1} == {report["snapshot"] for report in reports}
    assert len({frozenset(report) for report in reports}) > 2
    program: Any = _steps._run
    assert program._cache_size() <= 4  # up to 128 steps and up to 256, with a snapshot and without


def test_a_step_is_given_what_its_extras_read():
    """An attribute of theirs; without one, the whole memory."""
    data, seen = regression(), []

    class Reads:
        def __call__(self, state, batch, weights):
            seen.append(set(state.memory))
            return {}

        def reads(self, name):
            return name == "a"

    state = start(optimizer=SGD)._replace(memory={"a": jnp.ones(()), "b": jnp.ones(())})
    after, _ = training.take_steps(square, SGD, state, data, 1, extras=Reads())
    assert seen == [{"a"}]
    assert set(after.memory) == {"a", "b"}
    training.take_steps(square, SGD, state, data, 1, extras=lambda *args: Reads()(*args))
    assert seen[-1] == {"a", "b"}


def test_fall_between_and_ratio_of_differences_are_those_of_numpy():
    data, state = regression(), start()
    rng = np.random.default_rng(1)
    before, after = (jnp.asarray(rng.normal(size=5), jnp.float32) for _ in range(2))
    options = {"number": NUM_EXAMPLES, "batch_size": 64}
    found = _looks.fall_between(square, state, before, after, data, **options)
    x, y = (np.asarray(leaf, np.float64) for leaf in data)
    off = lambda params: x @ np.asarray(params, np.float64) - y
    np.testing.assert_allclose(found.mean, np.mean(off(before) ** 2 - off(after) ** 2), rtol=1e-5)
    assert found.error == 0  # these are all
    gradients = lambda params: 2 * off(params)[:, None] * x
    spread = lambda g: np.sum((g - g.mean(axis=0)) ** 2)
    wanted = spread(gradients(after) - gradients(before)) / spread(gradients(after))
    state = state._replace(params=after)
    ratio = _looks.ratio_of_differences(square, state, before, data, **options)
    np.testing.assert_allclose(ratio, wanted, rtol=1e-4)
    assert _looks.ratio_of_differences(square, state, after, data, **options) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"plateau": -0.1}, "plateau must not be negative, got -0.1"),
        ({"plateau": np.nan}, "plateau must not be negative, got nan"),
        ({"overhead": 0.0}, "overhead must be positive, got 0.0"),
        ({"num_probes": 3}, "num_probes must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"every": 0}, "every must be"),
        ({"first": -1}, "first must be"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        automatic(**options)


def test_examples_whose_gradients_are_not_finite_are_named(told):
    x, y = regression()
    data = x.at[jnp.array([3, 77])].set(jnp.inf), y
    with pytest.raises(ValueError, match=r"2 of 400 .* are not, of examples 3, 77"):
        tried(data, automatic().plan)
