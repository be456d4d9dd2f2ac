"""Do a few trained pairs of domains teach all of them, on real images?

Images come in ten input domains, each with a permutation of pixels of its own (or turned by
multiples of 36 degrees), and are to be named in ten output domains, each with a permutation of the
labels. Each input domain is trained with K outputs, through a middle that all share; then all pairs
are tested, on images that were not trained. In small steps of K the answer changes at once: from
chance to as good as trained, if weights were small at first. From large weights (lazy) it does not.

Twice: by squared error, in double precision, on inputs that are whitened by the principal
components of their own domain. There theory applies: modes of the task are learned one after the
other, when the scalar race says so. And by stochastic gradients of the cross-entropy of raw pixels,
as one would train; there theory has no say.

Presets:
    quick: 105 s on one core; digits (8x8), 20 components, 2 starts
    mnist: 8 min on one core; MNIST at 14x14, 30 components, 2 starts (needs the MNIST
        files)
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.ndimage
import scipy.optimize

from experiments import gated_images_plots, silent
from experiments.claims import Claim
from experiments.report import Result, Table
from jaxrobust import data, gated

TOUR = False
DOMAINS, CLASSES = 10, 10
SWEPT = (1, 2, 3, 4, 5, 7, 9)  # trained outputs of each input
RICH, LAZY = 0.1, 1.5  # gains of orthogonal matrices
SCALES = (0.03, 0.1, 0.3, 0.6, 1.0, 1.5)
AT = 4  # trained outputs where scales are swept and the race is shown
SHARE = 0.25  # of the largest stable rate, from small weights; see `rate_from`
RECORDS = 300
BATCH, MOMENTUM, SGD_RATE = 64, 0.9, 0.05
# Of the cross-entropy: gains of Xavier's uniform matrices.
SGD_GAINS = {"small weights": 0.1, "large weights": 3.0}
KINDS = ("permuted", "turned")
RACE = "Saxe, Sodhani & Lewallen 2022 (arXiv:2207.10430), slides"
OWN = "this library: measured, no paper"
DERIVED = "derived (our specification, section 2)"


@dataclasses.dataclass(frozen=True)
class Config:
    """Data and sizes."""

    seed: int = 0
    """Of domains and starts."""
    source: str = "digits"
    """`digits` or `mnist`."""
    starts: int = 2
    """Random starts."""
    images: int = 1437
    """To learn, at most."""
    components: int = 20
    """Principal components, for the squared error."""
    hidden: int = 64
    """Size of the shared nodes."""
    epochs: int = 1200
    """Of gradient descent, for the squared error."""
    steps: int = 4000
    """Stochastic ones, for the cross-entropy."""

    def check(self):
        """Reads the data set, if it is not embedded."""
        load(self)

    def __post_init__(self):
        if self.source not in ("digits", "mnist"):
            raise ValueError(f"source must be digits or mnist, got {self.source!r}")
        least = {"starts": 1, "images": 100, "components": 10, "hidden": 10, "epochs": RECORDS}
        for name, number in (least | {"steps": 1}).items():
            if getattr(self, name) < number:
                raise ValueError(f"{name} must be at least {number}, got {getattr(self, name)}")


PRESETS = {
    "mnist": Config(source="mnist", images=5_000, components=30, hidden=128, starts=2, steps=6_000)
}


class Images(NamedTuple):
    """Pixels in [0, 1] ``(N, side, side)``, and labels."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


class Domains(NamedTuple):
    """The same images in every input domain, their labels in every output domain."""

    x: np.ndarray  # (M, N, in)
    y: np.ndarray  # (M, N) int
    x_test: np.ndarray
    y_test: np.ndarray


