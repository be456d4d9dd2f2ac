"""Adversarial training: inputs that are attacked before every step."""

import dataclasses
from typing import Any

import jax

from jaxrobust.attacks._losses import Loss
from jaxrobust.attacks._pgd import pgd
from jaxrobust.attacks._problem import Bounds, Predict
from jaxrobust.attacks._result import Result
from jaxrobust.norms import Norm, as_norm


@dataclasses.dataclass(frozen=True, eq=False)  # as functions are: hashed, and equal to itself only
class Adversary:
    """What :func:`adversary` returns: a function, and what its attack finds besides."""

    predict: Predict
    options: dict[str, Any]  # of `pgd`

    def __call__(self, key: jax.Array, params: Any, x: Any, y: Any) -> jax.Array:
        """Adversarial inputs, ``(B, *features)`` as x."""
        return self.attack(key, params, x, y).inputs

    def attack(self, key: jax.Array, params: Any, x: Any, y: Any) -> Result:
        """All that the attack found, :class:`Result`, without a gradient.

        Its ``info.has_zero_gradient`` tells of training that masks gradients instead of becoming
        robust: log the share of them.
        """
        # At the entrance: inside, nothing is to be kept for a gradient that nobody wants.
        params, x = jax.lax.stop_gradient((params, x))
        return jax.lax.stop_gradient(pgd(self.predict, params, x, y, key=key, **self.options))


def adversary(
    predict: Predict,
    *,
    norm: Norm | str,
    eps: Any,
    bounds: Bounds = None,
    loss: Loss = "cross_entropy",
    num_steps: int = 7,
    step_size: float | None = None,
    random_start: bool = True,
) -> Adversary:
    r"""A function ``(key, params, x, y) -> x`` that replaces inputs by adversarial ones.

    Training on what it returns is adversarial training,

    .. math:: \min_\theta \mathbb{E} \max_{\|\delta\|\le\epsilon} \ell(f_\theta(x+\delta), y).

    The gradient of the maximum is that at the maximiser (Danskin): none flows through the attack.

    Args:
      predict: ``(params, x) -> scores (B, C)``, as in :func:`apgd`.
      norm: of the perturbation, or its name.
      eps: radius, positive: a number or ``(B,)``, in units of x.
      bounds: lowest and highest valid input, as in :func:`apgd`.
      loss: what is maximised, as in :func:`apgd`.
      num_steps: gradients, as in :func:`pgd`.
      step_size: in units of eps, as in :func:`pgd`.
      random_start: whether to begin at a random point and not at x.

    Returns:
      :class:`Adversary`, a pure function to be called inside of ``jit``: of a key, params, ``x (B,
      *features)`` and ``y (B,)``. What it returns has the shape and dtype of x: points that are
      misclassified, if some were found, and of those (or else of all) those with the highest loss.
      Its method ``attack`` returns the whole :class:`Result`, of the same arguments.

    Raises:
      ValueError, TypeError: when it is called, as :func:`apgd`.

    Source:
      Madry et al., arXiv:1706.06083, section 2.1.
    """
    options = {
        "norm": as_norm(norm), "eps": eps, "bounds": bounds, "loss": loss, "num_steps": num_steps,
        "step_size": step_size, "random_start": random_start,
    }  # fmt: skip
    return Adversary(predict, options)
