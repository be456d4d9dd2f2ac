"""lp norms of the unitary discrete Fourier transform of real signals."""

import dataclasses
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.norms._base import Norm
from jaxrobust.norms._decomposed import DecomposedNorm, Parts
from jaxrobust.norms._lp import Lp
from jaxrobust.norms._sharding import unshard


@dataclasses.dataclass(frozen=True, repr=False)
class Fourier(DecomposedNorm):
    """The lp norm of the unitary DFT over ``axes``; see :func:`fourier`."""

    axes: tuple[int, ...] = (-1,)

    @property
    def name(self) -> str:
        """``"Fourier-l1"``, ``"Fourier-linf(axes=(0, 1))"``."""
        base = f"Fourier-{Lp(self.p).name}"
        return base if self.axes == (-1,) else f"{base}(axes={self.axes})"

    def _take_apart(self, leaf: jax.Array) -> Parts:
        axes = resolve_axes(self.axes, leaf.ndim)
        last, length = axes[-1], leaf.shape[axes[-1]]
        spectrum = half_spectrum(unshard(leaf, axes), axes)
        magnitudes = jnp.abs(spectrum)
        # The zero coefficient has no phase; 0 keeps the result real and free of NaN.
        is_zero = magnitudes == 0
        phase = jnp.where(is_zero, 0, spectrum / jnp.where(is_zero, 1, magnitudes))
        weight = along(multiplicity(length), last, leaf.ndim).astype(leaf.dtype)

        def rebuild(changed):
            return from_half_spectrum(phase * changed, axes, length)

        return Parts(magnitudes, weight, rounding_noise(magnitudes, weight, axes), rebuild)


def fourier(norm: Norm, axes: tuple[int, ...] | int = (-1,)) -> Fourier:
    r"""The norm :math:`\|F x\|_p` of the unitary discrete Fourier transform of a real signal.

    :math:`F` is the DFT with ``norm="ortho"`` over ``axes``, so :math:`\|Fx\|_2=\|x\|_2`, and all N
    coefficients count (only half of them are computed; a conjugate pair counts twice).
    ``fourier(l1)`` and ``fourier(linf)`` are dual.

    Args:
      norm: the lp norm taken over the coefficients' moduli, as made by :func:`lp`.
      axes: axes of the transform: ``(-1,)`` for signals, ``(0, 1)`` for one image of shape
        ``(H, W, C)``, each channel on its own. Odd and even lengths. On a pytree every leaf is
        transformed and all coefficients count together.

    Returns:
      A :class:`~jaxrobust.norms.Norm`. Its ``lmo`` for p = inf moves every frequency by the phase
      of ``g``, except those within rounding errors of zero, which have none; for p = 1 it is a
      single sinusoid, at the lowest of the strongest frequencies.

    Raises:
      TypeError: if ``norm`` is not an lp norm. ValueError: if axes repeat; at call time, if a leaf
        lacks an axis.

    Source:
      Faghri et al., "Bridging the gap between adversarial robustness and optimization bias",
      arXiv:2102.08868, for the threat model; the closed forms follow from the transform being
      unitary.
    """
    if not isinstance(norm, Lp):
        raise TypeError(f"norm must be an lp norm such as norms.l1 or norms.lp(3), got {norm!r}")
    listed = axes if isinstance(axes, (tuple, list)) else (axes,)
    # In order, so that norms that are equal compare equal.
    ordered = tuple(sorted(operator.index(axis) for axis in listed))
    if not ordered or len(set(ordered)) < len(ordered):
        raise ValueError(f"axes must name at least one axis, each once, got {axes}")
    return Fourier(norm.p, ordered)


def resolve_axes(axes: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """``axes`` as non-negative numbers in order, checked against an array of ``ndim`` axes."""
    wanted = f"axes {axes} of the Fourier norm"
    for axis in axes:
        if not -ndim <= axis < ndim:
            raise ValueError(f"{wanted} do not fit an array with {ndim} axes")
    resolved = tuple(sorted(axis % ndim for axis in axes))
    if len(set(resolved)) < len(resolved):
        raise ValueError(f"{wanted} name one axis of an array with {ndim} axes twice")
    return resolved


def multiplicity(length: int) -> np.ndarray:
    """How many of ``length`` coefficients each of the rfft's stands for: 1 at DC, Nyquist, or 2."""
    counts = np.full(length // 2 + 1, 2.0)
    counts[0] = 1
    if length % 2 == 0:
        counts[-1] = 1
    return counts


def rounding_noise(magnitudes: jax.Array, weight: np.ndarray, axes: tuple[int, ...]) -> jax.Array:
    """What a coefficient that should be zero may come out as, for each transform over ``axes``."""
    # One coefficient of a unitary FFT carries a rounding error of about
    # eps * ||x||_2 / sqrt(N) * log2(N)^0.5; eps * ||x||_2 is a few of these. Scaled by the largest,
    # its square neither overflows (and would call all noise) nor vanishes.
    top = jnp.max(magnitudes, axis=axes, keepdims=True)
    unit = jnp.where(top > 0, top, 1)
    total = jnp.sum(weight * (magnitudes / unit) ** 2, axis=axes, keepdims=True)
    return jnp.finfo(magnitudes.dtype).eps * unit * jnp.sqrt(total)


def half_spectrum(x: Any, axes: tuple[int, ...]) -> jax.Array:
    """Unitary DFT over ``axes`` of a real array, the redundant half of the last axis left out."""
    spectrum = jnp.fft.rfft(x, axis=axes[-1], norm="ortho")
    for axis in axes[:-1]:
        spectrum = jnp.fft.fft(spectrum, axis=axis, norm="ortho")
    return spectrum


def from_half_spectrum(spectrum: jax.Array, axes: tuple[int, ...], length: int) -> jax.Array:
    """The real array whose spectrum is the Hermitian part of ``spectrum``.

    Inverse of :func:`half_spectrum`.
    """
    for axis in axes[:-1]:
        spectrum = jnp.fft.ifft(spectrum, axis=axis, norm="ortho")
    # After the inverse transforms of the other axes, the DC and Nyquist columns of a Hermitian
    # spectrum are real. A single coefficient of a conjugate pair inside such a column is not
    # Hermitian; taking the real part shares it between the two, which is what the lmo wants. Done
    # by hand: FFT libraries differ on such input.
    has_imaginary = along(multiplicity(length) - 1, axes[-1], spectrum.ndim)
    imaginary = spectrum.imag * has_imaginary.astype(spectrum.real.dtype)
    spectrum = jax.lax.complex(spectrum.real, imaginary)
    return jnp.fft.irfft(spectrum, n=length, axis=axes[-1], norm="ortho")


def along(values: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    """A vector as an array of `ndim` axes that lies along `axis` and broadcasts over the others."""
    return values.reshape([-1 if index == axis else 1 for index in range(ndim)])
