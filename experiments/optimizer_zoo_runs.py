"""What the experiment `optimizer_zoo` trains: one program for each optimizer, in float64."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import linear_training
from jaxrobust import linear, norms, optim, sampling
from jaxrobust.norms import Norm

NORMS = {"l1": norms.l1, "l2": norms.l2, "linf": norms.linf}
MATRIX_NORMS = {"spectral": norms.spectral, "Frobenius": norms.l2, "max": norms.linf}
DECAY = 5.0  # of weights: balls of radius 0.2, in which the least loss is at the boundary
NOISY, FEW = 200, 20  # examples and features of the data that are not separable
NUM_CLASSES, FEATURES, EXAMPLES = 4, 20, 30  # of the multiclass data
HIDDEN, INPUTS, POINTS = 40, 5, 8  # of the network with one hidden layer
EVEN, EVEN_DIM = 12, 100  # of examples with entries of one size
STEP = 0.01  # of steepest flow on it: by how much the logarithm of the loss falls, about


class Contender(NamedTuple):
    """An optimizer, and what is said of it."""

    make: Callable[[], optax.GradientTransformation]
    norm: Norm | None  # whose margin it is said to maximise
    table: tuple[float, ...] = ()  # linf and l2 margin over the optimum, measured before


def _falling(rate: float) -> optax.Schedule:
    return optim.inverse_sqrt(rate)


CONTENDERS = {
    "sign descent": Contender(
        lambda: optim.normalized_steepest_descent(_falling(0.01), "linf"),
        norms.linf, (0.992, 0.809),
    ),
    "Signum, β 0.9": Contender(
        lambda: optim.normalized_steepest_descent(_falling(0.01), "linf", momentum=0.9),
        norms.linf, (0.992,),
    ),
    "Lion, no decay": Contender(
        lambda: optax.lion(_falling(0.01), weight_decay=0.0), norms.linf, (0.992,)
    ),
    "Adam, ε 0": Contender(
        lambda: optax.adam(_falling(0.01), b2=0.99, eps=0.0), norms.linf, (0.940, 0.814)
    ),
    "Adam, ε 1e-8": Contender(
        lambda: optax.adam(_falling(0.01), b2=0.99, eps=1e-8), None, (0.869, 0.872)
    ),
    "Adam, ε 1e-8, 10 times as fast": Contender(
        lambda: optax.adam(_falling(0.1), b2=0.99, eps=1e-8), None, (0.817, 0.897)
    ),
    "AdaGrad": Contender(lambda: optax.adagrad(0.1), None, (0.641, 0.966)),
    "momentum, β 0.9": Contender(lambda: optax.sgd(0.1, momentum=0.9), norms.l2, (0.518, 0.964)),
    "normalised gradient": Contender(
        lambda: optim.normalized_steepest_descent(_falling(0.1), "l2"), norms.l2
    ),
    "coordinate descent": Contender(
        lambda: optim.normalized_steepest_descent(_falling(0.1), "l1"), norms.l1
    ),
}  # fmt: skip
# p-GD is fed with the gradient of log L: its steps on L would get too short.
POWERS = {1.5: 0.9998, 3.0: 0.9984, 10.0: 0.973}
BOXED = {
    "AdamW, ε 0": (
        lambda: optax.adamw(_falling(0.1), b2=0.99, eps=0.0, weight_decay=DECAY), norms.linf
    ),
    "Lion": (lambda: optax.lion(_falling(0.1), weight_decay=DECAY), norms.linf),
    "sign descent with decay": (lambda: decayed(norms.linf), norms.linf),
    "normalised gradient with decay": (lambda: decayed(norms.l2), norms.l2),
}  # fmt: skip
SMALL_BATCHES = {
    "sign descent": lambda: optim.normalized_steepest_descent(_falling(0.01), "linf"),
    "Signum, β 0.9": lambda: optim.normalized_steepest_descent(
        _falling(0.01), "linf", momentum=0.9
    ),
    "Signum, β 0.99": lambda: optim.normalized_steepest_descent(
        _falling(0.01), "linf", momentum=0.99
    ),
    "Adam, ε 0": lambda: optax.adam(_falling(0.01), b2=0.99, eps=0.0),
}


def decayed(norm: Norm, rate: float = 0.1) -> optax.GradientTransformation:
    """Normalised steepest descent with decoupled weight decay."""
    return optax.chain(
        optim.scale_by_normalized_steepest(norm),
        optax.add_decayed_weights(DECAY),
        optax.scale_by_learning_rate(_falling(rate)),
    )


def muon_with_decay() -> optax.GradientTransformation:
    """Spectral descent with decoupled weight decay."""
    return decayed(norms.spectral)


class Watched(NamedTuple):
    """Of a run on one problem, at T times."""

    w: jax.Array  # (T, *features)
    certificate: linear.CertificateState  # best bounds so far; leaves (T, ..)


def logistic(w: jax.Array, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean loss, and the margins."""
    m = linear.margins(w, x, y)
    return jnp.mean(jax.nn.softplus(-m)), m


