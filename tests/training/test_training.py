"""The loop: its steps, its plans, and that a resumed run is the run that was not interrupted."""

import dataclasses
import functools
import json
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import clustering, optim, per_example, sampling, training
from jaxrobust.training._copies import copy_tolerance

NUM_EXAMPLES = 48
OPTIMIZER = optax.sgd(0.05, momentum=0.9)


def loss(params, example):
    x, y = example
    hidden = jnp.tanh(x @ params["u"])
    return (hidden @ params["v"] - y) ** 2


@functools.cache
def problem(num_copies=1, noise=0.5, seed=0):
    """Params, and data of which each example is there so many times, all but the first 8."""
    rng = np.random.default_rng(seed)
    params = {"u": rng.normal(size=(5, 6)) / 2, "v": rng.normal(size=6)}
    num_distinct = 8 + (NUM_EXAMPLES - 8) // num_copies
    x = rng.normal(size=(num_distinct, 5))
    y = np.sin(x @ rng.normal(size=5)) + noise * rng.normal(size=num_distinct)
    rows = np.concatenate([np.arange(8), np.repeat(np.arange(8, num_distinct), num_copies)])
    as_float32 = lambda tree: jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)
    return as_float32(params), as_float32((x[rows], y[rows]))


def in_float64(tree):
    """For comparisons to many digits, also of params that happen to be nearly zero."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree)


def start(params, sampler=None, seed=0, optimizer=OPTIMIZER):
    sampler = sampling.uniform(NUM_EXAMPLES, 8) if sampler is None else sampler
    return training.init(params, optimizer, sampler, key=jax.random.key(seed))


def run(state, data, num_steps=30, optimizer=OPTIMIZER, **options):
    return training.train(loss, optimizer, state, data, num_steps, **options)


def assert_same(a, b):
    """Bit for bit, keys included."""
    chex.assert_trees_all_equal(*(jax.tree.map(_plain, tree) for tree in (a, b)))


def _plain(leaf):
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


SNAPSHOTS = training.snapshots(loss, first=4, every=9, batch_size=20)
PLANS: dict[str, Any] = {
    "none": None,
    "stratified": training.resample(
        loss, num_clusters=4, first=5, every=8, automatic=False, dim=16, batch_size=16
    ),
    "importance": training.resample(
        loss, first=5, every=8, plateau=1.0, cost=0.0, overhead=np.inf, dim=16, batch_size=16
    ),
    "between": training.resample(
        loss,
        first=3,
        every=4,
        plateau=0.99,
        cost=0.0,
        overhead=np.inf,
        num_probes=16,
        dim=16,
        batch_size=8,
    ),
    # Looks, strata that stay, and refreshes that wait until they can be afforded.
    "waiting": training.resample(
        loss,
        num_clusters=4,
        first=2,
        every=2,
        plateau=1.0,
        cost=1.0,
        overhead=9.0,
        num_probes=16,
        dim=16,
        batch_size=16,
    ),
    "snapshots": SNAPSHOTS.plan,
    "redundancy": training.remove_redundancy(loss, first=3, every=10, dim=16, batch_size=16),
}


# Steps --------------------------------------------------------------------------------------------


def test_steps_are_those_of_a_plain_loop(x64):
    params, data = in_float64(problem())
    state = start(params, sampling.importance(np.arange(1.0, NUM_EXAMPLES + 1), 8))
    after, losses = training.take_steps(loss, OPTIMIZER, state, data, 5)

    mean = lambda p, batch, w: jnp.mean(w * jax.vmap(loss, (None, 0))(p, batch))
    sampler_state, opt_state, wanted = state.sampler_state, OPTIMIZER.init(params), []
    for _ in range(5):
        draw, sampler_state = state.sampler.next(sampler_state)
        batch = jax.tree.map(lambda leaf, rows=draw.indices: leaf[rows], data)
        value, gradient = jax.value_and_grad(mean)(params, batch, draw.weights)
        updates, opt_state = OPTIMIZER.update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
        wanted.append(value)
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)
    chex.assert_trees_all_close(after.params, params, rtol=1e-10)
    chex.assert_trees_all_equal(after.sampler_state.step, sampler_state.step)
    assert int(after.step) == 5


def test_step_by_step_is_the_same(monkeypatch, x64):
    """How losses with convolutions are run on a CPU."""
    params, data = in_float64(problem())
    looped, losses = training.take_steps(loss, OPTIMIZER, start(params), data, 5)
    monkeypatch.setattr(per_example, "slow_in_loops", lambda loss_fn: lambda params, data: True)
    stepped, one_by_one = training.take_steps(loss, OPTIMIZER, start(params), data, 5)
    np.testing.assert_allclose(one_by_one, losses, rtol=1e-5)
    chex.assert_trees_all_close(stepped.params, looped.params, rtol=1e-10)
    chex.assert_trees_all_equal(stepped.sampler_state.step, looped.sampler_state.step)
    assert stepped.step == looped.step


def test_extras_reach_the_optimizer():
    """`scale_by_noise` with no noise scales by 1, with pure noise by 0."""
    params, data = problem()
    optimizer = optax.chain(optim.scale_by_noise(8), optax.sgd(0.1))
    for trace, moves in ((0.0, True), (1.0, False)):
        extras = lambda state, batch, w, trace=trace: {"trace": trace, "signal": 1.0 - trace}
        state = start(params, optimizer=optimizer)
        after, _ = training.take_steps(loss, optimizer, state, data, 2, extras=extras)
        assert bool((after.params["u"] != params["u"]).any()) == moves


def test_neither_refresh_nor_chunk_compiles_anew():
    params, data = problem()
    traces = []

    def counted(p, example):
        traces.append(1)
        return loss(p, example)

    plan = training.resample(
        counted, num_clusters=4, first=4, every=4, automatic=False, dim=16, batch_size=16
    )
    train = functools.partial(training.train, counted, OPTIMIZER, plan=plan, log_every=4)
    state, _ = train(start(params), data, 12)
    number = len(traces)
    state, _ = train(state, data, 60)
    train(start(params, seed=1), data, 12)
    assert len(traces) == number


# Resuming -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=() if name in ("none", "stratified", "redundancy") else pytest.mark.slow
        )
        for name in PLANS
    ],
)
def test_resumed_run_is_the_same(name, tmp_path):
    params, data = problem(num_copies=5)
    plan = PLANS[name]
    whole, _ = run(start(params), data, plan=plan)
    run(start(params), data, 17, plan=plan, checkpoints=tmp_path, checkpoint_every=13)
    for step in (13, 17):  # before and after the last refresh
        # Of another key: all that matters comes from the file.
        state = training.restore(tmp_path, start(params, seed=5), step=step)
        assert int(state.step) == step
        resumed, _ = run(state, data, plan=plan)
        assert_same(resumed, whole)
        assert type(resumed.sampler) is type(whole.sampler)


def test_params_of_the_last_look_are_kept_while_draws_are_uniform():
    """So that looks ahead are run as they are: at the first look there is nothing to compare."""
    params, data = problem()
    state, found = reports(PLANS["between"], data, params, 30)
    looked = [record["step"] for record in found if "gain_between" in record]
    assert looked
    assert "gain_between" not in found[0]
    kept = [name for name in state.memory if "before" in name]
    assert len(kept) == (2 if sampling_is_uniform(state) else 0)
    # Of other params, or of a time too long ago, nothing is said.
    from jaxrobust.training import _looks

    last = _looks.remembered(start({"u": params["u"]}))
    assert _looks.gain_between(loss, start(params), last, data, number=8, batch_size=4) is None


def sampling_is_uniform(state):
    return state.sampler.running is None and len(state.sampler.sizes) == 1


def test_looking_does_not_change_the_trajectory(tmp_path):
    params, data = problem()
    plan = PLANS["importance"]
    plain, _ = run(start(params), data, plan=plan)
    watched, records = run(
        start(params),
        data,
        plan=plan,
        evaluate=lambda p: {"norm": jnp.linalg.norm(p["u"])},
        evaluate_every=7,
        log_every=3,
        checkpoints=tmp_path / "c",
        checkpoint_every=4,
        log=tmp_path / "logs" / "run.jsonl",
        progress=True,
    )
    assert_same(watched, plain)
    lines = (tmp_path / "logs" / "run.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == records
    events = {}
    for record in records:
        events.setdefault(record["event"], []).append(record["step"])
    assert events["evaluate"] == [7, 14, 21, 28, 30]
    assert events["save"] == [4, 8, 12, 16, 20, 24, 28, 30]
    assert events["refresh"] == [5, 13, 21, 29]
    assert events["train"][-1] == 30
    seconds = [record["seconds"] for record in records]
    assert seconds == sorted(seconds)


def test_training_record_is_the_mean_loss():
    params, data = problem()
    _, losses = training.take_steps(loss, OPTIMIZER, start(params), data, 6)
    _, records = run(start(params), data, 6, log_every=4)
    found = [record["loss"] for record in records]
    np.testing.assert_allclose(found, [losses[:4].mean(), losses[4:].mean()], rtol=1e-6)


@pytest.mark.parametrize("key", [jax.random.PRNGKey(3), jax.random.key(3, impl="rbg")])
def test_any_kind_of_key(key, tmp_path):
    params, data = problem()
    state = training.init(params, OPTIMIZER, sampling.uniform(NUM_EXAMPLES, 8), key=key)
    training.save(tmp_path, run(state, data, 4)[0])
    resumed = training.restore(tmp_path, state)
    assert_same(run(resumed, data, 9)[0], run(state, data, 9)[0])


def test_checkpoint_of_something_else(tmp_path):
    params, _ = problem()
    with pytest.raises(FileNotFoundError, match="does not exist"):
        training.restore(tmp_path / "none", start(params))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"has not a checkpoint; it has steps \[\]"):
        training.restore(tmp_path / "empty", start(params))
    training.save(tmp_path / "c", start(params))
    with pytest.raises(FileNotFoundError, match=r"has not step 3; it has steps \[0\]"):
        training.restore(tmp_path / "c", start(params), step=3)
    wider = params | {"u": jnp.ones((5, 7))}
    with pytest.raises(
        ValueError, match=r"another model.*params has \['u'\] float32\[5, 6\] there"
    ):
        training.restore(tmp_path / "c", start(wider))
    more = params | {"w": jnp.ones(2)}
    with pytest.raises(ValueError, match=r"no such leaf there, \['w'\] float32\[2\] in the"):
        training.restore(tmp_path / "c", start(more))
    with pytest.raises(ValueError, match="opt_state has"):
        training.restore(tmp_path / "c", start(params, optimizer=optax.adam(0.1)))
    with pytest.raises(ValueError, match="another sampler: batch_size is 8 there, 4 in"):
        training.restore(tmp_path / "c", start(params, sampling.uniform(NUM_EXAMPLES, 4)))
    with pytest.raises(ValueError, match="num_examples is 48 there, 50 in"):
        training.restore(tmp_path / "c", start(params, sampling.uniform(50, 8)))
    other = sampling.uniform(NUM_EXAMPLES, 8, replacement=True)
    with pytest.raises(ValueError, match="replacement is False there, True in"):
        training.restore(tmp_path / "c", start(params, other))


def test_checkpoint_of_a_sampler_with_other_values(tmp_path):
    params, _ = problem()
    labels = np.arange(NUM_EXAMPLES) % 4
    scores = 1.0 + np.arange(NUM_EXAMPLES)
    uneven = np.minimum(labels, 1)
    pairs = {
        "shares": [sampling.stratified(uneven, 8, allocation=a) for a in ("equal", "proportional")],
        "members": [sampling.stratified(of, 8) for of in (labels, labels[::-1])],
        "running": [sampling.importance(of, 8) for of in (scores, scores[::-1])],
    }
    for name, (one, other) in pairs.items():
        folder = tmp_path / name
        training.save(folder, start(params, one))
        assert_same(training.restore(folder, start(params, one)), start(params, one))
        with pytest.raises(ValueError, match=rf"another sampler: it has other values of .*{name}"):
            training.restore(folder, start(params, other))
        kept = training.restore(folder, start(params, other), check_sampler=False)
        assert_same(kept, start(params, one))
    # One example in the place of another, among many.
    many = [np.r_[np.arange(200_000) % 2], np.r_[np.arange(200_000) % 2]]
    many[1][-2:] = many[1][-2:][::-1]
    one, other = (start(params, sampling.stratified(labels, 8)) for labels in many)
    training.save(tmp_path / "many", one)
    with pytest.raises(ValueError, match="it has other values of .*members"):
        training.restore(tmp_path / "many", other)
    # As another device may round it.
    almost = dataclasses.replace(pairs["shares"][0], shares=pairs["shares"][0].shares * (1 + 1e-6))
    training.restore(tmp_path / "shares", start(params, almost))


def test_checkpoint_of_another_kind_of_sampler(tmp_path):
    """Without a plan it is a mistake; a plan may have chosen it."""
    params, data = problem()
    labels = jnp.arange(NUM_EXAMPLES) % 4
    strata = lambda number: sampling.stratified(labels % number, 8, num_clusters=number)
    groups = sampling.redundancy_removed(clustering.duplicates(data[0], tolerance=1e-3), 8)
    training.save(tmp_path / "c", start(params, strata(4)))
    with pytest.raises(ValueError, match="another sampler: kind is Sampler there, GroupSampler in"):
        training.restore(tmp_path / "c", start(params, groups))
    with pytest.raises(ValueError, match=r"it has .*members int32\[48\] there, .*starts int32"):
        training.restore(tmp_path / "c", start(params))
    with pytest.raises(ValueError, match=r"it has .*starts int32\[4\] there, .*starts int32\[2\]"):
        training.restore(tmp_path / "c", start(params, strata(2)))
    assert_same(
        training.restore(tmp_path / "c", start(params, strata(4))), start(params, strata(4))
    )

    plan = training.remove_redundancy(loss, dim=64, tolerance=1e-3)
    params, data = problem(num_copies=5)
    state, _ = run(start(params), data, 2, plan=plan)
    assert isinstance(state.sampler, sampling.GroupSampler)
    training.save(tmp_path / "p", state)
    assert_same(training.restore(tmp_path / "p", start(params)), state)


@pytest.mark.parametrize("name", ["snapshots", "stratified"])
def test_checkpoint_of_a_plan_that_did_not_choose_the_sampler(name, tmp_path):
    """Snapshots never do, a refresh does; until then the sampler must be that of the template."""
    params, data = problem()
    labels = jnp.arange(NUM_EXAMPLES) % 4
    strata = sampling.stratified(labels, 8, num_clusters=4)
    optimizer, options = OPTIMIZER, {"plan": PLANS[name]}
    if name == "snapshots":
        optimizer = optax.chain(optim.svrg(), OPTIMIZER)
        options |= {"extras": SNAPSHOTS.extras}
    begin = start(params, strata, optimizer=optimizer)
    state, _ = run(begin, data, 4 if name == "stratified" else 6, optimizer=optimizer, **options)
    training.save(tmp_path, state)
    assert_same(training.restore(tmp_path, begin), state)
    with pytest.raises(ValueError, match="the checkpoint is of another sampler"):
        training.restore(tmp_path, start(params, optimizer=optimizer))


def test_snapshots_are_svrg():
    """The steps of a plain loop with `sampling.svrg`, over two snapshots."""
    params, data = problem()
    optimizer = optax.chain(optim.svrg(), OPTIMIZER)
    plan, extras = SNAPSHOTS
    plan = plan._replace(next_call=lambda state: int(state.memory.get("snapshots/next_call", 0)))
    state = start(params, optimizer=optimizer)
    after, records = run(state, data, 12, optimizer=optimizer, plan=plan, extras=extras)
    assert [record["step"] for record in records if record["event"] == "refresh"] == [0, 9]

    svrg = sampling.svrg(loss)
    sampler_state, opt_state = state.sampler_state, OPTIMIZER.init(params)
    for step in range(12):
        if step % 9 == 0:
            snapshot = svrg.snapshot(params, data)
        draw, sampler_state = state.sampler.next(sampler_state)
        batch = jax.tree.map(lambda leaf, rows=draw.indices: leaf[rows], data)
        gradient = svrg.gradient(params, batch, draw.weights, snapshot)
        updates, opt_state = OPTIMIZER.update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
    chex.assert_trees_all_close(after.params, params, rtol=1e-4, atol=1e-6)


# Plans --------------------------------------------------------------------------------------------


def test_redundancy_is_found_and_removed():
    params, data = problem(num_copies=5)
    plan = training.remove_redundancy(loss, dim=64, tolerance=1e-3)
    state, records = run(start(params), data, 2, plan=plan)
    (report,) = [record for record in records if record["event"] == "refresh"]
    assert isinstance(state.sampler, sampling.GroupSampler)
    assert report["num_groups"] == 16
    np.testing.assert_allclose(report["redundancy"], 1 - 16 / 48)
    assert state.sampler.batch_size == 8


def neighbours(num_groups, copies, noise, singles, *, dim=12, seed=0):
    """Groups of noisy copies, and points without copies."""
    rng = np.random.default_rng(seed)
    points = np.repeat(rng.normal(size=(num_groups, dim)), copies, axis=0)
    points += noise * rng.normal(size=points.shape)
    return jnp.asarray(rng.permutation(np.concatenate([points, rng.normal(size=(singles, dim))])))


def nearest(points):
    """Cosine distance of every point to its nearest other, in float64."""
    x = np.asarray(points, np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return np.sort((1 - x @ x.T) + 9 * np.eye(len(x)), axis=1)[:, 0]


@pytest.mark.parametrize("noise", [0.0, 1e-3, 0.05])
@pytest.mark.parametrize("singles", [20, 200])
def test_tolerance_is_in_the_gap(noise, singles):
    """Between the nearest neighbours of copies and those of the others."""
    points = neighbours(15, 10, noise, singles)
    distances = np.sort(nearest(points))
    assert distances[149] < float(copy_tolerance(points)) < distances[150]


@pytest.mark.parametrize("seed", range(5))
def test_no_gap_without_copies(seed):
    """Points that are merely alike: from a few clusters of their own, or from none."""
    assert float(copy_tolerance(neighbours(0, 0, 0, 300, seed=seed))) == 0
    assert float(copy_tolerance(neighbours(30, 10, 1.0, 0, seed=seed))) == 0


@pytest.mark.parametrize("noise", [0.5, 1.0])
def test_compact_classes_are_no_copies(noise):
    """In many dimensions all members are about as far apart: a gap, but at no small distance."""
    points = neighbours(10, 100, noise, 0, dim=256)
    assert np.median(nearest(points)) > 0.1
    assert float(copy_tolerance(points)) == 0
    assert float(copy_tolerance(neighbours(10, 100, 0.05, 0, dim=256))) > 0


def test_tolerance_without_neighbours():
    """Zero points do not count; neither do too few others."""
    points = neighbours(15, 10, 1e-3, 50)
    with_zeros = jnp.concatenate([points, jnp.zeros((40, 12))])
    np.testing.assert_allclose(copy_tolerance(with_zeros), copy_tolerance(points), rtol=1e-4)
    assert float(copy_tolerance(jnp.zeros((10, 3)))) == 0
    assert float(copy_tolerance(points[:3])) == 0


@pytest.mark.parametrize(("groups", "copies", "singles"), [(20, 30, 0), (150, 4, 0), (3, 30, 500)])
def test_tolerance_where_all_have_copies_or_few(groups, copies, singles):
    """Edges of the spanning tree lead from group to group as well."""
    points = neighbours(groups, copies, 1e-3, singles, dim=30)
    limit = float(copy_tolerance(points))
    x = np.asarray(points, np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    distances = np.sort((1 - x @ x.T)[np.triu_indices(len(x), 1)])
    inside = groups * copies * (copies - 1) // 2
    assert distances[inside - 1] < limit < distances[inside]


def test_small_groups_are_found_as_well():
    """Pairs: hardly any two of one are among the probes, but enough to tell that there are some."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(np.repeat(rng.normal(size=(200, 5)), 2, axis=0), jnp.float32)
    data = (x, jnp.asarray(np.repeat(rng.normal(size=200), 2), jnp.float32))
    params, _ = problem()
    plan = training.remove_redundancy(loss, dim=64, tolerance=1e-4, num_probes=60, least=0.03)
    state, report = plan.call(start(params, sampling.uniform(400, 8)), data)
    assert report["num_groups"] == 200
    np.testing.assert_array_equal(np.asarray(state.sampler.sizes)[:200], 2)


