"""Are copies in a data set found by the gradients of its examples?

Copies that carry the same training signal cost steps and bring nothing. Here copies are planted in
a real set, exact ones and ones with pixel noise, and `clustering.duplicates` looks for groups that
coincide: in short sketches of the gradients, from one pass over the data, at the initial weights
and after some training, and in the inputs themselves. What is found is held against what was
planted, pair by pair: precision is the share of the pairs put together that are copies of one
image, recall the share of the pairs of copies that are put together. Distances are 1 - cos, for
the size of a gradient says how well an example is learned, not what it teaches. And as training
does it: `training.remove_redundancy` chooses the tolerance by itself, before the first step.

An MLP (64-128-128-10) on the handwritten digits; at size full one of 784-256-256-10 on MNIST with
50 images of 360 copies each, the set-up of our specification.

Presets:
    quick: 35 s on 2 cores; 20 digits of 20 copies each among 1,000 others, 500 steps
    full: 2 min on 2 cores; MNIST (JAXROBUST_DATA), 50 images of 360 copies among 2,000 others
"""

import dataclasses
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import redundancy_claims as told
from experiments import redundancy_plots, silent, small_networks
from experiments.redundancy_claims import INPUTS, Detection, Found, after
from experiments.report import Result
from experiments.small_networks import mlp_loss
from jaxrobust import clustering, data, sampling, training

TOUR = False

BATCH, EPOCH_BATCH = 64, 128
LEARNING_RATE, MOMENTUM = 0.01, 0.9
QUANTILES = (0.05, 0.5, 0.95)
SHOWN, MEMBERS = 6, 8  # groups in the picture, and members of each


@dataclasses.dataclass(frozen=True)
class Config:
    """Data, copies, training and sketches."""

    seed: int = 0
    """Of the choice of images, the noise, the initial weights and the batches."""
    dataset: str = "digits"
    """`digits` or `mnist`."""
    originals: int = 20
    """Images that have copies."""
    copies: int = 20
    """Of each, the image itself among them."""
    distinct: int = 1_000
    """Other images."""
    noises: tuple[float, ...] = (0.0, 0.02, 0.1)
    """Standard deviations of the pixel noise of the copies, grey values being 0 to 1."""
    times: tuple[int, ...] = (0, 100, 500)
    """Training steps after which copies are sought."""
    dim: int = 256
    """Length of the sketches."""
    probes: int = 500
    """Random examples among which large groups are sought, for the fast search."""
    tolerance: float = 0.02
    """Largest distance 1 - cos within the groups that are reported."""

    def __post_init__(self):
        least = {"originals": 2, "copies": 2, "distinct": 2, "dim": 1, "probes": 1}
        if not 0 < self.tolerance < 2:
            raise ValueError(f"tolerance must be between 0 and 2, got {self.tolerance}")
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} must be at least {bound}, got {getattr(self, name)}")
        if self.dataset not in ("digits", "mnist"):
            raise ValueError(f"dataset must be 'digits' or 'mnist', got {self.dataset!r}")
        if not self.noises or min(self.noises) < 0:
            raise ValueError(f"noises must be 0 or more, got {self.noises}")
        step = min((t for t in self.times if t), default=1)
        if 0 not in self.times or any(t % step for t in self.times):
            raise ValueError(f"times must be 0 and multiples of the next, got {self.times}")
        available = 1_797 if self.dataset == "digits" else 60_000
        if self.originals + self.distinct > available:
            raise ValueError(
                f"originals and distinct must be at most {available} images, got "
                f"{self.originals + self.distinct}"
            )

    def check(self):
        """Reads the data set, if it is not embedded."""
        load(self)


PRESETS = {
    "full": Config(
        dataset="mnist",
        originals=50,
        copies=360,
        distinct=2_000,
        noises=(0.0, 0.02),
        dim=144,
        tolerance=0.1,
    )  # fmt: skip
}


class Planted(NamedTuple):
    """A data set with copies."""

    data: small_networks.Data  # (N, pixels) and labels
    source: np.ndarray  # (N,): which image each is, or is a copy of


def load(config: Config) -> data.Dataset:
    """The images without copies."""
    return data.mnist() if config.dataset == "mnist" else data.digits(test_fraction=0.0)


