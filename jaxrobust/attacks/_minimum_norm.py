"""The smallest perturbation that changes the class."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import trees
from jaxrobust.attacks import _search as search
from jaxrobust.attacks import _steps as steps
from jaxrobust.attacks import _threat as threats
from jaxrobust.attacks._arguments import Options, prepared
from jaxrobust.attacks._losses import Loss
from jaxrobust.attacks._problem import Bounds, Predict, Problem, Seen, looker
from jaxrobust.attacks._result import Settings
from jaxrobust.attacks._threat import spread
from jaxrobust.norms import Norm

# Parts by which the radius changes, and steps in units of the radius: at first and in the end.
_RADIUS_FIRST, _RADIUS_LAST = 0.05, 1e-4
_STEP_FIRST, _STEP_LAST = 2.0, 0.01
_HALVINGS = 22  # of the way from x to the point found: the distance to 2e-7 of itself
_SLACK = 2e-5  # by which part the point is put beyond that, so that rounding does not bring it back


class MinimumNormInfo(NamedTuple):
    """What happened on the way, in the run that came nearest, or in a first one if none came."""

    # (num_steps, B) float: what was maximised, at the start and every step but the last.
    losses: jax.Array
    # (num_steps, B) float: the smallest norm that succeeded up to there; infinite before there was
    # any.
    distances: jax.Array
    out_of_bounds: jax.Array  # (B,) float: how far a feature is outside of the bounds
    has_zero_gradient: jax.Array  # (B,) bool: there was no gradient to go by
    has_nan: jax.Array  # (B,) bool: scores or gradients were NaN or infinite somewhere


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MinimumNorm:
    """The nearest adversarial examples that were found."""

    inputs: jax.Array  # (B, *features), dtype of x; x itself where none was found
    perturbations: jax.Array  # (B, *features) float32 at least: what was added to x
    # (B,) float: the norm of the perturbation; 0 where x itself is misclassified, infinite where no
    # adversarial example was found.
    distance: jax.Array
    success: jax.Array  # (B,) bool: whether one was found
    info: MinimumNormInfo
    settings: Settings = dataclasses.field(metadata={"static": True})

    def robust_accuracy(self, eps: Any) -> jax.Array:
        """Share of examples without an adversarial one within ``eps``, of the shape of ``eps``."""
        radii = jnp.asarray(eps)
        distance = self.distance.reshape(*[1] * radii.ndim, -1)
        return jnp.mean(distance > radii[..., None], axis=-1, dtype=self.distance.dtype)


class _Found(NamedTuple):
    """The best of all runs."""

    nearest: jax.Array  # (B, *features): smallest that succeeded
    distance: jax.Array  # (B,): its norm; infinite without one
    lacks: jax.Array  # (B,) bool: never a gradient
    is_finite: jax.Array  # (B,) bool
    losses: jax.Array  # (num_steps, B), of the run that came nearest
    distances: jax.Array  # (num_steps, B), likewise


class _State(NamedTuple):
    """Of one run; what is found has no steps yet."""

    delta: jax.Array  # (B, *features)
    radius: jax.Array  # (B,): of the ball it was projected on
    memory: Any  # of `threats.extreme`
    found: _Found


def minimum_norm(
    predict: Predict,
    params: Any,
    x: Any,
    y: Any,
    *,
    norm: Norm | str,
    key: jax.Array,
    bounds: Bounds = None,
    loss: Loss = "margin",
    num_steps: int = 100,
    num_restarts: int = 1,
    num_targets: int | None = None,
) -> MinimumNorm:
    r"""Fast minimum-norm attack, in any norm.

    Every example has a radius of its own. Points are projected on its ball, like those of
    :func:`pgd` with shorter and shorter steps; the radius shrinks by a part :math:`\gamma_k` where
    the point is adversarial, and grows otherwise: as long as none was found, to where the class
    would change if the margin :math:`m < 0` were linear, :math:`\|\delta\| + |m| / \|\nabla m\|_*`.
    In the end the way from x to the nearest point is halved to where the class changes.

    Why not FAB: that needs the projection on a hyperplane within the bounds, which is known in
    closed form for l1, l2 and linf alone. What this needs every norm has.

    Args:
      predict: ``(params, x) -> scores (B, C)``, as in :func:`apgd`.
      params: its first argument.
      x: ``(B, *features)`` floating.
      y: ``(B,)`` integer labels.
      norm: of the perturbation, or its name.
      key: of what is random.
      bounds: lowest and highest valid input, as in :func:`apgd`.
      loss: what is maximised, one that is 0 where the class changes: ``"margin"``,
        ``"targeted_margin"``, ``"dlr"``, ``"targeted_dlr"``, or a function of this kind.
      num_steps: gradients for each restart, besides one at x.
      num_restarts: runs, with a targeted loss of every target; the first begins at x if there is a
        gradient, the others at random points within the distance that was found before.
      num_targets: of a targeted loss, as in :func:`apgd`.

    Returns:
      :class:`MinimumNorm`.

    Raises:
      ValueError, TypeError: as :func:`apgd`; for ``loss="cross_entropy"``, which is nowhere 0.

    Source:
      Pintor et al., "Fast minimum-norm adversarial attacks through adaptive norm constraints",
      arXiv:2102.12827, algorithm 1. Ours: steepest steps of the norm, and the halving at the end.
    """
    if loss == "cross_entropy":
        raise ValueError("loss must be 0 where the class changes, such as 'margin', not an entropy")
    options = Options("minimum_norm", loss, num_steps, num_restarts, num_targets)
    # The radius is found, and not given.
    norm, problem, options, settings = prepared(options, predict, params, x, y, norm, 1.0, bounds)
    return _minimum_norm(predict, norm, options, settings, problem, key)


@functools.partial(trees.compiled, num_static=4)
def _minimum_norm(
    predict: Predict, norm: Norm, options: Options, settings, problem: Problem, key: jax.Array
) -> MinimumNorm:
    targets = options.targets(predict, problem)
    number = options.num_restarts if targets is None else len(targets)
    origin = problem.origin
    schedule = _schedule(options.num_steps, origin.dtype)

    def run(best: _Found, given) -> tuple[_Found, None]:
        key, target, is_first = given
        look = looker(predict, problem, options.loss, target)
        # A restart begins at a random point, within the radius that is known if there is one; so
        # does the first run where there is no gradient at x to go by.
        is_known = jnp.isfinite(best.distance)
        radius = jnp.where(is_known, best.distance, threats.of_finite_norm(norm, _long(problem))[1])
        drawn = threats.drawn(norm, problem.threat._replace(eps=radius), key, origin)
        seen = look(origin)
        at_x = is_first & (seen.has_gradient | (seen.margin >= 0))
        start = search.choose(at_x, origin, drawn)
        memory = threats.memory(norm, problem.threat, origin, 0)
        state = _State(start, jnp.where(at_x, 0, radius), memory, _nothing(problem, 0))
        state = problem.alike(state, key)

        def step(state: _State, given) -> tuple[_State, tuple[jax.Array, jax.Array]]:
            state, loss = _step(norm, problem, look, state, *given)
            return state, (loss, state.found.distance)

        state, (losses, distances) = jax.lax.scan(step, state, schedule)
        found = state.found
        is_nearer = found.distance < best.distance
        is_shown = is_nearer | is_first & ~is_known
        choose = lambda one, other: jnp.where(is_shown[None, :], one, other)
        return _Found(
            search.choose(is_nearer, found.nearest, best.nearest),
            jnp.minimum(found.distance, best.distance),
            found.lacks & best.lacks,
            found.is_finite & best.is_finite & seen.is_finite,
            choose(losses, best.losses),
            choose(distances, best.distances),
        ), None

    is_first = jnp.arange(number) % options.num_restarts == 0
    given = jax.random.split(key, number), targets, is_first
    begin = problem.alike(_nothing(problem, options.num_steps), key)
    found, _ = jax.lax.scan(run, begin, given)
    nearest = _halved(looker(predict, problem, "margin"), found.nearest)
    success = jnp.isfinite(found.distance)
    distance = jnp.where(success, jax.vmap(norm.value)(nearest), jnp.inf)
    inputs = problem.at(nearest)
    out = threats.out_of_bounds(problem.threat, problem.moved(inputs))
    info = MinimumNormInfo(
        found.losses, found.distances, out, found.lacks & (distance > 0), ~found.is_finite
    )
    return MinimumNorm(inputs, nearest, distance, success, info, settings)


def _nothing(problem: Problem, num_steps: int) -> _Found:
    origin = problem.origin
    true = jnp.ones(len(origin), bool)
    nowhere = jnp.full(len(origin), jnp.inf, origin.dtype)
    steps = jnp.full((num_steps, len(origin)), jnp.inf, origin.dtype)
    return problem.alike(_Found(origin, nowhere, true, true, steps, steps))


def _long(problem: Problem) -> jax.Array:
    """A perturbation as large as the bounds allow, or else as the input is."""
    if problem.threat.upper is None:
        return jnp.abs(problem.x).astype(problem.origin.dtype) + 1
    return jnp.maximum(problem.threat.upper, -problem.threat.lower)


def _schedule(num_steps: int, dtype: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``(num_steps,)`` each: part by which the radius changes, size of a step, share of steps."""
    share = jnp.linspace(0, 1, num_steps, dtype=dtype)
    way = (1 + jnp.cos(jnp.pi * share)) / 2
    radius = _RADIUS_LAST + (_RADIUS_FIRST - _RADIUS_LAST) * way
    return radius, _STEP_LAST + (_STEP_FIRST - _STEP_LAST) * way, share


