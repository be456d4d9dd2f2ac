"""Linear classifiers, of which the best attack is known, and small networks of which it is not."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import norms
from tests.norms.oracles import Truth


class Case(NamedTuple):
    norm: norms.Norm
    truth: Truth
    shape: tuple[int, ...]


def _fourier(p, axes, shape):
    return Case(norms.fourier(norms.lp(p), axes), Truth(p, "spectrum", axes), shape)


CASES: dict[str, Case] = {
    **{
        f"l{p:g}": Case(norms.lp(p), Truth(p), (20,))
        for p in (1, 1.5, 2, 3, math.inf)
    },
    "fourier-l1": _fourier(1, (-1,), (20,)),
    "fourier-linf": _fourier(math.inf, (-1,), (21,)),
    "fourier-l3": _fourier(3, (-1,), (20,)),
    "fourier-l1-image": _fourier(1, (0, 1), (4, 5, 2)),
    "fourier-linf-image": _fourier(math.inf, (0, 1), (5, 4, 2)),
}  # fmt: skip
IN_BOX = ("l1", "l1.5", "l2", "l3", "linf")


def linear(params, x):
    """Scores ``(B, C)`` of weights ``(C, *features)``."""
    return jnp.einsum("bf,cf->bc", x.reshape(len(x), -1), params.reshape(len(params), -1))


def binary(params, x):
    """Scores of one vector of weights: minus and plus half of the inner product."""
    score = jnp.einsum("bf,f->b", x.reshape(len(x), -1), params.reshape(-1)) / 2
    return jnp.stack([-score, score], axis=1)


def examples(shape, number=6, num_classes=2, seed=0):
    """Weights ``(num_classes, *shape)``, inputs in [0, 1], the labels they get, and radii."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(num_classes, *shape))
    x = rng.uniform(0.1, 0.9, size=(number, *shape))
    y = np.asarray(linear(w, x)).argmax(axis=1)
    return w, x, y, rng.uniform(0.05, 0.3, number)


def network(key, widths=(20, 16, 16, 3)):
    """Params of a small ReLU network."""
    keys = jax.random.split(key, len(widths) - 1)
    shapes = list(zip(widths, widths[1:], strict=False))
    return [jax.random.normal(k, s) * (2 / s[0]) ** 0.5 for k, s in zip(keys, shapes, strict=True)]


def relu_network(params, x):
    """Scores of it."""
    x = x.reshape(len(x), -1)
    for matrix in params[:-1]:
        x = jax.nn.relu(x @ matrix)
    return x @ params[-1]
