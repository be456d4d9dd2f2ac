"""Fourier norms in which every frequency has a radius of its own."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import trees
from jaxrobust.norms._base import Norm, check_nonnegative
from jaxrobust.norms._fourier import (
    along,
    fourier,
    from_half_spectrum,
    half_spectrum,
    multiplicity,
    resolve_axes,
    rounding_noise,
)
from jaxrobust.norms._lp import Lp
from jaxrobust.norms._projections import project_weighted_l1
from jaxrobust.norms._sharding import shard_like, unshard

_NOISES = 8.0  # coefficients up to so many rounding errors count as zero


class Weights:
    """An array that is compared and hashed by what it holds, for norms are static."""

    def __init__(self, values: Any):
        """Copies them; they cannot be changed."""
        self.values = np.array(values, np.float64)
        self.values.flags.writeable = False
        self._key = self.values.shape, self.values.tobytes()

    def __eq__(self, other: object) -> bool:
        """Whether shapes and numbers are the same."""
        return isinstance(other, Weights) and self._key == other._key

    def __hash__(self) -> int:
        """Of shape and numbers."""
        return hash(self._key)


@dataclasses.dataclass(frozen=True, repr=False)
class FourierBands(Norm):
    """A weighted l1 or linf norm of the unitary DFT; see :func:`fourier_bands`."""

    p: float
    axes: tuple[int, ...]
    # What each coefficient of the half spectrum is multiplied by: infinite where it must be zero,
    # zero where it is free.
    weights: Weights
    length: int  # of the last axis, of which half of the spectrum is there

    @property
    def name(self) -> str:
        """``"Fourier-linf, bands, 5 of 9 frequencies"``, of the half spectrum."""
        number = np.isfinite(self.weights.values).sum()
        told = f"{number} of {self.weights.values.size} frequencies"
        return f"Fourier-{Lp(self.p).name}, bands, {told}"

    @property
    def has_fixed(self) -> bool:
        """Whether there are frequencies of radius 0."""
        return bool(np.isinf(self.weights.values).any())

    @property
    def dual(self) -> "FourierBands":
        """The other exponent, with the inverse weights."""
        p = 1.0 if self.p == math.inf else math.inf
        with np.errstate(divide="ignore"):
            return FourierBands(p, self.axes, Weights(1 / self.weights.values), self.length)

    def __repr__(self) -> str:
        """As in ``norms.fourier_bands(norms.linf, ...)``."""
        return f"norms.fourier_bands(norms.{Lp(self.p).name}, ..., axes={self.axes})"

    def value(self, x: Any) -> jax.Array:
        """The norm of the weighted moduli; infinite if a frequency of radius 0 is there."""
        trees.check_floating("x", x)
        return _value(self, x)

    def lmo(self, g: Any) -> Any:
        """Moves every frequency by its radius (linf), or the one that gains most (l1).

        Of the dual's free frequencies, along which there is no maximum, nothing is moved.
        """
        trees.check_floating("g", g)
        leaves, structure = jax.tree.flatten(trees.promote(g))
        parts = self.parts(leaves)
        gains = [
            jnp.where(part.magnitudes <= part.noise, 0, part.magnitudes) * part.radii
            for part in parts
        ]
        if self.p == math.inf:
            sizes = [jnp.sign(gain) * part.radii for gain, part in zip(gains, parts, strict=True)]
        else:
            sizes = self._one(parts, gains)
        new = [part.rebuild(size) for part, size in zip(parts, sizes, strict=True)]
        new = [shard_like(leaf, old) for leaf, old in zip(new, leaves, strict=True)]
        return trees.cast_like(structure.unflatten(new), g)

    def _one(self, parts: list["Part"], gains: list[jax.Array]) -> list[jax.Array]:
        """The first of those that gain most, up to rounding errors, at its radius."""
        top = jnp.max(jnp.stack([jnp.max(gain) for gain in gains]))
        sizes, is_placed = [], jnp.asarray(False)
        for part, gain in zip(parts, gains, strict=True):
            is_top = (gain + part.noise * part.radii >= top) & (gain > 0)
            flat = is_top.reshape(-1)
            is_first = jnp.arange(flat.size) == jnp.argmax(flat)
            here = (is_first & flat & ~is_placed).reshape(gain.shape)
            is_placed |= jnp.any(flat)
            sizes.append(jnp.where(here, part.radii / part.counts, 0) + 0 * top)
        return sizes

    def project(self, x: Any, radius: float | jax.Array = 1.0) -> Any:
        """Keeps phases and shrinks moduli; see :meth:`Norm.project`."""
        trees.check_floating("x", x)
        check_nonnegative("radius", radius)
        leaves, structure = jax.tree.flatten(trees.promote(x))
        parts = self.parts(leaves)
        r = jnp.asarray(radius, jnp.result_type(*leaves))
        r = jnp.where(r >= 0, r, jnp.nan)
        if self.p == math.inf:
            # Where a frequency is free no radius, not even 0, is one.
            limits = [jnp.where(part.weights == 0, jnp.inf, r * part.radii) for part in parts]
            sizes = [jnp.minimum(p.magnitudes, most) for p, most in zip(parts, limits, strict=True)]
        else:
            a = [jnp.where(part.is_fixed, 0, part.magnitudes) for part in parts]
            finite = [jnp.where(part.is_fixed, 0, part.weights) for part in parts]
            sizes = project_weighted_l1(a, [part.counts for part in parts], finite, r)
        inside = self.value(trees.promote(x)) <= r
        moved = [part.rebuild(size) for part, size in zip(parts, sizes, strict=True)]
        moved = [
            jnp.where(inside, old, shard_like(new, old))
            for new, old in zip(moved, leaves, strict=True)
        ]
        return trees.cast_like(structure.unflatten(moved), x)

    def parts(self, leaves: list[jax.Array]) -> list["Part"]:
        """The spectra of arrays in float32 at least."""
        return [self._take_apart(leaf) for leaf in leaves]

    def _take_apart(self, leaf: jax.Array) -> "Part":
        axes = resolve_axes(self.axes, leaf.ndim)
        last, length = axes[-1], leaf.shape[axes[-1]]
        sizes = tuple(leaf.shape[axis] for axis in axes[:-1])
        given = (*self.weights.values.shape[:-1], self.length)
        if given != (*sizes, length):
            raise ValueError(
                f"radii of the Fourier bands are for another size: they have shape {given}, but "
                f"axes {self.axes} of an array {leaf.shape} have {(*sizes, length)}"
            )
        shape = [leaf.shape[axis] if axis in axes else 1 for axis in range(leaf.ndim)]
        shape[last] = length // 2 + 1
        weights = self.weights.values.reshape(shape)
        spectrum = half_spectrum(unshard(leaf, axes), axes)
        magnitudes = jnp.abs(spectrum)
        is_zero = magnitudes == 0
        phase = jnp.where(is_zero, 0, spectrum / jnp.where(is_zero, 1, magnitudes))
        counts = along(multiplicity(length), last, leaf.ndim).astype(leaf.dtype)
        noise = rounding_noise(magnitudes, counts, axes)
        return Part(magnitudes, phase, counts, noise, weights.astype(leaf.dtype), axes, length)


@dataclasses.dataclass(frozen=True)
class Part:
    """The spectrum of a leaf."""

    magnitudes: jax.Array
    phase: jax.Array
    counts: np.ndarray  # coefficients that each stands for
    noise: jax.Array  # magnitudes up to this are rounding errors
    weights: np.ndarray
    axes: tuple[int, ...]
    length: int

    @property
    def is_fixed(self) -> np.ndarray:
        """Where a coefficient must be zero."""
        return np.isinf(self.weights)

    @property
    def radii(self) -> np.ndarray:
        """The inverse weights; 0 where a coefficient is free, for no step is long enough there."""
        is_free = self.weights == 0
        return np.where(is_free, 0, 1 / np.where(is_free, 1, self.weights)).astype(
            self.counts.dtype
        )

    def rebuild(self, magnitudes: jax.Array) -> jax.Array:
        """The array with these magnitudes and the phases as they are."""
        return from_half_spectrum(self.phase * magnitudes, self.axes, self.length)


# Its derivative is given by hand, as for the other norms: a subgradient where moduli are zero.
@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _value(norm: FourierBands, x: Any) -> jax.Array:
    leaves = jax.tree.leaves(trees.promote(x))
    parts = norm.parts(leaves)
    sizes = []
    for part in parts:
        is_there = part.magnitudes > _NOISES * part.noise
        finite = jnp.where(part.is_fixed, 0, part.weights) * part.magnitudes
        sizes.append(jnp.where(part.is_fixed & is_there, jnp.inf, finite))
    if norm.p == 1:
        total = sum(jnp.sum(part.counts * size) for part, size in zip(parts, sizes, strict=True))
    else:
        total = jnp.max(jnp.stack([jnp.max(size) for size in sizes]))
    # A comparison loses NaN.
    is_broken = functools.reduce(jnp.logical_or, [jnp.any(jnp.isnan(leaf)) for leaf in leaves])
    return jnp.where(is_broken, jnp.nan, total).astype(jnp.result_type(*jax.tree.leaves(x)))


@_value.defjvp
def _value_jvp(norm: FourierBands, primals: Any, tangents: Any):
    (x,), (x_dot,) = primals, tangents
    y = _value(norm, x)
    return y, trees.dot(norm.dual.lmo(x), x_dot).astype(y.dtype)


def fourier_bands(norm: Norm, radii: Any, axes: tuple[int, ...] | int = (-1,)) -> FourierBands:
    r"""A Fourier norm with a radius for each frequency: :math:`\|\,|Fx|_k / r_k\|_p`.

    Its ball of radius eps lets frequency k be changed by at most :math:`\epsilon r_k` (linf), or
    lets all together have :math:`\sum_k |Fx|_k / r_k \le \epsilon` (l1). A frequency of radius 0
    must not be touched: the norm is infinite where it is. With radii of 1 it is :func:`fourier`.

    Args:
      norm: :data:`l1` or :data:`linf`.
      radii: ``(N,)`` or, for several axes, ``(H, W)``, 0 or more: for each coefficient of
        ``np.fft.fftn`` over the axes, the same for k and -k; see :func:`frequencies`.
      axes: axes of the transform, in the order of the array's axes, as of :func:`fourier`.

    Returns:
      A :class:`~jaxrobust.norms.Norm`. Its dual, :math:`\|\,r_k |Fx|_k\|_q`, is zero on
      frequencies of radius 0, so that it is a seminorm.

    Raises:
      TypeError: for another norm. ValueError: for radii that are negative, not finite, all zero, or
        not symmetric; at call time, if they are for another size.

    Source:
      Faghri et al., arXiv:2102.08868, for Fourier threat models; radii by frequency follow from the
      transform being unitary.
    """
    if not isinstance(norm, Lp) or norm.p not in (1, math.inf):
        raise TypeError(f"norm must be norms.l1 or norms.linf, got {norm!r}")
    ordered = fourier(norm, axes).axes
    known = np.asarray(radii, np.float64)
    if known.ndim != len(ordered) or 0 in known.shape:
        raise ValueError(f"radii must have {len(ordered)} axes as axes={axes}, got {known.shape}")
    if not (np.isfinite(known).all() and (known >= 0).all() and known.any()):
        raise ValueError("radii must be 0 or more, finite, and not all zero")
    mirrored = known
    for axis in range(known.ndim):
        mirrored = np.roll(np.flip(mirrored, axis), 1, axis)
    if not np.array_equal(mirrored, known):
        raise ValueError("radii must be the same for k and -k, for signals are real")
    half = known[..., : known.shape[-1] // 2 + 1]
    with np.errstate(divide="ignore"):
        return FourierBands(norm.p, ordered, Weights(1 / half), known.shape[-1])


def frequencies(shape: int | tuple[int, ...]) -> np.ndarray:
    r"""``shape``: how fast each coefficient of ``np.fft.fftn`` oscillates, in cycles per sample.

    :math:`\sqrt{f_1^2 + f_2^2 + \dots}` with :math:`f` from 0 to 1/2 along each axis. With it
    ``radii = (low <= f) & (f < high)`` is a band.
    """
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    grids = np.meshgrid(*(np.fft.fftfreq(size) for size in sizes), indexing="ij")
    return np.sqrt(sum(grid**2 for grid in grids))
