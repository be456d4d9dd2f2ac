"""Losses by the softmax over candidates: InfoNCE, several positives, hard negatives."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust.contrastive import _pairs as pairs
from jaxrobust.contrastive._batch import Batch, Communication, Directions, batch_of
from jaxrobust.contrastive._checks import check_range
from jaxrobust.contrastive._devices import over_devices
from jaxrobust.contrastive._passes import Statistics
from jaxrobust.contrastive._queue import Memory
from jaxrobust.contrastive._sets import set_of
from jaxrobust.contrastive._statistics import LogSumExp, ScoreSum


@over_devices
def info_nce(
    x: jax.Array,
    y: jax.Array,
    *,
    temperature: Any = 0.07,
    positives: Any = None,
    valid: Any = None,
    weights: Any = None,
    similarity: Any = "cosine",
    directions: Directions = "both",
    memory_x: Memory | None = None,
    memory_y: Memory | None = None,
    block_size: int | None = None,
    axis_name: Any = None,
    communication: Communication = "gather",
) -> jax.Array:
    r"""The cross-entropy of finding the partner among the batch (InfoNCE, CLIP).

    .. math:: \ell_i = -\log\frac{e^{d_i/\tau}}{e^{d_i/\tau}+\sum_{j\in N_i}e^{s_{ij}/\tau}}

    with the negatives :math:`N_i`, other positives left out: see :func:`multi_positive` for the
    loss that pulls these as well. The mean over anchors; for both directions, the mean of the two.
    NT-Xent, whose negatives are also the others of the same view, is :func:`sup_con` of both views
    one behind the other, with a label for each pair.

    Args:
      x: ``(B, D)`` floating, embeddings.
      y: ``(B, D)``, those of their partners.
      temperature: :math:`\tau` above 0, a number or ``()``. It has a gradient: learn its logarithm.
      positives: who else belongs together and is no negative, as in :func:`hinge_loss`.
      valid: ``(B,)`` bool, False for padding.
      weights: ``(B,)``, what the two anchors of a pair count; None for 1.
      similarity: as in :func:`hinge_loss`.
      directions: which anchors, as in :func:`hinge_loss`.
      memory_x: past x, as further negatives of the y, as in :func:`hinge_loss`.
      memory_y: past y, as further negatives of the x.
      block_size: how many y are compared with all x at once, as in :func:`hinge_loss`.
      axis_name: mesh axes over which pairs are spread, as in :func:`hinge_loss`.
      communication: between devices, as in :func:`hinge_loss`.

    Returns:
      The loss ``()``, in float32 at least. An anchor without negatives has loss 0.

    Raises:
      ValueError, TypeError: as :func:`hinge_loss`; and for a temperature that is not above 0,
        unless traced.

    Source:
      van den Oord et al., arXiv:1807.03748, Eq. 4; both directions, with a learned temperature:
      Radford et al., arXiv:2103.00020.
    """
    batch = batch_of(
        x, y, scale=_inverse(temperature), similarity=similarity, positives=positives, valid=valid,
        weights=weights, directions=directions, memory_x=memory_x, memory_y=memory_y,
        block_size=block_size, axis_name=axis_name, communication=communication,
    )  # fmt: skip

    def losses(values, positive_scores):
        return jax.nn.softplus(values[0] - positive_scores)

    return _mean(batch, (LogSumExp(1.0),), losses)


@over_devices
def multi_positive(
    x: jax.Array,
    y: jax.Array,
    positives: Any,
    *,
    temperature: Any = 0.07,
    valid: Any = None,
    weights: Any = None,
    similarity: Any = "cosine",
    directions: Directions = "both",
    memory_x: Memory | None = None,
    memory_y: Memory | None = None,
    block_size: int | None = None,
    axis_name: Any = None,
    communication: Communication = "gather",
) -> jax.Array:
    r"""The cross-entropy of finding all positives among the batch, each as likely.

    .. math:: \ell_i = -\frac1{|P_i|}\sum_{p\in P_i}
              \log\frac{e^{s_{ip}/\tau}}{\sum_{a}e^{s_{ia}/\tau}}

    with a over all valid candidates, :math:`P_i` the partner and whatever else belongs to it. With
    one positive each it is :func:`info_nce`.

    Args:
      x: ``(B, D)`` floating, embeddings.
      y: ``(B, D)``, those of their partners.
      positives: ids ``(B,)`` of pairs, or a mask ``(B, B)``; the partner always belongs.
      temperature: as in :func:`info_nce`.
      valid: ``(B,)`` bool, False for padding.
      weights: ``(B,)``, what the two anchors of a pair count; None for 1.
      similarity: as in :func:`hinge_loss`.
      directions: which anchors, as in :func:`hinge_loss`.
      memory_x: past x, as further candidates of the y: of an id of the batch they are positives,
        which count among the :math:`P_i`; with a mask all are negatives.
      memory_y: past y, as further candidates of the x, likewise.
      block_size: how many y are compared with all x at once, as in :func:`hinge_loss`.
      axis_name: mesh axes over which pairs are spread, as in :func:`hinge_loss`.
      communication: between devices, as in :func:`hinge_loss`.

    Returns:
      The loss ``()``, a mean over anchors.

    Source:
      Khosla et al., arXiv:2004.11362, Eq. 2 (the sum outside of the logarithm), across two sets.
    """
    batch = batch_of(
        x, y, scale=_inverse(temperature), similarity=similarity, positives=positives, valid=valid,
        weights=weights, directions=directions, memory_x=memory_x, memory_y=memory_y,
        block_size=block_size, axis_name=axis_name, communication=communication,
    )  # fmt: skip
    return _mean(batch, (LogSumExp(1.0, "all"), ScoreSum("positives")), _cross_entropy)


@over_devices
def sup_con(
    z: jax.Array,
    labels: Any,
    *,
    temperature: Any = 0.1,
    valid: Any = None,
    similarity: Any = "cosine",
    block_size: int | None = None,
    axis_name: Any = None,
    communication: Communication = "gather",
) -> jax.Array:
    r"""Supervised contrastive loss within one set: items of one label are positives of each other.

    .. math:: \ell_i = -\frac1{|P_i|}\sum_{p\in P_i}
              \log\frac{e^{s_{ip}/\tau}}{\sum_{a\ne i}e^{s_{ia}/\tau}}

    Args:
      z: ``(B, D)`` floating, embeddings; views of one image are items of their own.
      labels: ``(B,)`` int.
      temperature: as in :func:`info_nce`.
      valid: ``(B,)`` bool, False for padding.
      similarity: as in :func:`hinge_loss`.
      block_size: how many items are compared with all at once, likewise.
      axis_name: mesh axes over which items are spread, likewise.
      communication: between devices, likewise.

    Returns:
      The mean over the items that have a positive, ``()``; 0 if none has.

    Raises:
      ValueError, TypeError: as :func:`info_nce`.

    Source:
      Khosla et al., arXiv:2004.11362, Eq. 2, without the factor of temperatures of its code.
    """
    items = set_of(
        z, labels, similarity=similarity, valid=valid, keep_scores=True,
        scale=_inverse(temperature), block_size=block_size, axis_name=axis_name,
        communication=communication,
    )  # fmt: skip
    values = items.statistics((LogSumExp(1.0, "all"), ScoreSum("positives")))
    losses = _cross_entropy(values, items.embedded.positive_x)
    counted = items.known.items_x.valid & (values[1][:, 1] > 0)
    return items.sum(jnp.where(counted, losses, 0)) / jnp.maximum(items.sum(counted), 1)


def _cross_entropy(values, positive_scores):
    normalizer, positives = values
    number = jnp.maximum(jax.lax.stop_gradient(positives[:, 1]), 1)
    # Without a candidate the normalizer is minus infinity, and the loss does not count. NaN does.
    there = ~(normalizer == -jnp.inf)
    return jnp.where(there, jnp.where(there, normalizer, 0) - positives[:, 0] / number, 0)


@over_devices
def hard_negative_nce(
    x: jax.Array,
    y: jax.Array,
    *,
    temperature: Any = 0.07,
    beta: Any = 0.0,
    positive_rate: Any = 0.0,
    positives: Any = None,
    valid: Any = None,
    weights: Any = None,
    similarity: Any = "cosine",
    directions: Directions = "both",
    memory_x: Memory | None = None,
    memory_y: Memory | None = None,
    block_size: int | None = None,
    axis_name: Any = None,
    communication: Communication = "gather",
) -> jax.Array:
    r"""InfoNCE with negatives weighted by their hardness, and corrected for hidden positives.

    .. math:: \ell_i = -\log\frac{e^{d_i/\tau}}{e^{d_i/\tau}+G_i},\qquad
              G_i = \max\Big(\frac{\sum_j w_{ij}e^{s_{ij}/\tau}-\tau^+ n_i e^{d_i/\tau}}{1-\tau^+},
              \; n_i e^{-1/\tau}\Big)

    with :math:`w_{ij}=e^{\beta s_{ij}/\tau}/\overline{e^{\beta s_i/\tau}}` of mean 1 over the
    :math:`n_i` negatives. With :math:`\beta=0` it is the debiased loss (DCL), with
    :math:`\tau^+=0` the hard one (HCL without debiasing), with both the :func:`info_nce`.

    Args:
      x: ``(B, D)`` floating, embeddings.
      y: ``(B, D)``, those of their partners.
      temperature: as in :func:`info_nce`. The floor :math:`e^{-1/\tau}` is that of cosines.
      beta: hardness, 0 or more; 1 is usual. It has no gradient.
      positive_rate: :math:`\tau^+` in [0, 1), the probability that an unlabelled negative is a
        positive, such as 1 over the number of classes. It has no gradient.
      positives: who else belongs together and is no negative, as in :func:`hinge_loss`.
      valid: ``(B,)`` bool, False for padding.
      weights: ``(B,)``, what the two anchors of a pair count; None for 1.
      similarity: as in :func:`hinge_loss`.
      directions: which anchors, as in :func:`hinge_loss`.
      memory_x: past x, as further negatives of the y, as in :func:`hinge_loss`.
      memory_y: past y, as further negatives of the x.
      block_size: how many y are compared with all x at once, as in :func:`hinge_loss`.
      axis_name: mesh axes over which pairs are spread, as in :func:`hinge_loss`.
      communication: between devices, as in :func:`hinge_loss`.

    Returns:
      The loss ``()``, a mean over anchors. An anchor without negatives has loss 0.

    Raises:
      ValueError: for ``beta`` or ``positive_rate`` out of range, unless traced; and as
        :func:`info_nce`.

    Source:
      Robinson et al., arXiv:2010.04592, Eqs. 3 and 4, and their code (mean of weights 1); Chuang
      et al., arXiv:2007.00224, Eq. 8. Ours: negatives are those of the other side, :math:`n_i` at
      most B - 1; in their code two views of images are one set, with 2 (B - 1) of them.
    """
    check_range("beta", beta, 0, None)
    check_range("positive_rate", positive_rate, 0, 1, below=True)
    batch = batch_of(
        x, y, scale=_inverse(temperature), similarity=similarity, positives=positives, valid=valid,
        weights=weights, directions=directions, memory_x=memory_x, memory_y=memory_y,
        block_size=block_size, axis_name=axis_name, communication=communication,
    )  # fmt: skip

    beta, positive_rate = (
        jax.lax.stop_gradient(jnp.asarray(value, batch.scale.dtype))
        for value in (beta, positive_rate)
    )

    def losses(values, positive_scores):
        harder, weighing, counted = values
        number = jax.lax.stop_gradient(counted[:, 1])
        there = number > 0
        number = jnp.where(there, number, 1)
        finite = lambda log: jnp.where(there, log, 0)
        # Logarithms relative to exp(d), so that nothing overflows.
        log_sum = finite(harder) - finite(weighing) + jnp.log(number) - positive_scores
        log_floor = jnp.log(number) - batch.scale - positive_scores
        hidden = positive_rate * number * jnp.exp(jnp.minimum(-log_sum, 80))  # of the sum
        more = ~(hidden >= 1)  # NaN is not lost
        debiased = log_sum + jnp.log1p(-jnp.where(more, hidden, 0)) - jnp.log1p(-positive_rate)
        rest = jnp.where(more, jnp.maximum(debiased, log_floor), log_floor)
        return jnp.where(there, jax.nn.softplus(rest), 0)

    wanted = (LogSumExp(1 + beta), LogSumExp(beta), ScoreSum("negatives"))
    return _mean(batch, wanted, losses)


def _mean(batch: Batch, wanted: Statistics, losses: Callable[..., jax.Array]) -> jax.Array:
    """The mean over valid anchors of the directions that are wanted."""
    total = jnp.zeros_like(batch.sides[0].partners)
    for side, values in zip(batch.sides, batch.statistics(wanted), strict=True):
        total += jnp.where(batch.valid, losses(values, side.partners), 0)
    if batch.weights is not None:
        total = total * batch.weights
    return batch.sum(total) / batch.num_pairs() / len(batch.sides)


def _inverse(temperature: Any) -> jax.Array:
    pairs.check_number("temperature", temperature)
    check_range("temperature", temperature, 0, None, above=True)
    return 1 / jnp.asarray(temperature, jnp.result_type(float))
