"""Norms of singular values."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.norms._decomposed import DecomposedNorm, Parts, exponent, exponent_name
from jaxrobust.norms._sharding import unshard


@dataclasses.dataclass(frozen=True, repr=False)
class Schatten(DecomposedNorm):
    r"""The lp norm of the singular values; see :func:`schatten`."""

    @property
    def name(self) -> str:
        """``"nuclear"``, ``"spectral"``, ``"Schatten-3"``."""
        named = {1.0: "nuclear", math.inf: "spectral"}
        return named.get(self.p, f"Schatten-{exponent_name(self.p)}")

    def _take_apart(self, leaf: jax.Array) -> Parts:
        matrix = unshard(leaf)
        matrix = matrix.reshape((-1, leaf.shape[-1]) if leaf.ndim > 1 else (-1, 1))
        # LAPACK may never return from a matrix with an infinite entry. NaN is the answer to it.
        is_finite = jnp.all(jnp.isfinite(matrix))
        u, s, vt = jnp.linalg.svd(jnp.where(is_finite, matrix, 0), full_matrices=False)
        s = jnp.where(is_finite, s, jnp.nan)
        # numpy.linalg.matrix_rank's threshold: below it rounding errors span a singular pair.
        noise = max(matrix.shape) * jnp.finfo(s.dtype).eps * jax.lax.stop_gradient(jnp.max(s))

        def rebuild(changed):
            product = jnp.matmul(u * changed[None, :], vt, precision=jax.lax.Precision.HIGHEST)
            return product.reshape(leaf.shape)

        return Parts(s, np.ones((), s.dtype), noise, rebuild)


def schatten(p: float) -> Schatten:
    r"""The Schatten norm :math:`(\sum_i \sigma_i(X)^p)^{1/p}` of a matrix, 1 <= p <= inf.

    :data:`nuclear` is p = 1, :data:`spectral` is p = inf, and p = 2 equals :data:`l2` (cheaper).

    Args:
      p: exponent.

    Returns:
      A :class:`~jaxrobust.norms.Norm`. A leaf with more than two axes is seen as the matrix of its
      last axis against all others together (the layout of Dense and convolution kernels), a leaf
      with one axis or none as one column. On a pytree :data:`spectral` is the largest spectral norm
      of a leaf and :data:`nuclear` the sum of the leaves' nuclear norms. ``lmo`` of the spectral
      norm is the orthogonal factor of the polar decomposition; singular values below
      ``max(shape) * eps`` of the largest count as zero in it. The derivatives of ``lmo``,
      ``project`` and ``prox`` are those of the SVD: NaN where singular values are equal or zero.

    Raises:
      ValueError: if p < 1 or p is NaN.
      TypeError: if p is no real number, or one that is only known when the program runs.
    """
    return Schatten(exponent(p))
