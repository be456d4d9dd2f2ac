"""The maximum-margin linear classifier of any norm, with a certificate."""

import functools
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.linear import _interior_point, _primal_dual, _sharding
from jaxrobust.linear._checks import (
    Array,
    check_classes,
    check_examples,
    check_nonnegative,
    check_positive,
    check_signs,
    is_concrete,
)
from jaxrobust.linear._group_coordinates import group_coordinates, has_group_form
from jaxrobust.linear._interior_point import Solution
from jaxrobust.norms import Norm, as_norm

Method = Literal["auto", "interior_point", "primal_dual"]
_HIGHEST = jax.lax.Precision.HIGHEST
_MAX_ITERATIONS = {"interior_point": 100, "primal_dual": 100_000}


class MaxMargin(NamedTuple):
    """A linear classifier of (nearly) maximum margin, and the proof of how near.

    The bounds are those of the arrays here, rounded as they are, and hold without ``converged``.

    =========  =========  ======================================================================
    separable  converged  what has been proved
    =========  =========  ======================================================================
    true       true       w separates, and its margin is the largest up to ``gap``
    true       false      w separates, and no margin is above ``upper_bound``
    false      true       no margin is above ``upper_bound``, which is zero to tolerance
    false      false      no margin is above ``upper_bound``; whether there is one is open
    =========  =========  ======================================================================
    """

    w: jax.Array  # (*features) or (C, *features): weights, norm 1 (zero if not separable)
    margin: jax.Array  # (): min_i m_i(w) / ||w||, the lower bound; of the worst perturbation
    upper_bound: jax.Array  # (): of any margin: dual norm of sum_i dual_weights_i a_i - delta
    gap: jax.Array  # (): (upper_bound - margin) / upper_bound, relative; 1 if no margin was found
    dual_weights: jax.Array  # (n,) or, with classes, (n, C): non-negative, sum 1
    separable: jax.Array  # () bool: whether w has a margin beyond rounding errors
    converged: jax.Array  # () bool: gap <= tolerance or, if not separable, upper_bound is zero
    iterations: jax.Array  # () int32: Newton steps, or first-order iterations
    # (*features), of norm eps at most; None without perturbations
    delta: jax.Array | None = None

    def describe(self) -> str:
        """One sentence for a person. Values must be concrete (not inside ``jit``)."""
        if bool(self.separable):
            return (
                f"{'' if bool(self.converged) else 'not converged: '}margin "
                f"{float(self.margin):.6g}, at most {float(self.upper_bound):.6g} for any weights "
                f"(relative gap {float(self.gap):.1e}, {int(self.iterations)} iterations)"
            )
        claim = f"no weights of norm 1 have a margin above {float(self.upper_bound):.3g}"
        if not bool(self.converged):
            return f"not converged: {claim}, none with a positive margin were found"
        support = int(jnp.sum(self.dual_weights > 1e-3 * jnp.max(self.dual_weights)))
        return (
            f"not linearly separable to tolerance: {claim}, the dual norm of a convex combination "
            f"of signed examples ({support} of them carry it; weights in dual_weights)"
        )


