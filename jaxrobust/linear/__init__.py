"""Linear classifiers in closed form: margins, robust radii, certificates, implicit bias.

Two norms occur and are never mixed up. Functions about *perturbations* (:func:`robust_radius`,
:func:`adversarial_accuracy`, :func:`worst_case`) take the norm of the perturbation; functions about
*weights* (:func:`margin`, :func:`max_margin`, :func:`certificate`) take the norm of the weights,
which is its dual.
"""

from jaxrobust.linear._certificate import (
    Certificate,
    CertificateState,
    certificate,
    dual_vector,
    init_certificate,
    update_certificate,
)
from jaxrobust.linear._implicit_bias import Theory, implicit_bias, theory
from jaxrobust.linear._losses import Loss, dual_weights, log_loss
from jaxrobust.linear._margins import (
    adversarial_accuracy,
    margin,
    margins,
    robust_radii,
    robust_radius,
    worst_case,
)
from jaxrobust.linear._max_margin import MaxMargin, max_margin
from jaxrobust.linear._models import LinearModel, convolution, diagonal, fully_connected, plain
from jaxrobust.linear._path import RegularizationPath, regularization_path

__all__ = [
    "Certificate",
    "CertificateState",
    "LinearModel",
    "Loss",
    "MaxMargin",
    "RegularizationPath",
    "Theory",
    "adversarial_accuracy",
    "certificate",
    "convolution",
    "diagonal",
    "dual_vector",
    "dual_weights",
    "fully_connected",
    "implicit_bias",
    "init_certificate",
    "log_loss",
    "margin",
    "margins",
    "max_margin",
    "plain",
    "regularization_path",
    "robust_radii",
    "robust_radius",
    "theory",
    "update_certificate",
    "worst_case",
]
