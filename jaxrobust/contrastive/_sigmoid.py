"""The sigmoid loss: every pair of the batch is a yes or no of its own."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust.contrastive import _pairs as pairs
from jaxrobust.contrastive._batch import Communication, batch_of
from jaxrobust.contrastive._checks import check_range
from jaxrobust.contrastive._devices import over_devices
from jaxrobust.contrastive._queue import Memory
from jaxrobust.contrastive._statistics import LogisticSum


@over_devices
def sigmoid_loss(
    x: jax.Array,
    y: jax.Array,
    *,
    scale: Any = 10.0,
    bias: Any = -10.0,
    positives: Any = None,
    valid: Any = None,
    similarity: Any = "cosine",
    memory_y: Memory | None = None,
    block_size: int | None = None,
    axis_name: Any = None,
    communication: Communication = "gather",
) -> jax.Array:
    r"""The sum of logistic losses of all pairs, over the number of items (SigLIP).

    .. math:: \frac1B\sum_{i,j}\log\big(1+e^{-z_{ij}(t s_{ij}+b)}\big)

    with z = 1 for positives, the partner among them, and -1 for negatives. No normaliser couples
    the pairs.

    Args:
      x: ``(B, D)`` floating, embeddings.
      y: ``(B, D)``, those of their partners.
      scale: t above 0, a number or ``()``. It has a gradient: learn its logarithm.
      bias: b, a number or ``()``; it has a gradient. At -10 all pairs begin as negatives.
      positives: who else belongs together: None, ids ``(B,)`` or a mask ``(B, B)``.
      valid: ``(B,)`` bool, False for padding.
      similarity: as in :func:`hinge_loss`.
      memory_y: past y, as further candidates of the x: positives where ids are the same, negatives
        otherwise, as all are with a mask.
      block_size: how many y are compared with all x at once, as in :func:`hinge_loss`.
      axis_name: mesh axes over which pairs are spread, as in :func:`hinge_loss`.
      communication: between devices, as in :func:`hinge_loss`.

    Returns:
      The loss ``()``, in float32 at least.

    Raises:
      ValueError, TypeError: as :func:`hinge_loss`; and for a scale that is not above 0, unless
        traced.

    Source:
      Zhai et al., arXiv:2303.15343, Eq. 1 and Algorithm 1.
    """
    pairs.check_number("scale", scale)
    check_range("scale", scale, 0, None, above=True)
    batch = batch_of(
        x, y, scale=scale, bias=bias, similarity=similarity, positives=positives, valid=valid,
        directions="x_to_y", memory_y=memory_y, block_size=block_size, axis_name=axis_name,
        communication=communication,
    )  # fmt: skip
    ((sums,),) = batch.statistics((LogisticSum(),))
    return batch.sum(jnp.where(batch.valid, sums, 0)) / batch.num_pairs()
