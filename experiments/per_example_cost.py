"""What do gradient norms of single examples cost, and what do they show?

`vmap(grad)` gives the gradient of every example, in the memory of the whole batch of gradients.
`per_example` finds norms, sketches and the mean gradient in one backward pass, without them. Three
models on the handwritten digits: an MLP, a CNN, and a transformer that predicts the next pixel of
an image read as 64 tokens. Times are relative to the mean gradient in the same run; for larger
models and other libraries see `make bench`.

Then the CNN is trained on digits of which some were given a wrong label, and the gradient norm of
every training example is looked at: those with a wrong label should stand out.

Presets:
    quick: 40 s on 2 cores; 3 % wrong labels, 400 steps
    full: 5 min on 2 cores; 3 % wrong labels, 4,000 steps, 1024 keys
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import per_example_plots, silent
from experiments.claims import Claim
from experiments.report import Result, Table
from jaxrobust import data, per_example, trees

OWN = "this library: exact up to rounding"
MEASURED = "this library: measured, no paper"
BATCH = 128
DIM = 256
REPEATS = 15
PAIRS = 16  # examples whose inner products are estimated by sketches


@dataclasses.dataclass(frozen=True)
class Config:
    """Data, length of training, and how often a sketch is drawn."""

    seed: int = 0
    """Of the wrong labels, the initial weights and the batches."""
    wrong_labels: float = 0.03
    """Share of the training labels that are replaced by another class."""
    steps: int = 400
    """Training steps of the CNN."""
    keys: int = 128
    """Number of sketches drawn of the same gradients."""

    def __post_init__(self):
        if not 0 < self.wrong_labels < 0.5:
            raise ValueError(f"wrong_labels must be between 0 and 0.5, got {self.wrong_labels}")
        for name, least in (("steps", 1), ("keys", 16)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


PRESETS = {"full": Config(steps=4_000, keys=1_024)}


class MLP(nn.Module):
    """Two hidden layers of 64."""

    @nn.compact
    def __call__(self, image):
        x = image.reshape(-1)
        for width in (64, 64):
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(10)(x)


class CNN(nn.Module):
    """Two convolutions, and a Dense layer on all their outputs."""

    @nn.compact
    def __call__(self, image):
        x = nn.relu(nn.Conv(16, (3, 3))(image))
        x = nn.relu(nn.Conv(32, (3, 3), (2, 2))(x))
        return nn.Dense(10)(x.reshape(-1))


class PixelTransformer(nn.Module):
    """One causal block of width 32 over the 17 grey values of a digit."""

    width: int = 32

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(17, self.width)(tokens)
        x = x + self.param("positions", nn.initializers.normal(0.02), (len(tokens), self.width))
        h = nn.LayerNorm()(x)
        mask = nn.make_causal_mask(tokens)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(h, h, mask=mask)
        x = x + nn.Dense(self.width)(nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x))))
        return nn.Dense(17)(nn.LayerNorm()(x))


class Model(NamedTuple):
    """A loss of one example, initial params, and a batch."""

    loss_fn: Callable[[Any, Any], jax.Array]
    params: Any
    batch: Any


def run(config: Config, progress=silent) -> Result:
    """Measures cost and exactness, trains, and ranks the examples by their gradient norm."""
    digits = data.images(data.digits(seed=config.seed))
    models = build(config.seed, digits)
    timings, errors = {}, {}
    for number, (name, model) in enumerate(models.items()):
        progress(0.2 * number, f"cost: {name}")
        timings[name] = time_all(model)
        errors[name] = norm_errors(model)
    progress(0.6, "sketches")
    deviations = sketch_deviations(models["CNN"], config)
    progress(0.7, "training with wrong labels")
    ranked = rank_examples(config, digits, models["CNN"])
    progress(0.95)
    return Result(
        summary=summarise(timings, ranked),
        claims=[
            *exactness_claims(errors),
            sketch_claim(deviations, config),
            *ranking_claims(config, ranked),
        ],
        series={"relative time": relative(timings), **ranked},
        tables=[cost_table(timings), rule_table(models["CNN"])],
    )


def build(seed: int, digits: data.Dataset) -> dict[str, Model]:
    """The three models with a batch of digits each."""
    key = jax.random.key(seed)
    images, labels = digits.x_train[:BATCH], digits.y_train[:BATCH]
    tokens = jnp.asarray(jnp.round(16 * images.reshape(BATCH, 64)), jnp.int32)
    found = {
        name: Model(
            classification_loss(module), jax.jit(module.init)(key, images[0]), (images, labels)
        )
        for name, module in (("MLP", MLP()), ("CNN", CNN()))
    }
    transformer = PixelTransformer()

    def next_pixel_loss(params, tokens):
        logits: Any = transformer.apply(params, tokens[:-1])
        return jnp.mean(jax.vmap(cross_entropy)(logits, tokens[1:]))

    params = jax.jit(transformer.init)(key, tokens[0, :-1])
    return {**found, "transformer": Model(next_pixel_loss, params, tokens)}


def classification_loss(module: nn.Module) -> Callable[[Any, Any], jax.Array]:
    """Cross-entropy of one image and its label."""
    return lambda params, example: cross_entropy(module.apply(params, example[0]), example[1])


def cross_entropy(logits: Any, label: jax.Array) -> jax.Array:
    """Of the logits of one prediction."""
    return -jax.nn.log_softmax(logits)[label]


def methods(loss_fn: Callable[[Any, Any], jax.Array]) -> dict[str, Callable[[Any, Any], Any]]:
    """What is timed; the mean gradient first."""

    def mean_loss(params, batch):
        return jax.vmap(loss_fn, (None, 0))(params, batch).mean()

    return {
        "mean gradient": jax.value_and_grad(mean_loss),
        "norms": per_example.norms(loss_fn),
        "mean gradient and norms": per_example.value_grad_and_norms(loss_fn),
        f"sketches of {DIM}": per_example.sketches(loss_fn, key=jax.random.key(0), dim=DIM),
        "norms by vmap(grad)": norms_by_vmap(loss_fn),
    }


def norms_by_vmap(loss_fn: Callable[[Any, Any], jax.Array]) -> Callable[[Any, Any], jax.Array]:
    """The slow twin."""
    gradients = per_example.gradients(loss_fn)
    return lambda params, batch: jax.vmap(trees.l2_norm)(gradients(params, batch))


def time_all(model: Model) -> dict[str, float]:
    """Median seconds of every method, run in turns after compiling."""
    programs = {name: jax.jit(method) for name, method in methods(model.loss_fn).items()}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for repeat in range(REPEATS + 1):
        for name, program in programs.items():
            begin = time.perf_counter()
            jax.block_until_ready(program(model.params, model.batch))
            if repeat:  # the first compiles
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(found) for name, found in seconds.items()}


def relative(timings: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Times over that of the mean gradient, by model and method."""
    return {
        model: {name: s / seconds["mean gradient"] for name, s in seconds.items()}
        for model, seconds in timings.items()
    }