def test_examples_without_a_gradient_are_no_copies_of_each_other():
    params, (x, y) = problem(num_copies=5)
    hinge = lambda params, example: jnp.maximum(loss(params, example) - 1, 0)
    gone = np.asarray(jax.vmap(hinge, (None, 0))(params, (x, y))) == 0
    assert 5 < gone.sum() < 43
    plan = training.remove_redundancy(hinge, dim=64, tolerance=1e-3, num_probes=NUM_EXAMPLES)
    state, report = plan.call(start(params), (x, y))
    signals = len(np.unique(np.asarray(x)[~gone], axis=0))
    assert report["num_groups"] == gone.sum() + signals


def test_redundancy_is_found_without_a_tolerance():
    params, data = problem(num_copies=5)
    plan = training.remove_redundancy(loss, dim=64)
    state, (report, *_) = run(start(params), data, 1, plan=plan)
    assert report["num_groups"] == 16
    assert isinstance(state.sampler, sampling.GroupSampler)


def test_copies_are_found_by_the_last_layer_alone():
    """The gradients of the first are not asked for; training goes on with both."""
    params, data = problem(num_copies=5)
    late = lambda params, example: loss(
        {**params, "u": jax.lax.stop_gradient(params["u"])}, example
    )
    found = [
        run(start(params), data, 1, plan=training.remove_redundancy(by, dim=64))[0].sampler
        for by in (loss, late)
    ]
    assert isinstance(found[0], sampling.GroupSampler)
    assert_same(*found)
    jaxpr = str(jax.make_jaxpr(lambda p: per_example.sketches(late, key=jax.random.key(0), dim=64)(
        p, data))(params))  # fmt: skip
    both = str(jax.make_jaxpr(lambda p: per_example.sketches(loss, key=jax.random.key(0), dim=64)(
        p, data))(params))  # fmt: skip
    assert jaxpr.count("dot_general") < both.count("dot_general")


