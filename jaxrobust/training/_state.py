"""What training depends on: everything that a run is resumed from."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrobust import trees

RECENT = 100  # steps


class TrainState(NamedTuple):
    """A training run between two steps."""

    step: jax.Array  # () int32: steps made
    params: Any  # pytree of floating arrays
    opt_state: Any  # of the optimizer
    sampler: Any  # of `sampling`: which examples the next steps see
    sampler_state: Any  # where it is
    memory: Any  # dict of arrays: what the plan keeps between its calls; {} without a plan
    key: jax.Array  # PRNG key of the plan, the same for all steps
    # () float32: mean of the training losses of about the last 100 steps; NaN before the first.
    recent_loss: jax.Array


def init(
    params: Any, optimizer: optax.GradientTransformation, sampler: Any, *, key: jax.Array
) -> TrainState:
    """The state before the first step.

    Args:
      params: pytree of floating arrays.
      optimizer: an Optax transformation.
      sampler: of :mod:`sampling`, of the examples of the data to come.
      key: PRNG key: of the draws, and of what a plan draws.

    Returns:
      :class:`TrainState`.

    Raises:
      TypeError: for params that are not floating, or a sampler without ``init`` and ``next``.
    """
    trees.check_floating("params", params)
    check_sampler(sampler)
    draw_key, plan_key = jax.random.split(key)
    return TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state=optimizer.init(params),
        sampler=sampler,
        sampler_state=sampler.init(draw_key),
        memory={},
        key=plan_key,
        recent_loss=jnp.float32(jnp.nan),
    )


def averaged(state: TrainState, loss: jax.Array) -> jax.Array:
    """``recent_loss`` after a step: the plain mean at first, then an exponential one."""
    loss = loss.astype(jnp.float32)
    before = jnp.where(jnp.isnan(state.recent_loss), loss, state.recent_loss)
    return before + (loss - before) / jnp.minimum(state.step + 1, RECENT)


def check_sampler(sampler: Any) -> None:
    """It must look like one of `sampling`."""
    missing = [
        name
        for name in ("init", "next", "num_examples", "batch_size")
        if not hasattr(sampler, name)
    ]
    if missing:
        raise TypeError(
            f"sampler must be one of jaxrobust.sampling, got {type(sampler).__name__} without "
            f"{', '.join(missing)}"
        )
