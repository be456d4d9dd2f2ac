"""Per-example gradients by `vmap(grad)` and what follows from them, in NumPy float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests.per_example.cases import CASES

# What runs once need not be fast; it compiles sooner, to the same operations.
UNOPTIMISED = {"xla_backend_optimization_level": 0}


def losses_and_gradients(loss_fn, params, batch):
    """The losses `(B,)` and the tree of per-example gradients."""
    both = jax.vmap(jax.value_and_grad(loss_fn), (None, 0))
    return jax.tree.map(np.asarray, jax.jit(both, compiler_options=UNOPTIMISED)(params, batch))


def gradients(loss_fn, params, batch):
    """The tree of per-example gradients."""
    return losses_and_gradients(loss_fn, params, batch)[1]


def known(name):
    """A case and its oracle, compiled once: `(loss_fn, params, batch, losses, gradients)`.

    Under x64 all of it is in float64.
    """
    return _known(name, jax.config.read("jax_enable_x64"))


@functools.cache
def _known(name, x64):
    loss, params, batch = CASES[name]()
    if x64:
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
    return loss, params, batch, *losses_and_gradients(loss, params, batch)


def matrix(tree):
    """Leaves `(B, ...)` side by side: `(B, entries)`, float64."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
    return np.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in leaves], axis=1)


def norms(tree):
    """Norms of the rows of `matrix`."""
    return np.linalg.norm(matrix(tree), axis=1)
