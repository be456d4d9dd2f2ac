"""How fast does training approach the most robust linear classifier?

Steepest descent converges in direction to the classifier of largest margin, and how fast depends
on the step alone. For gradient descent theory gives three rates of the gap 1 - margin / optimum
after T steps: about 1/log T with a constant step, 1/sqrt(T) with normalised steps of length
1/(B sqrt(t)), and 1/T when the step grows as the loss falls, 1/(B² L).

Gaussian data, 12 examples in 100 dimensions, where even the slowest rule separates them at once.
All in float64: the gap falls below 1e-4, and the optimum is certified to 1e-9. The step 1/(B² L)
on the loss L is taken as the constant step 1/B² on log L, which cannot underflow.

For the step 1/(B² L) the same is measured for coordinate, sign and Fourier descent, each towards
the optimum in its own norm; no claim is made there.

Presets:
    quick: 15 s on 2 cores; 3 seeds, 30,000 steps
    full: 2 min on 2 cores; 10 seeds, 100,000 steps
"""

import dataclasses
import functools
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import linear_training, plots, silent
from experiments.claims import Claim
from experiments.linear_training import METHODS, Problems, log_loss
from experiments.report import Result, Table
from jaxrobust import data, linear, norms, optim
from jaxrobust.norms import Norm

NACSON = "Nacson et al., arXiv:1803.01905 (abstract)"
JI = "Ji and Telgarsky, arXiv:1906.04540 (abstract)"
TABLE_SOURCE = "our specification, section 5.5 (measured before, with NumPy)"

EXAMPLES = 12
FIRST = 300  # slopes are fitted from here on
TIMES = (300, 1_000, 3_000, 10_000, 30_000)


class Rule(NamedTuple):
    """A step rule, and the norm and the loss it is used with."""

    step: str  # a key of STEPS
    norm: Norm = norms.l2
    loss: linear.Loss = "exponential"


STEPS = {
    "constant": "constant step 1/B²",
    "normalised": "normalised, 1/(B √t)",
    "inverse loss": "step 1/(B² L)",
}
CAPTION = (
    "How far the robust radius is from the best possible, on logarithmic axes. Lines: mean over "
    "data sets, bands: their range. Dashed black: the shape that theory predicts. Each optimizer "
    "is compared with the optimum in its own norm."
)
# Source, what it says, and the interval that the slope of log gap against log T is to lie in.
RATES = {
    "inverse loss": (f"{JI}: O(1/t) with aggressive steps", "about as 1/T", -1.15, -0.85),
    "normalised": (f"{NACSON}: O(log t / √t), normalised", "about as 1/√T", -0.65, -0.4),
    "constant": (f"{NACSON}: 1/log t, fixed step", "more slowly than T^-0.4", -0.4, 0.0),
}
BY_STEP = {name: Rule(name) for name in STEPS}
BY_METHOD = {name: Rule("inverse loss", norm) for name, norm in METHODS.items()}
# The table was measured with these losses, on another draw of the same data.
TABLE = {
    Rule("constant", loss="logistic"): (0.136, 0.0909, 0.0689, 0.0546, 0.0461),
    Rule("normalised", loss="logistic"): (0.0445, 0.0236, 0.0134, 0.00729, 0.00419),
    Rule("inverse loss"): (0.0212, 0.00632, 0.0021, 0.00063, 0.00021),
}
RULES = tuple(dict.fromkeys([*BY_STEP.values(), *BY_METHOD.values(), *TABLE]))


