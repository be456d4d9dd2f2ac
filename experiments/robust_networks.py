"""Small convolutional networks on images, trained plainly or against perturbations of a norm.

What the experiments and benchmarks about attacks share. Images are ``(H, W, channels)`` in [0, 1].
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrobust import attacks, sampling, training
from jaxrobust.data import Dataset
from jaxrobust.norms import Norm

BOUNDS = (0.0, 1.0)
Params = dict[str, jax.Array]


class Images(NamedTuple):
    """A data set with test examples."""

    x: jax.Array  # (N, H, W, channels) float32
    y: jax.Array  # (N,) int32
    x_test: jax.Array
    y_test: jax.Array


def images(dataset: Dataset, shape: Sequence[int], *, num_test: int) -> Images:
    """A data set as images of one shape, with so many test examples, drawn at random."""
    number = len(dataset.y_test)
    rows = np.random.default_rng(0).permutation(number)[:num_test]
    as_images = lambda z: jnp.asarray(np.asarray(z, np.float32).reshape(-1, *shape))
    as_labels = lambda z: jnp.asarray(np.asarray(z, np.int32))
    return Images(
        as_images(dataset.x_train),
        as_labels(dataset.y_train),
        as_images(dataset.x_test)[rows],
        as_labels(dataset.y_test)[rows],
    )


def init(
    key: jax.Array,
    shape: Sequence[int],
    *,
    widths: Sequence[int] = (32,),
    hidden: int = 64,
    num_classes: int = 10,
) -> Params:
    """He's normal weights: 3x3 convolutions of stride 2, a hidden layer, scores."""
    params: Params = {}
    height, width, channels = shape
    for number, wide in enumerate(widths):
        key, own = jax.random.split(key)
        params[f"kernel{number}"] = _normal(own, (3, 3, channels, wide))
        params[f"bias{number}"] = jnp.zeros(wide)
        height, width, channels = (height - 1) // 2, (width - 1) // 2, wide
    first, last = jax.random.split(key)
    params["hidden"] = _normal(first, (height * width * channels, hidden))
    params["hidden_bias"] = jnp.zeros(hidden)
    params["last"] = _normal(last, (hidden, num_classes))
    params["last_bias"] = jnp.zeros(num_classes)
    return params


def _normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.normal(key, shape) * (2 / np.prod(shape[:-1])) ** 0.5


def predict(params: Params, x: Any) -> jax.Array:
    """Scores ``(B, classes)``."""
    x = jnp.asarray(x)
    number = 0
    while f"kernel{number}" in params:
        x = jax.lax.conv_general_dilated(
            x, params[f"kernel{number}"], (2, 2), "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        x = jax.nn.relu(x + params[f"bias{number}"].reshape(1, 1, 1, -1))
        number += 1
    x = x.reshape(len(x), -1)
    hidden = jax.nn.relu(x @ params["hidden"] + params["hidden_bias"].reshape(1, -1))
    return hidden @ params["last"] + params["last_bias"].reshape(1, -1)


def loss_fn(params: Params, example: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Cross-entropy of one image."""
    x, y = example
    return optax.softmax_cross_entropy_with_integer_labels(predict(params, x[None])[0], y)


def trained(
    found: Images,
    params: Params,
    *,
    norm: Norm | str | None,
    eps: float = 0.0,
    num_steps: int = 600,
    batch_size: int = 128,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> Params:
    """Params after Adam; with a norm, on images that 7 steps of PGD have perturbed."""
    optimizer = optax.adam(learning_rate)
    sampler = sampling.uniform(len(found.x), batch_size)
    state = training.init(params, optimizer, sampler, key=jax.random.key(seed))
    transform = None if norm is None else hardening(norm, eps)
    state, _ = training.train(
        loss_fn, optimizer, state, (found.x, found.y), num_steps,
        transform=transform, log_every=num_steps,
    )  # fmt: skip
    return state.params


def hardening(norm: Norm | str, eps: float) -> training.Transform:
    """For the training loop: adversarial images in place of the images."""
    adversary = attacks.adversary(predict, norm=norm, eps=eps, bounds=BOUNDS)

    def transform(key: jax.Array, params: Any, batch: Any) -> Any:
        x, y = batch
        return adversary(key, params, x, y), y

    return transform


@jax.jit
def accuracy(params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
    """Share of images with the right class."""
    return jnp.mean(jnp.argmax(predict(params, x), axis=1) == y)
