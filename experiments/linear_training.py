"""Linear classifiers by steepest descent: many data sets and several norms in one program.

What the experiments and benchmarks about linear classifiers share. Data sets of different size are
padded to one shape by repeating their rows (which leaves the maximum margin as it is), and a mask
keeps the repetitions out of the loss.
"""

import functools
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrobust import data, linear, norms, optim
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
# What each is most robust against, by theory: perturbations bounded in the dual norm.
THREATS = {name: norm.dual for name, norm in METHODS.items()}
THREAT_NAMES = {name: norm.name for name, norm in THREATS.items()}
ENOUGH = 5  # see `steps_needed`
FOURIER = (
    "Fourier norms are norms of the unitary discrete Fourier transform, for images of the "
    "two-dimensional one."
)


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


def digit_pair(low: int, high: int, seed: int) -> Dataset:
    """One pair of handwritten digits as 8x8 images, 80 % for training; a seed is a split."""
    return data.images(data.pair(data.digits(seed=seed), low, high))


def as_plane(norm: Norm) -> Norm:
    """The norm for images: Fourier norms transform both axes."""
    return norms.fourier(norms.lp(norm.p), (0, 1)) if isinstance(norm, norms.Fourier) else norm


def relative_margins(problems: Problems, norm: Norm, margin: np.ndarray) -> np.ndarray:
    """Optimal margins over the largest example B, both as `norm` measures them, ``(S,)``."""
    return margin / np.asarray(bounds(problems, norm), np.float64)


def steps_needed(share: np.ndarray) -> np.ndarray:
    """(B / margin)², the order of the number of steps 1/B² on log L to get near the margin.

    Of `relative_margins`. With `ENOUGH` times as many, every optimizer has been the best of five
    against its own perturbations on every split of five pairs of digits; with 3.8 times not yet.
    """
    return share**-2.0


def enough(steps: int, share: np.ndarray) -> bool:
    """Whether a run of so many steps is long enough for what theory says of the limit."""
    return bool(steps >= ENOUGH * steps_needed(share).max())


def why_short(steps: int, share: np.ndarray) -> str:
    """Why so many steps are few: the optimal margins, and the steps that follow from them."""
    return (
        f"the optimal margin is {span(100 * share)} % of the largest example B, and the number of "
        "steps needed grows with the inverse square of that, (B / margin)² = "
        f"{span(steps_needed(share))}, where {steps:,} were made"
    )


def span(values: np.ndarray) -> str:
    """The smallest and the largest number, to two digits: "0.87 to 18"."""
    low, high = rough(values.min()), rough(values.max())
    return low if low == high else f"{low} to {high}"


def rough(value: float) -> str:
    """A number to two digits: 13,000, 18, 0.87, 0.0028."""
    rounded = float(f"{value:.1e}")
    return f"{rounded:,.0f}" if abs(rounded) >= 10 else f"{rounded:.2g}"


def optimal_margins(problems: Problems, norm: Norm, *, tolerance: float = 1e-5) -> Optima:
    """Maximum margin of every problem in float64, certified to a relative gap of ``tolerance``.

    Raises:
      RuntimeError: if a problem is neither solved to the tolerance nor shown to be inseparable.
    """
    return optimal_margins_by_norm(problems, [norm], tolerance=tolerance)[0]


def optimal_margins_by_norm(
    problems: Problems, weight_norms: Sequence[Norm], *, tolerance: float = 1e-5
) -> list[Optima]:
    """As `optimal_margins`, in several norms; their programs are compiled at the same time."""

    def compiled(norm):
        with jax.enable_x64(True):  # of the thread
            x = jax.ShapeDtypeStruct(problems.x.shape, jnp.float64)
            y = jax.ShapeDtypeStruct(problems.y.shape, problems.y.dtype)
            solve = jax.vmap(lambda x, y: linear.max_margin(x, y, norm, tolerance=tolerance))
            return _quickly_compiled(jax.jit(solve).lower(x, y))

    with futures.ThreadPoolExecutor() as pool:
        programs = list(pool.map(compiled, weight_norms))
    with jax.enable_x64(True):
        x = jnp.asarray(problems.x, jnp.float64)
        found = [program(x, problems.y) for program in programs]
        return [_optima(f, norm) for f, norm in zip(found, weight_norms, strict=True)]