def test_without_redundancy_nothing_changes():
    """The same trajectory, and the data are not read."""
    params, data = problem()
    plain, _ = run(start(params), data, 6)
    plan = training.remove_redundancy(loss, dim=64, tolerance=1e-3)
    state, records = run(start(params), data, 6, plan=plan)
    assert_same(state._replace(memory={}), plain)
    (report,) = [record for record in records if record["event"] == "refresh"]
    assert report["redundancy"] == 0
    assert "num_groups" not in report


def reports(plan, data, params, num_steps):
    state, records = run(start(params), data, num_steps, plan=plan)
    return state, [record for record in records if record["event"] == "refresh"]


def test_refreshes_that_cannot_pay_are_not_made():
    """Twice as long between two looks each time, and nothing is sketched."""
    params, data = problem()
    plan = training.resample(
        loss, num_clusters=4, first=2, every=4, plateau=1.0, cost=1e6, overhead=np.inf, dim=16,
        batch_size=16,
    )  # fmt: skip
    state, found = reports(plan, data, params, 60)
    assert [record["step"] for record in found] == [2, 6, 14, 30]
    for record in found:
        assert record["sampler"] == "uniform"
        assert not {"ratio", "noise_share", "fall"} & set(record)
    assert state.sampler.sizes.size == 1


def test_recent_loss_is_the_mean_of_the_last_losses():
    """The plain mean at first, then one that forgets; the same for any length of a call."""
    params, data = problem()
    state, losses = training.take_steps(loss, OPTIMIZER, start(params), data, 250)
    wanted = 0.0
    for step, value in enumerate(np.asarray(losses, np.float64)):
        wanted += (value - wanted) / min(step + 1, 100)
    np.testing.assert_allclose(float(state.recent_loss), wanted, rtol=1e-5)
    short, _ = training.take_steps(loss, OPTIMIZER, start(params), data, 60)
    np.testing.assert_allclose(float(short.recent_loss), np.mean(losses[:60]), rtol=1e-5)
    again, _ = training.take_steps(loss, OPTIMIZER, short, data, 190)
    assert float(again.recent_loss) == float(state.recent_loss)


def test_sampling_stays_uniform_while_the_loss_falls(monkeypatch):
    """Looked at every 8 steps by the mean of the training losses; nothing is sketched before."""
    params, data = problem()
    options: dict[str, Any] = {"first": 16, "every": 8, "cost": 0.0, "dim": 16, "batch_size": 16}
    options["overhead"] = np.inf
    plan = training.resample(loss, plateau=0.0, **options)
    state, found = reports(plan, data, params, 42)
    assert [record["step"] for record in found] == [16, 24, 32, 40]
    assert all(record["sampler"] == "uniform" and "noise_share" not in record for record in found)
    assert state.sampler.running is None
    # Of the plain run, which is the same.
    seen = [float(run(start(params), data, r["step"])[0].recent_loss) for r in found]
    assert "fall" not in found[0]
    falls = -np.diff(seen) / seen[:-1]
    np.testing.assert_allclose([record["fall"] for record in found[1:]], falls, rtol=1e-4)
    assert np.all(falls > 0)
    # Where the largest of these falls counts as a plateau, the scores are used from then on, if
    # the loss is lower between two looks by two standard errors.
    from jaxrobust.training import _looks

    plan = training.resample(loss, plateau=2 * float(np.max(falls)), **options)
    for gain, sampler in ((2.1, "importance"), (1.9, "uniform"), (-3.0, "uniform")):
        monkeypatch.setattr(_looks, "gain_between", lambda *_, gain=gain, **__: (gain, 1.0))
        _, found = reports(plan, data, params, 26)
        assert [record["sampler"] for record in found] == ["uniform", sampler]
        assert "fall" in found[1]
        assert found[1]["gain_between"] == gain
        assert ("noise_share" in found[1]) == (gain > 2)


def test_the_loss_in_the_middle_tells_noise_from_slow_progress():
    """Of regression whose best loss is not 0: noise in the end of SGD, none in gradient descent."""
    from jaxrobust.training import _looks

    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 5))
    y = x @ rng.normal(size=5) * 4 + rng.normal(size=400)
    data = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (x, y))
    square = lambda params, example: (example[0] @ params - example[1]) ** 2
    found = {}
    for size, steps in ((4, 200), (400, 8)):
        sampler = sampling.uniform(400, size)
        state = training.init(jnp.zeros(5), optax.sgd(0.1), sampler, key=jax.random.key(0))
        state, _ = training.take_steps(square, optax.sgd(0.1), state, data, steps)
        last = _looks.remembered(state)
        assert _looks.gain_between(square, state, state, data, number=9, batch_size=5) is None
        state, _ = training.take_steps(square, optax.sgd(0.1), last, data, steps)
        options = {"number": 400, "batch_size": 64}  # all, in batches of which the last is smaller
        told = _looks.gain_between(square, state, last, data, **options)
        assert told is not None
        gain, error = told
        middle = (np.asarray(state.params, float) + np.asarray(last.params, float)) / 2
        at = lambda w: (x @ np.asarray(w, float) - y) ** 2
        gains = at(state.params) - at(middle)
        # A difference of losses of about 1, of which gains are a hundredth.
        np.testing.assert_allclose(gain, gains.mean(), atol=1e-5)
        assert error == 0  # these are all
        some = _looks.gain_between(square, state, last, data, number=100, batch_size=64)
        assert some is not None
        # Of 100 of 400; their spread is that of all but for a tenth or two.
        expected = gains.std(ddof=1) / 10 * np.sqrt(3 / 4)
        np.testing.assert_allclose(some[1], expected, rtol=0.4)
        assert abs(some[0] - gain) < 4 * some[1]
        found[size] = gain / (gains.std(ddof=1) / 20)
    assert found[4] > 3
    assert found[400] < -3


