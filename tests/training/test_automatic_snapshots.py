"""Snapshots that are taken only where they pay: when the plan looks, tries, goes on and ends."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import optim, per_example, sampling, training
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
    assert reports[first]["noise"] > reports[first]["progress"]
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


def affine(params, example):
    return (example[0] @ params["slope"] + params["offset"] - example[1]) ** 2


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_other_params_and_a_plan_of_scores_beside(dtype, request):
    """Several leaves, one of them a number; importance sampling; fewer probes than examples."""
    if dtype == "float64":
        request.getfixturevalue("x64")
    data = jax.tree.map(lambda leaf: leaf.astype(dtype), regression())
    params = {"slope": jnp.zeros(5, dtype), "offset": jnp.zeros((), dtype)}
    own = training.snapshots(
        affine, every=25, automatic=True, overhead=np.inf, num_probes=300, batch_size=48
    )
    scores = training.resample(affine, first=600, every=600, automatic=False, dim=8)
    state = training.init(
        params, OPTIMIZER, sampling.uniform(NUM_EXAMPLES, 4), key=jax.random.key(0)
    )
    after, records = training.train(
        affine, OPTIMIZER, state, data, 1_000, plan=training.combined(scores, own.plan),
        extras=own.extras,
    )  # fmt: skip
    taken = [r["step"] for r in records if r.get("automatic_snapshots/snapshot")]
    # In half precision the rounding of steps is a noise that no snapshot takes away.
    assert taken or dtype == "bfloat16"
    assert after.sampler.running is not None
    chex.assert_tree_all_finite(after.params)
    chex.assert_trees_all_equal_dtypes(after.params, params)


def test_losses_with_convolutions_are_not_looked_at_in_compiled_loops():
    """They are as slow there as :func:`per_example.slow_in_loops` says, and the same numbers."""

    def blurred(params, example):
        kernel = params.reshape(1, 1, 5)
        found = jax.lax.conv(example[0].reshape(1, 1, 5), kernel, (1,), "SAME")
        return jnp.sum((found - example[1]) ** 2)

    data, params = regression(), jnp.ones(5)
    assert per_example.slow_in_loops(blurred)(params, data)
    in_a_loop, jax_losses = _looks._losses_in_a_loop, jax.vmap(blurred, (None, 0))(params, data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_looks, "_losses_in_a_loop", None)
        found = _looks.mean_loss(blurred, params, data, 64)
    np.testing.assert_allclose(found, float(jnp.mean(jax_losses)), rtol=1e-5)
    looped = np.asarray(in_a_loop(blurred, 64, (params,), data)[0]).reshape(-1)[:NUM_EXAMPLES]
    np.testing.assert_allclose(looped, jax_losses, rtol=1e-5)


@pytest.mark.parametrize("whole", [False, True], ids=["all spread", "one array whole"])
def test_data_may_be_spread_over_devices(whole):
    """The same looks, snapshots and params."""
    data, own = regression(), automatic(batch_size=16)
    expected, wanted = run(own, data, 1_000)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Explicit,))
    over = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    x, y = data
    spread = (jax.device_put(x, over), y if whole else jax.device_put(y, over))
    with jax.set_mesh(mesh):
        found, reports = run(own, spread, 1_000)
    assert [(r["step"], r["snapshot"]) for r in reports] == [
        (r["step"], r["snapshot"]) for r in wanted
    ]
    assert any(report["snapshot"] for report in reports)
    np.testing.assert_allclose(np.asarray(found.params), np.asarray(expected.params), rtol=1e-4)


def test_a_run_that_goes_on_with_the_other_kind_begins_anew():
    data = regression()
    manual = training.snapshots(square, every=50)
    half, _ = run(manual, data, 120)
    whole, reports = run(automatic(), data, 1_000, half)
    assert any(report["snapshot"] for report in reports)
    assert all(name.startswith("automatic_snapshots/") for name in whole.memory)
    back, reports = run(manual, data, 1_101, whole)
    assert [report["step"] for report in reports] == [1_000, 1_050, 1_100]
    assert all(name.startswith("snapshots/") for name in back.memory)


def test_samplers_of_another_mean_are_refused_before_the_first_step():
    groups = sampling.redundancy_removed(np.arange(NUM_EXAMPLES) // 2, 4)
    state = training.init(jnp.zeros(5), OPTIMIZER, groups, key=jax.random.key(0))
    for snapshots in (automatic(first=50), training.snapshots(square, first=50)):
        with pytest.raises(ValueError, match="state.sampler must be unbiased .* got GroupSampler"):
            run(snapshots, regression(), 10, state)


# When it acts -------------------------------------------------------------------------------------


def costs_of(data):
    return _costs.snapshot_costs_of(square, start(), data, num_probes=NUM_EXAMPLES)


def called(plan, state, data, step, loss=1.0):
    state = state._replace(step=jnp.int32(step), recent_loss=jnp.float32(loss))
    return plan.call(state, data)


def next_call(plan, state) -> int:
    step = plan.next_call(state)
    assert step is not None
    return step


def parts(state):
    """Names in the memory, of params and snapshots only the first."""
    names = {name.removeprefix("automatic_snapshots/") for name in state.memory}
    return names & {"0", "1", "before/0", "start_loss", "noise", "goal", "number", "loss_there"}


@pytest.fixture
def told(monkeypatch):
    """What the looks tell from now on."""
    says = {"noise": 0.3, "progress": 0.1, "margin": 0.01, "loss": 1.0}
    names = ("noise", "progress", "margin")
    monkeypatch.setattr(
        _looks,
        "noise_and_progress",
        lambda *_, **__: _looks.NoiseAndProgress(*(says[name] for name in names)),
    )
    monkeypatch.setattr(_looks, "mean_loss", lambda *_: says["loss"])
    return says


def tried(data, plan, state=None, step=4_000):
    """After two looks."""
    state, report = called(plan, start() if state is None else state, data, step)
    assert report == {"snapshot": 0}
    assert next_call(plan, state) == np.ceil(4 / 3 * step)
    assert parts(state) == {"before/0"}
    return called(plan, state, data, 2 * step)


def test_a_snapshot_is_tried_where_noise_is_surely_more_than_what_is_delayed(told):
    data, plan = regression(), automatic().plan
    state, report = tried(data, plan)
    assert report == {"snapshot": 1, "noise": 0.3, "progress": 0.1}
    assert parts(state) == {"0", "1", "start_loss", "noise", "goal", "number"}
    assert next_call(plan, state) == 8_050
    assert float(state.memory["automatic_snapshots/goal"]) == pytest.approx(0.95)


@pytest.mark.parametrize("says", [{"margin": 0.0}, {"margin": -9.0}, {"margin": np.nan}])
def test_a_snapshot_is_not_tried_where_it_is_not(told, says):
    told.update(says)
    data, plan = regression(), automatic().plan
    state, report = tried(data, plan)
    assert report == {"snapshot": 0, "noise": 0.3, "progress": 0.1}
    assert parts(state) == {"before/0"}
    waits = [next_call(plan, state) - 8_000]
    for step in (8_200, 8_500):
        state, _ = called(plan, state, data, step)
        waits.append(next_call(plan, state) - step)
    assert waits == [100, 150, 200]  # each longer by `every`


def test_params_of_before_are_those_of_a_fourth_to_three_fourths_of_all_steps(told):
    """A look that comes sooner waits, one that comes later is the first of another two."""
    told.update(margin=0.0)
    data, plan = regression(), automatic().plan
    state, _ = called(plan, start(), data, 4_000)
    early, report = called(plan, state, data, 5_200)
    assert report == {"snapshot": 0}
    assert next_call(plan, early) == 5_334
    _, report = called(plan, state, data, 5_334)
    assert "noise" in report
    _, report = called(plan, state, data, 16_000)
    assert "noise" in report
    late, report = called(plan, state, data, 16_001)
    assert report == {"snapshot": 0}
    assert next_call(plan, late) == np.ceil(4 / 3 * 16_001)


def test_what_is_delayed_is_that_of_as_many_steps_as_there_have_been(monkeypatch):
    """Twice the share by which the steps of a trial are more, times progress in so many."""
    data, plan = regression(), automatic().plan
    asked = []

    def tell(*_, delay, **__):
        asked.append(delay)
        return _looks.NoiseAndProgress(0.0, 0.0, 0.0)

    monkeypatch.setattr(_looks, "noise_and_progress", tell)
    tried(data, plan)
    share = costs_of(data).trial(50) / 50
    np.testing.assert_allclose(asked, [2 * share * 8_000 / 4_000])


def test_a_trial_that_brought_nothing_ends_and_the_next_look_is_later(told):
    data, plan = regression(), automatic().plan
    state, _ = tried(data, plan)
    for number in range(2, 5):
        told.update(loss=0.96)  # of 0.95
        step = int(state.step) + 50
        state, report = called(plan, state, data, step)
        assert report == {"snapshot": 0, "fallen": pytest.approx(-0.01, abs=1e-6)}
        assert not parts(state)
        assert next_call(plan, state) - step == 50 * number
        told.update(loss=1.0)
        state, report = tried(data, plan, state, step + 1_000)
        assert report["snapshot"] == 1


def test_snapshots_go_on_while_the_loss_is_low_and_little_is_delayed(told):
    data, plan = regression(), automatic().plan
    state, _ = tried(data, plan)
    told.update(loss=0.94)
    state, report = called(plan, state, data, 8_050, 2.0)  # the mean is of older steps too
    assert report == {"snapshot": 1, "fallen": pytest.approx(0.01, abs=1e-6)}
    told.update(loss=0.93)  # progress is not looked at: noise is still going
    state, report = called(plan, state, data, 8_100)
    assert report == {"snapshot": 1, "fallen": pytest.approx(0.02, abs=1e-6)}
    told.update(loss=9.0)
    state, report = called(plan, state, data, 8_150)
    assert report == {"snapshot": 1}  # nobody looked
    # Progress is held against the noise at the fourth, since the second, as if it went on for 16
    # times as long.
    most = 0.3 / (2 * costs_of(data).trial(50) / 50) / 16
    for factor, goes_on in ((1.01, 0), (0.99, 1)):
        told.update(loss=0.93 - factor * most)
        after, report = called(plan, state, data, 8_200)
        assert report["snapshot"] == goes_on
        assert report["progress"] == pytest.approx(16 * factor * most, rel=1e-3)
    told.update(loss=0.93 - most)
    assert called(plan, state, data, 1_000)[1]["progress"] == pytest.approx(10 * most, rel=1e-3)
    state = after
    # Where the mean training loss is above that before the first, whenever it is.
    state, report = called(plan, state, data, 8_250, 1.1)
    assert report["snapshot"] == 1
    assert set(report) == {"snapshot", "fallen"}
    told.update(loss=np.nan)
    state, report = called(plan, state, data, 8_300, 1.1)
    assert report == {"snapshot": 0, "fallen": pytest.approx(np.nan, nan_ok=True)}
    assert not parts(state)


@pytest.mark.parametrize("margin", [1.0, -1.0])
def test_looks_and_trials_that_bring_nothing_are_a_small_share_of_the_steps(told, margin):
    """All of them together, counted here from what is reported."""
    told.update(margin=margin)
    data, plan = regression(), automatic(overhead=0.02, every=7).plan
    costs = costs_of(data)
    state, spent, trials, looked = start(), 0.0, 0, 0
    for _ in range(40):
        step = next_call(plan, state)
        assert step > int(state.step) or not step
        on = "automatic_snapshots/0" in state.memory
        told.update(loss=2.0 if on else 1.0)  # it brought nothing
        spent += costs.trial(7) if on else costs.look if step else 0
        trials += on
        state, report = called(plan, state, data, step)
        spent += ("noise" in report) * costs.between
        if "noise" in report:
            looked += 1
            assert spent <= 0.4 * 0.02 * step * (1 + 1e-5)  # looks wait for longer than trials
        np.testing.assert_allclose(
            float(state.memory["automatic_snapshots/spent"]), spent, rtol=1e-5
        )
        # The step of a trial is that at which it began.
        assert spent <= 0.02 * (step - 7 * on) * (1 + 1e-5) + (0 if on or looked else np.inf)
    assert looked > 5
    assert trials > 3 if margin > 0 else trials == 0


def test_snapshots_that_end_late_cost_what_they_took(told):
    """So that the next trial is later."""
    data, plan = regression(), automatic().plan
    state, _ = tried(data, plan)
    before = float(state.memory["automatic_snapshots/spent"])
    told.update(loss=0.5)
    for step in range(8_050, 8_200, 50):
        state, _ = called(plan, state, data, step)
    told.update(loss=1.0)
    state, report = called(plan, state, data, 8_200)
    assert report["snapshot"] == 0
    spent = float(state.memory["automatic_snapshots/spent"]) - before
    np.testing.assert_allclose(spent, 4 * costs_of(data).trial(50), rtol=1e-5)


def test_there_is_no_look_before_the_first_and_before_it_can_be_afforded():
    data = regression()
    plan = automatic(first=3_000).plan
    assert plan.next_call(start()) == 3_000
    state, report = called(plan, start(), data, 3_000)
    assert report == {"snapshot": 0}
    assert parts(state) == {"before/0"}
    state, _ = called(automatic(overhead=0.01).plan, start(), data, 3_000)
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


@pytest.mark.parametrize("number", [NUM_EXAMPLES, 100])
@pytest.mark.parametrize("delay", [0.3, 3.0])
def test_noise_and_progress_are_those_of_numpy(number, delay):
    data, state = regression(), start()
    rng = np.random.default_rng(1)
    before, middle, now = (jnp.asarray(rng.normal(size=5), jnp.float32) for _ in range(3))
    x, y = (np.asarray(leaf, np.float64) for leaf in data)
    first, half, last = (
        (x @ np.asarray(params, np.float64) - y) ** 2 for params in (before, middle, now)
    )
    left = np.sqrt((1 - number / NUM_EXAMPLES) / number)
    for earlier, later in ((before, now), (now, before)):  # the loss falls, and rises
        found = _looks.noise_and_progress(
            square, state._replace(params=later), earlier, middle, data, delay=delay, errors=2.0,
            number=number, batch_size=64,
        )  # fmt: skip
        sign = 1 if earlier is before else -1
        noise, progress = first + last - 2 * half, sign * (first - last)
        ways = [noise - share * progress for share in (0, 1, delay)]
        margin = min(values.mean() - 2 * left * values.std(ddof=1) for values in ways)
        spread = max(values.std(ddof=1) for values in ways)
        for told, wanted in zip(found, (noise.mean(), progress.mean(), margin), strict=True):
            assert abs(told - wanted) < 4 * left * spread + 1e-5 * spread
    loss = _looks.mean_loss(square, before, data, 64)
    np.testing.assert_allclose(loss, first.mean(), rtol=1e-6)


def test_counted_costs():
    """By hand, in steps."""
    data = regression()
    gradient = per_example.gradient_cost(square, jnp.zeros(5), data)
    step = 4 * gradient + 4e5 + 10 * 5
    costs = _costs.snapshot_costs_of(square, start(), data, num_probes=200)
    np.testing.assert_allclose(costs.look, 12e6 / step)
    np.testing.assert_allclose(costs.between, (200 * gradient + 8e6) / step)
    np.testing.assert_allclose(costs.snapshot, (NUM_EXAMPLES * gradient + 12e6) / step)
    np.testing.assert_allclose(costs.more, (4 * gradient + 5e4 + 20 * 5) / step)
    np.testing.assert_allclose(costs.verdict, (NUM_EXAMPLES * gradient / 3 + 3e6) / step)
    trial = costs.snapshot + 50 * costs.more + costs.look + 2 * costs.verdict
    np.testing.assert_allclose(costs.trial(50), trial)


def test_where_nothing_moves_nothing_is_gained():
    """But for rounding."""
    data, state = regression(), start()
    found = _looks.noise_and_progress(
        square, state, state.params, state.params, data, delay=1.0, errors=2.0, number=100,
        batch_size=64,
    )  # fmt: skip
    assert found.noise == found.progress == 0
    assert found.margin < 0


def test_noise_is_what_it_adds_to_the_loss():
    """Of steps that come to a stationary state, over 200 pairs; and none of steps without noise."""
    x, y = (np.asarray(leaf, np.float64) for leaf in regression())
    hessian, best = 2 * x.T @ x / len(x), np.linalg.lstsq(x, y)[0]
    rng, noise = np.random.default_rng(0), 0.3
    data, state = regression(), start()
    told = []
    for _ in range(200):
        ends = [jnp.asarray(best + noise * rng.normal(size=5), jnp.float32) for _ in range(2)]
        found = _looks.noise_and_progress(
            square, state._replace(params=ends[0]), ends[1], _looks.middle(*ends), data, delay=1.0,
            errors=2.0, number=NUM_EXAMPLES, batch_size=NUM_EXAMPLES,
        )  # fmt: skip
        told.append(found.noise)
    added = noise**2 * np.trace(hessian) / 2
    np.testing.assert_allclose(np.mean(told), added, rtol=0.15)
    # Descent to the best params without noise: never more than half of the progress.
    ends = [jnp.asarray(best + part * np.ones(5), jnp.float32) for part in (1.0, 0.2)]
    found = _looks.noise_and_progress(
        square, state._replace(params=ends[1]), ends[0], _looks.middle(*ends), data, delay=1.0,
        errors=2.0, number=NUM_EXAMPLES, batch_size=64,
    )  # fmt: skip
    assert 0 < found.noise <= found.progress / 2
    assert found.margin < 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overhead": np.nan}, "overhead must be positive, got nan"),
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
