"""Coordinates in which a norm is a norm of group norms, as the interior-point method needs it."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.linear._balls import Ball, MaxBall, SumBall
from jaxrobust.norms import Fourier, Lp, Norm


def has_group_form(norm: Norm) -> bool:
    """Whether :func:`group_coordinates` covers the norm: l1, l2, linf and their Fourier forms."""
    return isinstance(norm, (Lp, Fourier)) and norm.p in (1, 2, math.inf)


def group_coordinates(
    norm: Norm, shape: tuple[int, ...], dtype: Any
) -> tuple[Callable[[jax.Array], jax.Array], Ball]:
    """An orthonormal map from an example of ``shape`` to ``(G, k)``, and the norm's ball there."""
    size = math.prod(shape)
    if not isinstance(norm, (Lp, Fourier)):
        raise TypeError(f"norm {norm.name} has no group form")
    if norm.p == 2:  # also of the spectrum, by Parseval
        return (lambda v: v.reshape(1, size)), MaxBall(jnp.ones(1, dtype))
    ball = SumBall if norm.p == 1 else MaxBall
    if isinstance(norm, Lp):
        return (lambda v: v.reshape(size, 1)), ball(jnp.ones(size, dtype))
    axes = tuple(axis % len(shape) for axis in norm.axes)
    kept, doubled = _independent_frequencies(shape, axes)
    # A coefficient Z that stands for the pair (Z, conj Z) becomes two real coordinates
    # sqrt(2) (Re Z, Im Z), so its share 2 |Z| of the l1 norm is sqrt(2) times their length; a
    # coefficient of its own is real.
    root = np.where(doubled, math.sqrt(2.0), 1.0)

    def rotate(v):
        spectrum = v
        for axis in axes:
            spectrum = jnp.fft.fft(spectrum, axis=axis, norm="ortho")
        z = spectrum.reshape(-1)[kept] * root.astype(dtype)
        return jnp.stack([z.real, z.imag], axis=-1)

    return rotate, ball(jnp.asarray(root, dtype))


def _independent_frequencies(
    shape: tuple[int, ...], axes: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices of one coefficient of every conjugate pair, and whether it stands for two."""
    index = np.arange(math.prod(shape)).reshape(shape)
    mirrored = index
    for axis in axes:
        mirrored = np.roll(np.flip(mirrored, axis=axis), 1, axis=axis)  # coefficient k -> -k
    index, mirrored = index.reshape(-1), mirrored.reshape(-1)
    kept = index[index <= mirrored]
    return kept, mirrored[kept] != kept
