"""Encoders of the experiments on pairs, in Flax Linen."""

from collections.abc import Sequence

import flax.linen as nn
import jax


class Tower(nn.Module):
    """Features to an embedding, through hidden ReLU layers.

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
        return nn.Dense(self.widths[-1])(x)
