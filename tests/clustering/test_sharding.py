"""Points and data that are sharded over eight devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxrobust import clustering
from tests.clustering.problems import loss, problem

KEY = jax.random.key(0)
METHODS: tuple[Any, ...] = ("exact", "rank1", "gram")
PARAMS, DATA = problem(32)
POINTS = jnp.asarray(np.random.default_rng(0).normal(size=(32, 3)), jnp.float32)


def gradient_clusters(method):
    return lambda data: clustering.gradient_clusters(
        loss, PARAMS, data, 3, key=KEY, method=method, batch_size=10
    )


FUNCTIONS = {
    "fit": (lambda x: clustering.fit(x, 3, key=KEY), POINTS),
    "duplicates": (lambda x: clustering.duplicates(x, tolerance=0.5), POINTS),
    "gradient_sketches": (
        lambda data: clustering.gradient_sketches(loss, PARAMS, data, key=KEY, batch_size=10),
        DATA,
    ),
}
SLOW = {
    "online": (
        lambda x: clustering.online(3).update(clustering.online(3).init(KEY, x), x)[1],
        POINTS,
    ),
    **{method: (gradient_clusters(method), DATA) for method in METHODS},
}


# Explicit axes refuse more than Auto ones do.
@pytest.mark.parametrize(
    "kind", [pytest.param(AxisType.Auto, marks=pytest.mark.slow), AxisType.Explicit]
)
@pytest.mark.parametrize(
    "name", [*FUNCTIONS, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)]
)
def test_where_the_points_are_changes_nothing(name, kind):
    function, arrays = {**FUNCTIONS, **SLOW}[name]
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(kind,))
    sharded = jax.device_put(arrays, NamedSharding(mesh, PartitionSpec("batch")))
    with jax.set_mesh(mesh):
        found = jax.jit(function)(sharded)
    expected = function(arrays)
    if name == "gram":
        # Its points are made of eigenvectors, in which the order of sums shows: a point that is as
        # near to two clusters may go to the other.
        found, expected = found.objective, expected.objective
        np.testing.assert_allclose(found, expected, rtol=1e-2)
        return
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