@pytest.mark.parametrize("scale", [1.0, 0.0, -1.0])
def test_a_fall_is_of_losses_that_were_seen(scale):
    """Before the first step there is none, and of losses that are not above 0 no share."""
    params, data = problem()
    scaled = lambda params, example: scale * loss(params, example)
    plan = training.resample(scaled, first=0, every=8, cost=0.0, overhead=np.inf, dim=16)
    state = training.init(params, OPTIMIZER, start(params).sampler, key=jax.random.key(0))
    assert np.isnan(state.recent_loss)
    rate = optax.sgd(0.001)
    _, found = training.train(
        scaled, rate, state._replace(opt_state=rate.init(params)), data, 24, plan=plan
    )
    looks = [record for record in found if record["event"] == "refresh"]
    assert [record["step"] for record in looks] == [0, 8, 16]
    assert "fall" not in looks[0]
    assert "fall" not in looks[1]
    assert ("fall" in looks[2]) == (scale > 0)


def test_strata_survive_a_search_for_copies_that_finds_none():
    params, data = problem()
    plan = training.combined(
        PLANS["stratified"], training.remove_redundancy(loss, first=7, dim=64, tolerance=1e-3)
    )
    state, records = run(start(params), data, 9, plan=plan)
    assert any("redundancy/redundancy" in record for record in records)
    assert state.sampler.sizes.size == 4


def test_what_a_plan_remembers_compiles_nothing():
    params, data = problem()
    traced = []

    def counted(params, example):
        traced.append(1)
        return loss(params, example)

    state = start(params)
    for memory in ({}, {"a/b": np.float32(1)}, {"a/b": np.float32(2), "a/c": np.int32(3)}):
        before = len(traced)
        state, _ = training.take_steps(counted, OPTIMIZER, state._replace(memory=memory), data, 3)
        assert state.memory == memory
        assert len(traced) == before or not memory


def test_impossible_strata_are_told_before_the_first_step():
    params, data = problem()
    for options, message in (
        ({"num_clusters": 64}, "num_clusters must be at most the 48 examples, got 64"),
        ({"num_clusters": 16, "allocation": "equal"}, "at most the batch size, 8, with"),
    ):
        plan = training.resample(loss, **options)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=message):
            run(start(params), data, 5, plan=plan)


def test_back_to_uniform_where_the_ratio_is_no_gain(monkeypatch):
    """Clusters that are worse than uniform draws are not used."""
    params, data = problem()
    worst = lambda points, num_clusters, **options: clustering.Clustering(
        jnp.asarray(np.arange(NUM_EXAMPLES) > 0, jnp.int32),  # one against all the others
        jnp.asarray([1, NUM_EXAMPLES - 1]),
        *([jnp.ones(num_clusters)] * 2),
        *([jnp.zeros(())] * 3),  # type: ignore[arg-type]
    )
    from jaxrobust.training import _made

    monkeypatch.setattr(_made.clustering, "fit", worst)
    options = {"num_clusters": 2, "allocation": "equal", "cost": 0.0, "dim": 16, "plateau": 1.0}
    options["overhead"] = np.inf
    plan = training.resample(loss, first=2, every=4, batch_size=16, **options)
    _, found = reports(plan, data, params, 30)
    assert all(record["ratio"] > 1 and record["sampler"] == "uniform" for record in found)
    assert [record["step"] for record in found] == [2, 6, 14]
    kept = training.resample(loss, first=2, every=4, batch_size=16, automatic=False, **options)
    _, found = reports(kept, data, params, 12)
    assert [record["sampler"] for record in found] == ["stratified"] * 3


def test_counted_costs():
    """By hand, in steps; a small model's gradients are cheap, and clusters of them are not."""
    from jaxrobust.training import _costs

    params, data = problem()  # 36 params, of which 30 are one matrix
    state = start(params)
    options: dict[str, Any] = {"dim": 16, "max_passes": 3, "num_probes": 40, "cost": None}
    gradient = per_example.gradient_cost(loss, params, data)
    assert gradient == 3 * (30 + 6)
    sketch = per_example.sketch_cost(loss, params, data, 16)
    step = 8 * gradient + 4e5 + 10 * 36
    scores = _costs.costs_of(loss, state, data, num_clusters=None, **options)
    np.testing.assert_allclose(scores.look, 12e6 / step)
    np.testing.assert_allclose(scores.between, (40 * gradient * 2 / 3 + 12e6) / step)
    np.testing.assert_allclose(scores.probes, (40 * sketch + 40e6) / step)
    judged = 40 * sketch + 200e6  # by other sketches, of as many as there are probes
    np.testing.assert_allclose(scores.refresh, (48 * sketch + 80e6 + judged) / step)
    clusters = _costs.costs_of(loss, state, data, num_clusters=6, **options)
    fit = 48 * (6 * 16 * 5 + 3 * 1e4)
    judged = 8 * sketch  # 8 of each of 6 clusters, instead of 40
    np.testing.assert_allclose(clusters.refresh - scores.refresh, (fit + judged) / step)
    halves = 2 * 20 * (6 * 16 * 4 + 2 * 1e4 + 6 * 16 + 1e4)  # clusters of each, and the others
    np.testing.assert_allclose(clusters.probes - scores.probes, halves / step)
    # A large set: the clusters of a sample of 4,096 come first.
    number = 20_000
    large = _costs._fit(number, 6, 16, 3)
    passes = number * (6 * 16 * 5 + 3 * 1e4)
    sample = 4_096 * (6 * 16 * 18 + 16 * 1e4)
    np.testing.assert_allclose(large, passes + sample)
    options["cost"] = 2.0
    told = _costs.costs_of(loss, state, data, num_clusters=6, **options)
    assert told.refresh == 2.0 * 48 / 8


def many(number=2_048, seed=0):
    """Data whose gradients are of very different sizes, and params."""
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=(number, 5)) * rng.gamma(0.5, size=(number, 1)), jnp.float32)
    return problem()[0], (x, jnp.asarray(rng.normal(size=number), jnp.float32))


@pytest.mark.parametrize("plateau", [0.0, 0.5, 1.0])
def test_looks_that_lead_to_nothing_are_a_small_share_of_the_steps(plateau, monkeypatch):
    """After the first, each waits until it and all before are 2 % of the steps."""
    from jaxrobust.training import _costs, _looks

    # On a plateau with 0.5, and not with 0.
    fall = _looks.fall
    monkeypatch.setattr(_looks, "fall", lambda state, every: (fall(state, every)[0], 0.3))
    monkeypatch.setattr(_looks, "gain_between", lambda *args, **options: (1.0, 0.1))
    params, data = many()
    plan = training.resample(
        loss, num_clusters=4, first=0, every=1, plateau=plateau, cost=0.003, num_probes=64, dim=16,
        overhead=0.02,
    )  # fmt: skip
    monkeypatch.setattr(_looks, "noise_share", lambda *args: 0.0)  # so that no refresh pays
    state = start(params, sampling.uniform(2_048, 8))
    costs = _costs.costs_of(
        loss, state, data, num_probes=64, num_clusters=4, dim=16, max_passes=3, cost=0.003
    )
    assert costs.refresh < 1
    spent, sketched = 0.0, 0
    for call in range(12):
        step: Any = plan.next_call(state)
        state, report = plan.call(state._replace(step=jnp.int32(step)), data)
        assert report["sampler"] == "uniform"
        spent += costs.look + ("noise_share" in report) * costs.probes
        spent += ("gain_between" in report) * costs.between
        sketched += "noise_share" in report
        np.testing.assert_allclose(float(state.memory["resample/spent"]), spent, rtol=1e-6)
        assert call == 0 or spent <= 0.02 * step * (1 + 1e-5)
    assert sketched >= 2 if plateau > 0.3 else sketched == 0


