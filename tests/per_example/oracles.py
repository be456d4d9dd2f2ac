"""Per-example gradients by `vmap(grad)` and what follows from them, in NumPy float64."""

import jax
import numpy as np


def gradients(loss_fn, params, batch):
    """The tree of per-example gradients."""
    return jax.jit(jax.vmap(jax.grad(loss_fn), (None, 0)))(params, batch)


def matrix(tree):
    """Leaves `(B, ...)` side by side: `(B, entries)`, float64."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
    return np.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in leaves], axis=1)


def norms(tree):
    """Norms of the rows of `matrix`."""
    return np.linalg.norm(matrix(tree), axis=1)
