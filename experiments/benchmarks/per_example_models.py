"""The models of the benchmark of `per_example`: losses of one example, with params and a batch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

NUM_CLASSES = 10
KEY = jax.random.key(0)


class Bars(NamedTuple):
    """What is to be reached, relative to the mean gradient; extra memory to (B, params)."""

    value_grad_and_norms: float
    sketches: float
    memory: float | None  # share of the bytes of all per-example gradients


class Model(NamedTuple):
    """A loss with something to run it on."""

    loss_fn: Callable[[Any, Any], jax.Array]
    params: Any
    batch: Any
    bars: Bars
    torch_name: str  # what `per_example_torch` calls it


class MLP(nn.Module):
    """Dense layers with ReLU between them."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        for width in self.widths[:-1]:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.widths[-1])(x)


class CNN(nn.Module):
    """3x3 convolutions with ReLU, and a Dense layer on the mean over the image."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        for width in self.widths:
            x = nn.relu(nn.Conv(width, (3, 3))(x))
        return nn.Dense(NUM_CLASSES)(x.mean((0, 1)))


class ResNet8(nn.Module):
    """The ResNet of 8 layers for 32x32 images, with GroupNorm."""

    width: int = 16

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.GroupNorm(8)(nn.Conv(self.width, (3, 3), use_bias=False)(x)))
        for stage, stride in enumerate((1, 2, 2)):
            width = self.width * 2**stage
            y = nn.Conv(width, (3, 3), (stride, stride), use_bias=False)(x)
            y = nn.Conv(width, (3, 3), use_bias=False)(nn.relu(nn.GroupNorm(8)(y)))
            if stride > 1:
                x = nn.Conv(width, (1, 1), (stride, stride), use_bias=False)(x)
            x = nn.relu(x + nn.GroupNorm(8)(y))
        return nn.Dense(NUM_CLASSES)(x.mean((0, 1)))


class Transformer(nn.Module):
    """Two pre-norm blocks of width 256 with 4 heads, over 256 tokens."""

    num_layers: int = 2
    width: int = 256
    num_tokens: int = 256

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(self.num_tokens, self.width)(tokens)
        x = x + self.param("positions", nn.initializers.normal(0.02), (len(tokens), self.width))
        for _ in range(self.num_layers):
            h = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(num_heads=4)(h, h)
            h = nn.Dense(4 * self.width)(nn.LayerNorm()(x))
            x = x + nn.Dense(self.width)(nn.gelu(h))
        return nn.Dense(self.num_tokens)(nn.LayerNorm()(x))


def models(quick: bool) -> dict[str, Callable[[], Model]]:
    """The models by name; small ones if quick."""
    if quick:
        return {"MLP 20-30-10, B=8": lambda: mlp((30, 10), 20, 8)}
    return {
        "MLP 784-512-512-10, B=256": lambda: mlp((512, 512, 10), 784, 256),
        "MLP 784-1024x3-10, B=128": lambda: mlp((1024, 1024, 1024, 10), 784, 128),
        "CNN 6 x 3x3 x 64, B=128": cnn,
        "ResNet-8 GroupNorm, B=64": resnet,
        "transformer 2 x 256, T=64, B=32": transformer,
    }


def mlp(widths: tuple[int, ...], num_features: int, batch_size: int) -> Model:
    """A fully connected network on vectors."""
    bars = Bars(1.15, 1.10, 0.10)
    name = "mlp " + " ".join(map(str, (num_features, *widths)))
    return _classifier(MLP(widths), (num_features,), batch_size, bars, name)


def cnn() -> Model:
    """Six convolutions of 64 channels on 32x32 images."""
    return _classifier(CNN((64,) * 6), (32, 32, 3), 128, Bars(1.0, 0.6, None), "cnn")


def resnet() -> Model:
    """ResNet-8 on 32x32 images."""
    return _classifier(ResNet8(), (32, 32, 3), 64, Bars(1.2, 0.8, None), "resnet")


def transformer() -> Model:
    """A language model on 64 tokens."""
    model, length, batch_size = Transformer(), 64, 32
    tokens = jax.random.randint(KEY, (batch_size, length + 1), 0, model.num_tokens)

    def loss_fn(params, tokens):
        logits: Any = model.apply(params, tokens[:-1])
        return jnp.mean(jax.vmap(_cross_entropy)(logits, tokens[1:]))

    params = jax.jit(model.init)(KEY, tokens[0, :-1])
    return Model(loss_fn, params, tokens, Bars(1.3, 1.2, 0.10), "transformer")


def _classifier(model, shape: tuple[int, ...], batch_size: int, bars: Bars, name: str) -> Model:
    x = jax.random.normal(KEY, (batch_size, *shape))
    labels = jnp.arange(batch_size) % NUM_CLASSES
    loss_fn = lambda params, ex: _cross_entropy(model.apply(params, ex[0]), ex[1])
    return Model(loss_fn, jax.jit(model.init)(KEY, x[0]), (x, labels), bars, name)


def _cross_entropy(logits: Any, label: jax.Array) -> jax.Array:
    return -jax.nn.log_softmax(logits)[label]
