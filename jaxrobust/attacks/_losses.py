"""What attacks maximise: functions of logits ``(B, C)`` and labels, one number for each example."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

LossName = Literal["cross_entropy", "dlr", "margin", "targeted_dlr", "targeted_margin"]
Loss = LossName | Callable[[jax.Array, jax.Array], jax.Array]


def margins(logits: jax.Array, y: jax.Array) -> jax.Array:
    """``(B,)``: the highest other score less that of the label; 0 or more is a success."""
    own = _is_own(logits, y)
    return jnp.max(jnp.where(own, -jnp.inf, logits), axis=1) - _of_label(logits, y)


def cross_entropy(logits: jax.Array, y: jax.Array) -> jax.Array:
    """``(B,)``: -log of the probability of the label.

    As the softplus of what the others have in common less the score of the label: where that is far
    ahead, a difference of sums would be 0, and its gradient would lose the direction.
    """
    others = jnp.where(_is_own(logits, y), -jnp.inf, logits)
    return jax.nn.softplus(jax.nn.logsumexp(others, axis=1) - _of_label(logits, y))


def dlr(logits: jax.Array, y: jax.Array) -> jax.Array:
    """``(B,)``: the margin over the difference of the first and third highest score."""
    top = jax.lax.top_k(logits, 3)[0]
    return _ratio(margins(logits, y), top[:, 0] - top[:, 2])


def targeted_dlr(logits: jax.Array, y: jax.Array, target: jax.Array) -> jax.Array:
    """``(B,)``: likewise towards one class; over the first less the mean of third and fourth."""
    top = jax.lax.top_k(logits, 4)[0]
    spread = top[:, 0] - (top[:, 2] + top[:, 3]) / 2
    return _ratio(targeted_margin(logits, y, target), spread)


def targeted_margin(logits: jax.Array, y: jax.Array, target: jax.Array) -> jax.Array:
    """``(B,)``: the score of one class less that of the label."""
    return _of_label(logits, target) - _of_label(logits, y)


UNTARGETED: dict[str, Any] = {"cross_entropy": cross_entropy, "dlr": dlr, "margin": margins}
TARGETED: dict[str, Any] = {"targeted_dlr": targeted_dlr, "targeted_margin": targeted_margin}
NAMES = (*UNTARGETED, *TARGETED)
LEAST_CLASSES = {"dlr": 3, "targeted_dlr": 4}


def rivals(logits: jax.Array, y: jax.Array, number: int) -> jax.Array:
    """``(number, B)``: the other classes, from the most likely on."""
    others = jnp.where(_is_own(logits, y), -jnp.inf, logits)
    return jax.lax.top_k(others, number)[1].T


def _ratio(above: jax.Array, below: jax.Array) -> jax.Array:
    """Where all scores are equal the ratio is 0, with the gradient of the numerator."""
    return above / jnp.where(below > 0, below, 1)


def _is_own(logits: jax.Array, y: jax.Array) -> jax.Array:
    return y[:, None] == jnp.arange(logits.shape[1], dtype=y.dtype)[None, :]


def _of_label(logits: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.take_along_axis(logits, y[:, None], axis=1)[:, 0]
