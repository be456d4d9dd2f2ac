"""Which pathways win the race, and when does training on some pairs of domains serve all of them?

A routing network sends inputs of several domains through one shared middle to outputs of several
domains; gates choose which input and output are on. Trained on a part of all pairs, its loss falls
in steps, one for each singular value of the task, at times that a scalar race predicts: the shared
edge is on most paths and learns most. From small weights pairs that were never trained are right in
the end, if each input was trained with enough outputs; from large ones they are not.

Seven domains, each input trained with four outputs next to each other; four items with features in
a hierarchy. Then ten domains with one to nine outputs, and seven with weights from small to large.
In float64, by gradient descent on moments, whose price does not depend on the number of examples.

Presets:
    quick: 35 s on one core; 3 random starts each
    full: (estimated) 2 min on 2 cores; 10 random starts each
"""

import dataclasses
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import gated_routing_plots, silent
from experiments.claims import Claim
from experiments.report import Result, Table
from jaxrobust import gated

TOUR = False
DOMAINS, TRAINED, HIDDEN = 7, 4, 64
RATE, EPOCHS = 0.02, 500
GAIN, START = 0.2, 0.08  # of random orthogonal weights, and the numbers they are like
WEIGHT = 2 / 28  # of a pair of domains, as the published program has it: a mean over 4 x 7 entries
LEVELS = (152.0, 40.0, 14.0)  # losses between the steps
MANY = 10  # domains of the second part
LONG = 3_000  # its epochs
SWEPT = (1, 2, 3, 4, 5, 6, 7, 8, 9)
SCALES = tuple(np.linspace(0.2, 2.5, 6))
SWEEP_EPOCHS = 700
RACE = "Saxe, Sodhani & Lewallen 2022 (arXiv:2207.10430), slides"
BEFORE = "our specification, section 5 (measured before)"
DERIVED = "derived (our specification, section 2.6)"


