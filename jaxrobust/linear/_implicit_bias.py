"""What theory predicts gradient-based training to converge to, with its conditions and sources."""

from typing import NamedTuple

from jaxrobust import norms
from jaxrobust.linear._models import LinearModel, is_size
from jaxrobust.norms import Norm


class Theory(NamedTuple):
    """Training is predicted to maximise the margin in ``norm``, so the radius in ``threat``."""

    subject: str  # optimizer or architecture, as a phrase
    norm: Norm  # norm of the weights whose normalised margin is maximised
    threat: (
        Norm  # the dual: perturbations against which the limit is the most robust linear classifier
    )
    conditions: str  # under which the statement is proved
    source: str  # paper and theorem; what was not checked against the paper is said
    proved: bool  # False for a proposal that is supported by measurement only


_GUNASEKAR_A = (
    "Gunasekar et al., 'Characterizing Implicit Bias in Terms of Optimization Geometry', 2018, "
    "Theorem 5 (number and wording as recalled, not checked against the paper); the robustness "
    "corollary: Faghri et al., arXiv:2102.08868"
)
_GUNASEKAR_B = (
    "Gunasekar et al., 'Implicit Bias of Gradient Descent on Linear Convolutional Networks', "
    "arXiv:1806.00468"
)
_SEPARABLE = "separable data, exponential-tailed loss, homogeneous predictor without bias"
_STEPS = f"{_SEPARABLE}; steps at most 1/(B^2 L) with B the largest dual norm of an example"

_DESCENT = {
    "gradient_descent": norms.l2,
    "coordinate_descent": norms.l1,
    "sign_descent": norms.linf,
    "fourier_coordinate_descent": norms.fourier(norms.l1),
    "fourier_phase_descent": norms.fourier(norms.linf),
    "spectral_descent": norms.spectral,
}
_ARCHITECTURES = ("plain", "fully_connected", "diagonal", "convolution")


def theory(subject: str | Norm | LinearModel, *, depth: int | None = None) -> Theory:
    """The prediction for an optimizer of linear weights, or an architecture under gradient descent.

    ==============================================  ===================  ===================
    subject                                         margin maximised in  most robust against
    ==============================================  ===================  ===================
    a norm: steepest descent in it                  that norm            its dual
    ``"gradient_descent"``                          l2                   l2
    ``"coordinate_descent"``                        l1                   linf
    ``"sign_descent"``                              linf                 l1
    ``"fourier_coordinate_descent"``                Fourier-l1           Fourier-linf
    ``"fourier_phase_descent"``                     Fourier-linf         Fourier-l1
    ``"spectral_descent"``                          spectral             nuclear
    ``"plain"``, ``"fully_connected"`` (any depth)  l2                   l2
    ``"diagonal"`` (depth 2)                        l1                   linf
    ``"convolution"`` (depth 2)                     Fourier-l1           Fourier-linf
    ==============================================  ===================  ===================

    Args:
      subject: a name from the table, a :class:`~jaxrobust.norms.Norm`, or a :class:`LinearModel`.
      depth: number of layers, for architectures given by name (default 2; 1 for ``"plain"``).

    Returns:
      :class:`Theory` with norm, threat, conditions and source.

    Raises:
      ValueError: for an unknown subject, a depth that does not fit it, or an architecture whose
        bias is not a norm (depth above 2: only stationary points of an l_(2/depth) quasi-norm are
        predicted, which has no dual and bounds no perturbation).
      TypeError: if ``subject`` is of another type.
    """
    named = isinstance(subject, str)
    if depth is not None and (not named or subject in _DESCENT):
        raise ValueError(f"depth is for architectures given by name, got {depth!r} for {subject!r}")
    if isinstance(subject, Norm):
        return _steepest(f"steepest descent in {subject.name}", subject)
    if isinstance(subject, LinearModel):
        return _architecture(subject.name, subject.depth)
    if not named:
        raise TypeError(f"subject must be a name, a Norm or a LinearModel, got {subject!r}")
    if subject in _DESCENT:
        return _steepest(subject.replace("_", " "), _DESCENT[subject])
    if subject in _ARCHITECTURES:
        return _architecture(subject, _resolve_depth(subject, depth))
    raise ValueError(
        f"subject: unknown {subject!r}; known: {', '.join((*_DESCENT, *_ARCHITECTURES))}, or a Norm"
    )


def implicit_bias(subject: str | Norm | LinearModel, *, depth: int | None = None) -> Norm:
    """The norm in which training maximises the margin: ``theory(subject).norm``; see there."""
    return theory(subject, depth=depth).norm


def _resolve_depth(architecture: str, depth: int | None) -> int:
    if depth is None:
        return 1 if architecture == "plain" else 2
    if not is_size(depth) or (architecture == "plain" and depth != 1):
        allowed = "1" if architecture == "plain" else "an integer of at least 1"
        raise ValueError(f"depth of a {architecture} model must be {allowed}, got {depth!r}")
    return int(depth)


def _steepest(subject: str, norm: Norm) -> Theory:
    if isinstance(norm, norms.Fourier):
        use = "The theorem covers any norm; its use for Fourier norms is this library's"
        source = f"{_GUNASEKAR_A}. {use}"
        return Theory(subject, norm, norm.dual, _STEPS, source, proved=True)
    return Theory(subject, norm, norm.dual, _STEPS, _GUNASEKAR_A, proved=True)


def _architecture(name: str, depth: int) -> Theory:
    subject = f"gradient descent on a {name.replace('_', ' ')} linear network of depth {depth}"
    if name in ("plain", "fully_connected") or depth == 1:
        return Theory(
            subject,
            norms.l2,
            norms.l2,
            f"{_SEPARABLE}; loss tends to zero",
            _GUNASEKAR_B,
            proved=True,
        )
    if depth > 2:
        raise ValueError(
            f"depth: a {name} network of depth {depth} is only known to reach stationary points of "
            f"an l_(2/{depth}) quasi-norm, which is not a norm and has no dual; there is no "
            "prediction of robustness"
        )
    converges = f"{_SEPARABLE}; loss tends to zero, gradients and predictor converge in direction"
    if name == "diagonal":
        return Theory(
            subject,
            norms.l1,
            norms.linf,
            f"{converges}; small initialisation",
            _GUNASEKAR_B,
            proved=True,
        )
    norm = norms.fourier(norms.l1)
    robustness = "conditions as recalled, not checked; robustness: Faghri et al., arXiv:2102.08868"
    source = f"{_GUNASEKAR_B} ({robustness})"
    return Theory(subject, norm, norm.dual, f"{converges}; phases converge", source, proved=True)
