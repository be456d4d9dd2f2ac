"""The `Norm` interface: what a norm must be able to do for the rest of the library."""

import abc
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust import trees
from jaxrobust.norms import _boxes

# Of ball and box: how strongly they pull towards each other, against the pull of the point that is
# projected; and how far a sweep goes along what is maximised, in units of what is best without a
# box. Tried for black, white and grey images, near and far: from half to twice of it is as good.
_PULL, _ALONG = 5.0, 0.2


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

    def project_in_box(
        self, x: Any, radius: float | jax.Array, lower: Any, upper: Any, *, num_sweeps: int = 50
    ) -> Any:
        r"""Projection on the part of the ball that is in a box: :math:`\|u\|\le r,\ l\le u\le h`.

        For lp norms it is the exact Euclidean projection. For other norms it is what up to
        ``num_sweeps`` alternating projections (ADMM) come to, scaled down until it is in the ball:
        the result is always in both, and near the projection.

        Args:
          x: the vector to project.
          radius: scalar, 0 or more.
          lower: lower ends, 0 or less, as ``x`` or broadcasting against each of its leaves;
            ``-inf`` for none.
          upper: upper ends, 0 or more, likewise.
          num_sweeps: of alternating projections, at most; fewer where nothing changes any more.

        There is no derivative of it in reverse mode, nor a right one in forward mode.
        """
        wide, lower, upper = check_box("x", x, radius, lower, upper)
        return trees.cast_like(_nearest(self, wide, radius, lower, upper, num_sweeps), x)

    def lmo_in_box(
        self, g: Any, radius: float | jax.Array, lower: Any, upper: Any, *, num_sweeps: int = 100
    ) -> Any:
        r"""Maximiser of :math:`\langle u, g\rangle` over :math:`\|u\|\le r,\ l\le u\le h`.

        Exact for lp norms. For other norms it is near the maximiser, always in ball and box, by
        alternating projections as in :meth:`project_in_box`.

        Args:
          g: the direction.
          radius: scalar, 0 or more.
          lower: lower ends, 0 or less, as in :meth:`project_in_box`.
          upper: upper ends, 0 or more.
          num_sweeps: of alternating projections, at most.

        There is no derivative of it.
        """
        memory = self.memory_in_box(g)
        return self.lmo_in_box_after(memory, g, radius, lower, upper, num_sweeps=num_sweeps)[0]

    def memory_in_box(self, g: Any) -> Any:
        """What :meth:`lmo_in_box_after` begins with; nothing where the maximiser is exact."""
        nothing = jax.tree.map(jnp.zeros_like, trees.promote(g))
        return nothing, nothing

    def lmo_in_box_after(
        self,
        memory: Any,
        g: Any,
        radius: float | jax.Array,
        lower: Any,
        upper: Any,
        *,
        num_sweeps: int = 100,
    ) -> tuple[Any, Any]:
        """:meth:`lmo_in_box` for one of many directions, and the memory for the next one.

        Where one is much like the one before, as on the way of an attack, few sweeps are enough.
        """
        wide, lower, upper = check_box("g", g, radius, lower, upper)
        memory = trees.vary_like(memory, (wide, lower, upper))
        found, memory = _maximise(self, memory, wide, radius, lower, upper, num_sweeps)
        return trees.cast_like(found, g), memory


# Compiled as one, as is `_maximise`: called eagerly, the loop would be compiled anew at every call.
@functools.partial(jax.jit, static_argnums=0)
def _nearest(norm: Norm, x: Any, radius: Any, lower: Any, upper: Any, num_sweeps: Any) -> Any:
    clipped, in_ball = jax.tree.map(jnp.clip, x, lower, upper), norm.project(x, radius)
    towards = lambda pulled: jax.tree.map(lambda to, by: (to + _PULL * by) / (1 + _PULL), x, pulled)
    is_box_enough = norm.value(clipped) <= radius
    sweeps = jnp.where(is_box_enough, 0, num_sweeps)
    memory = in_ball, jax.tree.map(jnp.zeros_like, in_ball)
    both, _ = _in_both(norm, towards, in_ball, memory, radius, lower, upper, sweeps)
    return _choose(is_box_enough, clipped, both)


@functools.partial(jax.jit, static_argnums=0)
def _maximise(
    norm: Norm, memory: Any, g: Any, radius: Any, lower: Any, upper: Any, num_sweeps: Any
) -> tuple[Any, Any]:
    best = trees.scale(jnp.asarray(radius), norm.lmo(g))
    length = trees.l2_norm(g)
    # Of length 1 first: the quotient of a large radius and a vanishing gradient overflows.
    unit = jax.tree.map(lambda leaf: leaf / jnp.where(length > 0, length, 1), g)
    far = _ALONG * trees.l2_norm(best)
    towards = lambda pulled: trees.add(pulled, unit, weight=far)
    return _in_both(norm, towards, best, memory, radius, lower, upper, num_sweeps)


def _in_both(
    norm: Norm,
    towards: Any,
    in_ball: Any,
    memory: Any,
    radius: Any,
    lower: Any,
    upper: Any,
    num_sweeps: Any,
) -> tuple[Any, Any]:
    """``in_ball``, the best of the ball, where the box has it; else one that is in both."""
    is_ball_enough = jnp.asarray(True)
    for leaf, low, high in zip(*map(jax.tree.leaves, (in_ball, lower, upper)), strict=True):
        is_ball_enough &= jnp.all((leaf >= low) & (leaf <= high))
    ball = lambda z: norm.project(z, radius)
    sweeps = jnp.where(is_ball_enough, 0, num_sweeps)
    found, memory = _boxes.alternate(ball, towards, memory, lower, upper, sweeps)
    size = norm.value(found)
    factor = jnp.where(size > radius, radius / jnp.where(size > 0, size, 1), 1)
    found = jax.tree.map(lambda leaf: factor * leaf, found)
    return _choose(is_ball_enough, in_ball, found), memory


def _choose(which: jax.Array, one: Any, other: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(which, a, b), one, other)


def check_box(name: str, x: Any, radius: Any, lower: Any, upper: Any) -> tuple[Any, Any, Any]:
    """``x`` in float32 at least, and the ends of the box as trees like it."""
    trees.check_floating(name, x)
    check_nonnegative("radius", radius)
    wide = trees.promote(x)
    found = wide, _ends("lower", lower, wide, -1), _ends("upper", upper, wide, 1)
    # Inside of `shard_map` a loop changes all that it carries to what varies over devices.
    return trees.vary_like(found, jnp.asarray(radius))


def _ends(name: str, ends: Any, like: Any, sign: int) -> Any:
    leaves, structure = jax.tree.flatten(like)
    given = jax.tree.leaves(ends)
    if len(given) == 1:
        given = given * len(leaves)
    if len(given) != len(leaves):
        raise ValueError(f"{name} must be one array or a tree of {len(leaves)}, got {len(given)}")
    wide = []
    for end, leaf in zip(given, leaves, strict=True):
        known = jnp.asarray(end, leaf.dtype)
        if not trees.broadcasts_to(known.shape, leaf.shape):
            raise ValueError(f"{name} must broadcast to {leaf.shape}, got {known.shape}")
        # What was given: under jit even a known array becomes traced by what is done to it.
        if not isinstance(end, Tracer) and not np.all(sign * np.asarray(end) >= 0):
            side = "0 or less" if sign < 0 else "0 or more"
            raise ValueError(f"{name} must be {side}, for the box must contain zero, got {end}")
        wide.append(jnp.broadcast_to(known, leaf.shape))
    return structure.unflatten(wide)


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
