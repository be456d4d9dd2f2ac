"""Sums, maxima and the like over the candidates of every anchor, tile by tile.

A statistic is what a loss needs to know of a row of scores. It is a monoid: states of tiles merge,
so that the matrix of scores is never there as a whole, and a state tells the gradient of a tile
that is formed again.
"""

import dataclasses
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxrobust.contrastive._tiles import Tile

Over = Literal["negatives", "positives", "all"]


class Statistic(Protocol):
    """Of the scores of every anchor."""

    # Whether its value has a gradient.
    is_sum: ClassVar[bool]

    def of_tile(self, tile: Tile) -> Any:
        """The state of one tile, leaves ``(n, ...)``."""
        ...

    def merge(self, a: Any, b: Any) -> Any:
        """The state of two sets of candidates together."""
        ...

    def value(self, state: Any) -> Any:
        """What the loss sees, leaves ``(n, ...)``."""
        ...

    def pull(self, tile: Tile, state: Any, cotangent: Any) -> jax.Array | None:
        """The gradient with respect to the scores of a tile, ``(n, m)``; None if there is none."""
        ...

    def pull_positive(self, state: Any, cotangent: Any) -> jax.Array | None:
        """The gradient with respect to the positive scores, ``(n,)``; None if there is none."""
        ...


def static(default: Any = dataclasses.MISSING) -> Any:
    """A field that is not traced."""
    return dataclasses.field(default=default, metadata={"static": True})


def chosen(tile: Tile, over: Over) -> jax.Array:
    """Which candidates a statistic is over, ``(n, m)`` bool."""
    if over == "all":
        return tile.negative | tile.positive
    return tile.negative if over == "negatives" else tile.positive


# Sums ---------------------------------------------------------------------------------------------


class Counted(NamedTuple):
    """A sum and of how many."""

    total: jax.Array  # (n,)
    count: jax.Array  # (n,): terms that are not zero, or that were summed


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HingeSum:
    r""":math:`\sum_j [\alpha_{ij} + s_{ij} - d_i]_+` over the negatives; or of soft hinges."""

    is_sum: ClassVar[bool] = True

    smooth: bool = static(False)

    def of_tile(self, tile: Tile) -> Counted:
        """The sum, and how many hinges are active, or the sum of their slopes."""
        slack = slack_of(tile)
        over = lambda values: jnp.sum(jnp.where(tile.negative, values, 0), axis=1)
        return Counted(over(hinge(slack, self.smooth)), over(slope(slack, self.smooth)))

    def merge(self, a: Counted, b: Counted) -> Counted:
        """Sums add up."""
        return Counted(a.total + b.total, a.count + b.count)

    def value(self, state: Counted) -> jax.Array:
        """The sum."""
        return state.total

    def pull(self, tile: Tile, state: Counted, cotangent: jax.Array) -> jax.Array:
        """1 for every active hinge; at 0 exactly it is not active."""
        slopes = slope(slack_of(tile), self.smooth)
        return jnp.where(tile.negative, slopes * cotangent[:, None], 0)

    def pull_positive(self, state: Counted, cotangent: jax.Array) -> jax.Array:
        """Each active hinge pulls the positive up."""
        return -cotangent * state.count


def hinge(slack: jax.Array, smooth: bool) -> jax.Array:
    """``[z]_+``, or ``log(1 + exp(z))``."""
    # relu, for its derivative at 0 is 0, as that of the published code.
    return jax.nn.softplus(slack) if smooth else jax.nn.relu(slack)


def slope(slack: jax.Array, smooth: bool) -> jax.Array:
    """Its derivative."""
    return jax.nn.sigmoid(slack) if smooth else (slack > 0).astype(slack.dtype)