def test_a_refresh_waits_until_it_can_be_afforded(monkeypatch):
    """It promises much and does not keep it: 2,048 examples of 2 gradients, in batches of 8."""
    params, data = many()
    from jaxrobust.training import _costs, _looks, _resample

    monkeypatch.setattr(_looks, "ratio_ahead", lambda *args, **options: 0.0)
    monkeypatch.setattr(_looks, "ratio", lambda *args: 2.0)
    assert _resample.looks is _looks
    plan = training.resample(
        loss, num_clusters=4, first=0, every=1_000, plateau=1.0, cost=2.0, overhead=0.008, dim=16,
        num_probes=64,
    )  # fmt: skip
    state = start(params, sampling.uniform(2_048, 8))
    costs = _costs.costs_of(
        loss, state, data, num_probes=64, num_clusters=4, dim=16, max_passes=3, cost=2.0
    )
    assert costs.refresh == 2 * 2_048 / 8
    assert costs.look < 100  # steps
    report: Any
    state, report = plan.call(state._replace(step=jnp.int32(60_000)), data)
    assert report == {"sampler": "uniform"}
    due: Any = plan.next_call(state)
    assert due == pytest.approx((2 * costs.look + costs.probes + costs.refresh) / 0.008, abs=1)
    assert due > 64_000
    state, report = plan.call(state._replace(step=jnp.int32(due)), data)
    assert float(report["ratio"]) >= 2.0
    assert report["sampler"] == "uniform"
    spent = float(state.memory["resample/spent"])
    assert spent == pytest.approx(2 * costs.look + costs.probes + costs.refresh, rel=1e-5)
    assert plan.next_call(state) == pytest.approx((spent + costs.look) / 0.008, abs=1)


@pytest.mark.parametrize("every", [50, 400])
@pytest.mark.parametrize("ratio_now", [0.5, 1.5])
@pytest.mark.parametrize("promised", [0.01, 0.6])
def test_all_that_a_plan_does_is_a_small_share_of_the_steps(
    every, ratio_now, promised, monkeypatch
):
    """However much refreshes promise, and whether strata become stale or not; and it acts.

    Strata that stay good are looked at with half of the overhead, so that the other half pays for a
    refresh of 128 steps each 5,100 steps or so; the first one has all of it.
    """
    from jaxrobust.training import _costs, _looks

    params, data = many()
    monkeypatch.setattr(_looks, "noise_share", lambda *args: 1.0)
    monkeypatch.setattr(_looks, "ratio_ahead", lambda *args, **options: promised)
    # Of every refresh better than what the one before has become.
    monkeypatch.setattr(_looks, "ratio_of_some", lambda *args: ratio_now)
    ratios = iter([promised, *(r for _ in range(99) for r in (promised, 3.0))])
    monkeypatch.setattr(_looks, "ratio", lambda *args: next(ratios))
    plan = training.resample(
        loss, num_clusters=4, first=0, every=every, plateau=1.0, cost=0.5, overhead=0.05, dim=16,
        num_probes=64,
    )  # fmt: skip
    state = start(params, sampling.uniform(2_048, 8))
    costs = _costs.costs_of(
        loss, state, data, num_probes=64, num_clusters=4, dim=16, max_passes=3, cost=0.5
    )
    assert costs.refresh == 128
    events, spent = [], 0.0
    while int(state.step) < 100_000:
        step: Any = plan.next_call(state)
        assert step > int(state.step) or not events
        had = state.sampler.sizes.size > 1
        state, report = plan.call(state._replace(step=jnp.int32(step)), data)
        now = float(state.memory["resample/spent"])
        assert now >= spent + costs.refresh * ("ratio" in report)  # whatever it saves
        assert now <= 0.05 * step + 3 * costs.look  # stops that find that nothing is affordable
        spent = now
        events.append((had, "ratio_now" in report, "ratio" in report, report.get("sampler")))
    refreshes = sum(made for _, _, made, _ in events)
    most = 100_000 * 0.05 / costs.refresh
    assert 0.2 * most <= refreshes <= most
    assert (False, False, True, "stratified") in events
    kept = [event for event in events if event[0] and not event[2] and event[3] != "uniform"]
    given_up = [event for event in events if event[0] and event[3] == "uniform"]
    if ratio_now > 1:
        assert given_up
        assert not [event for event in kept if event[1]]  # stale ones do not stay
    else:
        assert not given_up
        # They stay while the next ones cannot be afforded, looked at and not.
        assert [event for event in kept if event[1]]
        assert [event for event in kept if not event[1]]


@pytest.mark.parametrize("num_clusters", [None, 4])
def test_a_loss_that_rises_ends_strata(num_clusters):
    """At the next call, whatever that was for; a rise by less than the plateau does not."""
    params, data = many()
    plan = training.resample(
        loss, num_clusters=num_clusters, first=0, every=8, plateau=1.0, cost=0.0, overhead=np.inf,
        dim=16,
    )  # fmt: skip
    state = start(params, sampling.uniform(2_048, 8))._replace(recent_loss=jnp.float32(1.0))
    made, _ = plan.call(state, data)
    assert not sampling_is_uniform(made)
    later = made._replace(step=jnp.int32(8))
    rising, report = plan.call(later._replace(recent_loss=jnp.float32(2.1)), data)
    assert sampling_is_uniform(rising)
    assert report == {"sampler": "uniform", "rise": pytest.approx(1.1)}
    for value in (1.9, np.nan, -1.0):
        _, report = plan.call(later._replace(recent_loss=jnp.float32(value)), data)
        assert "rise" not in report


@pytest.mark.parametrize("every", [20, 450, 5_000])
def test_from_uniform_draws_on_a_plan_gets_to_its_refresh(every, monkeypatch):
    """However short the time between two looks is beside what a look costs."""
    from jaxrobust.training import _looks

    params, data = many()
    monkeypatch.setattr(_looks, "noise_share", lambda *args: 1.0)
    monkeypatch.setattr(_looks, "ratio_ahead", lambda *args, **options: 0.1)
    monkeypatch.setattr(_looks, "gain_between", lambda *args, **options: (1.0, 0.1))
    plan = training.resample(
        loss, num_clusters=4, first=0, every=every, plateau=0.5, cost=0.5, overhead=0.03, dim=16,
        num_probes=64,
    )  # fmt: skip
    state = start(params, sampling.uniform(2_048, 8))._replace(recent_loss=jnp.float32(1.0))
    for _ in range(6):
        step: Any = plan.next_call(state)
        state, report = plan.call(state._replace(step=jnp.int32(step)), data)
        if "ratio" in report:
            break
    assert "ratio" in report
    assert int(state.step) < 40_000 + 2 * every


@pytest.mark.parametrize("allocation", ["equal", "proportional", "neyman", None])
def test_the_ratio_ahead_is_about_that_of_the_refresh(allocation):
    """From a quarter of the examples, of which those held out promise rather too little."""
    params, data = many()
    options: dict[str, Any] = {"first": 0, "plateau": 1.0, "cost": 0.0, "dim": 64}
    if allocation is not None:
        options |= {"num_clusters": 4, "allocation": allocation}
    state = start(params, sampling.uniform(2_048, 32))
    looks = training.resample(loss, overhead=np.inf, num_probes=512, **options)
    _, ahead = looks.call(state, data)
    _, made = training.resample(loss, automatic=False, **options).call(state, data)
    ratio = float(made["ratio"])
    assert ratio < 0.85
    assert 0.8 * ratio < float(ahead["ratio_ahead"]) < 1.5 * ratio


def test_what_is_paid_for_is_used_once(monkeypatch):
    """A refresh that saves less than it cost: until the next call, and then no other."""
    from jaxrobust.training import _looks

    params, data = many()
    monkeypatch.setattr(_looks, "ratio_of_scores", lambda *args: 0.0)
    monkeypatch.setattr(_looks, "ratio_of_some", lambda *args: 0.9)
    plan = training.resample(
        loss, first=0, every=1_000, plateau=1.0, cost=2.0, overhead=0.5, dim=16, num_probes=64
    )
    state = start(params, sampling.uniform(2_048, 8))._replace(step=jnp.int32(10_000))
    state, report = plan.call(state, data)
    assert report["sampler"] == "importance"
    assert plan.next_call(state) == 11_000
    assert float(state.memory["resample/spent"]) > 512  # whatever it saves
    state, report = plan.call(state._replace(step=jnp.int32(11_000)), data)
    assert report == {"sampler": "uniform"}
    assert state.sampler.running is None


def test_no_refresh_if_its_clusters_promise_nothing():
    """All gradients alike but for noise in 36 directions: 8 clusters would gain little."""
    rng = np.random.default_rng(0)
    noise = jnp.asarray(rng.normal(size=(2_048, 36)), jnp.float32)
    linear = lambda params, example: jnp.dot(params["w"], example)
    plan = training.resample(
        linear, num_clusters=8, allocation="equal", first=0, every=100, plateau=1.0, cost=0.1,
        overhead=np.inf, dim=64,
    )  # fmt: skip
    state = training.init(
        {"w": jnp.ones(36)}, OPTIMIZER, sampling.uniform(2_048, 8), key=jax.random.key(0)
    )
    # A refresh takes 0.1 * 256 / 100 = 0.26 of the steps.
    _, report = plan.call(state, noise)
    assert float(report["noise_share"]) > 0.9
    assert 0.9 < float(report["ratio_ahead"]) < 1.2
    assert "ratio" not in report
    assert report["sampler"] == "uniform"


