"""Small classifiers trained by plain SGD, with a look at the weights on the way.

What the experiments on gradients of networks share. Parameters are plain lists, so that the loss
is a function of `(params, example)` and nothing else.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Data = tuple[jax.Array, jax.Array]  # inputs (N, ...), labels (N,) int32
LossFn = Callable[[Any, Any], jax.Array]


def mlp(sizes: Sequence[int], seed: int = 0) -> list[dict[str, jax.Array]]:
    """Weights of a ReLU network with so many inputs, hidden units, and classes (He et al.)."""
    generator = np.random.default_rng(seed)
    return [
        {
            "w": jnp.asarray(generator.normal(size=(i, o)) * np.sqrt(2 / i), jnp.float32),
            "b": jnp.zeros(o),
        }
        for i, o in zip(sizes, sizes[1:], strict=False)
    ]


def mlp_logits(params: Any, x: jax.Array) -> jax.Array:
    """Of one input, of any shape."""
    h = x.reshape(-1)
    for layer in params[:-1]:
        h = jax.nn.relu(h @ layer["w"] + layer["b"])
    return h @ params[-1]["w"] + params[-1]["b"]


def mlp_loss(params: Any, example: Any) -> jax.Array:
    """Cross-entropy of one example `(input, label)`."""
    return cross_entropy(mlp_logits(params, example[0]), example[1])


def cnn(channels: Sequence[int], side: int, classes: int, seed: int = 0) -> dict[str, Any]:
    """3x3 convolutions with stride 2 between so many channels, and a layer on all outputs."""
    generator = np.random.default_rng(seed)
    kernels = [
        jnp.asarray(generator.normal(size=(3, 3, i, o)) * np.sqrt(2 / (9 * i)), jnp.float32)
        for i, o in zip(channels, channels[1:], strict=False)
    ]
    for _ in kernels:
        side = -(-side // 2)
    return {"kernels": kernels, "last": mlp((side * side * channels[-1], classes), seed + 1)[0]}


def cnn_loss(params: Any, example: Any) -> jax.Array:
    """Cross-entropy of one example `(image, label)`."""
    x, label = example
    for kernel in params["kernels"]:
        x = jax.lax.conv_general_dilated(
            x[None], kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )[0]
        x = jax.nn.relu(x)
    return cross_entropy(x.reshape(-1) @ params["last"]["w"] + params["last"]["b"], label)


def cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Of one prediction."""
    return -jax.nn.log_softmax(logits)[label]


def train(
    loss_fn: LossFn,
    params: Any,
    data: Data,
    *,
    steps: int,
    every: int,
    batch_size: int,
    learning_rate: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    seed: int = 0,
    observe: Callable[[int, Any], None] | None = None,
) -> Any:
    """SGD; after every so many steps, and before the first, `observe(step, params)`.

    The batches are drawn before, by a generator of their own: what is observed changes nothing.
    """
    shape = (steps // every, every, batch_size)
    drawn = np.random.default_rng(seed).integers(0, len(data[1]), shape, np.int32)
    state = (params, jax.tree.map(jnp.zeros_like, params))
    rates = tuple(jnp.float32(v) for v in (learning_rate, momentum, weight_decay))
    for number, indices in enumerate(drawn):
        if observe is not None:
            observe(number * every, state[0])
        state = several_steps(loss_fn, state, data, indices, rates)
    if observe is not None:
        observe(len(drawn) * every, state[0])
    return state[0]


def several_steps(loss_fn: LossFn, state: Any, data: Data, indices: Any, rates: Any) -> Any:
    """SGD with momentum and weight decay on the batches `indices`, ``(steps, batch)``."""
    if any(leaf.ndim > 2 for leaf in jax.tree.leaves(state)):
        # On CPU, XLA runs convolutions within a loop without its fast library.
        for index in indices:
            state = _one_step(loss_fn, state, data, index, rates)
        return state
    return _scanned_steps(loss_fn, state, data, indices, rates)


@functools.partial(jax.jit, static_argnums=0)
def _scanned_steps(loss_fn: LossFn, state: Any, data: Data, indices: Any, rates: Any) -> Any:
    step = lambda state, index: (_one_step(loss_fn, state, data, index, rates), None)
    return jax.lax.scan(step, state, jnp.asarray(indices))[0]


@functools.partial(jax.jit, static_argnums=0)
def _one_step(loss_fn: LossFn, state: Any, data: Data, index: Any, rates: Any) -> Any:
    learning_rate, momentum, weight_decay = rates
    params, velocity = state
    batch = jax.tree.map(lambda leaf: leaf[index], data)
    gradient = jax.grad(lambda p: jnp.mean(jax.vmap(loss_fn, (None, 0))(p, batch)))(params)
    move = lambda v, g, p: momentum * v + g + weight_decay * p
    velocity = jax.tree.map(move, velocity, gradient, params)
    params = jax.tree.map(lambda p, v: p - learning_rate * v, params, velocity)
    return params, velocity


def chunks(number: int, size: int) -> np.ndarray:
    """Places of all examples, ``(chunks, size)``; -1 where the last chunk has none left."""
    size = min(size, number)
    places = np.arange(-(-number // size) * size).reshape(-1, size)
    return np.where(places < number, places, -1)


def mean_loss_and_gradient(
    loss_fn: LossFn, params: Any, data: Data, size: int = 512
) -> tuple[jax.Array, Any]:
    """Over all examples, chunk by chunk (a Python loop, for the reason above)."""
    found = [_sum_of_chunk(loss_fn, params, data, place) for place in chunks(len(data[1]), size)]
    return jax.tree.map(lambda *leaves: sum(leaves) / len(data[1]), *found)


@functools.partial(jax.jit, static_argnums=0)
def _sum_of_chunk(loss_fn: LossFn, params: Any, data: Data, place: Any) -> Any:
    batch = jax.tree.map(lambda leaf: leaf[place], data)

    def total(params):
        return jnp.sum(jnp.where(place >= 0, jax.vmap(loss_fn, (None, 0))(params, batch), 0))

    return jax.value_and_grad(total)(params)


def first(data: Data, number: int) -> Data:
    """The first examples."""
    return (data[0][:number], data[1][:number])
