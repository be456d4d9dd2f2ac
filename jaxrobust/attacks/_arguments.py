"""Options of attacks: checked once, static, and told with the result."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust import trees
from jaxrobust.attacks import _losses as losses
from jaxrobust.attacks._problem import Bounds, Predict, Problem, problem_of, scores, told_bounds
from jaxrobust.attacks._result import Settings
from jaxrobust.norms import Norm

MOST_TARGETS = 9


@dataclasses.dataclass(frozen=True)
class Options:
    """Of an attack by gradients of a loss."""

    attack: str
    loss: Any
    num_steps: int
    num_restarts: int
    num_targets: int | None = None  # of a targeted loss; a number, once the classes are known
    more: tuple[tuple[str, Any], ...] = ()  # what this attack has besides
    steps_name: str = "num_steps"
    check_steps: bool = False  # whether each point is told to be in ball and bounds; not a setting

    def checked(self, num_classes: int) -> "Options":
        """With the number of targets."""
        check_loss(self.loss, num_classes)
        trees.check_count(self.steps_name, self.num_steps)
        trees.check_count("num_restarts", self.num_restarts)
        others = num_classes - 1
        if self.loss not in losses.TARGETED:
            if self.num_targets is not None:
                raise ValueError(f"num_targets must be None with loss={self.loss!r}")
            return self
        number = min(others, MOST_TARGETS) if self.num_targets is None else self.num_targets
        trees.check_count("num_targets", number, most=others)
        return dataclasses.replace(self, num_targets=number)

    def told(self) -> tuple[tuple[str, Any], ...]:
        """Names and values."""
        loss = self.loss if isinstance(self.loss, str) else getattr(self.loss, "__name__", "custom")
        named: dict[str, Any] = {"loss": loss, self.steps_name: self.num_steps}
        named |= {
            "num_restarts": self.num_restarts,
            "num_targets": self.num_targets,
            **dict(self.more),
        }
        return tuple((name, value) for name, value in named.items() if value is not None)

    def targets(self, predict: Predict, problem: Problem) -> jax.Array | None:
        """``(num_targets * num_restarts, B)`` int32: the class each run goes for, if it has one."""
        if self.num_targets is None:
            return None
        logits = scores(predict, problem, problem.origin)
        likely = losses.rivals(logits, problem.y, self.num_targets)
        return jnp.repeat(likely.astype(jnp.int32), self.num_restarts, axis=0)


def check_loss(loss: Any, num_classes: int) -> None:
    """Raises for one that is unknown, or needs more classes."""
    if not (callable(loss) or loss in losses.NAMES):
        raise ValueError(f"loss must be a function or one of {losses.NAMES}, got {loss!r}")
    least = losses.LEAST_CLASSES.get(loss, 2) if isinstance(loss, str) else 2
    if num_classes < least:
        raise ValueError(
            f"loss={loss!r} needs scores of at least {least} classes, got {num_classes}; "
            "'margin' needs 2"
        )


def check_losses(loss: Any, problem: Problem, num_classes: int) -> None:
    """Raises for a function that does not give every example a loss."""
    if not callable(loss):
        return
    number = len(problem.x)
    logits = jax.ShapeDtypeStruct((number, num_classes), problem.origin.dtype)
    given = jax.eval_shape(loss, logits, problem.y)
    if getattr(given, "shape", None) != (number,):
        raise ValueError(f"loss must return one number for each example, ({number},), got {given}")


def prepared(
    options: Options,
    predict: Predict,
    params: Any,
    x: Any,
    y: Any,
    norm: Norm | str,
    eps: Any,
    bounds: Bounds,
) -> tuple[Norm, Problem, Options, Settings]:
    """Everything checked."""
    norm, problem, num_classes = problem_of(predict, params, x, y, norm, eps, bounds)
    options = options.checked(num_classes)
    check_losses(options.loss, problem, num_classes)
    check_clean_scores(predict, problem)
    settings = Settings(options.attack, norm, options.told(), told_bounds(bounds))
    return norm, problem, options, settings


def check_clean_scores(predict: Predict, problem: Problem) -> None:
    """Raises where the scores of the examples themselves are known not to be finite."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(problem)):
        return
    is_finite = _is_finite(predict, problem)
    if isinstance(is_finite, Tracer):  # of a function that closes over something traced
        return
    broken = np.flatnonzero(~np.asarray(is_finite))
    if broken.size:
        raise ValueError(
            f"predict must return finite scores, but those of examples {broken[:5].tolist()} "
            f"({broken.size} in all) are not"
        )


def _finite(predict: Predict, problem: Problem) -> jax.Array:
    return jnp.all(jnp.isfinite(scores(predict, problem, problem.origin)), axis=1)


_is_finite = jax.jit(_finite, static_argnums=0)
