"""Mining that changes in the course of training: functions from a step to what to mine."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxrobust import trees
from jaxrobust.contrastive._checks import check_range
from jaxrobust.contrastive._mining import Mining, mixed, soft, top_k

# From a step, an integer that may be traced, to what to mine at it.
Schedule = Callable[[Any], Mining]


def switch(at: int, *, mean: bool = True) -> Schedule:
    """All negatives before step ``at``, the hardest from there on.

    The cure of a collapse at the start. Where all embeddings are the same, neither has a gradient;
    near there, the gradients of all negatives add up to one that spreads them, and that of the
    hardest is of one negative that may be any.

    Args:
      at: a step.
      mean: whether all negatives enter by their mean, as in :func:`mixed`.
    """
    at = trees.check_count("at", at, least=0)
    return lambda step: mixed(jnp.where(step < at, 0.0, 1.0), mean=mean)


def ramp(first: int, last: int, *, mean: bool = True) -> Schedule:
    """From all negatives at step ``first`` to the hardest at ``last``, linearly.

    Args:
      first: the last step with all negatives alone.
      last: the first with the hardest alone, later than ``first``.
      mean: as in :func:`switch`.

    Raises:
      ValueError: if the steps are not in order.
    """
    first = trees.check_count("first", first, least=0)
    last = trees.check_count("last", last, least=first + 1)
    # In floating point: an unsigned step less `first` would be a large number.
    share = lambda step: (jnp.asarray(step, jnp.result_type(float)) - first) / (last - first)
    return lambda step: mixed(jnp.clip(share(step), 0.0, 1.0), mean=mean)


def top_k_annealing(num_negatives: int, last: int) -> Schedule:
    r"""The k hardest, from all at step 0 to one at step ``last``: k falls geometrically.

    .. math:: k = \mathrm{round}\big((B-1)^{1 - t/T}\big)

    Args:
      num_negatives: B - 1, static. Memory is ``(B, num_negatives)`` at all steps, whatever the
        block size; of a large batch, begin with fewer.
      last: T, the first step with the hardest alone, at least 1.
    """
    most = trees.check_count("num_negatives", num_negatives)
    last = trees.check_count("last", last)

    def at(step):
        share = jnp.clip(1 - step / last, 0.0, 1.0)
        return top_k(jnp.round(most**share).astype(jnp.int32), most=most)

    return at


def temperature_annealing(first: float, final: float, last: int) -> Schedule:
    r"""The soft maximum, with :math:`\beta` from ``first`` to ``final``, geometrically.

    Args:
      first: :math:`\beta` at step 0, above 0.
      final: at step ``last`` and after it, above 0.
      last: a step, at least 1.
    """
    for name, value in (("first", first), ("final", final)):
        check_range(name, value, 0, None, above=True)
    last = trees.check_count("last", last)

    def at(step):
        return soft(first * (final / first) ** jnp.clip(step / last, 0.0, 1.0))

    return at
