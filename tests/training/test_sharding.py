"""Data that are spread over eight devices, and checkpoints that move between numbers of them."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxrobust import sampling, training

NUM_EXAMPLES, BATCH_SIZE = 128, 16
OPTIMIZER = optax.sgd(0.02, momentum=0.9)
KINDS = [AxisType.Explicit, pytest.param(AxisType.Auto, marks=pytest.mark.slow)]
# Sums over a batch are made in another order: some rounding errors of float32 per step.
TOLERANCE = 1e-5


def loss(params, example):
    x, y = example
    return jnp.sum((jnp.tanh(x @ params["w"]) + params["b"] - y) ** 2)


def problem():
    """Params, and data of which the second half are copies of the first."""
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(6, 2)), "b": rng.normal(size=2)}
    x, y = rng.normal(size=(NUM_EXAMPLES // 2, 6)), rng.normal(size=(NUM_EXAMPLES // 2, 2))
    data = (np.concatenate([x, x]), np.concatenate([y, y]))
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (params, data))


SAMPLERS: dict[str, Any] = {
    "uniform": lambda size: sampling.uniform(NUM_EXAMPLES, size),
    "importance": lambda size: sampling.importance(jnp.arange(1.0, NUM_EXAMPLES + 1), size),
    "stratified": lambda size: sampling.stratified(jnp.arange(NUM_EXAMPLES) % 5, size),
}
PLANS: dict[str, training.Plan] = {
    "redundancy": training.remove_redundancy(loss, dim=16),
    "strata": training.resample(
        loss, num_clusters=4, first=5, every=10, check_every=4, automatic=False, dim=16
    ),
    "scores": training.resample(
        loss, first=5, every=10, plateau=1.0, cost=0.0, overhead=jnp.inf, dim=16
    ),
    "between": training.resample(
        loss,
        first=5,
        every=5,
        plateau=0.99,
        cost=0.0,
        overhead=jnp.inf,
        dim=16,
        num_probes=16,
        batch_size=4,
    ),
    "snapshots": training.snapshots(loss, first=4, every=9, batch_size=20).plan,
    "automatic snapshots": training.snapshots(
        loss, first=4, every=3, batch_size=20, automatic=True, overhead=jnp.inf
    ).plan,
}


def run(data, *, sampler="uniform", size=BATCH_SIZE, plan=None, num_steps=25, state=None):
    if state is None:
        params, _ = problem()
        made = SAMPLERS[sampler](size)
        state = training.init(params, OPTIMIZER, made, key=jax.random.key(0))
    return training.train(loss, OPTIMIZER, state, data, num_steps, plan=plan)


def spread(tree, kind):
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(kind,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec("batch"))), mesh


def assert_close(a, b):
    a, b = (jax.tree.map(np.asarray, state.params) for state in (a, b))
    chex.assert_trees_all_close(a, b, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [BATCH_SIZE, 20], ids=["same on all", "not divisible by 8"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_training_does_not_depend_on_where_the_data_are(sampler, size, kind):
    _, data = problem()
    expected, _ = run(data, sampler=sampler, size=size)
    found, _ = run(spread(data, kind)[0], sampler=sampler, size=size)
    assert_close(found, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["scores", *(pytest.param(n, marks=pytest.mark.slow) for n in PLANS if n != "scores")]
)
def test_plans_do_not_depend_on_where_the_data_are(name, kind):
    _, data = problem()
    expected, records = run(data, plan=PLANS[name])
    sharded, mesh = spread(data, kind)
    with jax.set_mesh(mesh):
        found, others = run(sharded, plan=PLANS[name])
    assert_close(found, expected)
    assert type(found.sampler) is type(expected.sampler)
    for a, b in zip(records, others, strict=True):
        assert (a["event"], a["step"], a.get("sampler")) == (
            b["event"],
            b["step"],
            b.get("sampler"),
        )


def test_each_device_works_on_its_part_of_a_batch():
    """Two sums are all that is communicated, once the rows are where they belong."""
    params, data = problem()
    batch, mesh = spread(jax.tree.map(lambda leaf: leaf[:BATCH_SIZE], data), AxisType.Explicit)
    weights = jnp.linspace(0.5, 1.5, BATCH_SIZE)
    gradient = jax.jit(sampling.value_and_grad(loss))
    with jax.set_mesh(mesh):
        program = str(gradient.lower(params, batch, weights).compile().as_text())
        found = gradient(params, batch, weights)
    assert "all-reduce" in program
    assert "all-gather" not in program
    one = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), batch)
    chex.assert_trees_all_close(
        jax.tree.map(np.asarray, found),
        jax.tree.map(np.asarray, gradient(params, one, weights)),
        rtol=TOLERANCE,
        atol=TOLERANCE,  # entries are differences of numbers of order 1
    )


def test_some_arrays_may_be_whole():
    params, (x, y) = problem()
    expected, _ = run((x, y))
    for place in (0, 1):
        data = [x, y]
        data[place], _ = spread(data[place], AxisType.Explicit)
        assert_close(run(tuple(data))[0], expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("there", [True, False], ids=["from eight devices", "to eight devices"])
def test_checkpoints_move_to_another_number_of_devices(there, kind, tmp_path):
    _, data = problem()
    sharded, mesh = spread(data, kind)
    params, _ = problem()
    begun = training.init(params, OPTIMIZER, SAMPLERS["stratified"](16), key=jax.random.key(0))
    on_all = jax.device_put(begun, NamedSharding(mesh, PartitionSpec()))
    first, second = (
        ((sharded, on_all), (data, begun)) if there else ((data, begun), (sharded, on_all))
    )
    half, _ = run(first[0], state=first[1], num_steps=10)
    training.save(tmp_path, half)
    resumed, _ = run(second[0], state=training.restore(tmp_path, second[1]))
    assert_close(resumed, run(data, state=begun)[0])
