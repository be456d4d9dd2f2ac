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

_NONE = jnp.iinfo(jnp.int32).max  # the number of no candidate
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


def _static(default: Any = dataclasses.MISSING) -> Any:
    return dataclasses.field(default=default, metadata={"static": True})


def _chosen(tile: Tile, over: Over) -> jax.Array:
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
    r""":math:`\sum_j [\alpha_{ij} + s_{ij} - d_i]_+` over the negatives."""

    is_sum: ClassVar[bool] = True

    def of_tile(self, tile: Tile) -> Counted:
        """The sum, and how many hinges are active."""
        slack = jnp.where(tile.negative, _slack(tile), 0)
        active = jnp.sum(slack > 0, axis=1).astype(slack.dtype)
        return Counted(jnp.sum(jax.nn.relu(slack), axis=1), active)

    def merge(self, a: Counted, b: Counted) -> Counted:
        """Sums add up."""
        return Counted(a.total + b.total, a.count + b.count)

    def value(self, state: Counted) -> jax.Array:
        """The sum."""
        return state.total

    def pull(self, tile: Tile, state: Counted, cotangent: jax.Array) -> jax.Array:
        """1 for every active hinge; at 0 exactly it is not active."""
        active = tile.negative & (_slack(tile) > 0)
        return jnp.where(active, cotangent[:, None], 0)

    def pull_positive(self, state: Counted, cotangent: jax.Array) -> jax.Array:
        """Each active hinge pulls the positive up."""
        return -cotangent * state.count