def max_margin(
    x: Array,
    y: Array,
    norm: Norm | str,
    *,
    num_classes: int | None = None,
    perturbation: Norm | str | None = None,
    eps: float | jax.Array = 0.0,
    tolerance: float = 1e-4,
    zero_tolerance: float | None = None,
    max_iterations: int | None = None,
    method: Method = "auto",
) -> MaxMargin:
    r"""Solves :math:`\max_{\|w\|\le 1}\min_i m_i(w)` to a certified relative gap.

    :math:`m_i(w)=y_i\langle w,x_i\rangle`, or
    :math:`\min_{c\ne y_i}\langle w_{y_i}-w_c, x_i\rangle` with classes. The result w maximises
    :func:`margin` in ``norm`` and so, for a binary problem, is the most robust linear classifier
    against perturbations bounded in ``norm.dual``. The certificate is minimax duality:

    .. math:: \max_{\|w\|\le1}\min_i \langle a_i, w\rangle
              = \min_{q\in\Delta}\Big\|\sum_i q_i a_i\Big\|_*,

    :math:`a_i` being the signed examples (with classes one for every wrong class).

    With ``perturbation`` every margin is that of the worst perturbation of norm ``eps`` at most,

    .. math:: \max_{\|w\|\le 1}\min_i \langle a_i, w\rangle - \epsilon\|w\|_{p*}
              = \min_{q\in\Delta,\ \|\delta\|_p\le\epsilon}
                \Big\|\sum_i q_i a_i - \delta\Big\|_* :

    the classifier of the least norm that separates robustly, to which adversarial training tends by
    steepest descent in ``norm``. Where that is dual to the perturbation's norm it is the one
    without perturbations.

    Solved in float64 whatever the dtype of x and whatever ``jax_enable_x64`` (which stays as it
    is), also under ``jit`` and ``vmap``; a TPU emulates float64. Under ``vmap`` it is one problem
    after the other. The bounds are those of w as handed back: in bfloat16 its rounding alone can
    cost more than the tolerance, or all of a small margin. Examples sharded over devices are
    brought together: every device needs room for all of them. There is no derivative.

    Args:
      x: ``(n, *features)`` examples.
      y: ``(n,)`` labels: -1 and +1, or integers below ``num_classes``.
      norm: norm of the weights, or its name. With classes it is the norm of the
        ``(C, *features)`` weights.
      num_classes: None for a binary problem, else C, at least 2.
      perturbation: norm of the perturbations, or its name; None for none. Binary problems only.
      eps: their radius, 0 or more, in units of x.
      tolerance: relative gap to stop at, between 0 and 1.
      zero_tolerance: upper bound, relative to the largest dual norm of a signed example, under
        which the data count as not separable once no weights of a margin beyond rounding errors
        have been found. The search for them goes on below it, as far as float64 reaches. Default:
        1e-10, and 1e-7 where the dual weights are rounded to float32.
      max_iterations: limit; default 100 Newton steps or 100,000 first-order iterations.
      method: ``"interior_point"`` (l1, l2, linf and their Fourier forms: 10 to 50 Newton steps;
        memory of n^2 or d^2), ``"primal_dual"`` (any norm; memory of the data; slow where examples
        or features differ by factors of 100 and more: it gives up, not converged, when 20,000
        iterations take no tenth off the gap), or ``"auto"``: the first where it exists.

    Returns:
      :class:`MaxMargin`; w has the dtype of x (float32 for float64 where x64 is off), the rest
      float32 at least. Data that cannot be separated are no error: ``separable`` is false and
      ``dual_weights`` prove it, up to ``zero_tolerance``.

    Raises:
      ValueError: naming the argument, for wrong shapes or labels, no examples, NaN or infinite x, a
        tolerance out of range, an unknown norm or method, or ``"interior_point"`` for a
        norm that has none.
      TypeError: if an argument has another type.
    """
    norm = as_norm(norm)
    _check_arguments(x, y, num_classes, tolerance, zero_tolerance, max_iterations)
    perturbation = _checked_perturbation(perturbation, eps, num_classes)
    solver = _resolve_method(method, norm, perturbation)
    limit = _MAX_ITERATIONS[solver] if max_iterations is None else max_iterations
    dtype = jax.dtypes.canonicalize_dtype(x.dtype)
    zero = _default_zero(dtype) if zero_tolerance is None else zero_tolerance
    kind = _Kind(norm, num_classes, perturbation, solver, dtype)
    if not is_concrete(x, y, eps):
        return _solve_traced(x, y, eps, tolerance, zero, limit, kind)
    # Known values stay known even where something else is being traced.
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        double = jnp.asarray(_sharding.on_one_device(x), jnp.float64)
        # One dtype whatever the labels come in: one program for all.
        label_dtype = jnp.float64 if num_classes is None else jnp.int32
        labels = jnp.asarray(_sharding.on_one_device(y), label_dtype)
        return _solve_and_certify(double, labels, eps, tolerance, zero, limit, kind)


class _Kind(NamedTuple):
    """What a program is compiled for."""

    norm: Norm
    num_classes: int | None
    perturbation: Norm | None
    method: Method
    dtype: Any


@functools.partial(jax.jit, static_argnums=6)
def _solve_traced(x, y, eps, tolerance, zero, limit, kind: _Kind) -> MaxMargin:
    """In float64 all the same: between two casts the program is that of another setting."""

    def solve_one(x, y, eps, tolerance, zero, limit):
        # Entered here and not around the vmap below, whose rule runs when the caller's vmap does.
        with jax.enable_x64(True):
            return _solve_and_certify(x, y, eps, tolerance, zero, limit, kind)

    # Under vmap the problems are solved one after the other, each with its own stopping time.
    # Batched LAPACK calls are no alternative: jaxlib before 0.11.2 can deadlock when as many of
    # them run at once as the CPU has cores.
    return jax.custom_batching.sequential_vmap(solve_one)(
        _sharding.gather(x),
        _sharding.gather(y),
        jnp.asarray(eps),
        jnp.asarray(tolerance),
        jnp.asarray(zero),
        jnp.asarray(limit),
    )


