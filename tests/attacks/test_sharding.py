"""Batches that are spread over devices: the attacks are those of one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from jaxrobust import attacks, norms
from tests.attacks.problems import network, relu_network

NUMBER = 16
KEY = jax.random.key(0)
BOUNDS = (0.0, 1.0)
ATTACKS = {
    "pgd": functools.partial(attacks.pgd, eps=0.1, num_steps=4, bounds=BOUNDS),
    "apgd": functools.partial(attacks.apgd, eps=0.1, num_steps=6, loss="dlr", bounds=BOUNDS),
    "apgd, targeted": functools.partial(
        attacks.apgd, eps=0.1, num_steps=4, loss="targeted_margin", bounds=BOUNDS
    ),
    "frank_wolfe": functools.partial(attacks.frank_wolfe, eps=0.1, num_steps=4, bounds=BOUNDS),
    "minimum_norm": functools.partial(attacks.minimum_norm, num_steps=4, bounds=BOUNDS),
    "square": functools.partial(attacks.square, eps=0.1, num_queries=6, bounds=BOUNDS),
}
NORMS: dict[str, norms.Norm] = {
    "linf": norms.linf,
    "l1": norms.l1,
    "l2": norms.l2,
    "Fourier-linf": norms.fourier(norms.linf),
}


def problem():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.uniform(size=(NUMBER, 20)), jnp.float32)
    params = network(jax.random.key(1))
    return params, x, jnp.argmax(relu_network(params, x), axis=1)


@pytest.mark.parametrize(
    ("attack", "norm"),
    [
        *((name, "linf") for name in ATTACKS),
        *(("apgd", norm) for norm in NORMS if norm != "linf"),
        ("minimum_norm", "l2"),
        ("square", "l2"),
    ],
)
def test_as_on_one_device(attack, norm):
    params, x, y = problem()
    run = functools.partial(ATTACKS[attack], relu_network, params, norm=NORMS[norm], key=KEY)
    expected = run(x, y).perturbations
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        there = [jax.device_put(array, PartitionSpec("batch")) for array in (x, y)]
        for function in (run, jax.jit(run)):
            found = function(*there)
            # Sums over features are of one device; what differs is how programs are fused.
            np.testing.assert_allclose(
                jax.device_get(found.perturbations), expected, rtol=1e-4, atol=1e-5
            )
            assert found.perturbations.sharding.spec[0] == "batch"


SHARDED = {
    **ATTACKS,
    "pgd, restarts": functools.partial(ATTACKS["pgd"], num_restarts=2),
    "pgd, no bounds": functools.partial(attacks.pgd, eps=0.1, num_steps=4),
}


@pytest.mark.parametrize(
    ("attack", "norm"),
    [
        pytest.param(attack, norm, marks=() if fast else pytest.mark.slow)
        for attack, norm, fast in (
            *((name, "linf", name != "apgd, targeted") for name in SHARDED),
            *(("pgd", norm, True) for norm in ("l1", "l2", "Fourier-linf")),
            *((name, "l2", False) for name in SHARDED if name != "pgd"),
            *((name, "l1.5", False) for name in ("pgd", "pgd, no bounds")),
        )
    ],
)
def test_under_shard_map_each_device_attacks_its_own_examples(attack, norm):
    params, x, y = problem()
    norm = NORMS.get(norm, norms.lp(1.5))
    run = lambda x, y: SHARDED[attack](relu_network, params, x, y, norm=norm, key=KEY).perturbations
    expected = np.concatenate([run(x[i : i + 2], y[i : i + 2]) for i in range(0, NUMBER, 2)])
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    by_batch = PartitionSpec("batch")
    mapped = jax.shard_map(run, mesh=mesh, in_specs=(by_batch, by_batch), out_specs=by_batch)
    np.testing.assert_allclose(jax.jit(mapped)(x, y), expected, rtol=1e-4, atol=1e-5)


def test_explicit_axes_are_an_error():
    params, x, y = problem()
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        eps = jnp.full(len(x), 0.1)
        given = {"x": x, "y": y, "eps": eps, "bounds": jnp.full(x.shape, -9.0)}
        for name, array in given.items():
            spread = given | {name: jax.device_put(array, PartitionSpec("batch"))}
            with pytest.raises(ValueError, match=f"{name} must not be sharded over explicit"):
                attacks.pgd(
                    relu_network, params, spread["x"], spread["y"], norm="linf", key=KEY,
                    eps=spread["eps"], bounds=(spread["bounds"], 9.0),
                )  # fmt: skip


@pytest.mark.parametrize("attack", SHARDED)
@pytest.mark.parametrize("varies", ["params", "eps", "key"])
def test_under_shard_map_each_device_may_have_a_model_of_its_own(attack, varies):
    """Or a radius, or a key, of the same examples."""
    if attack == "minimum_norm" and varies == "eps":
        pytest.skip("it has no radius")
    _, x, y = problem()
    x, y = x[:2], y[:2]
    several = [network(jax.random.key(seed)) for seed in range(8)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *several)
    keys, radii = jax.random.split(KEY, 8), jnp.linspace(0.05, 0.2, 8)

    def run(params, eps, key):
        one = jax.tree.map(lambda leaf: leaf[0], (params, eps, key))
        options = {} if attack == "minimum_norm" else {"eps": one[1]}
        found = SHARDED[attack](relu_network, one[0], x, y, norm="l2", key=one[2], **options)
        return found.perturbations[None]

    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    specs = {name: PartitionSpec() for name in ("params", "eps", "key")}
    specs[varies] = PartitionSpec("batch")
    given = {"params": stacked, "eps": radii, "key": keys}
    mapped = jax.shard_map(
        run, mesh=mesh, in_specs=tuple(specs.values()), out_specs=PartitionSpec("batch")
    )
    found = jax.jit(mapped)(*given.values())
    for k in (0, 7):
        at = {name: k if name == varies else 0 for name in given}
        one = [jax.tree.map(lambda leaf, i=at[n]: leaf[i : i + 1], v) for n, v in given.items()]
        np.testing.assert_allclose(found[k], run(*one)[0], rtol=1e-3, atol=1e-4)
