"""Linear classifiers under a penalty on a norm, along decreasing strengths, each with a bound."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrobust import optim, trees
from jaxrobust.linear import _sharding
from jaxrobust.linear._checks import (
    Array,
    check_examples,
    check_positive,
    check_signs,
    is_concrete,
)
from jaxrobust.linear._losses import Loss, check_loss
from jaxrobust.norms import Norm, as_norm

_STEPS = 10  # between two looks at the gap
_WIDEST, _HALVINGS = 16.0, 30  # of the search for the length of weights: in factors of so much


class RegularizationPath(NamedTuple):
    """Classifiers of K strengths, and how near each is to the best."""

    strengths: jax.Array  # (K,)
    w: jax.Array  # (K, *features)
    objective: jax.Array  # (K,): mean loss plus strength times norm, at w
    lower_bound: jax.Array  # (K,): of the objective of any weights
    gap: jax.Array  # (K,): (objective - lower_bound) / objective, relative
    converged: jax.Array  # (K,) bool: gap <= tolerance
    num_steps: jax.Array  # (K,) int32: proximal steps


def regularization_path(
    x: Array,
    y: Array,
    norm: Norm | str,
    strengths: Any,
    *,
    loss: Loss = "logistic",
    tolerance: float = 1e-4,
    max_steps: int = 10_000,
) -> RegularizationPath:
    r"""Minimises :math:`P_\lambda(w)=\frac1n\sum_i\ell(m_i(w))+\lambda\|w\|` along a path of λ.

    :math:`m_i(w)=y_i\langle w,x_i\rangle`; the norm is not squared. On separable data
    :math:`w(\lambda)/\|w(\lambda)\|` tends to the largest margin in the norm as λ falls to 0, that
    is to the classifier most robust against perturbations in the dual norm.

    Each strength begins where the last one ended, with the length of the weights searched for
    first: as λ falls they grow in about the same direction. The steps are those of
    :func:`jaxrobust.optim.fista`. The bound is Fenchel's: for :math:`\alpha_i=c\,|\ell'(m_i)|`,
    with c at most 1 and such that :math:`\|\frac1n\sum_i\alpha_i y_i x_i\|_*\le\lambda`,

    .. math:: \min_w P_\lambda(w) \ge \frac1n\sum_i h(\alpha_i), \qquad
       h(\alpha) = \min_m \ell(m) + \alpha m .

    Args:
      x: ``(n, *features)`` floating.
      y: ``(n,)`` labels, -1 and +1.
      norm: norm of the weights (the dual of the perturbation's), or its name.
      strengths: ``(K,)``, positive; decreasing for warm starts to be near.
      loss: ``"logistic"`` or ``"exponential"``.
      tolerance: relative gap to stop at.
      max_steps: for each strength, rounded up to a multiple of 10.

    Returns:
      :class:`RegularizationPath`, in the dtype of x (float32 at least). In float32 rounding stops
      the gap at about 1e-5.

    Raises:
      ValueError: for other shapes or labels, NaN in x, no or non-positive strengths, an unknown
        loss or norm.
      TypeError: for arguments of the wrong kind.

    Source:
      Rosset, Zhu & Hastie, "Margin maximizing loss functions", NeurIPS 2003, for the limit (as
      recalled, not checked against the paper).
    """
    norm = as_norm(norm)
    check_examples(x, y)
    check_signs(y)
    check_loss(loss)
    check_positive("tolerance", tolerance)
    max_steps = trees.check_count("max_steps", max_steps)
    x = trees.promote(jnp.asarray(x))
    return _path(norm, loss, max_steps, x, y, _checked_strengths(strengths, x.dtype), tolerance)


def _checked_strengths(strengths: Any, dtype: Any) -> jax.Array:
    if not isinstance(strengths, jax.Array):
        strengths = np.asarray(strengths, float)
    if strengths.ndim != 1 or len(strengths) < 1:
        raise ValueError(f"strengths must have shape (K,), K at least 1, got {strengths.shape}")
    if is_concrete(strengths):
        known = np.asarray(strengths)
        if not np.all((known > 0) & (known < np.inf)):
            raise ValueError(f"strengths must be positive and finite, got {known.tolist()}")
    return jnp.asarray(strengths, dtype)


class _Problem(NamedTuple):
    """Of one strength."""

    x: jax.Array
    signs: jax.Array  # (n,)
    strength: jax.Array
    norm: Norm
    loss: Loss

    def margins(self, w: jax.Array) -> jax.Array:
        return self.signs * _sharding.scores(self.x, w)

    def smooth(self, w: jax.Array) -> jax.Array:
        """The mean loss."""
        return jnp.mean(_losses(self.margins(w), self.loss))

    def objective(self, w: jax.Array) -> jax.Array:
        return self.smooth(w) + self.strength * self.norm.value(w)

    def lower_bound(self, w: jax.Array) -> jax.Array:
        slopes = _slopes(self.margins(w), self.loss)
        combined = _sharding.combine(slopes * self.signs / len(slopes), self.x)
        length = self.norm.dual.value(combined)
        alpha = slopes * jnp.minimum(1, self.strength / jnp.where(length > 0, length, 1))
        return jnp.mean(_conjugate(alpha, self.loss))

    def at_best_length(self, w: jax.Array) -> jax.Array:
        """The multiple of ``w`` with the lowest objective, by the sign of its derivative."""
        m, pull = self.margins(w), self.strength * self.norm.value(w)

        def halve(_, bracket):
            low, high = bracket
            middle = 0.5 * (low + high)
            is_short = jnp.mean(_slopes(jnp.exp(middle) * m, self.loss) * m) > pull
            return jnp.where(is_short, middle, low), jnp.where(is_short, high, middle)

        end = jnp.log(jnp.asarray(_WIDEST, m.dtype))
        low, high = jax.lax.fori_loop(0, _HALVINGS, halve, (-end, end))
        return jnp.exp(0.5 * (low + high)) * w


class _Found(NamedTuple):
    """Where a strength is."""

    params: jax.Array
    state: Any
    gap: jax.Array
    num_steps: jax.Array


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _path(norm, loss, max_steps, x, y, strengths, tolerance) -> RegularizationPath:
    signs = jnp.asarray(y, x.dtype)
    square = jnp.max(jnp.sum(x**2, axis=tuple(range(1, x.ndim))))  # bounds the curvature, at first
    first = 1 / jnp.where(square > 0, square, 1)

    def follow(carry, strength):
        w, rate = carry
        problem = _Problem(x, signs, strength, norm, loss)
        found = _minimised(problem, problem.at_best_length(w), rate, max_steps, tolerance)
        w = found.state.solution
        objective = problem.objective(w)
        row = RegularizationPath(
            strength, w, objective, objective * (1 - found.gap), found.gap,
            found.gap <= tolerance, found.num_steps,
        )  # fmt: skip
        return (w, found.state.learning_rate), row

    nothing = _sharding.features_like(jnp.zeros(x.shape[1:], x.dtype), x)
    return jax.lax.scan(follow, (nothing, first), strengths)[1]


def _minimised(problem: _Problem, w, rate, max_steps: int, tolerance) -> _Found:
    optimizer = optim.fista(problem.norm, problem.strength, learning_rate=rate)

    def step(_, carry):
        params, state = carry
        value, gradient = jax.value_and_grad(problem.smooth)(params)
        updates, state = optimizer.update(
            gradient, state, params, value=value, value_fn=problem.smooth
        )
        return optax.apply_updates(params, updates), state

    def look(found: _Found) -> _Found:
        params, state = jax.lax.fori_loop(0, _STEPS, step, (found.params, found.state))
        return _Found(params, state, _gap(problem, state.solution), found.num_steps + _STEPS)

    state = optimizer.init(w)
    begin = _Found(w, state, _gap(problem, w), jnp.int32(0))
    is_open = lambda found: ~(found.gap <= tolerance) & (found.num_steps < max_steps)
    return jax.lax.while_loop(is_open, look, begin)


def _gap(problem: _Problem, w: jax.Array) -> jax.Array:
    objective = problem.objective(w)
    return (objective - problem.lower_bound(w)) / objective


def _losses(m: jax.Array, loss: Loss) -> jax.Array:
    return jnp.exp(-m) if loss == "exponential" else jax.nn.softplus(-m)


def _slopes(m: jax.Array, loss: Loss) -> jax.Array:
    """|l'|."""
    return jnp.exp(-m) if loss == "exponential" else jax.nn.sigmoid(-m)


def _conjugate(alpha: jax.Array, loss: Loss) -> jax.Array:
    """The least value of l(m) + alpha m."""
    entropy = -jax.scipy.special.xlogy(alpha, alpha)
    if loss == "exponential":
        return alpha + entropy
    # Where alpha is 1 to rounding, so is what it stands for.
    return entropy - jnp.where(alpha < 1, (1 - alpha) * jnp.log1p(-jnp.minimum(alpha, 1)), 0)
