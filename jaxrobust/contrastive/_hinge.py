"""The hinge loss of pairs, with any mining."""

import dataclasses
import itertools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.contrastive._batch import Batch, Communication, Directions, Side, batch_of
from jaxrobust.contrastive._checks import check_choice
from jaxrobust.contrastive._devices import over_devices
from jaxrobust.contrastive._mining import NAMED, Anchors, DistanceWeighted, Mining, Mixed, mining_of
from jaxrobust.contrastive._picks import Hardest, HardestPositive, Picked
from jaxrobust.contrastive._queue import Memory
from jaxrobust.contrastive._similarity import COSINE, similarity_of
from jaxrobust.contrastive._tiles import rounding_of

Reduction = Literal["mean", "sum", "active"]
REDUCTIONS = ("mean", "sum", "active")
# What is looked at for `Info`, besides what the mining asks for.
_HARDEST, _POSITIVE = Hardest(with_margin=False), HardestPositive()


class Info(NamedTuple):
    """What mining found; anchors are the valid items of the directions that were asked for."""

    # (): anchors with a loss above 0, of those with negatives; with soft hinges all.
    active_fraction: jax.Array
    accuracy: jax.Array  # (): anchors whose positive is more similar than every negative
    hardest_gap: jax.Array  # (): mean of the hardest negative's score minus the positive's
    duplicate_fraction: jax.Array  # (): anchors whose hardest other item is a positive
    # (): mean hinge of the hardest negative over the (mean) margin; 1: collapse
    collapse_ratio: jax.Array
    num_anchors: jax.Array  # (): anchors with at least one negative


def _keeps_scores(mining: Mining) -> bool:
    """On a CPU blocks that stay in its cache are faster than scores that are kept for sums."""
    return bool(mining.sums()) and jax.default_backend() != "cpu"


class Found(NamedTuple):
    """Values of statistics of the anchors of one direction."""

    sums: tuple[jax.Array, ...]  # that the mining asks for
    picks: tuple[Picked, ...]  # likewise
    looks: tuple[Picked, ...]  # the hardest negative; and other positive, where there may be any


class Mined(NamedTuple):
    """Losses of the anchors of one direction, and what was seen."""

    losses: jax.Array  # (n,); 0 for those that are not valid
    counted: jax.Array  # (n,) bool: valid, with a negative
    hardest: jax.Array  # (n,): score of the hardest negative; minus infinity for none
    other_positive: jax.Array  # (n,): score of the most similar other positive; likewise
    positive: jax.Array  # (n,): score of the partner
    rounding: jax.Array  # (n,): by how much this may be off
    margins: jax.Array  # (n,): of a matrix, means over the valid candidates


