"""Random search by scores alone: no gradient, so that none can be masked."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import trees
from jaxrobust.attacks import _losses as losses
from jaxrobust.attacks import _search as search
from jaxrobust.attacks import _steps as steps
from jaxrobust.attacks import _threat as threats
from jaxrobust.attacks._arguments import Options, prepared
from jaxrobust.attacks._checks import check_positive
from jaxrobust.attacks._problem import Bounds, Predict, Problem, scores
from jaxrobust.attacks._result import Result
from jaxrobust.attacks._search import Outcome
from jaxrobust.attacks._threat import Threat, spread
from jaxrobust.norms import Norm

# Of 10,000 queries: after which of them the windows have half the area they had.
_HALVED_AT = (10, 50, 200, 500, 1_000, 2_000, 4_000, 6_000, 8_000)
_LONGER, _SHORTER = 1.5, 1.5 ** (-1 / 4)  # of steps: one of five is to succeed
_LEAST_STEP = 1e-6
_PROBE = 0.1  # length of a random step that the gradient is learned from, in units of eps


def square(
    predict: Predict,
    params: Any,
    x: Any,
    y: Any,
    *,
    norm: Norm | str,
    eps: Any,
    key: jax.Array,
    bounds: Bounds = None,
    num_queries: int = 5_000,
    first_share: float = 0.8,
) -> Result:
    r"""Square attack: random search for the highest margin, by scores alone.

    Every query changes the perturbation in a random square window and keeps what raises the margin.
    Windows get smaller with the queries. For linf, as published: stripes at first, then one sign
    for each channel of a window, at the full radius. For other norms what queries tell of the
    gradient is kept: after one that moves by r (signs in a window, or normal numbers) and changes
    the margin by d, the estimate is made to agree with it (Kaczmarz),

    .. math:: g \leftarrow g + (d - \langle g, r\rangle)\, r / \|r\|_2^2.

    About half of the queries step along the estimate, as :func:`pgd` does, in a length that is
    adapted so that one of five succeeds. Where scores are linear it comes to the best perturbation
    after some queries for each feature.

    Args:
      predict: ``(params, x) -> scores (B, C)``, as in :func:`apgd`.
      params: its first argument.
      x: ``(B, *features)`` floating. Examples are signals ``(D,)``, images ``(H, W)`` or ``(H, W,
        channels)``; of others each is taken for a signal.
      y: ``(B,)`` integer labels.
      norm: of the perturbation, or its name.
      eps: radius, positive: a number or ``(B,)``, in units of x.
      key: of what is random.
      bounds: lowest and highest valid input, as in :func:`apgd`.
      num_queries: of each example, after the start.
      first_share: of an image that the first windows cover, in (0, 1].

    Returns:
      :class:`Result`, whose loss is the margin. ``info.has_zero_gradient`` is always False.

    Raises:
      ValueError, TypeError: as :func:`apgd`.

    Source:
      Andriushchenko et al., "Square attack", arXiv:1912.00049, algorithms 1 and 2, with the
      schedule of AutoAttack. Its l2 variant is replaced by what works for any norm.
    """
    trees.check_count("num_queries", num_queries)
    check_positive("first_share", first_share)
    if first_share > 1:
        raise ValueError(f"first_share must be at most 1, got {first_share}")
    options = Options(
        "square", "margin", num_queries, 1, None, (("first_share", first_share),), "num_queries"
    )
    norm, problem, options, settings = prepared(options, predict, params, x, y, norm, eps, bounds)
    return _square(predict, norm, options, settings, problem, key)


class _Walk(NamedTuple):
    delta: jax.Array  # (B, *features)
    margin: jax.Array  # (B,)
    step: jax.Array  # (B,), in units of eps; not for linf
    slope: jax.Array  # (B, *features): estimate of the gradient of the margin; not for linf
    is_finite: jax.Array  # (B,) bool
    memory: Any  # of `threats.extreme`


@functools.partial(trees.compiled, num_static=4)
def _square(
    predict: Predict, norm: Norm, options: Options, settings, problem: Problem, key: jax.Array
) -> Result:
    is_published = getattr(norm, "name", "") == "linf"
    threat, origin = problem.threat, problem.origin
    layout = layout_of(origin.shape[1:])
    margins = lambda delta: losses.margins(scores(predict, problem, delta), problem.y).astype(
        origin.dtype
    )
    first_key, key = jax.random.split(key)
    start = _start(norm, threat, first_key, origin, layout, is_published)
    margin, at_x = margins(start), margins(origin)
    is_finite = jnp.isfinite(margin)
    margin = jnp.where(jnp.isnan(margin), -jnp.inf, margin)  # above which anything is
    # No perturbation is always allowed: x may be misclassified, and what is near not.
    start = search.choose((at_x >= 0) & (margin < 0), origin, start)
    margin = jnp.where((at_x >= 0) & (margin < 0), at_x, margin)
    memory = threats.memory(norm, threat, origin, 0)
    walk = problem.alike(_Walk(start, margin, jnp.ones_like(margin), origin, is_finite, memory))
    of_query = _published if is_published else functools.partial(_by_estimate, norm)

    def query(walk: _Walk, given):
        walk = of_query(threat, layout, margins, walk, *given)
        return walk, walk.margin

    number = options.num_steps
    sides = window_sides(number, dict(options.more)["first_share"], layout)
    given = (
        jax.random.split(key, number),
        jnp.asarray(sides, jnp.int32),
        jnp.arange(number) / number,
    )
    walk, margins_on_the_way = jax.lax.scan(query, walk, given)
    best = search.Best(walk.delta, walk.margin, walk.margin)
    trail = search.Trail(jnp.zeros_like(walk.is_finite), walk.is_finite)
    of_steps = search.Steps(jnp.concatenate([margin[None], margins_on_the_way]))
    outcome = Outcome(best, of_steps, trail)
    return search.result(norm, problem, outcome, settings)


def _published(threat: Threat, layout: Any, margins: Any, walk: _Walk, key, side, share) -> _Walk:
    """For linf: one sign for each channel of a window, at the full radius."""
    del share
    pattern = _pattern(key, walk.delta, layout, side)
    far = _in_bounds(threat, spread(threat.eps, pattern.ndim) * pattern)
    proposed = jnp.where(pattern != 0, far, walk.delta)
    return _if_better(walk, proposed, margins(proposed))


def _by_estimate(
    norm: Norm, threat: Threat, layout: Any, margins: Any, walk: _Walk, key, side, share
) -> _Walk:
    """For other norms: learn from a random step, or follow what was learned, in turn."""
    turn_key, pattern_key, noise_key = jax.random.split(key, 3)
    is_probe = jax.random.bernoulli(turn_key)
    noise = _noise(noise_key, _pattern(pattern_key, walk.delta, layout, side))
    noise, length = threats.of_finite_norm(norm, noise)
    factor = _PROBE * threat.eps / length
    probe = threats.project(norm, threat, walk.delta + spread(factor, noise.ndim) * noise)
    stretch = steps.stretch_at(walk.delta, share.astype(walk.delta.dtype))
    climbed, memory = steps.moved(
        norm, threat, walk.delta, walk.slope, walk.step, stretch, walk.memory
    )
    proposed = jnp.where(is_probe, probe, climbed)
    new = margins(proposed)
    moved = proposed - walk.delta
    gained = jnp.where(jnp.isfinite(new - walk.margin), new - walk.margin, 0)
    told = jnp.sum(threats.flat(walk.slope * moved), axis=1)
    squared = jnp.sum(threats.flat(moved) ** 2, axis=1)
    off = (gained - told) / jnp.where(squared > 0, squared, 1)
    slope = walk.slope + spread(off, moved.ndim) * moved
    is_better = new > walk.margin
    step = walk.step * jnp.where(is_better, _LONGER, _SHORTER)
    after = _if_better(walk, proposed, new)
    return after._replace(
        step=jnp.where(is_probe, walk.step, jnp.clip(step, _LEAST_STEP, 2)),
        slope=slope,
        memory=memory,
    )


def _if_better(walk: _Walk, proposed: jax.Array, new: jax.Array) -> _Walk:
    is_better = new > walk.margin  # NaN is not
    return walk._replace(
        delta=search.choose(is_better, proposed, walk.delta),
        margin=jnp.where(is_better, new, walk.margin),
        is_finite=walk.is_finite & jnp.isfinite(new),
    )


def _pattern(key: jax.Array, like: jax.Array, layout: Any, side: Any) -> jax.Array:
    """``(B, *features)``: in a random window of each example a random sign for every channel."""
    window_key, sign_key = jax.random.split(key)
    window = windows(window_key, len(like), layout, side).astype(like.dtype)
    signs = jax.random.rademacher(sign_key, (len(like), *_of_channels(layout))).astype(like.dtype)
    return (window * signs).reshape(like.shape)


def layout_of(features: tuple[int, ...]) -> tuple[int, int, int]:
    """Height, width and channels; a signal is a row."""
    if len(features) == 2:
        return (*features, 1)
    if len(features) == 3:
        return features
    return 1, math.prod(features), 1


def window_sides(num_queries: int, first_share: float, layout: tuple[int, int, int]) -> np.ndarray:
    """``(num_queries,)``: side of the square, or length of the piece of a signal."""
    height, width, _ = layout
    at = np.arange(num_queries) * 10_000 / num_queries
    share = first_share / 2.0 ** np.searchsorted(_HALVED_AT, at, side="left")
    area = share * height * width
    side = area if height == 1 else np.sqrt(area)
    most = width if height == 1 else min(height, width)
    return np.clip(np.round(side), 1, most).astype(int)


def windows(key: jax.Array, number: int, layout: tuple[int, int, int], side: Any) -> jax.Array:
    """``(number, H, W, 1)`` float: 1 in a window of each at a random place, else 0."""
    height, width, _ = layout
    tall = jnp.minimum(side, height)
    row_key, column_key = jax.random.split(key)
    top = jax.random.randint(row_key, (number, 1), 0, height - tall + 1)
    left = jax.random.randint(column_key, (number, 1), 0, width - side + 1)
    inside = lambda start, length, size: (
        (jnp.arange(size)[None, :] >= start) & (jnp.arange(size)[None, :] < start + length)
    )
    rows, columns = inside(top, tall, height), inside(left, side, width)
    return (rows[:, :, None, None] & columns[:, None, :, None]).astype(jnp.float32)


def _noise(key: jax.Array, pattern: jax.Array) -> jax.Array:
    """Of half of the examples the signs as they are, of the others normal numbers in the window."""
    coin_key, key = jax.random.split(key)
    coin = jax.random.bernoulli(coin_key, shape=(len(pattern),))
    return search.choose(
        coin, pattern, pattern * jax.random.normal(key, pattern.shape, pattern.dtype)
    )


def _of_channels(layout: tuple[int, int, int]) -> tuple[int, int, int]:
    return 1, 1, layout[2]


def _start(
    norm: Norm, threat: Threat, key: jax.Array, origin: jax.Array, layout: Any, is_published: bool
) -> jax.Array:
    if not is_published:
        return threats.drawn(norm, threat, key, origin)
    _, width, channels = layout
    stripes = jax.random.rademacher(key, (len(origin), 1, width, channels)).astype(origin.dtype)
    signs = jnp.broadcast_to(stripes, (len(origin), *layout)).reshape(origin.shape)
    return _in_bounds(threat, spread(threat.eps, origin.ndim) * signs)


def _in_bounds(threat: Threat, delta: jax.Array) -> jax.Array:
    return delta if threat.lower is None else jnp.clip(delta, threat.lower, threat.upper)