@pytest.mark.parametrize("num_clusters", [None, 8])
def test_refreshes_become_rare_while_they_gain_nothing(num_clusters):
    """Each twice as long after the last, until the gradients are others."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(480, 5)) * rng.gamma(0.3, size=(480, 1)), jnp.float32)
    data = (x, jnp.asarray(rng.normal(size=480), jnp.float32))
    params, _ = problem()
    plan = training.resample(
        loss, num_clusters=num_clusters, allocation="equal", first=0, every=500, plateau=1.0,
        cost=0.2, overhead=np.inf, dim=256, max_passes=20,
    )  # fmt: skip
    state = start(params, sampling.uniform(480, 8))
    steps = []
    for _ in range(4):
        state, report = plan.call(state, data)
        assert report["sampler"] != "uniform"
        steps.append(int(state.memory["resample/next_refresh"]))
        # In between they are looked at.
        assert plan.next_call(state) == int(state.step) + 500
        last, state = state, state._replace(step=jnp.int32(steps[-1]))
    assert steps == [500, 1500, 3500, 7500]
    # Other weights, as if much had been learned since, and other large gradients.
    changed = jax.tree.map(lambda leaf: jnp.roll(-3 * leaf, 2), params)
    other = state._replace(params=changed)
    after, report = plan.call(other, data)
    assert plan.next_call(after) == 7500 + 500
    gradients = per_example.gradients(loss)(changed, data)
    old, new, plain = (
        sampling.variance(gradients, s)
        for s in (last.sampler, after.sampler, sampling.uniform(480, 8))
    )
    np.testing.assert_allclose(float(report["ratio_before"]), old / plain, rtol=1e-3)
    np.testing.assert_allclose(float(report["ratio"]), new / plain, rtol=1e-3)


@pytest.mark.parametrize("num_clusters", [None, 8])
def test_strata_that_are_kept_for_long_may_become_stale(num_clusters):
    """Then it is looked at them, as far as that can be afforded, and they are given up."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(480, 5)) * rng.gamma(0.3, size=(480, 1))
    data = [(jnp.asarray(x[order], jnp.float32), jnp.zeros(480)) for order in
            (np.arange(480), rng.permutation(480))]  # fmt: skip
    params, _ = problem()
    make = lambda overhead: training.resample(
        loss, num_clusters=num_clusters, allocation="equal", first=0, every=500, plateau=1.0,
        cost=0.2, overhead=overhead, dim=64, num_probes=480,
    )  # fmt: skip
    plan = make(np.inf)
    state, _ = plan.call(start(params, sampling.uniform(480, 8)), data[0])
    # As if the refreshes before had gained little.
    kept_for_long = {"resample/next_refresh": np.int32(1500)}
    state = state._replace(step=jnp.int32(1000), memory=state.memory | kept_for_long)
    report: Any
    kept, report = plan.call(state, data[0])
    assert set(report) == {"ratio_now"}
    assert report["ratio_now"] < 1
    assert plan.next_call(kept) == 1500
    # The same gradients, of other examples.
    given_up, report = plan.call(state, data[1])
    assert report["ratio_now"] > 1
    assert "ratio" in report or report["sampler"] == "uniform"
    assert "ratio" not in report or report["ratio"] < 1
    assert (plan.next_call(given_up) or 0) >= 1500
    # With the usual overhead the next look would come after the refresh.
    spent = float(kept.memory["resample/spent"]) - float(state.memory["resample/spent"])
    assert spent > 0
    poor, _ = make(0.03).call(state, data[0])
    assert plan.next_call(poor) == 1500


@pytest.mark.parametrize("num_clusters", [None, 4])
def test_stale_samplers_are_refreshed_at_once(num_clusters):
    """Looked at every 3 steps, and refreshed before its time if the ratio is above the limit."""
    params, data = problem()
    options: dict[str, Any] = {"num_clusters": num_clusters, "automatic": False, "num_probes": 40}
    options |= {"first": 2, "every": 12, "check_every": 3, "dim": 64, "batch_size": 16}
    _, found = reports(training.resample(loss, stale=1e9, **options), data, params, 16)
    assert [record["step"] for record in found] == [2, 5, 8, 11, 14]
    assert ["ratio" in record for record in found] == [True, False, False, False, True]
    assert all(record["ratio_now"] > 0 for record in found[1:4])
    _, found = reports(training.resample(loss, stale=0.0, **options), data, params, 9)
    assert [record["step"] for record in found] == [2, 5, 8]
    assert all("ratio" in record for record in found)


def test_ratio_now_is_that_of_the_gradients_of_the_probes():
    """With all examples as probes, the ratio of the whole sampler for independent draws."""
    params, data = problem()
    plan = training.resample(
        loss, num_clusters=6, first=0, every=50, check_every=1, automatic=False, num_probes=48
    )
    state, report = plan.call(start(params), data)
    assert plan.next_call(state) == 1
    _, now = plan.call(state._replace(step=jnp.int32(1)), data)
    gradients = per_example.gradients(loss)(params, data)
    independent = dataclasses.replace(state.sampler, replacement=True)
    uniform = sampling.uniform(NUM_EXAMPLES, 8, replacement=True)
    wanted, plain = (sampling.variance(gradients, s) for s in (independent, uniform))
    np.testing.assert_allclose(float(now["ratio_now"]), wanted / plain, rtol=1e-3)
    assert float(report["ratio"]) > 0


def test_ratio_now_of_as_many_strata_as_draws():
    """Of which some would have but one of the probes that are asked for, if there were no more."""
    rng = np.random.default_rng(0)
    number, size = 4_096, 256
    x = jnp.asarray(rng.normal(size=(number, 5)) * rng.gamma(0.5, size=(number, 1)), jnp.float32)
    data = (x, jnp.asarray(rng.normal(size=number), jnp.float32))
    params, _ = problem()
    gradients = per_example.gradients(loss)(params, data)
    plan = training.resample(
        loss, num_clusters=size, allocation="equal", first=0, every=50, check_every=1, stale=1e9,
        automatic=False, dim=64, batch_size=1024,
    )  # fmt: skip
    state, _ = plan.call(start(params, sampling.uniform(number, size)), data)
    uniform = sampling.variance(gradients, sampling.uniform(number, size))
    good = np.asarray(clustering.fit(gradients_of(gradients), size, key=jax.random.key(0),
                                     max_passes=2).assignments)  # fmt: skip
    mixed = np.where(rng.uniform(size=number) < 0.3, rng.permutation(good), good)
    for assignments in (good, mixed, rng.permutation(good)):
        sampler = sampling.stratified(assignments, size, num_clusters=size)
        wanted = float(sampling.variance(gradients, sampler) / uniform)
        _, now = plan.call(state._replace(step=jnp.int32(1), sampler=sampler), data)
        np.testing.assert_allclose(float(now["ratio_now"]), wanted, rtol=0.2)


def gradients_of(tree):
    """Side by side."""
    return jnp.concatenate([leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(tree)], axis=1)


@pytest.mark.parametrize("num_clusters", [None, 4])
def test_gradients_that_are_all_zero_leave_draws_uniform(num_clusters):
    """As of a hinge that is satisfied everywhere: nothing to draw by is no mistake."""
    params, data = problem()
    flat = lambda params, example: jnp.sum(params["v"]) * 0 + jnp.sum(example[0]) * 0
    plan = training.resample(
        flat, num_clusters=num_clusters, first=1, every=1, automatic=False, dim=64
    )
    after, records = training.train(flat, OPTIMIZER, start(params), data, 3, plan=plan)
    assert int(after.step) == 3
    told = [record for record in records if "ratio" in record]
    assert told
    assert all(record["ratio"] == 1 for record in told)
    # Nor are strata stale in which there is no variance.
    plan = training.resample(
        flat, num_clusters=num_clusters, first=1, every=9, check_every=1, stale=0.5,
        automatic=False, dim=64,
    )  # fmt: skip
    _, records = training.train(flat, OPTIMIZER, start(params), data, 5, plan=plan)
    assert [record["step"] for record in records if "ratio" in record] == [1]


@pytest.mark.parametrize("num_clusters", [None, 8])
def test_ratio_now_knows_that_a_batch_is_a_small_part_of_all_examples(num_clusters):
    """A quarter of the examples are looked at, and a batch is half as many."""
    rng = np.random.default_rng(0)
    number, size = 2_048, 256
    x = jnp.asarray(rng.normal(size=(number, 5)) * rng.gamma(0.5, size=(number, 1)), jnp.float32)
    data = (x, jnp.asarray(rng.normal(size=number), jnp.float32))
    params, _ = problem()
    plan = training.resample(
        loss, num_clusters=num_clusters, allocation="proportional", first=0, every=50,
        check_every=1, stale=1e9, automatic=False, num_probes=512, dim=64,
    )  # fmt: skip
    state, report = plan.call(start(params, sampling.uniform(number, size)), data)
    _, now = plan.call(state._replace(step=jnp.int32(1)), data)
    # 512 probes tell a variance to some 10 %.
    np.testing.assert_allclose(float(now["ratio_now"]), float(report["ratio"]), rtol=0.35)
    uniform = sampling.variance(per_example.gradients(loss)(params, data),
                                sampling.uniform(number, size))  # fmt: skip
    ours = sampling.variance(per_example.gradients(loss)(params, data), state.sampler)
    # Of as many examples, drawn from each stratum.
    np.testing.assert_allclose(float(report["ratio"]), ours / uniform, rtol=0.2)


