"""Which norm's margin does each optimizer maximise?

On separable data a linear classifier can separate in many ways, and the optimizer chooses. Theory
since 2021 says what: Adam without its ε the largest linf margin, with ε in time the l2 margin;
mirror descent with the p-th power of the lp norm that of lp; AdamW, Lion and any normalised
steepest descent with weight decay the least loss in a ball of radius 1/decay; spectral descent
(Muon) the largest spectral margin of several classes, if it is by singular vectors: with a few
Newton-Schulz steps in their place it turns away from it. Every one is trained here on data whose
largest margins are known, certified; besides, small batches, a diagonal network from small and from
large weights, and steepest flow on a network with one hidden layer, whose margin must not fall once
all points are classified.

Gaussian data, 12 examples in 100 dimensions, and 30 in 20 of 4 classes. In float64.

Presets:
    quick: 35 s on 2 cores; 3 data sets, 20,000 steps
    full: (estimated) 8 min on 2 cores; 10 data sets, 200,000 steps
"""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments import linear_training, optimizer_zoo_plots, silent
from experiments import optimizer_zoo_claims as claims
from experiments import optimizer_zoo_runs as runs
from experiments.optimizer_zoo_claims import Found
from experiments.report import Result, Table
from jaxrobust import data, linear, norms

TOUR = False
ADAM_WITHOUT = "Adam, ε 0"
MUON = "spectral descent with decay"


@dataclasses.dataclass(frozen=True)
class Config:
    """Data and steps."""

    seeds: int = 3
    """Number of data sets, besides the one of the tables."""
    steps: int = claims.TABLE_STEPS
    """Steps of every optimizer; at least 100."""

    def __post_init__(self):
        for name, least in (("seeds", 1), ("steps", 100)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


PRESETS = {"full": Config(seeds=10, steps=200_000)}


def run(config: Config, progress=silent) -> Result:
    """Trains all, and compares margins with the largest ones."""
    times = linear_training.log_spaced(10, config.steps, 60)
    gaussian = [data.logistic_gaussian(12, num_test=1, seed=seed) for seed in range(config.seeds)]
    problems = linear_training.stack([linear_training.gaussian_of_the_tables(12), *gaussian])
    best = linear_training.optimal_margins_by_norm(problems, list(runs.NORMS.values()))
    optima = {name: found.margin for name, found in zip(runs.NORMS, best, strict=True)}
    seconds, begin = {}, time.perf_counter()
    parts = {
        "binary": lambda x, y: binary(x, y, optima, times),
        "powers": lambda x, y: powers(x, y, config.steps),
        "boxes": lambda x, y: boxes(config),
        "batches": lambda x, y: batches(x, y, optima["linf"], config.steps),
        "even": lambda x, y: even(config),
        "classes": lambda x, y: several_classes(config),
        "diagonal": lambda x, y: diagonal(x, y, optima["l1"], config.steps),
        "hidden": lambda x, y: hidden(config),
    }
    found = {}
    with jax.enable_x64(True):
        x, y = jnp.asarray(problems.x, jnp.float64), jnp.asarray(problems.y, jnp.float64)
        for number, (name, measure) in enumerate(parts.items()):
            progress(number / len(parts), name)
            found[name] = measure(x, y)
            seconds[name] = time.perf_counter() - begin - sum(seconds.values())
    whole = Found(**found)
    return Result(
        summary=claims.summarise(config, whole),
        claims=claims.claims(config, whole),
        series={"steps": times, "found": whole._asdict()},
        tables=[binary_table(whole), classes_table(whole), others_table(whole)],
        wall_time=seconds,
    )


def binary(x, y, optima, times) -> dict[str, dict[str, np.ndarray]]:
    """Margins over the optimum ``(S, T)`` in three norms, and bounds of the norm of theory."""
    found = {}
    for name, contender in runs.CONTENDERS.items():
        target = contender.norm or norms.linf
        watched = [
            runs.descend(contender.make, target, one, signs, jnp.asarray(times))
            for one, signs in zip(x, y, strict=True)
        ]
        row = {
            of: np.stack([margins(w.w, a, b, norm) for w, a, b in zip(watched, x, y, strict=True)])
            / optima[of][:, None]
            for of, norm in runs.NORMS.items()
        }
        scale = optima[target.name][:, None]
        for side in ("lower", "upper"):
            row[side] = np.stack([getattr(w.certificate, side) for w in watched]) / scale
        found[name] = row
    return found


def margins(w, x, y, norm) -> np.ndarray:
    """Of weights ``(T, *features)``."""
    return np.asarray(jax.vmap(lambda w: linear.margin(w, x, y, norm))(w))


def solved(x, y, norm, **options) -> linear.MaxMargin:
    """The largest margin, certified.

    Raises:
      RuntimeError: if it is not solved to the tolerance.
    """
    best = linear.max_margin(x, y, norm, **options)
    if not bool(best.converged):
        raise RuntimeError(f"max_margin in {norm.name}: {best.describe()}")
    return best


def powers(x, y, steps) -> dict[str, np.ndarray]:
    """Of p-GD the margin in lp over the optimum, ``(S,)``."""
    found = {}
    for p in runs.POWERS:
        norm = norms.lp(p)
        share = []
        for one, signs in zip(x, y, strict=True):
            best = solved(one, signs, norm)
            w = runs.mirrored(p, one, signs, jnp.int32(steps))
            share.append(float(linear.margin(w, one, signs, norm) / best.upper_bound))
        found[norm.name] = np.asarray(share)
    return found


def boxes(config: Config) -> dict[str, np.ndarray]:
    """Norm over the radius, and Frank-Wolfe's gap over the loss: ``(S, 2)``.

    From weights far outside of the ball: that they end inside is no consequence of the start.
    """
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in runs.BOXED}
    found[MUON] = []
    for seed in range(config.seeds):
        x, y = runs.noisy(seed)
        start = jnp.full(x.shape[1], 3 / runs.DECAY)
        for name, (make, norm) in runs.BOXED.items():
            given = x, y, jnp.int32(config.steps)
            w = runs.descend_decayed(make, runs.mean_logistic, start, *given)
            found[name].append(runs.gap_in_ball(runs.mean_logistic, w, x, y, norm))
        labels = ((y > 0) + 2 * (x[:, 0] > 0)).astype(jnp.int32)
        start = jnp.full((runs.NUM_CLASSES, x.shape[1]), 3 / runs.DECAY)
        given = x, labels, jnp.int32(config.steps)
        w = runs.descend_decayed(runs.muon_with_decay, runs.softmax_loss, start, *given)
        found[MUON].append(runs.gap_in_ball(runs.softmax_loss, w, x, labels, norms.spectral))
    return {name: np.asarray(rows) for name, rows in found.items()}