def norm_errors(model: Model) -> np.ndarray:
    """Relative errors of the norms ``(B,)``, against `vmap(grad)`."""
    fast = jax.jit(per_example.norms(model.loss_fn))(model.params, model.batch)
    slow = jax.jit(norms_by_vmap(model.loss_fn))(model.params, model.batch)
    return np.abs(np.asarray(fast) / np.asarray(slow) - 1)


def sketch_deviations(model: Model, config: Config) -> np.ndarray:
    """Mean estimates of inner products minus the exact ones, in standard errors of the mean."""
    few = jax.tree.map(lambda leaf: leaf[:PAIRS], model.batch)
    exact = jax.jit(per_example.gram(model.loss_fn))(model.params, few)

    @jax.jit
    def estimate(key):
        found = per_example.sketches(model.loss_fn, key=key, dim=DIM)(model.params, few)
        return found @ found.T

    keys = jax.random.split(jax.random.key(config.seed), config.keys)
    estimates = np.stack([np.asarray(estimate(key)) for key in keys]).astype(np.float64)
    errors = estimates.std(axis=0, ddof=1) / np.sqrt(config.keys)
    upper = np.triu_indices(PAIRS)
    return ((estimates.mean(axis=0) - np.asarray(exact)) / errors)[upper]


def rank_examples(config: Config, digits: data.Dataset, model: Model) -> dict[str, np.ndarray]:
    """Trains on partly wrong labels; images, labels, predictions and norms of all examples."""
    generator = np.random.default_rng(config.seed)
    images, truth = np.asarray(digits.x_train), np.asarray(digits.y_train)
    wrong = generator.random(len(truth)) < config.wrong_labels
    labels = np.where(wrong, (truth + generator.integers(1, 10, len(truth))) % 10, truth)
    examples = (jnp.asarray(images), jnp.asarray(labels))
    params = train(config, model, examples)
    norms = jax.jit(per_example.norms(model.loss_fn))(params, examples)
    logits: Any = jax.vmap(CNN().apply, (None, 0))(params, examples[0])
    return {
        "images": images[..., 0],
        "truth": truth,
        "labels": labels,
        "wrong": wrong,
        "predicted": np.argmax(np.asarray(logits), axis=1),
        "norms": np.asarray(norms),
    }


def train(config: Config, model: Model, examples: tuple[jax.Array, jax.Array]) -> Any:
    """Adam on random batches; all steps in one program."""
    optimizer = optax.adam(2e-3)

    def step(carry, key):
        params, state = carry
        index = jax.random.randint(key, (BATCH,), 0, len(examples[1]))
        batch = jax.tree.map(lambda leaf: leaf[index], examples)
        gradient = jax.grad(lambda p: jax.vmap(model.loss_fn, (None, 0))(p, batch).mean())(params)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(config.seed), config.steps)
    start = (model.params, optimizer.init(model.params))
    return jax.jit(lambda start: jax.lax.scan(step, start, keys)[0][0])(start)


