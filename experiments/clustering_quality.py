"""How good are clusters of gradients that are found in one pass, and what do they cost?

Clusters of examples with alike gradients are good if J, the sum of the squared distances of all
pairs within clusters, is small: it is N^2 times the variance of a batch with one example of each.
J is measured on the true gradients, for every way to find clusters: Hartigan's exact moves on all
inner products of the gradients (the reference, best of several seeds), on sketches of 64 to 256
numbers from one pass over the data, with and without landmarks, on sketches and then once with the
gradients themselves, by means and reassignments alone, and by the published method (centers of rank
one).

An MLP (64-128-128-10) on the handwritten digits, partly trained; at size full one of 784-256-256-10
on MNIST. Then what a refresh of the clusters costs, in epochs of plain training, and a look at
whose gradients are alike.

Presets:
    quick: 50 s on 2 cores; 1,797 digits, 200 steps, 8 to 128 clusters
    full: 9 min on 2 cores and 8 GB; MNIST (JAXROBUST_DATA), 64 clusters of 10,000 and 60,000
"""

import dataclasses
import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import clustering_quality_claims as told
from experiments import clustering_quality_plots, silent, small_networks
from experiments.clustering_quality_claims import (
    EXACT,
    HARTIGAN,
    PLAIN,
    RANDOM,
    RANK_ONE,
    REFINED,
    SHORT,
    WARM,
    Quality,
    Times,
    sketched,
)
from experiments.report import Result
from experiments.small_networks import mlp_loss
from jaxrobust import clustering, data, per_example

TOUR = False
DIMS = (64, 128, 256)  # of the sketches
DIM = 256  # of the usual one
BATCH = 64
EPOCH_BATCH = 128
SKETCH_BATCH = 2048  # examples that are sketched at once
EXACT_BATCH = 256  # examples of one cluster whose gradients are summed at once
SHOWN = 8  # clusters in the picture, and members of each
ROUNDS = 9  # of a refresh, in turn with epochs
JITTER = 1e-9  # relative: the Gram matrix is singular, and rounding makes it indefinite