def even(config: Config) -> dict[str, dict[str, np.ndarray]]:
    """Margins of Adam over the optimum ``(S,)``, by norm, with all examples and one in a batch."""
    found = {told: {"l2": [], "linf": []} for told in ("all", "one")}
    for seed in range(config.seeds):
        x, y = runs.even(seed)
        for told, size in (("all", len(x)), ("one", 1)):
            w = runs.descend_in_batches(
                runs.SMALL_BATCHES[ADAM_WITHOUT], size, x, y, jnp.int32(config.steps)
            )
            for name, margins in found[told].items():
                norm = runs.NORMS[name]
                largest = linear.max_margin(x, y, norm).margin
                margins.append(float(linear.margin(w, x, y, norm) / largest))
    return jax.tree.map(np.asarray, found, is_leaf=lambda leaf: isinstance(leaf, list))


def batches(x, y, optima, steps) -> dict[str, dict[str, np.ndarray]]:
    """Margins in linf over the optimum ``(S,)``, with all examples and with one in a batch.

    And with one, corrected by SVRG.
    """
    runs_of = {"all": (x.shape[1], False), "one": (1, False), "one, SVRG": (1, True)}

    def margins(make, size, corrected):
        ends = [
            runs.descend_in_batches(make, size, one, signs, jnp.int32(steps), corrected)
            for one, signs in zip(x, y, strict=True)
        ]
        return np.asarray(
            [float(linear.margin(w, one, signs, norms.linf))
             for w, one, signs in zip(ends, x, y, strict=True)]
        )  # fmt: skip

    return {
        name: {told: margins(make, *options) / optima for told, options in runs_of.items()}
        for name, make in runs.SMALL_BATCHES.items()
    }


def several_classes(config: Config) -> dict[str, dict[str, np.ndarray]]:
    """Margins of several classes over the optimum ``(S,)``, by optimizer and norm."""
    found: dict[str, dict[str, list[float]]] = {
        name: {of: [] for of in runs.MATRIX_NORMS} for name in runs.MATRIX_CONTENDERS
    }
    for seed in range(config.seeds):
        x, y = (jnp.asarray(z) for z in runs.classes(seed))
        best = {
            of: solved(x, y, norm, num_classes=runs.NUM_CLASSES).upper_bound
            for of, norm in runs.MATRIX_NORMS.items()
        }
        for name, make in runs.MATRIX_CONTENDERS.items():
            start = jnp.zeros((runs.NUM_CLASSES, runs.FEATURES))
            given = x, y, jnp.int32(config.steps)
            w = runs.descend_decayed(make, runs.softmax_loss, start, *given)
            for of, norm in runs.MATRIX_NORMS.items():
                found[name][of].append(float(linear.margin(w, x, y, norm) / best[of]))
    return {
        name: {of: np.asarray(share) for of, share in row.items()} for name, row in found.items()
    }