def load(config: Config) -> Images:
    """Digits as they are; MNIST at half of its size."""
    if config.source == "digits":
        found = data.digits()
        square = lambda z: np.asarray(z, float).reshape(-1, 8, 8)
        x, x_test = square(found.x_train), square(found.x_test)
    else:
        found = data.mnist()
        halved = lambda z: np.asarray(z, float).reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4))
        x, x_test = halved(found.x_train[: config.images]), halved(found.x_test[:1_000])
    x, top = x[: config.images], x.max()
    labels = lambda z: np.asarray(z).astype(int)
    y, y_test = labels(found.y_train)[: len(x)], labels(found.y_test)[: len(x_test)]
    return Images(x / top, y, x_test / top, y_test)


def domains(images: Images, kind: str, seed: int) -> Domains:
    """Each input domain permutes pixels or turns images, each output domain permutes labels."""
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(CLASSES) for _ in range(DOMAINS)]
    pixels = [rng.permutation(images.x[0].size) for _ in range(DOMAINS)]

    def seen(x: np.ndarray, domain: int) -> np.ndarray:
        if kind == "permuted":
            return x.reshape(len(x), -1)[:, pixels[domain]]
        angle = 360 * domain / DOMAINS
        turned = scipy.ndimage.rotate(x, angle, axes=(1, 2), reshape=False, order=1)
        return turned.reshape(len(x), -1)

    everywhere = lambda x: np.stack([seen(x, domain) for domain in range(DOMAINS)])
    named = lambda y: np.stack([order[y] for order in orders])
    return Domains(
        everywhere(images.x), named(images.y), everywhere(images.x_test), named(images.y_test)
    )


def whitened(found: Domains, components: int) -> Domains:
    """Principal components of each domain on its own, with mean 0 and variance 1 in training."""
    trained, tested = [], []
    for x, x_test in zip(found.x, found.x_test, strict=True):
        mean = x.mean(axis=0)
        values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
        basis = vectors[:, ::-1][:, :components] / np.sqrt(values[::-1][:components])
        trained.append((x - mean) @ basis)
        tested.append((x_test - mean) @ basis)
    return found._replace(x=np.stack(trained), x_test=np.stack(tested))


def targets(labels: np.ndarray) -> np.ndarray:
    """One-hot with mean 0 over classes."""
    return np.eye(CLASSES)[labels] - 1 / CLASSES


def run(config: Config, progress=silent) -> Result:
    """The race, the sweeps of trained outputs, the sweep of scales."""
    images = load(config)
    seconds: dict[str, float] = {}

    def timed(name: str, share: float, part: Any) -> Any:
        progress(share, name)
        begin = time.perf_counter()
        found = part()
        seconds[name] = time.perf_counter() - begin
        return found

    with jax.enable_x64(True):
        white = whitened(domains(images, "permuted", config.seed), config.components)
        one = timed("race", 0.0, lambda: race(config, white))
        squared = timed("squared error", 0.1, lambda: by_moments(config, white))
        sizes = timed("scales", 0.5, lambda: scales(config, white))
    entropy = {}
    for number, kind in enumerate(KINDS):
        found = domains(images, kind, config.seed)
        entropy[kind] = timed(
            f"cross-entropy, {kind}", 0.6 + 0.2 * number, functools.partial(by_sgd, config, found)
        )
    series = {"race": one, "squared": squared, "scales": sizes, "entropy": entropy,
              "outputs": np.asarray(SWEPT)}  # fmt: skip
    return Result(
        summary=summarise(config, series),
        claims=claims(config, series),
        series=series,
        tables=[sweep_table(series), change_table(series), scale_table(sizes)],
        wall_time=seconds,
    )


# By moments ---------------------------------------------------------------------------------------


class Task(NamedTuple):
    """Some pairs of domains."""

    graph: gated.Graph
    moments: gated.Moments
    pairs: np.ndarray
    rate: float  # of gradient descent