def _solve_and_certify(x, y, eps, tolerance, zero, limit, kind: _Kind) -> MaxMargin:
    # Two programs: of the large one there is one for all dtypes.
    eps = jnp.asarray(eps, jnp.float64)
    solution = _solve(x, y, eps, tolerance, limit, kind._replace(dtype=None))
    return _certify(x, y, eps, solution, tolerance, zero, kind)


@functools.partial(jax.jit, static_argnums=5)
def _solve(x, y, eps, tolerance, limit, kind: _Kind) -> Solution:
    """In units of the largest example, in which the optimum is at most 1."""
    norm, perturbation = kind.norm, kind.perturbation
    signed = _signed_examples(x.astype(jnp.float64), y, kind.num_classes)
    options = {
        "tolerance": jnp.asarray(tolerance, jnp.float64),
        "rounding": _rounding(signed),
        "max_iterations": limit,
    }
    unit = _unit(signed, norm)
    signed = signed / unit
    if kind.method == "interior_point":
        return _solve_in_groups(signed, norm, options)
    saddle = _primal_dual.Saddle(signed, norm, perturbation, eps / unit)
    found = _primal_dual.solve(saddle, **options)
    return found._replace(delta=None if perturbation is None else unit * found.delta)


@functools.partial(jax.jit, static_argnums=6)
def _certify(x, y, eps, solution: Solution, tolerance, zero, kind: _Kind) -> MaxMargin:
    """The bounds of the very arrays that are handed back, through the norm object.

    The certificate does not depend on the solver, its coordinates or its scaling.
    """
    norm, num_classes, perturbation, _, dtype = kind
    signed = _signed_examples(x.astype(jnp.float64), y, num_classes)
    wide = jnp.promote_types(dtype, jnp.float32)
    length = norm.value(solution.w)
    w = (solution.w / jnp.where(length > 0, length, 1)).astype(dtype)
    q = (solution.q / jnp.sum(solution.q)).astype(wide)
    worst = jnp.zeros((), jnp.float64)
    delta: Any = 0.0
    if perturbation is not None:
        worst = eps * perturbation.dual.value(w.astype(jnp.float64))
        size = perturbation.value(solution.delta)  # which rounding may have put beyond eps
        delta = solution.delta * jnp.minimum(1, eps / jnp.where(size > 0, size, 1))
        delta = delta.astype(wide)
    margin, separable = _margin(signed, w.astype(jnp.float64), norm, worst)
    upper = _upper_bound(signed, q.astype(jnp.float64), norm, delta)
    gap = jnp.where(separable, jnp.maximum(upper - margin, 0) / jnp.where(upper > 0, upper, 1), 1)
    # A bound that is not finite (of traced examples that are not, say) proves nothing.
    converged = jnp.where(separable, gap <= tolerance, upper <= zero * _unit(signed, norm))
    return MaxMargin(
        w=jnp.where(separable, w, 0),
        margin=jnp.where(separable, margin, 0).astype(wide),
        upper_bound=upper.astype(wide),
        gap=gap.astype(wide),
        dual_weights=_weights_by_class(q, y, num_classes),
        separable=separable,
        converged=converged,
        iterations=solution.iterations,
        delta=None if perturbation is None else delta,
    )


