"""What `sampled_training` trains: problems, ways to sample, and one run with its clock."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrobust import data, optim, sampling, training

MOMENTUM = 0.9
NOISY = "linear, wrong labels"  # the problem that noise limits
COPY_NOISE = 0.02  # standard deviation of the pixels of a copy


class Problem(NamedTuple):
    """A data set and a model for it."""

    loss_fn: Callable[[Any, Any], jax.Array]  # of one example (image, label)
    compared: Callable[[Any, Any], jax.Array]  # the loss by whose gradients copies are found
    evaluate: Callable[[Any, Any], dict[str, jax.Array]]  # (params, test set) -> accuracy, loss
    init: Callable[[jax.Array], Any]  # key -> params
    train: tuple[jax.Array, jax.Array]  # (N, features), (N,)
    test: tuple[jax.Array, jax.Array]
    groups: np.ndarray  # (N,): the image that every example is a copy of


class Curve(NamedTuple):
    """What one run reached, at every evaluation."""

    steps: np.ndarray  # (n,)
    seconds: np.ndarray  # (n,): of training and refreshes, without evaluation
    values: np.ndarray  # (n,): test accuracy, or mean loss over the training set
    test_losses: np.ndarray  # (n,): mean loss over the test set
    refreshing: float  # seconds of refreshes, all together
    reports: list[dict[str, Any]]  # of the refreshes


# Problems -----------------------------------------------------------------------------------------


class Model(NamedTuple):
    """A network: its init, its loss of one example, and its evaluation.

    ``compared`` is the loss with no gradient for the first of several convolutions: the others say
    as well what a copy is, and the pass back to the first one would be most of a pass back.
    """

    init: Callable[[jax.Array], Any]
    loss_fn: Callable[[Any, Any], jax.Array]
    compared: Callable[[Any, Any], jax.Array]
    evaluate: Callable[[Any, Any], dict[str, jax.Array]]


@functools.cache  # one loss function per network: a new one would be compiled anew
def network(kind: str, num_features: int) -> Model:
    """``"linear"``, ``"mlp"`` (two hidden layers) or ``"cnn"`` (two convolutions, stride 2)."""
    widths = {"linear": [], "mlp": [128, 128] if num_features < 100 else [256, 256], "cnn": []}[
        kind
    ]
    sizes = [num_features, *widths, 10]
    side = round(num_features**0.5)

    def init(key):
        keys = jax.random.split(key, 4)
        if kind != "cnn":
            return [
                (jax.random.normal(k, (a, b)) * (2 / a) ** 0.5 * (kind != "linear"), jnp.zeros(b))
                for k, a, b in zip(keys, sizes, sizes[1:], strict=False)
            ]
        left = (side + 3) // 4  # after two strides of 2
        shapes = [(3, 3, 1, 16), (3, 3, 16, 32), (left * left * 32, 10)]
        return [
            (jax.random.normal(k, s) * (2 / np.prod(s[:-1])) ** 0.5, jnp.zeros(s[-1]))
            for k, s in zip(keys, shapes, strict=False)
        ]

    def logits(params, image):
        x = image
        if kind == "cnn":
            x = image.reshape(1, side, side, 1)
            for kernel, bias in params[:-1]:
                names = ("NHWC", "HWIO", "NHWC")
                x = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=names)
                x = jax.nn.relu(x + bias.reshape(1, 1, 1, -1))
            x = x.reshape(-1)
        else:
            for matrix, bias in params[:-1]:
                x = jax.nn.relu(x @ matrix + bias)
        return x @ params[-1][0] + params[-1][1]

    def loss_fn(params, example):
        return -jax.nn.log_softmax(logits(params, example[0]))[example[1]]

    def compared(params, example):
        return loss_fn([jax.lax.stop_gradient(params[0]), *params[1:]], example)

    @jax.jit
    def evaluate(params, examples):
        images, labels = examples
        found = jax.lax.map(lambda image: logits(params, image), images, batch_size=1000)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(found), labels[:, None], axis=1)
        return {
            "accuracy": jnp.mean(jnp.argmax(found, axis=1) == labels),
            "loss": -jnp.mean(chosen),
        }

    return Model(init, loss_fn, compared if kind == "cnn" else loss_fn, evaluate)


class Redundancy(NamedTuple):
    """How a training set is made of images."""

    copied: int  # images of which there are copies; 0 for none
    copies: int  # of each
    distinct: int  # images of which there is one
    wrong: float = 0.0  # share of the images whose label is a random other one


def problem(source: str, kind: str, redundancy: Redundancy, seed: int) -> Problem:
    """Images of ``"digits"`` or ``"mnist"``, some with many copies; tested on clean images."""
    x, y, test = _images(source)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(x))
    number = redundancy.copied + redundancy.distinct
    if number > len(x):
        raise ValueError(f"{source} has {len(x)} images, {number} are wanted")
    repeats = np.r_[[redundancy.copies] * redundancy.copied, [1] * redundancy.distinct].astype(int)
    groups = rng.permutation(np.repeat(np.arange(number), repeats))
    images = x[order[groups]]
    noise = COPY_NOISE * rng.normal(size=images.shape) * (repeats[groups] > 1)[:, None]
    labels = y[order[:number]]
    is_wrong = rng.permutation(number) < redundancy.wrong * number
    labels = (labels + is_wrong * rng.integers(1, 10, number)) % 10
    model = network(kind, x.shape[1])
    if test is None:
        test = (x[order[number:]], y[order[number:]])
    as_arrays = lambda pair: (jnp.asarray(pair[0], jnp.float32), jnp.asarray(pair[1], jnp.int32))
    return Problem(
        model.loss_fn,
        model.compared,
        model.evaluate,
        model.init,
        as_arrays((images + noise, labels[groups])),
        as_arrays(test),
        groups,
    )


@functools.cache
def _images(source: str):
    """All images that may be trained on, flat, their labels, and the test set if there is one."""
    found = data.digits() if source == "digits" else data.mnist()
    flat = lambda images: np.asarray(images).reshape(len(images), -1)
    train, test = (
        (flat(x), np.asarray(y))
        for x, y in ((found.x_train, found.y_train), (found.x_test, found.y_test))
    )
    if source == "digits":  # few: all that are not trained on are for the test
        return np.concatenate([train[0], test[0]]), np.concatenate([train[1], test[1]]), None
    return *train, test


# Ways to sample -----------------------------------------------------------------------------------

UNIFORM, DOUBLE, FOUND, KNOWN = "uniform", "double batch", "redundancy found", "groups known"
IMPORTANCE, SVRG = "importance", "SVRG"
# As they see fit: see `training.resample` and `training.snapshots`.
AUTOMATIC, AUTOMATIC_SVRG = "automatic strata", "automatic SVRG"
EQUAL, PROPORTIONAL, NEYMAN = (
    f"stratified, {name}" for name in ("equal", "proportional", "Neyman")
)
BOTH = "strata + SVRG"
AUTOMATICS = (AUTOMATIC, AUTOMATIC_SVRG)
UNBIASED = (UNIFORM, DOUBLE, IMPORTANCE, EQUAL, PROPORTIONAL, NEYMAN, SVRG, BOTH, *AUTOMATICS)


@functools.cache
def _plan(method: str, loss_fn, compared, batch_size: int, every: int):
    """The plan of a method, and what its optimizer needs besides; one for all runs."""
    strata = {EQUAL: "equal", PROPORTIONAL: "proportional", NEYMAN: "neyman"}
    if method == FOUND:
        return training.remove_redundancy(compared), None
    snapshots = training.snapshots(loss_fn, every=every)
    if method == SVRG:
        return snapshots
    if method == AUTOMATIC_SVRG:  # a look is cheap, and so is a snapshot beside what it saves
        return training.snapshots(loss_fn, every=max(50, every // 12), automatic=True)
    if method == BOTH:
        strata, _ = _plan(PROPORTIONAL, loss_fn, compared, batch_size, every)
        return training.combined(strata, snapshots.plan), snapshots.extras
    options: dict[str, Any] = {"first": every if method == AUTOMATIC else min(every, 50)}
    options |= {"every": every, "dim": 64}
    if method == AUTOMATIC:  # a look is cheap and refreshes become rare, so it looks more often
        options |= {"first": max(50, every // 5), "every": max(50, every // 2)}
        options |= {"num_clusters": batch_size, "allocation": "proportional"}
    options["automatic"] = method == AUTOMATIC
    if method in (IMPORTANCE, AUTOMATIC):
        return training.resample(loss_fn, **options), None
    if method in strata:
        clusters = batch_size if method in (EQUAL, PROPORTIONAL) else max(2, batch_size // 2)
        allocation: Any = strata[method]
        plan = training.resample(loss_fn, num_clusters=clusters, allocation=allocation, **options)
        return plan, None
    return None, None


def _sampler(problem: Problem, method: str, batch_size: int):
    if method == KNOWN:
        _, numbers = np.unique(problem.groups, return_inverse=True)
        return sampling.redundancy_removed(numbers, batch_size)
    size = 2 * batch_size if method == DOUBLE else batch_size
    return sampling.uniform(len(problem.groups), size)


@functools.cache
def _optimizer(method: str):
    sgd = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1, momentum=MOMENTUM)
    return (
        optax.chain(optim.svrg(), sgd)
        if method in (SVRG, BOTH, AUTOMATIC_SVRG)
        else optax.chain(sgd)
    )


def run_once(
    problem: Problem,
    method: str,
    rate: float,
    *,
    seed: int,
    batch_size: int,
    steps: int,
    evaluate_every: int,
    refresh_every: int,
    watch: str,
) -> Curve:
    """One run from its start; the clock stops while ``watch`` is evaluated.

    ``watch`` is ``"accuracy"`` on the test set, or the mean ``"loss"`` over the training set.
    """
    optimizer = _optimizer(method)
    plan, extras = _plan(method, problem.loss_fn, problem.compared, batch_size, refresh_every)
    state = training.init(
        problem.init(jax.random.key(seed)),
        optimizer,
        _sampler(problem, method, batch_size),
        key=jax.random.key(1000 + seed),
    )
    state.opt_state[-1].hyperparams["learning_rate"] = jnp.float32(rate)  # an argument, no constant

    def evaluate(params):
        on_test = problem.evaluate(params, problem.test)
        watched = on_test if watch == "accuracy" else problem.evaluate(params, problem.train)
        return {"value": watched[watch], "test_loss": on_test["loss"]}

    try:
        _, records = training.train(
            problem.loss_fn,
            optimizer,
            state,
            problem.train,
            steps,
            plan=plan,
            extras=extras,
            evaluate=evaluate,
            evaluate_every=evaluate_every,
            log_every=evaluate_every,
        )
    except FloatingPointError:  # a rate that is too high: it reaches nothing
        nothing = np.zeros(0)
        return Curve(nothing, nothing, nothing, nothing, 0.0, [])
    return _curve(records)


def fastest(curves: list[Curve]) -> Curve:
    """Of the same run several times, the least time to every point."""
    if not curves[0].seconds.size:
        return curves[0]
    least = min(curves, key=lambda curve: curve.seconds[-1])
    return least._replace(seconds=np.min([curve.seconds for curve in curves], axis=0))


def _curve(records: list[dict[str, Any]]) -> Curve:
    rows, clock = [], 0.0
    for record in records:
        if record["event"] in ("train", "refresh"):
            clock += record["took"]
        if record["event"] == "evaluate":
            rows.append((record["step"], clock, record["value"], record["test_loss"]))
    refreshes = [record for record in records if record["event"] == "refresh"]
    took = sum(record["took"] for record in refreshes)
    steps, seconds, values, test_losses = np.array(rows).T
    return Curve(steps, seconds, values, test_losses, took, refreshes)
