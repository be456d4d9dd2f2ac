"""Training steps: many of them in one program."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxrobust import per_example, sampling, trees
from jaxrobust.training._state import TrainState, averaged

_LEAST_CAPACITY = 128

LossFn = Callable[[Any, Any], jax.Array]
# What the optimizer needs besides the gradient: (state, batch, weights) -> keyword arguments.
Extras = Callable[[TrainState, Any, jax.Array], dict[str, Any]]


def take_steps(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    data: Any,
    num_steps: int,
    *,
    extras: Extras | None = None,
) -> tuple[TrainState, jax.Array]:
    """Makes so many steps: draw, gather, weighted gradient, update.

    One program for up to 128 steps, another for up to 256, and so on, each compiled once for a loss
    function, an optimizer, a kind of sampler and shapes; a new sampler of the same kind compiles
    nothing. On a CPU, for a loss with convolutions, a program of one step, again and again: see
    :func:`per_example.slow_in_loops`.

    Args:
      loss_fn: ``loss_fn(params, example) -> ()``, the loss of one example.
      optimizer: an Optax transformation.
      state: where training is.
      data: pytree of arrays ``(N, ...)``, all examples.
      num_steps: steps to make, at least 1.
      extras: from ``(state, batch, weights)`` to further keywords of ``optimizer.update``.

    Returns:
      The state after the steps, and the weighted mean loss of the batch of each, ``(num_steps,)``,
      before its update.

    Raises:
      ValueError: for data of which the sampler does not have the number of examples, or
        ``num_steps`` below 1.
    """
    num_steps = trees.check_count("num_steps", num_steps, most=2**30)
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(data)}
    if lengths != {(state.sampler.num_examples,)}:
        raise ValueError(
            f"data must be arrays ({state.sampler.num_examples}, ...), as many examples as the "
            f"sampler has; got leading axes {sorted(lengths)}"
        )
    # What a plan remembers is of no use to a step, and would compile it anew as it changes.
    memory = state.memory
    if extras is None:
        state = state._replace(memory={})
    state, losses = _steps(loss_fn, optimizer, extras, state, data, num_steps)
    return state._replace(memory=memory), losses


def _steps(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    extras: Extras | None,
    state: TrainState,
    data: Any,
    num_steps: int,
) -> tuple[TrainState, jax.Array]:
    if per_example.slow_in_loops(loss_fn)(state.params, data):
        return _one_by_one(loss_fn, optimizer, extras, state, data, num_steps)
    # The buffer of losses has the next power of two, so that there are few different programs.
    capacity = max(_LEAST_CAPACITY, 1 << (num_steps - 1).bit_length())
    state, losses = _run(loss_fn, optimizer, extras, capacity, state, data, jnp.int32(num_steps))
    return state, losses[:num_steps]


def _one_by_one(loss_fn, optimizer, extras, state: TrainState, data, num_steps: int):
    losses = []
    for _ in range(num_steps):
        state, loss = _single(loss_fn, optimizer, extras, state, data)
        losses.append(loss)
    return state, jnp.stack(losses)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _run(loss_fn, optimizer, extras, capacity, state: TrainState, data, num_steps):
    def step(number, carry):
        state, losses = carry
        state, loss = _step(loss_fn, optimizer, extras, state, data)
        return state, losses.at[number].set(loss)

    dtype = trees.accumulator(jnp.result_type(*jax.tree.leaves(state.params)))
    return jax.lax.fori_loop(0, num_steps, step, (state, jnp.zeros(capacity, dtype)))


def _step(loss_fn, optimizer, extras, state: TrainState, data) -> tuple[TrainState, jax.Array]:
    draw, sampler_state = state.sampler.next(state.sampler_state)
    batch = trees.take(data, draw.indices)
    loss, gradient = sampling.value_and_grad(loss_fn)(state.params, batch, draw.weights)
    more = {} if extras is None else extras(state, batch, draw.weights)
    update = optax.with_extra_args_support(optimizer).update
    updates, opt_state = update(gradient, state.opt_state, state.params, **more)
    after = state._replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        opt_state=opt_state,
        sampler_state=sampler_state,
        recent_loss=averaged(state, loss),
    )
    dtype = trees.accumulator(jnp.result_type(*jax.tree.leaves(state.params)))
    return after, loss.astype(dtype)


_single = jax.jit(_step, static_argnums=(0, 1, 2))