@dataclasses.dataclass(frozen=True)
class Config:
    """Data, training, and numbers of clusters."""

    seed: int = 0
    """Of the initial weights and the batches."""
    dataset: str = "digits"
    """`digits` or `mnist`."""
    examples: int = 1_797
    """Of which J is measured; the time of a refresh is of all there are."""
    steps: int = 200
    """Training steps before the gradients are clustered."""
    clusters: tuple[int, ...] = (8, 32, 64, 128)
    """Numbers of clusters."""
    starts: int = 5
    """Seeds of Hartigan's method, of which the best is the reference."""
    seeds: int = 3
    """Seeds of the methods with sketches."""
    exact: int = 64
    """Largest number of clusters for the methods whose passes cost as many forward passes."""
    timed: int = 64
    """Number of clusters whose refresh is timed."""

    def __post_init__(self):
        for name, least in (("steps", 1), ("starts", 1), ("seeds", 1), ("timed", 1), ("exact", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.dataset not in ("digits", "mnist"):
            raise ValueError(f"dataset must be 'digits' or 'mnist', got {self.dataset!r}")
        if not self.clusters or min(self.clusters) < 2 or max(self.clusters) > self.examples:
            raise ValueError(f"clusters must be 2 to {self.examples}, got {self.clusters}")

    def check(self):
        """Reads the data set, if it is not embedded."""
        load(self)


PRESETS = {
    "full": Config(
        dataset="mnist", examples=10_000, steps=1_000, clusters=(64,), starts=3, exact=64
    )
}


class Problem(NamedTuple):
    """A network in training, and the data whose gradients are clustered."""

    params: Any
    data: small_networks.Data
    earlier: Any  # params at half of the steps, whose clusters are the last ones


def load(config: Config) -> data.Dataset:
    """All examples in the training part."""
    if config.dataset == "mnist":
        return data.mnist()
    return data.digits(test_fraction=0.0)


def run(config: Config, progress=silent) -> Result:
    """J of every method and number of clusters, times, and the members of some clusters."""
    begin = time.perf_counter()
    everything = prepare(config)
    few = small_networks.first(everything.data, config.examples)
    progress(0.1, "inner products of all pairs")
    gram = jax.jit(per_example.gram(mlp_loss))(everything.params, few)
    gram = np.asarray(gram, np.float64)
    points = points_of(gram)
    problem = everything._replace(data=few)
    found: dict[int, Quality] = {}
    for number, count in enumerate(config.clusters):
        progress(0.2 + 0.5 * number / len(config.clusters), f"{count} clusters")
        found[count] = quality(config, problem, gram, points, count)
    measured = time.perf_counter()
    progress(0.75, "time of a refresh")
    times = refresh_times(config, everything)
    seconds = {"quality": measured - begin, "times": time.perf_counter() - measured}
    return Result(
        summary=told.summarise(found, times),
        claims=told.claims(config, found, times),
        series={
            "J": {str(count): q.ratios for count, q in found.items()},
            "guide": {str(count): q.guide for count, q in found.items()},
            "seconds": times.seconds,
            "images": members(config, problem),
        },
        tables=told.tables(config, found, times),
        words=told.WORDS,
        wall_time=seconds,
    )


def prepare(config: Config) -> Problem:
    """The network after some steps of SGD, and all examples."""
    dataset = load(config)
    x = jnp.asarray(dataset.x_train).reshape(len(dataset.x_train), -1)
    examples = (x, jnp.asarray(dataset.y_train))
    width = 128 if config.dataset == "digits" else 256
    params = small_networks.mlp((x.shape[1], width, width, 10), config.seed)
    seen: dict[int, Any] = {}
    half = config.steps // 2
    params = small_networks.train(
        mlp_loss, params, examples, steps=config.steps, every=1 if config.steps % 2 else half,
        batch_size=BATCH, learning_rate=0.1, seed=config.seed, observe=seen.__setitem__,
    )  # fmt: skip
    return Problem(params, examples, seen[half])


def points_of(gram: np.ndarray) -> jax.Array:
    """Points with these inner products, ``(N, N)``: a Cholesky factor."""
    jitter = JITTER * np.mean(np.diag(gram))
    for power in range(8):
        try:
            factor = np.linalg.cholesky(gram + 10**power * jitter * np.eye(len(gram)))
            return jnp.asarray(factor, jnp.float32)
        except np.linalg.LinAlgError:
            continue
    raise ValueError("the inner products are not those of any points, by far")


def objective(gram: np.ndarray, assignments: Any, num_clusters: int) -> float:
    """J of a partition, by the inner products of the true gradients."""
    members = np.eye(num_clusters)[np.asarray(assignments)]
    sizes, squares = members.sum(axis=0), members.T @ np.diag(gram)
    of_sums = np.sum(members * (gram @ members), axis=0)
    return float(np.sum(sizes * squares - of_sums))


def methods(config: Config, problem: Problem, count: int) -> dict[str, Callable[..., Any]]:
    """The ways to find clusters with the gradients at hand: key -> clustering."""

    def cluster(method, key, **options):
        return clustering.gradient_clusters(
            mlp_loss, problem.params, problem.data, count, key=key, method=method,
            batch_size=SKETCH_BATCH, **options,
        )  # fmt: skip

    def refined(key):
        start = cluster("sketch", key, dim=DIM).assignments
        return cluster("exact", key, init=start, max_passes=1)

    found: dict[str, Callable[..., Any]] = {
        sketched(dim): lambda key, dim=dim: cluster("sketch", key, dim=dim) for dim in DIMS
    }
    found[SHORT] = lambda key: cluster("sketch", key, dim=96, num_landmarks=16, tolerance=0.01)
    found[PLAIN] = lambda key: cluster("sketch", key, dim=DIM, num_landmarks=0)
    if count <= config.exact:
        found |= {REFINED: refined, EXACT: lambda key: cluster("exact", key)}
    found[WARM] = lambda key: cluster(
        "sketch", key, dim=128, init=last_clusters(problem, count, key), max_passes=1
    )
    return {**found, RANK_ONE: lambda key: cluster("rank1", key)}


def last_clusters(problem: Problem, count: int, key: jax.Array) -> jax.Array:
    """Assignments found at the earlier params."""
    return clustering.gradient_clusters(
        mlp_loss, problem.earlier, problem.data, count, key=key, dim=128, batch_size=SKETCH_BATCH
    ).assignments


def quality(
    config: Config, problem: Problem, gram: np.ndarray, points: jax.Array, count: int
) -> Quality:
    """J of every method, over that of the best Hartigan run, and the guide lines."""
    measure = lambda assignments: objective(gram, assignments, count)
    keys = jax.random.split(jax.random.key(config.seed), max(config.starts, config.seeds))
    reference = [measure(one_by_one(points, count, key)) for key in keys[: config.starts]]
    found = {
        name: [measure(method(key).assignments) for key in keys[: config.seeds]]
        for name, method in methods(config, problem, count).items()
    }
    even = np.random.default_rng(config.seed).permutation(len(gram)) % count
    best = min(reference)
    whole = objective(gram, np.zeros(len(gram), int), 1)
    relative = {HARTIGAN: reference, **found, RANDOM: [measure(even)]}
    return Quality(
        {name: np.array(values) / best for name, values in relative.items()},
        whole / count / best,
    )


def one_by_one(points: jax.Array, count: int, key: jax.Array) -> jax.Array:
    """Assignments by Hartigan's method, which moves one point at a time.

    From where moves in blocks end: it gets as low as from the start, sooner.
    """
    start = clustering.fit(points, count, key=key).assignments
    return clustering.fit(
        points, count, key=key, init=start, block_size=1, tolerance=1e-4, max_passes=30
    ).assignments


@jax.jit
def plain_epoch(params: Any, data: Any, order: Any, rate: jax.Array) -> Any:
    """SGD without momentum, which is the least that training takes; ``order (steps, batch)``."""

    def step(params, rows):
        batch = jax.tree.map(lambda leaf: leaf[rows], data)
        mean = lambda p: jnp.mean(jax.vmap(mlp_loss, (None, 0))(p, batch))
        return jax.tree.map(lambda p, g: p - rate * g, params, jax.grad(mean)(params)), None

    return jax.lax.scan(step, params, order)[0]


def refresh_times(config: Config, problem: Problem) -> Times:
    """Seconds of a refresh by each method, and of an epoch of training; compiled before."""
    number = len(problem.data[1])
    order = np.random.default_rng(0).permutation(number)
    order = jnp.asarray(order[: number // EPOCH_BATCH * EPOCH_BATCH].reshape(-1, EPOCH_BATCH))
    epoch = lambda: plain_epoch(problem.params, problem.data, order, jnp.float32(0.1))
    key = jax.random.key(config.seed)
    chosen = methods(config, problem, config.timed)
    last = last_clusters(problem, config.timed, key)
    chosen[WARM] = lambda key: clustering.gradient_clusters(
        mlp_loss, problem.params, problem.data, config.timed, key=key, dim=128,
        batch_size=SKETCH_BATCH, init=last, max_passes=1,
    )  # fmt: skip
    if number > config.examples:  # their passes would take minutes
        chosen = {n: method for n, method in chosen.items() if n not in (EXACT, REFINED)}
    all_epochs, seconds, ratios = [], {}, {}
    for name, method in chosen.items():
        once = lambda method=method: method(key)
        for function in (epoch, once):
            jax.block_until_ready(function())
        # They take turns, so that a machine that is slow for a while is slow for both.
        epochs, found = [timed(epoch)], []
        for _ in range(ROUNDS):
            found.append(timed(once))
            epochs.append(timed(epoch))
        all_epochs += epochs
        seconds[name] = float(np.median(found))
        beside = [(before + after) / 2 for before, after in itertools.pairwise(epochs)]
        ratios[name] = float(np.median(np.divide(found, beside)))
    short, long = (
        objective_of_many(problem, chosen[name](key).assignments, config.timed)
        for name in (SHORT, sketched(DIM))
    )
    return Times(number, config.timed, float(np.median(all_epochs)), seconds, ratios, short / long)


def objective_of_many(problem: Problem, assignments: Any, num_clusters: int) -> float:
    """J of the true gradients, from their norms and the sum over each cluster: no pairs."""
    order = np.argsort(np.asarray(assignments), kind="stable")
    sizes = np.bincount(assignments, minlength=num_clusters)
    total = 0.0
    for members in np.split(order, np.cumsum(sizes)[:-1]):
        squares, sums = 0.0, None
        for begin in range(0, len(members), EXACT_BATCH):
            part = members[begin : begin + EXACT_BATCH]
            rows = np.resize(part, EXACT_BATCH)  # the same shape every time
            weights = (np.arange(EXACT_BATCH) < len(part)).astype(np.float32)
            batch = jax.tree.map(lambda leaf, rows=rows: leaf[rows], problem.data)
            of_part, gradient = _squares_and_sum(problem.params, batch, weights)
            flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])
            squares += float(of_part)
            sums = flat.astype(np.float64) + (0.0 if sums is None else sums)
        if sums is not None:
            total += len(members) * squares - float(np.sum(sums**2))
    return total


@jax.jit
def _squares_and_sum(params: Any, batch: Any, weights: jax.Array) -> tuple[jax.Array, Any]:
    """Weighted sums over examples: of the squared norms of their gradients, and of these."""
    norms = per_example.norms(mlp_loss)(params, batch)
    summed = lambda params: jnp.sum(weights * jax.vmap(mlp_loss, (None, 0))(params, batch))
    return jnp.sum(weights * norms**2), jax.grad(summed)(params)


def timed(function: Callable[[], Any]) -> float:
    """Seconds."""
    begin = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - begin


def members(config: Config, problem: Problem) -> dict[str, Any]:
    """Images, labels and sizes of some clusters: members at random."""
    count = min(64, len(problem.data[1]) // 8)
    found = clustering.gradient_clusters(
        mlp_loss, problem.params, problem.data, count, key=jax.random.key(config.seed), dim=DIM
    )
    assigned, sizes = np.asarray(found.assignments), np.asarray(found.sizes)
    # From the largest to small ones, but with as many members as are shown.
    order = np.argsort(-sizes)
    order = order[sizes[order] >= SHOWN]
    chosen = order[np.linspace(0, len(order) - 1, min(SHOWN, len(order))).round().astype(int)]
    generator = np.random.default_rng(config.seed)
    rows = [generator.permutation(np.flatnonzero(assigned == k))[:SHOWN] for k in chosen]
    x, y = (np.asarray(leaf) for leaf in problem.data)
    side = int(np.sqrt(x.shape[1]))
    spread = np.asarray(found.spreads)[chosen] / sizes[chosen]
    return {
        "pixels": x[np.array(rows)].reshape(len(rows), SHOWN, side, side),
        "labels": y[np.array(rows)],
        "sizes": sizes[chosen],
        "share of squared norm": 1 - spread / (spread + np.sum(found.centers[chosen] ** 2, 1)),
        "purity": [np.bincount(y[assigned == k]).max() / sizes[k] for k in chosen],
    }


def plot(result: Result) -> dict:
    """J over the number of clusters, and the members of some."""
    return {
        "objective": clustering_quality_plots.objective(result),
        "members": clustering_quality_plots.members(result),
    }
