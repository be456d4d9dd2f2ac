"""Training steps: many of them in one program."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrobust import per_example, sampling, trees
from jaxrobust.training._state import TrainState, averaged

_LEAST_CAPACITY = 128

LossFn = Callable[[Any, Any], jax.Array]
# What the optimizer needs besides the gradient: (state, batch, weights) -> keyword arguments.
Extras = Callable[[TrainState, Any, jax.Array], dict[str, Any]]
# What is done to a batch before its gradient: (key, params, batch) -> batch.
Transform = Callable[[jax.Array, Any, Any], Any]

# Apart from the keys that a plan splits off at the same step.
_TRANSFORM_STREAM = 0x7452616E


def take_steps(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    data: Any,
    num_steps: int,
    *,
    extras: Extras | None = None,
    transform: Transform | None = None,
) -> tuple[TrainState, jax.Array]:
    """Makes so many steps: draw, gather, transform, weighted gradient, update.

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
      extras: from ``(state, batch, weights)`` to further keywords of ``optimizer.update``; the
        batch is what ``transform`` made. If it has a method ``reads``, from the name of a part of
        ``state.memory`` to bool, it is given only the parts for which this is true; for another
        set of them, or other shapes, steps are compiled anew.
      transform: from ``(key, params, batch)`` to the batch that is learned from, of the same
        structure and number of examples: adversarial examples (:func:`attacks.adversary`), crops,
        noise. The key is another one in every step and depends on the state alone; no gradient
        flows through it. Like the loss it is compiled once for each function object.

    Returns:
      The state after the steps, and the weighted mean loss of the batch of each, ``(num_steps,)``,
      before its update.

    Raises:
      ValueError: for data of which the sampler does not have the number of examples,
        ``num_steps`` below 1, or a transform that changes the number of examples.
    """
    program = Program(loss_fn, optimizer, extras, transform)
    state, losses = padded_steps(program, state, data, num_steps)
    return state, losses[:num_steps]


def padded_steps(
    program: "Program", state: TrainState, data: Any, num_steps: int
) -> tuple[TrainState, jax.Array]:
    """:func:`take_steps`, with more losses than steps: to cut them off takes a program."""
    num_steps = trees.check_count("num_steps", num_steps, most=2**30)
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(data)}
    if lengths != {(state.sampler.num_examples,)}:
        raise ValueError(
            f"data must be arrays ({state.sampler.num_examples}, ...), as many examples as the "
            f"sampler has; got leading axes {sorted(lengths)}"
        )
    # What a plan remembers is of no use to a step, and would compile it anew as it changes.
    memory = state.memory
    reads = getattr(program.extras, "reads", lambda name: program.extras is not None)
    state = state._replace(memory={name: v for name, v in memory.items() if reads(name)})
    state, losses = _steps(program, state, data, num_steps)
    return state._replace(memory=memory), losses


class Program(NamedTuple):
    """What a step does; static."""

    loss_fn: LossFn
    optimizer: optax.GradientTransformation
    extras: Extras | None
    transform: Transform | None


def _steps(
    program: Program, state: TrainState, data: Any, num_steps: int
) -> tuple[TrainState, jax.Array]:
    if per_example.slow_in_loops(program.loss_fn)(state.params, data):
        return _one_by_one(program, state, data, num_steps)
    # The buffer of losses has the next power of two, so that there are few different programs.
    capacity = max(_LEAST_CAPACITY, 1 << (num_steps - 1).bit_length())
    return _run(program, capacity, state, data, np.int32(num_steps))


def _one_by_one(program: Program, state: TrainState, data: Any, num_steps: int):
    losses = []
    for _ in range(num_steps):
        state, loss = _single(program, state, data)
        losses.append(loss)
    return state, jnp.stack(losses)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(program: Program, capacity: int, state: TrainState, data: Any, num_steps: jax.Array):
    def step(number, carry):
        state, losses = carry
        state, loss = _step(program, state, data)
        return state, losses.at[number].set(loss)

    dtype = trees.accumulator(jnp.result_type(*jax.tree.leaves(state.params)))
    return jax.lax.fori_loop(0, num_steps, step, (state, jnp.zeros(capacity, dtype)))


def _step(program: Program, state: TrainState, data: Any) -> tuple[TrainState, jax.Array]:
    draw, sampler_state = state.sampler.next(state.sampler_state)
    batch = trees.take(data, draw.indices)
    if program.transform is not None:
        batch = _transformed(program.transform, state, batch)
    value_and_grad = sampling.value_and_grad(program.loss_fn)
    loss, gradient = value_and_grad(state.params, batch, draw.weights)
    more = {} if program.extras is None else program.extras(state, batch, draw.weights)
    update = optax.with_extra_args_support(program.optimizer).update
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


def _transformed(transform: Transform, state: TrainState, batch: Any) -> Any:
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), _TRANSFORM_STREAM)
    after = jax.lax.stop_gradient(transform(key, state.params, batch))
    sizes = lambda tree: [jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(tree)]
    if jax.tree.structure(after) != jax.tree.structure(batch) or sizes(after) != sizes(batch):
        raise ValueError(
            "transform must return a batch of the structure and number of examples that it was "
            f"given, {jax.tree.map(jnp.shape, batch)}, got {jax.tree.map(jnp.shape, after)}"
        )
    return after


# A transform, such as an attack, may have loops with convolutions.
_single = trees.compiled(_step, num_static=1)