def task(config: Config, white: Domains, number: int) -> Task:
    """Each input domain trained with so many outputs."""
    pairs = gated.band(DOMAINS, number)
    graph = gated.routing(DOMAINS, config.components, config.hidden, CLASSES)
    moments = gated.routing_moments(pairs, white.x, np.stack([targets(y) for y in white.y]))
    # All have whitened inputs, and the same singular values as the first.
    s = np.linalg.svd(targets(white.y[0]).T @ white.x[0] / white.x.shape[1], compute_uv=False)
    # The rate of the most pairs, for all, so that times can be compared.
    counts = [SWEPT[-1], SWEPT[-1] * DOMAINS, SWEPT[-1]]
    largest = gated.max_stable_rate(counts, 1 / DOMAINS**2, 3, s)
    return Task(graph, moments, pairs, SHARE * float(largest))


def race(config: Config, white: Domains) -> dict[str, Any]:
    """Strengths of all modes in a network from small random weights, and by the scalar race."""
    one = task(config, white, AT)
    modes = gated.diagonalize(one.graph, one.moments)
    on = modes.s.max(axis=1) > 1e-9
    rank = CLASSES - 1  # the mean over classes is no mode
    s = modes.s[on][0][:rank] * DOMAINS**2
    every = config.epochs // RECORDS
    start = gated.init_orthogonal(jax.random.key(config.seed), one.graph, RICH)
    options: dict[str, Any] = {"rate": one.rate, "num_steps": config.epochs}
    end = gated.simulate(
        one.graph, start, one.moments, record_every=every, keep_params=True, **options
    )
    read = jax.jit(
        jax.vmap(lambda params: gated.effective_singular_values(one.graph, params, modes)[0])
    )
    strengths = np.asarray(read(end.params))[:, on, :rank].mean(axis=1)  # (T, modes)
    epochs = np.asarray(end.times, float)
    half = half_times(epochs, strengths, s)
    begin = fitted_start(half[0], s[0], one)
    theory = in_closed_form(epochs, s, begin, one)
    exact = gated.init_decoupled(jax.random.key(config.seed), one.graph, modes, begin)
    whole = gated.simulate(one.graph, exact, one.moments, **options)
    b = {name: jnp.full(modes.s.shape[1], begin) for name, _ in one.graph.edges}
    steps = gated.simulate_reduced(one.graph, b, modes, **options)
    return {
        "epochs": epochs, "strengths": strengths, "theory": theory, "s": s, "start": begin,
        "residual": modes.residual, "half": half, "losses": np.asarray(end.losses),
        "predicted": half_times(epochs, theory, s),
        "step gap": float(jnp.max(jnp.abs(whole.losses - steps.losses)) / whole.losses[0]),
    }  # fmt: skip


def half_times(epochs: np.ndarray, strengths: np.ndarray, s: np.ndarray) -> np.ndarray:
    """When each mode has half of its singular value."""
    falling = [gated.crossing_times(epochs, -column, -end / 2)[0]
               for column, end in zip(strengths.T, s, strict=True)]  # fmt: skip
    return np.asarray(falling)


def fitted_start(half: float, s: float, one: Task) -> float:
    """The number with which the race of the first mode has half of it when the network has."""

    def late(begin: float) -> float:
        # What the numbers conserve gives that of the shared edge where their product is s / 2.
        c = (DOMAINS - 1) * begin**2
        shared = np.roots([1, 0, c, -DOMAINS * s / 2])
        b2 = float(shared[np.abs(shared.imag) < 1e-9].real.max())
        return float(gated.routing_time(b2, s, DOMAINS, AT, begin)) / one.rate - half

    bracket = (1e-4, 0.99 * (s / 2) ** (1 / 3))
    return float(scipy.optimize.root_scalar(late, bracket=bracket, method="brentq").root)


def in_closed_form(epochs: np.ndarray, s: np.ndarray, begin: float, one: Task) -> np.ndarray:
    """Strengths of all modes ``(T, modes)``."""
    found = [np.prod(np.asarray(gated.routing_modes(epochs * one.rate, value, DOMAINS, AT, begin)),
                     axis=0) for value in s]  # fmt: skip
    return np.stack(found, axis=1)


