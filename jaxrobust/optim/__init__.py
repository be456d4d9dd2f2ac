"""Optax transforms: steepest descent in any norm, its step rules, and use of how batches are drawn.

Complete optimizers, for ``optax.apply_updates``:

====================================  =========================================================
:func:`steepest_descent`              unit direction of the norm times the gradient's dual norm
:func:`normalized_steepest_descent`   unit direction alone; with momentum Signum, Muon, ...
:func:`loss_scaled_steepest_descent`  step 1/(B² L), fastest to the largest margin; needs ``value``
:func:`mirror_descent`                p-GD: steps on powers of the entries; needs ``params``
====================================  =========================================================

With a norm of the parameters added to the loss:

====================================  =========================================================
:func:`proximal_gradient`             accelerated proximal steps; needs ``params``
:func:`fista`                         the same, its step searched for; needs ``value``,
                                      ``value_fn``
====================================  =========================================================

Links, for ``optax.chain``:

====================================  =========================================================
:func:`scale_by_steepest`             direction of steepest ascent, at its natural length
:func:`scale_by_normalized_steepest`  the same at length 1
:func:`scale_by_inverse_loss`         factor 1/(B² L); needs ``value``
====================================  =========================================================

Links that use what is known about the noise of a batch's gradient:

====================================  =========================================================
:func:`svrg`                          subtracts the noise of the same batch at a snapshot of the
                                      params; needs ``snapshot_gradient``, ``snapshot_mean``
:func:`cluster_control_variate`       subtracts what the batch's cluster gave before; needs
                                      ``cluster``
:func:`scale_by_noise`                factor signal / (signal + noise); needs ``trace``, ``signal``
====================================  =========================================================

Schedules, for any ``learning_rate``:

====================================  =========================================================
:func:`inverse_sqrt`                  a/√t, t = 1, 2, ...
====================================  =========================================================

All transforms are ``optax.GradientTransformationExtraArgs`` and work inside ``optax.chain``,
``masked``, ``partition``, ``inject_hyperparams``, ``MultiSteps`` and ``apply_if_finite`` (but
:func:`fista`, which looks at the loss of all params, not on a part of them), with Optax's line
searches behind them, and on updates sharded over a mesh (Auto or Explicit axes).
"Needs": a required keyword of ``update``; ``value`` is the loss.
"""

from jaxrobust.optim._clusters import ClusterControlVariateState, cluster_control_variate
from jaxrobust.optim._descent import normalized_steepest_descent, steepest_descent
from jaxrobust.optim._inverse_loss import loss_scaled_steepest_descent, scale_by_inverse_loss
from jaxrobust.optim._learning_rate import inverse_sqrt
from jaxrobust.optim._mirror import mirror_descent
from jaxrobust.optim._noise import NoiseState, scale_by_noise
from jaxrobust.optim._normalized import MomentumState, scale_by_normalized_steepest
from jaxrobust.optim._proximal import ProximalState, fista, proximal_gradient
from jaxrobust.optim._steepest import scale_by_steepest
from jaxrobust.optim._svrg import svrg

__all__ = [
    "ClusterControlVariateState",
    "MomentumState",
    "NoiseState",
    "ProximalState",
    "cluster_control_variate",
    "fista",
    "inverse_sqrt",
    "loss_scaled_steepest_descent",
    "mirror_descent",
    "normalized_steepest_descent",
    "proximal_gradient",
    "scale_by_inverse_loss",
    "scale_by_noise",
    "scale_by_normalized_steepest",
    "scale_by_steepest",
    "steepest_descent",
    "svrg",
]
