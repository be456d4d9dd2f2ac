"""Margins, robust radii and exact attacks of linear classifiers.

The arguments are checked outside and the numbers computed inside of ``jit``: a call without a
``jit`` around it is as fast, and runs on arrays that are sharded by type where single operations
do not.

Examples and weights may be sharded over any axes, also over the features: the examples stay where
they are, the weights of several classes are brought together. Over Explicit axes ``jax.grad``
without a ``jit`` around it needs ``jax.set_mesh``, as it does for any function.
"""

import functools

import jax
import jax.numpy as jnp

from jaxrobust import trees
from jaxrobust.linear import _sharding
from jaxrobust.linear._checks import Array, check_nonnegative, check_problem
from jaxrobust.norms import Norm, as_norm


def margins(w: Array, x: Array, y: Array) -> jax.Array:
    r"""By how much every example is on its right side.

    Binary: :math:`m_i = y_i \langle w, x_i\rangle`. Multiclass:
    :math:`m_i = \min_{c \ne y_i} \langle w_{y_i} - w_c, x_i\rangle`.

    Args:
      w: ``(*features)`` weights of a binary classifier, or ``(C, *features)`` one row per class.
      x: ``(n, *features)`` examples.
      y: ``(n,)`` labels: -1 and +1, or classes 0..C-1 (integer dtype).

    Returns:
      ``(n,)``, in units of the score.

    Raises:
      ValueError, TypeError: if shapes or dtypes disagree, labels are out of range or x is not
        finite (values are looked at outside of a trace only).
    """
    return _margins(w, x, y, check_problem(w, x, y)).astype(jnp.result_type(w, x))


def margin(w: Array, x: Array, y: Array, norm: Norm | str) -> jax.Array:
    r"""Normalised margin :math:`\min_i m_i / \|w\|`, with ``norm`` the norm of the *weights*.

    For a binary problem it is the largest radius that no perturbation bounded in the *dual* norm
    overcomes: ``margin(w, x, y, norm) == robust_radius(w, x, y, norm.dual)``.

    Args:
      w: ``(*features)`` or ``(C, *features)``; for a matrix the norm is of the whole matrix.
      x: ``(n, *features)``.
      y: ``(n,)`` labels as in :func:`margins`.
      norm: norm of the weights, or its name.

    Returns:
      ``()``; negative if an example is misclassified, 0 for zero weights.

    Raises:
      ValueError, TypeError: as :func:`margins`; for an unknown norm.
    """
    norm = as_norm(norm)
    return _margin(w, x, y, norm, check_problem(w, x, y))


def robust_radii(w: Array, x: Array, y: Array, norm: Norm | str) -> jax.Array:
    r"""Distance of every example from the decision boundary, in the norm of the *perturbation*.

    Binary: :math:`y_i\langle w, x_i\rangle / \|w\|_*`. Multiclass:
    :math:`\min_{c\ne y_i} \langle w_{y_i}-w_c, x_i\rangle / \|w_{y_i}-w_c\|_*`.

    Args:
      w: ``(*features)`` or ``(C, *features)``.
      x: ``(n, *features)``.
      y: ``(n,)`` labels as in :func:`margins`.
      norm: norm that bounds the perturbation, or its name.

    Returns:
      ``(n,)``, in units of x; negative where an example is misclassified, 0 where the weights (of
      two classes) do not differ from zero.

    Raises:
      ValueError, TypeError: as :func:`margins`; for an unknown norm.
    """
    dual = as_norm(norm).dual
    return _robust_radii(w, x, y, dual, check_problem(w, x, y))


def robust_radius(w: Array, x: Array, y: Array, norm: Norm | str) -> jax.Array:
    """The largest radius at which no example can be misclassified, ``()``.

    It is the minimum of :func:`robust_radii`, with ``norm`` the norm of the *perturbation*.
    Negative if an example is misclassified without one.
    """
    return _minimum(robust_radii(w, x, y, norm))


def adversarial_accuracy(
    w: Array, x: Array, y: Array, norm: Norm | str, eps: float | Array
) -> jax.Array:
    r"""Exact share of examples that no perturbation of norm at most ``eps`` misclassifies (a mean).

    Example i counts iff :math:`m_i > \epsilon\|w\|_*` strictly (a tie counts as lost), for all
    wrong classes in the multiclass case.

    Args:
      w: ``(*features)`` or ``(C, *features)``.
      x: ``(n, *features)``.
      y: ``(n,)`` labels as in :func:`margins`.
      norm: norm that bounds the perturbation, or its name.
      eps: radius or an array of radii, each 0 or more, in units of x.

    Returns:
      Share in [0, 1], of the shape of ``eps``.

    Raises:
      ValueError: if a known ``eps`` is negative or NaN; as :func:`margins`.
      TypeError: if ``eps`` is no real number or array of them; as :func:`margins`.
    """
    check_nonnegative("eps", eps)
    dual = as_norm(norm).dual
    return _adversarial_accuracy(w, x, y, eps, dual, check_problem(w, x, y))