def _slack(tile: Tile) -> jax.Array:
    return tile.margins + tile.scores - tile.positive_scores[:, None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ScoreSum:
    """The sum of the scores over some candidates, and their number."""

    is_sum: ClassVar[bool] = True

    over: Over = _static("positives")

    def of_tile(self, tile: Tile) -> Counted:
        """Both."""
        chosen = _chosen(tile, self.over)
        scores = tile.scores
        return Counted(
            jnp.sum(jnp.where(chosen, scores, 0), axis=1),
            jnp.sum(chosen, axis=1).astype(scores.dtype),
        )

    def merge(self, a: Counted, b: Counted) -> Counted:
        """Sums add up."""
        return Counted(a.total + b.total, a.count + b.count)

    def value(self, state: Counted) -> jax.Array:
        """The sum and the number, ``(n, 2)``."""
        return jnp.stack(state, axis=1)

    def pull(self, tile: Tile, state: Counted, cotangent: jax.Array) -> jax.Array:
        """1 for every one."""
        return jnp.where(_chosen(tile, self.over), cotangent[:, :1], 0)

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
    over: Over = _static("negatives")

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
        there = state.total > 0
        return jnp.where(there, state.largest + jnp.log(jnp.where(there, state.total, 1)), -jnp.inf)

    def pull(self, tile: Tile, state: LogSum, cotangent: jax.Array) -> jax.Array:
        """Beta times the softmax."""
        share = jnp.exp(self._exponents(tile) - _finite(self.value(state))[:, None])
        return share * (self.scale * cotangent)[:, None]

    def pull_positive(self, state: LogSum, cotangent: jax.Array) -> None:
        """They are not asked."""

    def _exponents(self, tile: Tile) -> jax.Array:
        exponents = self.scale * (tile.margins + tile.scores)
        return jnp.where(_chosen(tile, self.over), exponents, -jnp.inf)


def _finite(x: jax.Array) -> jax.Array:
    """Zero for minus infinity, so that nothing is subtracted from itself there."""
    return jnp.where(x == -jnp.inf, 0, x)


def rounding_of(scores: jax.Array) -> jax.Array:
    """By how much equal scores may differ that were summed in another order."""
    return 16 * jnp.finfo(scores.dtype).eps * (1 + jnp.abs(scores))


# Picked candidates --------------------------------------------------------------------------------


class Picked(NamedTuple):
    """The candidates that come first, in order; ties go to the lowest number."""

    priorities: jax.Array  # (n, k): minus infinity where there are fewer
    columns: jax.Array  # (n, k) int32: numbers of the candidates


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pick:
    """The k candidates with the largest priority; how large, is for subclasses to say."""

    is_sum: ClassVar[bool] = False

    k: int = _static(1)

    def priorities(self, tile: Tile) -> jax.Array:
        """What is compared, ``(n, m)``; minus infinity for those that do not count."""
        raise NotImplementedError

    def of_tile(self, tile: Tile) -> Picked:
        """The first k of a tile."""
        priorities = self.priorities(tile)
        if self.k == 1:
            # Comparing is many times faster on a CPU than a statistic of pairs. Where the largest
            # is NaN none is equal to it, and the first one is taken.
            best = jnp.max(priorities, axis=1)
            at = jnp.where(priorities == best[:, None], tile.columns[None, :], _NONE)
            column = jnp.min(at, axis=1)
            column = jnp.where(jnp.isnan(best), tile.columns[0], column)
            return Picked(best[:, None], column[:, None])
        found, places = jax.lax.top_k(priorities, min(self.k, priorities.shape[1]))
        missing = ((0, 0), (0, self.k - found.shape[1]))
        return Picked(
            jnp.pad(found, missing, constant_values=-jnp.inf),
            jnp.pad(tile.columns[places], missing, constant_values=_NONE),
        )

    def merge(self, a: Picked, b: Picked) -> Picked:
        """The first k of both."""
        if self.k == 1:
            later = (b.priorities > a.priorities) | (
                (b.priorities == a.priorities) & (b.columns < a.columns)
            )
            later |= jnp.isnan(b.priorities)
            return jax.tree.map(lambda x, y: jnp.where(later, y, x), a, b)
        both = [jnp.concatenate(pair, axis=1) for pair in zip(a, b, strict=True)]
        negated, columns = jax.lax.sort((-both[0], both[1]), dimension=1, num_keys=2)
        return Picked(-negated[:, : self.k], columns[:, : self.k])

    def value(self, state: Picked) -> Picked:
        """The state."""
        return state

    def pull(self, tile: Tile, state: Picked, cotangent: Any) -> None:
        """What is picked has no gradient; its scores are formed again."""

    def pull_positive(self, state: Picked, cotangent: Any) -> None:
        """What is picked has no gradient."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hardest(Pick):
    r"""The k negatives with the largest :math:`\alpha_{ij}+s_{ij}`, or :math:`s_{ij}` alone."""

    with_margin: bool = _static(True)

    def priorities(self, tile: Tile) -> jax.Array:
        """Scores; a margin that is the same for all changes no order."""
        matters = self.with_margin and jnp.ndim(tile.margins)
        scores = tile.margins + tile.scores if matters else tile.scores
        return jnp.where(tile.negative, scores, -jnp.inf)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HardestHinges(Pick):
    r""":math:`\sum_{r\le c}[\alpha + s - d_i]_+` over the c hardest negatives, of k that are kept.

    For many of them, or a traced c: the gradient goes through the tile.
    """

    is_sum: ClassVar[bool] = True

    count: jax.Array | int = dataclasses.field(kw_only=True)

    def priorities(self, tile: Tile) -> jax.Array:
        """Slacks."""
        return jnp.where(tile.negative, _slack(tile), -jnp.inf)

    def value(self, state: Picked) -> jax.Array:  # type: ignore[override]
        """The sum of the first c."""
        return jnp.sum(jnp.where(self._counted(state), jax.nn.relu(state.priorities), 0), axis=1)

    def pull(self, tile: Tile, state: Picked, cotangent: jax.Array) -> jax.Array:  # type: ignore[override]
        """1 for every active hinge among the first c."""
        last = jnp.clip(self.count, 1, self.k) - 1
        least, column = (jnp.take(part, last, axis=1)[:, None] for part in state)
        slack = self.priorities(tile)
        among = (slack > least) | ((slack == least) & (tile.columns[None, :] <= column))
        return jnp.where(among & (slack > 0) & (self.count > 0), cotangent[:, None], 0)

    def pull_positive(self, state: Picked, cotangent: jax.Array) -> jax.Array:  # type: ignore[override]
        """Each of these pulls the positive up."""
        active = self._counted(state) & (state.priorities > 0)
        return -cotangent * jnp.sum(active, axis=1).astype(cotangent.dtype)

    def _counted(self, state: Picked) -> jax.Array:
        return (jnp.arange(self.k) < self.count)[None, :] & (state.priorities > -jnp.inf)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SemiHard(Pick):
    """The hardest negative that is less similar than the positive."""

    def priorities(self, tile: Tile) -> jax.Array:
        """Scores below that of the positive."""
        least = tile.positive_scores - rounding_of(tile.positive_scores)
        below = tile.negative & (tile.scores < least[:, None])
        return jnp.where(below, tile.scores, -jnp.inf)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Easiest(Pick):
    """The negatives, or positives, with the smallest scores."""

    over: Over = _static("negatives")

    def priorities(self, tile: Tile) -> jax.Array:
        """Scores, negated."""
        return jnp.where(_chosen(tile, self.over), -tile.scores, -jnp.inf)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HardestPositive(Pick):
    """The positives with the largest scores, other than the own partner."""

    def priorities(self, tile: Tile) -> jax.Array:
        """Scores of the other positives."""
        other = tile.positive & (tile.rows[:, None] != tile.columns[None, :])
        return jnp.where(other, tile.scores, -jnp.inf)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ByDistance(Pick):
    r"""A negative drawn in proportion to :math:`1/q(\delta)`, with q the density of distances.

    On the unit sphere in n dimensions :math:`\log q(\delta) = (n-2)\log\delta +
    \frac{n-3}{2}\log(1-\delta^2/4)`. The largest of log weight plus Gumbel noise is such a draw;
    the noise depends on the numbers of the two items alone, not on tiles.
    """

    key: jax.Array = dataclasses.field(kw_only=True)
    dim: int = dataclasses.field(kw_only=True, metadata={"static": True})
    cutoff: jax.Array | float = dataclasses.field(kw_only=True)
    limit: jax.Array | float = dataclasses.field(kw_only=True)

    def priorities(self, tile: Tile) -> jax.Array:
        """Logarithms of the weights, with noise."""
        distances = jnp.sqrt(jnp.maximum(2 - 2 * tile.scores, 0))
        clipped = jnp.maximum(distances, self.cutoff)
        spread = jnp.maximum(1 - clipped**2 / 4, 1e-8)  # antipodes: log 0
        log_weights = -(self.dim - 2) * jnp.log(clipped) - (self.dim - 3) / 2 * jnp.log(spread)
        allowed = tile.negative & (distances < self.limit)
        return jnp.where(allowed, log_weights + self._noise(tile), -jnp.inf)

    def _noise(self, tile: Tile) -> jax.Array:
        of_pair = lambda row, column: jax.random.gumbel(
            jax.random.fold_in(jax.random.fold_in(self.key, row), column), (), tile.scores.dtype
        )
        return jax.vmap(jax.vmap(of_pair, (None, 0)), (0, None))(tile.rows, tile.columns)
