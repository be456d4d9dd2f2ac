"""Does the architecture alone, under plain gradient descent, decide what a model is robust against?

The same linear functions, written as different networks: one vector, two fully connected layers, a
diagonal network u² - v², two or three full-width circular convolutions. Plain gradient descent on
the parameters, no adversarial training. Theory says that the predictor's direction maximises the
l2 margin (one vector, fully connected), the l1 margin (diagonal) or the margin in the Fourier-l1
norm (two convolutions), and so is most robust against l2, linf or Fourier-linf perturbations.

Every step has the length 0.1 ||parameters|| / sqrt(t), along the gradient of log L: with losses
below 1e-100 within reach, the limit is. Gaussian data in 100 dimensions.

With three convolutions theory promises a stationary point of the (non-convex) problem
"least l_(2/3) quasi-norm of the spectrum for margin 1", no robustness. What is checked is therefore
stationarity: at such a point the parameters are a non-negative combination of the gradients of the
smallest margins. Which point it is depends on the initial parameters.

Presets:
    quick: 15 s on 2 cores; 2 sizes, 1 seed
    full: 10 min on 2 cores; 5 sizes, 5 seeds, 30,000 steps
"""

import dataclasses
import functools
import math
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy import optimize

from experiments import architecture_plots, silent
from experiments.claims import Claim
from experiments.linear_training import (
    Optima,
    Problems,
    optimal_margins_by_norm,
    reached_margins,
    stack,
)
from experiments.report import Result, Table
from jaxrobust import data, linear, norms, trees
from jaxrobust.norms import Norm

DIMENSIONS = 100
CONVOLUTIONS = (
    "Gunasekar et al. 2018, arXiv:1806.00468; robustness: Faghri et al., arXiv:2102.08868"
)
# Norms of the weights in which margins are compared, by the perturbations they are about.
WEIGHT_NORMS = {"linf": norms.l1, "l2": norms.l2, "Fourier-linf": norms.fourier(norms.l1)}


@dataclasses.dataclass(frozen=True)
class Model:
    """An architecture, its initial scale, and the share of the optimal radius it should reach."""

    network: linear.LinearModel
    scale: float
    bound: float | None  # None: no prediction of robustness


