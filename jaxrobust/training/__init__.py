"""The training loop: thin, resumable, with samplers plugged in.

::

    state = training.init(params, optimizer, sampling.uniform(num_examples, 64), key=key)
    plan = training.remove_redundancy(loss_fn)
    state, records = training.train(loss_fn, optimizer, state, data, 5000, plan=plan)

:func:`take_steps` is the inside of it, many steps in one program; a :class:`Plan` changes how
batches are drawn as training goes on: :func:`remove_redundancy` lets near-duplicates count once,
:func:`resample` keeps strata or scores up to date and returns to uniform sampling where they do not
pay; :func:`snapshots` takes those of SVRG, always or where they pay; :func:`combined` makes one
plan of several. A :data:`Transform` changes the batch itself, as for adversarial training.
:func:`save` and :func:`restore` keep all that a run depends on.
"""

from jaxrobust.training._checkpoints import restore, save
from jaxrobust.training._loop import DivergenceError, train
from jaxrobust.training._plans import Plan, combined
from jaxrobust.training._redundancy import remove_redundancy
from jaxrobust.training._resample import resample
from jaxrobust.training._snapshots import Snapshots, snapshots
from jaxrobust.training._state import TrainState, init
from jaxrobust.training._steps import Transform, take_steps

__all__ = [
    "DivergenceError",
    "Plan",
    "Snapshots",
    "TrainState",
    "Transform",
    "combined",
    "init",
    "remove_redundancy",
    "resample",
    "restore",
    "save",
    "snapshots",
    "take_steps",
    "train",
]
