"""What attacks return."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.norms import Norm


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a robust accuracy depends on, besides model, data and radius; static."""

    attack: str
    norm: Norm
    options: tuple[tuple[str, Any], ...]  # names and values of all options, defaults included
    bounds: str  # of inputs

    def __str__(self) -> str:
        """As in ``apgd, linf, inputs in [0, 1], loss=cross_entropy, num_steps=100``."""
        told = ", ".join(f"{name}={value}" for name, value in self.options)
        return f"{self.attack}, {self.norm.name}, {self.bounds}, {told}"


class Info(NamedTuple):
    """What happened on the way; of several restarts, of the last one that was better."""

    losses: jax.Array  # (num_steps + 1, B) float: what was maximised, at the start and every step
    # (B,) float: by which part of eps `inputs - x` is outside of the ball. Inputs are rounded to
    # the dtype of x, towards x: lp norms are kept, those of spectra up to rounding errors.
    beyond_radius: jax.Array
    out_of_bounds: jax.Array  # (B,) float: how far a feature of the inputs is outside of the bounds
    # (B,) bool: the gradient was zero wherever the attack looked, though it had not succeeded: it
    # had nothing to go by (saturated or masked gradients).
    has_zero_gradient: jax.Array
    has_nan: jax.Array  # (B,) bool: scores or gradients were NaN or infinite somewhere
    # (num_steps + 1, B) float, with `check_steps=True`, else None: what `beyond_radius` and
    # `out_of_bounds` are, of every point that was looked at.
    beyond_radius_of_steps: jax.Array | None = None
    out_of_bounds_of_steps: jax.Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Result:
    """Adversarial examples, and how they were found."""

    inputs: jax.Array  # (B, *features), dtype of x: the best points found, within ball and bounds
    perturbations: jax.Array  # (B, *features) float32 at least: what was added to x
    success: jax.Array  # (B,) bool: no longer classified as y; a tie with another class counts
    loss: jax.Array  # (B,) float: what was maximised, there
    margin: jax.Array  # (B,) float: highest other score less that of y, there
    eps: jax.Array  # (B,) float: the radius that was allowed
    info: Info
    settings: Settings = dataclasses.field(metadata={"static": True})

    @property
    def robust_accuracy(self) -> jax.Array:
        """``()``: the share of examples that no attack has succeeded on (a mean)."""
        return 1 - jnp.mean(self.success, dtype=self.loss.dtype)

    def __str__(self) -> str:
        """The robust accuracy together with what it depends on."""
        low, high = float(jnp.min(self.eps)), float(jnp.max(self.eps))
        radius = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
        return (
            f"robust accuracy {100 * float(self.robust_accuracy):.1f} % of {len(self.success)} "
            f"examples at eps {radius} ({self.settings})"
        )
