"""Conditional gradients: to the extreme point along the gradient, part of the way."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust import trees
from jaxrobust.attacks import _search as search
from jaxrobust.attacks import _threat as threats
from jaxrobust.attacks._arguments import Options, prepared
from jaxrobust.attacks._losses import Loss
from jaxrobust.attacks._problem import Bounds, Predict, Problem, looker
from jaxrobust.attacks._result import Result
from jaxrobust.attacks._search import Outcome
from jaxrobust.norms import Norm

# As `threats` says: twice as many as for others, for no later point undoes what one is off.
_SWEEPS = 20


def frank_wolfe(
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
    r"""Frank-Wolfe: no projection, in any norm.

    With :math:`s_k = \arg\max_{s \in C} \langle s, g_k\rangle` over what ball and bounds allow,

    .. math:: \delta_{k+1} = (1-\gamma_k)\,\delta_k + \gamma_k s_k, \quad \gamma_k = 2/(k+2),

    so that every point is a mean of allowed ones. The first step goes all the way.

    Args:
      predict: ``(params, x) -> scores (B, C)``, as in :func:`apgd`.
      params: its first argument.
      x: ``(B, *features)`` floating.
      y: ``(B,)`` integer labels.
      norm: of the perturbation, or its name.
      eps: radius, positive: a number or ``(B,)``, in units of x.
      key: of what is random.
      bounds: lowest and highest valid input, as in :func:`apgd`.
      loss: what is maximised, as in :func:`apgd`.
      num_steps: gradients for each restart.
      num_restarts: random starts; with a targeted loss, of every target.
      num_targets: of a targeted loss, as in :func:`apgd`.
      check_steps: as in :func:`apgd`.

    Returns:
      :class:`Result`. For norms that are not lp norms of entries, and with bounds, the extreme
      point is only approximate (see `norms.Norm.lmo_in_box`), but always allowed.

    Raises:
      ValueError, TypeError: as :func:`apgd`.

    Source:
      Frank & Wolfe 1956; for attacks Chen et al., arXiv:1811.10828, from memory.
    """
    options = Options(
        "frank_wolfe", loss, num_steps, num_restarts, num_targets, check_steps=bool(check_steps)
    )
    norm, problem, options, settings = prepared(options, predict, params, x, y, norm, eps, bounds)
    return _frank_wolfe(predict, norm, options, settings, problem, key)


@functools.partial(trees.compiled, num_static=4)
def _frank_wolfe(
    predict: Predict, norm: Norm, options: Options, settings, problem: Problem, key
) -> Result:
    targets = options.targets(predict, problem)
    parts = 2 / (jnp.arange(options.num_steps, dtype=problem.origin.dtype) + 2)

    def run(key: jax.Array, target: jax.Array | None) -> Outcome:
        look = looker(predict, problem, options.loss, target)
        start = threats.drawn(norm, problem.threat, key, problem.origin)
        seen, told = look(start), functools.partial(search.told, norm, problem, options)
        best, trail = search.first(start, seen)
        best = search.with_origin(best, problem, look)

        def step(carry, part):
            delta, gradient, memory, best, trail = carry
            goal, memory = threats.extreme(norm, problem.threat, gradient, memory, _SWEEPS)
            has_gradient = jnp.any(threats.flat(gradient) != 0, axis=1)
            # As a mean and not as a step, which would be rounded out of the ball.
            mean = (1 - part) * delta + part * goal
            delta = search.choose(has_gradient, mean, delta)
            seen = look(delta)
            best, trail = search.update(best, trail, delta, seen)
            return (delta, seen.gradient, memory, best, trail), told(delta, seen.loss)

        memory = threats.memory(norm, problem.threat, seen.gradient, options.num_steps)
        begin = problem.alike((start, seen.gradient, memory, best, trail))
        (*_, best, trail), rest = jax.lax.scan(step, begin, parts)
        return Outcome(best, search.joined(told(start, seen.loss), rest), trail)

    outcome = search.restarted(run, problem, key, options.num_restarts, targets)
    return search.result(norm, problem, outcome, settings)
