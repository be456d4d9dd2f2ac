"""Mirror descent with a power of the lp norm as its potential."""

import math

import jax
import jax.numpy as jnp
import optax

from jaxrobust import trees
from jaxrobust.optim._arguments import check_scalar


def mirror_descent(
    learning_rate: float | jax.Array | optax.Schedule, p: float | jax.Array
) -> optax.GradientTransformationExtraArgs:
    r"""Mirror descent with the potential :math:`\psi(w)=\frac1p\sum_i|w_i|^p`, "p-GD".

    .. math:: \nabla\psi(w_{t+1}) = \nabla\psi(w_t) - \eta\,g_t, \qquad
       \nabla\psi(w)_i = \operatorname{sign}(w_i)\,|w_i|^{p-1} .

    Each entry on its own, at the price of gradient descent, which it is for p = 2; towards 1 large
    entries get larger steps than small ones, towards infinity the other way round. On separable
    data a linear model trained with an exponential-tailed loss tends to the largest margin in the
    lp norm, as with steepest descent in lp. There the loss falls fast and steps on it get short:
    feed it with the gradient of log L (:func:`jaxrobust.linear.log_loss`).

    Args:
      learning_rate: :math:`\eta`, a number or a schedule. Its unit depends on p: entries are of the
        order of :math:`(\eta\,g)^{1/(p-1)}`.
      p: exponent, above 1.

    Returns:
      A complete optimizer. Its ``update`` needs ``params``; its state is a count. An entry that is
      0 leaves 0 at the first gradient that is not.

    Raises:
      ValueError: if p is not above 1 and finite, or the learning rate negative, infinite or NaN; at
        ``update``, without params.
      TypeError: if an argument has another type.

    Source:
      Sun, Ahn, Thrampoulidis & Azizan, "Mirror descent maximizes generalized margin and can be
      implemented efficiently", NeurIPS 2022, arXiv:2205.12808 (abstract read).
    """
    check_scalar("p", p, lambda value: 1 < value < math.inf, "above 1 and finite")
    if not callable(learning_rate):
        check_scalar(
            "learning_rate", learning_rate, lambda a: 0 <= a < math.inf, "0 or more, and finite"
        )

    def init_fn(params):
        del params
        return optax.ScaleByScheduleState(jnp.int32(0))

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        if params is None:
            raise ValueError("update needs params, for steps are made in another space than theirs")
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate

        def move(gradient, w):
            z, step = jnp.sign(w) * jnp.abs(w) ** (p - 1), rate * gradient
            # Of a short step as a factor of w: the difference of two powers would be rounding. And
            # where the power overflows, every step is short.
            ratio = step / jnp.where(z == 0, 1, z)
            is_short = (z != 0) & (jnp.abs(ratio) < 0.5)
            short = w * jnp.expm1(jnp.log1p(-jnp.where(is_short, ratio, 0)) / (p - 1))
            after = jnp.where(is_short, 0, z) - step
            update = jnp.where(
                is_short, short, jnp.sign(after) * jnp.abs(after) ** (1 / (p - 1)) - w
            )
            # Also where the power has vanished.
            return jnp.where(gradient == 0, 0, update).astype(gradient.dtype)

        wide = jax.tree.map(move, trees.promote(updates), trees.promote(params))
        after = state._replace(count=optax.safe_increment(state.count))
        return trees.cast_like(wide, updates), after

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