def _step(
    norm: Norm,
    problem: Problem,
    look: Any,
    state: _State,
    part: jax.Array,
    size: jax.Array,
    share: jax.Array,
) -> tuple[_State, jax.Array]:
    """The state after a step, and the loss before it."""
    seen: Seen = look(state.delta)
    found = state.found
    length = jax.vmap(norm.value)(state.delta)
    succeeds = seen.margin >= 0
    is_nearer = succeeds & (length < found.distance)
    distance = jnp.where(is_nearer, length, found.distance)
    slope = jax.vmap(norm.dual.value)(seen.gradient)
    # Where the class would change if the loss were linear; a little further, for it is not.
    linear = length + jnp.abs(seen.loss) / jnp.where(slope > 0, slope, jnp.inf)
    grown = jnp.where(jnp.isfinite(distance), state.radius * (1 + part), linear * (1 + part))
    radius = jnp.where(succeeds, jnp.minimum(state.radius * (1 - part), distance), grown)
    # A ball must not be a point, from which there is no way back.
    radius = jnp.maximum(radius, jnp.finfo(radius.dtype).tiny ** 0.5)
    threat = problem.threat._replace(eps=radius)
    sizes, stretch = jnp.full_like(radius, size), steps.stretch_at(state.delta, share)
    delta, memory = steps.moved(
        norm, threat, state.delta, seen.gradient, sizes, stretch, state.memory
    )
    if not steps.is_projected(norm, threat):
        delta = threats.project(norm, threat, delta)  # the ball may have shrunk
    nearest = search.choose(is_nearer, state.delta, found.nearest)
    after = found._replace(
        nearest=nearest,
        distance=distance,
        lacks=found.lacks & ~seen.has_gradient,
        is_finite=found.is_finite & seen.is_finite,
    )
    return _State(delta, radius, memory, after), seen.loss


def _halved(look: Any, delta: jax.Array) -> jax.Array:
    """The part of each way at which the class changes, if it does so once; a little further."""
    ones = jnp.ones(len(delta), delta.dtype)
    succeeds = lambda part: look(spread(part, delta.ndim) * delta).margin >= 0

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        there = succeeds(middle)
        return jnp.where(there, low, middle), jnp.where(there, middle, high)

    _, part = jax.lax.fori_loop(0, _HALVINGS, halve, trees.vary_like((0 * ones, ones), delta))
    further = jnp.where(part > 1e-6, jnp.minimum(part * (1 + _SLACK), 1), 0)  # 0: x itself
    return spread(jnp.where(succeeds(further), further, part), delta.ndim) * delta
