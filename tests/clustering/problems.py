"""A small network, its data, and its gradients as points."""

import jax
import jax.numpy as jnp
import numpy as np


def loss(params, example):
    x, label = example
    logits = jnp.tanh(x @ params["u"]) @ params["v"]
    return -jax.nn.log_softmax(logits)[label]


def problem(num_examples=150):
    rng = np.random.default_rng(0)
    params = {"u": rng.normal(size=(8, 12)) / 3, "v": rng.normal(size=(12, 4)) / 3}
    data = (rng.normal(size=(num_examples, 8)), rng.integers(0, 4, num_examples))
    return jax.tree.map(jnp.asarray, (params, data))


def gradients_as_points(params, data, loss_fn=loss):
    """All gradients ``(N, entries)``, by ``vmap(grad)``."""
    leaves = jax.tree.leaves(jax.vmap(jax.grad(loss_fn), (None, 0))(params, data))
    return np.concatenate([np.asarray(leaf).reshape(leaf.shape[0], -1) for leaf in leaves], axis=1)


def flat_centers(centers):
    """Centers with leaves ``(K, *leaf)`` as rows."""
    leaves = jax.tree.leaves(centers)
    return np.concatenate([np.asarray(leaf).reshape(leaf.shape[0], -1) for leaf in leaves], axis=1)