@dataclasses.dataclass(frozen=True)
class Config:
    """Random starts."""

    seeds: int = 3
    """Random starts of everything."""
    epochs: int = EPOCHS
    """Of the first part."""
    hidden: int = HIDDEN
    """Size of the shared nodes."""

    def __post_init__(self):
        for name, least in (("seeds", 2), ("epochs", 10), ("hidden", 4)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


PRESETS = {"full": Config(seeds=10)}


class Task(NamedTuple):
    """Domains, of which some pairs are trained."""

    graph: gated.Graph
    moments: gated.Moments
    pairs: np.ndarray


def task(num_domains: int, num_trained: int, hidden: int) -> Task:
    """Items of the routing figure in so many domains."""
    pairs = gated.band(num_domains, num_trained)
    graph, examples = gated.routing_dataset(
        pairs, np.eye(4), gated.routing_targets(), hidden, weight=WEIGHT
    )
    return Task(graph, gated.moments(graph, examples), pairs)


def singular_values() -> np.ndarray:
    """Of the targets: sqrt(185), sqrt(41), 3, 3."""
    return np.linalg.svd(gated.routing_targets(), compute_uv=False)


def run(config: Config, progress=silent) -> Result:
    """The race, the sweep of trained outputs, the sweep of scales."""
    seconds, begin = {}, time.perf_counter()
    found: dict[str, Any] = {}
    with jax.enable_x64(True):
        for number, (name, part) in enumerate(PARTS.items()):
            progress(number / len(PARTS), name)
            found[name] = part(config)
            seconds[name] = time.perf_counter() - begin - sum(seconds.values())
    return Result(
        summary=summarise(found),
        claims=claims(config, found),
        series=found,
        tables=[race_table(found["race"]), sweep_table(found["outputs"]), scale_table(found)],
        wall_time=seconds,
    )


# What is trained ----------------------------------------------------------------------------------


def race(config: Config) -> dict[str, Any]:
    """Losses of random and decoupled starts, of the reduction and in closed form."""
    seven = task(DOMAINS, TRAINED, config.hidden)
    modes = gated.diagonalize(seven.graph, seven.moments)
    options: dict[str, Any] = {"rate": RATE, "num_steps": config.epochs}
    starts = [gated.init_orthogonal(jax.random.key(seed), seven.graph, GAIN)
              for seed in range(config.seeds)]  # fmt: skip
    ends = [gated.simulate(seven.graph, start, seven.moments, **options) for start in starts]
    decoupled = gated.init_decoupled(jax.random.key(0), seven.graph, modes, START)
    whole = gated.simulate(seven.graph, decoupled, seven.moments, **options)
    epochs = np.arange(config.epochs + 1)
    b = {name: jnp.full(modes.s.shape[1], START) for name, _ in seven.graph.edges}
    steps = gated.simulate_reduced(seven.graph, b, modes, rate=RATE, num_steps=config.epochs).losses
    flow = gated.solve_reduced(seven.graph, b, modes, epochs * RATE)
    theory = in_closed_form(epochs)
    cross = lambda losses: gated.crossing_times(epochs, losses, LEVELS)
    last = np.array([np.linalg.svd(end.params["shared"], compute_uv=False)[:4] for end in ends])
    return {
        "epochs": epochs,
        "random": np.stack([np.asarray(end.losses) for end in ends]),
        "decoupled": np.asarray(whole.losses),
        "theory": theory,
        "crossed": np.stack([cross(end.losses) for end in ends]),
        "predicted": cross(theory),
        "step gap": float(np.max(np.abs(whole.losses - steps)) / whole.losses[0]),
        "flow gap": float(np.max(np.abs(flow.losses - theory)) / theory[0]),
        "residual": modes.residual,
        "shared": last,
        "errors": np.stack([errors(seven, end.params) for end in ends]),
        "pairs": seven.pairs,
    }


def in_closed_form(epochs: np.ndarray) -> np.ndarray:
    """The loss of the first part."""
    total = np.zeros(len(epochs))
    for s in singular_values():
        parts = gated.routing_modes(epochs * RATE, s, DOMAINS, TRAINED, START, WEIGHT)
        total += 0.5 * WEIGHT * DOMAINS * TRAINED * (s - np.prod(parts, axis=0)) ** 2
    return total


def errors(of: Task, params: Any) -> np.ndarray:
    """Half squared errors ``(M, M)`` of all pairs of domains, summed over items."""
    x, y = np.eye(4), gated.routing_targets()
    mean = gated.transfer_matrix(
        of.graph, params, dict.fromkeys(of.graph.inputs, x), dict.fromkeys(of.graph.outputs, y)
    )
    return len(x) * np.asarray(mean)


def apart(of: Task, params: Any) -> tuple[float, float]:
    """Mean errors of pairs that were trained, and of the others."""
    found = errors(of, params)
    return float(found[of.pairs].mean()), float(found[~of.pairs].mean())


def outputs(config: Config) -> dict[str, np.ndarray]:
    """Errors of pairs that were not trained, by trained outputs of each input, ``(K, S)``."""
    rows: dict[str, list[list[float]]] = {"trained": [], "others": []}
    largest = []
    for number in SWEPT:
        ten = task(MANY, number, config.hidden)
        counts = [number, number * MANY, number]
        largest.append(float(gated.max_stable_rate(counts, WEIGHT, 3, singular_values())))
        # Half of the rate of the first part where that is too large.
        rate = RATE if largest[-1] > 1.05 * RATE else RATE / 2
        found = []
        for seed in range(config.seeds):
            start = gated.init_orthogonal(jax.random.key(seed), ten.graph, GAIN)
            end = gated.simulate(
                ten.graph, start, ten.moments, rate=rate, num_steps=LONG, record_every=LONG
            )
            found.append(apart(ten, end.params))
        for name, values in zip(rows, zip(*found, strict=True), strict=True):
            rows[name].append(list(values))
    return {"outputs": np.asarray(SWEPT), "largest rate": np.asarray(largest)} | {
        name: np.asarray(values) for name, values in rows.items()
    }


def scales(config: Config) -> dict[str, np.ndarray]:
    """Errors by scale of the first weights, ``(scales, S)``."""
    seven = task(DOMAINS, TRAINED, config.hidden)
    swept = gated.sweep_scales(
        seven.graph, seven.moments, SCALES, key=jax.random.key(0), num_starts=config.seeds,
        rate=lambda scale: 0.006 / scale ** (1 / 3), num_steps=SWEEP_EPOCHS,
    )  # fmt: skip
    whole = np.asarray([
        [apart(seven, jax.tree.map(lambda leaf, at=(k, start): leaf[at], swept.params))
         for start in range(config.seeds)]
        for k in range(len(SCALES))
    ])  # fmt: skip
    return {
        "scales": swept.scales, "trained": whole[..., 0], "others": whole[..., 1],
        "moved": swept.moved,
    }  # fmt: skip


def edge(config: Config) -> dict[str, float]:
    """How far the loss is from its minimum after many steps just below and above the largest rate.

    All pairs are trained, beginning next to the minimum.
    """
    del config
    domains = 3
    pairs = np.ones((domains, domains), bool)
    s = np.array([3.0, 1.0])
    graph, examples = gated.routing_dataset(pairs, np.eye(2), np.diag(s), 4)
    known = gated.moments(graph, examples)
    modes = gated.diagonalize(graph, known)
    counts = np.array([domains, domains**2, domains])
    largest = float(gated.max_stable_rate(counts, 1 / domains**2, 3, s))
    beta = (modes.s.max(axis=0) * domains**2 / np.sqrt(np.prod(counts))) ** (1 / 3)
    number = lambda name: domains**2 if name == "shared" else domains
    b = {name: number(name) ** 0.5 * beta * 1.0001 for name, _ in graph.edges}
    start = gated.init_decoupled(jax.random.key(0), graph, modes, b)
    grown = {}
    for share in (0.99, 1.01):
        end = gated.simulate(
            graph, start, known, rate=share * largest, num_steps=1_000, record_every=100
        )
        grown[f"{share:g}"] = float(end.losses[-1] / end.losses[0])
    return grown


def routes(config: Config) -> dict[str, float]:
    """How much faster a shared route is than dedicated ones, to half of a singular value."""
    del config
    rates = [float(gated.race_rate(counts, WEIGHT, 3))
             for counts in ([TRAINED, TRAINED * DOMAINS, TRAINED], [1, 1, 1])]  # fmt: skip
    s, u0 = float(singular_values()[0]), START**3
    taken = [float(gated.deep_time(s / 2, s, u0, 3, rate)) for rate in rates]
    # The same by the race itself, each graph with balanced numbers.
    solved = []
    for counts in ((TRAINED, TRAINED * DOMAINS, TRAINED), (1, 1, 1)):
        solved.append(_time_to_half(counts, s, u0))
    return {"predicted": taken[1] / taken[0], "solved": solved[1] / solved[0]}


def _time_to_half(counts: tuple[int, int, int], s: float, u0: float) -> float:
    """By the equations of one path whose edges are on so many."""
    from scipy.integrate import solve_ivp

    beta = (u0 / np.sqrt(np.prod(counts))) ** (1 / 3)

    def field(_, b):
        left = s - np.prod(b)
        return [WEIGHT * n * np.prod(b) / own * left for n, own in zip(counts, b, strict=True)]

    def half(_, b):
        return np.prod(b) - s / 2

    half.terminal = True  # type: ignore[attr-defined]
    found = solve_ivp(
        field, (0, 1e6), np.sqrt(counts) * beta, events=half, method="LSODA", rtol=1e-9, atol=1e-12
    )
    return float(found.t_events[0][0])


PARTS = {"race": race, "outputs": outputs, "scales": scales, "edge": edge, "routes": routes}


# What is told -------------------------------------------------------------------------------------


def claims(config: Config, found: dict[str, Any]) -> list[Claim]:
    """What the theory says, and what was measured before."""
    one, many, sizes = found["race"], found["outputs"], found["scales"]
    standard = config.hidden == HIDDEN and config.epochs >= EPOCHS
    why = {"should_hold": standard, "reason": "" if standard else "another size or length"}
    untrained = many["others"].mean(axis=1)
    at = {number: untrained[k] for k, number in enumerate(SWEPT)}
    middle = one["crossed"].mean(axis=0)
    pairs = one["pairs"]
    return [
        Claim.at_most(
            RACE,
            "from decoupled weights gradient descent on the whole network is that on the numbers "
            "of the race (largest difference of losses over the first)",
            one["step gap"],
            1e-11,
        ),
        Claim.at_most(
            DERIVED,
            "and gradient flow of the numbers has the closed form (likewise)",
            one["flow gap"],
            1e-6,
        ),
        Claim.close(
            BEFORE,
            f"theory: the loss is at {LEVELS[0]:g}, {LEVELS[1]:g} and {LEVELS[2]:g} after 74.5, "
            "155.0 and 312.0 epochs (difference)",
            one["predicted"] - np.array([74.5, 155.0, 312.0]),
            0.0,
            atol=0.6,
            **why,
        ),
        Claim.at_most(
            RACE,
            "networks from small random weights are there at these times (difference of their mean "
            "over the time of theory)",
            np.abs(middle / one["predicted"] - 1),
            0.1,
            **why,
        ),
        Claim.close(
            f"{RACE}; {BEFORE}",
            "in the end the shared edge has singular values (7 s)^(1/3): 4.57, 3.55, 2.76, 2.76 "
            "(difference, mean over random starts)",
            one["shared"].mean(axis=0) - (DOMAINS * singular_values()) ** (1 / 3),
            0.0,
            atol=0.05,
            **why,
        ),
        Claim.at_most(
            RACE,
            "pairs of domains that were never trained are right too: their half squared error over "
            "that of no answer at all (mean over pairs and starts, from small weights)",
            one["errors"][:, ~pairs].mean() / (0.5 * np.sum(gated.routing_targets() ** 2)),
            1e-2,
            **why,
        ),
        Claim.at_least(
            RACE,
            f"of {MANY} domains, each input trained with one output: pairs that were not trained "
            "are not learned (half squared error)",
            at[1],
            100.0,
        ),
        Claim.at_most(
            RACE,
            "from four outputs on they are (half squared error, mean over starts)",
            [at[number] for number in SWEPT if number >= 4],
            0.2,
        ),
        Claim.at_least(
            RACE,
            "and in between the error changes at once: that with two outputs over that with four",
            at[2] / at[4],
            100.0,
        ),
        Claim.at_least(
            f"{RACE}; the size: {BEFORE}",
            "the larger the first weights, the less other pairs are learned: error from the "
            "largest over the least one (means over starts)",
            sizes["others"][-1].mean() / sizes["others"].mean(axis=1).min(),
            100.0,
        ),
        Claim.at_most(
            RACE,
            f"trained pairs are learned from all of them but the smallest, from which "
            f"{SWEEP_EPOCHS} epochs are few (half squared error, means over starts)",
            sizes["trained"][1:].mean(axis=1),
            0.2,
        ),
        Claim.at_most(
            DERIVED,
            "just below the largest stable rate gradient descent comes back to the minimum (loss "
            "in the end over that at first, 0.99 of it)",
            found["edge"]["0.99"],
            1.0,
        ),
        Claim.at_least(
            DERIVED,
            "and just above it leaves (1.01 of it)",
            found["edge"]["1.01"],
            1.0,
        ),
        Claim.close(
            DERIVED,
            f"a shared route is K M^(1/3) = {TRAINED * DOMAINS ** (1 / 3):.2f} times as fast as "
            "dedicated ones (by the equations of both)",
            [found["routes"]["solved"], found["routes"]["predicted"]],
            TRAINED * DOMAINS ** (1 / 3),
            atol=1e-3,
        ),
    ]


def summarise(found: dict[str, Any]) -> str:
    """What was found, in words and numbers."""
    one, many = found["race"], found["outputs"]
    told = lambda values: ", ".join(f"{value:.0f}" for value in values)
    untrained = many["others"].mean(axis=1)
    return (
        f"The loss falls in steps, at epochs {told(one['predicted'])} by theory and "
        f"{told(one['crossed'].mean(axis=0))} in networks from small random weights. Of {MANY} "
        "domains, pairs that were never trained have a half squared error of "
        f"{untrained[0]:.0f}, {untrained[1]:.0f}, {untrained[2]:.1f} and {untrained[3]:.2f} when "
        "each input is trained with one, two, three and four outputs."
    )


def race_table(one: dict[str, Any]) -> Table:
    """Crossing times."""
    rows = [["closed form", *map(float, one["predicted"])],
            ["random starts, mean", *map(float, one["crossed"].mean(axis=0))],
            ["random starts, standard deviation",
             *map(float, one["crossed"].std(axis=0, ddof=1))]]  # fmt: skip
    return Table("Epochs until the loss is at", ["", *(f"{level:g}" for level in LEVELS)], rows)


def sweep_table(many: dict[str, Any]) -> Table:
    """Errors by trained outputs."""
    rows = [
        [int(number), float(a.mean()), float(b.mean()), float(largest)]
        for number, a, b, largest in zip(
            many["outputs"], many["trained"], many["others"], many["largest rate"], strict=True
        )
    ]
    return Table(
        f"Of {MANY} domains: half squared errors of pairs of domains",
        ["outputs trained with each input", "trained", "never trained", "largest stable rate"],
        rows,
        f"Rate {RATE:g}, or half of it where that is not stable. Means over random starts.",
    )


def scale_table(found: dict[str, Any]) -> Table:
    """Errors by scale."""
    sizes = found["scales"]
    rows = [
        [f"{scale:.2f}", float(a.mean()), float(b.mean())]
        for scale, a, b in zip(sizes["scales"], sizes["trained"], sizes["others"], strict=True)
    ]
    return Table(
        "Half squared errors by the scale of the first weights",
        ["gain", "trained", "never trained"],
        rows,
        "Means over random starts.",
    )


def plot(result: Result) -> dict:
    """The race, the pairs of domains, the two sweeps."""
    return {
        "race": gated_routing_plots.race(result),
        "pairs": gated_routing_plots.pairs(result),
        "sweeps": gated_routing_plots.sweeps(result),
    }
