"""Linear classifiers by steepest descent: many data sets and several norms in one program.

What the experiments and benchmarks about linear classifiers share. Data sets of different size are
padded to one shape by repeating their rows (which leaves the maximum margin as it is), and a mask
keeps the repetitions out of the loss.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrobust import linear, norms, optim
from jaxrobust.data import Dataset
from jaxrobust.norms import Norm

# Steepest descent in these norms has names of its own.
METHODS = {
    "coordinate descent": norms.l1,
    "gradient descent": norms.l2,
    "sign descent": norms.linf,
    "Fourier coordinate": norms.fourier(norms.l1),
    "Fourier phase": norms.fourier(norms.linf),
}


class Problems(NamedTuple):
    """S binary problems of one shape; a pytree, so ``jax.vmap`` runs over the problems."""

    x: jax.Array  # (S, n, *features) float: examples, padded by repetition
    y: jax.Array  # (S, n) float: labels, -1 and +1
    where: jax.Array  # (S, n) bool: false for repetitions


class Optima(NamedTuple):
    """Certified optimal margins of S problems in one norm."""

    w: jax.Array  # (S, *features) weights of the best margin, norm 1
    margin: np.ndarray  # (S,) best margin found; 0 if not separable
    upper: np.ndarray  # (S,) upper bound of any margin
    separable: np.ndarray  # (S,) bool


def stack(datasets: Sequence[Dataset]) -> Problems:
    """The training parts of binary data sets with the same features, as one batch of problems."""
    size = max(dataset.x_train.shape[0] for dataset in datasets)

    def pad(dataset):
        rows = np.arange(size) % dataset.x_train.shape[0]
        x, y = np.asarray(dataset.x_train)[rows], np.asarray(dataset.y_train)[rows]
        return x, y, np.arange(size) < dataset.x_train.shape[0]

    return Problems(
        *(jnp.asarray(np.stack(parts)) for parts in zip(*map(pad, datasets), strict=True))
    )


def optimal_margins(problems: Problems, norm: Norm, *, tolerance: float = 1e-5) -> Optima:
    """Maximum margin of every problem in float64, certified to a relative gap of ``tolerance``.

    Raises:
      RuntimeError: if a problem is neither solved to the tolerance nor shown to be inseparable.
    """
    with jax.enable_x64(True):
        solve = jax.vmap(lambda x, y: linear.max_margin(x, y, norm, tolerance=tolerance))
        found = solve(jnp.asarray(problems.x, jnp.float64), problems.y)
        if not bool(jnp.all(found.converged)):
            raise RuntimeError(
                f"max_margin in {norm.name} left gaps "
                f"{np.asarray(found.gap)[~np.asarray(found.converged)]}"
            )
        margin = np.where(found.separable, found.margin, 0.0)
        upper, separable = np.asarray(found.upper_bound), np.asarray(found.separable)
        return Optima(found.w, margin, upper, separable)


def bounds(problems: Problems, norm: Norm) -> jax.Array:
    """B, the largest dual norm of an example, ``(S,)``; theory allows the step 1/B^2 on log L."""
    return jnp.max(jax.vmap(jax.vmap(norm.dual.value))(problems.x), axis=1)


@functools.partial(jax.jit, static_argnames=("methods", "num_steps", "loss"))
def descend(
    problems: Problems, methods: tuple[Norm, ...], num_steps: int, loss: linear.Loss = "exponential"
) -> jax.Array:
    """Steepest descent from zero on every problem in every norm, all in one compiled program.

    The step is ``1/(B^2 L)`` on the loss, taken as the constant step ``1/B^2`` on its logarithm.

    Args:
      problems: S problems.
      methods: M norms to descend in.
      num_steps: number of steps.
      loss: ``"exponential"`` or ``"logistic"``.

    Returns:
      ``(M, S, *features)`` final weights.
    """
    steppers = [functools.partial(_step, norm=norm, loss=loss) for norm in methods]
    rates = [1 / bounds(problems, norm) ** 2 for norm in methods]

    def step(weights, _):
        return [
            jax.vmap(one)(w, problems, rate)
            for one, w, rate in zip(steppers, weights, rates, strict=True)
        ], None

    start = [jnp.zeros_like(problems.x[:, 0]) for _ in methods]
    return jnp.stack(jax.lax.scan(step, start, length=num_steps)[0])


def _step(w, problem: Problems, rate, *, norm: Norm, loss: linear.Loss):
    """One step of one problem; steepest descent keeps no state, so its state is made anew."""
    optimizer = optim.steepest_descent(rate, norm)
    gradient = jax.grad(log_loss)(w, problem, loss)
    updates, _ = optimizer.update(gradient, optimizer.init(w), w)
    return optax.apply_updates(w, updates)


def log_loss(w: jax.Array, problem: Problems, loss: linear.Loss = "exponential") -> jax.Array:
    """Logarithm of the mean loss of one problem at weights ``w (*features)``."""
    return linear.log_loss(linear.margins(w, problem.x, problem.y), loss, where=problem.where)


def reached_margins(problems: Problems, weights: jax.Array, norm: Norm) -> np.ndarray:
    """Normalised margins in ``norm`` of weights ``(..., S, *features)``; ``(..., S)``."""

    def of_one(w, x, y):
        return linear.margin(w, x, y, norm)

    mapped = jax.vmap(of_one)
    for _ in range(weights.ndim - problems.x.ndim + 1):
        mapped = jax.vmap(mapped, in_axes=(0, None, None))
    return np.asarray(mapped(weights, problems.x, problems.y))