def _quickly_compiled(lowered: Any) -> Any:
    """The solver runs for milliseconds, and optimising its code takes seconds."""
    quick = {"xla_backend_optimization_level": "0"}
    try:  # half of the time again, where XLA has such an option
        return lowered.compile({**quick, "xla_cpu_use_fusion_emitters": False})
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        return lowered.compile(quick)


def _optima(found: linear.MaxMargin, norm: Norm) -> Optima:
    """The solver's answers, if all of them are certified."""
    if not bool(jnp.all(found.converged)):
        gaps = np.asarray(found.gap)[~np.asarray(found.converged)]
        raise RuntimeError(f"max_margin in {norm.name} left gaps {gaps}")
    margin = np.where(found.separable, found.margin, 0.0)
    return Optima(found.w, margin, np.asarray(found.upper_bound), np.asarray(found.separable))


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


def _step(w, problem: Problems, rate, *, norm: Norm, loss: linear.Loss) -> Any:
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


def log_spaced(first: int, last: int, count: int, *, include: Sequence[int] = ()) -> np.ndarray:
    """Increasing whole numbers, about ``count`` of them evenly on a logarithmic axis.

    Those of ``include`` that lie in between are among them.
    """
    spaced = np.round(np.geomspace(first, last, count)).astype(int)
    return np.unique([*spaced, *(number for number in include if first <= number <= last)])


def recorded(
    step: Callable[[Any], Any], state: Any, observe: Callable[[Any], Any], times: jax.Array
) -> Any:
    """``observe(state)`` after each of ``times`` steps (increasing), stacked; one compiled loop.

    The number of steps between two records is an argument of the program: other times need no
    other program, and nothing of the steps in between is kept.
    """

    def advance(state, span):
        state = jax.lax.fori_loop(span[0], span[1], lambda _, state: step(state), state)
        return state, observe(state)

    begins = jnp.concatenate([jnp.zeros_like(times[:1]), times[:-1]])
    return jax.lax.scan(advance, state, (begins, times))[1]


def gaussian_of_the_tables(num_examples: int, num_features: int = 100) -> Dataset:
    """The distribution of `data.logistic_gaussian` with seed 0, but drawn in float64.

    Our specification's tables of rates and of certificates were measured on this draw.
    """
    with jax.enable_x64(True), jax.threefry_partitionable(False):
        key = jax.random.split(jax.random.split(jax.random.PRNGKey(0), 3)[1], 3)
        direction = jax.random.normal(key[0], (num_features,))
        x = jax.random.normal(jax.random.split(key[1], 3)[0], (num_features, num_examples)).T
        # The generator's temperature is so low that the labels are signs.
        x, y = np.asarray(x), -np.sign(np.asarray(x @ direction))
    return data.from_arrays(x, y, name="logistic_gaussian", source="jax.random, float64, seed=0")


@functools.partial(jax.jit, static_argnames="norms")
def descend_certified(
    problems: Problems, times: jax.Array, norms: tuple[tuple[Norm, Norm | None], ...]
) -> list[tuple[jax.Array, linear.CertificateState]]:
    """Steepest descent as in `descend`, with a certificate on the way; one compiled program.

    Args:
      problems: S problems.
      times: ``(T,)`` numbers of steps at which to look, increasing.
      norms: for each run the norm to descend in, and that of the certificate (None: without it).

    Returns:
      For each run the weights and the best bounds so far, with leading axes ``(S, T)``.
    """

    def one(descent, target, problem):
        step, start = certified_step(descent, target, problem)
        return recorded(step, start, lambda carry: carry, times)

    return [jax.vmap(functools.partial(one, *pair))(problems) for pair in norms]


def certified_step(descent: Norm, target: Norm | None, problem: Problems):
    """A step on the exponential loss with a certificate in the norm `target`, and its start."""
    bound = jnp.max(jax.vmap(descent.dual.value)(problem.x))
    optimizer = optim.steepest_descent(1 / bound**2, descent)

    def loss(w):
        margins = linear.margins(w, problem.x, problem.y)
        return linear.log_loss(margins, "exponential", where=problem.where), margins

    def step(carry):
        w, state = carry
        gradient, margins = jax.grad(loss, has_aux=True)(w)
        if target is not None:
            dual = linear.dual_vector(gradient, margins, "exponential", where=problem.where)
            state = linear.update_certificate(state, w, margins, dual, target)
        updates, _ = optimizer.update(gradient, optimizer.init(w), w)
        return optax.apply_updates(w, updates), state

    w = jnp.zeros_like(problem.x[0])
    return step, (w, linear.init_certificate(w))
