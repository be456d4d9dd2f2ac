"""What `hard_negatives` trains: pairs of views, ways to choose negatives, and one run."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.encoders import Tower
from jaxrobust import contrastive, data

MARGIN, CLIP, RATE = 0.2, 2.0, 1e-3
ALL, HARDEST, WARM = "all", "hardest", "hardest after a warm-up"
TOP, SEMI_HARD, SOFT = "10 hardest", "semi-hard", "soft"
INFO_NCE, SIGMOID = "InfoNCE", "sigmoid"
METHODS = (ALL, HARDEST, WARM, TOP, SEMI_HARD, SOFT, INFO_NCE, SIGMOID)


class Pairs(NamedTuple):
    """Two views of the same things: row i belongs to row i."""

    train: tuple[jax.Array, jax.Array]  # (n, features) each
    test: tuple[jax.Array, jax.Array]


class Run(NamedTuple):
    """What one run reached, after every epoch."""

    recall: Any  # (epochs,): R@1 from x to y on the test set, in %
    rsum: Any  # (epochs,): the sum of R@1, 5, 10 both ways, in %
    cosine: Any  # (epochs,): mean cosine of different x; 1 if all embeddings are the same


def views(seed: int, train: int = 4_000, test: int = 1_000) -> Pairs:
    """Noisy views of points around 100 centers: every pair can be told from the others."""
    rng = np.random.default_rng(seed)
    number = train + test
    centers = rng.normal(size=(100, 16))
    points = centers[rng.integers(0, 100, number)] + 0.35 * rng.normal(size=(number, 16))
    found = []
    for features in (64, 48):
        mixed = np.tanh(points @ rng.normal(size=(16, features)) / 4)
        found.append(mixed + 0.25 * rng.normal(size=mixed.shape))
    return _split(found, train)


def digit_halves(seed: int, test: int = 500) -> Pairs:
    """Left and right halves of handwritten digits: many right halves fit a left one."""
    dataset = data.digits(test_fraction=0.0)
    images = np.asarray(dataset.x_train).reshape(-1, 8, 8)
    images = images[np.random.default_rng(seed).permutation(len(images))]
    halves = [images[:, :, :4].reshape(-1, 32), images[:, :, 4:].reshape(-1, 32)]
    return _split(halves, len(images) - test)


def _split(views: list[np.ndarray], train: int) -> Pairs:
    found = [jnp.asarray(view, jnp.float32) for view in views]
    return Pairs(tuple(v[:train] for v in found), tuple(v[train:] for v in found))  # type: ignore[arg-type]


PROBLEMS: dict[str, Callable[[int], Pairs]] = {"views": views, "digits": digit_halves}


def loss_of(method: str, x: Any, y: Any, step: Any, warm_steps: int) -> jax.Array:
    """The loss of a batch by one way to choose negatives."""
    if method == INFO_NCE:
        return contrastive.info_nce(x, y, temperature=0.07)
    if method == SIGMOID:
        return contrastive.sigmoid_loss(x, y, scale=10.0, bias=-10.0)
    mining: dict[str, Any] = {
        ALL: "all",
        HARDEST: "hardest",
        WARM: contrastive.switch(warm_steps)(step),
        TOP: contrastive.top_k(10, most=10),
        SEMI_HARD: "semi_hard",
        SOFT: contrastive.soft(20.0),
    }
    return contrastive.hinge_loss(x, y, margin=MARGIN, mining=mining[method], reduction="sum")[0]


class Setting(NamedTuple):
    """How towers are trained; static."""

    widths: tuple[int, ...] = (128, 64)  # of the hidden layers, and of the embedding
    bias: float = 0.0  # of every layer at the start
    epochs: int = 15
    batch: int = 128
    warm: int = 1  # epochs of all negatives, of the method that has a warm-up


@functools.partial(jax.jit, static_argnums=(0, 1))
def train(method: str, setting: Setting, pairs: Pairs, key: jax.Array) -> Run:
    """One run: Adam, a tenth of the rate in the second half, gradients clipped."""
    tower = Tower(setting.widths, setting.bias)
    epochs, batch = setting.epochs, setting.batch
    number = pairs.train[0].shape[0]
    epoch_steps = number // batch
    schedule = optax.piecewise_constant_schedule(RATE, {epochs * epoch_steps // 2: 0.1})
    optimizer = optax.chain(optax.clip_by_global_norm(CLIP), optax.adam(schedule))

    def embed(params, views) -> list[Any]:
        return [tower.apply(p, v) for p, v in zip(params, views, strict=True)]

    keys = jax.random.split(jax.random.fold_in(key, 1), 2)
    params = [tower.init(k, v[:1]) for k, v in zip(keys, pairs.train, strict=True)]

    def step(carry, rows):
        params, state, number = carry

        def loss(params):
            x, y = embed(params, [view[rows] for view in pairs.train])
            return loss_of(method, x, y, number, setting.warm * epoch_steps)

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state, number + 1), None

    def epoch(carry, key):
        order = jax.random.permutation(key, number)[: epoch_steps * batch]
        carry, _ = jax.lax.scan(step, carry, order.reshape(epoch_steps, batch))
        found = contrastive.retrieval_metrics(*embed(carry[0], pairs.test))
        cosine = contrastive.collapse(embed(carry[0], pairs.test)[0]).mean_cosine
        return carry, Run(found.x_to_y.recall[0], found.rsum, cosine)

    begin = (params, optimizer.init(params), jnp.int32(0))
    return jax.lax.scan(epoch, begin, jax.random.split(key, epochs))[1]
