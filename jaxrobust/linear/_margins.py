"""Margins, robust radii and exact attacks of linear classifiers."""

import jax
import jax.numpy as jnp

from jaxrobust import trees
from jaxrobust.linear import _sharding
from jaxrobust.linear._checks import Array, check_nonnegative, check_problem
from jaxrobust.norms import Norm, as_norm

_HIGHEST = jax.lax.Precision.HIGHEST


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
    norm, several = as_norm(norm), check_problem(w, x, y)
    smallest = jnp.min(_margins(w, x, y, several))
    return _divide(smallest, norm.value(trees.promote(w))).astype(jnp.result_type(w, x))


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
    dual, several = as_norm(norm).dual, check_problem(w, x, y)
    if several:
        radii = jnp.min(_divide(_class_margins(w, x, y), _pairwise_lengths(w, y, dual)), axis=1)
    else:
        radii = _divide(_signed_scores(w, x, y), dual.value(trees.promote(w)))
    return radii.astype(jnp.result_type(w, x))


def robust_radius(w: Array, x: Array, y: Array, norm: Norm | str) -> jax.Array:
    """The largest radius at which no example can be misclassified, ``()``.

    It is the minimum of :func:`robust_radii`, with ``norm`` the norm of the *perturbation*.
    Negative if an example is misclassified without one.
    """
    return jnp.min(robust_radii(w, x, y, norm))


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
    """
    check_nonnegative("eps", eps)
    dual, several = as_norm(norm).dual, check_problem(w, x, y)
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
    """
    check_nonnegative("eps", eps)
    norm, several = as_norm(norm), check_problem(w, x, y)
    if jnp.ndim(eps) != 0 and jnp.shape(eps) != y.shape:
        raise ValueError(f"eps must be a scalar or have shape {y.shape}, got {jnp.shape(eps)}")
    wide, dtype = trees.promote(w), jnp.result_type(w, x)
    radii = jnp.asarray(eps, wide.dtype)
    if several:
        lost = radii.reshape(-1, 1) * _pairwise_lengths(w, y, norm.dual)
        rival = jnp.argmin(_class_margins(w, x, y) - lost, axis=1)
        directions = jax.vmap(norm.lmo)(_sharding.rows(wide, y) - _sharding.rows(wide, rival))
        signed_radii = radii * jnp.ones(y.shape, wide.dtype)
    else:
        directions = norm.lmo(wide)[None]
        signed_radii = radii * y.astype(wide.dtype)
    return (-_spread(signed_radii, x.ndim) * directions).astype(dtype)


def _margins(w: Array, x: Array, y: Array, several: bool) -> jax.Array:
    """``(n,)`` in float32 at least."""
    return jnp.min(_class_margins(w, x, y), axis=1) if several else _signed_scores(w, x, y)


def _signed_scores(w: Array, x: Array, y: Array) -> jax.Array:
    """``(n,)`` in float32 at least."""
    w, x = trees.promote((w, x))
    return jnp.asarray(y, x.dtype) * jnp.tensordot(x, w, axes=w.ndim, precision=_HIGHEST)


def _class_margins(w: Array, x: Array, y: Array) -> jax.Array:
    """``(n, C)``, float32 at least: the own class's score minus class c's; infinite at the own."""
    w, x = trees.promote((w, x))
    features = tuple(range(1, x.ndim))
    scores = jnp.tensordot(x, w, axes=(features, features), precision=_HIGHEST)
    own = y[:, None] == jnp.arange(w.shape[0])[None, :]
    right = jnp.sum(jnp.where(own, scores, 0), axis=1, keepdims=True)
    return jnp.where(own, jnp.inf, right - scores)


def _pairwise_lengths(w: Array, y: Array, dual: Norm) -> jax.Array:
    """``(n, C)``: dual norm of ``w[y_i] - w[c]``; from all C^2 pairs, as usually n is larger."""
    w = trees.promote(w)
    pairs = jax.vmap(lambda a: jax.vmap(lambda b: dual.value(a - b))(w))(w)
    return _sharding.rows(pairs, y)


def _divide(margins: jax.Array, lengths: jax.Array) -> jax.Array:
    """The quotient; where the weights have no length, their margin: zero (or the own class's)."""
    return margins / jnp.where(lengths > 0, lengths, 1)


def _spread(per_example: jax.Array, ndim: int) -> jax.Array:
    return per_example.reshape(-1, *([1] * (ndim - 1)))