def run(config: Config, progress=silent) -> Result:
    """Plants copies with each noise, seeks them at each time, and looks at the largest groups."""
    dataset = load(config)
    found: Found = {}
    distances, norms, report, seconds = {}, {}, {}, {}
    by_plan: told.ByPlan = {}
    for number, noise in enumerate(config.noises):
        progress(number / len(config.noises), f"noise {noise:g}")
        planted = plant(config, dataset, noise)
        sketches, params = sketches_on_the_way(config, planted)
        points = {INPUTS: planted.data[0], **sketches}
        found[noise] = {
            name: [detect(config, p, planted.source, t) for t in told.tolerances(config)]
            for name, p in points.items()
        }
        distances[noise] = {
            name: distance_quantiles(p, planted.source) for name, p in points.items()
        }
        by_plan[noise] = found_by_plan(config, planted)
        norms[noise] = {name: norm_of_copies(p, planted.source) for name, p in sketches.items()}
        if noise == told.USUAL or not report:
            report = groups(config, planted, sketches)
            seconds = detection_times(config, planted, params)
    by_plan[None] = found_by_plan(config, without_copies(plant(config, dataset, 0.0)))
    return Result(
        summary=told.summarise(config, found, report),
        claims=[
            *told.claims(config, found, distances, norms),
            *told.plan_claims(config, found, by_plan),
        ],
        series={
            "tolerance": told.tolerances(config),
            "detection": {str(noise): by for noise, by in found.items()},
            "distances": {str(noise): by for noise, by in distances.items()},
            "norms": {str(noise): by for noise, by in norms.items()},
            "groups": report,
            "seconds": seconds,
        },
        tables=[
            *told.tables(config, found, distances, norms, report, seconds),
            told.plan_table(by_plan),
        ],
        words=told.WORDS,
        wall_time={"search and training (usual noise)": sum(seconds.values())},
    )


def plant(config: Config, dataset: data.Dataset, noise: float) -> Planted:
    """Copies of some images, with pixel noise, and other images, in random order."""
    generator = np.random.default_rng(config.seed)
    x = np.asarray(dataset.x_train).reshape(len(dataset.x_train), -1)
    chosen = generator.permutation(len(x))[: config.originals + config.distinct]
    first = np.repeat(chosen[: config.originals], config.copies)
    source = np.concatenate([first, chosen[config.originals :]])
    images = x[source]
    images[: len(first)] += noise * generator.normal(size=images[: len(first)].shape)
    order = generator.permutation(len(source))
    labels = np.asarray(dataset.y_train)[source]
    return Planted((jnp.asarray(images[order]), jnp.asarray(labels[order])), source[order])


def without_copies(planted: Planted) -> Planted:
    """The images of which there is one."""
    _, places, counts = np.unique(planted.source, return_inverse=True, return_counts=True)
    (rows,) = np.nonzero(counts[places] == 1)
    x, y = planted.data
    return Planted((x[rows], y[rows]), planted.source[rows])


def initial(config: Config, planted: Planted) -> Any:
    """The weights at the start."""
    width = 128 if config.dataset == "digits" else 256
    return small_networks.mlp((planted.data[0].shape[1], width, width, 10), config.seed)


def sketches_on_the_way(config: Config, planted: Planted) -> tuple[dict[str, jax.Array], Any]:
    """Sketches of all gradients at each time, by its name, and the last weights."""
    params = initial(config, planted)
    found = {}

    def observe(step, params):
        if step in config.times:
            found[after(step)] = clustering.gradient_sketches(
                mlp_loss, params, planted.data, key=jax.random.key(config.seed), dim=config.dim
            )

    last = small_networks.train(
        mlp_loss, params, planted.data, steps=max(config.times),
        every=min((t for t in config.times if t), default=1), batch_size=BATCH,
        learning_rate=LEARNING_RATE, momentum=MOMENTUM, seed=config.seed, observe=observe,
    )  # fmt: skip
    return found, last


def detect(config: Config, points: jax.Array, source: np.ndarray, tolerance: float) -> Detection:
    """Groups at this tolerance, held against the truth; by all leaders, and by probes."""
    exact = clustering.duplicates(points, tolerance=tolerance, metric="cosine")
    fast = clustering.duplicates(
        points, tolerance=tolerance, metric="cosine", num_probes=config.probes,
        key=jax.random.key(config.seed),
    )  # fmt: skip
    precision, recall = pairs(np.asarray(exact.assignments), source)
    by_probes = pairs(np.asarray(fast.assignments), source)
    return Detection(precision, recall, *by_probes, int(exact.num_groups))


def found_by_plan(config: Config, planted: Planted) -> told.PlanFound:
    """What `training.remove_redundancy` finds before the first step, by its own tolerance."""
    optimizer = optax.sgd(LEARNING_RATE)
    sampler = sampling.uniform(len(planted.source), BATCH)
    state = training.init(initial(config, planted), optimizer, sampler, key=jax.random.key(1))
    plan = training.remove_redundancy(mlp_loss)
    state, records = training.train(mlp_loss, optimizer, state, planted.data, 1, plan=plan)
    (report,) = [record for record in records if record["event"] == "refresh"]
    groups = np.arange(len(planted.source))  # each by itself, if nothing is found
    if isinstance(state.sampler, sampling.GroupSampler):
        sizes = np.asarray(state.sampler.sizes)
        groups[np.asarray(state.sampler.members)] = np.repeat(np.arange(len(sizes)), sizes)
    precision, recall = pairs(groups, planted.source)
    return told.PlanFound(precision, recall, len(np.unique(groups)), report["tolerance"])


