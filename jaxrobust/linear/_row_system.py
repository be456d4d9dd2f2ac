r"""Solves the linear system with one row per example that is left of a Newton step.

The matrix is :math:`M = A Q A^\top + \alpha 1 1^\top + \mathrm{diag}(\delta)` with one block
:math:`Q_g = \eta_g^2 (I + c_g x_g x_g^\top)` per group of coordinates.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

Solver = Callable[[jax.Array], jax.Array]  # right-hand sides (n, m) -> solutions (n, m)
DENSE_ROWS = 2048  # up to this many examples an n x n system is solved even if d is smaller


class Blocks(NamedTuple):
    """The block-diagonal Q: G blocks of size k."""

    eta: jax.Array  # (G,)
    curve: jax.Array  # (G,): c_g > -1 / |x_g|^2
    axis: jax.Array  # (G, k): x_g

    def apply(self, v: jax.Array) -> jax.Array:
        """Q v for ``v (G, k)``."""
        inner = self.curve * jnp.sum(self.axis * v, axis=-1)
        return (self.eta**2)[:, None] * (v + inner[:, None] * self.axis)

    def root(self) -> jax.Array:
        """The r with ``I + c x x^T = (I + r x x^T)^2``, ``(G,)``."""
        squared = jnp.sum(self.axis**2, axis=-1)
        return self.curve / (jnp.sqrt(jnp.maximum(1 + self.curve * squared, 0)) + 1)


def gram(a: jax.Array) -> jax.Array | None:
    """A A^T where it saves work.

    With a single group of at least n coordinates Q is a multiple of the identity plus rank one, and
    the matrix product is needed only once.
    """
    n, groups, k = a.shape
    flat = a.reshape(n, -1)
    return matmul(flat, flat.T) if groups == 1 and n <= k else None


def is_dense(a: jax.Array) -> bool:
    """Whether the n x n matrix is factorised; else one of d x d.

    The n x n form is the more accurate one; the other is for n too large for it.
    """
    n, groups, k = a.shape
    return n <= max(groups * k, DENSE_ROWS)


def factorise(
    a: jax.Array,
    known_gram: jax.Array | None,
    blocks: Blocks,
    anchor: jax.Array,
    diagonal: jax.Array,
) -> Solver:
    """Factorises M, by Cholesky of an n x n or a d x d matrix.

    Args:
      a: ``(n, G, k)`` signed examples.
      known_gram: from :func:`gram`.
      blocks: Q.
      anchor: ``()``, alpha >= 0.
      diagonal: ``(n,)`` positive.
    """
    if known_gram is not None:
        along = jnp.tensordot(a, blocks.axis, axes=2, precision=jax.lax.Precision.HIGHEST)
        rank_one = blocks.curve[0] * along[:, None] * along[None, :]
        matrix = blocks.eta[0] ** 2 * (known_gram + rank_one) + anchor + jnp.diag(diagonal)
        return _refined(_cholesky(matrix), lambda x: matmul(matrix, x))
    b = _times_root(a, blocks)
    if is_dense(a):
        matrix = matmul(b, b.T) + anchor + jnp.diag(diagonal)
        return _refined(_cholesky(matrix), lambda x: matmul(matrix, x))
    return _woodbury(
        jnp.concatenate([b, jnp.full((a.shape[0], 1), jnp.sqrt(anchor))], axis=1), diagonal
    )


def matmul(x: jax.Array, y: jax.Array) -> jax.Array:
    """Matrix product at the highest precision."""
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def _times_root(a: jax.Array, blocks: Blocks) -> jax.Array:
    """B = A Q^(1/2), ``(n, G k)``."""
    along = blocks.root()[None] * jnp.sum(a * blocks.axis[None], axis=-1)
    b = blocks.eta[None, :, None] * (a + along[:, :, None] * blocks.axis[None])
    return b.reshape(a.shape[0], -1)


def _woodbury(b: jax.Array, diagonal: jax.Array) -> Solver:
    """(B B^T + D)^-1 = D^-1 - D^-1 B (I + B^T D^-1 B)^-1 B^T D^-1: for more rows than columns."""
    weighted = b / diagonal[:, None]
    inner = _cholesky(jnp.eye(b.shape[1], dtype=b.dtype) + matmul(b.T, weighted))

    def solve(r):
        return (r - matmul(b, inner(matmul(weighted.T, r)))) / diagonal[:, None]

    return _refined(solve, lambda x: matmul(b, matmul(b.T, x)) + diagonal[:, None] * x)


def _cholesky(matrix: jax.Array) -> Solver:
    # Unit diagonal first: late in the iteration the entries range over many orders of magnitude.
    scale = 1 / jnp.sqrt(jnp.diagonal(matrix))
    eye = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    # As large as the rounding error of the factorisation: for data that no weights separate the
    # matrix approaches one of rank d, and without it the factor would be NaN at a bound of 1e-9.
    jitter = matrix.shape[0] * jnp.finfo(matrix.dtype).eps
    lower = jnp.linalg.cholesky(matrix * scale[:, None] * scale[None, :] + jitter * eye)
    # The factor's inverse makes every further solve two matrix products. The digits that an
    # explicit inverse loses come back by refinement, and it saves two dozen small LAPACK calls in
    # each iteration, in all of which OpenBLAS's threads may wait for each other for milliseconds.
    inverse = jax.scipy.linalg.solve_triangular(lower, eye, lower=True)
    return lambda r: scale[:, None] * matmul(inverse.T, matmul(inverse, scale[:, None] * r))


def _refined(solve: Solver, times: Solver) -> Solver:
    """Solves, and refines twice against the jitter and rounding."""

    def refined(r):
        # A loop, though a short one: written out it would triple the program and its compilation.
        return jax.lax.fori_loop(0, 3, lambda _, x: x + solve(r - times(x)), jnp.zeros_like(r))

    return refined
