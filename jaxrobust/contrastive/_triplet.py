"""Triplet losses within one set, of items with labels."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxrobust.contrastive import _passes as passes
from jaxrobust.contrastive._batch import Communication
from jaxrobust.contrastive._checks import check_choice
from jaxrobust.contrastive._devices import over_devices
from jaxrobust.contrastive._hinge import REDUCTIONS, Reduction
from jaxrobust.contrastive._picks import Easiest, Hardest
from jaxrobust.contrastive._sets import Set, set_of
from jaxrobust.contrastive._tiles import rounding_of, tile_of

TripletMining = Literal["hardest", "semi_hard"]


@over_devices
def triplet_loss(
    z: jax.Array,
    labels: Any,
    *,
    margin: Any = 0.2,
    mining: TripletMining = "hardest",
    smooth: bool = False,
    valid: Any = None,
    similarity: Any = "cosine",
    reduction: Reduction = "mean",
    block_size: int | None = None,
    axis_name: Any = None,
    communication: Communication = "gather",
) -> jax.Array:
    r"""Hinges of triplets, mined within a batch in which items of one label are positives.

    A triplet of anchor a, positive p and negative n has the loss
    :math:`[\alpha + s_{an} - s_{ap}]_+`.

    ===============  ===============================================================================
    ``"hardest"``    one triplet for each anchor: its least similar positive and its most similar
                     negative (batch-hard)
    ``"semi_hard"``  one for each anchor and positive: the most similar negative that is less
                     similar than the positive, by more than rounding errors; without one, the least
                     similar negative
    ===============  ===============================================================================

    Args:
      z: ``(B, D)`` floating, embeddings.
      labels: ``(B,)`` int.
      margin: :math:`\alpha`, a number. It has no gradient.
      mining: see the table.
      smooth: ``log(1 + exp(.))`` of the slack in place of the hinge.
      valid: ``(B,)`` bool, False for padding.
      similarity: as in :func:`hinge_loss`; ``"euclidean"`` is the negative distance.
      reduction: ``"mean"`` over the triplets there are, ``"sum"``, or ``"active"``: over those
        with a slack above 0.
      block_size: how many items are compared with all at once, as in :func:`hinge_loss`.
      axis_name: mesh axes over which items are spread, as in :func:`hinge_loss`.
      communication: between devices, as in :func:`hinge_loss`; for ``"semi_hard"`` it must be
        ``"gather"``, since an anchor needs all its scores at once.

    Returns:
      The loss ``()``, in float32 at least; 0 if there is no triplet.

    Raises:
      ValueError, TypeError: as :func:`hinge_loss`.

    Source:
      Batch-hard, with the soft margin: Hermans et al., arXiv:1703.07737, Eq. 5 and section 3;
      semi-hard: Schroff et al., arXiv:1503.03832, with the rule of TensorFlow Addons where there is
      no such negative.
    """
    check_choice("mining", mining, ("hardest", "semi_hard"))
    check_choice("reduction", reduction, REDUCTIONS)
    if mining == "semi_hard" and communication == "ring":
        raise ValueError("communication must be 'gather' with mining='semi_hard'")
    # Slacks of all positives are sums of many scores.
    items = set_of(
        z, labels, similarity=similarity, valid=valid, keep_scores=mining == "semi_hard",
        margin=margin, block_size=block_size, axis_name=axis_name, communication=communication,
    )  # fmt: skip
    summed = functools.partial(_summed, smooth)
    found = summed(*_hardest(items)) if mining == "hardest" else _semi_hard(items, summed)
    total, number, active = map(items.sum, found)
    if reduction == "sum":
        return total
    return total / jnp.maximum(active if reduction == "active" else number, 1)


def _summed(smooth: bool, slacks: jax.Array, there: jax.Array) -> tuple[jax.Array, ...]:
    """The sum of the losses of triplets, their number, and how many have a slack above 0."""
    losses = jnp.where(there, jax.nn.softplus(slacks) if smooth else jax.nn.relu(slacks), 0)
    return jnp.sum(losses), jnp.sum(there), jnp.sum(there & (slacks > 0))


def _hardest(items: Set) -> tuple[jax.Array, jax.Array]:
    """Slacks ``(n,)`` of one triplet for each anchor, and whether there is one."""
    negative, positive = items.statistics((Hardest(), Easiest(over="positives")))
    there = (negative.priorities[:, 0] != -jnp.inf) & (positive.priorities[:, 0] != -jnp.inf)
    scores = items.scores(jnp.concatenate([negative.columns, positive.columns], axis=1))
    lost = negative.lost[:, 0] + positive.lost[:, 0]
    known = items.known
    return known.margins + scores[:, 0] - scores[:, 1] + lost, there & known.items_x.valid


def _semi_hard(
    items: Set, summed: Callable[..., tuple[jax.Array, ...]]
) -> tuple[jax.Array, ...]:  # fmt: skip
    """Sums over one triplet for each anchor and positive, without all slacks at once."""
    plan, embedded, known = items.plan, items.embedded, items.known

    def of_anchor(scores, negative, positive, lengths):
        # Negatives in ascending order, of equal ones the lowest number last; then the others.
        keys = (jnp.where(negative, scores, jnp.inf), -known.items_y.index)
        ordered, numbers = jax.lax.stop_gradient(jax.lax.sort(keys, num_keys=2))
        fixed = jax.lax.stop_gradient(scores)
        least = fixed - rounding_of(fixed, lengths.of_pairs(known.items_y.lengths))
        below = jnp.searchsorted(ordered, least, side="left") - 1
        easiest = jnp.argmin(keys[0])
        chosen = scores[jnp.where(below >= 0, -numbers[jnp.maximum(below, 0)], easiest)]
        lost = jnp.where(jnp.any(negative & jnp.isnan(scores)), jnp.nan, 0)  # it is sorted last
        return summed(known.margins + chosen - scores + lost, positive & jnp.any(negative))

    @jax.checkpoint  # for the gradient the scores of a block are formed again
    def of_block(block):
        x, anchors, nobody = block
        tile = tile_of(
            plan.similarity.scores(x, embedded.y), anchors, known.items_y, nobody, known.margins,
            None, plan.without_self,
        )  # fmt: skip
        return jax.vmap(of_anchor)(tile.scores, tile.negative, tile.positive, tile.row_lengths)

    size = min(plan.block_size or items.number, len(embedded.x))
    rows = embedded.x, known.items_x, embedded.positive_x
    return passes.by_blocks(of_block, rows, size)