@functools.partial(jax.jit, static_argnums=(0, 1))
def descend(
    make: Callable[[], Any], norm: Norm, x: jax.Array, y: jax.Array, times: jax.Array
) -> Watched:
    """Full batches of one problem from zero, certified in a norm."""
    optimizer = make()

    def step(carry):
        w, state, certificate = carry
        (_, m), gradient = jax.value_and_grad(logistic, has_aux=True)(w, x, y)
        dual = -gradient / jnp.mean(jax.nn.sigmoid(-m))
        certificate = linear.update_certificate(certificate, w, m, dual, norm)
        updates, state = optimizer.update(gradient, state, w)
        return optax.apply_updates(w, updates), state, certificate

    w = jnp.zeros_like(x[0])
    start = w, optimizer.init(w), linear.init_certificate(w)
    return linear_training.recorded(step, start, lambda carry: Watched(carry[0], carry[2]), times)


@functools.partial(jax.jit, static_argnums=(0, 1, 5))
def descend_in_batches(
    make: Callable[[], Any],
    batch_size: int,
    x: jax.Array,
    y: jax.Array,
    num_steps: jax.Array,
    corrected: bool = False,
) -> jax.Array:
    """Weights after so many steps on batches drawn without replacement, epoch by epoch.

    With ``corrected`` by SVRG, whose snapshot is of the beginning of the epoch.
    """
    optimizer, number = make(), len(x)
    svrg = sampling.svrg(lambda w, example: logistic(w, example[0][None], example[1][None])[0])

    def step(at, carry):
        w, state, snapshot = carry
        epoch, place = at * batch_size // number, at * batch_size % number
        order = jax.random.permutation(jax.random.fold_in(jax.random.key(0), epoch), number)
        rows = order[(place + jnp.arange(batch_size)) % number]
        if corrected:
            begins = place < batch_size
            snapshot = jax.lax.cond(begins, lambda: svrg.snapshot(w, (x, y)), lambda: snapshot)
            gradient = svrg.gradient(w, (x[rows], y[rows]), jnp.ones(batch_size), snapshot)
        else:
            gradient = jax.grad(lambda w: logistic(w, x[rows], y[rows])[0])(w)
        updates, state = optimizer.update(gradient, state, w)
        return optax.apply_updates(w, updates), state, snapshot

    w = jnp.zeros_like(x[0])
    start = w, optimizer.init(w), svrg.snapshot(w, (x, y)) if corrected else ()
    return jax.lax.fori_loop(0, num_steps, step, start)[0]


def even(seed: int) -> tuple[jax.Array, jax.Array]:
    """Examples whose entries are all of one size, each example's its own, with random signs."""
    rng = np.random.default_rng(seed)
    size = rng.uniform(0.5, 1.5, (EVEN, 1))
    x = size * rng.choice([-1.0, 1.0], (EVEN, EVEN_DIM))
    return jnp.asarray(x), jnp.asarray(np.where(rng.normal(size=EVEN) > 0, 1.0, -1.0))


@functools.partial(jax.jit, static_argnums=0)
def mirrored(p: float, x: jax.Array, y: jax.Array, num_steps: jax.Array) -> jax.Array:
    """Weights of p-GD on log L, near zero at first."""
    # The largest entries grow by about one unit of the rate to the power 1/(p-1) in a step.
    optimizer = optim.mirror_descent(0.02, p)
    slope = jax.grad(lambda w: linear.log_loss(linear.margins(w, x, y)))

    def step(_, carry):
        w, state = carry
        updates, state = optimizer.update(slope(w), state, w)
        return optax.apply_updates(w, updates), state

    w = jnp.full_like(x[0], 1e-3)
    return jax.lax.fori_loop(0, num_steps, step, (w, optimizer.init(w)))[0]


def noisy(seed: int) -> tuple[jax.Array, jax.Array]:
    """Gaussian examples, a fifth of whose labels are wrong: not separable."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(NOISY, FEW))
    y = np.where(x @ rng.normal(size=FEW) > 0, 1.0, -1.0) * rng.choice([-1, 1], NOISY, p=[0.2, 0.8])
    return jnp.asarray(x), jnp.asarray(y)


@functools.partial(jax.jit, static_argnums=(0, 1))
def descend_decayed(
    make: Callable[[], Any], loss: Callable[..., jax.Array], w, x, y, num_steps
) -> jax.Array:
    """Weights after so many full batches, from ``w``."""
    optimizer = make()

    def step(_, carry):
        w, state = carry
        updates, state = optimizer.update(jax.grad(loss)(w, x, y), state, w)
        return optax.apply_updates(w, updates), state

    return jax.lax.fori_loop(0, num_steps, step, (w, optimizer.init(w)))[0]


def mean_logistic(w: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """The loss of two classes."""
    return logistic(w, x, y)[0]


def gap_in_ball(
    loss: Callable[..., jax.Array], w: jax.Array, x: jax.Array, y: jax.Array, norm: Norm
) -> tuple[float, float]:
    """Norm of the weights over the radius 1/decay, and how far the loss can be above its minimum.

    The second is Frank-Wolfe's gap over the loss: with g the gradient and r the radius,
    L(w) - min L <= <g, w> + r |g|_*, the minimum being that in the ball.
    """
    value, gradient = jax.value_and_grad(loss)(w, x, y)
    gap = jnp.sum(gradient * w) + norm.dual.value(gradient) / DECAY
    return float(norm.value(w) * DECAY), float(gap / value)


def classes(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian examples, so few that random labels of several classes are separable."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(EXAMPLES, FEATURES)), rng.integers(0, NUM_CLASSES, EXAMPLES)


def softmax_loss(w: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean cross-entropy of ``w (classes, features)``.

    As the softplus of what the other classes are ahead: of a difference of two sums the gradient of
    the own class would be 0 at margins from 37 on.
    """
    scores = x @ w.T
    own = jax.nn.one_hot(y, NUM_CLASSES, dtype=bool)
    others = jax.nn.logsumexp(jnp.where(own, -jnp.inf, scores), axis=1)
    return jnp.mean(jax.nn.softplus(others - jnp.sum(jnp.where(own, scores, 0), axis=1)))