def slack_of(tile: Tile) -> jax.Array:
    """Margin plus score minus that of the partner, ``(n, m)``."""
    return tile.margins + tile.scores - tile.positive_scores[:, None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ScoreSum:
    """The sum of the scores over some candidates, and their number."""

    is_sum: ClassVar[bool] = True

    over: Over = static("positives")

    def of_tile(self, tile: Tile) -> Counted:
        """Both."""
        counted = chosen(tile, self.over)
        scores = tile.scores
        return Counted(
            jnp.sum(jnp.where(counted, scores, 0), axis=1),
            jnp.sum(counted, axis=1).astype(scores.dtype),
        )

    def merge(self, a: Counted, b: Counted) -> Counted:
        """Sums add up."""
        return Counted(a.total + b.total, a.count + b.count)

    def value(self, state: Counted) -> jax.Array:
        """The sum and the number, ``(n, 2)``."""
        return jnp.stack(state, axis=1)

    def pull(self, tile: Tile, state: Counted, cotangent: jax.Array) -> jax.Array:
        """1 for every one."""
        return jnp.where(chosen(tile, self.over), cotangent[:, :1], 0)

    def pull_positive(self, state: Counted, cotangent: jax.Array) -> None:
        """They are not asked."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LogisticSum:
    r""":math:`\sum_{j\in N}\log(1+e^{s_{ij}}) + \sum_{j\in P}\log(1+e^{-s_{ij}})`."""

    is_sum: ClassVar[bool] = True

    def of_tile(self, tile: Tile) -> jax.Array:
        """The sum over both."""
        signed = jnp.where(tile.positive, -tile.scores, tile.scores)
        there = tile.positive | tile.negative
        return jnp.sum(jnp.where(there, jax.nn.softplus(signed), 0), axis=1)

    def merge(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """Sums add up."""
        return a + b

    def value(self, state: jax.Array) -> jax.Array:
        """The sum."""
        return state

    def pull(self, tile: Tile, state: jax.Array, cotangent: jax.Array) -> jax.Array:
        """The logistic function, with signs."""
        slope = jnp.where(tile.positive, -jax.nn.sigmoid(-tile.scores), jax.nn.sigmoid(tile.scores))
        return jnp.where(tile.positive | tile.negative, slope * cotangent[:, None], 0)

    def pull_positive(self, state: jax.Array, cotangent: jax.Array) -> None:
        """They are among the candidates."""


# Log-sum-exp --------------------------------------------------------------------------------------


class LogSum(NamedTuple):
    """A sum of exponentials, without overflow: ``exp(largest) * total``."""

    largest: jax.Array  # (n,): minus infinity where there is no candidate
    total: jax.Array  # (n,)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LogSumExp:
    r""":math:`\log\sum_j e^{\beta(\alpha_{ij}+s_{ij})}`; minus infinity without candidates."""

    is_sum: ClassVar[bool] = True

    scale: jax.Array | float  # beta
    over: Over = static("negatives")

    def of_tile(self, tile: Tile) -> LogSum:
        """Relative to the largest of the tile."""
        exponents = self._exponents(tile)
        largest = jnp.max(exponents, axis=1)
        return LogSum(largest, jnp.sum(jnp.exp(exponents - _finite(largest)[:, None]), axis=1))

    def merge(self, a: LogSum, b: LogSum) -> LogSum:
        """Relative to the larger."""
        largest = jnp.maximum(a.largest, b.largest)
        scaled = [part.total * jnp.exp(part.largest - _finite(largest)) for part in (a, b)]
        return LogSum(largest, scaled[0] + scaled[1])

    def value(self, state: LogSum) -> jax.Array:
        """Its logarithm."""
        there = ~(state.total == 0)  # NaN is, and must not be lost
        return jnp.where(there, state.largest + jnp.log(jnp.where(there, state.total, 1)), -jnp.inf)

    def pull(self, tile: Tile, state: LogSum, cotangent: jax.Array) -> jax.Array:
        """Beta times the softmax."""
        share = jnp.exp(self._exponents(tile) - _finite(self.value(state))[:, None])
        return share * (self._beta(cotangent) * cotangent)[:, None]

    def pull_positive(self, state: LogSum, cotangent: jax.Array) -> None:
        """They are not asked."""

    def _beta(self, like: jax.Array) -> jax.Array:
        """Under x64 that of a schedule is float64: sums are not."""
        return jnp.asarray(self.scale, like.dtype)

    def _exponents(self, tile: Tile) -> jax.Array:
        exponents = self._beta(tile.scores) * (tile.margins + tile.scores)
        return jnp.where(chosen(tile, self.over), exponents, -jnp.inf)


def _finite(x: jax.Array) -> jax.Array:
    """Zero for minus infinity, so that nothing is subtracted from itself there."""
    return jnp.where(x == -jnp.inf, 0, x)
