"""Attacks on classifiers, in any norm: what robust accuracy really is.

::

    found = attacks.apgd(predict, params, x, y, norm="linf", eps=8 / 255, bounds=(0, 1), key=key)
    print(found)  # the robust accuracy, with all it depends on

====================  ============================================================================
:func:`pgd`           projected gradient ascent with steps of one size
:func:`apgd`          the same with momentum, and steps that are halved when they do not help
:func:`frank_wolfe`   no projection: to the extreme point along the gradient, part of the way
:func:`minimum_norm`  the smallest perturbation that changes the class
:func:`square`        random search by scores alone
:func:`ensemble`      apgd with two losses, minimum_norm and square, one after the other
:func:`adversary`     inputs for adversarial training
====================  ============================================================================

A model is a function ``predict(params, x (B, *features)) -> scores (B, C)``, each row from its own
example alone. All attacks but :func:`ensemble` are compiled once for each function, norm, shape and
set of options, run under ``jit``, also of a batch that is spread over Auto mesh axes, and under
``shard_map`` (with one key for all, devices draw the same random numbers), and take a
radius for each example. On a CPU the loop over steps of a model with convolutions is one of
Python, unless the attack is called inside of ``jit``: see :func:`jaxrobust.trees.compiled`.
``norm`` may be any object of :mod:`norms`; with bounds, perturbations stay in ball and box, exactly
for lp norms of entries, and for others by alternating projections that end inside.
"""

from jaxrobust.attacks._adversary import Adversary, adversary
from jaxrobust.attacks._apgd import apgd
from jaxrobust.attacks._ensemble import EnsembleResult, Stage, ensemble, standard
from jaxrobust.attacks._frank_wolfe import frank_wolfe
from jaxrobust.attacks._minimum_norm import MinimumNorm, MinimumNormInfo, minimum_norm
from jaxrobust.attacks._pgd import pgd
from jaxrobust.attacks._result import Info, Result, Settings
from jaxrobust.attacks._square import square

__all__ = [
    "Adversary",
    "EnsembleResult",
    "Info",
    "MinimumNorm",
    "MinimumNormInfo",
    "Result",
    "Settings",
    "Stage",
    "adversary",
    "apgd",
    "ensemble",
    "frank_wolfe",
    "minimum_norm",
    "pgd",
    "square",
    "standard",
]
