"""Encoders of the experiments on pairs, in Flax Linen."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.captions import Words
from jaxrobust import contrastive

WORD_RANGE = 0.1  # of the entries of a word's vector at the start


class Tower(nn.Module):
    """Features to an embedding, through hidden ReLU layers; none for a linear one.

    Attributes:
      widths: of the hidden layers, and last of the embedding.
      bias: every bias at the start.
    """

    widths: Sequence[int]
    bias: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``(n, features)`` to ``(n, widths[-1])``."""
        for width in self.widths[:-1]:
            layer = nn.Dense(
                width,
                kernel_init=nn.initializers.he_normal(),
                bias_init=nn.initializers.constant(self.bias),
            )
            x = nn.relu(layer(x))
        return nn.Dense(self.widths[-1], kernel_init=nn.initializers.xavier_uniform())(x)


class ImageTower(nn.Module):
    """A small CNN: images to an embedding.

    Attributes:
      width: of the embedding.
      channels: of the convolutions, each with a stride of 2.
    """

    width: int
    channels: Sequence[int] = (16, 32)

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """``(n, height, width, channels)`` to ``(n, width)``."""
        x = images
        for channels in self.channels:
            x = nn.relu(nn.Conv(channels, (3, 3), strides=(2, 2))(x))
        return nn.Dense(self.width)(x.reshape(len(x), -1))


class Bag(nn.Module):
    """A bag of words: the weighted sum of the vectors of the words.

    Attributes:
      num_words: of the vocabulary.
      width: of the embedding.
    """

    num_words: int
    width: int

    @nn.compact
    def __call__(self, words: Words) -> jax.Array:
        """To ``(n, width)``."""
        vectors = _vectors(self.num_words, self.width)(words.ids)
        return jnp.sum(vectors * words.weights[..., None], axis=1)


class Recurrent(nn.Module):
    """A GRU over the words, of which the state after the end of the caption is the embedding.

    As the text tower of VSE++, but smaller: there the state has 1,024 numbers, the vectors of words
    300.

    Attributes:
      num_words: of the vocabulary.
      width: of the state, and so of the embedding.
      word_width: of the vectors of the words.
    """

    num_words: int
    width: int
    word_width: int = 128

    @nn.compact
    def __call__(self, words: Words) -> jax.Array:
        """To ``(n, width)``."""
        vectors = _vectors(self.num_words, self.word_width)(words.ids)
        layer = nn.RNN(nn.GRUCell(self.width), return_carry=True)
        return layer(vectors, seq_lengths=words.lengths)[0]


def order_embedding(z: jax.Array) -> jax.Array:
    """Embeddings ``(n, D)`` of length 1 without negative coordinates, of Vendrov et al.

    Source:
      arXiv:1511.06361, whose code takes absolute values.
    """
    return jnp.abs(contrastive.normalized(z))


def _vectors(num_words: int, width: int) -> nn.Embed:
    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -WORD_RANGE, WORD_RANGE)

    return nn.Embed(num_words, width, embedding_init=init)
