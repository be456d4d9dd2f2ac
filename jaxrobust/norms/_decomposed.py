"""Norms that are an lp norm of magnitudes: of entries, singular values, Fourier coefficients."""

import abc
import dataclasses
import functools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import trees
from jaxrobust.norms import _magnitudes, _projections
from jaxrobust.norms._base import Norm, check_nonnegative
from jaxrobust.norms._sharding import shard_like


class Parts(NamedTuple):
    """One leaf, taken apart into magnitudes that carry the norm, and the rest: the direction."""

    magnitudes: jax.Array  # any shape, floating: non-negative
    weight: np.ndarray  # broadcasts: how many coordinates of the leaf one magnitude stands for
    noise: jax.Array | float  # broadcasts: magnitudes up to this are rounding errors
    rebuild: Callable[[jax.Array], jax.Array]  # magnitudes -> leaf with the same directions


@dataclasses.dataclass(frozen=True, repr=False)
class DecomposedNorm(Norm):
    """An lp norm, 1 <= p <= inf, of the magnitudes that :meth:`_take_apart` finds in each leaf.

    Over a tree of several leaves it is the lp norm of all magnitudes together: the sum of the
    leaves' norms for p = 1, their maximum for p = inf.
    """

    p: float

    def __post_init__(self):
        """Refuses what is no norm."""
        if not self.p >= 1:
            raise ValueError(f"p must be 1 or more (math.inf allowed) for a norm, got {self.p}")

    @abc.abstractmethod
    def _take_apart(self, leaf: jax.Array) -> Parts:
        """Splits one leaf (float32 or float64) into its parts."""

    @property
    def dual(self) -> "DecomposedNorm":
        """The norm of the same kind with 1/p + 1/q = 1."""
        return dataclasses.replace(self, p=conjugate_exponent(self.p))

    def __repr__(self) -> str:
        """As in `norms.l2`."""
        return f"norms.{self.name}"

    def value(self, x: Any) -> jax.Array:
        """The lp norm of the magnitudes; see :meth:`Norm.value`."""
        trees.check_floating("x", x)
        return _value(self, x)

    def lmo(self, g: Any) -> Any:
        """Keeps every direction of ``g`` and changes the magnitudes; see :meth:`Norm.lmo`."""
        trees.check_floating("g", g)
        parts = self._parts(g)
        # Rounding noise would, for p = inf, come back at full size in a random direction ...
        a = [jnp.where(part.magnitudes <= part.noise, 0, part.magnitudes) for part in parts]
        if self.p == 1:  # ... and, for p = 1, decide between equal magnitudes.
            top = _magnitudes.largest(a)
            a = [jnp.where(b + part.noise >= top, top, b) for b, part in zip(a, parts, strict=True)]
        return _rebuild(parts, _magnitudes.lmo(self.p, a, [part.weight for part in parts]), g)

    def project(self, x: Any, radius: float | jax.Array = 1.0) -> Any:
        """Keeps every direction of ``x`` and projects the magnitudes; see :meth:`Norm.project`."""
        trees.check_floating("x", x)
        check_nonnegative("radius", radius)
        parts = self._parts(x)
        a, c = [part.magnitudes for part in parts], [part.weight for part in parts]
        r = jnp.asarray(radius, jnp.result_type(*a))
        r = jnp.where(r >= 0, r, jnp.nan)
        inside = _magnitudes.value(self.p, a, c) <= r
        moved = _rebuild(parts, _projections.project(self.p, a, c, r), x)
        # What is inside is not even taken apart and rebuilt: no rounding.
        return jax.tree.map(lambda old, new: jnp.where(inside, old, new), x, moved)

    def _parts(self, tree: Any) -> list[Parts]:
        return [self._take_apart(leaf) for leaf in jax.tree.leaves(trees.promote(tree))]


def _rebuild(parts: list[Parts], magnitudes: list[jax.Array], like: Any) -> Any:
    """A tree of the structure, dtypes and shardings of `like` with these magnitudes."""
    leaves, structure = jax.tree.flatten(like)
    new = [part.rebuild(a) for part, a in zip(parts, magnitudes, strict=True)]
    new = [shard_like(leaf, old) for leaf, old in zip(new, leaves, strict=True)]
    return trees.cast_like(structure.unflatten(new), like)


# The derivative is given by hand: a subgradient that exists at zero, at ties and at zero Fourier
# coefficients, where differentiating the formula gives NaN. It also spares the SVD's derivative.
@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _value(norm: DecomposedNorm, x: Any) -> jax.Array:
    parts = norm._parts(x)
    total = _magnitudes.value(
        norm.p, [part.magnitudes for part in parts], [part.weight for part in parts]
    )
    # An FFT or SVD of an infinite entry is NaN everywhere.
    top = _magnitudes.largest([jnp.abs(leaf) for leaf in jax.tree.leaves(trees.promote(x))])
    dtype = jnp.result_type(*jax.tree.leaves(x))
    return jnp.where(top == jnp.inf, top, total).astype(dtype)


@_value.defjvp
def _value_jvp(norm, primals, tangents):
    (x,), (x_dot,) = primals, tangents
    y = _value(norm, x)
    return y, trees.dot(norm.dual.lmo(x), x_dot).astype(y.dtype)


def exponent(p: Any) -> float:
    """``p`` as a float; TypeError if it is no real number, or a traced one."""
    try:
        if isinstance(p, str | bytes | bool) or np.ndim(p) != 0:
            raise TypeError
        return float(p)
    except (TypeError, ValueError):  # JAX's error of a traced number is a TypeError, too
        raise TypeError(f"p must be a known real number, got {p!r}") from None


def conjugate_exponent(p: float) -> float:
    """The q with 1/p + 1/q = 1; its own inverse for fractions of numbers up to a million."""
    if p == 1 or p == math.inf:
        return math.inf if p == 1 else 1.0
    # In fractions 10 becomes 10/9 and comes back; in floating point, 10.000000000000002 does.
    fraction = Fraction(p).limit_denominator(10**6)
    if float(fraction) == p:
        return float(fraction / (fraction - 1))
    return p / (p - 1)


def exponent_name(p: float) -> str:
    """``"1"``, ``"1.5"``, ``"inf"``."""
    return "inf" if p == math.inf else f"{p:.6g}"