def worst_case(w: Array, x: Array, y: Array, norm: Norm | str, eps: float | Array) -> jax.Array:
    r"""The perturbation of norm at most ``eps`` that lowers each example's margin the most.

    Binary: :math:`\delta_i = -\epsilon\, y_i\, \mathrm{lmo}(w)`, which attains
    :math:`m_i - \epsilon\|w\|_*`. Multiclass: the same against the class c with the smallest
    :math:`\langle w_{y_i}-w_c, x_i\rangle - \epsilon\|w_{y_i}-w_c\|_*` (lowest index at ties).
    Every example is attacked on its own; nothing couples them.

    Args:
      w: ``(*features)`` or ``(C, *features)``.
      x: ``(n, *features)``.
      y: ``(n,)`` labels as in :func:`margins`.
      norm: norm that bounds the perturbation, or its name.
      eps: radius, 0 or more, one for all or ``(n,)``; in units of x.

    Returns:
      ``(n, *features)``: the perturbations, to be added to x. No bounds on x + delta are kept.

    Raises:
      ValueError: if a known ``eps`` is negative or NaN or has another shape; as :func:`margins`.
      TypeError: if ``eps`` is no real number or array of them; as :func:`margins`.
    """
    check_nonnegative("eps", eps)
    norm, several = as_norm(norm), check_problem(w, x, y)
    if jnp.ndim(eps) != 0 and jnp.shape(eps) != y.shape:
        raise ValueError(f"eps must be a scalar or have shape {y.shape}, got {jnp.shape(eps)}")
    return _worst_case(w, x, y, eps, norm, several)


_minimum = jax.jit(jnp.min)


@functools.partial(jax.jit, static_argnames="several")
def _margins(w: Array, x: Array, y: Array, several: bool) -> jax.Array:
    """``(n,)`` in float32 at least."""
    return jnp.min(_class_margins(w, x, y), axis=1) if several else _signed_scores(w, x, y)


@functools.partial(jax.jit, static_argnames=("norm", "several"))
def _margin(w: Array, x: Array, y: Array, norm: Norm, several: bool) -> jax.Array:
    smallest = jnp.min(_margins(w, x, y, several))
    return _divide(smallest, norm.value(trees.promote(w))).astype(jnp.result_type(w, x))


@functools.partial(jax.jit, static_argnames=("dual", "several"))
def _robust_radii(w: Array, x: Array, y: Array, dual: Norm, several: bool) -> jax.Array:
    if several:
        radii = jnp.min(_divide(_class_margins(w, x, y), _pairwise_lengths(w, y, dual)), axis=1)
    else:
        radii = _divide(_signed_scores(w, x, y), dual.value(trees.promote(w)))
    return radii.astype(jnp.result_type(w, x))


@functools.partial(jax.jit, static_argnames=("dual", "several"))
def _adversarial_accuracy(w, x, y, eps: float | Array, dual: Norm, several: bool) -> jax.Array:
    if several:
        slack, lengths = _class_margins(w, x, y), _pairwise_lengths(w, y, dual)
        own = jnp.isinf(slack)  # the example's own class never wins against itself
    else:
        slack, lengths = _signed_scores(w, x, y)[:, None], dual.value(trees.promote(w))
        own = False

    def share(radius):
        safe = jnp.all(own | (slack > radius * lengths), axis=1)
        return jnp.mean(safe, dtype=slack.dtype)

    radii = jnp.asarray(eps, slack.dtype)
    shares = jax.vmap(share)(radii.reshape(-1)).reshape(radii.shape)
    return shares.astype(jnp.result_type(w, x))


@functools.partial(jax.jit, static_argnames=("norm", "several"))
def _worst_case(w, x, y, eps: float | Array, norm: Norm, several: bool) -> jax.Array:
    wide, dtype = trees.promote(w), jnp.result_type(w, x)
    radii = jnp.asarray(eps, wide.dtype)
    if several:
        wide = _sharding.gather(wide)
        lost = radii.reshape(-1, 1) * _pairwise_lengths(w, y, norm.dual)
        rival = jnp.argmin(_class_margins(w, x, y) - lost, axis=1)
        directions = jax.vmap(norm.lmo)(_sharding.rows(wide, y) - _sharding.rows(wide, rival))
        signed_radii = radii * jnp.ones(y.shape, wide.dtype)
    else:
        directions = _sharding.features_like(norm.lmo(wide), x)[None]
        signed_radii = radii * y.astype(wide.dtype)
    return _sharding.like((-_spread(signed_radii, x.ndim) * directions).astype(dtype), x)


def _signed_scores(w: Array, x: Array, y: Array) -> jax.Array:
    """``(n,)`` in float32 at least."""
    w, x = trees.promote((w, x))
    return jnp.asarray(y, x.dtype) * _sharding.scores(x, w)


def _class_margins(w: Array, x: Array, y: Array) -> jax.Array:
    """``(n, C)``, float32 at least: the own class's score minus class c's; infinite at the own."""
    w, x = trees.promote((w, x))
    scores = _sharding.scores(x, w)
    own = y[:, None] == jnp.arange(w.shape[0])[None, :]
    right = jnp.sum(jnp.where(own, scores, 0), axis=1, keepdims=True)
    return jnp.where(own, jnp.inf, right - scores)


def _pairwise_lengths(w: Array, y: Array, dual: Norm) -> jax.Array:
    """``(n, C)``: dual norm of ``w[y_i] - w[c]``; from all C^2 pairs, as usually n is larger."""
    w = _sharding.gather(trees.promote(w))
    pairs = jax.vmap(lambda a: jax.vmap(lambda b: dual.value(a - b))(w))(w)
    return _sharding.rows(pairs, y)


def _divide(margins: jax.Array, lengths: jax.Array) -> jax.Array:
    """The quotient; where the weights have no length, their margin: zero (or the own class's)."""
    return margins / jnp.where(lengths > 0, lengths, 1)


def _spread(per_example: jax.Array, ndim: int) -> jax.Array:
    return per_example.reshape(-1, *([1] * (ndim - 1)))
