r"""What the gradient of every single example says, at about the price of the mean gradient.

All functions take ``loss_fn(params, example) -> ()``, the loss of *one* example, without the batch
axis: a plain JAX function. Models of Flax (Linen and NNX), Equinox and Haiku become one in a line::

    loss_fn = lambda params, ex: loss(model.apply(params, ex["x"]), ex["y"])  # Linen, and Haiku
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)  # NNX
    loss_fn = lambda params, ex: loss(nnx.merge(graphdef, params, rest)(ex["x"]), ex["y"])
    params, static = eqx.partition(model, eqx.is_inexact_array)  # Equinox
    loss_fn = lambda params, ex: loss(eqx.combine(params, static)(ex["x"]), ex["y"])

(for Haiku, with ``hk.without_apply_rng``; for a Linen model with running statistics ``params`` is
``variables["params"]``, and ``model.apply({**variables, "params": params}, ...)``, for all that is
in ``params`` counts as a parameter). What they return is a function of ``(params, batch)``,
made for ``jit``; the leaves of ``batch`` have a leading axis B. With :math:`g_i` the gradient of
example i with respect to all params:

===============================  ==========================================================
:func:`gradients`                :math:`g_i`, all of them: ``vmap(grad)``, the slow twin
:func:`norms`                    :math:`\|g_i\|`
:func:`value_grad_and_norms`     losses, mean gradient and norms in one pass
:func:`dots`                     :math:`\langle g_i, v\rangle` for one or several directions
:func:`sketches`                 short random vectors with the inner products of the gradients
:func:`landmark_sketches`        the same, exact for what they share with those of some examples;
                                 :func:`landmarks_pay` tells whether this is cheap
:func:`gram`                     :math:`\langle g_i, g_j\rangle` for all pairs, exactly
:func:`factors`                  :math:`a_{it}, d_{it}` of :math:`g_i = \sum_t a_{it}d_{it}^T`
:func:`moments`                  mean, noise and signal; :func:`update_moments` for many batches
:func:`explain`                  what is done for which leaf, and its cost
:func:`gradient_cost`            multiply-adds of one of them; :func:`sketch_cost` of a sketch
:func:`check`                    norms by leaf against the slow twin, for your model
:func:`slow_in_loops`            whether batches are better looped over in Python, on a CPU
===============================  ==========================================================

How: the loss is traced to a program, and every operation found where a parameter meets the data.
At a product, a convolution or a table look-up the gradient is a sum of outer products
:math:`\sum_t a_t d_t^T` of the operation's input and the cotangent of its output. One backward pass
gives all of them, and norms, inner products and sketches follow without the gradients. A leaf that
is used in any other way is copied for every example, in the same pass if that takes little memory,
else in one of its own in chunks: slower, and as exact. Nothing is left out.

The loss must not couple examples: batch normalisation in training mode and contrastive losses have
no per-example gradients.
"""

from jaxrobust.per_example._check import Check, check
from jaxrobust.per_example._cost import gradient_cost, sketch_cost
from jaxrobust.per_example._dots import dots
from jaxrobust.per_example._explain import Explanation, Row, explain
from jaxrobust.per_example._factors import Factors, factors
from jaxrobust.per_example._gradients import gradients
from jaxrobust.per_example._gram import gram
from jaxrobust.per_example._landmarks import (
    Landmarks,
    LandmarkSketches,
    landmark_sketches,
    landmarks_pay,
)
from jaxrobust.per_example._loops import slow_in_loops
from jaxrobust.per_example._moments import (
    Moments,
    MomentsState,
    init_moments,
    moments,
    summarize_moments,
    update_moments,
)
from jaxrobust.per_example._norms import norms, value_grad_and_norms
from jaxrobust.per_example._sketches import sketches

__all__ = [
    "Check",
    "Explanation",
    "Factors",
    "LandmarkSketches",
    "Landmarks",
    "Moments",
    "MomentsState",
    "Row",
    "check",
    "dots",
    "explain",
    "factors",
    "gradient_cost",
    "gradients",
    "gram",
    "init_moments",
    "landmark_sketches",
    "landmarks_pay",
    "moments",
    "norms",
    "sketch_cost",
    "sketches",
    "slow_in_loops",
    "summarize_moments",
    "update_moments",
    "value_grad_and_norms",
]
