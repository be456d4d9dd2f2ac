"""The teacher and student of random features: a convex problem with a dial for its redundancy.

A teacher network labels Gaussian inputs; the student is a linear layer on frozen random features,
trained by SGD. What the experiments on the variance of gradients share.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

DIM = 100  # of the inputs
STUDENT = 1_000  # random features
TEACHER = 100  # hidden units
BATCH = 10
WEIGHT_DECAY = 1e-4
DISTINCT = 5  # points of which the duplicated part of the data is made


class Problem(NamedTuple):
    """Data and initial weights of a student."""

    features: jax.Array  # (N, STUDENT): ReLU features, which stay as they are
    labels: jax.Array  # (N,) int32: 0 or 1
    start: jax.Array  # (2, STUDENT): initial weights


def num_examples(ratio: float) -> int:
    """Examples for so many features per example."""
    return round(STUDENT / ratio)


def make_all(seeds: int, number: int, duplicated: float = 0.0, teacher: int = TEACHER) -> Problem:
    """One problem for every seed, stacked; see `make`."""
    made = [make(np.random.default_rng(seed), number, duplicated, teacher) for seed in range(seeds)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *made)


def one_of(problems: Problem, number: int) -> Problem:
    """One of stacked problems."""
    return jax.tree.map(lambda leaf: leaf[number], problems)


def make(
    generator: np.random.Generator, number: int, duplicated: float = 0.0, teacher: int = TEACHER
) -> Problem:
    """A problem of `number` examples, of which a share are copies of 5 points.

    Inputs are Gaussian, all weights have rows of length 1. The labels are 1 where the output of the
    teacher is above its mean.
    """
    copied = round(duplicated * number)
    distinct = number - copied + (DISTINCT if copied else 0)
    x = generator.normal(size=(distinct, DIM))
    shapes = [(teacher, DIM), (1, teacher), (STUDENT, DIM), (2, STUDENT)]
    first, second, frozen, start = (_rows_of_length_one(generator, shape) for shape in shapes)
    places = np.arange(number)
    if copied:
        x = x[np.where(places < copied, places % DISTINCT, places - copied + DISTINCT)]
    outputs = np.maximum(x @ first.T, 0) @ second[0]
    return Problem(
        jnp.asarray(np.maximum(x @ frozen.T, 0), jnp.float32),
        jnp.asarray(outputs > np.mean(outputs), jnp.int32),
        jnp.asarray(start, jnp.float32),
    )


def _rows_of_length_one(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    rows = generator.normal(size=shape)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def loss_fn(params: jax.Array, example: Any) -> jax.Array:
    """Cross-entropy of the two classes, for one example `(features, label)`."""
    features, label = example
    return -jax.nn.log_softmax(params @ features)[label]


def train(
    problems: Problem, learning_rate: float, steps: int, every: int, seed: int = 0
) -> jax.Array:
    """SGD on stacked problems, with batches of 10 and weight decay; weights on the way.

    Returns:
      ``(S, steps // every + 1, 2, STUDENT)``: after every so many steps, the initial weights first.
    """
    seeds, number = problems.labels.shape
    shape = (seeds, steps // every, every, BATCH)
    drawn = np.random.default_rng([seed, steps]).integers(0, number, shape, np.int32)
    return _train(problems, jnp.asarray(drawn), jnp.float32(learning_rate))


@jax.jit
def _train(problems: Problem, drawn: jax.Array, learning_rate: jax.Array) -> jax.Array:
    return jax.vmap(_train_one, (0, 0, None))(problems, drawn, learning_rate)


def _train_one(problem: Problem, drawn: jax.Array, learning_rate: jax.Array) -> jax.Array:
    """Weights after every row of `drawn`, ``(intervals, steps, BATCH)``, and before the first."""

    def step(params, index):
        batch = (problem.features[index], problem.labels[index])
        mean_loss = lambda p: jnp.mean(jax.vmap(loss_fn, (None, 0))(p, batch))
        gradient = jax.grad(mean_loss)(params) + WEIGHT_DECAY * params
        return params - learning_rate * gradient, None

    def interval(params, index):
        params, _ = jax.lax.scan(step, params, index)
        return params, params

    _, path = jax.lax.scan(interval, problem.start, drawn)
    return jnp.concatenate([problem.start[None], path])


@jax.jit
def gradients(problem: Problem, params: jax.Array) -> jax.Array:
    """The gradients of all examples, ``(N, 2 STUDENT)``."""
    data = (problem.features, problem.labels)
    found = jax.vmap(jax.grad(loss_fn), (None, 0))(params, data)
    return found.reshape(found.shape[0], -1)
