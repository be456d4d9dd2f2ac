"""Gradient estimates from a draw: the weighted mini-batch, and SVRG."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust import trees
from jaxrobust.sampling._checks import check_count

LossFn = Callable[[Any, Any], Any]


def value_and_grad(loss_fn: LossFn) -> Callable[[Any, Any, jax.Array], tuple[jax.Array, Any]]:
    r"""The weighted mean loss of a batch and its gradient, :math:`\frac1B\sum_j w_j g_j`.

    Args:
      loss_fn: ``loss_fn(params, example) -> ()``, the loss of one example.

    Returns:
      A function of ``(params, batch, weights)``: pytree, pytree of arrays ``(B, ...)``, and the
      weights ``(B,)`` of a draw. It returns the loss ``()``, in float32 at least, and a gradient
      like the params. With a
      draw of a sampler both are unbiased for the mean over all examples.

    Raises:
      ValueError: at the call, for weights that are not ``(B,)``, batch leaves of other lengths, or
        a loss that is no scalar.
    """

    def total(params, batch, weights):
        losses = jax.vmap(loss_fn, (None, 0))(params, batch)
        if losses.ndim != 1:  # it would be multiplied with the weights of other examples
            raise ValueError(
                f"loss_fn must return a scalar, the loss of one example, got shape "
                f"{losses.shape[1:]}; it is called with one example, without the batch axis"
            )
        return jnp.sum(trees.promote(losses) * weights)  # in bfloat16 weights would be rounded

    def of_part(weighted_batch, params):
        return jax.value_and_grad(total)(params, *weighted_batch), ()

    def weighted(params: Any, batch: Any, weights: jax.Array) -> tuple[jax.Array, Any]:
        _check_weights(batch, weights)
        weights = jnp.asarray(weights) / jnp.shape(weights)[0]
        return trees.on_each_device(of_part, (batch, weights), params)[0]

    return weighted


class Snapshot(NamedTuple):
    """Params at which the mean gradient over all examples is known."""

    params: Any
    mean: Any  # like the params: mean gradient there


class SVRG(NamedTuple):
    """What :func:`svrg` returns."""

    snapshot: Callable[..., Snapshot]  # (params, data) -> Snapshot: one pass over the data
    gradient: Callable[..., Any]  # (params, batch, weights, snapshot) -> like the params


def svrg(loss_fn: LossFn, *, coefficient: float = 1.0, batch_size: int = 128) -> SVRG:
    r"""The snapshot control variate, for draws of any sampler.

    .. math:: \hat g = \frac1B\sum_j w_j\big(g_j(\theta) - \alpha\, g_j(\tilde\theta)\big)
              + \alpha\,\bar g(\tilde\theta)

    Unbiased for any sampler that is. Its variance is that of the sampler with the gradients
    :math:`g_i(\theta)-\alpha g_i(\tilde\theta)`, see :func:`variance`: zero at the snapshot for
    :math:`\alpha=1`. The loss must depend on the example and params alone: the same augmentation,
    dropout mask and normalisation statistics at both.

    Args:
      loss_fn: ``loss_fn(params, example) -> ()``, the loss of one example.
      coefficient: :math:`\alpha`, 1 for SVRG; less where the snapshot is old.
      batch_size: examples of which the gradient is found at once, for the snapshot.

    Returns:
      :class:`SVRG`: ``snapshot(params, data)`` with data ``(N, ...)``, and ``gradient(params,
      batch, weights, snapshot)``, which takes two gradients of the batch. Both are pure and made
      for ``jit``.

    Raises:
      ValueError: if ``batch_size`` is not positive, or ``coefficient`` not finite (unless traced);
        at the call, for data without examples or of different lengths, and as
        :func:`value_and_grad`.

    Source:
      Johnson and Zhang, 2013; the coefficient: Yin et al., arXiv:2311.05589.
    """
    batch_size = check_count("batch_size", batch_size)
    if not isinstance(coefficient, Tracer) and not np.all(np.isfinite(np.asarray(coefficient))):
        raise ValueError(f"coefficient must be finite, got {coefficient}")
    weighted = value_and_grad(loss_fn)

    def snapshot(params: Any, data: Any) -> Snapshot:
        return Snapshot(params, mean_gradient(loss_fn, params, data, batch_size))

    def gradient(params: Any, batch: Any, weights: jax.Array, snapshot: Snapshot) -> Any:
        here = weighted(params, batch, weights)[1]
        there = weighted(snapshot.params, batch, weights)[1]
        return jax.tree.map(
            lambda new, old, mean: new - coefficient * (old - mean), here, there, snapshot.mean
        )

    return SVRG(snapshot, gradient)


def mean_gradient(loss_fn: LossFn, params: Any, data: Any, batch_size: int) -> Any:
    """The gradient of the mean loss over all examples, in batches; like the params.

    Compiled once per loss function and shapes, where it is not traced.
    """
    num_examples = trees.check_examples("data", data)
    total = _sum_of_batches(loss_fn, min(batch_size, num_examples), params, data)
    return trees.cast_like(trees.scale(1 / num_examples, total), params)


@functools.partial(trees.compiled, num_static=2)
def _sum_of_batches(loss_fn: LossFn, size: int, params: Any, data: Any) -> Any:
    """The sum of the gradients of all examples, in float32 at least."""
    num_examples = jax.tree.leaves(data)[0].shape[0]

    def step(total, number):
        place = number * size + jnp.arange(size)
        # The last batch is filled up with copies that count nothing.
        batch = trees.take(data, jnp.minimum(place, num_examples - 1))
        weights = (place < num_examples).astype(jnp.float32)
        found = value_and_grad(loss_fn)(params, batch, weights)[1]
        return trees.add(total, trees.scale(size, trees.promote(found))), None

    start = jax.tree.map(jnp.zeros_like, trees.promote(params))
    numbers = jnp.arange(-(-num_examples // size), dtype=jnp.int32)
    return jax.lax.scan(step, start, numbers)[0]


def _check_weights(batch: Any, weights: Any) -> None:
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(batch)]
    if len({shape[:1] for shape in shapes}) != 1 or shapes[0] == ():
        raise ValueError(f"batch must have arrays (B, ...) of one length, got shapes {shapes}")
    if jnp.shape(weights) != shapes[0][:1]:
        raise ValueError(f"weights must be of shape {shapes[0][:1]}, got {jnp.shape(weights)}")
