"""What do gradient norms of single examples cost, and what do they show?

`vmap(grad)` gives the gradient of every example, in the memory of the whole batch of gradients.
`per_example` finds norms, sketches and the mean gradient in one backward pass, without them. Three
models on the handwritten digits: an MLP, a CNN, and a transformer that predicts the next pixel of
an image read as 64 tokens. What is claimed are operations and memory, which the compiler counts;
times are shown relative to the mean gradient in the same run. For larger models and other
libraries see `make bench`.

Then the CNN is trained on digits of which some were given a wrong label, and the gradient norm of
every training example is looked at: those with a wrong label should stand out.

Presets:
    quick: 40 s on 2 cores; 3 % wrong labels, 150 steps, 4,096 keys
    full: 3 min on 2 cores; 3 % wrong labels, 1,000 steps, 65,536 keys
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import optax

from experiments import per_example_claims, per_example_plots, silent
from experiments.per_example_claims import FUSED, MEAN, NORMS, SKETCHES, SLOW, Cost, Slopes
from experiments.report import Result
from jaxrobust import data, per_example, trees

BATCH = 128
TOKEN_BATCH = 16  # of the transformer, whose examples are 64 predictions each
DIM = per_example_claims.DIM
TRAINING_BATCH = 64
REPEATS = 9
FEW = 4  # examples whose inner products are estimated by sketches
KEYS_AT_ONCE = 64


@dataclasses.dataclass(frozen=True)
class Config:
    """Data, length of training, and how often a sketch is drawn."""

    seed: int = 0
    """Of the wrong labels, the initial weights and the batches."""
    wrong_labels: float = 0.03
    """Share of the training labels that are replaced by another class."""
    steps: int = 150
    """Training steps of the CNN."""
    keys: int = 4_096
    """Number of sketches drawn of the same gradients."""

    def __post_init__(self):
        if not 0 < self.wrong_labels < 0.5:
            raise ValueError(f"wrong_labels must be between 0 and 0.5, got {self.wrong_labels}")
        if self.keys % KEYS_AT_ONCE:
            raise ValueError(f"keys must be a multiple of {KEYS_AT_ONCE}, got {self.keys}")
        for name, least in (("steps", 1), ("keys", KEYS_AT_ONCE)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


PRESETS = {"full": Config(steps=1_000, keys=65_536)}


class MLP(nn.Module):
    """Two hidden layers of 512."""

    @nn.compact
    def __call__(self, image):
        x = image.reshape(-1)
        for width in (512, 512):
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(10)(x)


class CNN(nn.Module):
    """Three convolutions, and a Dense layer on all their outputs."""

    @nn.compact
    def __call__(self, image):
        x = nn.relu(nn.Conv(32, (3, 3))(image))
        x = nn.relu(nn.Conv(64, (3, 3))(x))
        x = nn.relu(nn.Conv(128, (3, 3), (2, 2))(x))
        return nn.Dense(10)(x.reshape(-1))


class PixelTransformer(nn.Module):
    """One causal block of width 256 over the 17 grey values of a digit."""

    width: int = 256

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(17, self.width)(tokens)
        x = x + self.param("positions", nn.initializers.normal(0.02), (len(tokens), self.width))
        h = nn.LayerNorm()(x)
        mask = nn.make_causal_mask(tokens)
        x = x + nn.MultiHeadDotProductAttention(num_heads=4)(h, h, mask=mask)
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
    costs, errors = {}, {}
    for number, (name, model) in enumerate(models.items()):
        progress(0.15 * number, f"cost: {name}")
        programs = compile_all(model)
        costs[name] = measure(programs, model)
        errors[name] = norm_errors(programs, model)
    progress(0.5, "sketches")
    slopes = {name: sketch_slopes(models[name], config) for name in ("MLP", "CNN")}
    progress(0.7, "training with wrong labels")
    ranked = rank_examples(config, digits, models["CNN"])
    progress(0.95)
    return Result(
        summary=per_example_claims.summarise(costs, ranked),
        claims=per_example_claims.claims(
            costs,
            errors,
            slopes,
            ranked,
            config.steps,
            jax.default_backend() == "cpu" and jax.device_count() == 1,
        ),  # fmt: skip
        series={
            "relative time": per_example_claims.relative_times(costs),
            "extra memory": per_example_claims.extra_memory(costs),
            **ranked,
        },
        tables=[
            *per_example_claims.tables(costs),
            per_example_claims.rule_table(
                "CNN", per_example.explain(models["CNN"].loss_fn)(*models["CNN"][1:])
            ),
        ],
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
    return {**found, "transformer": Model(next_pixel_loss, params, tokens[:TOKEN_BATCH])}


def classification_loss(module: nn.Module) -> Callable[[Any, Any], jax.Array]:
    """Cross-entropy of one image and its label."""
    return lambda params, example: cross_entropy(module.apply(params, example[0]), example[1])


def cross_entropy(logits: Any, label: jax.Array) -> jax.Array:
    """Of the logits of one prediction."""
    return -jax.nn.log_softmax(logits)[label]


def methods(loss_fn: Callable[[Any, Any], jax.Array]) -> dict[str, Callable[[Any, Any], Any]]:
    """What is compared; the mean gradient first."""

    def mean_loss(params, batch):
        return jax.vmap(loss_fn, (None, 0))(params, batch).mean()

    return {
        MEAN: jax.value_and_grad(mean_loss),
        NORMS: per_example.norms(loss_fn),
        FUSED: per_example.value_grad_and_norms(loss_fn),
        SKETCHES: per_example.sketches(loss_fn, key=jax.random.key(0), dim=DIM),
        SLOW: norms_by_vmap(loss_fn),
    }


def norms_by_vmap(loss_fn: Callable[[Any, Any], jax.Array]) -> Callable[[Any, Any], jax.Array]:
    """The slow twin."""
    gradients = per_example.gradients(loss_fn)
    return lambda params, batch: jax.vmap(trees.l2_norm)(gradients(params, batch))


class Program(NamedTuple):
    """A method, compiled for one model."""

    run: Any  # (params, batch) -> what the method returns
    operations: float  # additions, multiplications and the like, as XLA counts them


def compile_all(model: Model, names: tuple[str, ...] = ()) -> dict[str, Program]:
    """The methods, or those named, for the model and its batch."""
    found = {}
    for name, method in methods(model.loss_fn).items():
        if not names or name in names:
            traced = jax.jit(method).trace(model.params, model.batch)
            found[name] = Program(traced.lower().compile(), count_operations(traced.jaxpr))
    return found


def count_operations(closed: Any) -> float:
    """As XLA counts them before it optimises, but with the body of a loop at every turn."""
    return _counted_once(closed) + _counted_too_little(closed.jaxpr)


def _counted_once(closed: Any) -> float:
    """What XLA counts: the body of a loop once."""
    lowered = jax.jit(jax.extend.core.jaxpr_as_fun(closed)).lower(*closed.in_avals)
    return (lowered.cost_analysis() or {}).get("flops", float("nan"))


def _counted_too_little(jaxpr: Any) -> float:
    """The operations of the later turns of all loops."""
    missing = 0.0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "while":
            return float("nan")  # nobody knows how often
        turns = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        for body in jax.extend.core.jaxprs_in_params(eqn.params):
            missing += turns * _counted_too_little(body)
        if turns > 1:
            missing += (turns - 1) * _counted_once(eqn.params["jaxpr"])
    return missing


def measure(programs: dict[str, Program], model: Model) -> dict[str, Cost]:
    """Operations, memory, and the median time of every method.

    They take turns, so that a machine that is slow for a while is slow for all. `vmap(grad)` runs
    after the others: it fills the caches with its gradients, and what came next would look slow.
    """
    gradients = 4 * len(jax.tree.leaves(model.batch)[0]) * trees.size(model.params)
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for names in ([name for name in programs if name != SLOW], [SLOW]):
        for repeat in range(REPEATS + 1):
            for name in names:
                begin = time.perf_counter()
                jax.block_until_ready(programs[name].run(model.params, model.batch))
                if repeat:  # the first touches its memory for the first time
                    seconds[name].append(time.perf_counter() - begin)
    return {
        name: Cost(
            statistics.median(seconds[name]),
            program.operations,
            program.run.memory_analysis().temp_size_in_bytes / gradients,
        )
        for name, program in programs.items()
    }


def norm_errors(programs: dict[str, Program], model: Model) -> np.ndarray:
    """Relative errors of the norms ``(B,)``, against `vmap(grad)`."""
    fast, slow = (np.asarray(programs[n].run(model.params, model.batch)) for n in (NORMS, SLOW))
    return np.abs(fast / slow - 1)


def sketch_slopes(model: Model, config: Config) -> Slopes:
    """The slope of estimated inner products against exact ones, over all pairs of a few examples.

    Least squares through the origin, once for every key: unbiased sketches have slopes of mean 1.
    """
    few = jax.tree.map(lambda leaf: leaf[:FEW], model.batch)
    exact = jax.jit(per_example.gram(model.loss_fn))(model.params, few)

    def slope(key):
        found = per_example.sketches(model.loss_fn, key=key, dim=DIM)(model.params, few)
        estimates = jnp.matmul(found, found.T, precision=jax.lax.Precision.HIGHEST)
        return jnp.sum(estimates * exact) / jnp.sum(exact**2)

    keys = jax.random.split(jax.random.key(config.seed), config.keys)
    several = jax.jit(jax.vmap(slope))
    found = np.stack([several(part) for part in keys.reshape(-1, KEYS_AT_ONCE)])
    return Slopes(np.asarray(found, np.float64).ravel())


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
    """Adam on random batches."""
    optimizer = optax.adam(2e-3)

    @jax.jit
    def step(params, state, key, examples):
        index = jax.random.randint(key, (TRAINING_BATCH,), 0, len(examples[1]))
        batch = jax.tree.map(lambda leaf: leaf[index], examples)
        gradient = jax.grad(lambda p: jax.vmap(model.loss_fn, (None, 0))(p, batch).mean())(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    params, state = model.params, optimizer.init(model.params)
    # Not lax.scan: on CPU, XLA runs convolutions within a loop without its fast library.
    for key in jax.random.split(jax.random.key(config.seed), config.steps):
        params, state = step(params, state, key, examples)
    return params


def plot(result: Result) -> dict:
    """Cost by model and method; the examples at both ends; the norms of right and wrong labels."""
    return {
        "cost": per_example_plots.cost(result),
        "examples": per_example_plots.examples(result),
        "norms": per_example_plots.norms(result),
    }
