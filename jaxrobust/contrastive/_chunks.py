"""Encoders of large batches in little memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust import trees
from jaxrobust.contrastive._checks import is_floating


def in_chunks(encode: Callable[[Any, Any], Any], *, chunk_size: int) -> Callable[[Any, Any], Any]:
    """The encoder, of some inputs at a time; for the gradient it runs once more (GradCache).

    ::

        embed = contrastive.in_chunks(encode, chunk_size=64)

        def loss(params, images, captions):
            x, y = embed(params["image"], images), embed(params["text"], captions)
            return contrastive.hinge_loss(x, y)

    The loss sees the whole batch, and memory is that of one chunk and of the embeddings. Values and
    gradients are those of the whole, if no example depends on another in the encoder: batch
    normalisation in training mode would see a chunk. What is random must come with the inputs, as a
    key for each example (``jax.random.split(key, n)``): with one key for all, every chunk would
    draw the same dropout.

    Args:
      encode: ``encode(params, inputs) -> embeddings``; both pytrees of arrays ``(n, ...)``.
      chunk_size: examples at a time; the last chunk may be smaller.

    Returns:
      A function like ``encode``, of any number of examples.

    Raises:
      ValueError: for a ``chunk_size`` below 1, or inputs of different lengths.

    Source:
      Gao et al., arXiv:2101.06983; here by rematerialisation.
    """
    size = trees.check_count("chunk_size", chunk_size)

    def embed(params: Any, inputs: Any) -> Any:
        _check_lengths(inputs)
        # Of a batch that is sharded over explicit axes each device embeds its part, in chunks.
        local = lambda part, params: ((), of_part(params, part))
        return trees.on_each_device(local, inputs, params)[1]

    def of_part(params: Any, inputs: Any) -> Any:
        number = len(jax.tree.leaves(inputs)[0])
        # The gradients of chunks are added in the dtype of what they share: in half precision the
        # sum of many would lose what is small.
        wide = jax.tree.map(lambda leaf: trees.promote(leaf) if is_floating(leaf) else leaf, params)
        narrow = lambda leaf, like: trees.cast_like(leaf, like) if is_floating(like) else leaf
        again = jax.checkpoint(
            lambda wide, chunk: encode(jax.tree.map(narrow, wide, params), chunk)
        )
        whole = number // size
        parts = []
        if whole:
            stacked = jax.tree.map(
                lambda leaf: leaf[: whole * size].reshape(whole, size, *leaf.shape[1:]), inputs
            )
            found = jax.lax.map(lambda chunk: again(wide, chunk), stacked)
            parts.append(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), found))
        if number % size:
            rest = jax.tree.map(lambda leaf: leaf[whole * size :], inputs)
            parts.append(again(wide, rest))
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

    return embed


def _check_lengths(inputs: Any) -> None:
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(inputs)}
    if len(lengths) != 1 or lengths == {()}:
        raise ValueError(
            f"inputs must be arrays (n, ...) of one length, got leading axes {sorted(lengths)}"
        )
    if lengths == {(0,)}:
        raise ValueError("inputs must have at least one example")
