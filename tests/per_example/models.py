"""Models as users bring them, from Linen, NNX, Equinox and Haiku, each by an adapter of few lines.

Each function returns `(loss_fn, params, batch)`. Small by default; the benchmarks have their own.
"""

from typing import Any

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx

from tests.per_example.cases import B, integers, normal

KEY = jax.random.key(0)


def drawn(init, *arguments):
    """Params of the shapes that `init` makes, without the compilation of its every operation."""
    leaves, structure = jax.tree.flatten(jax.eval_shape(init, KEY, *arguments))
    made = [normal(*leaf.shape, seed=i).astype(leaf.dtype) for i, leaf in enumerate(leaves)]
    return structure.unflatten(made)


CLASSES = integers(3, B)


def cross_entropy(logits: Any, label: jax.Array) -> jax.Array:
    return -jax.nn.log_softmax(logits)[label]


class Transformer(nn.Module):
    """Two blocks with a tied embedding."""

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(11, 8)
        x = embed(tokens) + self.param("positions", nn.initializers.normal(), (len(tokens), 8))
        for _ in range(2):
            h = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(num_heads=2)(h, h)
            x = x + nn.Dense(8)(nn.gelu(nn.Dense(16)(nn.LayerNorm()(x))))
        return embed.attend(nn.LayerNorm()(x))


def linen_transformer():
    model, tokens = Transformer(), integers(11, B, 6)

    def loss_fn(params, tokens):
        logits: Any = model.apply(params, tokens[:-1])
        return jnp.mean(jax.vmap(cross_entropy)(logits, tokens[1:]))

    return loss_fn, drawn(model.init, tokens[0, :-1]), tokens


class ResNet(nn.Module):
    """Stages of one residual block each, with GroupNorm; ResNet-8 with three of them."""

    strides: tuple[int, ...] = (1, 2)

    width: int = 2

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.width, (3, 3), use_bias=False)(x)
        for stage, stride in enumerate(self.strides):
            features = self.width * 2**stage
            y = nn.Conv(features, (3, 3), (stride, stride), use_bias=False)(x)
            y = nn.Conv(features, (3, 3), use_bias=False)(nn.relu(nn.GroupNorm(2)(y)))
            if stride > 1:
                x = nn.Conv(features, (1, 1), (stride, stride), use_bias=False)(x)
            x = nn.relu(x + nn.GroupNorm(2)(y))
        return nn.Dense(3)(x.mean((0, 1)))


def linen_resnet():
    model = ResNet()
    images = normal(B, 6, 6, 3)
    loss_fn = lambda params, ex: cross_entropy(model.apply(params, ex[0]), ex[1])
    return loss_fn, drawn(model.init, images[0]), (images, CLASSES)


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = jnp.asarray(nn.RNN(nn.LSTMCell(6))(x))
        return nn.Dense(3)(nn.RNN(nn.GRUCell(5))(x)[-1])


def linen_lstm_and_gru():
    model, sequences = Recurrent(), normal(B, 7, 4)
    loss_fn = lambda params, ex: cross_entropy(model.apply(params, ex[0]), ex[1])
    return loss_fn, drawn(model.init, sequences[0]), (sequences, CLASSES)


def linen_dense_general():
    model = nn.DenseGeneral((2, 3), axis=(0, 2))
    x = normal(B, 4, 5, 2)
    loss_fn = lambda params, x: jnp.sum(jnp.sin(jnp.asarray(model.apply(params, x))) ** 2)
    return loss_fn, drawn(model.init, x[0]), x


def nnx_mlp():
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(
        nnx.Linear(4, 8, rngs=rngs),
        nnx.LayerNorm(8, rngs=rngs),
        nnx.Dropout(0.5, deterministic=True, rngs=rngs),  # has state that is no parameter
        nnx.Linear(8, 3, rngs=rngs),
    )
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    loss_fn = lambda params, ex: cross_entropy(nnx.merge(graphdef, params, rest)(ex[0]), ex[1])
    return loss_fn, params, (normal(B, 4), CLASSES)


def equinox_cnn():
    first, second = jax.random.split(KEY)
    model = eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(2, 4, 3, key=first),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(4 * 3 * 3, 3, key=second),
        ]
    )
    params, static = eqx.partition(model, eqx.is_inexact_array)
    loss_fn = lambda params, ex: cross_entropy(eqx.combine(params, static)(ex[0]), ex[1])
    return loss_fn, params, (normal(B, 2, 5, 5), CLASSES)


def haiku_mlp():
    model = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([8, 3])(x)))
    x = normal(B, 4)
    loss_fn = lambda params, ex: cross_entropy(model.apply(params, ex[0]), ex[1])
    return loss_fn, drawn(model.init, x[0]), (x, CLASSES)


MODELS = {
    function.__name__: function
    for function in (
        linen_transformer,
        linen_resnet,
        linen_lstm_and_gru,
        linen_dense_general,
        nnx_mlp,
        equinox_cnn,
        haiku_mlp,
    )
}
