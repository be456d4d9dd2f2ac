"""The sampler that all unbiased ones are cases of: strata, shares of the draws, and scores."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust.sampling._visits import visit

# The strata lie on a line of about so many units: sums of two places are int32.
_LINE = 2**30


class Draw(NamedTuple):
    """The examples of one batch, and what each counts."""

    indices: jax.Array  # (B,) int32: examples
    weights: jax.Array  # (B,) float32: mean(weights * losses[indices]) estimates the mean loss


class State(NamedTuple):
    """Where a sampler is: all that the next draw depends on, besides the sampler."""

    key: jax.Array  # PRNG key, the same for all steps
    step: jax.Array  # () int32: draws so far
    epochs: jax.Array  # (K,) int32: passes that were made over each stratum
    places: jax.Array  # (K,) int32: members of each that were visited in the current pass


def _static():
    return dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sampler:
    """Draws batches of fixed size from K strata; made by :func:`uniform` and the like.

    A pytree of arrays with static sizes: give it to a jitted step as an argument, and one with
    other assignments or scores compiles nothing anew. ``init`` and ``next`` are pure, run under
    ``jit``, ``vmap`` and ``scan``, and take time of about the batch size, not of the data's.
    """

    members: jax.Array | None  # (N,) int32: examples stratum by stratum; None for 0..N-1
    starts: jax.Array  # (K,) int32: where each stratum begins there
    sizes: jax.Array  # (K,) int32: members; 0 if it is empty
    shares: jax.Array  # (K,) float32: expected share of the draws, sum 1; 0 if it is empty
    widths: jax.Array  # (K,) int32: the same as numbers of draws, in units, see `widths_of`
    running: jax.Array | None  # (N,) int32: sums of scores up to each place; None: all the same
    num_examples: int = _static()
    batch_size: int = _static()
    replacement: bool = _static()

    def init(self, key: jax.Array) -> State:
        """The state before the first draw."""
        zeros = jnp.zeros(self.sizes.shape, jnp.int32)
        return State(key, jnp.int32(0), zeros, zeros)

    @jax.jit  # so that a plain Python loop is fast, too
    def next(self, state: State) -> tuple[Draw, State]:
        """The next batch, and the state after it."""
        counts_key, member_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        strata, counts = self.allocate(jax.random.randint(counts_key, (), 0, self.unit))
        numbers = jnp.arange(self.batch_size) - jnp.searchsorted(strata, strata)
        weights = self.weights_of_strata(counts)[strata]
        sizes, starts = self.sizes[strata], self.starts[strata]
        epochs, places = state.epochs, state.places
        if self.running is not None:
            at, chance = _draw_by_score(member_key, self.running, starts, sizes)
            # A member of probability p counts as 1/p of the mean of its stratum.
            weights = weights / (sizes * chance)
        elif self.replacement:
            at = starts + jax.random.randint(member_key, sizes.shape, 0, sizes)
        else:
            place = state.places[strata] + numbers
            at = starts + visit(
                # Not the key of this step: an order is of a whole pass.
                state.key,
                strata,
                state.epochs[strata] + place // sizes,
                place % sizes,
                sizes,
            )
            places = state.places + counts
            epochs = state.epochs + places // jnp.maximum(self.sizes, 1)
            places = places % jnp.maximum(self.sizes, 1)
        indices = at if self.members is None else self.members[at]
        draw = Draw(indices.astype(jnp.int32), weights)
        return draw, State(state.key, state.step + 1, epochs, places)

    @property
    def unit(self) -> int:
        """One expected draw, of the integers that :attr:`widths` are."""
        return unit_of(self.batch_size)

    @property
    def edges(self) -> jax.Array:
        """``(K,)`` int32: expected number of draws in the strata up to each, in units."""
        return jnp.cumsum(self.widths)

    def allocate(self, offset: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The stratum of every draw, ``(B,)`` ascending, and the number of draws in each, ``(K,)``.

        Systematic sampling: the strata lie one after the other on a line, as long as they are
        expected to be drawn, and draw j is of the one at ``j + offset``, the offset an integer
        below :attr:`unit`. So each is drawn as often as expected, rounded up or down.
        """
        edges = self.edges
        places = jnp.arange(self.batch_size, dtype=jnp.int32) * self.unit + offset
        strata = jnp.searchsorted(edges, places, side="right")
        counts = jnp.zeros(edges.shape, jnp.int32).at[strata].add(1)
        return strata.astype(jnp.int32), counts

    def weights_of_strata(self, counts: jax.Array) -> jax.Array:
        """What a draw from each stratum counts, ``(K,)``, given how many there are.

        One that is drawn at every step counts as its share of the examples, divided among the draws
        there are: its mean is estimated with no error from how many these are. One that is not
        counts by the expected number of draws. Either is unbiased.
        """
        widths = self.widths
        expected = widths.astype(self.shares.dtype) / self.unit
        number = jnp.where(widths >= self.unit, jnp.maximum(counts, 1), expected)
        # One division, and by no constant: the same bits under jit and not.
        divisor = jnp.where(widths > 0, number, 1) * self.num_examples
        sizes = self.sizes.astype(divisor.dtype)
        return jnp.where(widths > 0, sizes * self.batch_size / divisor, 0)

    @property
    def is_covered(self) -> jax.Array:
        """``(K,)`` bool: which strata are drawn from at every step."""
        return self.widths >= self.unit


