"""The learning rate from the measured noise scale of the gradient."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrobust import trees
from jaxrobust.optim._arguments import check_scalar, required_scalar

_HOW = "as jaxrobust.per_example.moments(loss_fn)(params, batch).{} measures it"


class NoiseState(NamedTuple):
    """State of :func:`scale_by_noise`; ``trace / signal`` is the smoothed noise scale."""

    trace: jax.Array  # () float32 at least: moving average, bias-corrected
    signal: jax.Array  # () float32 at least: moving average, bias-corrected; may be negative
    weight: jax.Array  # () float32 at least: 1 - decay^t, by which they have been corrected


def scale_by_noise(
    batch_size: float | jax.Array, *, decay: float | jax.Array = 0.9
) -> optax.GradientTransformationExtraArgs:
    r"""Scales the updates by the share of signal in the gradient of a batch.

    .. math::

       \phi = \frac{s}{s + \mathrm{tr}/B} = \frac{1}{1 + \mathcal B_{noise}/B}, \qquad
       \mathcal B_{noise} = \mathrm{tr}/s

    tr is the trace of the covariance of the gradient of *one* example, s the squared norm of the
    mean gradient and B the number of examples in a batch. ``update`` needs both estimates as the
    keywords ``trace`` and ``signal``; :func:`jaxrobust.per_example.moments` returns them, unbiased,
    at about the price of the gradient. They are averaged over the steps *before* the ratio is
    taken, and a negative average counts as zero. ::

        measure = per_example.moments(loss_fn)  # of one example
        optimizer = optax.chain(optim.scale_by_noise(batch_size), optax.sgd(learning_rate))
        state = optimizer.init(params)

        @jax.jit
        def step(params, state, batch):
            found = measure(params, batch)
            extras = {"trace": found.trace, "signal": found.signal}
            updates, state = optimizer.update(found.mean, state, params, **extras)
            return optax.apply_updates(params, updates), state

    Derivation. Let G be the mean gradient, H the Hessian, and :math:`\hat g` the mean of B
    independent draws, of covariance :math:`\Sigma/B`. To second order a step
    :math:`-\epsilon\hat g` decreases the expected loss by

    .. math:: \epsilon\,\|G\|^2 - \tfrac12\epsilon^2\,\bigl(G^T H G + \mathrm{tr}(H\Sigma)/B\bigr),

    most for

    .. math::

       \epsilon = \frac{\epsilon_{max}}{1 + \mathcal B_{noise}/B}, \qquad
       \epsilon_{max} = \frac{\|G\|^2}{G^T H G}, \qquad
       \mathcal B_{noise} = \frac{\mathrm{tr}(H\Sigma)}{G^T H G},

    which for an isotropic Hessian H = h I is :math:`\epsilon_{max} = 1/h`,
    :math:`\mathcal B_{noise} = \mathrm{tr}(\Sigma)/\|G\|^2`. So the learning rate behind this link
    is the best one *without noise*; the factor is exact for isotropic curvature and a heuristic
    otherwise. It is greedy, one step ahead: it anneals the learning rate where noise takes over,
    and knows nothing of what a larger one would gain later.

    Put it *behind* links that undo a scale, such as ``optax.scale_by_adam``.

    Args:
      batch_size: B, the size of the batches whose gradients are passed (all accumulated ones, if
        they are); positive.
      decay: of the moving averages, in [0, 1); 0 uses the current step alone. As ``signal`` is
        noisy where the factor matters, the noise of one measurement is not a small one.

    Returns:
      A transform; the factor is in [0, 1]. Updates keep structure, shapes and dtypes.

      ====================================  ===================================================
      averages of trace and signal          factor
      ====================================  ===================================================
      first step                            that of the first measurement (bias-corrected)
      signal not positive, trace positive   0: the gradient cannot be told from noise; the
                                            averages go on, so the next step may differ
      trace not positive                    1, also where both are zero: no noise was measured
      a measurement is NaN or infinite      NaN for this step, the averages stay as they were;
                                            ``moments`` of *one* example has a NaN trace.
                                            ``optax.apply_if_finite`` *behind* skips the step
      ====================================  ===================================================

    Raises:
      ValueError: if ``batch_size`` is not positive and finite or ``decay`` not in [0, 1); at
        ``update``, if a keyword is not a scalar.
      TypeError: if one is no real number; at ``update``, if a keyword is missing or not floating.

    Source:
      McCandlish, Kaplan, Amodei et al., "An Empirical Model of Large-Batch Training",
      arXiv:1812.06162, section 2.2, for the step and both noise scales (the formulas agree with
      a summary of that section; the paper itself was not at hand, nor its equation numbers).
      They choose the batch size by it; setting the learning rate, by moving averages of unbiased
      estimates, is this library's use.
    """
    check_scalar("batch_size", batch_size, lambda b: 0 < b < math.inf, "positive and finite")
    check_scalar("decay", decay, lambda d: 0 <= d < 1, "in [0, 1)")

    def init_fn(params):
        zero = jnp.zeros((), _widest(params))
        return NoiseState(zero, zero, zero)

    def update_fn(updates, state, params=None, **extra_args):
        del params
        trace, signal = (
            required_scalar(extra_args, n, _HOW.format(n)) for n in ("trace", "signal")
        )
        # One bad measurement must show, but not in all the averages to come.
        finite = jnp.isfinite(trace) & jnp.isfinite(signal)
        averaged = _average(state, trace, signal, decay)
        state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), averaged, state)
        factor = jnp.where(finite, _share_of_signal(state, batch_size), jnp.nan)
        return trees.scale(factor, updates), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _widest(params: Any) -> Any:
    dtypes = [trees.accumulator(jnp.result_type(leaf)) for leaf in jax.tree.leaves(params)]
    return functools.reduce(jnp.promote_types, dtypes, jnp.dtype(jnp.float32))


def _average(state: NoiseState, trace: jax.Array, signal: jax.Array, decay: Any) -> NoiseState:
    weight = decay * state.weight + (1 - decay)
    # The first weight is 1 - decay, so the first share is 1: no zero of the start enters.
    share = (1 - decay) / weight
    updated = NoiseState(
        state.trace + share * (trace - state.trace),
        state.signal + share * (signal - state.signal),
        weight,
    )
    return trees.cast_like(updated, state)


def _share_of_signal(state: NoiseState, batch_size: Any) -> jax.Array:
    signal = jnp.maximum(state.signal, 0)
    # An unbiased trace, too, may be negative, if it comes from batches of two sizes.
    total = signal + jnp.maximum(state.trace, 0) / batch_size
    return jnp.where(total > 0, signal / jnp.where(total > 0, total, 1), 1)
