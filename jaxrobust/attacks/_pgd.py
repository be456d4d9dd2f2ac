"""Projected gradient ascent with steps of one size."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust import trees
from jaxrobust.attacks import _search as search
from jaxrobust.attacks import _steps as steps
from jaxrobust.attacks import _threat as threats
from jaxrobust.attacks._arguments import Options, prepared
from jaxrobust.attacks._checks import check_positive
from jaxrobust.attacks._losses import Loss
from jaxrobust.attacks._problem import Bounds, Predict, Problem, looker
from jaxrobust.attacks._result import Result
from jaxrobust.attacks._search import Outcome
from jaxrobust.norms import Norm

_FIRST_STEP = 2.0  # by default, in units of eps: to the other side of the ball


def pgd(
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
    num_steps: int = 40,
    step_size: float | None = None,
    random_start: bool = True,
    num_restarts: int = 1,
    num_targets: int | None = None,
    check_steps: bool = False,
) -> Result:
    r"""Projected gradient ascent: :math:`\delta \leftarrow P(\delta + \eta\,\epsilon\, u(g))`.

    :math:`u(g)` is the direction of steepest ascent in the norm, each example on its own: the sign
    of the gradient for linf, its direction for l2, the phases of its spectrum for Fourier-linf. For
    l1 balls it is sparse but not a single entry, for exponents besides 1, 2 and infinity the step
    is a part :math:`\eta/2` of the way to the extreme point of what is allowed.

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
      step_size: :math:`\eta`, in units of eps; None for steps that fall linearly from 2 to 0, with
        which the best perturbation is reached where the gradient is constant.
      random_start: whether to begin at a random point and not at x.
      num_restarts: random starts; 1 without them.
      num_targets: of a targeted loss, as in :func:`apgd`.
      check_steps: as in :func:`apgd`.

    Returns:
      :class:`Result`.

    Raises:
      ValueError, TypeError: as :func:`apgd`; for a step size that is not positive.

    Source:
      Madry et al., "Towards deep learning models resistant to adversarial attacks",
      arXiv:1706.06083, for linf.
    """
    trees.check_count("num_steps", num_steps)
    if step_size is not None:
        check_positive("step_size", step_size)
    if num_restarts != 1 and not random_start:
        raise ValueError(f"num_restarts must be 1 without random_start, got {num_restarts}")
    options = Options(
        "pgd", loss, num_steps, num_restarts, num_targets,
        (
            ("step_size", "falling" if step_size is None else float(step_size)),
            ("random_start", bool(random_start)),
        ),
        check_steps=bool(check_steps),
    )  # fmt: skip
    norm, problem, options, settings = prepared(options, predict, params, x, y, norm, eps, bounds)
    return _pgd(predict, norm, options, settings, problem, key)


@functools.partial(trees.compiled, num_static=4)
def _pgd(predict: Predict, norm: Norm, options: Options, settings, problem: Problem, key) -> Result:
    more = dict(options.more)
    targets = options.targets(predict, problem)
    dtype = problem.origin.dtype
    share = jnp.arange(options.num_steps, dtype=dtype) / options.num_steps
    constant = more["step_size"]
    sizes = _FIRST_STEP * (1 - share) if constant == "falling" else jnp.full_like(share, constant)

    def run(key: jax.Array, target: jax.Array | None) -> Outcome:
        look = looker(predict, problem, options.loss, target)
        start = problem.origin
        if more["random_start"]:
            start = threats.drawn(norm, problem.threat, key, start)
        seen, told = look(start), functools.partial(search.told, norm, problem, options)
        best, trail = search.first(start, seen)
        if more["random_start"]:
            best = search.with_origin(best, problem, look)

        def step(carry, given):
            (delta, gradient, memory, best, trail), (size, share) = carry, given
            of_each = jnp.full(len(delta), size)
            stretch = steps.stretch_at(delta, share)
            delta, memory = steps.moved(
                norm, problem.threat, delta, gradient, of_each, stretch, memory
            )
            seen = look(delta)
            best, trail = search.update(best, trail, delta, seen)
            return (delta, seen.gradient, memory, best, trail), told(delta, seen.loss)

        memory = threats.memory(norm, problem.threat, seen.gradient, options.num_steps)
        begin = problem.alike((start, seen.gradient, memory, best, trail))
        (*_, best, trail), rest = jax.lax.scan(step, begin, (sizes, share))
        return Outcome(best, search.joined(told(start, seen.loss), rest), trail)

    outcome = search.restarted(run, problem, key, options.num_restarts, targets)
    return search.result(norm, problem, outcome, settings)
