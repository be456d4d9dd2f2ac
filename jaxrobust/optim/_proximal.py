"""Proximal gradient steps: a smooth loss plus a norm of the parameters."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrobust import norms, trees
from jaxrobust.optim._arguments import check_scalar, required, required_scalar

_DECREASE = 0.5  # of the learning rate, where the loss lies above its model
_RESOLVED = 100.0  # roundings that a difference must be worth to be trusted


class ProximalState(NamedTuple):
    """Between two proximal steps."""

    # like params, float32 at least: where the last step ended, before the extrapolation that the
    # params have; zero in whole entries, singular values or frequencies where the norm makes it so
    solution: Any
    momentum: jax.Array  # () float: t of the acceleration, 1 at first and without one
    learning_rate: jax.Array  # () float: the next one to be tried
    count: jax.Array  # () int32: steps made


def proximal_gradient(
    learning_rate: float | jax.Array | optax.Schedule,
    norm: norms.Norm | str,
    strength: float | jax.Array,
    *,
    accelerated: bool = True,
    restart: bool = True,
) -> optax.GradientTransformationExtraArgs:
    r"""Minimises :math:`f(w) + \lambda\|w\|`, f smooth, by (accelerated) proximal gradient steps.

    With :math:`y_k` the params, at which the gradient is taken,

    .. math::
       x_{k+1} = \operatorname{prox}_{\eta\lambda\|\cdot\|}(y_k - \eta\nabla f(y_k)), \qquad
       y_{k+1} = x_{k+1} + \frac{t_k-1}{t_{k+1}} (x_{k+1} - x_k), \qquad
       t_{k+1} = \tfrac12\Bigl(1+\sqrt{1+4t_k^2}\Bigr),

    and with ``restart`` :math:`t = 1` anew where
    :math:`\langle y_k-x_{k+1}, x_{k+1}-x_k\rangle > 0`, where the momentum leads uphill. The
    norm is not squared. The minimiser is ``state.solution`` (:math:`x_k`; inside of a chain
    ``optax.tree.get(state, "solution")``): the params are extrapolated and not sparse. ::

        optimizer = optim.proximal_gradient(0.1, norms.l1, 1e-3)
        updates, state = optimizer.update(jax.grad(f)(params), state, params)
        params = optax.apply_updates(params, updates)

    Args:
      learning_rate: :math:`\eta`, a number or a schedule; converges for at most one over the
        Lipschitz constant of the gradient. Where that is not known: :func:`fista`.
      norm: a :class:`~jaxrobust.norms.Norm`, or a name that :func:`~jaxrobust.norms.as_norm` knows.
      strength: :math:`\lambda`, 0 or more.
      accelerated: whether to extrapolate; without, the params are the solution.
      restart: whether the momentum may begin anew; without, the algorithm is as published.

    Returns:
      A complete optimizer: its updates lead to :math:`y_{k+1}`. Its ``update`` needs ``params``.
      After k steps of :math:`\eta \le 1/L` the objective is above its minimum by at most
      :math:`2\|w_0-w^*\|^2/(\eta (k+1)^2)` without a restart, and by
      :math:`\|w_0-w^*\|^2/(2\eta k)` without acceleration.

    Raises:
      ValueError: if a number is negative, infinite or NaN, or no norm has that name; at ``update``,
        without params.
      TypeError: if an argument has another type.

    Source:
      Beck & Teboulle, "A fast iterative shrinkage-thresholding algorithm", SIAM J. Imaging Sci.
      2009 (as recalled, not checked against the paper); restart: O'Donoghue & Candès, "Adaptive
      restart for accelerated gradient schemes", arXiv:1204.3982.
    """
    norm = norms.as_norm(norm)
    _check_strength(strength)
    if not callable(learning_rate):
        _check_positive("learning_rate", learning_rate)

    def init_fn(params):
        rate = learning_rate(jnp.int32(0)) if callable(learning_rate) else learning_rate
        return _first(params, rate)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        if not jax.tree.leaves(updates):  # a label of `optax.partition` that nothing bears
            return updates, state
        y, gradient = _wide(updates, params)
        given = learning_rate(state.count) if callable(learning_rate) else learning_rate
        rate = jnp.asarray(given, state.learning_rate.dtype)
        x = _proximal_step(norm, strength, y, gradient, rate)
        return _onwards(updates, y, x, state._replace(learning_rate=rate), accelerated, restart)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def fista(
    norm: norms.Norm | str,
    strength: float | jax.Array,
    *,
    learning_rate: float | jax.Array = 1.0,
    increase: float = 1.1,
    max_backtracks: int = 60,
    restart: bool = True,
) -> optax.GradientTransformationExtraArgs:
    r"""As :func:`proximal_gradient`, accelerated, with a learning rate that is searched for.

    It is halved until the loss lies below its quadratic model, with :math:`d = x_{k+1}-y_k`:

    .. math:: f(x_{k+1}) \le f(y_k) + \langle\nabla f(y_k), d\rangle + \frac{\|d\|_2^2}{2\eta},

    (for a step too short for that, until its curvature is at most :math:`1/\eta`, by gradients),
    and the next step begins with what this one ended with, times ``increase``: the curvature of a
    logistic loss falls with the loss, by orders of magnitude. ::

        optimizer = optim.fista(norms.l1, 1e-3)
        value, grad = jax.value_and_grad(f)(params)
        updates, state = optimizer.update(grad, state, params, value=value, value_fn=f)

    Args:
      norm: a :class:`~jaxrobust.norms.Norm`, or a name that :func:`~jaxrobust.norms.as_norm` knows.
      strength: :math:`\lambda`, 0 or more.
      learning_rate: the first one that is tried, positive; rather too large than so small that
        rounding leaves nothing of the step, for then it stays.
      increase: factor between two steps, 1 or more; 1 for the published algorithm, whose learning
        rate never rises. It rises only while gradients resolve the step.
      max_backtracks: halvings in one step; if they do not suffice, the last one is taken.
      restart: whether the momentum may begin anew, as in :func:`proximal_gradient`.

    Returns:
      A complete optimizer, see :func:`proximal_gradient`. Its ``update`` needs the keywords
      ``value``, the smooth part f at the params, and ``value_fn``, f itself, of the whole params:
      it does not work on a part of them, as under ``optax.masked``.

    Raises:
      ValueError: as :func:`proximal_gradient`; for ``increase`` below 1 or ``max_backtracks`` below
        1; at ``update``, if ``value`` is not a scalar.
      TypeError: as :func:`proximal_gradient`; at ``update``, if a keyword is missing.

    Source:
      As :func:`proximal_gradient`. Ours: the learning rate may rise.
    """
    norm = norms.as_norm(norm)
    _check_strength(strength)
    _check_positive("learning_rate", learning_rate)
    check_scalar("increase", increase, lambda a: 1 <= a < math.inf, "1 or more, and finite")
    check_scalar("max_backtracks", max_backtracks, lambda a: a >= 1, "1 or more")

    def init_fn(params):
        return _first(params, learning_rate)

    def update_fn(updates, state, params=None, **extra_args):
        y, gradient = _wide(updates, params)
        _check_whole(params)
        value = required_scalar(extra_args, "value", "the smooth part of the loss at the params")
        value_fn = required(extra_args, "value_fn", "the function whose gradient is passed")
        loss = lambda x: trees.promote(value_fn(trees.cast_like(x, params)))
        given = jnp.result_type(extra_args["value"])  # a loss in bfloat16 has the noise of bfloat16
        eps = float(jnp.finfo(given).eps)

        def tried(rate):
            x = _proximal_step(norm, strength, y, gradient, rate)
            d = trees.add(x, y, weight=-1.0)
            worth = trees.dot(d, d) / (2 * rate)

            def by_loss():
                excess = loss(x) - value - trees.dot(gradient, d) - worth
                # Of which all may be rounding. NaN is too much: outside of where f is defined.
                return ~(excess <= 4 * eps * jnp.abs(value))

            def by_gradient():
                bend = trees.add(jax.grad(loss)(x), gradient, weight=-1.0)
                return ~(trees.dot(bend, d) <= 2 * worth)

            # The losses of a short step differ by their rounding. Their gradients still tell the
            # curvature, and on a short way that is all there is.
            is_short = worth < _RESOLVED * eps * jnp.abs(value)
            is_above = jax.lax.cond(is_short, by_gradient, by_loss)
            lengths = trees.l2_norm(gradient) * trees.l2_norm(d)
            return x, is_above, 2 * worth > _RESOLVED * eps * lengths

        def shorter(carry):
            number, rate, *_ = carry
            return number + 1, rate * _DECREASE, *tried(rate * _DECREASE)

        is_above = lambda carry: carry[3] & (carry[0] < max_backtracks)
        begin = jnp.int32(0), state.learning_rate, *tried(state.learning_rate)
        _, rate, x, _, is_resolved = jax.lax.while_loop(is_above, shorter, begin)
        following = rate * jnp.where(is_resolved, increase, 1).astype(rate.dtype)
        return _onwards(updates, y, x, state._replace(learning_rate=following), True, restart)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _check_strength(strength: Any) -> None:
    check_scalar("strength", strength, lambda a: 0 <= a < math.inf, "0 or more, and finite")


def _check_positive(name: str, value: Any) -> None:
    check_scalar(name, value, lambda a: 0 < a < math.inf, "positive and finite")


def _check_whole(params: Any) -> None:
    is_hidden = lambda node: isinstance(node, optax.MaskedNode)
    if any(map(is_hidden, jax.tree.leaves(params, is_leaf=is_hidden))):
        raise ValueError(
            "params must be whole, for fista looks at the loss of all of them: it does not work "
            "under optax.masked or optax.partition; proximal_gradient does"
        )


def _first(params: Any, learning_rate: Any) -> ProximalState:
    # Copies: params that are also in the state could not be donated.
    solution = jax.tree.map(
        lambda leaf: jnp.array(leaf, trees.accumulator(leaf.dtype), copy=True), params
    )
    dtype = trees.accumulator(jnp.result_type(float))
    return ProximalState(
        solution, jnp.ones((), dtype), jnp.asarray(learning_rate, dtype), jnp.int32(0)
    )


def _wide(updates: Any, params: Any) -> tuple[Any, Any]:
    """Params and gradient in float32 at least."""
    if params is None:
        raise ValueError("update needs params, for the proximal operator acts on them")
    trees.check_floating("updates", updates)
    return trees.promote(params), trees.promote(updates)


def _proximal_step(norm: norms.Norm, strength: Any, y: Any, gradient: Any, rate: jax.Array) -> Any:
    return norm.prox(trees.add(y, gradient, weight=-rate), rate * strength)


def _onwards(
    updates: Any, y: Any, x: Any, state: ProximalState, accelerated: bool, restart: bool
) -> tuple[Any, ProximalState]:
    """Updates that lead to the next params, and the next state."""
    moved = trees.add(x, state.solution, weight=-1.0)
    after, ahead = state.momentum, x
    if accelerated:
        momentum = state.momentum
        if restart:
            back = trees.add(y, x, weight=-1.0)
            momentum = jnp.where(trees.dot(back, moved) > 0, 1, momentum)
        after = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
        ahead = trees.add(x, moved, weight=(momentum - 1) / after)
    found = trees.cast_like(trees.add(ahead, y, weight=-1.0), updates)
    count = optax.safe_increment(state.count)
    return found, state._replace(solution=x, momentum=after, count=count)