MODELS = {
    "one vector": Model(linear.plain(DIMENSIONS), 0.01, 0.99),
    "fully connected, depth 2": Model(linear.fully_connected(DIMENSIONS), 1.0, 0.99),
    "diagonal u² - v²": Model(linear.diagonal(DIMENSIONS), 0.01, 0.99),
    "convolution, depth 2": Model(linear.convolution(DIMENSIONS), 1.0, 0.95),
    "convolution, depth 3": Model(linear.convolution(DIMENSIONS, depth=3), 1.0, None),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Data and length of training."""

    seeds: int = 1
    """Number of Gaussian data sets of each size; they also seed the initial parameters."""
    sizes: tuple[int, ...] = (12, 3)
    """Numbers of training examples in 100 dimensions."""
    steps: int = 10_000
    """Training steps of every run."""
    step_length: float = 0.1
    """Length of the first step, relative to the parameters; falls as 1/sqrt(t)."""

    def __post_init__(self):
        for name in ("seeds", "steps", "step_length"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"sizes must be positive numbers of examples, got {self.sizes}")


PRESETS = {"full": Config(seeds=5, sizes=(50, 25, 12, 6, 3), steps=30_000)}


def run(config: Config, progress=silent) -> Result:
    """Trains every architecture on every data set."""
    runs = [(n, seed) for n in config.sizes for seed in range(config.seeds)]
    seconds, weights, cosines = {}, {}, {}
    # In float64: the parameters grow like exp(sqrt(t)), and three of them are multiplied.
    with jax.enable_x64(True):
        problems = gaussian(runs)
        keys = jax.vmap(jax.random.key)(jnp.arange(len(runs)))
        for number, (name, model) in enumerate(MODELS.items()):
            progress(number / (len(MODELS) + 1), name)
            begin = time.perf_counter()
            params = train(problems, keys, model, config.steps, config.step_length)
            final = jax.vmap(model.network.predictor)(jax.block_until_ready(params))
            weights[name] = final / jnp.linalg.norm(final, axis=1, keepdims=True)
            seconds[name] = time.perf_counter() - begin
            cosines[name] = stationarity(problems, model, params)
        progress(len(MODELS) / (len(MODELS) + 1), "certified optimum")
        found = optimal_margins_by_norm(problems, list(WEIGHT_NORMS.values()))
        optima = dict(zip(WEIGHT_NORMS, found, strict=True))
        ratios = compare(problems, weights, optima)
        candidates = {
            "trained": weights["convolution, depth 3"],
            "Fourier-l1 optimum": optima["Fourier-linf"].w,
        }
        bridge = bridge_values(problems, candidates)
    sizes = [n for n, _ in runs]
    return Result(
        summary=summarise(ratios, cosines),
        claims=claims(sizes, ratios, cosines),
        series={
            "sizes": sizes,
            "ratio": ratios,
            "stationarity": cosines,
            "bridge": bridge,
            "spectrum": {
                name: np.abs(np.fft.rfft(w[0], norm="ortho")) for name, w in weights.items()
            },
        },
        tables=[ratio_table(sizes, ratios), penalty_table(sizes, cosines, bridge)],
        wall_time=seconds,
    )


def gaussian(runs: Sequence[tuple[int, int]]) -> Problems:
    """The Gaussian data of every (number of examples, seed), in float64."""
    x, y, where = stack([data.logistic_gaussian(n, num_test=1, seed=seed) for n, seed in runs])
    return Problems(x.astype(jnp.float64), y.astype(jnp.float64), where)


@functools.partial(jax.jit, static_argnames=("model", "steps"))
def train(problems: Problems, keys: jax.Array, model: Model, steps: int, step_length: float) -> Any:
    """Parameters after normalised gradient descent on log L, one set per problem."""

    def log_loss(params, problem):
        margins = linear.margins(model.network.predictor(params), problem.x, problem.y)
        return linear.log_loss(margins, "exponential", where=problem.where)

    def one(problem, key):
        def step(params, t):
            gradient = jax.grad(log_loss)(params, problem)
            length = step_length * trees.l2_norm(params) / jnp.sqrt(t)
            return trees.add(params, gradient, weight=-length / trees.l2_norm(gradient)), None

        start = model.network.init(key, scale=model.scale)
        start = jax.tree.map(lambda leaf: leaf.astype(problem.x.dtype), start)
        return jax.lax.scan(step, start, 1.0 + jnp.arange(steps, dtype=problem.x.dtype))[0]

    return jax.vmap(one)(problems, keys)


def stationarity(problems: Problems, model: Model, params: Any) -> np.ndarray:
    """How well the parameters are a stationary point of "least norm for margin 1", ``(S,)``.

    The cosine between the parameters and the closest non-negative combination of the gradients of
    the smallest margins (those within 2 %): 1 at a point that satisfies the KKT conditions. NaN for
    parameters that do not separate the data: no multiple of them has margin 1.
    """

    def margins(flat, problem, unravel):
        return linear.margins(model.network.predictor(unravel(flat)), problem.x, problem.y)

    cosines = []
    for index in range(problems.x.shape[0]):
        problem = jax.tree.map(lambda leaf: leaf[index], problems)  # noqa: B023
        flat, unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[index], params))  # noqa: B023
        flat = flat / jnp.sqrt(jnp.sum(flat**2))  # homogeneous: the direction alone matters
        values = np.asarray(margins(flat, problem, unravel))
        jacobian = np.asarray(jax.jacobian(margins)(flat, problem, unravel))
        cosines.append(_cosine_to_cone(np.asarray(flat), values, jacobian))
    return np.array(cosines)


def _cosine_to_cone(flat: np.ndarray, margins: np.ndarray, jacobian: np.ndarray) -> float:
    """`stationarity` of one model, whose unit parameters have these margins and gradients."""
    # Nothing is within 2 % of a negative minimum, and SciPy's nnls overwrites memory if given no
    # column. (Not > 0 rather than <= 0, so that NaN is caught as well.)
    if not margins.min() > 0:
        return math.nan
    active = np.unique(jacobian[margins <= 1.02 * margins.min()], axis=0)
    unit = active / np.linalg.norm(active, axis=1, keepdims=True)
    _, distance = optimize.nnls(unit.T, flat)
    return math.sqrt(max(0.0, 1 - distance**2))


def compare(
    problems: Problems, weights: dict[str, jax.Array], optima: dict[str, Optima]
) -> dict[str, dict[str, np.ndarray]]:
    """Reached over optimal radius: threat -> model -> ``(S,)``."""
    return {
        threat: {
            name: reached_margins(problems, w, norm) / optima[threat].margin
            for name, w in weights.items()
        }
        for threat, norm in WEIGHT_NORMS.items()
    }


def bridge_values(problems: Problems, candidates: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """The penalty of three convolutions, ``||F w||_(2/3)`` for margin 1, of several predictors.

    Infinite for a predictor that does not separate the data: no multiple of it has margin 1.
    """

    def penalty(w, x, y):
        spectrum = np.abs(np.fft.fft(np.asarray(w), norm="ortho"))
        margin = np.min(np.asarray(y) * (np.asarray(x) @ np.asarray(w)))
        if not margin > 0:
            return math.inf
        return np.sum((spectrum / margin) ** (2 / 3)) ** 1.5

    return {
        name: np.array([penalty(*args) for args in zip(ws, problems.x, problems.y, strict=True)])
        for name, ws in candidates.items()
    }


def prediction(model: Model) -> Norm:
    """The norm of the weights whose margin theory says is maximised."""
    return linear.implicit_bias(model.network)


def predicted_threat(model: Model) -> str:
    """The name of the perturbations that the model should be most robust against."""
    return next(threat for threat, norm in WEIGHT_NORMS.items() if norm == prediction(model))


def claims(sizes, ratios, cosines) -> list[Claim]:
    """What theory predicts, held against the ratios."""
    return [
        *reached_claims(ratios),
        *convolution_claims(np.array(sizes), ratios["Fourier-linf"]),
        Claim.at_least(
            f"{CONVOLUTIONS} (conditions as recalled)",
            "three convolutions end in a stationary point of their margin problem: cosine between "
            "the parameters and the cone of the smallest margins' gradients",
            cosines["convolution, depth 3"],
            0.99,
        ),
        Claim.at_most(
            "duality (exact)",
            "no run has a larger radius than the certified optimum",
            [value for by_model in ratios.values() for value in by_model.values()],
            1.0,
            tolerance=2e-5,  # the certified gap of the optimum
        ),
    ]


def reached_claims(ratios) -> list[Claim]:
    """How close each architecture comes to the optimum that theory names."""
    return [
        Claim.at_least(
            linear.theory(model.network).source,
            f"{name}: gradient descent reaches at least {100 * model.bound:.0f} % of the optimal "
            f"robust radius against {predicted_threat(model)} perturbations",
            ratios[predicted_threat(model)][name],
            model.bound,
        )
        for name, model in MODELS.items()
        if model.bound is not None
    ]


def convolution_claims(sizes: np.ndarray, ratios) -> list[Claim]:
    """Two convolutions beat what has no convolution, where data are wide enough for the limit."""
    wide = sizes <= 12
    if not wide.any():
        return []
    others = ("one vector", "fully connected, depth 2")
    return [
        Claim.at_least(
            CONVOLUTIONS,
            "two convolutions are more robust against Fourier-linf perturbations than one vector "
            "and than two fully connected layers (lead in the ratio, at most 12 examples)",
            [ratios["convolution, depth 2"][wide] - ratios[other][wide] for other in others],
            0.0,
        )
    ]


def summarise(ratios, cosines) -> str:
    """What was found, in words and numbers."""
    reached = {
        name: 100 * ratios[predicted_threat(model)][name].min()
        for name, model in MODELS.items()
        if model.bound is not None
    }
    away = 1 - cosines["convolution, depth 3"].min()
    diagonal, layers, convolutions = (
        f"{reached[name]:.1f} %"
        for name in ("diagonal u² - v²", "fully connected, depth 2", "convolution, depth 2")
    )
    return (
        "The parametrisation alone decides what gradient descent makes a linear classifier robust "
        f"against: a diagonal network reaches {diagonal} of the optimal linf radius or more, two "
        f"fully connected layers {layers} of the l2 radius, and two convolutions {convolutions} of "
        "the Fourier-linf radius, of which one vector reaches "
        f"{100 * ratios['Fourier-linf']['one vector'].max():.1f} % at most (extremes over single "
        "runs). For three convolutions no robustness is predicted, only a stationary point; the "
        f"cosine that is 1 there is short of it by {away:.0e} or less."
    )


def ratio_table(sizes, ratios) -> Table:
    """Reached over optimal radius of every run."""
    rows = [
        [name, size, *(ratios[threat][name][index] for threat in WEIGHT_NORMS)]
        for name in MODELS
        for index, size in enumerate(sizes)
    ]
    return Table(
        "Reached over optimal robust radius",
        ["architecture", "examples", *(f"against {threat}" for threat in WEIGHT_NORMS)],
        rows,
        "1 is the most robust linear classifier.",
    )


def penalty_table(sizes, cosines, bridge) -> Table:
    """Stationarity of every architecture and the penalty of three convolutions."""
    rows = [
        [size, *(values[index] for values in (*cosines.values(), *bridge.values()))]
        for index, size in enumerate(sizes)
    ]
    return Table(
        "Stationarity, and the penalty of three convolutions",
        [
            "examples",
            *(f"cosine: {name}" for name in cosines),
            *(f"penalty: {n}" for n in bridge),
        ],
        rows,
        "Cosine between the parameters and the cone of the smallest margins' gradients: 1 at a "
        "stationary point, NaN where the data are not separated. Penalty: l_(2/3) quasi-norm of "
        "the spectrum for margin 1, of which theory promises a stationary point, not the minimum.",
    )


def plot(result: Result) -> dict:
    """The table of ratios, and the spectra of the predictors."""
    outlined = [
        (row, list(WEIGHT_NORMS).index(predicted_threat(model)))
        for row, model in enumerate(MODELS.values())
        if model.bound is not None
    ]
    return {
        "ratios": architecture_plots.ratios(result, outlined),
        "spectra": architecture_plots.spectra(result),
    }
