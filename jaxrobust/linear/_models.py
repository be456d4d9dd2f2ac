"""Linear predictors in several parametrisations: same functions, other paths of descent."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import trees

_HIGHEST = jax.lax.Precision.HIGHEST


@dataclasses.dataclass(frozen=True)
class LinearModel:
    """A parametrisation of linear functions of d features; made by :func:`plain` and its siblings.

    All members are pure functions, so they may be jitted, vmapped and differentiated:

    - ``init(key, scale=...)``: parameters, a tuple of float32 arrays;
    - ``apply(params, x)``: scores ``(n,)`` of examples ``x (n, d)``, computed layer by layer;
    - ``predictor(params)``: the one vector ``(d,)`` with the same scores,
      ``apply(params, x) == x @ predictor(params)``, in the dtype of the parameters.
    """

    name: str
    num_features: int
    depth: int
    init: Callable[..., Any]
    apply: Callable[[Any, jax.Array], jax.Array]
    predictor: Callable[[Any], jax.Array]

    def __repr__(self) -> str:
        return f"linear.{self.name}(num_features={self.num_features}, depth={self.depth})"


def plain(num_features: int) -> LinearModel:
    r"""One weight vector, :math:`f(x)=\langle w,x\rangle`.

    ``init`` draws normal weights times ``scale`` (default 0).

    Raises:
      ValueError: if ``num_features`` is not positive.
    """
    _check_sizes(num_features=num_features)

    def init(key, scale=0.0):
        return (scale * jax.random.normal(key, (num_features,), jnp.float32),)

    return LinearModel(
        "plain",
        num_features,
        1,
        init,
        lambda params, x: _matvec(x, params[0]),
        lambda params: params[0],
    )


def fully_connected(num_features: int, *, depth: int = 2, width: int | None = None) -> LinearModel:
    r"""Deep linear network :math:`f(x) = w_L^\top W_{L-1}\cdots W_1 x`.

    ``init`` draws every layer normal with standard deviation ``scale / sqrt(fan_in)`` (default
    scale 0.1), so that the predictor starts near ``scale**depth``.

    Args:
      num_features: d.
      depth: number L of layers, 1 or more.
      width: hidden units; d if None.

    Raises:
      ValueError: if a size is not positive.
    """
    width = num_features if width is None else width
    _check_sizes(num_features=num_features, depth=depth, width=width)
    sizes = [num_features] + [width] * (depth - 1)

    def init(key, scale=0.1):
        keys = jax.random.split(key, depth)
        shapes = [(width, fan_in) for fan_in in sizes[:-1]] + [(sizes[-1],)]
        return tuple(
            scale / jnp.sqrt(float(shape[-1])) * jax.random.normal(k, shape, jnp.float32)
            for k, shape in zip(keys, shapes, strict=True)
        )

    def apply(params, x):
        *hidden, last = params
        for matrix in hidden:
            x = jnp.matmul(x, matrix.T, precision=_HIGHEST)
        return _matvec(x, last)

    def predictor(params):
        *hidden, last = params
        for matrix in reversed(hidden):
            last = _matvec(matrix.T, last)
        return last

    return LinearModel("fully_connected", num_features, depth, init, apply, predictor)


def diagonal(num_features: int, *, depth: int = 2) -> LinearModel:
    r"""Diagonal network :math:`f(x)=\sum_j (u_j^L - v_j^L)x_j`.

    ``init`` sets all entries of u and v to ``scale`` (default 0.01; no randomness), so the
    predictor starts at zero. A small scale is the rich regime (towards l1 for L = 2), a large one
    the kernel regime (towards l2).

    Raises:
      ValueError: if a size is not positive.
    """
    _check_sizes(num_features=num_features, depth=depth)

    def init(key, scale=0.01):
        del key
        return (
            jnp.full(num_features, scale, jnp.float32),
            jnp.full(num_features, scale, jnp.float32),
        )

    def predictor(params):
        return params[0] ** depth - params[1] ** depth

    def apply(params, x):
        positive, negative = (factor ** (depth - 1) for factor in params)  # all layers but the last
        hidden_positive, hidden_negative = x * positive[None, :], x * negative[None, :]
        return _matvec(hidden_positive, params[0]) - _matvec(hidden_negative, params[1])

    return LinearModel("diagonal", num_features, depth, init, apply, predictor)


def convolution(num_features: int, *, depth: int = 2) -> LinearModel:
    r"""Linear network of full-width circular convolutions, last layer a dot product.

    .. math:: h_l[i] = D^{-1/2}\sum_k w_l[k]\, h_{l-1}[(i+k)\bmod D],
              \qquad f(x)=\langle w_L, h_{L-1}\rangle .

    In the unitary Fourier domain a layer multiplies by the conjugate of its spectrum, so the
    predictor's spectrum is the product of the layers' spectra. ``init`` draws normal layers with
    standard deviation ``scale / sqrt(D)`` (default scale 1: unit layers).

    Args:
      num_features: D, the length of the signal.
      depth: number of layers, 1 or more.

    Raises:
      ValueError: if a size is not positive.

    Source:
      Gunasekar et al., "Implicit Bias of Gradient Descent on Linear Convolutional Networks", 2018,
      arXiv:1806.00468.
    """
    _check_sizes(num_features=num_features, depth=depth)

    def init(key, scale=1.0):
        keys = jax.random.split(key, depth)
        deviation = scale / num_features**0.5
        return tuple(deviation * jax.random.normal(k, (num_features,), jnp.float32) for k in keys)

    def apply(params, x):
        *hidden, last = params
        index = (
            jnp.arange(num_features)[:, None] + jnp.arange(num_features)[None, :]
        ) % num_features
        for kernel in hidden:
            # (n, D, D) windows: slow and literal. Train through `predictor`, which is an FFT.
            x = jnp.tensordot(x[:, index], kernel, axes=1, precision=_HIGHEST) / num_features**0.5
        return _matvec(x, last)

    def predictor(params):
        # There is no FFT of narrower dtypes than float32.
        first, *rest = (jnp.fft.rfft(kernel, norm="ortho") for kernel in trees.promote(params))
        product = functools.reduce(jnp.multiply, rest, first)
        product = jnp.fft.irfft(product, n=num_features, norm="ortho")
        return product.astype(jnp.result_type(*params))

    return LinearModel("convolution", num_features, depth, init, apply, predictor)


def _matvec(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    return jnp.matmul(matrix, vector, precision=_HIGHEST)


def is_size(size: Any) -> bool:
    """Whether it is a whole number of at least 1, of Python or of NumPy."""
    return isinstance(size, int | np.integer) and not isinstance(size, bool) and int(size) >= 1


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if not is_size(size):
            raise ValueError(f"{name} must be an integer of at least 1, got {size!r}")