OPTAX_MUON = "Muon of Optax, β 0.9"
MATRIX_CONTENDERS = {
    "spectral descent": lambda: optim.normalized_steepest_descent(_falling(0.5), "spectral"),
    "Muon, β 0.9": lambda: optim.normalized_steepest_descent(
        _falling(0.5), "spectral", momentum=0.9
    ),
    # By a polynomial of the matrix in place of its singular vectors.
    OPTAX_MUON: lambda: optax.contrib.muon(_falling(0.5), beta=0.9, nesterov=False),
    "normalised gradient": lambda: optim.normalized_steepest_descent(_falling(0.5), "l2"),
    "sign descent": lambda: optim.normalized_steepest_descent(_falling(0.1), "linf"),
    "Adam, ε 0": lambda: optax.adam(_falling(0.05), b2=0.99, eps=0.0),
}
# The norm whose margin each is said to maximise.
MATRIX_THEORY = dict(
    zip(
        MATRIX_CONTENDERS,
        (*["spectral"] * 3, "Frobenius", "max", "max"),
        strict=True,
    )
)


@jax.jit
def diagonal(scale: jax.Array, x: jax.Array, y: jax.Array, num_steps: jax.Array):
    """The predictor u^2 - v^2 after gradient descent on log L from entries `scale`; and log L."""
    model = linear.diagonal(x.shape[1])
    start = jax.tree.map(
        lambda leaf: jnp.full(leaf.shape, scale, x.dtype), model.init(jax.random.key(0))
    )
    loss = lambda params: linear.log_loss(linear.margins(model.predictor(params), x, y))
    rate = 0.1 / jnp.max(jnp.sum(x**2, axis=1))

    def step(_, params):
        # In units of the squared length of the params, with which the curvature grows.
        size = jnp.maximum(sum(jnp.max(leaf**2) for leaf in params), 1)
        slope = jax.grad(loss)(params)
        return jax.tree.map(lambda p, g: p - rate / size * g, params, slope)

    params = jax.lax.fori_loop(0, num_steps, step, start)
    return model.predictor(params), loss(params)


def hidden_layer(seed: int) -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
    """Params of a ReLU network with one hidden layer, points and signs."""
    rng = np.random.default_rng(seed)
    params = {
        "inner": jnp.asarray(rng.normal(size=(HIDDEN, INPUTS)) / INPUTS**0.5),
        "outer": jnp.asarray(rng.normal(size=HIDDEN) / HIDDEN**0.5),
    }
    x = rng.normal(size=(POINTS, INPUTS))
    return params, jnp.asarray(x), jnp.asarray(np.where(rng.normal(size=POINTS) > 0, 1.0, -1.0))


@functools.partial(jax.jit, static_argnums=(0, 4))
def steepest_flow(norm: Norm, params: Any, x: jax.Array, y: jax.Array, num_steps: int):
    """Minus the logarithm of the loss, ``sum e^-m``; the smallest margin; lengths of the params.

    ``(num_steps,)`` each, the lengths by norm. Along the direction of steepest descent, and so far
    that log L falls by a little in every step: the same curve as with any other steps so small.
    """
    optimizer = optim.scale_by_normalized_steepest(norm)

    def log_sum(params):
        scores = jax.nn.relu(x @ params["inner"].T) @ params["outer"]
        m = y * scores
        return jax.nn.logsumexp(-m), jnp.min(m)

    def step(carry, _):
        params, state = carry
        (value, least), gradient = jax.value_and_grad(log_sum, has_aux=True)(params)
        lengths = {name: one.value(params) for name, one in NORMS.items()}
        ascent, state = optimizer.update(gradient, state, params)
        far = STEP / norm.dual.value(gradient)
        params = jax.tree.map(lambda p, u: p - far * u, params, ascent)
        return (params, state), (-value, least, lengths)

    return jax.lax.scan(step, (params, optimizer.init(params)), length=num_steps)[1]