def separation(scores: np.ndarray, positive: np.ndarray) -> float:
    """Share of pairs (positive, negative) that the scores put in order: the area under the ROC."""
    order = np.argsort(np.argsort(scores)) + 1
    num_positive = positive.sum()
    rank_sum = order[positive].sum() - num_positive * (num_positive + 1) / 2
    return float(rank_sum / (num_positive * (~positive).sum()))


def exactness_claims(errors: dict[str, np.ndarray]) -> list[Claim]:
    """Norms equal those of the slow twin."""
    return [
        Claim.at_most(
            OWN,
            f"{name}: the gradient norm of every example is that of vmap(grad) (relative error, "
            f"{len(found)} examples, float32)",
            found,
            1e-5,
        )
        for name, found in errors.items()
    ]


def sketch_claim(deviations: np.ndarray, config: Config) -> Claim:
    """Sketches are unbiased."""
    return Claim.at_most(
        "this library: unbiased by construction",
        f"CNN: inner products of sketches of {DIM} numbers have the mean of those of the gradients "
        f"(distance in standard errors, {config.keys} keys, every pair of {PAIRS} examples)",
        np.abs(deviations),
        5.0,  # a normal one exceeds it once in 2 million
    )


def ranking_claims(config: Config, ranked: dict[str, np.ndarray]) -> list[Claim]:
    """Wrong labels stand out by their gradient norm."""
    wrong, norms = ranked["wrong"], ranked["norms"]
    top = np.argsort(-norms)[: wrong.sum()]
    return [
        Claim.at_least(
            MEASURED,
            f"examples with a wrong label have larger gradients after {config.steps:,} steps "
            "(share of pairs of a wrong and a right one in this order)",
            separation(norms, wrong),
            0.95,
            should_hold=config.steps <= 1_000,
            reason="the network has had time to learn the wrong labels by heart",
        ),
        Claim.at_least(
            MEASURED,
            f"of the {wrong.sum()} examples with the largest gradients most have a wrong label "
            "(share)",
            wrong[top].mean(),
            0.5,
            should_hold=config.steps <= 1_000,
            reason="the network has had time to learn the wrong labels by heart",
        ),
    ]


def cost_table(timings: dict[str, dict[str, float]]) -> Table:
    """Times of all methods."""
    names = list(next(iter(timings.values())))
    rows = [
        [model, 1e3 * seconds["mean gradient"]]
        + [seconds[name] / seconds["mean gradient"] for name in names[1:]]
        for model, seconds in timings.items()
    ]
    return Table(
        f"Time of one pass over a batch of {BATCH}, relative to the mean gradient",
        ["model", "mean gradient (ms)", *names[1:]],
        rows,
        f"Medians of {REPEATS}, taken in turns. On models this small the fixed cost of each "
        "operation counts; see make bench for larger ones.",
    )


def rule_table(model: Model) -> Table:
    """What `explain` says of the CNN."""
    rows = per_example.explain(model.loss_fn)(model.params, model.batch).rows
    return Table(
        "How the gradient norms of the CNN's parameters are found",
        ["leaf", "shape", "method", "used by", "multiply-adds per example"],
        [[r.leaf, str(r.shape), r.method, ", ".join(r.sites) or r.reason, r.cost] for r in rows],
        "From per_example.explain. factors: from inner products of pairs of positions; "
        "instantiate: one example's gradient at a time; expand: a copy of the leaf for every "
        "example.",
    )


def summarise(timings: dict[str, dict[str, float]], ranked: dict[str, np.ndarray]) -> str:
    """What was found, in words and numbers."""
    ratios = relative(timings)
    fused = [by["mean gradient and norms"] for by in ratios.values()]
    slow = [by["norms by vmap(grad)"] for by in ratios.values()]
    top = np.argsort(-ranked["norms"])[: ranked["wrong"].sum()]
    return (
        "The gradient norm of every example, exact, together with the mean gradient took "
        f"{min(fused):.2f} to {max(fused):.2f} times as long as the mean gradient alone; "
        f"vmap(grad) took {min(slow):.1f} to {max(slow):.1f} times as long for the norms. In a CNN "
        f"trained on digits with {ranked['wrong'].sum()} wrong labels, "
        f"{ranked['wrong'][top].sum()} of them are among as many examples with the largest "
        "gradients."
    )


def plot(result: Result) -> dict:
    """Cost by model and method; the examples at both ends; the norms of right and wrong labels."""
    return {
        "cost": per_example_plots.cost(result),
        "examples": per_example_plots.examples(result),
        "norms": per_example_plots.norms(result),
    }
