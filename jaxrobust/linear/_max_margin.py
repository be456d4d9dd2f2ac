"""The maximum-margin linear classifier of any norm, with a certificate."""

import functools
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import trees
from jaxrobust.linear import _interior_point, _primal_dual, _sharding
from jaxrobust.linear._checks import Array, check_classes, check_examples, check_signs, is_concrete
from jaxrobust.linear._group_coordinates import group_coordinates, has_group_form
from jaxrobust.linear._interior_point import Solution
from jaxrobust.norms import Norm, as_norm

Method = Literal["auto", "interior_point", "primal_dual"]
_MAX_ITERATIONS = {"interior_point": 100, "primal_dual": 100_000}


class MaxMargin(NamedTuple):
    """A linear classifier of (nearly) maximum margin, and the proof of how near.

    Without ``converged`` the bounds hold all the same. If ``separable`` is false, ``dual_weights``
    are the proof: the convex combination of the signed examples with these weights has dual norm
    ``upper_bound``, zero to tolerance.
    """

    w: jax.Array  # (*features) or (C, *features): weights, norm 1 (zero if not separable)
    margin: jax.Array  # (): min_i m_i(w) / ||w||, the lower bound
    upper_bound: jax.Array  # (): of any margin: dual norm of sum_i dual_weights_i a_i
    gap: jax.Array  # (): (upper_bound - margin) / upper_bound, relative; 1 if no margin was found
    dual_weights: jax.Array  # (n,) or, with classes, (n, C): non-negative, sum 1
    separable: jax.Array  # () bool: whether upper_bound, or even margin, is clear of zero
    converged: jax.Array  # () bool: gap <= tolerance, or not separable
    iterations: jax.Array  # () int32: Newton steps, or first-order iterations

    def describe(self) -> str:
        """One sentence for a person. Values must be concrete (not inside ``jit``)."""
        if not bool(self.separable):
            support = int(jnp.sum(self.dual_weights > 1e-3 * jnp.max(self.dual_weights)))
            return (
                f"not linearly separable: a convex combination of signed examples ({support} of "
                "them carry it; weights in dual_weights) has dual norm "
                f"{float(self.upper_bound):.3g}, zero to tolerance, so no weights give all "
                "examples a positive margin"
            )
        state = "" if bool(self.converged) else "not converged: "
        return (
            f"{state}margin {float(self.margin):.6g}, at most {float(self.upper_bound):.6g} for "
            f"any weights (relative gap {float(self.gap):.1e}, {int(self.iterations)} iterations)"
        )


