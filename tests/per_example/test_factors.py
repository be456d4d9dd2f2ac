"""The factors of gradients, against the gradients of `vmap(grad)`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import per_example
from tests.per_example import oracles
from tests.per_example.cases import CASES, B

# How many leaves have factors, in cases with one of every kind.
LEAVES = {
    "dense_layers": 2,
    "sequence_long": 1,
    "experts_with_a_batch_axis_in_the_weights": 1,
    "convolution_strided_and_padded": 1,
    "convolution_dilated": 1,
    "convolution_grouped": 1,
    "embedding": 0,
    "embedding_tied": 2,
    "weights_used_by_several_products": 1,
    "weights_in_slices": 3,
    "recurrence": 3,
    "penalty_in_the_loss": 0,
}


@pytest.mark.parametrize("name", LEAVES)
def test_factors(name):
    loss, params, batch = CASES[name]()
    found = jax.jit(per_example.factors(loss))(params, batch)
    gradients = {
        jax.tree_util.keystr(path) or "params": oracles.matrix(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(
            oracles.gradients(loss, params, batch)
        )
    }
    assert set(found) <= set(gradients)
    assert len(found) == LEAVES[name]
    for leaf, parts in found.items():
        formed = [np.einsum("bgti,bgto->bgio", part.a, part.d) for part in parts]
        rows = np.concatenate([part.reshape(B, -1) for part in formed], axis=1)
        # The entries in an order of their own: the same inner products of all pairs.
        expected = gradients[leaf] @ gradients[leaf].T
        np.testing.assert_allclose(rows @ rows.T, expected, rtol=1e-4, atol=1e-5 * expected.max())


def test_factors_and_aux():
    loss = lambda w, x: (jnp.sum(x @ w), x[0])
    x = jnp.arange(6.0).reshape(2, 3)
    found, aux = per_example.factors(loss, has_aux=True)(jnp.ones((3, 4)), x)
    np.testing.assert_array_equal(found["params"][0].a, x[:, None, None, :])
    np.testing.assert_array_equal(found["params"][0].d, np.ones((2, 1, 1, 4)))
    np.testing.assert_array_equal(aux, [0, 3])
