"""Auto-PGD: projected gradient ascent with momentum that halves its steps when they do not help."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import trees
from jaxrobust.attacks import _search as search
from jaxrobust.attacks import _steps as steps
from jaxrobust.attacks import _threat as threats
from jaxrobust.attacks._arguments import Options, prepared
from jaxrobust.attacks._losses import Loss
from jaxrobust.attacks._problem import Bounds, Predict, Problem, Seen, looker
from jaxrobust.attacks._result import Result
from jaxrobust.attacks._search import Best, Outcome, Trail, choose
from jaxrobust.norms import Norm

_MOMENTUM = 0.25  # what the last step counts
_LEAST_INCREASES = 0.75  # share of the steps since the last check that must have gone up
# Checks, in parts of all steps: the first one, by how much the time between two gets shorter, and
# the shortest time.
_FIRST_CHECK, _SHORTER, _SHORTEST = 0.22, 0.03, 0.06
_SHARPER = 8.0  # l1: how much further gradients are stretched after each check


def apgd(
    predict: Predict,
    params: Any,
    x: Any,
    y: Any,
    *,
    norm: Norm | str,
    eps: Any,
    key: jax.Array,
    bounds: Bounds = None,
    loss: Loss = "cross_entropy",
    num_steps: int = 100,
    num_restarts: int = 1,
    num_targets: int | None = None,
    check_steps: bool = False,
) -> Result:
    r"""Auto-PGD in any norm: no step size to choose.

    With :math:`g` the gradient of the loss, :math:`u(g)` the direction of steepest ascent in the
    norm and P the projection on ball and bounds, each example on its own,

    .. math:: z_{k+1} = P(\delta_k + \eta\, u(g_k)), \quad
       \delta_{k+1} = P(\delta_k + 0.75 (z_{k+1} - \delta_k) + 0.25 (\delta_k - \delta_{k-1})).

    :math:`\eta` begins at 2 eps. At checks, which get more frequent, it is halved, and the search
    goes on from the best point, if at most three quarters of the steps since the last check went
    up, or neither :math:`\eta` nor the best loss changed.

    Args:
      predict: ``(params, x (B, *features)) -> scores (B, C)``, each row from its own example alone.
        It is compiled once for each function object: pass the same one every time.
      params: its first argument.
      x: ``(B, *features)`` floating, finite.
      y: ``(B,)`` integer labels.
      norm: of the perturbation, or its name.
      eps: radius, positive: a number or ``(B,)``, in units of x.
      key: of the random start; a restart has another one.
      bounds: lowest and highest valid input, numbers or arrays that broadcast against x, such as
        ``(0, 1)``; None for none.
      loss: what is maximised: ``"cross_entropy"``; ``"dlr"``, the margin over the difference of the
        first and third score, which does not saturate (needs 3 classes); ``"margin"``;
        ``"targeted_dlr"`` (4 classes) and ``"targeted_margin"``, which go for the likeliest other
        classes in turn; or a function ``(scores (B, C), y (B,)) -> (B,)``.
      num_steps: gradients for each restart.
      num_restarts: random starts; with a targeted loss, of every target.
      num_targets: of a targeted loss; None for the 9 likeliest other classes, or all of them.
      check_steps: whether ``info`` tells of every step how far its point is out of ball and bounds,
        at the price of a norm each.

    Returns:
      :class:`Result`. For each example the point is one that succeeds, if there was one, and of
      those (or else of all) the one with the highest loss; x itself is one of them. Under ``jit``
      examples out of bounds, labels that there are not and radii that are not positive and finite
      cannot raise: there ``info.has_nan`` is True, and nothing succeeds.

    Raises:
      ValueError: for shapes that do not fit, labels out of range, ``eps`` not positive, inputs out
        of bounds, NaN in x or in the scores, too few classes for the loss.
      TypeError: for arguments of the wrong kind.

    Source:
      Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
      parameter-free attacks", arXiv:2003.01690, algorithm 1. Ours: any norm (see the room's
      `_steps`), and, for exponents besides 1, 2 and infinity, convex steps.
    """
    options = Options(
        "apgd", loss, num_steps=num_steps, num_restarts=num_restarts, num_targets=num_targets,
        check_steps=bool(check_steps),
    )  # fmt: skip
    norm, problem, options, settings = prepared(options, predict, params, x, y, norm, eps, bounds)
    return _apgd(predict, norm, options, settings, problem, key)


@functools.partial(trees.compiled, num_static=4)
def _apgd(
    predict: Predict, norm: Norm, options: Options, settings, problem: Problem, key
) -> Result:
    targets = options.targets(predict, problem)

    def run(key: jax.Array, target: jax.Array | None) -> Outcome:
        look = looker(predict, problem, options.loss, target)
        start = threats.drawn(norm, problem.threat, key, problem.origin)
        return climb(norm, problem, look, start, options)

    outcome = search.restarted(run, problem, key, options.num_restarts, targets)
    return search.result(norm, problem, outcome, settings)


class _Climb(NamedTuple):
    """Between two steps."""

    delta: jax.Array  # (B, *features)
    previous: jax.Array  # (B, *features)
    seen: Seen  # at delta
    top: jax.Array  # (B, *features): with the highest loss, which need not succeed
    top_seen: Seen
    best: Best
    trail: Trail
    size: jax.Array  # (B,): eta in units of eps
    stretch: jax.Array  # (B,), see `_steps`
    increases: jax.Array  # (B,) int32: since the last check
    checked: jax.Array  # (B,): the highest loss at the last check
    was_halved: jax.Array  # (B,) bool: eta, then
    memory: Any  # of `threats.extreme`


def climb(norm: Norm, problem: Problem, look: Any, start: jax.Array, options: Options) -> Outcome:
    """One run from a start."""
    num_steps = options.num_steps
    seen, told = look(start), functools.partial(search.told, norm, problem, options)
    best, trail = search.first(start, seen)
    seen = seen._replace(loss=best.loss)  # not NaN, above which nothing would be
    checked, best = best.loss, search.with_origin(best, problem, look)
    number = len(start)
    of_each = lambda value, dtype: jnp.full(number, value, dtype)
    state = _Climb(
        start, start, seen, start, seen, best, trail, of_each(2, start.dtype),
        steps.stretch_at(start, 0.0), of_each(0, jnp.int32), checked, of_each(False, bool),
        threats.memory(norm, problem.threat, seen.gradient, num_steps),
    )  # fmt: skip
    record = jax.tree.map(
        lambda one: jnp.broadcast_to(one, (num_steps + 1, number)), told(start, seen.loss)
    )
    begin = problem.alike((state, record))
    one = functools.partial(_step, norm, problem, look)

    # The steps up to a check are a loop of their own: a branch in every step would copy all that
    # is carried.
    def stretch(carry: tuple[_Climb, search.Steps], span: jax.Array):
        begin, end, is_check = span

        def step(i, carry):
            state, record = carry
            state = one(state, i > 0)
            put = lambda rows, row: jax.lax.dynamic_update_index_in_dim(rows, row, i + 1, 0)
            return state, jax.tree.map(put, record, told(state.delta, state.seen.loss))

        state, record = jax.lax.fori_loop(begin, end, step, carry)
        check = lambda state: _check(state, end - begin)
        return (jax.lax.cond(is_check, check, lambda state: state, state), record), None

    (state, record), _ = jax.lax.scan(stretch, begin, spans(num_steps))
    return Outcome(state.best, record, state.trail)


def _step(norm: Norm, problem: Problem, look: Any, state: _Climb, is_later: jax.Array) -> _Climb:
    threat = problem.threat
    z, memory = steps.moved(
        norm, threat, state.delta, state.seen.gradient, state.size, state.stretch, state.memory
    )
    # The first step is taken whole, for there is none before it.
    momentum = jnp.where(is_later, _MOMENTUM, 0).astype(z.dtype)
    ahead = (1 - momentum) * (z - state.delta) + momentum * (state.delta - state.previous)
    delta = threats.project(norm, threat, state.delta + ahead)
    seen = look(delta)
    best, trail = search.update(state.best, state.trail, delta, seen)
    is_top = seen.loss > state.top_seen.loss
    return state._replace(
        delta=delta,
        previous=state.delta,
        seen=seen,
        top=choose(is_top, delta, state.top),
        top_seen=choose(is_top, seen, state.top_seen),
        best=best,
        trail=trail,
        increases=state.increases + (seen.loss > state.seen.loss),
        memory=memory,
    )


def _check(state: _Climb, since: jax.Array) -> _Climb:
    """Halves the steps that did not help, and goes back to the best point there."""
    is_slow = state.increases <= _LEAST_INCREASES * since
    is_stuck = ~state.was_halved & (state.checked >= state.top_seen.loss)
    halved = is_slow | is_stuck
    return state._replace(
        size=jnp.where(halved, state.size / 2, state.size),
        # Whether or not it was halved: a sparse direction gets to a corner of the ball.
        stretch=state.stretch * _SHARPER,
        delta=choose(halved, state.top, state.delta),
        previous=choose(halved, state.top, state.previous),
        seen=choose(halved, state.top_seen, state.seen),
        increases=jnp.zeros_like(state.increases),
        checked=state.top_seen.loss,
        was_halved=halved,
    )


def checks(num_steps: int) -> list[int]:
    """After how many steps there are checks."""
    found = []
    length, at = max(int(_FIRST_CHECK * num_steps), 1), 0
    while at + length <= num_steps:
        at += length
        found.append(at)
        length = max(length - max(int(_SHORTER * num_steps), 1), int(_SHORTEST * num_steps), 1)
    return found


def spans(num_steps: int) -> Any:
    """First step, end, and whether a check follows, of what is between two checks."""
    at = checks(num_steps)
    ends = np.asarray(at if at[-1] == num_steps else [*at, num_steps], np.int32)
    return np.append(0, ends[:-1]).astype(np.int32), ends, np.isin(ends, at)
