"""The `Norm` interface: what a norm must be able to do for the rest of the library."""

import abc
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust import trees


class Norm(abc.ABC):
    r"""A norm on pytrees of real arrays, with what optimizers, attacks and certificates need.

    Objects are immutable and hashable, so they may be static arguments of ``jit``. A new norm is a
    subclass with :meth:`value`, :attr:`dual`, :meth:`lmo` and :meth:`project`; :meth:`prox` follows
    from the dual's projection.

    A method acts on one vector (an array of any shape, or a pytree); use ``jax.vmap`` for a batch.
    Input of float16 or bfloat16 is computed in float32 and returned in its own dtype. NaN in gives
    NaN out. Numbers below the smallest normal one count as zero where the processor says so.
    """

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Short name for tables and messages, e.g. ``"l1"`` or ``"Fourier-linf"``."""

    @property
    @abc.abstractmethod
    def dual(self) -> "Norm":
        r"""The dual norm :math:`\|g\|_* = \max_{\|u\|\le 1}\langle u, g\rangle`."""

    @abc.abstractmethod
    def value(self, x: Any) -> jax.Array:
        r"""The norm :math:`\|x\|`, a ``()`` array; infinite if an entry is and none is NaN.

        Its gradient is ``dual.lmo(x)``, a subgradient: no NaN at zero and at ties.
        """

    @abc.abstractmethod
    def lmo(self, g: Any) -> Any:
        r"""Linear maximisation oracle :math:`\arg\max_{\|u\|\le 1}\langle u, g\rangle`.

        It attains ``dual.value(g)`` and is the direction of steepest ascent in this norm. Where the
        maximiser is not unique the smallest one is taken (zero entries stay zero, ties go to the
        lowest index); a zero ``g`` gives a zero ``u``.
        """

    @abc.abstractmethod
    def project(self, x: Any, radius: float | jax.Array = 1.0) -> Any:
        r"""Euclidean projection :math:`\arg\min_{\|u\|\le r}\|u-x\|_2`.

        Args:
          x: the vector to project; what is in the ball comes back as it is.
          radius: scalar, 0 or more. Traced, a negative or NaN radius gives NaN.
        """

    def prox(self, x: Any, scale: float | jax.Array = 1.0) -> Any:
        r"""Proximal operator :math:`\arg\min_u \tfrac12\|u-x\|_2^2 + s\|u\|`, the norm not squared.

        By Moreau's decomposition it is what the projection on the dual ball of radius ``scale``
        leaves over; exactly zero inside that ball.
        """
        trees.check_floating("x", x)
        check_nonnegative("scale", scale)
        # The difference cancels, so it is taken before the result is rounded to a narrow dtype.
        wide = trees.promote(x)
        rest = jax.tree.map(jnp.subtract, wide, self.dual.project(wide, scale))
        return trees.cast_like(rest, x)


def check_nonnegative(name: str, scalar: Any) -> None:
    """Raises if `scalar` is no real scalar or, where its value is known, negative or NaN."""
    known = isinstance(scalar, (int, float, np.generic, np.ndarray, jax.Array))
    dtype = jnp.result_type(scalar) if known else bool
    if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
        raise TypeError(f"{name} must be a real number, got {scalar!r}")
    if jnp.ndim(scalar) != 0:
        shape = jnp.shape(scalar)
        raise ValueError(f"{name} must be a scalar, got shape {shape}; use jax.vmap for several")
    if not isinstance(scalar, Tracer) and not scalar >= 0:
        raise ValueError(f"{name} must be 0 or more, got {scalar}")
