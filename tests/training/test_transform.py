"""What is done to batches before their gradients: adversarial examples, noise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import attacks, sampling, training

KEY = jax.random.key(3)
NUM_EXAMPLES, FEATURES = 12, 5


def loss_of_noise(params, example):
    """What the transform put there."""
    return example + 0 * jnp.sum(params)


def squared(params, example):
    """Of a linear model."""
    x, y = example
    return (x @ params - y) ** 2


def begin(params, batch_size=4):
    """A state with plain gradient descent."""
    optimizer = optax.sgd(0.1)
    sampler = sampling.uniform(NUM_EXAMPLES, batch_size)
    return optimizer, training.init(params, optimizer, sampler, key=KEY)


def regression():
    """Examples with labels of -1 and 1."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(NUM_EXAMPLES, FEATURES)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(np.sign(x[:, 0] + 0.1), jnp.float32)


def test_training_on_what_the_transform_returns():
    x, y = regression()
    optimizer, state = begin(jnp.zeros(FEATURES))
    double = lambda key, params, batch: (2 * batch[0], batch[1])
    found, losses = training.take_steps(squared, optimizer, state, (x, y), 7, transform=double)
    expected, plain = training.take_steps(squared, optimizer, state, (2 * x, y), 7)
    np.testing.assert_allclose(found.params, expected.params, rtol=1e-6)
    np.testing.assert_allclose(losses, plain, rtol=1e-6)


def test_every_step_has_a_key_of_its_own_that_depends_on_the_state_alone():
    optimizer, state = begin(jnp.zeros(2))
    data = jnp.zeros(NUM_EXAMPLES)
    draw = lambda key, params, batch: jnp.full_like(batch, jax.random.uniform(key))
    run = lambda state, number: training.take_steps(
        loss_of_noise, optimizer, state, data, number, transform=draw
    )
    _, losses = run(state, 9)
    assert len(set(losses.tolist())) == 9
    middle, first = run(state, 4)
    np.testing.assert_array_equal(jnp.concatenate([first, run(middle, 5)[1]]), losses)
    # Nor is it one of those that a plan splits off at the same step.
    at = jax.random.fold_in(state.key, 0)
    others = [at, *jax.random.split(at, 64)]
    assert not any(jax.random.uniform(key) == losses[0] for key in others)


def test_no_gradient_flows_through_it():
    optimizer, state = begin(jnp.ones(()))
    data = jnp.ones(NUM_EXAMPLES)
    times = lambda key, params, batch: params * batch
    after, losses = training.take_steps(
        lambda params, example: example + 0 * params, optimizer, state, data, 3, transform=times
    )
    assert after.params == 1
    np.testing.assert_array_equal(losses, np.ones(3))


def test_adversarial_training_of_a_linear_model_minimises_the_loss_of_the_worst_case():
    """Where one step of an attack is exact, by NumPy: the margin less eps times the l1 norm."""
    x, y = regression()
    eps, rate, num_steps = 0.2, 0.1, 20

    def predict(params, x):
        scores = x @ params
        return jnp.stack([-scores, scores], axis=1) / 2

    def loss_fn(params, example):
        x, y = example
        return jax.nn.softplus(-y * (x @ params))

    adversary = attacks.adversary(
        predict, norm="linf", eps=eps, num_steps=1, step_size=1.0, random_start=False
    )

    def transform(key, params, batch):
        x, y = batch
        return adversary(key, params, x, (y > 0).astype(jnp.int32)), y

    optimizer, state = begin(jnp.full(FEATURES, 0.01), NUM_EXAMPLES)
    state, records = training.train(
        loss_fn, optimizer, state, (x, y), num_steps, transform=transform, log_every=1
    )

    w, inputs, labels = (np.asarray(z, np.float64) for z in (jnp.full(FEATURES, 0.01), x, y))
    losses = []
    for _ in range(num_steps):
        margins = labels * (inputs @ w) - eps * np.abs(w).sum()
        losses.append(np.mean(np.logaddexp(0, -margins)))
        pull = -1 / (1 + np.exp(margins))
        worst = labels[:, None] * inputs - eps * np.sign(w)
        w = w - rate * np.mean(pull[:, None] * worst, axis=0)
    np.testing.assert_allclose(state.params, w, rtol=1e-5)
    np.testing.assert_allclose([record["loss"] for record in records], losses, rtol=1e-5)


def test_the_loop_compiles_a_transform_once():
    traces = []

    def transform(key, params, batch):
        traces.append(None)
        return batch

    optimizer, state = begin(jnp.zeros(2))
    data = jnp.zeros(NUM_EXAMPLES)
    training.train(loss_of_noise, optimizer, state, data, 40, transform=transform, log_every=10)
    assert len(traces) == 1


@pytest.mark.parametrize(
    "broken", [lambda key, params, batch: batch[1:], lambda key, params, batch: (batch,)]
)
def test_another_number_or_structure_is_an_error(broken):
    optimizer, state = begin(jnp.zeros(2))
    with pytest.raises(ValueError, match="transform must return a batch of the structure"):
        training.take_steps(
            loss_of_noise, optimizer, state, jnp.zeros(NUM_EXAMPLES), 2, transform=broken
        )
