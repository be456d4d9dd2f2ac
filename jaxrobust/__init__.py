"""Training efficiency and robustness in JAX, with theory held against trained models.

The library is a set of rooms, each one idea, and call sites keep the room's name:

    from jaxrobust import linear, norms, optim

A room is imported when it is first touched, so `import jaxrobust` itself costs next to nothing: it
imports neither JAX nor any other library, starts no JAX backend and changes no JAX configuration.

Rooms:
    attacks: what robust accuracy really is: attacks on classifiers in any norm.
    clustering: groups of points, by k-means or by the variance of a stratified estimator.
    contrastive: losses of pairs with mined negatives, memories, retrieval metrics.
    data: arrays in, arrays out; embedded sets, files, TFDS, index-returning batches.
    gated: gated deep linear networks: simulated, reduced to a race of numbers, solved.
    linear: closed forms for linear models: margins, robust radius, certificates, implicit bias.
    norms: one `Norm` object: value, dual, steepest direction, projection and proximal operator.
    optim: Optax transforms, first of all steepest descent with respect to any norm.
    per_example: gradient norms, inner products, sketches, moments of every example in one pass.
    sampling: which examples a step sees and what each counts; exact variance of the gradient.
    training: the loop: samplers plugged in, refreshes, checkpoints that resume bit for bit, a log.
    trees: linear algebra on pytrees.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # Lets type checkers and editors see the rooms that `__getattr__` loads.
    from jaxrobust import attacks as attacks
    from jaxrobust import clustering as clustering
    from jaxrobust import contrastive as contrastive
    from jaxrobust import data as data
    from jaxrobust import gated as gated
    from jaxrobust import linear as linear
    from jaxrobust import norms as norms
    from jaxrobust import optim as optim
    from jaxrobust import per_example as per_example
    from jaxrobust import sampling as sampling
    from jaxrobust import training as training
    from jaxrobust import trees as trees

# The one place of the version: the build reads it from here, so it is right without an install too.
__version__ = "0.1.0"

# The rooms, by hand: a folder becomes public when it is named here.
__all__ = (
    "attacks",
    "clustering",
    "contrastive",
    "data",
    "gated",
    "linear",
    "norms",
    "optim",
    "per_example",
    "sampling",
    "training",
    "trees",
)


def __getattr__(name: str) -> ModuleType:
    """Imports the room `name` when it is first touched (PEP 562)."""
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    rooms = ", ".join(__all__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its rooms are {rooms}")


def __dir__() -> list[str]:
    """Names the rooms too, loaded or not."""
    return sorted({*globals(), *__all__})