ALIKE_NUMBER, ALIKE_WIDTH, ALIKE_CLUSTERS = 1_000, 64, 64


@pytest.mark.parametrize(
    ("allocation", "number"),
    [
        pytest.param("equal", ALIKE_NUMBER, marks=pytest.mark.slow),
        ("proportional", ALIKE_NUMBER),
        ("neyman", ALIKE_NUMBER),
        (None, ALIKE_NUMBER),
        # Of so many some of each cluster are looked at.
        pytest.param("equal", 3 * ALIKE_NUMBER, marks=pytest.mark.slow),
        pytest.param("neyman", 3 * ALIKE_NUMBER, marks=pytest.mark.slow),
    ],
)
def test_errors_of_sketches_do_not_look_like_clusters(allocation, number):
    """4,096 params in sketches of 256, of gradients that no clusters tell apart.

    Fitted to, errors of sketches look like structure: the ratio of the same sketches is 0.6 to 0.7.
    """
    rng = np.random.default_rng(3)
    params = jnp.asarray(rng.normal(size=(ALIKE_WIDTH, ALIKE_WIDTH)) / 8, jnp.float32)
    x = jnp.asarray(rng.normal(size=(number, ALIKE_WIDTH)), jnp.float32)
    wide = lambda w, x: jnp.sum(jnp.tanh(x @ w))
    gradients = per_example.gradients(wide)(params, x)
    options: dict[str, Any] = {"first": 0, "every": 500, "dim": 256, "batch_size": 500}
    if allocation is not None:
        options |= {"num_clusters": ALIKE_CLUSTERS, "allocation": allocation}
    state = start(params, sampling.uniform(number, 64))
    plan = training.resample(wide, automatic=False, **options)
    made, report = plan.call(state, x)
    uniform = sampling.variance(gradients, sampling.uniform(number, 64))
    exact = float(sampling.variance(gradients, made.sampler) / uniform)
    np.testing.assert_allclose(float(report["ratio"]), exact, rtol=0.07)
    automatic = training.resample(wide, plateau=1.0, cost=0.0, overhead=np.inf, **options)
    for _ in range(2):
        state, report = automatic.call(state, x)
        exact = float(sampling.variance(gradients, state.sampler) / uniform)
        assert exact < 1.05
        step: Any = automatic.next_call(state)
        state = state._replace(step=jnp.int32(step))


def test_ratio_is_that_of_the_gradients():
    """From sketches, against the exact variances of the gradients themselves."""
    params, data = problem()
    plan = training.resample(loss, num_clusters=6, first=0, automatic=False, dim=256, max_passes=20)
    state, report = plan.call(start(params), data)
    gradients = per_example.gradients(loss)(params, data)
    uniform = sampling.uniform(NUM_EXAMPLES, 8)
    wanted = sampling.variance(gradients, state.sampler) / sampling.variance(gradients, uniform)
    # 36 params in sketches of 256: without error.
    ratio = float(report["ratio"])
    np.testing.assert_allclose(ratio, wanted, rtol=1e-3)
    assert ratio < 0.9


def test_independent_draws_are_held_against_passes():
    """With two thirds of the examples in a batch, passes have little variance left."""
    params, data = problem()
    plan = training.resample(loss, first=0, plateau=1.0, cost=0.0, overhead=np.inf, dim=64)
    state, report = plan.call(start(params, sampling.uniform(NUM_EXAMPLES, 32)), data)
    assert float(report["ratio"]) > 1
    assert report["sampler"] == "uniform"
    assert state.sampler.running is None


def test_strata_after_groups():
    """From a sampler of groups on, with and without the automatic mode."""
    params, data = problem(num_copies=5)
    state, _ = run(start(params), data, 4, plan=PLANS["redundancy"])
    assert isinstance(state.sampler, sampling.GroupSampler)
    options: dict[str, Any] = {"num_clusters": 4, "first": 4, "overhead": np.inf, "dim": 16}
    options["plateau"] = 1.0
    for automatic in (False, True):
        plan = training.resample(loss, automatic=automatic, cost=0.0, **options)
        after, _ = run(state, data, 6, plan=plan)
        assert isinstance(after.sampler, sampling.Sampler)
    # A look that leads to nothing leaves them alone.
    after, records = run(state, data, 6, plan=training.resample(loss, cost=1e9, **options))
    assert any(record["event"] == "refresh" for record in records)
    assert_same(after.sampler, state.sampler)


def test_strata_and_snapshots_together():
    """Each plan does what it does alone, and the run can be resumed."""
    params, data = problem()
    optimizer = optax.chain(optim.svrg(), OPTIMIZER)
    plan = training.combined(PLANS["stratified"], SNAPSHOTS.plan)
    options: dict[str, Any] = {"plan": plan, "extras": SNAPSHOTS.extras}
    begun = start(params, optimizer=optimizer)
    state, records = run(begun, data, 15, optimizer, **options)
    refreshes = [(r["step"], sorted(r)) for r in records if r["event"] == "refresh"]
    assert [step for step, _ in refreshes] == [4, 5, 13]
    assert "resample/ratio" in refreshes[1][1]
    assert refreshes[2][1] == sorted([*refreshes[0][1], "resample/ratio", "resample/sampler"])
    alone, _ = run(begun, data, 4, optimizer, plan=SNAPSHOTS.plan, extras=SNAPSHOTS.extras)
    by_hand, _ = PLANS["stratified"].call(
        run(alone, data, 5, optimizer, plan=SNAPSHOTS.plan, extras=SNAPSHOTS.extras)[0], data
    )
    assert_same(run(begun, data, 5, optimizer, **options)[0].sampler, alone.sampler)
    first, _ = run(begun, data, 6, optimizer, **options)
    assert_same(first.sampler, by_hand.sampler)
    assert_same(run(first, data, 15, optimizer, **options)[0], state)


@pytest.mark.parametrize("automatic", [False, True])
def test_groups_in_place_of_strata(automatic):
    """A plan that finds groups takes over between two calls of one that has strata."""
    params, data = problem(num_copies=8)  # 13 groups, and batches of 16
    strata = training.resample(
        loss, num_clusters=4, first=0, every=8, check_every=3, automatic=automatic, plateau=1.0,
        cost=0.0, overhead=np.inf, dim=16,
    )  # fmt: skip
    plan = training.combined(strata, training.remove_redundancy(loss, first=4, dim=16))
    begun = start(params, sampling.uniform(NUM_EXAMPLES, 16))
    state, records = run(begun, data, 12, plan=plan)
    kinds = [set(r) for r in records if r["event"] == "refresh"]
    assert any("redundancy/num_groups" in kind for kind in kinds)
    assert isinstance(state.sampler, sampling.Sampler)  # strata again


def test_refreshes_are_on_their_own_clock(monkeypatch):
    """All that a refresh began is waited for before its time is taken."""
    params, data = problem()
    waited = []
    wait = jax.block_until_ready
    monkeypatch.setattr(jax, "block_until_ready", lambda tree: waited.append(tree) or wait(tree))
    run(start(params), data, 5, plan=SNAPSHOTS.plan)
    assert any(getattr(tree, "memory", None) for tree in waited)


def test_plans_that_cannot_be_combined():
    with pytest.raises(ValueError, match="plans must not be empty"):
        training.combined()
    with pytest.raises(ValueError, match="different kinds, got 'resample' more than once"):
        training.combined(PLANS["stratified"], SNAPSHOTS.plan, PLANS["importance"])
    nested = training.combined(PLANS["stratified"], SNAPSHOTS.plan)
    with pytest.raises(ValueError, match="different kinds, got 'resample' more than once"):
        training.combined(nested, PLANS["importance"])


def test_a_plan_of_another_kind_begins_anew():
    params, data = problem()
    state, _ = run(start(params), data, 6, plan=PLANS["redundancy"])
    once = training.remove_redundancy(loss, dim=16)
    state, _ = run(start(params), data, 6, plan=once)  # which never has another call
    for plan, options in (
        (PLANS["stratified"], {}),
        (SNAPSHOTS.plan, {"extras": SNAPSHOTS.extras}),
    ):
        optimizer = optax.chain(optim.svrg(), optax.sgd(0.1)) if options else OPTIMIZER
        begun = state._replace(opt_state=optimizer.init(state.params))
        after, records = run(begun, data, 14, optimizer, plan=plan, **options)
        assert any(record["event"] == "refresh" for record in records)
        assert int(after.memory["redundancy/next_call"]) == -1
    # Fewer clusters than the last ones: they are no start for it.
    more = training.resample(loss, num_clusters=8, first=0, every=4, automatic=False, dim=16)
    state, _ = run(start(params), data, 3, plan=more)
    fewer = training.resample(loss, num_clusters=3, first=0, every=4, automatic=False, dim=16)
    state, _ = run(state, data, 6, plan=fewer)
    assert state.sampler.sizes.size == 3