def tested(graph: gated.Graph, params: Any, found: Domains) -> np.ndarray:
    """The share of test images that are named right, ``(M, M)``."""
    x = {f"x{i}": part for i, part in enumerate(found.x_test)}
    y = {f"y{o}": part for o, part in enumerate(found.y_test)}
    right = lambda outputs, labels: jnp.argmax(outputs, axis=1) == labels
    return np.asarray(gated.transfer_matrix(graph, params, x, y, score=right))


def parted(shares: np.ndarray, pairs: np.ndarray) -> tuple[float, float]:
    """Means of trained and of other pairs."""
    return float(shares[pairs].mean()), float(shares[~pairs].mean())


def rate_from(one: Task) -> Callable[[float], float]:
    """By the scale of the first weights: what large ones compute at first changes at once."""
    return lambda scale: one.rate * min(1.0, scale**-2)


def by_moments(config: Config, white: Domains) -> dict[str, Any]:
    """Shares ``(K, starts, 2)`` of trained and other pairs, from small and large weights."""
    names = {"small weights": RICH, "large weights": LAZY}
    rows: dict[str, Any] = {name: [] for name in names}
    matrices = {}
    for number in SWEPT:
        one = task(config, white, number)
        swept = gated.sweep_scales(
            one.graph, one.moments, list(names.values()), key=jax.random.key(config.seed),
            rate=rate_from(one), num_steps=config.epochs, num_starts=config.starts,
        )  # fmt: skip
        for k, name in enumerate(names):
            found = [tested(one.graph, jax.tree.map(lambda leaf, at=(k, r): leaf[at], swept.params),
                            white) for r in range(config.starts)]  # fmt: skip
            rows[name].append([parted(shares, one.pairs) for shares in found])
            if number == AT:
                matrices[name] = np.mean(found, axis=0)
    return {name: np.asarray(values) for name, values in rows.items()} | {"matrices": matrices}


def scales(config: Config, white: Domains) -> dict[str, np.ndarray]:
    """Shares by scale of the first weights, and how far these moved."""
    one = task(config, white, AT)
    swept = gated.sweep_scales(
        one.graph, one.moments, SCALES, key=jax.random.key(config.seed), rate=rate_from(one),
        num_steps=config.epochs, num_starts=config.starts,
    )  # fmt: skip
    shares = [[parted(tested(one.graph, jax.tree.map(lambda leaf, at=(k, r): leaf[at],
                                                     swept.params), white), one.pairs)
               for r in range(config.starts)] for k in range(len(SCALES))]  # fmt: skip
    return {"scales": swept.scales, "shares": np.asarray(shares), "moved": swept.moved}


# By stochastic gradients --------------------------------------------------------------------------


def by_sgd(config: Config, found: Domains) -> dict[str, np.ndarray]:
    """Shares ``(K, starts, 2)`` of trained and other pairs, from small and large weights."""
    graph = gated.routing(DOMAINS, found.x.shape[2], config.hidden, CLASSES)
    found = found._replace(x=found.x.astype(np.float32), x_test=found.x_test.astype(np.float32))
    rows: dict[str, Any] = {name: [] for name in SGD_GAINS}
    train = jax.jit(functools.partial(_train, graph, config.steps))
    x, y = jnp.asarray(found.x), jnp.asarray(found.y, jnp.int32)
    for number in SWEPT:
        pairs = gated.band(DOMAINS, number)
        trained = jnp.asarray(np.resize(np.argwhere(pairs), (DOMAINS**2, 2)))  # one shape for all
        for name, gain in SGD_GAINS.items():
            keys = jax.random.split(jax.random.key(config.seed), config.starts)
            ends = [train(key, gain, x, y, trained, int(pairs.sum())) for key in keys]
            rows[name].append([parted(tested(graph, end, found), pairs) for end in ends])
    return {name: np.asarray(values) for name, values in rows.items()}