def _margin(
    signed: jax.Array, w: jax.Array, norm: Norm, worst: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The margin of weights, less what perturbations take, and whether it is beyond rounding."""
    axes = w.ndim
    products = jnp.tensordot(signed, w, axes=axes, precision=_HIGHEST)
    sizes = jnp.tensordot(jnp.abs(signed), jnp.abs(w), axes=axes, precision=_HIGHEST)
    # The rounding error of an inner product, whatever the order of its sum, is less.
    proved = jnp.all(products - worst > _rounding(signed) * (sizes + worst))
    length = norm.value(w)
    margin = _sharding.smallest(products) - worst
    return margin / jnp.where(length > 0, length, 1), proved


def _upper_bound(
    signed: jax.Array, q: jax.Array, norm: Norm, delta: jax.Array | float
) -> jax.Array:
    combination = jnp.tensordot(q, signed, axes=1, precision=_HIGHEST)
    return norm.dual.value(combination / jnp.sum(q) - delta)


def _unit(signed: jax.Array, norm: Norm) -> jax.Array:
    """The largest dual norm of a signed example."""
    unit = jnp.max(jax.vmap(norm.dual.value)(signed))
    return jnp.where(unit > 0, unit, 1)


def _rounding(signed: jax.Array) -> float:
    return math.prod(signed.shape[1:]) * float(jnp.finfo(signed.dtype).eps)


def _signed_examples(x: jax.Array, y: jax.Array, num_classes: int | None) -> jax.Array:
    """``(m, *weights_shape)``: all constraints in the form ``<a, w> >= margin``."""
    if num_classes is None:
        return y.astype(x.dtype).reshape(-1, *([1] * (x.ndim - 1))) * x
    # Rivals y+1, ..., y+C-1 modulo C: never the own class, C - 1 rows per example.
    rivals = _rivals(y, num_classes)
    own = jax.nn.one_hot(y, num_classes, dtype=x.dtype)[:, None, :]
    signs = (own - jax.nn.one_hot(rivals, num_classes, dtype=x.dtype)).reshape(-1, num_classes)
    repeated = jnp.repeat(x, num_classes - 1, axis=0)
    return jax.vmap(lambda s, row: jnp.tensordot(s, row, axes=0))(signs, repeated)


def _rivals(y: jax.Array, num_classes: int) -> jax.Array:
    # As int32: in the int8 of small labels the sum may overflow.
    return (y.astype(jnp.int32)[:, None] + jnp.arange(1, num_classes)[None, :]) % num_classes


def _weights_by_class(q: jax.Array, y: jax.Array, num_classes: int | None) -> jax.Array:
    if num_classes is None:
        return q
    rows = jnp.arange(y.shape[0])[:, None]
    by_class = jnp.zeros((y.shape[0], num_classes), q.dtype)
    return by_class.at[rows, _rivals(y, num_classes)].set(q.reshape(y.shape[0], num_classes - 1))


def _solve_in_groups(signed: jax.Array, norm: Norm, options: dict[str, Any]) -> Solution:
    """Rotates the features, solves in groups of coordinates, rotates back."""
    rotate, ball = group_coordinates(norm, signed.shape[1:], signed.dtype)
    solution = _interior_point.solve(jax.vmap(rotate)(signed), ball, **options)
    # An orthonormal map is undone by its transpose.
    (w,) = jax.linear_transpose(rotate, signed[0])(solution.w)
    return solution._replace(w=w)


def _checked_perturbation(
    perturbation: Norm | str | None, eps: Any, num_classes: int | None
) -> Norm | None:
    check_nonnegative("eps", eps)
    if jnp.ndim(eps) != 0:
        raise ValueError(f"eps must be one number for all examples, got shape {jnp.shape(eps)}")
    if perturbation is None:
        if not is_concrete(eps) or eps != 0:
            raise ValueError(f"perturbation must be the norm that eps={eps} is measured in")
        return None
    if num_classes is not None:
        raise ValueError(f"num_classes must be None with perturbation, got {num_classes}")
    return as_norm(perturbation)


def _resolve_method(method: Method, norm: Norm, perturbation: Norm | None) -> Method:
    has_interior = has_group_form(norm) and perturbation is None
    if method == "auto":
        return "interior_point" if has_interior else "primal_dual"
    if method not in _MAX_ITERATIONS:
        raise ValueError(
            f"method must be 'auto', 'interior_point' or 'primal_dual', got {method!r}"
        )
    if method == "interior_point" and not has_interior:
        what = norm.name if perturbation is None else "perturbations"
        raise ValueError(f"method 'interior_point' has no form for {what}; use 'primal_dual'")
    return method


def _default_zero(dtype: Any) -> float:
    # The solvers reach 1e-12. Weights q rounded to float32 leave up to 2^-24 of the examples' size.
    return 1e-10 if dtype == jnp.float64 else 1e-7


def _check_arguments(x, y, num_classes, tolerance, zero_tolerance, max_iterations) -> None:
    check_examples(x, y)
    for name, count in (("num_classes", num_classes), ("max_iterations", max_iterations)):
        if count is not None and not isinstance(count, int | np.integer):
            raise TypeError(f"{name} must be an integer, got {count!r}")
    if num_classes is None:
        check_signs(y)
    elif num_classes < 2:
        raise ValueError(
            f"num_classes must be at least 2 (None for labels -1 and +1), got {num_classes}"
        )
    else:
        check_classes(y, num_classes)
    if max_iterations is not None and max_iterations < 1:
        raise ValueError(f"max_iterations must be positive, got {max_iterations}")
    known = is_concrete(x, y)
    if zero_tolerance is not None:
        check_positive("zero_tolerance", zero_tolerance, must_be_known=known)
    check_positive("tolerance", tolerance, must_be_known=known)
    # A gap of 1 is that of weights without any margin.
    if is_concrete(tolerance) and not tolerance < 1:
        raise ValueError(f"tolerance must be between 0 and 1, got {tolerance}")
