"""Entrywise lp norms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.norms._decomposed import DecomposedNorm, Parts, exponent, exponent_name


@dataclasses.dataclass(frozen=True, repr=False)
class Lp(DecomposedNorm):
    r"""The norm :math:`\|x\|_p = (\sum_i |x_i|^p)^{1/p}`, the *root* included; see :func:`lp`."""

    @property
    def name(self) -> str:
        """``"l1"``, ``"l1.5"``, ``"linf"``."""
        return f"l{exponent_name(self.p)}"

    def _take_apart(self, leaf: jax.Array) -> Parts:
        sign = jnp.sign(leaf)
        return Parts(jnp.abs(leaf), np.ones((), leaf.dtype), 0.0, lambda a: sign * a)


def lp(p: float) -> Lp:
    r"""The entrywise norm :math:`\|x\|_p = (\sum_i |x_i|^p)^{1/p}` for 1 <= p <= inf.

    Args:
      p: exponent; 1, 2 and ``math.inf`` give :data:`l1`, :data:`l2` and :data:`linf`.

    Returns:
      A :class:`~jaxrobust.norms.Norm`. On a pytree it is the norm of all entries together.
      ``project`` is exact for 1, 2, inf and solved to the dtype's precision for other p.

    Raises:
      ValueError: if p < 1 or p is NaN.
      TypeError: if p is no real number, or one that is only known when the program runs.
    """
    return Lp(exponent(p))