def _train(graph, num_steps, key, gain, x, y, trained, number) -> Any:
    """Cross-entropy of images, each in a pair of domains that is drawn of those trained."""
    make = jax.nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", in_axis=1, out_axis=0)
    first, key = jax.random.split(key)
    keys = jax.random.split(first, len(graph.edges))
    params = {name: gain * make(own, graph.shape(name), x.dtype)
              for own, (name, _) in zip(keys, graph.edges, strict=True)}  # fmt: skip
    optimizer = optax.sgd(SGD_RATE, momentum=MOMENTUM)

    def loss(params, batch, source, target):
        inputs = {f"x{i}": x[i, batch] * (source == i)[:, None] for i in range(DOMAINS)}
        scores = gated.apply(graph, params, inputs, gated.Gates())
        own = jnp.stack([scores[f"y{o}"] for o in range(DOMAINS)])[target, jnp.arange(BATCH)]
        labels = y[target, batch]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(own, labels))

    def step(carry, key):
        params, state = carry
        of_images, of_pairs = jax.random.split(key)
        batch = jax.random.randint(of_images, (BATCH,), 0, x.shape[1])
        source, target = trained[jax.random.randint(of_pairs, (BATCH,), 0, number)].T
        updates, state = optimizer.update(jax.grad(loss)(params, batch, source, target), state)
        return (optax.apply_updates(params, updates), state), None

    begin = params, optimizer.init(params)
    (last, _), _ = jax.lax.scan(step, begin, jax.random.split(key, num_steps))
    return last


# What is told -------------------------------------------------------------------------------------


def change(shares: np.ndarray) -> float:
    """The number of trained outputs at which other pairs are half way from chance to trained.

    Between two numbers linearly; infinite if never.
    """
    trained, others = shares.mean(axis=1).T
    way = (others - 1 / CLASSES) / (trained - 1 / CLASSES)
    return float(np.nan_to_num(gated.crossing_times(SWEPT, -way, -0.5)[0], nan=np.inf))


