"""The direction of steepest ascent in a norm, as an Optax link."""

from typing import Any

import jax
import optax

from jaxrobust import norms, trees


def scale_by_steepest(norm: norms.Norm | str) -> optax.GradientTransformationExtraArgs:
    r"""Replaces the gradient by the direction of steepest ascent in a norm, at its natural length.

    .. math:: v = \arg\max_v\ \langle g, v\rangle - \tfrac12\|v\|^2 = \|g\|_*\,u, \qquad
              u = \arg\max_{\|u\|\le 1} \langle u, g\rangle

    so that :math:`\|v\| = \|g\|_*` and :math:`\langle g, v\rangle = \|g\|_*^2`.

    =================  ============================================================================
    norm               direction
    =================  ============================================================================
    ``l2``             the gradient, untouched
    ``l1``             :math:`g_j e_j`, j the largest entry, the first of a tie: coordinate descent
    ``linf``           :math:`\|g\|_1 \operatorname{sign}(g)`, 0 where g is 0: sign descent
    ``lp(p)``          :math:`\|g\|_q^{2-q} \operatorname{sign}(g)\,|g|^{q-1}`, 1/p + 1/q = 1
    ``spectral``       nuclear norm times the polar factor :math:`U V^T` of :math:`g = U S V^T`
    ``nuclear``        the leading singular triple :math:`s_1 u_1 v_1^T`
    ``fourier(l1)``    strongest frequency of g, half on k, half on -k: Fourier coordinate descent
    ``fourier(linf)``  every frequency at modulus :math:`\|Fg\|_1`: Fourier phase descent
    =================  ============================================================================

    The norm is that of the *whole* tree of updates: ``l1`` moves one coordinate of one leaf,
    ``spectral`` scales all leaves by the sum of their nuclear norms. For one norm per leaf or per
    layer use ``optax.partition``.

    Args:
      norm: a :class:`~jaxrobust.norms.Norm`, or a name that :func:`~jaxrobust.norms.as_norm` knows.

    Returns:
      A stateless transform. Updates keep structure, shapes and dtypes; the computation is in
      float32 at least. The sign is that of ascent, as for every ``scale_by_*``: put
      ``optax.scale_by_learning_rate`` behind it, or use :func:`steepest_descent`.

      ==================  ======================================================================
      updates             result
      ==================  ======================================================================
      all zero            all zero
      an entry is NaN     NaN in every leaf (``l2``: where it was), never a valid-looking step
      no leaves           unchanged, as for a label of ``optax.partition`` that nothing bears
      ==================  ======================================================================

    Raises:
      ValueError: if no norm has that name; at ``update``, if a leaf has no entries.
      TypeError: if ``norm`` has another type; at ``update``, if a leaf is not real floating.

    Source:
      Gunasekar, Lee, Soudry, Srebro, "Characterizing Implicit Bias in Terms of Optimization
      Geometry", ICML 2018, for steepest descent in a general norm; Faghri et al.,
      arXiv:2102.08868, for l1, l2 and linf against robustness. The two Fourier directions are
      derived here: the transform is unitary, so they are the l1 and the linf rule applied to the
      coefficients, and the strongest coefficient of a real signal comes as a conjugate pair.
    """
    norm = norms.as_norm(norm)

    def init_fn(params):
        del params
        return optax.EmptyState()

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        if not jax.tree.leaves(updates):
            return updates, state
        trees.check_floating("updates", updates)
        return _steepest(norm, updates), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _steepest(norm: norms.Norm, gradient: Any) -> Any:
    if norm in (norms.l2, norms.schatten(2)):  # Both Euclidean: no rounding, no singular values.
        return gradient
    wide = trees.promote(gradient)
    unit = norm.lmo(wide)
    # The maximiser attains the dual norm, so <u, g> is ||g||_* without a second FFT or SVD.
    length = trees.dot(unit, wide)
    return trees.cast_like(trees.scale(length, unit), gradient)