def max_margin(
    x: Array,
    y: Array,
    norm: Norm | str,
    *,
    num_classes: int | None = None,
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

    Data whose values are known, also inside of a trace, are solved in float64 whatever their dtype
    and whatever ``jax_enable_x64`` (which stays as it is); the result has the dtype of x, float32
    for float64 where x64 is off. Traced data, under ``jit`` or ``vmap``, are solved in their own
    dtype (float32 at least), under ``vmap`` one problem after the other. In float32 the gap can get
    stuck above 1e-4 on hard data (more examples than features, a margin of less than 1e-2 of the
    examples' dual norm), which ``gap`` and ``converged`` say. Examples sharded over devices are
    brought together: every device needs room for all of them. There is no derivative.

    Args:
      x: ``(n, *features)`` examples.
      y: ``(n,)`` labels: -1 and +1, or integers below ``num_classes``.
      norm: norm of the weights, or its name. With classes it is the norm of the
        ``(C, *features)`` weights.
      num_classes: None for a binary problem, else C, at least 2.
      tolerance: relative gap to stop at, positive.
      zero_tolerance: upper bound, relative to the largest dual norm of a signed example, under
        which the data count as not separable, unless weights of a margin beyond rounding errors
        have been found by then. Default: 1e-7 in float64, 1e-5 in float32.
      max_iterations: limit; default 100 Newton steps or 100,000 first-order iterations.
      method: ``"interior_point"`` (l1, l2, linf and their Fourier forms: 10 to 50 Newton steps;
        memory of n^2 or d^2), ``"primal_dual"`` (any norm; memory of the data), or ``"auto"``: the
        first where it exists.

    Returns:
      :class:`MaxMargin`. Data that cannot be separated are no error: ``separable`` is false and
      ``dual_weights`` prove it.

    Raises:
      ValueError: naming the argument, for wrong shapes or labels, no examples, NaN or infinite x, a
        tolerance that is not positive, an unknown norm or method, or ``"interior_point"`` for a
        norm that has none.
      TypeError: if an argument has another type.
    """
    norm = as_norm(norm)
    _check_arguments(x, y, num_classes, tolerance, zero_tolerance, max_iterations)
    solver = _resolve_method(method, norm)
    limit = _MAX_ITERATIONS[solver] if max_iterations is None else max_iterations
    if not is_concrete(x, y):
        zero = _default_zero(x.dtype) if zero_tolerance is None else zero_tolerance
        return _solve(x, y, tolerance, zero, limit, norm, num_classes, solver)
    zero = _default_zero(jnp.float64) if zero_tolerance is None else zero_tolerance
    dtype = jax.dtypes.canonicalize_dtype(x.dtype)
    # Known values stay known even where something else is being traced.
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        double = jnp.asarray(_sharding.on_one_device(x), jnp.float64)
        # One dtype whatever the labels come in: one program for all.
        label_dtype = jnp.float64 if num_classes is None else jnp.int32
        labels = jnp.asarray(_sharding.on_one_device(y), label_dtype)
        result = _solve(double, labels, tolerance, zero, limit, norm, num_classes, solver)
        return jax.tree.map(
            lambda leaf: leaf.astype(dtype) if leaf.dtype == jnp.float64 else leaf, result
        )


@functools.partial(jax.jit, static_argnums=(5, 6, 7))
def _solve(
    x, y, tolerance, zero, limit, norm: Norm, num_classes: int | None, method: str
) -> MaxMargin:
    solve_one = functools.partial(
        _solve_one, norm=norm, num_classes=num_classes, method=method, dtype=x.dtype
    )
    # Under vmap the problems are solved one after the other, each with its own stopping time.
    # Batched LAPACK calls are no alternative: jaxlib before 0.11.2 can deadlock when as many of
    # them run at once as the CPU has cores.
    return jax.custom_batching.sequential_vmap(solve_one)(
        _sharding.gather(x),
        _sharding.gather(y),
        jnp.asarray(tolerance),
        jnp.asarray(zero),
        jnp.asarray(limit),
    )


def _solve_one(
    x, y, tolerance, zero, limit, *, norm: Norm, num_classes: int | None, method: str, dtype: Any
) -> MaxMargin:
    signed = _signed_examples(trees.promote(x), y, num_classes)
    tolerance, zero = tolerance.astype(signed.dtype), zero.astype(signed.dtype)
    # In units of the largest example the optimum is at most 1 and "zero" has a meaning.
    unit = jnp.max(jax.vmap(norm.dual.value)(signed))
    unit = jnp.where(unit > 0, unit, 1)
    # No inner product of an example with weights of norm 1 has a larger rounding error.
    rounding = math.prod(signed.shape[1:]) * jnp.finfo(signed.dtype).eps
    options = {"tolerance": tolerance, "zero": zero, "rounding": rounding, "max_iterations": limit}
    if method == "interior_point":
        solution = _solve_in_groups(signed / unit, norm, options)
    else:
        solution = _primal_dual.solve(signed / unit, norm, **options)
    # The bounds once more, from the points themselves and through the norm object: the certificate
    # does not depend on the solver, its coordinates or its scaling.
    length = norm.value(solution.w)
    w = solution.w / jnp.where(length > 0, length, 1)
    q = solution.q / jnp.sum(solution.q)
    margin = jnp.min(jnp.tensordot(signed, w, axes=w.ndim, precision=jax.lax.Precision.HIGHEST))
    upper = norm.dual.value(jnp.tensordot(q, signed, axes=1, precision=jax.lax.Precision.HIGHEST))
    separable = (upper > zero * unit) | (margin > rounding * unit)
    gap = jnp.where(
        margin > 0, jnp.maximum(upper - margin, 0) / jnp.where(upper > 0, upper, 1), 1.0
    )
    result = MaxMargin(
        w=w,
        margin=margin,
        upper_bound=upper,
        gap=gap,
        dual_weights=_weights_by_class(q, y, num_classes),
        separable=separable,
        converged=~separable | (gap <= tolerance),
        iterations=solution.iterations,
    )
    return jax.tree.map(
        lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf,
        result,
    )


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


def _resolve_method(method: Method, norm: Norm) -> Method:
    has_interior = has_group_form(norm)
    if method == "auto":
        return "interior_point" if has_interior else "primal_dual"
    if method not in _MAX_ITERATIONS:
        raise ValueError(
            f"method must be 'auto', 'interior_point' or 'primal_dual', got {method!r}"
        )
    if method == "interior_point" and not has_interior:
        raise ValueError(f"method 'interior_point' has no form for {norm.name}; use 'primal_dual'")
    return method


def _default_zero(dtype: Any) -> float:
    return 1e-7 if jnp.finfo(dtype).bits == 64 else 1e-5


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
    for name, value in (
        ("tolerance", tolerance),
        ("zero_tolerance", zero_tolerance),
        ("max_iterations", max_iterations),
    ):
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
