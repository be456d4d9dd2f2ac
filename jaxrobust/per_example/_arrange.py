"""Axes of an array cut, ordered and joined."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp


def arrange(
    array: jax.Array,
    groups: Sequence[Sequence[int]],
    boxes: dict[int, tuple[int, int]],
    scale: float = 1.0,
) -> jax.Array:
    """Cuts axes to their boxes, and joins the axes of each group to one."""
    for axis, (start, size) in boxes.items():
        array = jax.lax.slice_in_dim(array, start, start + size, axis=axis)
    lengths = [math.prod(array.shape[i] for i in group) for group in groups]
    array = array.transpose([i for group in groups for i in group]).reshape(lengths)
    return array if scale == 1.0 else array * jnp.asarray(scale, array.dtype)