@over_devices
def hinge_loss(
    x: jax.Array,
    y: jax.Array,
    *,
    margin: Any = 0.2,
    mining: str | Mining = "hardest",
    positives: Any = None,
    ignore_above: Any = None,
    smooth: bool = False,
    valid: Any = None,
    weights: Any = None,
    similarity: Any = "cosine",
    directions: Directions = "both",
    reduction: Reduction = "mean",
    memory_x: Memory | None = None,
    memory_y: Memory | None = None,
    block_size: int | None = None,
    axis_name: Any = None,
    communication: Communication = "gather",
) -> tuple[jax.Array, Info]:
    r"""Hinges of negatives that come closer to a positive than a margin, mined in the batch.

    With scores :math:`s_{ij}=s(x_i,y_j)`, those of partners :math:`d_i=s_{ii}`, and hinges
    :math:`[\alpha_{ij}+s_{ij}-d_i]_+` of the negatives of anchor :math:`x_i` (and in the same way
    of :math:`y_j`), the loss of an anchor is

    ==========================  ==================================================================
    ``"all"``                   the sum of hinges (SH)
    ``"hardest"``               the largest (MH; VSE++)
    :func:`top_k`               the sum of the k largest
    :func:`semi_hard`           that of the hardest negative below the positive; also
                                ``"semi_hard"``
    :func:`soft`                that of the soft maximum
    :func:`selective`           the mean where positive and hardest are not told apart, else the
                                largest
    :func:`mixed`               between mean and largest, for a schedule
    :func:`distance_weighted`   that of a random negative
    ==========================  ==================================================================

    The hardest negative is the best teacher where pairs are identifiable, that is, where no other
    item fits as well, and once embeddings have spread. Where many negatives are unlabelled
    positives it is worse than soft or all negatives, and deep towers may collapse under it at the
    start: begin with :func:`mixed` or another schedule, or take :func:`soft`.

    Args:
      x: ``(B, D)`` floating, embeddings.
      y: ``(B, D)``, those of their partners: row i belongs to row i.
      margin: :math:`\alpha`, a number or ``(B, B)`` for x by y. It has no gradient.
      mining: see the table.
      positives: who else belongs together and is no negative: None, ids ``(B,)`` of pairs, of which
        equal ones do, or a mask ``(B, B)``, True where :math:`y_j` fits :math:`x_i`.
      ignore_above: negatives whose score is above that of the partner by more than this, 0 or more,
        are taken for unlabelled positives and left out. None for none. It has no gradient.
      smooth: soft hinges :math:`\log(1+e^z)` instead of :math:`[z]_+`, which pull on when the
        margin is kept.
      valid: ``(B,)`` bool, False for padding.
      weights: ``(B,)``, what the two anchors of a pair count; None for 1.
      similarity: ``"cosine"``, ``"dot"``, ``"euclidean"`` (the negative distance), ``"order"``, a
        :class:`Similarity` such as :func:`order`, or a function ``(x (n, D), y (m, D)) -> (n, m)``
        of each pair alone, which must not close over what is differentiated or traced. Padding it
        sees as ones.
      directions: which anchors: ``"both"``, x with negatives among y ``"x_to_y"``, or the other way
        round.
      reduction: ``"sum"`` over anchors, as the published code does; ``"mean"``, that sum over
        the number of valid pairs; ``"active"``, over the number of anchors with a loss above 0.
      memory_x: past x, as further negatives of the y (see :func:`memory_init`); with ``positives``
        they need the same kind of ids, and the margin must be a number.
      memory_y: past y, as further negatives of the x.
      block_size: how many y are compared with all x at once: memory is a few times ``(B,
        block_size)``. It need not divide B; values and gradients are the same. None to choose:
        on a CPU blocks that stay in its cache, elsewhere larger ones, for sums of all negatives
        such that scores are kept up to 64 MiB, as other losses of all negatives do everywhere.
        Embeddings in half precision have copies and gradients in float32 besides; their cosines are
        inner products, in float32, of rows that are normalized and then rounded to half precision.
      axis_name: inside of ``shard_map``, the mesh axes over which pairs are spread: negatives are
        then those of all devices, and so is the loss. Ids must be of the whole batch, and a memory
        whole on every device. Take the gradient outside of ``shard_map``, or inside of one with
        ``check_vma=True``; without, JAX multiplies gradients there by the number of devices.
      communication: ``"gather"`` brings the embeddings of all devices to each; with ``"ring"`` they
        are sent from one to the next, so that none has more than its own and another's at once;
        there can be no memory then. Values and gradients are the same. It needs ``axis_name``, or
        pairs that are sharded over explicit mesh axes.

    Returns:
      The loss ``()``, in float32 at least, and :class:`Info`. An anchor without negatives has loss
      0. Where an embedding is NaN, of which nobody can be told under ``jit``, so is the loss.
      Of negatives that are equally hard, as computed, the one with the lowest number is mined
      (scores of two copies may differ in the last digit, and other blocks may round otherwise); at
      a hinge of 0 exactly the gradient is 0. Zero embeddings have cosine similarity 0 and no
      gradient.

    Raises:
      ValueError: for shapes that do not fit, embeddings or margins that are not finite (unless
        traced, or sharded over explicit mesh axes), a negative ``ignore_above``,
        :func:`distance_weighted` with another similarity than cosine, or an unknown name.
      TypeError: for embeddings that are not floating, or positives that are neither ids nor a mask.

    Source:
      Faghri et al., arXiv:1707.05612, Eqs. 5 and 6, whose code takes the sum over anchors.
    """
    check_choice("reduction", reduction, REDUCTIONS)
    mining = mining_of(mining)
    batch = batch_of(
        x, y, similarity=similarity, positives=positives, valid=valid, weights=weights,
        margin=margin, directions=directions, memory_x=memory_x, memory_y=memory_y,
        block_size=block_size, axis_name=axis_name, communication=communication,
        most_above=ignore_above, keep_scores=_keeps_scores(mining),
    )  # fmt: skip
    if isinstance(mining, DistanceWeighted) and similarity_of(similarity) is not COSINE:
        raise ValueError(
            f"similarity must be 'cosine' with mining=distance_weighted(...), whose densities are "
            f"of distances on the sphere; got {similarity!r}"
        )
    found = mined(batch, mining, smooth)
    losses = [part.losses for part in found]
    counts = losses if batch.weights is None else [batch.weights * part for part in losses]
    total = batch.sum(jnp.concatenate(counts))
    if reduction == "mean":
        total = total / batch.num_pairs()
    elif reduction == "active":
        total = total / jnp.maximum(batch.sum(jnp.concatenate(losses) > 0), 1)
    return total, info_of(batch, found)


