"""Threefry-2x32 in NumPy: the random stream that defines the golden data.

JAX draws from the same cipher, but how it lays out the counters depends on
``jax_threefry_partitionable``, and the default of that flag has changed once. Data that published
numbers rest on must not move with a flag, so the older layout ("not partitionable": the two halves
of ``0..size-1`` are the two counter words) is written out here. Nothing in this file calls JAX, so
x64, the PRNG implementation and the backend cannot matter.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (the
cipher, 20 rounds); Giles, "Approximating the erfinv function", GPU Computing Gems 2011 (the
single-precision polynomial of :func:`erfinv`).
"""

from __future__ import annotations

import numpy as np

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)
_CENTRAL = (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087,
    -0.00125372503, -0.00417768164, 0.246640727, 1.50140941,
)  # fmt: skip
_TAIL = (
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773,
    -0.0076224613, 0.00943887047, 1.00167406, 2.83297682,
)  # fmt: skip


def threefry2x32(
    key: np.ndarray, counters: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Encrypts pairs of 32-bit counters: 20 rounds of add, rotate, xor; key words after every four.

    Args:
      key: (2,) uint32.
      counters: two (n,) uint32 arrays, the first and the second word of n blocks.

    Returns:
      Two (n,) uint32 arrays, the words of the n encrypted blocks.
    """
    schedule = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    first, second = counters[0] + schedule[0], counters[1] + schedule[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            first = first + second
            second = first ^ (second << np.uint32(rotation) | second >> np.uint32(32 - rotation))
        first = first + schedule[(group + 1) % 3]
        second = second + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return first, second


def seed_key(seed: int) -> np.ndarray:
    """The key of a seed: (2,) uint32 with the seed in the second word; 0 <= seed < 2**32."""
    return np.array([0, seed], np.uint32)


def bits(key: np.ndarray, size: int) -> np.ndarray:
    """(size,) uint32: the counters 0..size-1, an odd size padded by one zero, cut into halves."""
    counters = np.arange(size + size % 2, dtype=np.uint32)
    counters[size:] = 0
    half = len(counters) // 2
    return np.concatenate(threefry2x32(key, (counters[:half], counters[half:])))[:size]


def split(key: np.ndarray, num: int) -> np.ndarray:
    """(num, 2) uint32: ``num`` new keys from one."""
    return bits(key, 2 * num).reshape(num, 2)


def uniform(key: np.ndarray, size: int) -> np.ndarray:
    """(size,) float32 in [0, 1), multiples of 2**-23: 23 bits as mantissa of a number in [1, 2)."""
    mantissa = bits(key, size) >> np.uint32(9) | np.uint32(0x3F800000)
    return mantissa.view(np.float32) - np.float32(1)


def normal(key: np.ndarray, size: int) -> np.ndarray:
    """(size,) float32, standard normal: sqrt(2) * erfinv(u) with u uniform on (-1, 1)."""
    # The open lower end is the float above -1; 2 is what (1 - low) rounds to in float32.
    low = np.nextafter(np.float32(-1), np.float32(0))
    u = np.maximum(low, uniform(key, size) * np.float32(2) + low)
    return np.float32(np.sqrt(2)) * erfinv(u)


def erfinv(u: np.ndarray) -> np.ndarray:
    """(n,) float32: Giles' single-precision inverse error function; |u| < 1."""
    # log1p keeps the digits that 1 - u*u would lose near 0. It is taken in double, because the
    # float32 versions of it differ between machines.
    w = -np.log1p(-(u * u).astype(np.float64)).astype(np.float32)
    central = _polynomial(_CENTRAL, w - np.float32(2.5))
    tail = _polynomial(_TAIL, np.sqrt(np.maximum(w, np.float32(5))) - np.float32(3))
    return np.where(w < np.float32(5), central, tail) * u


def _polynomial(coefficients: tuple[float, ...], x: np.ndarray) -> np.ndarray:
    """Horner's rule in float32 with one rounding per step, as a fused multiply-add gives it."""
    total = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        # A product of two float32 is exact in double. Rounding it too would change the last digit
        # of one draw in 20.
        total = (total.astype(np.float64) * x + np.float32(coefficient)).astype(np.float32)
    return total


def permutation(key: np.ndarray, size: int) -> np.ndarray:
    """(size,) int64: a permutation of 0..size-1, the order of 64 random bits per element."""
    first, second = split(key, 2)
    return np.lexsort((bits(second, size), bits(first, size)))
