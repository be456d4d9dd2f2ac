"""What happens to the variance of mini-batch gradients while a network learns?

All estimators are measured along one trajectory, that of plain SGD, which the measurement does not
change: plain batches (SG-B) and ones of twice the size, the published clusters (GC), clusters of
sketches of the gradients with equal and with Neyman draws, importance sampling by norm, and SVRG.
Clusters and snapshots are made anew every so many steps and grow old in between; the variances are
exact, over all examples. Average variance is that per weight; normalised variance is variance over
second moment, 1 for pure noise.

An MLP (64-128-128-10) on the handwritten digits. At size full: an MLP (784-256-256-10) on 10,000
images of MNIST, and a small CNN on 5,000 of CIFAR-10, as they are and with 10 of them 1,000 times.

Presets:
    quick: 30 s on 2 cores; digits, 1,500 steps, refreshed every 300
    full: 20 min on 2 cores; MNIST, 5,000 steps, CIFAR-10, 2,000 (JAXROBUST_DATA)
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from experiments import gradient_estimators as estimators
from experiments import gradient_variance_networks_claims as told
from experiments import gradient_variance_networks_plots, silent, small_networks
from experiments.gradient_estimators import Moments
from experiments.gradient_variance_networks_claims import Path
from experiments.report import Result
from jaxrobust import clustering, data

TOUR = False
CHUNK = 128  # examples whose gradients are formed at once
PASSES = 3  # of the published clustering


class Problem(NamedTuple):
    """A network at its start, and its data."""

    loss_fn: Callable[[Any, Any], jax.Array]
    params: Any
    data: small_networks.Data
    steps: int


@dataclasses.dataclass(frozen=True)
class Config:
    """Problems, training, and when is measured."""

    seed: int = 0
    """Of the weights, the batches and the clusters."""
    problems: tuple[str, ...] = ("digits",)
    """Of `digits`, `mnist`, `cifar10` and `cifar10 with copies`."""
    examples: int = 10_000
    """At most so many of MNIST, half as many of CIFAR-10."""
    steps: int = 1_500
    """Training steps on digits and MNIST."""
    cifar_steps: int = 2_000
    """Training steps on CIFAR-10."""
    every: int = 100
    """Steps between measurements."""
    refresh: int = 300
    """Steps between refreshes of clusters and snapshots."""
    batch: int = 64
    """Examples of a batch, and clusters."""

    def __post_init__(self):
        for name in ("steps", "cifar_steps", "every", "refresh", "batch", "examples"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} must be at least 2, got {getattr(self, name)}")
        used = {"cifar_steps" if "cifar10" in name else "steps" for name in self.problems}
        for name in (*sorted(used), "refresh"):
            value = getattr(self, name)
            if value % self.every:
                raise ValueError(
                    f"{name} must be a multiple of every, got {value} and {self.every}"
                )
            if name != "refresh" and value < 4 * self.every:
                raise ValueError(f"{name} must be at least 4 times every, got {value}")
        if not self.problems or set(self.problems) - set(told.PROBLEMS):
            raise ValueError(f"problems must be of {told.PROBLEMS}, got {self.problems}")

    def check(self):
        """Reads the data sets that are not embedded."""
        for name in self.problems:
            if name != "digits":
                load(name)


PRESETS = {
    "full": Config(problems=told.PROBLEMS[1:], steps=5_000, every=250, refresh=500),
}


def run(config: Config, progress=silent) -> Result:
    """Trains every network, and measures all estimators on the way."""
    found, seconds = {}, {}
    for number, name in enumerate(config.problems):
        progress(number / len(config.problems), name)
        begin = time.perf_counter()
        found[name] = measure(config, make(config, name), name, progress)
        seconds[name] = time.perf_counter() - begin
    return Result(
        summary=told.summarise(found),
        claims=told.claims(found),
        series={name: path._asdict() for name, path in found.items()},
        tables=told.tables(config, found),
        words=told.WORDS,
        wall_time=seconds,
    )


def load(name: str) -> data.Dataset:
    """The data set of a problem."""
    if name == "digits":
        return data.digits(test_fraction=0.0)
    return data.mnist() if name == "mnist" else data.cifar10()


def make(config: Config, name: str) -> Problem:
    """The network of a problem at its start, and its data."""
    dataset = load(name)
    generator = np.random.default_rng(config.seed)
    x, y = np.asarray(dataset.x_train), np.asarray(dataset.y_train)
    if name in ("digits", "mnist"):
        chosen = generator.permutation(len(y))[: config.examples]
        x = x.reshape(len(x), -1)
        width = 128 if name == "digits" else 256
        params = small_networks.mlp((x.shape[1], width, width, 10), config.seed)
        examples = (jnp.asarray(x[chosen]), jnp.asarray(y[chosen]))
        return Problem(small_networks.mlp_loss, params, examples, config.steps)
    chosen = generator.permutation(len(y))[: config.examples // 2]
    if name == "cifar10 with copies":
        chosen = np.concatenate([chosen, np.repeat(chosen[:10], config.examples // 10)])
    params = small_networks.cnn((3, 16, 32), 32, 10, config.seed)
    examples = (jnp.asarray(x[chosen] - 0.5), jnp.asarray(y[chosen]))
    return Problem(small_networks.cnn_loss, params, examples, config.cifar_steps)


class Refreshed(NamedTuple):
    """What is made anew now and then."""

    snapshot: Any  # weights
    published: jax.Array  # assignments (N,)
    sketched: jax.Array  # assignments (N,)
    spreads: jax.Array  # (K,): those of the sketches, which Neyman draws go by


def measure(config: Config, problem: Problem, name: str, progress=silent) -> Path:
    """Variances along the trajectory."""
    rows: list[dict[str, Any]] = []
    kept: list[Refreshed] = []

    def observe(step: int, params: Any) -> None:
        if step:
            progress(f"{name}: step {step}")
            rows.append({"step": step, **measure_point(config, problem, params, kept[-1])})
        if step % config.refresh == 0:
            kept.append(refresh(config, problem, params, step, kept[-1] if kept else None))

    train(config, problem, observe)
    names = list(rows[0]["average"])
    return Path(
        steps=np.array([row["step"] for row in rows]),
        loss=np.array([row["loss"] for row in rows]),
        average={n: np.array([row["average"][n] for row in rows]) for n in names},
        normalised={n: np.array([row["normalised"][n] for row in rows]) for n in names},
    )


def train(config: Config, problem: Problem, observe: Callable[..., None] | None = None) -> Any:
    """Plain SGD; the last weights."""
    return small_networks.train(
        problem.loss_fn, problem.params, problem.data, steps=problem.steps, every=config.every,
        batch_size=config.batch, learning_rate=0.02, momentum=0.5, weight_decay=5e-4,
        seed=config.seed, observe=observe,
    )  # fmt: skip


def refresh(
    config: Config, problem: Problem, params: Any, step: int, last: Refreshed | None = None
) -> Refreshed:
    """Clusters by both methods, and a snapshot; the published ones go on from the last."""
    key = jax.random.fold_in(jax.random.key(config.seed), step)
    cluster = functools.partial(
        clustering.gradient_clusters, problem.loss_fn, params, problem.data, config.batch, key=key
    )
    start = "zero" if last is None else last.published
    published = cluster(method="rank1", max_passes=PASSES, init=start)
    sketched = cluster(method="sketch")
    return Refreshed(params, published.assignments, sketched.assignments, sketched.spreads)


def measure_point(config: Config, problem: Problem, params: Any, made: Refreshed) -> dict[str, Any]:
    """Average and normalised variances at these weights, and the mean loss."""
    loss, center = mean_gradient(problem, params)
    at = lambda assigned: moments(problem, params, assigned, center, config.batch)
    published, sketched = at(made.published), at(made.sketched)
    differences = of_differences(config, problem, params, center, made)
    variances = {
        **estimators.of_all(published, config.batch),
        estimators.GC: estimators.equal(published, config.batch),
        told.SKETCHED: estimators.equal(sketched, config.batch),
        told.SKETCHED_PROPORTIONAL: estimators.proportional(sketched, config.batch),
        told.SKETCHED_NEYMAN: with_shares(sketched, made.spreads, config.batch),
        told.SKETCHED_BOTH: estimators.neyman_with_importance(sketched, config.batch),
        estimators.SVRG: float(differences.variance) / config.batch,
        told.SKETCHED_SVRG: estimators.equal(differences, config.batch),
    }
    size = len(center)
    return {
        "loss": loss,
        "average": {name: value / size for name, value in variances.items()},
        "normalised": {
            name: estimators.normalised(value, published) for name, value in variances.items()
        },
    }


def with_shares(m: Moments, spreads: jax.Array, batch: int) -> float:
    """Variance of draws in the shares that were best for other, older spreads.

    Of the draws a tenth is in proportion to the sizes, as `sampling.stratified` has it.
    """
    sizes = np.asarray(m.sizes, np.float64)
    wanted = np.sqrt(sizes * np.asarray(spreads, np.float64))
    shares = 0.9 * wanted / max(wanted.sum(), 1e-30) + 0.1 * sizes / sizes.sum()
    has = sizes > 0
    terms = sizes[has] * np.asarray(m.spreads, np.float64)[has] / shares[has]
    return float(np.sum(terms) / (batch * sizes.sum() ** 2))


def moments(
    problem: Problem,
    params: Any,
    assigned: jax.Array,
    center: jax.Array,
    count: int,
    snapshot: Any = None,
) -> Moments:
    """Of the gradients, or of their differences to those at a snapshot, and of these clusters."""
    loss_fn, examples = problem.loss_fn, problem.data
    places = small_networks.chunks(len(examples[1]), CHUNK)
    parts = (
        sums_of_chunk(loss_fn, params, snapshot, examples, assigned, place, center, count)
        for place in places
    )
    total = functools.reduce(functools.partial(jax.tree.map, jnp.add), parts)
    return estimators.summarize(total, assigned, center)


@functools.partial(jax.jit, static_argnums=(0, 7))
def sums_of_chunk(
    loss_fn: Any,
    params: Any,
    snapshot: Any,
    examples: Any,
    assigned: jax.Array,
    place: jax.Array,
    center: jax.Array,
    count: int,
) -> estimators.Sums:
    """The sums over the examples at some places, of which -1 are left out."""
    batch = jax.tree.map(lambda leaf: leaf[place], examples)
    found = flat_gradients(loss_fn, params, batch)
    if snapshot is not None:
        found = found - flat_gradients(loss_fn, snapshot, batch)
    return estimators.sums(found, center, jnp.where(place >= 0, assigned[place], -1), count)


def flat_gradients(loss_fn: Any, params: Any, batch: Any) -> jax.Array:
    """The gradients of the examples of a batch, ``(n, d)``."""
    one = lambda example: jax.flatten_util.ravel_pytree(jax.grad(loss_fn)(params, example))[0]
    return jax.vmap(one)(batch)


def mean_gradient(problem: Problem, params: Any) -> tuple[float, jax.Array]:
    """Mean loss, and mean gradient as a vector."""
    loss, gradient = small_networks.mean_loss_and_gradient(problem.loss_fn, params, problem.data)
    return float(loss), jax.flatten_util.ravel_pytree(gradient)[0]


def of_differences(
    config: Config, problem: Problem, params: Any, center: jax.Array, made: Refreshed
) -> Moments:
    """Of what the control variate of earlier weights leaves, in the clusters by sketches."""
    difference = center - mean_gradient(problem, made.snapshot)[1]
    return moments(problem, params, made.sketched, difference, config.batch, snapshot=made.snapshot)


def plot(result: Result) -> dict:
    """A figure for every problem."""
    return {
        name.replace(" ", "-"): gradient_variance_networks_plots.path(name, series)
        for name, series in result.series.items()
    }
