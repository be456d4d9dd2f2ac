r"""Losses of pairs, with negatives mined in the batch; and how well embeddings retrieve.

::

    (loss, info), gradient = jax.value_and_grad(loss_of_params, has_aux=True)(params)

    def loss_of_params(params):
        x, y = embed_images(params, images), embed_captions(params, captions)
        return contrastive.hinge_loss(x, y, mining="hardest", positives=image_ids)

===============================  ==================================================================
:func:`hinge_loss`               sum or maximum of hinges, and what lies between
:func:`info_nce`                 the softmax over the batch, with a temperature that is learned
:func:`multi_positive`           the same with several positives; :func:`sup_con` within one set
:func:`hard_negative_nce`        the same with hard negatives, and corrected for hidden positives
:func:`sigmoid_loss`             every pair a yes or no (SigLIP)
:func:`triplet_loss`             batch-hard and semi-hard triplets within one set
:func:`switch`, :func:`ramp`     from all negatives to the hardest, by the step; also
                                 :func:`top_k_annealing` and :func:`temperature_annealing`
:func:`memory_init`              past embeddings as negatives, from a queue or a slow encoder
                                 (:func:`momentum_init`)
:func:`in_chunks`                encoders of large batches, in little memory
:func:`normalized`               embeddings of length 1, with a gradient for zero
:func:`collapse`                 whether embeddings have become alike
:func:`retrieval_metrics`        recall, ranks and mean average precision
===============================  ==================================================================

All losses take ``block_size``, which bounds their memory (but for the k hardest of a large k), and
``axis_name``, with which negatives come from all devices, gathered or sent around a ring (semi-hard
triplets: gathered). None of this changes the value or the gradient.

Derivatives are taken in reverse mode, as often as wanted: ``jax.grad`` of ``jax.grad``, not
``jax.jvp`` or ``jax.hessian``, for the gradients are given by hand.
"""

from jaxrobust.contrastive._chunks import in_chunks
from jaxrobust.contrastive._collapse import Collapse, collapse
from jaxrobust.contrastive._hinge import Info, hinge_loss
from jaxrobust.contrastive._mining import (
    Mining,
    distance_weighted,
    mixed,
    selective,
    semi_hard,
    soft,
    top_k,
)
from jaxrobust.contrastive._queue import (
    Memory,
    Momentum,
    memory_init,
    memory_push,
    memory_younger,
    momentum_init,
    momentum_update,
)
from jaxrobust.contrastive._retrieval import Ranking, Retrieval, retrieval_metrics
from jaxrobust.contrastive._schedules import (
    Schedule,
    ramp,
    switch,
    temperature_annealing,
    top_k_annealing,
)
from jaxrobust.contrastive._sigmoid import sigmoid_loss
from jaxrobust.contrastive._similarity import Similarity, normalized, order
from jaxrobust.contrastive._softmax import hard_negative_nce, info_nce, multi_positive, sup_con
from jaxrobust.contrastive._triplet import triplet_loss

__all__ = [
    "Collapse",
    "Info",
    "Memory",
    "Mining",
    "Momentum",
    "Ranking",
    "Retrieval",
    "Schedule",
    "Similarity",
    "collapse",
    "distance_weighted",
    "hard_negative_nce",
    "hinge_loss",
    "in_chunks",
    "info_nce",
    "memory_init",
    "memory_push",
    "memory_younger",
    "mixed",
    "momentum_init",
    "momentum_update",
    "multi_positive",
    "normalized",
    "order",
    "ramp",
    "retrieval_metrics",
    "selective",
    "semi_hard",
    "sigmoid_loss",
    "soft",
    "sup_con",
    "switch",
    "temperature_annealing",
    "top_k",
    "top_k_annealing",
    "triplet_loss",
]
