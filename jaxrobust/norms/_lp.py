"""Entrywise lp norms."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import trees
from jaxrobust.norms import _boxes, _magnitudes
from jaxrobust.norms._base import check_box, check_nonnegative
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

    def project(self, x: Any, radius: float | jax.Array = 1.0) -> Any:
        """As of :class:`DecomposedNorm`; for p = 2 and p = inf in fewer passes."""
        if self.p not in (2, math.inf):
            return super().project(x, radius)
        trees.check_floating("x", x)
        check_nonnegative("radius", radius)
        leaves, structure = jax.tree.flatten(trees.promote(x))
        r = jnp.asarray(radius, jnp.result_type(*leaves))
        r = jnp.where(r >= 0, r, jnp.nan)
        if self.p == math.inf:
            # Not by clipping, whose derivative is a half where an entry is at the radius.
            moved = [jnp.where(jnp.abs(leaf) <= r, leaf, jnp.sign(leaf) * r) for leaf in leaves]
        else:
            # In units of the largest, so that squares neither overflow nor vanish.
            top = _magnitudes.largest([jnp.abs(leaf) for leaf in leaves])
            scalable, unit = _magnitudes.scaling(top)
            square = _magnitudes.total([(leaf / unit) ** 2 for leaf in leaves])
            length = jnp.sqrt(jnp.where(scalable, square, 1))  # has no derivative at 0
            inside = jnp.where(scalable, unit * length, top) <= r
            outside = jnp.where(inside, length, r / unit)  # no infinite radius to the derivative
            outside = jnp.where(inside | scalable, outside, jnp.nan)  # infinite or NaN entries
            factor = jnp.where(inside, 1, outside / length)
            moved = [factor * leaf for leaf in leaves]
        return trees.cast_like(structure.unflatten(moved), x)

    def project_in_box(
        self, x: Any, radius: float | jax.Array, lower: Any, upper: Any, *, num_sweeps: int = 0
    ) -> Any:
        """Exact Euclidean projection on ball and box; see :meth:`Norm.project_in_box`."""
        del num_sweeps
        return self._in_box(_boxes.project, "x", x, radius, lower, upper)

    def lmo_in_box(
        self, g: Any, radius: float | jax.Array, lower: Any, upper: Any, *, num_sweeps: int = 0
    ) -> Any:
        """Exact maximiser over ball and box; see :meth:`Norm.lmo_in_box`."""
        del num_sweeps
        return self._in_box(_boxes.lmo, "g", g, radius, lower, upper)

    def memory_in_box(self, g: Any) -> Any:
        """Nothing."""
        return None

    def lmo_in_box_after(
        self,
        memory: Any,
        g: Any,
        radius: float | jax.Array,
        lower: Any,
        upper: Any,
        *,
        num_sweeps: int = 0,
    ) -> tuple[Any, Any]:
        """Exact, and so without memory; see :meth:`lmo_in_box`."""
        return self.lmo_in_box(g, radius, lower, upper, num_sweeps=num_sweeps), memory

    def _in_box(self, solve: Any, name: str, x: Any, radius: Any, lower: Any, upper: Any) -> Any:
        wide, lower, upper = check_box(name, x, radius, lower, upper)
        leaves, structure = jax.tree.flatten(wide)
        a = [jnp.abs(leaf) for leaf in leaves]
        ends = zip(leaves, jax.tree.leaves(lower), jax.tree.leaves(upper), strict=True)
        caps = [jnp.where(leaf > 0, high, -low) for leaf, low, high in ends]
        r = jnp.asarray(radius, jnp.result_type(*a))
        found = solve(self.p, a, caps, jnp.where(r >= 0, r, jnp.nan))
        signed = [jnp.sign(leaf) * new for leaf, new in zip(leaves, found, strict=True)]
        return trees.cast_like(structure.unflatten(signed), x)


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