def pairs(groups: np.ndarray, source: np.ndarray) -> tuple[float, float]:
    """Precision and recall over pairs; the precision of no pairs is 1, the recall of none NaN."""
    both = np.stack([groups, source])
    together, found, planted = (
        np.sum(counts * (counts - 1) // 2)
        for counts in (
            np.unique(both, axis=1, return_counts=True)[1],
            np.unique(groups, return_counts=True)[1],
            np.unique(source, return_counts=True)[1],
        )
    )
    recall = float(together / planted) if planted else np.nan
    return (float(together / found) if found else 1.0), recall


def distance_quantiles(points: jax.Array, source: np.ndarray) -> dict[str, Any]:
    """Quantiles of the distances 1 - cos, of the three kinds of pairs."""
    directions = np.asarray(points, np.float64)
    directions = directions / np.maximum(np.linalg.norm(directions, axis=1), 1e-30)[:, None]
    members, counts = np.unique(source, return_counts=True)
    is_copy = np.isin(source, members[counts > 1])
    copied, others = directions[is_copy], directions[~is_copy]
    of_copies = []
    for image in members[counts > 1]:
        mine = directions[source == image]
        of_copies.append((1 - mine @ mine.T)[np.triu_indices(len(mine), 1)])
    nearest = others @ others.T
    np.fill_diagonal(nearest, -1)
    kinds = {
        told.COPIES: np.concatenate(of_copies),
        told.TO_COPIED: 1 - (others @ copied.T).max(axis=1),
        told.TO_DISTINCT: 1 - nearest.max(axis=1),
    }
    return {name: np.quantile(values, QUANTILES) for name, values in kinds.items()}


def norm_of_copies(points: jax.Array, source: np.ndarray) -> float:
    """Mean length of the sketches of images that have copies."""
    members, counts = np.unique(source, return_counts=True)
    is_copy = np.isin(source, members[counts > 1])
    return float(np.mean(np.linalg.norm(np.asarray(points)[is_copy], axis=1)))


def groups(config: Config, planted: Planted, sketches: dict[str, jax.Array]) -> dict[str, Any]:
    """The largest groups at the tolerance of the report: sizes, purity, members."""
    name = after(sorted(config.times)[min(1, len(config.times) - 1)])
    found = clustering.duplicates(sketches[name], tolerance=config.tolerance, metric="cosine")
    assigned = np.asarray(found.assignments)
    sizes = np.bincount(assigned)
    chosen = np.argsort(-sizes, kind="stable")[:SHOWN]
    x, y = (np.asarray(leaf) for leaf in planted.data)
    side = int(np.sqrt(x.shape[1]))
    rows, purity = [], []
    for group in chosen:
        mine = np.flatnonzero(assigned == group)
        rows.append(mine[np.arange(MEMBERS) % len(mine)])
        purity.append(np.unique(planted.source[mine], return_counts=True)[1].max() / len(mine))
    return {
        "when": name,
        "num_groups": int(found.num_groups),
        "num_examples": len(assigned),
        "truth": len(np.unique(planted.source)),
        "sizes": sizes[chosen],
        "purity": np.array(purity),
        "pixels": x[np.array(rows)].reshape(len(chosen), MEMBERS, side, side),
        "labels": y[np.array(rows)],
    }


def detection_times(config: Config, planted: Planted, params: Any) -> dict[str, float]:
    """Seconds of the parts of a search, compiled before, and of an epoch of training."""
    number = len(planted.source)
    key = jax.random.key(config.seed)
    order = np.random.default_rng(0).permutation(number)
    order = order[: number // EPOCH_BATCH * EPOCH_BATCH].reshape(-1, EPOCH_BATCH)
    state = (params, jax.tree.map(jnp.zeros_like, params))
    rates = tuple(jnp.float32(v) for v in (LEARNING_RATE, MOMENTUM, 0))
    sketch = lambda: clustering.gradient_sketches(
        mlp_loss, params, planted.data, key=key, dim=config.dim
    )
    points = sketch()
    search = lambda **options: clustering.duplicates(
        points, tolerance=config.tolerance, metric="cosine", **options
    )
    return {
        told.EPOCH: timed(
            lambda: small_networks.several_steps(mlp_loss, state, planted.data, order, rates)
        ),
        told.SKETCHING: timed(sketch),
        told.LEADERS: timed(search),
        told.PROBES: timed(lambda: search(num_probes=config.probes, key=key)),
    }


def timed(function: Any) -> float:
    """Seconds of a second, third and fourth call, the least."""
    jax.block_until_ready(function())
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        jax.block_until_ready(function())
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def plot(result: Result) -> dict:
    """Precision and recall, distances, and the largest groups."""
    drawn = {
        "detection": redundancy_plots.detection(result),
        "distances": redundancy_plots.distances(result),
        "groups": redundancy_plots.largest_groups(result),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}
