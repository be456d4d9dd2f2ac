"""Margins, robust radii and exact attacks of linear classifiers."""

import jax
import jax.numpy as jnp

from jaxrobust.linear._checks import check_problem, is_concrete
from jaxrobust.norms import Norm, as_norm

_HIGHEST = jax.lax.Precision.HIGHEST


def margins(w: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
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
      ValueError, TypeError: if shapes or dtypes disagree, labels are out of range or x is not finite (values are looked
        at outside of a trace only).
    """
    if check_problem(w, x, y):
        return jnp.min(_class_margins(w, x, y), axis=1)
    return y.astype(x.dtype) * _scores(w, x)


def margin(w: jax.Array, x: jax.Array, y: jax.Array, norm: Norm | str) -> jax.Array:
    r"""Normalised margin :math:`\min_i m_i / \|w\|`, with ``norm`` the norm of the *weights*.

    For a binary problem it is the largest radius that no perturbation bounded in the *dual* norm overcomes:
    ``margin(w, x, y, norm) == robust_radius(w, x, y, norm.dual)``.

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
    smallest = jnp.min(margins(w, x, y))
    length = as_norm(norm).value(w)
    return jnp.where(length > 0, smallest / jnp.where(length > 0, length, 1), smallest)


def robust_radii(w: jax.Array, x: jax.Array, y: jax.Array, norm: Norm | str) -> jax.Array:
    r"""Distance of every example from the decision boundary, in the norm of the *perturbation*.

    Binary: :math:`y_i\langle w, x_i\rangle / \|w\|_*`. Multiclass:
    :math:`\min_{c\ne y_i} \langle w_{y_i}-w_c, x_i\rangle / \|w_{y_i}-w_c\|_*`.

    Args:
      w: ``(*features)`` or ``(C, *features)``.
      x: ``(n, *features)``.
      y: ``(n,)`` labels as in :func:`margins`.
      norm: norm that bounds the perturbation, or its name.

    Returns:
      ``(n,)``, in units of x; negative where an example is misclassified, 0 where the weights (of two classes) do not
      differ from zero.

    Raises:
      ValueError, TypeError: as :func:`margins`; for an unknown norm.
    """
    dual = as_norm(norm).dual
    if check_problem(w, x, y):
        lengths = _pairwise_lengths(w, y, dual)
        return jnp.min(_divide(_class_margins(w, x, y), lengths), axis=1)
    return _divide(y.astype(x.dtype) * _scores(w, x), dual.value(w))


def robust_radius(w: jax.Array, x: jax.Array, y: jax.Array, norm: Norm | str) -> jax.Array:
    """The largest radius at which no example can be misclassified, ``()``: the minimum of :func:`robust_radii`.

    ``norm`` is the norm of the *perturbation*. Negative if an example is misclassified without one.
    """
    return jnp.min(robust_radii(w, x, y, norm))


def adversarial_accuracy(
    w: jax.Array, x: jax.Array, y: jax.Array, norm: Norm | str, eps: float | jax.Array
) -> jax.Array:
    r"""Exact share of examples that no perturbation of norm at most ``eps`` misclassifies (a mean).

    Example i counts iff :math:`m_i > \epsilon\|w\|_*` strictly (a tie counts as lost), for all wrong classes in the
    multiclass case.

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
    _check_radii(eps)
    eps = jnp.asarray(eps, x.dtype)
    dual = as_norm(norm).dual
    if check_problem(w, x, y):
        slack, lengths = _class_margins(w, x, y), _pairwise_lengths(w, y, dual)
        own = jnp.isinf(slack)  # the example's own class never wins against itself
        safe = jax.vmap(lambda e: jnp.all(own | (slack > e * lengths), axis=1))(eps.reshape(-1))
    else:
        slack, length = y.astype(x.dtype) * _scores(w, x), dual.value(w)
        safe = slack[None, :] > (eps.reshape(-1) * length)[:, None]
    return jnp.mean(safe, axis=1, dtype=x.dtype).reshape(eps.shape)


def worst_case(
    w: jax.Array, x: jax.Array, y: jax.Array, norm: Norm | str, eps: float | jax.Array
) -> jax.Array:
    r"""The perturbation of norm at most ``eps`` that lowers each example's margin the most.

    Binary: :math:`\delta_i = -\epsilon\, y_i\, \mathrm{lmo}(w)`, which attains
    :math:`m_i - \epsilon\|w\|_*`. Multiclass: the same against the class c with the smallest
    :math:`\langle w_{y_i}-w_c, x_i\rangle - \epsilon\|w_{y_i}-w_c\|_*` (lowest index at ties). Every example is attacked
    on its own; nothing couples them.

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
    _check_radii(eps)
    if jnp.ndim(eps) != 0 and jnp.shape(eps) != y.shape:
        raise ValueError(f"eps must be a scalar or have shape {y.shape}, got {jnp.shape(eps)}")
    radii = jnp.broadcast_to(jnp.asarray(eps, x.dtype), y.shape)
    norm = as_norm(norm)
    if check_problem(w, x, y):
        lengths = _pairwise_lengths(w, y, norm.dual)
        rival = jnp.argmin(_class_margins(w, x, y) - radii[:, None] * lengths, axis=1)
        directions = jax.vmap(norm.lmo)(w[y] - w[rival])
        return -_spread(radii, x) * directions
    return -_spread(radii * y.astype(x.dtype), x) * norm.lmo(w)[None]


def _scores(w: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.tensordot(x, w, axes=w.ndim, precision=_HIGHEST)


def _class_margins(w: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """``(n, C)``: score of the own class minus that of class c; infinite at the own class."""
    classes = w.shape[0]
    flat = w.reshape(classes, -1)
    scores = jnp.matmul(x.reshape(x.shape[0], -1), flat.T, precision=_HIGHEST)
    own = y[:, None] == jnp.arange(classes)[None, :]
    right = jnp.sum(jnp.where(own, scores, 0), axis=1, keepdims=True)
    return jnp.where(own, jnp.inf, right - scores)


def _pairwise_lengths(w: jax.Array, y: jax.Array, dual: Norm) -> jax.Array:
    """``(n, C)``: dual norm of ``w[y_i] - w[c]``; from all C^2 pairs, since n is usually larger than C."""
    pairs = jax.vmap(lambda a: jax.vmap(lambda b: dual.value(a - b))(w))(w)
    return pairs[y]


def _divide(margin_values: jax.Array, lengths: jax.Array) -> jax.Array:
    lengths = jnp.broadcast_to(lengths, margin_values.shape)
    return jnp.where(lengths > 0, margin_values / jnp.where(lengths > 0, lengths, 1), margin_values)


def _check_radii(eps: float | jax.Array) -> None:
    if is_concrete(eps) and not bool(jnp.all(jnp.asarray(eps) >= 0)):
        raise ValueError(f"eps must be 0 or more, got {eps}")


def _spread(per_example: jax.Array, x: jax.Array) -> jax.Array:
    return per_example.reshape(-1, *([1] * (x.ndim - 1)))