def mined(batch: Batch, mining: Mining, smooth: bool) -> list[Mined]:
    """Losses of the anchors of the directions that are wanted."""
    weight = getattr(mining, "weight", None) if isinstance(mining, Mixed) else None
    if not isinstance(weight, jax.Array):
        return _mined_by(batch, mining, smooth)
    # After the switch, or the ramp, the hardest alone costs a fraction of both.
    return jax.lax.cond(
        weight >= 1,
        lambda: _mined_by(batch, NAMED["hardest"], smooth),
        lambda: _mined_by(batch, mining, smooth),
    )


def _mined_by(batch: Batch, mining: Mining, smooth: bool) -> list[Mined]:
    dim = batch.sides[0].anchors.shape[1]
    sums = tuple(_smoothed(one) if smooth else one for one in mining.sums())
    num_sums = len(sums)
    picks = mining.picks(dim)
    # Another pass, which nobody needs where partners are the only positives.
    looks = (_HARDEST, _POSITIVE) if batch.has_positives else (_HARDEST,)
    found = [
        Found(values[:num_sums], values[num_sums : num_sums + len(picks)], values[-len(looks) :])
        for values in batch.statistics((*sums, *picks, *looks))
    ]
    # Partners once more as well: the gradients of all these scores are then summed in one place.
    columns = [
        jnp.concatenate([side.own[:, None], *(_columns(side, p) for p in of_side.picks)], axis=1)
        for side, of_side in zip(batch.sides, found, strict=True)
    ]
    scores = batch.again(columns)
    return [
        _mined(side, mining, smooth, of_side, picked, again)
        for side, of_side, picked, again in zip(batch.sides, found, columns, scores, strict=True)
    ]


def _smoothed(statistic: Any) -> Any:
    """With soft hinges, if it is of hinges."""
    if not hasattr(statistic, "smooth"):
        return statistic
    return dataclasses.replace(statistic, smooth=True)


def _columns(side: Side, pick: Picked) -> jax.Array:
    """Where nothing was picked, any."""
    return jnp.clip(pick.columns, 0, side.number - 1)


def _mined(
    side: Side,
    mining: Mining,
    smooth: bool,
    found: Found,
    columns: jax.Array,
    scores: jax.Array,
) -> Mined:
    sums, picks, looks = found
    # Sums have the partners' gradient already.
    partners = side.partners if sums else scores[:, 0]
    slacks = scores - partners[:, None]
    if jnp.ndim(side.margins):
        slacks += jnp.take_along_axis(side.margins, columns, axis=1)
    else:
        slacks += side.margins
    ends = np.cumsum([1] + [pick.columns.shape[1] for pick in picks])
    parts = [slice(a, b) for a, b in itertools.pairwise(ends)]
    hardest, *others = (_scores(look) for look in looks)
    other = others[0] if others else jnp.full_like(hardest, -jnp.inf)
    lost = [pick.lost for pick in picks]
    losses = mining.losses(
        Anchors(
            positive_scores=partners,
            sums=sums,
            scores=tuple(scores[:, part] for part in parts),
            slacks=tuple(slacks[:, part] + nan for part, nan in zip(parts, lost, strict=True)),
            # NaN is a candidate as well: it must not be lost.
            there=tuple(~(pick.priorities == -jnp.inf) for pick in picks),
            smooth=smooth,
        )
    )
    counted = side.items.valid & (hardest != -jnp.inf)
    return Mined(
        jnp.where(counted, losses, 0), counted, hardest, other, side.partners,
        rounding_of(side.partners, side.items.lengths), _margins(side),
    )  # fmt: skip


def _margins(side: Side) -> jax.Array:
    if not jnp.ndim(side.margins):
        return jnp.full_like(side.partners, side.margins)
    valid = side.others.valid[None, :]
    return jnp.sum(jnp.where(valid, side.margins, 0), axis=1) / jnp.maximum(jnp.sum(valid), 1)


def _scores(look: Picked) -> jax.Array:
    return jax.lax.stop_gradient(look.priorities[:, 0])


def info_of(batch: Batch, found: list[Mined]) -> Info:
    """Shares and means over all anchors."""
    parts = zip(*found, strict=True)
    joined = jax.lax.stop_gradient(Mined(*(jnp.concatenate(part) for part in parts)))
    number = batch.sum(joined.counted)
    share = lambda of: batch.sum(jnp.where(joined.counted, of, 0)) / jnp.maximum(number, 1)
    gap = joined.hardest - joined.positive
    margin = share(joined.margins)
    return Info(
        active_fraction=share(joined.losses > 0),
        accuracy=share(gap < -joined.rounding),
        hardest_gap=share(gap),
        duplicate_fraction=share(joined.other_positive > joined.hardest),
        collapse_ratio=share(jax.nn.relu(margin + gap)) / jnp.where(margin > 0, margin, 1),
        num_anchors=number,
    )