@dataclasses.dataclass(frozen=True)
class Config:
    """Data and length of training."""

    seeds: int = 3
    """Number of Gaussian data sets."""
    steps: int = 30_000
    """Training steps of every run; at least 1000, for slopes are fitted from step 300 on."""

    def __post_init__(self):
        for name, least in (("seeds", 1), ("steps", 1_000)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


PRESETS = {"full": Config(seeds=10, steps=100_000)}


def run(config: Config, progress=silent) -> Result:
    """Trains under every rule, and compares with the certified optimum."""
    times = linear_training.log_spaced(10, config.steps, 100, include=TIMES)
    with jax.enable_x64(True):
        problems = gaussian(config.seeds)
        progress(0.0, f"{len(RULES)} rules, {config.seeds + 1} data sets, one program")
        begin = time.perf_counter()
        margins = [np.asarray(m) for m in train(problems, jnp.asarray(times))]
        trained = time.perf_counter()
        progress(0.6, "certified optimum")
        gaps = gaps_to_optimum(problems, margins)
    seconds = {"training": trained - begin, "optimum": time.perf_counter() - trained}
    table_gaps = {rule: gaps[rule][-1, np.isin(times, TIMES)] for rule in TABLE}
    by_step = {name: gaps[rule][:-1] for name, rule in BY_STEP.items()}
    by_method = {name: gaps[rule][:-1] for name, rule in BY_METHOD.items()}
    return Result(
        summary=summarise(config, times, by_step),
        claims=claims(times, by_step, table_gaps),
        series={"steps": times, "gap": by_step, "gap of the optimizers": by_method},
        tables=[
            gap_table("Gap to the optimal radius, gradient descent", times, by_step),
            gap_table("Gap with the step 1/(B² L), each in its own norm", times, by_method),
        ],
        wall_time=seconds,
    )


def gaussian(seeds: int) -> Problems:
    """The Gaussian data of every seed in float64 and, last, the draw that the table stems from."""
    sets = [data.logistic_gaussian(EXAMPLES, num_test=1, seed=seed) for seed in range(seeds)]
    x, y, where = linear_training.stack([*sets, linear_training.gaussian_of_the_tables(EXAMPLES)])
    return Problems(x.astype(jnp.float64), y.astype(jnp.float64), where)


@jax.jit
def train(problems: Problems, times: jax.Array) -> list[jax.Array]:
    """Margins ``(problems, times)`` of the training weights, for every one of `RULES`."""
    return [jax.vmap(functools.partial(_train_one, rule, times))(problems) for rule in RULES]


def _train_one(rule: Rule, times: jax.Array, problem: Problems) -> jax.Array:
    """Normalised margins ``(times,)`` on the way, from zero weights."""
    optimizer = make_optimizer(rule, jnp.max(jax.vmap(rule.norm.dual.value)(problem.x)))

    def step(carry):
        w, state = carry
        value, gradient = jax.value_and_grad(log_loss)(w, problem, rule.loss)
        # The constant step is one on the loss itself; the others do not see the factor.
        gradient = jnp.exp(value) * gradient if rule.step == "constant" else gradient
        updates, state = optimizer.update(gradient, state, w)
        return optax.apply_updates(w, updates), state

    def observe(carry):
        return linear.margin(carry[0], problem.x, problem.y, rule.norm)

    w = jnp.zeros_like(problem.x[0])
    return linear_training.recorded(step, (w, optimizer.init(w)), observe, times)


def make_optimizer(rule: Rule, bound: jax.Array) -> optax.GradientTransformationExtraArgs:
    """The optimizer of a rule; `bound` is B, the largest dual norm of an example."""
    if rule.step == "normalised":
        return optim.normalized_steepest_descent(optim.inverse_sqrt(1 / bound), rule.norm)
    return optim.steepest_descent(1 / bound**2, rule.norm)


def gaps_to_optimum(problems: Problems, margins: list[np.ndarray]) -> dict[Rule, np.ndarray]:
    """``1 - margin / optimum`` of every rule, ``(problems, times)``."""
    used = list(METHODS.values())
    found = linear_training.optimal_margins_by_norm(problems, used, tolerance=1e-9)
    optimum = {norm: best.margin for norm, best in zip(used, found, strict=True)}
    return {
        rule: 1 - reached / optimum[rule.norm][:, None]
        for rule, reached in zip(RULES, margins, strict=True)
    }


def slopes(times: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """Least-squares slope of log gap against log T from step 300 on, one per row of `gaps`."""
    late = times >= FIRST
    return np.polyfit(np.log(times[late]), np.log(gaps[:, late].T), 1)[0]


def straightness(times: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """Share of variance explained by ``1 / gap = a + b log T`` from step 300 on, per row."""
    late = times >= FIRST
    x = np.log(times[late])
    return np.array([np.corrcoef(x, 1 / row)[0, 1] ** 2 for row in gaps[:, late]])


def claims(
    times: np.ndarray, gaps: dict[str, np.ndarray], table_gaps: dict[Rule, np.ndarray]
) -> list[Claim]:
    """The three rates, and the table measured before."""
    rates = [
        Claim.between(
            source,
            f"gradient descent, {STEPS[name]}: the gap falls {words} (slope of log gap against "
            f"log T from T = {FIRST} to {times[-1]:,}, every seed)",
            slopes(times, gaps[name]),
            low,
            high,
        )
        for name, (source, words, low, high) in RATES.items()
    ]
    straight = Claim.at_least(
        f"{NACSON}: 1/log t, fixed step; the form a + b log T is ours",
        "with a constant step 1/gap is a straight line in log T (share of variance explained)",
        straightness(times, gaps["constant"]),
        0.999,
    )
    return [*rates, straight, table_claim(times, table_gaps)]


def table_claim(times: np.ndarray, gaps: dict[Rule, np.ndarray]) -> Claim:
    """Whether the gaps tabulated before are met, at the steps that this run has."""
    shown = [t for t in TIMES if t <= times[-1]]
    return Claim.close(
        TABLE_SOURCE,
        "an independent program measured the same gaps on the same data, for the three rules at "
        f"T = {', '.join(f'{t:,}' for t in shown)} (measured over tabulated)",
        [gaps[rule] / np.array(expected[: len(shown)]) for rule, expected in TABLE.items()],
        1.0,
        atol=0.025,  # half a unit of the last digit of .0021 and .00021
    )


def summarise(config: Config, times: np.ndarray, gaps: dict[str, np.ndarray]) -> str:
    """What was found, in words and numbers."""
    last = {name: 100 * rows[:, -1] for name, rows in gaps.items()}
    slope = {name: slopes(times, rows) for name, rows in gaps.items()}
    return (
        f"After {config.steps:,} steps of gradient descent the robust radius is "
        f"{spread(last['constant'], '.1f')} % short of the best possible with a constant step, "
        f"{spread(last['normalised'], '.2f')} % with normalised steps, and "
        f"{spread(last['inverse loss'], '.3f')} % with the step 1/(B² L). The gap falls as T to "
        f"the power {spread(slope['constant'], '.2f')} under the first rule, "
        f"{spread(slope['normalised'], '.2f')} under the second and "
        f"{spread(slope['inverse loss'], '.2f')} under the third (T from {FIRST} on, extremes over "
        f"data sets).{overtaking(times, gaps)}"
    )


def spread(values: np.ndarray, form: str) -> str:
    """The smallest and the largest number: "4.1 to 5.2"."""
    low, high = (f"{v:{form}}".replace("-", "\u2212") for v in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def overtaking(times: np.ndarray, gaps: dict[str, np.ndarray]) -> str:
    """How soon, on every data set, the step 1/(B² L) is where the constant step ends."""
    there = (gaps["inverse loss"] <= gaps["constant"][:, -1:]).all(axis=0)
    if not there.any():
        return ""
    soon = times[np.argmax(there)]
    return f" Where the constant step ends, the step 1/(B² L) is within {soon:,} steps."


def gap_table(title: str, times: np.ndarray, gaps: dict[str, np.ndarray]) -> Table:
    """Gap at some steps and fitted slope, one row per step rule or optimizer."""
    shown = [t for t in TIMES if t <= times[-1]]
    rows = []
    for name, values in gaps.items():
        slope = slopes(times, values)
        means = [float(values[:, times == t].mean()) for t in shown]
        rows.append([STEPS.get(name, name), *means, float(slope.min()), float(slope.max())])
    return Table(
        title,
        ["", *(f"T = {t:,}" for t in shown), "steepest slope", "flattest"],
        rows,
        "1 - radius / optimum, mean over data sets; slope of log gap against log T from "
        f"T = {FIRST} on, of the steepest and of the flattest data set.",
    )


def plot(result: Result) -> dict:
    """The three rules against theory, and the fastest rule in five geometries."""
    figure, (left, right) = plots.subplots(columns=2, width=10.5, height=4.3, sharey=True)
    times = np.asarray(result.series["steps"])
    by_step = {STEPS[name]: np.asarray(g) for name, g in result.series["gap"].items()}
    by_method = {name: np.asarray(g) for name, g in result.series["gap of the optimizers"].items()}
    draw(left, times, by_step)
    draw(right, times, by_method)
    draw_theory(left, times, *by_step.values())
    draw_power(right, times, by_method["gradient descent"].min(axis=0) / 2, -1, "1/T", (-6, -4))
    y = "gap: 1 - radius / optimum"
    plots.describe(left, title="Gradient descent, three step rules", x="training steps T", y=y)
    plots.describe(right, title="Step 1/(B² L), five optimizers", x="training steps T", y="")
    for ax in (left, right):
        ax.set_ylim(
            by_step["step 1/(B² L)"].min() / 4, 2
        )  # before the labels, whose heights follow from it
        plots.direct_labels(ax)
    return {"gaps": (plots.finish(figure), CAPTION)}


def draw(ax, times: np.ndarray, gaps: dict[str, np.ndarray]) -> None:
    """Mean and range over the data sets of several measured gaps, on logarithmic axes."""
    ax.set_xscale("log")
    ax.set_yscale("log")
    for index, (name, rows) in enumerate(gaps.items()):
        band = rows.min(axis=0), rows.max(axis=0)
        plots.line(ax, times, rows.mean(axis=0), label=name, index=index, band=band)


def draw_theory(ax, times, constant, normalised, inverse_loss) -> None:
    """The predicted shape of each of the three rules, from step 300 on."""
    late = times >= FIRST
    x, y = np.log(times[late]), constant.mean(axis=0)[late]
    draw_named(ax, times[late], 1 / np.polyval(np.polyfit(x, 1 / y, 1), x), "1/(a + b log T)")
    draw_power(ax, times, normalised.mean(axis=0), -0.5, "1/√T")
    draw_power(ax, times, inverse_loss.mean(axis=0), -1, "1/T")


def draw_power(ax, times, gap, power: float, name: str, shift=(6, 5)) -> None:
    """The line ``c T**power`` from step 300 on, through the given gap at its middle."""
    t, y = times[times >= FIRST].astype(float), gap[times >= FIRST]
    middle = len(t) // 2
    draw_named(ax, t, y[middle] * (t / t[middle]) ** power, name, shift)


def draw_named(ax, x, y, name: str, shift=(6, 5)) -> None:
    """A theory line with its name beside its middle, shifted by so many points."""
    plots.theory_line(ax, x, y, label="_theory")
    place = {"ha": "left", "va": "bottom"} if shift[1] > 0 else {"ha": "right", "va": "top"}
    at = len(x) // 2
    ax.annotate(name, (x[at], y[at]), xytext=shift, textcoords="offset points", **place)
