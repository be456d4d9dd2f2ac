"""Steepest descent in a norm, as complete optimizers."""

import jax
import optax

from jaxrobust import norms
from jaxrobust.optim._learning_rate import descend
from jaxrobust.optim._normalized import scale_by_normalized_steepest
from jaxrobust.optim._steepest import scale_by_steepest


def steepest_descent(
    learning_rate: float | jax.Array | optax.Schedule, norm: norms.Norm | str
) -> optax.GradientTransformationExtraArgs:
    r"""Steepest descent in a norm.

    .. math:: w \leftarrow w - \eta\,\|g\|_*\,\arg\max_{\|u\|\le 1}\langle u, g\rangle

    ``l2`` is gradient descent, ``l1`` coordinate descent, ``linf`` sign descent with the gradient's
    l1 norm as its length; the others are listed at :func:`scale_by_steepest`. If the loss is
    :math:`\beta`-smooth in the norm,

    .. math:: f(w_{t+1}) \le f(w_t) - (\eta - \tfrac12\beta\eta^2)\,\|g_t\|_*^2 ,

    so :math:`\eta = 1/\beta` is safe. On separable data a linear model trained with an
    exponential-tailed loss tends to the largest margin *in this norm*, that is, to the classifier
    most robust in the dual norm: ``linf`` descent defends against l1 attacks, ``l1`` descent
    against linf attacks.

    Optax's own line searches can choose the step. Put one behind, and pass what it asks for::

        optimizer = optax.chain(
            optim.steepest_descent(1.0, norms.linf),
            optax.scale_by_backtracking_linesearch(
                60, decrease_factor=0.5, max_learning_rate=1e6
            ),
        )
        value, grad = jax.value_and_grad(loss)(params)
        extras = {"value": value, "grad": grad, "value_fn": loss}
        updates, state = optimizer.update(grad, state, params, **extras)

    Its Armijo test compares the decrease with
    :math:`\langle\text{updates}, g\rangle = -\eta\|g\|_*^2`, the right slope for every norm. Two
    things to know: its default ``max_learning_rate=1.0`` keeps the step from growing as the loss
    falls; and a search that runs out of steps takes the last one *although it failed*, so allow
    enough of them (60 halvings span a factor of 1e18, its default 0.8 as many times only 7e5).
    ``optax.scale_by_zoom_linesearch`` fits in the same place.

    Args:
      learning_rate: a number, or a schedule such as :func:`inverse_sqrt`.
      norm: a :class:`~jaxrobust.norms.Norm`, or a name that :func:`~jaxrobust.norms.as_norm` knows.

    Returns:
      The optimizer; its updates are to be added to the parameters (``optax.apply_updates``).

    Raises:
      ValueError: if the learning rate is negative, infinite or NaN, or no norm has that name.
      TypeError: if an argument has another type.

    Source:
      As :func:`scale_by_steepest`; the inequality follows from the definition of the direction.
    """
    return optax.chain(scale_by_steepest(norm), descend(learning_rate))


def normalized_steepest_descent(
    learning_rate: float | jax.Array | optax.Schedule,
    norm: norms.Norm | str,
    *,
    momentum: float | jax.Array | None = None,
    nesterov: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Normalised steepest descent in a norm: every update has norm :math:`\eta`.

    .. math:: w \leftarrow w - \eta\,\arg\max_{\|u\|\le 1}\langle u, m\rangle

    Here m is the gradient, or its momentum; see :func:`scale_by_normalized_steepest`. A vanishing
    gradient does not slow it down. Known cases: ``linf`` is ``optax.sign_sgd``, with momentum
    Signum; ``spectral`` with momentum is Muon with the exact polar factor (and no scaling by the
    matrix's shape).

    Args:
      learning_rate: a number, or a schedule. A constant one ends in oscillations of its own size;
        :func:`inverse_sqrt` converges.
      norm: a :class:`~jaxrobust.norms.Norm`, or a name that :func:`~jaxrobust.norms.as_norm` knows.
      momentum: :math:`\mu` in [0, 1), or None for none (and no state).
      nesterov: whether to look one step ahead; without momentum it changes nothing.

    Returns:
      The optimizer; its updates are to be added to the parameters (``optax.apply_updates``).

    Raises:
      ValueError: if a number is out of range or NaN, or no norm has that name.
      TypeError: if an argument has another type.

    Source:
      Fan, Schmidt, Thrampoulidis, arXiv:2502.04664: with and without momentum it maximises the
      margin under cross-entropy, for every entrywise and Schatten p-norm.
    """
    direction = scale_by_normalized_steepest(norm, momentum=momentum, nesterov=nesterov)
    return optax.chain(direction, descend(learning_rate))