def unit_of(batch_size: int) -> int:
    """As fine as int32 allows."""
    return max(1, _LINE // batch_size)


@functools.partial(jax.jit, static_argnums=1)
def widths_of(shares: jax.Array, batch_size: int) -> jax.Array:
    """The expected number of draws in each stratum, ``(K,)`` int32 in units, B of these in all.

    Integers, so that the probabilities with which strata are drawn are exactly those that the
    weights are made of; and every stratum that has a share has one unit, at least. Computed once:
    at every step it would take longer than a step of a small model.
    """
    unit = unit_of(batch_size)
    expected = shares * batch_size
    whole = jnp.round(expected)
    # Whole numbers up to rounding are meant: then a stratum gets as many draws at every step.
    rounding = 16 * jnp.finfo(expected.dtype).eps * whole
    is_whole = (whole > 0) & (jnp.abs(expected - whole) <= rounding)
    parts = jnp.maximum(jnp.floor(expected * unit), 1).astype(jnp.int32)
    found = jnp.where(is_whole, whole.astype(jnp.int32) * unit, parts)
    found = jnp.where(shares > 0, found, 0)
    # What was rounded off is spread evenly over those that are not whole; what there is too much,
    # some millionths at most, the widest of all gives.
    left = batch_size * unit - jnp.sum(found)
    takes = (shares > 0) & ~is_whole
    takes = jnp.where(jnp.any(takes), takes, shares > 0)
    number = jnp.sum(takes)
    more = jnp.where(takes, left // number + (jnp.cumsum(takes) <= left % number), 0)
    widest = jnp.arange(found.size) == jnp.argmax(found)
    return found + jnp.where(left >= 0, more, jnp.where(widest, left, 0))


def restrict(sampler: Sampler, examples: jax.Array) -> Sampler:
    """The sampler of some of the examples: the same strata, shares of the draws, and scores.

    What it tells of them, :func:`variance` for instance, is an estimate of what the whole sampler
    does, as long as most of its strata have several of the examples. Shares of strata that have
    none go to the others.

    Args:
      sampler: of N examples.
      examples: ``(n,)`` int32, different ones of them. Example ``i`` of the new sampler is
        ``examples[i]``.

    Returns:
      :class:`Sampler` of n examples. Runs under ``jit``.

    Raises:
      TypeError: for a sampler of groups, which has no strata.
      ValueError: for no examples; for some that are repeated or out of range (unless traced).
    """
    if not isinstance(sampler, Sampler):
        raise TypeError(f"sampler must be a Sampler, got {type(sampler).__name__}")
    if not isinstance(examples, Tracer):
        found = np.asarray(examples)
        if not found.size:
            raise ValueError("examples must be at least one, got none")
        if len(np.unique(found)) < found.size or np.any(
            (found < 0) | (found >= sampler.num_examples)
        ):
            raise ValueError(f"examples must be different ones in 0..{sampler.num_examples - 1}")
    order = jnp.arange(sampler.num_examples) if sampler.members is None else sampler.members
    place = (
        jnp.zeros(sampler.num_examples, jnp.int32)
        .at[order]
        .set(jnp.arange(sampler.num_examples, dtype=jnp.int32))[examples]
    )
    members = jnp.argsort(place).astype(jnp.int32)  # in the order of the strata
    place = place[members]
    stratum = jnp.searchsorted(jnp.cumsum(sampler.sizes), place, side="right")
    sizes = jnp.zeros(sampler.sizes.shape, jnp.int32).at[stratum].add(1)
    shares = jnp.where(sizes > 0, sampler.shares, 0)
    shares = shares / jnp.sum(shares)
    running = sampler.running
    if running is not None:
        running = jnp.cumsum(jnp.diff(running, prepend=0)[place], dtype=jnp.int32)
    return dataclasses.replace(
        sampler,
        members=members,
        starts=jnp.cumsum(sizes) - sizes,
        sizes=sizes,
        shares=shares,
        widths=widths_of(shares, sampler.batch_size),
        running=running,
        num_examples=examples.shape[0],
    )


def _draw_by_score(
    key: jax.Array, running: jax.Array, starts: jax.Array, sizes: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Places drawn in proportion to integer scores, and the probability of each in its stratum.

    In integers, so that the probabilities are exactly those that the weights are made of.
    """
    before = jnp.where(starts > 0, running[starts - 1], 0)
    total = running[starts + sizes - 1] - before
    target = before + jax.random.randint(key, total.shape, 0, total)
    at = jnp.searchsorted(running, target, side="right").astype(jnp.int32)
    score = running[at] - jnp.where(at > 0, running[at - 1], 0)
    return at, score / total.astype(jnp.float32)
