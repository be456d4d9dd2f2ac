"""Learning rates: the last link of every optimizer here, and the schedule of normalised descent."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxrobust import trees
from jaxrobust.optim._arguments import check_scalar


def inverse_sqrt(initial: float | jax.Array) -> optax.Schedule:
    r"""The schedule :math:`\eta_t = a/\sqrt t`, where t = 1, 2, 3, ... counts the updates.

    Optax passes the number of updates made *before* this one, so ``schedule(0)`` is ``a`` and
    ``schedule(3)`` is ``a / 2``. It is the schedule of :func:`normalized_steepest_descent`: on
    separable data the gap to the largest margin then falls about as :math:`1/\sqrt t`.

    Args:
      initial: a, the first learning rate.

    Returns:
      A function of the count (integer, ``()``) for any ``learning_rate`` of Optax; its value is a
      ``()`` array.

    Raises:
      ValueError: if ``initial`` is negative, infinite or NaN.
      TypeError: if ``initial`` is no real number.

    Source:
      Nacson et al., arXiv:1803.01905, for the rate :math:`\log t/\sqrt t` of normalised gradient
      descent.
    """
    check_scalar("initial", initial, lambda a: 0 <= a < math.inf, "0 or more, and finite")

    def schedule(count):
        # 1.0, not 1: the count stops at the largest integer, where adding an integer wraps round.
        return initial / jnp.sqrt(count + 1.0)

    return schedule


def descend(
    learning_rate: float | jax.Array | optax.Schedule,
) -> optax.GradientTransformation:
    """Multiplies by the negative learning rate, in every leaf's own dtype.

    It is ``optax.scale_by_learning_rate`` with two differences for numbers: they are checked, and
    they never change a dtype. (``optax.scale`` multiplies in the promoted dtype: a learning rate
    that is a float32 array, as ``optax.inject_hyperparams`` makes it, would turn the bfloat16
    leaves of a mixed tree into float32.)

    Raises:
      ValueError: if the learning rate is negative, infinite or NaN.
      TypeError: if it is neither a real number nor a schedule. None is refused as well: to Optax
        it means neither scaling nor descent.
    """
    if callable(learning_rate):
        return optax.scale_by_learning_rate(learning_rate)
    if learning_rate is None:
        raise TypeError("learning_rate must be a number or a schedule, got None")
    check_scalar(
        "learning_rate", learning_rate, lambda a: 0 <= a < math.inf, "0 or more, and finite"
    )

    def scale(updates: Any, params: Any) -> Any:
        del params
        return trees.scale(-learning_rate, updates)

    return optax.stateless(scale)