def sweeps(series: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """All sweeps of trained outputs, by what was trained and the size of the weights."""
    squared = {name: series["squared"][name] for name in SGD_GAINS}
    return {"squared error": squared} | {
        f"cross-entropy, {kind}": found for kind, found in series["entropy"].items()
    }


def claims(config: Config, series: dict[str, Any]) -> list[Claim]:
    """Theory on real images; the change with K; small and large weights."""
    one, sizes = series["race"], series["scales"]
    made = [
        Claim.at_most(
            RACE,
            "whitened images in permuted domains have modes that all pairs share (what is not "
            "diagonal, of all)",
            one["residual"],
            1e-6,
        ),
        Claim.at_most(
            RACE,
            "from decoupled weights gradient descent on the whole network is that on the numbers "
            "of the race (largest difference of losses over the first)",
            one["step gap"],
            1e-10,
        ),
        Claim.at_most(
            RACE,
            f"from small random weights each of the {len(one['s'])} modes is half learned when the "
            "race says so, whose start is fitted to the first (difference over the time of theory, "
            "of all others)",
            np.abs(one["half"] / one["predicted"] - 1)[1:],
            0.15,
        ),
    ]
    for name, found in sweeps(series).items():
        trained, others = found["small weights"].mean(axis=1).T
        made += [
            Claim.at_most(
                RACE,
                f"{name}: with one output for each input, other pairs are at chance, "
                f"{1 / CLASSES:g} (share of test images named right, less chance)",
                abs(others[0] - 1 / CLASSES),
                0.1,
            ),
            Claim.at_most(
                RACE,
                f"{name}: from half of the outputs on, other pairs are named as well as trained "
                "ones, from small weights (difference of shares)",
                (trained - others)[[k for k, number in enumerate(SWEPT) if number >= 5]],
                0.05,
            ),
            Claim.at_most(
                f"{RACE}; the number: {OWN}",
                f"{name}: the change is at few of {DOMAINS} outputs (K at which other pairs are "
                "half way from chance to trained ones)",
                change(found["small weights"]),
                4.0,
            ),
            Claim.at_least(
                f"{RACE}; the size: {OWN}",
                f"{name}: from large weights it comes later or never (K there over that from "
                "small ones)",
                min(change(found["large weights"]), 2.0 * DOMAINS) / change(found["small weights"]),
                1.2,
            ),
        ]
    every = [found[size] for found in sweeps(series).values() for size in SGD_GAINS]
    made.append(
        Claim.at_most(
            OWN,
            "trained pairs are learned, wherever others are not (the lowest share of test images "
            "named right of a sweep less that with one output, every start)",
            [np.max(found[:1, :, 0] - found[:, :, 0]) for found in every],
            0.1,
        )
    )
    trained, others = sizes["shares"].mean(axis=1).T
    made += [
        Claim.at_least(
            RACE,
            f"with {AT} outputs, other pairs are named right from small weights, not from large "
            f"ones (difference of shares, from gain {RICH:g} less from {SCALES[-1]:g})",
            others[SCALES.index(RICH)] - others[-1],
            0.2,
        ),
        Claim.at_least(
            OWN,
            "where they are, weights have moved far (how far over how long they were at first, "
            f"from gain {RICH:g} over that from {LAZY:g})",
            sizes["moved"][SCALES.index(RICH)].mean() / sizes["moved"][SCALES.index(LAZY)].mean(),
            5.0,
        ),
    ]
    return made


def told(number: float) -> str:
    """A number of outputs."""
    return f"{number:.1f}" if np.isfinite(number) else "never"


def summarise(config: Config, series: dict[str, Any]) -> str:
    """What was found, in words and numbers."""
    whole = "; ".join(
        f"{name}: K = {told(change(found['small weights']))} from small weights, "
        f"{told(change(found['large weights']))} from large ones"
        for name, found in sweeps(series).items()
    )
    return (
        f"On {config.source}, pairs of domains that were never trained are half way from chance to "
        f"trained ones when each input is trained with K of {DOMAINS} outputs: {whole}."
    )


def sweep_table(series: dict[str, Any]) -> Table:
    """Shares of other pairs."""
    found = sweeps(series)
    percent = lambda name, size, k, which: 100 * float(found[name][size][k, :, which].mean())
    columns = [f"{name}, {size}" for name in found for size in SGD_GAINS]
    rows = [
        [number, *(f"{percent(name, size, k, 1):.0f} ({percent(name, size, k, 0):.0f})"
                   for name in found for size in SGD_GAINS)]
        for k, number in enumerate(SWEPT)
    ]  # fmt: skip
    return Table(
        "Test images named right in pairs that were never trained, in brackets in trained ones (%)",
        ["K", *columns],
        rows,
        "Means over starts and pairs. Chance is 10 %.",
    )


def change_table(series: dict[str, Any]) -> Table:
    """Where the change is."""
    rows = [[name, *(told(change(by[size])) for size in SGD_GAINS)]
            for name, by in sweeps(series).items()]  # fmt: skip
    return Table(
        f"Trained outputs K, of {DOMAINS}, at which other pairs are half way to trained ones",
        ["trained by", *SGD_GAINS],
        rows,
    )


def scale_table(sizes: dict[str, np.ndarray]) -> Table:
    """By scale."""
    rows = [
        [f"{scale:g}", *(100 * float(part) for part in shares.mean(axis=0)), float(moved.mean())]
        for scale, shares, moved in zip(
            sizes["scales"], sizes["shares"], sizes["moved"], strict=True
        )
    ]
    return Table(
        f"Squared error, {AT} outputs: by gain of the first weights",
        ["gain", "trained pairs, %", "never trained, %", "how far weights moved, of their length"],
        rows,
    )


def plot(result: Result) -> dict:
    """The race, the sweeps, the pairs of domains, the scales."""
    return {
        "race": gated_images_plots.race(result),
        "outputs": gated_images_plots.outputs(result),
        "pairs": gated_images_plots.pairs(result),
        "scales": gated_images_plots.scales(result),
    }