def diagonal(x, y, optima, steps) -> dict[str, np.ndarray]:
    """Of u^2 - v^2 from small and large weights: l1 margin over the optimum, log L; ``(S,)``.

    From large ones also after a twentieth of the steps.
    """
    found = {}
    for told, scale, number_of_steps in (
        ("small", 0.01, steps), ("large", 1.0, steps), ("large, early", 1.0, steps // 20)
    ):  # fmt: skip
        share, losses = [], []
        for number, (one, signs) in enumerate(zip(x, y, strict=True)):
            w, loss = runs.diagonal(jnp.asarray(scale), one, signs, jnp.int32(number_of_steps))
            share.append(float(linear.margin(w, one, signs, norms.l1)) / optima[number])
            losses.append(float(loss))
        found[told], found[f"{told}: log L"] = np.asarray(share), np.asarray(losses)
    return found


def hidden(config: Config) -> dict[str, dict[str, np.ndarray]]:
    """Soft and smallest margins of a ReLU network ``(S, T)``, and its largest falls ``(S,)``.

    A soft margin is that of the params over the square of their norm: of the norm of the descent,
    and for comparison of the others.
    """
    found = {}
    kept = linear_training.log_spaced(1, config.steps, 200)
    for name, norm in runs.NORMS.items():
        rows = []
        for seed in range(config.seeds):
            flow = runs.steepest_flow(norm, *runs.hidden_layer(seed), config.steps)
            value, least, lengths = jax.tree.map(np.asarray, flow)
            falls = {of: claims.fall(value, least, length) for of, length in lengths.items()}
            others = [fall for of, fall in falls.items() if of != name]
            soft = value / lengths[name] ** 2
            rows.append((soft[kept - 1], least[kept - 1], falls[name], max(others)))
        soft, least, fall, other = (np.stack(part) for part in zip(*rows, strict=True))
        found[name] = {"steps": kept, "soft": soft, "least": least, "fall": fall, "other": other}
    return found


def binary_table(found: Found) -> Table:
    """Margins at the end and the certificate, by optimizer."""
    rows = []
    for name, row in found.binary.items():
        of = runs.CONTENDERS[name].norm
        ends = [float(row[norm][:, -1].mean()) for norm in runs.NORMS]
        gap = 1 - row["lower"][:, -1] / row["upper"][:, -1]
        rows.append([name, of.name if of else "none", *ends, float(gap.max()) if of else "—"])
    return Table(
        "Two classes: margins over the largest ones, at the end",
        ["optimizer", "theory", *runs.NORMS, "certified gap"],
        rows,
        "Means over data sets. The certified gap is that to the largest margin in the norm of "
        "theory, the worst of all data sets: what training itself proves, without the optimum.",
    )


def classes_table(found: Found) -> Table:
    """Margins of several classes."""
    rows = [
        [name, runs.MATRIX_THEORY[name], *(float(row[of].mean()) for of in runs.MATRIX_NORMS)]
        for name, row in found.classes.items()
    ]
    return Table(
        f"{runs.NUM_CLASSES} classes: margins over the largest ones, at the end",
        ["optimizer", "theory", *runs.MATRIX_NORMS],
        rows,
        "Means over data sets; norms of the matrix of weights.",
    )


def others_table(found: Found) -> Table:
    """Everything else, a line each."""
    rows = [
        [f"p-GD, {name}", "margin over the largest one", float(share.min())]
        for name, share in found.powers.items()
    ]
    for name, both in found.boxes.items():
        rows.append([name, "norm over 1 / decay, at most", float(both[:, 0].max())])
        rows.append([name, "gap of the loss in that ball over the loss, at most",
                     float(both[:, 1].max())])  # fmt: skip
    for name, row in found.batches.items():
        for told, share in row.items():
            rows.append([f"{name}, {told} in a batch", "linf margin", float(share.mean())])
    for told, row in found.even.items():
        run = f"{ADAM_WITHOUT}, {told} in a batch, entries of one size"
        rows += [[run, f"{norm} margin", float(share.mean())] for norm, share in row.items()]
    for told in ("small", "large", "large, early"):
        rows.append([f"diagonal network, {told} weights at first", "l1 margin",
                     float(found.diagonal[told].mean())])  # fmt: skip
    return Table("Other optimizers", ["run", "what", "value"], rows)


def plot(result: Result) -> dict:
    """Two tables of margins, margins on the way, and those of the hidden layer."""
    return {
        "margins": optimizer_zoo_plots.margins(result),
        "drift": optimizer_zoo_plots.drift(result),
        "hidden": optimizer_zoo_plots.hidden(result),
    }
