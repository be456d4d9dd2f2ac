"""Clusters of examples by their gradients."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import per_example, trees
from jaxrobust.clustering._checks import check_count, check_data, check_points
from jaxrobust.clustering._fit import Clustering, fit

Method = Literal["sketch", "gram"]
METHODS = ("sketch", "gram")


def gradient_clusters(
    loss_fn: Callable[[Any, Any], jax.Array],
    params: Any,
    data: Any,
    num_clusters: int,
    *,
    key: jax.Array,
    method: Method = "sketch",
    dim: int = 256,
    batch_size: int = 128,
    **options: Any,
) -> Clustering:
    r"""Clusters examples by their gradients :math:`g_i = \nabla_\theta\ell(\theta, x_i)`.

    The objective that is minimised, :math:`J = \sum_k N_k S_k`, is :math:`N^2` times the variance
    of the gradient estimate that draws one example of each cluster.

    ===========  ===================================================================================
    ``sketch``   sketches of ``dim`` numbers by one pass over the data, then :func:`fit` on them;
                 memory ``(N, dim)``. The objective and the centers are those of the sketches, of
                 which the squared distances are unbiased estimates.
    ``gram``     all inner products of pairs: exact, time and memory :math:`N^2`; the oracle for
                 small N. Centers are in coordinates of their own, ``(K, N)``.
    ===========  ===================================================================================

    Args:
      loss_fn: ``loss_fn(params, example) -> ()``, the loss of one example. Give the same function
        every time: a new one is compiled anew.
      params: pytree of floating arrays.
      data: pytree of arrays ``(N, ...)``, all examples.
      num_clusters: K, 1 to N.
      key: PRNG key of the sketches and of the seeding.
      method: see the table.
      dim: length of a sketch.
      batch_size: examples whose gradients are sketched at once.
      **options: further options of :func:`fit`; ``init=last.assignments`` starts from the last
        clustering.

    Returns:
      :class:`Clustering` of the N examples.

    Raises:
      ValueError: for data without examples or of different lengths, an unknown method, a
        ``batch_size`` below 1, gradients that are not finite
        (the message says of which examples; not when traced), and as :func:`fit`.
      ValueError, TypeError: as :func:`per_example.sketches`, for what cannot be differentiated.

    Source:
      Faghri et al., arXiv:2007.04532, which clusters with two passes over the data for each of 3
      to 10 iterations; one pass of sketches and the exact descent are this library's.
    """
    num_clusters = check_count("num_clusters", num_clusters, check_data("data", data))
    batch_size = check_count("batch_size", batch_size)
    sketch_key, fit_key = jax.random.split(key)
    if method == "sketch":
        points = _sketch_all(loss_fn, params, data, sketch_key, dim, batch_size)
    elif method == "gram":
        points = _coordinates(per_example.gram(loss_fn)(params, data))
    else:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    points = check_points("gradients", points)
    return fit(points, num_clusters, key=fit_key, **options)


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def _sketch_all(
    loss_fn: Callable[[Any, Any], jax.Array],
    params: Any,
    data: Any,
    key: jax.Array,
    dim: int,
    batch_size: int,
) -> jax.Array:
    # Params and key are arguments of one program, so that a later refresh compiles nothing.
    sketch = per_example.sketches(loss_fn, key=key, dim=dim)
    return map_batches(lambda batch: sketch(params, batch), data, batch_size)


def map_batches(function: Callable[[Any], Any], data: Any, batch_size: int) -> Any:
    """``function`` of all examples, batch by batch; results ``(N, ...)``, as from a single batch.

    The last batch is filled up with copies of the last example, so that one program does for all;
    what comes of them is dropped.
    """
    num_examples = jax.tree.leaves(data)[0].shape[0]
    batch_size = min(batch_size, num_examples)
    num_batches = -(-num_examples // batch_size)
    places = np.minimum(np.arange(num_batches * batch_size), num_examples - 1)
    places = places.reshape(num_batches, batch_size)

    batch = lambda index: function(jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], data))
    found = jax.lax.map(batch, places)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:num_examples], found)


def _coordinates(gram: jax.Array) -> jax.Array:
    """Points ``(N, N)`` with these inner products."""
    values, vectors = jnp.linalg.eigh(trees.promote(gram))
    # Rounding makes some of the zero eigenvalues negative.
    return vectors * jnp.sqrt(jnp.maximum(values, 0))[None, :]