def test_a_snapshot_without_a_finite_gradient_is_an_error(tmp_path):
    """It would spoil all steps until the next one; the state before it is kept, and goes on."""
    params, data = problem()
    broken = (data[0].at[jnp.asarray([7, 31])].set(jnp.inf), data[1])
    options: dict[str, Any] = {"plan": SNAPSHOTS.plan, "extras": SNAPSHOTS.extras}
    message = "gradients must be finite at step 4; 2 of 48 .* are not, of examples 7, 31$"
    train = functools.partial(training.train, loss, OPTIMIZER)
    scores = np.where(np.isin(np.arange(48), [7, 31]), 1e-9, 1.0)  # they are hardly ever drawn
    sampler = sampling.importance(scores, 8, uniform_share=0.0)
    with pytest.raises(ValueError, match=message):
        train(start(params, sampler), broken, 12, checkpoints=tmp_path, **options)
    state = training.restore(tmp_path, start(params, sampler))
    assert int(state.step) == 4
    after, _ = train(state, data, 12, **options)
    whole, _ = train(start(params, sampler), data, 12, **options)
    assert_same(after, whole)


def test_examples_without_finite_gradients_are_named():
    params, (x, y) = problem()
    data = (x.at[jnp.array([17, 31])].set(jnp.nan), y)
    for plan in (PLANS["redundancy"], PLANS["stratified"]):
        state = start(params)._replace(step=jnp.int32(5))
        with pytest.raises(ValueError, match="finite at step 5; 2 of 48 .* of examples 17, 31"):
            plan.call(state, data)


def test_a_save_that_fails_loses_nothing(tmp_path, monkeypatch):
    params, data = problem()
    state, _ = run(start(params), data, 2)
    training.save(tmp_path, state)
    import orbax.checkpoint as ocp

    def fail(*_, **__):
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "save", fail)
        with pytest.raises(OSError, match="disk is full"):
            training.save(tmp_path, state._replace(params=jax.tree.map(jnp.zeros_like, params)))
    assert_same(training.restore(tmp_path, start(params)), state)
    changed = state._replace(params=jax.tree.map(lambda leaf: leaf + 1, state.params))
    training.save(tmp_path, changed)
    assert_same(training.restore(tmp_path, start(params)), changed)


def test_checkpoints_of_another_run_are_in_the_way(tmp_path):
    params, data = problem()
    run(start(params), data, 8, checkpoints=tmp_path)
    with pytest.raises(ValueError, match=r"checkpoints of later steps than 0, \[8\]"):
        run(start(params), data, 4, checkpoints=tmp_path)


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg"])
def test_keys_of_an_optimizer_come_back(kind, tmp_path):
    params, data = problem()
    optimizer = optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(0, impl=kind)), optax.sgd(0.1))
    begun = start(params, optimizer=optimizer)
    half, _ = run(begun, data, 5, optimizer)
    training.save(tmp_path, half)
    resumed = training.restore(tmp_path, begun)
    whole, _ = run(begun, data, 10, optimizer)
    assert_same(run(resumed, data, 10, optimizer)[0], whole)


# Bad input ----------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite(tmp_path):
    params, data = problem()
    broken = lambda p, example: loss(p, example) * jnp.where(p["v"][0] > -10, 1.0, jnp.nan)
    optimizer = optax.sgd(1e3)
    state = start(params, optimizer=optimizer)
    with pytest.raises(training.DivergenceError, match="training loss of step") as caught:
        training.train(
            broken, optimizer, state, data, 20, log_every=2, log=tmp_path / "log.jsonl",
            checkpoints=tmp_path / "saved",
        )  # fmt: skip
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    refuse = lambda word: pytest.fail(f"{word} is not JSON")
    logged = [json.loads(line, parse_constant=refuse) for line in lines]
    kept, last = caught.value.records, caught.value.state
    assert [float(record["loss"]) for record in logged] == pytest.approx(
        [record["loss"] for record in kept], nan_ok=True
    )
    assert not np.isfinite(kept[-1]["loss"])
    assert all(np.isfinite(record["loss"]) for record in kept[:-1])
    assert int(last.step) == kept[-2]["step"] > 0
    chex.assert_tree_all_finite(last.params)
    assert_same(training.restore(tmp_path / "saved", state), last)


@pytest.mark.parametrize("num_steps", [1, 5])
def test_params_that_are_not_finite(num_steps, tmp_path):
    """The root has no derivative at 0, where the loss is finite."""
    distance = lambda p, example: jnp.sqrt(jnp.sum((p - 1) ** 2)) + 0 * jnp.sum(example)
    state = training.init(jnp.ones(3), OPTIMIZER, sampling.uniform(8, 2), key=jax.random.key(0))
    with pytest.raises(training.DivergenceError) as caught:
        training.train(
            distance, OPTIMIZER, state, jnp.ones((8, 1)), num_steps, log_every=1,
            checkpoints=tmp_path / "saved",
        )  # fmt: skip
    assert "params are not finite after a step from 0 to 0" in str(caught.value)
    chex.assert_tree_all_finite(caught.value.state.params)
    assert not list((tmp_path / "saved").glob("*"))  # the state was given


def test_a_sampler_that_cannot_be_saved_is_refused_at_the_start(tmp_path):
    params, data = problem()
    plain = sampling.uniform(NUM_EXAMPLES, 8)

    class Mine:
        num_examples, batch_size = NUM_EXAMPLES, 8
        init, next = plain.init, plain.next

    with pytest.raises(TypeError, match=r"state.sampler must be one of .* to be saved, got Mine"):
        run(start(params, Mine()), data, 5, checkpoints=tmp_path)


def test_a_process_that_is_killed_while_it_replaces_a_checkpoint(tmp_path):
    params, data = problem()
    state, _ = run(start(params), data, 2)
    training.save(tmp_path, state)
    (tmp_path / "2").rename(tmp_path / ".replaced-2")  # and then the power went
    assert_same(training.restore(tmp_path, start(params)), state)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2"]


def test_far_away_steps(tmp_path):
    params, data = problem()
    most = 2**31 - 1
    plan = training.resample(loss, num_clusters=2, first=1, every=most, automatic=False, dim=8)
    run(start(params), data, 3, plan=plan)
    with pytest.raises(ValueError, match="every must be an integer in 1..2147483647"):
        training.snapshots(loss, every=most + 1)
    with pytest.raises(ValueError, match="num_steps must be an integer in 1..1073741824"):
        training.take_steps(loss, OPTIMIZER, start(params), data, 2**33)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_what_was_reached_is_saved(stop, tmp_path):
    """By a run that an interrupt or an error of the user's own code ends."""
    params, data = problem()

    def evaluate(_):
        raise stop("enough")

    with pytest.raises(stop, match="enough"):
        run(start(params), data, evaluate=evaluate, evaluate_every=12, checkpoints=tmp_path)
    resumed = training.restore(tmp_path, start(params))
    assert int(resumed.step) == 12
    assert_same(run(resumed, data)[0], run(start(params), data)[0])


def test_numbers_may_be_those_of_numpy():
    params, data = problem()
    found, _ = run(start(params), data, np.int64(6), log_every=np.int32(3))  # type: ignore[arg-type]
    assert_same(found, run(start(params), data, 6)[0])


def test_bad_input():
    params, data = problem()
    state = start(params)
    with pytest.raises(ValueError, match=r"data must be arrays \(48, \.\.\.\)"):
        run(state, jax.tree.map(lambda leaf: leaf[1:], data))
    for name in ("evaluate_every", "checkpoint_every", "log_every"):
        with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1"):
            training.train(loss, OPTIMIZER, state, data, 9, **{name: 0})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"num_steps must be an integer in 1..1073741824, got -3"):
        training.take_steps(loss, OPTIMIZER, state, data, -3)
    with pytest.raises(ValueError, match="num_steps must be an integer"):
        run(state, data, -1)
    with pytest.raises(TypeError, match="sampler must be one of jaxrobust.sampling, got int"):
        training.init(params, OPTIMIZER, 3, key=jax.random.key(0))
    with pytest.raises(TypeError, match="params"):
        training.init({"u": jnp.arange(3)}, OPTIMIZER, state.sampler, key=jax.random.key(0))
    bad: list[dict[str, Any]] = [{"tolerance": -1}, {"tolerance": np.nan}, {"least": 2}]
    for options in [*bad, {"first": -1}]:
        with pytest.raises(ValueError, match=next(iter(options))):
            training.remove_redundancy(loss, **options)
    bad = [{"every": 0}, {"cost": -1.0}, {"first": 0.5}, {"plateau": np.nan}, {"num_probes": 1}]
    bad += [{"dim": 0}, {"batch_size": 0}, {"max_passes": 0}, {"num_clusters": 0}]
    bad += [{"allocation": "best"}, {"overhead": 0.0}, {"overhead": np.nan}]
    for options in bad:
        with pytest.raises(ValueError, match=next(iter(options))):
            training.resample(loss, **options)
    early = training.Plan(lambda state: 0, lambda state, data: (state, {}))
    with pytest.raises(ValueError, match="wants its next call at step 0, which has passed"):
        run(state, data, plan=early)


def test_no_steps_are_no_change():
    params, data = problem()
    state, records = run(start(params), data, 0, plan=PLANS["redundancy"])
    assert_same(state, start(params))
    assert records == []
