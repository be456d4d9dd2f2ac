"""What `hard_negatives` trains: ways to choose negatives, and one run."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from experiments.encoders import order_embedding
from experiments.hard_negatives_problems import Gallery, Problem
from jaxrobust import contrastive

MARGIN, CLIP = 0.2, 2.0
ORDER_MARGIN = 0.05
ALL, HARDEST, WARM = "all", "hardest", "hardest after a warm-up"
TOP, SEMI_HARD, SOFT = "10 hardest", "semi-hard", "soft"
INFO_NCE, SIGMOID = "InfoNCE", "sigmoid"
ORDER, ORDER_HARDEST = "order, all", "order, hardest"
ORDER_ABSOLUTE = "order, all, absolute values"
ORDERS = (ORDER, ORDER_HARDEST, ORDER_ABSOLUTE)
MEANS = (INFO_NCE, SIGMOID)  # whose loss is a mean over pairs; that of the others is a sum
METHODS = (ALL, HARDEST, WARM, TOP, SEMI_HARD, SOFT, INFO_NCE, SIGMOID)


class Run(NamedTuple):
    """What one run reached, after every epoch."""

    recall: Any  # (epochs,): R@1 from x to y on the test set, in %
    rsum: Any  # (epochs,): the sum of R@1, 5, 10 both ways, in %
    cosine: Any  # (epochs,): mean cosine of different x; 1 if all embeddings are the same
    # (epochs,): mean average precision of the classes, of both ways, in the end; NaN before, and
    # without classes.
    precision: Any
    validated: Any  # (epochs,): rsum on the validation set, in %; NaN without one
    loss: Any  # (epochs,): mean of the batches of the epoch; of hinges, the sum over a pair


class Setting(NamedTuple):
    """How towers are trained; static."""

    towers: tuple[nn.Module, nn.Module]
    epochs: int = 15
    batch: int = 128
    warm: int = 1  # epochs of all negatives, of the method that has a warm-up
    warm_by_mean: bool = False  # whether its loss is a mean over pairs then, and a sum after
    rate: float = 1e-3  # of Adam; a tenth of it in the second half


def loss_of(method: str, x: Any, y: Any, ids: Any, step: Any, warm_steps: int) -> jax.Array:
    """The loss of a batch by one way to choose negatives; equal ``ids`` are of one thing."""
    if method == INFO_NCE:
        return contrastive.info_nce(x, y, temperature=0.07, positives=ids)
    if method == SIGMOID:
        return contrastive.sigmoid_loss(x, y, scale=10.0, bias=-10.0, positives=ids)
    options: dict[str, Any] = {"margin": MARGIN, "positives": ids, "reduction": "sum"}
    if method in ORDERS:
        x, y = (_for_order(method, z) for z in (x, y))
        options["similarity"] = "order"
        if method != ORDER_HARDEST:
            options["margin"] = ORDER_MARGIN
    mining: dict[str, Any] = {
        ALL: "all",
        ORDER: "all",
        ORDER_ABSOLUTE: "all",
        WARM: contrastive.switch(warm_steps)(step),
        TOP: contrastive.top_k(10, most=10),
        SEMI_HARD: "semi_hard",
        SOFT: contrastive.soft(20.0),
    }
    return contrastive.hinge_loss(x, y, mining=mining.get(method, "hardest"), **options)[0]


def scored(method: str, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array, str]:
    """Embeddings as they are compared, and by which similarity."""
    if method not in ORDERS:
        return x, y, "cosine"
    return _for_order(method, x), _for_order(method, y), "order"


def _for_order(method: str, z: jax.Array) -> jax.Array:
    """Of length 1; with the absolute values that were published, and without.

    With all negatives the margin is the published one, which goes with absolute values.
    """
    return order_embedding(z) if method == ORDER_ABSOLUTE else contrastive.normalized(z)


@functools.partial(jax.jit, static_argnums=(0, 1))
def train(
    method: str, setting: Setting, problem: Problem, key: jax.Array
) -> tuple[Run, tuple[jax.Array, jax.Array]]:
    """One run of Adam with clipped gradients; and the embeddings of the test set.

    Those of the epoch that is best on the validation set, of the last one without such a set.
    """
    number, batch = len(problem.pairs), setting.batch
    epoch_steps = number // batch
    steps = setting.epochs * epoch_steps
    schedule = optax.piecewise_constant_schedule(setting.rate, {steps // 2: 0.1})
    optimizer = optax.chain(optax.clip_by_global_norm(CLIP), optax.adam(schedule))

    def embed(params, *both) -> list[Any]:
        towers = zip(setting.towers, params, both, strict=True)
        return [tower.apply(p, view) for tower, p, view in towers]

    keys = jax.random.split(jax.random.fold_in(key, 1), 2)
    sides = zip(setting.towers, keys, (problem.x_train, problem.y_train), strict=True)
    params = [tower.init(k, _rows(view, jnp.arange(1))) for tower, k, view in sides]

    def step(carry, rows):
        params, state, number = carry
        of_x, of_y = problem.pairs[rows].T

        def loss(params):
            x, y = embed(params, _rows(problem.x_train, of_x), _rows(problem.y_train, of_y))
            return loss_of(method, x, y, problem.things[rows], number, setting.warm * epoch_steps)

        value, gradient = jax.value_and_grad(loss)(params)
        if method == WARM and setting.warm_by_mean:
            # A smaller gradient is not clipped, so that the steps of Adam are others.
            of_pairs = jnp.where(number < setting.warm * epoch_steps, 1 / batch, 1.0)
            gradient = jax.tree.map(lambda leaf: of_pairs * leaf, gradient)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state, number + 1), value

    def epoch(carry, key):
        training, best = carry
        order = jax.random.permutation(key, number)[: epoch_steps * batch]
        training, losses = jax.lax.scan(step, training, order.reshape(epoch_steps, batch))
        run = evaluate(method, problem, functools.partial(embed, training[0]))
        of_what = 1 if method in MEANS else batch
        run = run._replace(loss=jnp.mean(losses) / of_what)
        # Without validation every epoch is better than the one before.
        score = run.validated if problem.validation else best[0] + 1
        better = score > best[0]
        keep = lambda new, old: jnp.where(better, new, old)
        return (training, jax.tree.map(keep, (score, training[0]), best)), run

    begin = ((params, optimizer.init(params), jnp.int32(0)), (jnp.float32(-1), params))
    (_, (_, params)), run = jax.lax.scan(epoch, begin, jax.random.split(key, setting.epochs))
    x, y = embed(params, problem.test.x, problem.test.y)
    if problem.labels is not None:  # sorting all scores takes long, so only once
        precision = class_precision(method, problem.labels, x, y)
        run = run._replace(precision=run.precision.at[-1].set(precision))
    return run, (x, y)


def evaluate(method: str, problem: Problem, embed: Any) -> Run:
    """Of both sides of the test set, and of the validation set, as they are embedded."""
    nothing = jnp.float32(jnp.nan)
    validated = nothing
    if problem.validation is not None:
        validated = _retrieval(method, problem.validation, embed)[0].rsum
    found, x = _retrieval(method, problem.test, embed)
    cosine = contrastive.collapse(x).mean_cosine
    return Run(found.x_to_y.recall[0], found.rsum, cosine, nothing, validated, nothing)


def _retrieval(method: str, gallery: Gallery, embed: Any) -> tuple[Any, jax.Array]:
    """The metrics, and the embeddings of x before they are normalized."""
    raw, other = embed(gallery.x, gallery.y)
    x, y, similarity = scored(method, raw, other)
    return contrastive.retrieval_metrics(x, y, gallery.groups, similarity=similarity), raw


def class_precision(method: str, labels: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean average precision of items of the same class, mean of both directions."""
    x, y, similarity = scored(method, x, y)
    found = contrastive.retrieval_metrics(
        x, y, labels, similarity=similarity, average_precision=True
    )
    one, other = found.x_to_y, found.y_to_x
    return (one.mean_average_precision + other.mean_average_precision) / 2


def _rows(view: Any, rows: jax.Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[rows], view)
