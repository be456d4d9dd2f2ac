"""Whether embeddings have collapsed: are all the same, or in few directions."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import trees
from jaxrobust.contrastive import _pairs as pairs
from jaxrobust.contrastive._similarity import normalized

_HIGHEST = jax.lax.Precision.HIGHEST


class Collapse(NamedTuple):
    """What a batch of embeddings is like; a collapsed one has 1, 0 and 1."""

    mean_cosine: jax.Array  # (): of different items; 1 if all point the same way
    spread: jax.Array  # (): mean squared distance of unit vectors to their mean, in 0..1
    dimensions: jax.Array  # (): effective number of directions, in 1..min(B, D)


def collapse(z: Any) -> Collapse:
    r"""Signs of a collapse, in B D^2 operations at most; look at both towers.

    The mean cosine of all pairs is that of sums, :math:`\frac{\|\sum_i u_i\|^2 - B}{B(B-1)}`. The
    effective number of directions is :math:`(\sum_k\lambda_k)^2/\sum_k\lambda_k^2` over the
    eigenvalues of :math:`\sum_i u_i u_i^T`. The mean hinge of the hardest negative over the margin
    is in :class:`Info`.

    Args:
      z: ``(B, D)`` floating, embeddings, at least two; zero rows count as such.

    Raises:
      ValueError, TypeError: as :func:`hinge_loss`; for a single row.
    """
    z = trees.bring_together(pairs.check_embeddings("z", z))
    number = len(z)
    if number < 2:
        raise ValueError(f"z must have at least 2 rows, got {number}")
    unit = normalized(trees.promote(z))
    total = jnp.sum(unit, axis=0)
    squares = jnp.sum(unit**2)
    smaller = unit if number <= z.shape[1] else unit.T
    gram = jnp.matmul(smaller, smaller.T, precision=_HIGHEST)
    return Collapse(
        mean_cosine=(jnp.sum(total**2) - squares) / (number * (number - 1)),
        spread=jnp.sum((unit - total[None, :] / number) ** 2) / number,
        dimensions=squares**2 / jnp.maximum(jnp.sum(gram**2), jnp.finfo(gram.dtype).tiny),
    )
