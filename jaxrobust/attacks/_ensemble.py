"""Several attacks, one after the other on what none has succeeded on: AutoAttack's protocol."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust import trees
from jaxrobust.attacks._apgd import apgd
from jaxrobust.attacks._arguments import check_clean_scores
from jaxrobust.attacks._losses import margins
from jaxrobust.attacks._minimum_norm import minimum_norm
from jaxrobust.attacks._problem import (
    Bounds,
    Predict,
    Problem,
    problem_of,
    scores,
    told_bounds,
)
from jaxrobust.attacks._result import Settings
from jaxrobust.attacks._square import square
from jaxrobust.norms import Norm

NOT_FOUND, MISCLASSIFIED = -1, -2


class Stage(NamedTuple):
    """One attack of an ensemble."""

    name: str
    # (predict, params, x, y, norm=, eps=, bounds=, key=) -> what has `inputs`, `perturbations` and
    # `success`, and may have `info` or itself `has_zero_gradient` and `has_nan`.
    attack: Callable[..., Any]
    by_gradients: bool = True  # whether it has gradients to go by


@dataclasses.dataclass(frozen=True)
class EnsembleResult:
    """The worst that several attacks have done; arrays of NumPy, of all examples."""

    inputs: np.ndarray  # (N, *features): adversarial where one was found, else x
    perturbations: np.ndarray  # (N, *features) float32 at least: what was added to x
    success: np.ndarray  # (N,) bool: misclassified as they are, or by an attack
    # (N,) int: the number in `stages` of the attack that succeeded; -1: none did; -2: the example
    # is misclassified as it is.
    found_by: np.ndarray
    clean_accuracy: float
    accuracies: tuple[float, ...]  # robust accuracy after each stage
    has_zero_gradient: np.ndarray  # (N,) bool: no attack by gradients had one to go by
    has_nan: np.ndarray  # (N,) bool: scores or gradients were NaN or infinite somewhere
    eps: np.ndarray  # (N,)
    stages: tuple[str, ...]
    settings: Settings

    @property
    def robust_accuracy(self) -> float:
        """The share of examples that no attack has succeeded on (a mean)."""
        return float(1 - np.mean(self.success))

    def __str__(self) -> str:
        """Accuracy after every stage, with what it depends on."""
        steps = ", ".join(
            f"{100 * accuracy:.1f} % after {name}"
            for name, accuracy in zip(self.stages, self.accuracies, strict=True)
        )
        low, high = self.eps.min(), self.eps.max()
        radius = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
        return (
            f"accuracy of {len(self.success)} examples at eps {radius}: "
            f"{100 * self.clean_accuracy:.1f} % clean, {steps} ({self.settings})"
        )


def ensemble(
    predict: Predict,
    params: Any,
    x: Any,
    y: Any,
    *,
    norm: Norm | str,
    eps: Any,
    key: jax.Array,
    bounds: Bounds = None,
    batch_size: int = 256,
    num_steps: int = 100,
    num_queries: int = 5_000,
    stages: tuple[Stage, ...] | None = None,
) -> EnsembleResult:
    """The robust accuracy that several attacks together leave, in any norm.

    In the order of AutoAttack: :func:`apgd` on the cross-entropy, on the targeted DLR loss,
    :func:`minimum_norm` with targets, :func:`square`. Only examples that are still classified well
    go on to the next attack; they are gathered, and batches are filled up to ``batch_size``, so
    that every attack is compiled once. With three classes the DLR loss has no target, with two the
    margin takes its place.

    Args:
      predict: ``(params, x) -> scores (B, C)``, as in :func:`apgd`.
      params: its first argument.
      x: ``(N, *features)`` floating, of any number.
      y: ``(N,)`` integer labels.
      norm: of the perturbation, or its name.
      eps: radius, positive: a number or ``(N,)``, in units of x.
      key: every attack and batch has one of its own.
      bounds: lowest and highest valid input, as in :func:`apgd`.
      batch_size: examples that are attacked at once.
      num_steps: gradients of a run of the gradient attacks.
      num_queries: of :func:`square`.
      stages: other attacks, in order; None for those above. What one of these calls a success is
        looked at: inputs that are classified well, or are out of ball or bounds by more than
        rounding errors, do not count, and there is a warning.

    Returns:
      :class:`EnsembleResult`. It cannot be called inside of ``jit``.

    Raises:
      ValueError, TypeError: as :func:`apgd`; if ``x`` is traced.

    Source:
      Croce & Hein, arXiv:2003.01690, section 5 (order and stopping). FAB is replaced, see
      :func:`minimum_norm`.
    """
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((params, x, y, eps))):
        raise TypeError("ensemble cannot be traced: call it outside of jit, or use apgd")
    trees.check_count("batch_size", batch_size)
    norm, problem, num_classes = problem_of(predict, params, x, y, norm, eps, bounds)
    is_standard = stages is None
    if stages is None:
        stages = standard(num_classes, num_steps, num_queries)
    if not stages:
        raise ValueError("stages must name at least one attack, got none")
    told: tuple[tuple[str, Any], ...] = (("stages", tuple(stage.name for stage in stages)),)
    if is_standard:
        told = (*told, ("num_steps", num_steps), ("num_queries", num_queries))
    else:
        told = (*told, *((stage.name, _told(stage)) for stage in stages))
    settings = Settings("ensemble", norm, told, told_bounds(bounds))
    given = _Given(problem, bounds)
    number = len(problem.x)
    del problem  # of batches alone is anything on the device
    tally = _Tally(given)
    size = min(batch_size, number)

    for rows, filled in _batches(np.arange(number), size):
        x, y, options = given.rows(filled)
        _, part, _ = problem_of(predict, params, x, y, norm, **options)
        check_clean_scores(predict, part)
        tally.is_misclassified(rows, _clean_margins(predict, part) >= 0)
    clean, accuracies = tally.accuracy(), []
    for index, stage in enumerate(stages):
        stage_key = jax.random.fold_in(key, index)
        for at, (rows, filled) in enumerate(_batches(np.flatnonzero(~tally.success), size)):
            x, y, options = given.rows(filled)
            found = stage.attack(
                predict, params, x, y, norm=norm, key=jax.random.fold_in(stage_key, at), **options
            )
            if not is_standard:
                found = _confirmed(predict, params, x, y, norm, stage, found, **options)
            tally.attacked(rows, found, index, stage.by_gradients)
        accuracies.append(tally.accuracy())
    return tally.result(clean, tuple(accuracies), settings)


def standard(num_classes: int, num_steps: int = 100, num_queries: int = 5_000) -> tuple[Stage, ...]:
    """The stages of :func:`ensemble` for so many classes."""
    by_gradient: dict[str, Any] = {"num_steps": num_steps}
    second, margin = {2: ("margin", "margin"), 3: ("dlr", "targeted_margin")}.get(
        num_classes, ("targeted_dlr", "targeted_margin")
    )
    return (
        Stage("APGD, cross-entropy", functools.partial(apgd, **by_gradient)),
        Stage(f"APGD, {second}", functools.partial(apgd, loss=second, **by_gradient)),
        Stage("minimum norm", functools.partial(_within_radius, loss=margin, **by_gradient)),
        Stage("square", functools.partial(square, num_queries=num_queries), by_gradients=False),
    )


def _within_radius(predict, params, x, y, *, norm: Norm, eps: Any, key, bounds, **options) -> Any:
    """The smallest perturbation, which succeeds where it is within the radius."""
    found = minimum_norm(predict, params, x, y, norm=norm, key=key, bounds=bounds, **options)
    return dataclasses.replace(found, success=found.success & (found.distance <= eps))


def _told(stage: Stage) -> str:
    """What is known of an attack that somebody else made."""
    attack, options = stage.attack, {}
    while isinstance(attack, functools.partial):
        attack, options = attack.func, attack.keywords | options
    name = getattr(attack, "__name__", type(attack).__name__)
    return f"{name}({', '.join(f'{key}={value}' for key, value in options.items())})"


class _Confirmed(NamedTuple):
    """What an attack has found, as :class:`_Tally` reads it."""

    inputs: np.ndarray
    perturbations: np.ndarray
    success: np.ndarray
    info: Any


def _confirmed(
    predict: Predict,
    params: Any,
    x: np.ndarray,
    y: np.ndarray,
    norm: Norm,
    stage: Stage,
    found: Any,
    *,
    eps: np.ndarray,
    bounds: Bounds,
) -> _Confirmed:
    """Without the successes that are none."""
    inputs, success = np.asarray(found.inputs), np.asarray(found.success)
    if inputs.shape != x.shape or success.shape != (len(x),):
        raise ValueError(
            f"stages must return inputs {x.shape} and success ({len(x)},), but {stage.name} "
            f"returned {inputs.shape} and {success.shape}"
        )
    inputs = inputs.astype(x.dtype)
    wide = trees.accumulator(x.dtype)
    moved = inputs.astype(wide) - x.astype(wide)
    slack = float(jnp.finfo(x.dtype).eps) ** 0.5
    holds = np.asarray(_margins_at(predict, params, inputs, y)) >= 0
    holds &= np.asarray(jax.vmap(norm.value)(moved)) <= eps * (1 + slack)
    if bounds is not None:
        low, high = (np.asarray(end, wide) for end in bounds)
        is_in = (inputs >= low - slack) & (inputs <= high + slack)
        holds &= is_in.reshape(len(x), -1).all(axis=1)
    wrong = int(np.sum(success & ~holds))
    if wrong:
        warnings.warn(
            f"{stage.name}: {wrong} of {int(success.sum())} examples that it calls a success are "
            "classified well, or out of ball or bounds; they do not count",
            stacklevel=3,
        )
    return _Confirmed(
        inputs, np.asarray(found.perturbations), success & holds, getattr(found, "info", found)
    )


class _Given:
    """The examples, of which rows are taken."""

    def __init__(self, problem: Problem, bounds: Bounds):
        self.x, self.y = np.asarray(problem.x), np.asarray(problem.y)
        self.eps = np.asarray(problem.eps)
        self.bounds = bounds

    def rows(self, which: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """Inputs, labels, and what else an attack is given."""
        options = {"eps": self.eps[which], "bounds": self.bounds}
        if self.bounds is not None:  # of arrays with a row for each example, these rows
            has_rows = lambda end: np.ndim(end) == self.x.ndim and len(end) == len(self.x)
            rows = lambda end: np.asarray(end)[which] if has_rows(end) else end
            options["bounds"] = tuple(rows(end) for end in self.bounds)
        return self.x[which], self.y[which], options


class _Tally:
    """What was found so far, of all examples."""

    def __init__(self, given: _Given):
        number = len(given.x)
        self.given = given
        self.inputs = given.x.copy()
        self.delta = np.zeros(given.x.shape, given.eps.dtype)
        self.found_by = np.full(number, NOT_FOUND)
        self.lacks = np.ones(number, bool)  # as far as attacks by gradients have looked
        self.has_looked = np.zeros(number, bool)
        self.has_nan = np.zeros(number, bool)

    @property
    def success(self) -> np.ndarray:
        """``(N,)`` bool."""
        return self.found_by != NOT_FOUND

    def accuracy(self) -> float:
        """The share that is left."""
        return float(1 - np.mean(self.success))

    def is_misclassified(self, rows: np.ndarray, already: Any) -> None:
        """Examples that need no attack."""
        self.found_by[rows[np.asarray(already)[: len(rows)]]] = MISCLASSIFIED

    def attacked(self, rows: np.ndarray, found: Any, index: int, by_gradients: bool) -> None:
        """After an attack on these rows; what is behind them fills up the batch."""
        number = len(rows)
        there = np.asarray(found.success)[:number]
        hit = rows[there]
        self.found_by[hit] = index
        self.inputs[hit] = np.asarray(found.inputs)[:number][there]
        self.delta[hit] = np.asarray(found.perturbations)[:number][there]
        info = getattr(found, "info", found)
        of_each = lambda name: np.broadcast_to(getattr(info, name, False), len(found.success))
        if by_gradients:
            self.lacks[rows] &= of_each("has_zero_gradient")[:number]
            self.has_looked[rows] = True
        self.has_nan[rows] |= of_each("has_nan")[:number]

    def result(
        self, clean: float, accuracies: tuple[float, ...], settings: Settings
    ) -> EnsembleResult:
        """What the user gets."""
        names = dict(settings.options)["stages"]
        lacks = self.lacks & self.has_looked
        return EnsembleResult(
            self.inputs, self.delta, self.success, self.found_by, clean, accuracies, lacks,
            self.has_nan, self.given.eps, names, settings,
        )  # fmt: skip


def _batches(rows: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows in batches; and these filled up by repeating the first one."""
    for begin in range(0, len(rows), size):
        part = rows[begin : begin + size]
        yield part, np.concatenate([part, np.repeat(part[:1], size - len(part))])


def _margins(predict: Predict, problem: Problem) -> jax.Array:
    return margins(scores(predict, problem, problem.origin), problem.y)


_clean_margins = jax.jit(_margins, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def _margins_at(predict: Predict, params: Any, inputs: jax.Array, y: jax.Array) -> jax.Array:
    return margins(trees.promote(predict(params, inputs)), y)
