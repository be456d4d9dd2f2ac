"""What all attacks with restarts share: the best point so far, and what was seen on the way."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.attacks import _threat as threats
from jaxrobust.attacks._problem import Problem, Seen
from jaxrobust.attacks._result import Info, Result, Settings
from jaxrobust.attacks._threat import spread
from jaxrobust.norms import Norm


class Best(NamedTuple):
    """The best point of each example: one that succeeds, and of those the highest loss."""

    delta: jax.Array  # (B, *features)
    loss: jax.Array  # (B,)
    margin: jax.Array  # (B,)


class Trail(NamedTuple):
    """What was seen on the way."""

    # (B,) bool each: every gradient that was needed was zero; nothing was NaN.
    has_no_gradient: jax.Array
    is_finite: jax.Array


class Steps(NamedTuple):
    """Of the points that were looked at, (num_steps + 1, B) each; of one of them (B,)."""

    losses: jax.Array
    # None unless the options ask for them; see `Info`.
    beyond_radius: Any = None
    out_of_bounds: Any = None


class Outcome(NamedTuple):
    """Of one run."""

    best: Best
    steps: Steps
    trail: Trail


def told(norm: Norm, problem: Problem, options: Any, delta: jax.Array, loss: jax.Array) -> Steps:
    """What is told of a point."""
    if not options.check_steps:
        return Steps(loss)
    return Steps(loss, *feasibility(norm, problem, problem.at(delta)))


def feasibility(norm: Norm, problem: Problem, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``(B,)`` each: by which part of the radius, and how far out of bounds inputs are."""
    moved = problem.moved(inputs)
    allowed = problem.threat._replace(eps=problem.eps)
    return threats.in_norm_beyond(norm, allowed, moved), threats.out_of_bounds(allowed, moved)


def joined(start: Steps, others: Steps) -> Steps:
    """The first point, and the others ``(num_steps, B)``."""
    return jax.tree.map(lambda one, rest: jnp.concatenate([one[None], rest]), start, others)


def first(delta: jax.Array, seen: Seen) -> tuple[Best, Trail]:
    """After the first look."""
    # A point that is NaN must lose against any other.
    loss = jnp.where(jnp.isnan(seen.loss), -jnp.inf, seen.loss)
    return Best(delta, loss, seen.margin), Trail(_lacks_gradient(seen), seen.is_finite)


def with_origin(best: Best, problem: Problem, look: Callable[[jax.Array], Seen]) -> Best:
    """Or no perturbation, which is always allowed: x may be misclassified, and what is near not."""
    seen = look(problem.origin)  # its gradient is not needed, and so not computed under jit
    is_better = _is_better(seen.loss, seen.margin, best)
    return choose(is_better, Best(problem.origin, seen.loss, seen.margin), best)


def update(best: Best, trail: Trail, delta: jax.Array, seen: Seen) -> tuple[Best, Trail]:
    """After another look."""
    is_better = _is_better(seen.loss, seen.margin, best)
    lacks = trail.has_no_gradient & _lacks_gradient(seen)
    return (
        choose(is_better, Best(delta, seen.loss, seen.margin), best),
        Trail(lacks, trail.is_finite & seen.is_finite),
    )


def choose(which: jax.Array, one: Any, other: Any) -> Any:
    """By example, ``(B,)``, of trees whose leaves have a row for each."""
    return jax.tree.map(lambda a, b: jnp.where(spread(which, a.ndim), a, b), one, other)


def _is_better(loss: jax.Array, margin: jax.Array, best: Best) -> jax.Array:
    """NaN is not."""
    succeeds, did = margin >= 0, best.margin >= 0
    return (succeeds & ~did) | ((succeeds == did) & (loss > best.loss))


def _lacks_gradient(seen: Seen) -> jax.Array:
    return ~seen.has_gradient & ~(seen.margin >= 0)


def restarted(
    run: Callable[[jax.Array, jax.Array | None], Outcome],
    problem: Problem,
    key: jax.Array,
    num_restarts: int,
    targets: jax.Array | None,
) -> Outcome:
    """The best of several runs ``(key, target (B,))``: one for each target, or restart."""
    number = num_restarts if targets is None else len(targets)
    keys = jax.random.split(key, number)
    if number == 1:
        return run(keys[0], None if targets is None else targets[0])

    # All runs in one loop, the first one too: it would be compiled once more.
    def again(before: Outcome, given: tuple[Any, ...]) -> tuple[Outcome, None]:
        is_first, *rest = given
        now = run(*rest)
        is_better = is_first | _is_better(now.best.loss, now.best.margin, before.best)
        best = choose(is_better, now.best, before.best)
        steps = jax.tree.map(
            lambda new, old: jnp.where(is_better[None, :], new, old), now.steps, before.steps
        )
        lacks = now.trail.has_no_gradient & (is_first | before.trail.has_no_gradient)
        is_finite = now.trail.is_finite & (is_first | before.trail.is_finite)
        return Outcome(best, steps, Trail(lacks, is_finite)), None

    shapes = jax.eval_shape(run, keys[0], None if targets is None else targets[0])
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    begin = problem.alike(nothing, key)
    outcome, _ = jax.lax.scan(again, begin, (jnp.arange(number) == 0, keys, targets))
    return outcome


def result(norm: Norm, problem: Problem, outcome: Outcome, settings: Settings) -> Result:
    """What the user gets."""
    best, trail = outcome.best, outcome.trail
    inputs = problem.at(best.delta)
    beyond, out = feasibility(norm, problem, inputs)
    losses, *of_steps = outcome.steps
    info = Info(losses, beyond, out, trail.has_no_gradient, ~trail.is_finite, *of_steps)
    return Result(
        inputs, best.delta, best.margin >= 0, best.loss, best.margin, problem.eps, info,
        settings,
    )  # fmt: skip
