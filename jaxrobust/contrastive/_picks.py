"""The candidates of every anchor that come first: hardest, semi-hard, easiest, or drawn."""

import abc
import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32

from jaxrobust import trees
from jaxrobust.contrastive._statistics import Over, chosen, hinge, slack_of, slope, static
from jaxrobust.contrastive._tiles import Tile, rounding_of

_FEW = 32  # so many are found one after the other on a CPU, where sorting is slow
_NONE = jnp.iinfo(jnp.int32).max  # the number of no candidate


class Picked(NamedTuple):
    """The candidates that come first, in order; ties go to the lowest number."""

    priorities: jax.Array  # (n, k): minus infinity where there are fewer
    columns: jax.Array  # (n, k) int32: numbers of the candidates

    @property
    def lost(self) -> jax.Array:
        """``(n, k)``: NaN where a score is, otherwise 0: to be added to what is made of picks.

        NaN cannot be ordered, and the loss must not look as if it were not there.
        """
        return jnp.where(jnp.isnan(self.priorities), jnp.nan, 0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pick(abc.ABC):
    """The k candidates with the largest priority; how large, is for subclasses to say."""

    is_sum: ClassVar[bool] = False

    k: int = static(1)

    @abc.abstractmethod
    def priorities(self, tile: Tile) -> jax.Array:
        """What is compared, ``(n, m)``; minus infinity for those that do not count."""

    def of_tile(self, tile: Tile) -> Picked:
        """The first k of a tile."""
        priorities = self.priorities(tile)
        if self.k == 1:
            return Picked(*(part[:, None] for part in _first(priorities, tile.columns)))
        number = min(self.k, priorities.shape[1])
        if jax.default_backend() == "cpu" and number <= _FEW:
            found = _one_after_the_other(priorities, tile.columns, number)
        else:
            best, places = jax.lax.top_k(priorities, number)
            found = Picked(best, tile.columns[places])
        missing = ((0, 0), (0, self.k - number))
        return Picked(
            jnp.pad(found.priorities, missing, constant_values=-jnp.inf),
            jnp.pad(found.columns, missing, constant_values=_NONE),
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
        # NaN comes first, as in `top_k`: it must not be lost.
        keys = jnp.where(jnp.isnan(both[0]), -jnp.inf, -both[0])
        _, columns, priorities = jax.lax.sort((keys, both[1], both[0]), dimension=1, num_keys=2)
        return Picked(priorities[:, : self.k], columns[:, : self.k])

    def value(self, state: Picked) -> Picked | jax.Array:
        """The state."""
        return state

    def pull(self, tile: Tile, state: Picked, cotangent: Any) -> jax.Array | None:
        """What is picked has no gradient; its scores are formed again."""
        return

    def pull_positive(self, state: Picked, cotangent: Any) -> jax.Array | None:
        """What is picked has no gradient."""
        return


def _first(priorities: jax.Array, columns: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The largest of each row, and the lowest number that has it."""
    # Comparing is many times faster on a CPU than a statistic of pairs. Where the largest is NaN
    # none is equal to it, and the first one is taken.
    best = jnp.max(priorities, axis=1)
    at = jnp.where(priorities == best[:, None], columns[None, :], _NONE)
    return best, jnp.where(jnp.isnan(best), columns[0], jnp.min(at, axis=1))


def _one_after_the_other(priorities: jax.Array, columns: jax.Array, number: int) -> Picked:
    """The first ones, each as the first of those that come after the one before it."""

    def find(before, _):
        best, column = (part[:, None] for part in before)
        after = (priorities < best) | ((priorities == best) & (columns[None, :] > column))
        # NaN is after none and before none, so that it stays.
        found = _first(jnp.where(after | jnp.isnan(priorities), priorities, -jnp.inf), columns)
        return found, found

    first = _first(priorities, columns)
    _, others = jax.lax.scan(find, first, length=number - 1)
    join = lambda one, more: jnp.concatenate([one[:, None], more.T], axis=1)
    return Picked(*map(join, first, others))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hardest(Pick):
    r"""The k negatives with the largest :math:`\alpha_{ij}+s_{ij}`, or :math:`s_{ij}` alone."""

    with_margin: bool = static(True)

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
    smooth: bool = static(False)

    def priorities(self, tile: Tile) -> jax.Array:
        """Slacks."""
        return jnp.where(tile.negative, slack_of(tile), -jnp.inf)

    def value(self, state: Picked) -> jax.Array:
        """The sum of the first c."""
        hinges = hinge(state.priorities, self.smooth)
        return jnp.sum(jnp.where(self._counted(state), hinges, 0), axis=1)

    def pull(self, tile: Tile, state: Picked, cotangent: jax.Array) -> jax.Array:
        """1 for every active hinge among the first c."""
        last = jnp.clip(self.count, 1, self.k) - 1
        least, column = (jnp.take(part, last, axis=1)[:, None] for part in state)
        slack = self.priorities(tile)
        among = (slack > least) | ((slack == least) & (tile.columns[None, :] <= column))
        slopes = slope(slack, self.smooth) * cotangent[:, None]
        return jnp.where(among & tile.negative & (self.count > 0), slopes, 0)

    def pull_positive(self, state: Picked, cotangent: jax.Array) -> jax.Array:
        """Each of these pulls the positive up."""
        slopes = slope(state.priorities, self.smooth)
        return -cotangent * jnp.sum(jnp.where(self._counted(state), slopes, 0), axis=1)

    def _counted(self, state: Picked) -> jax.Array:
        return (jnp.arange(self.k) < self.count)[None, :] & ~(state.priorities == -jnp.inf)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SemiHard(Pick):
    """The hardest negative that is less similar than the positive."""

    def priorities(self, tile: Tile) -> jax.Array:
        """Scores below that of the positive."""
        least = tile.positive_scores - rounding_of(tile.positive_scores, tile.row_lengths)
        below = tile.negative & ~(tile.scores >= least[:, None])  # NaN is not lost
        return jnp.where(below, tile.scores, -jnp.inf)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Easiest(Pick):
    """The negatives, or positives, with the smallest scores."""

    over: Over = static("negatives")

    def priorities(self, tile: Tile) -> jax.Array:
        """Scores, negated."""
        return jnp.where(chosen(tile, self.over), -tile.scores, -jnp.inf)


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
        clipped = jnp.maximum(distances, jnp.asarray(self.cutoff, distances.dtype))
        spread = jnp.maximum(1 - clipped**2 / 4, 1e-8)  # antipodes: log 0
        log_weights = -(self.dim - 2) * jnp.log(clipped) - (self.dim - 3) / 2 * jnp.log(spread)
        allowed = tile.negative & ~(distances >= self.limit)  # NaN is not lost
        return jnp.where(allowed, log_weights + self._noise(tile), -jnp.inf)

    def _noise(self, tile: Tile) -> jax.Array:
        """Gumbel noise ``(n, m)``: one hash for each pair of numbers."""
        numbers = jnp.broadcast_arrays(tile.rows[:, None], tile.columns[None, :])
        counts = jnp.stack(numbers).astype(jnp.uint32)
        secret = jax.random.bits(self.key, (2,), jnp.uint32)  # of any kind of key
        bits = threefry_2x32(*trees.vary_alike((secret, counts)))[0]
        # In (0, 1); near 0, where the noise is large, all digits are different.
        dtype = tile.scores.dtype
        uniform = (bits.astype(dtype) + 0.5) * 2.0**-32
        uniform = jnp.minimum(uniform, 1 - jnp.finfo(dtype).epsneg)
        return -jnp.log(-jnp.log1p(-uniform))
