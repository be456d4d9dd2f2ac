"""Which gates does a ReLU network make in a task with contexts?

Eight items in three contexts: some features are the same in all, others each context has of its
own. No linear map of item and context knows them all. Gated linear networks do: with a pathway for
each context; with another one that all contexts share; or with pathways that are each off in one
context, which see more of the data and so learn faster. A ReLU network of the same inputs has to
make gates itself. Its loss is held against that of every set of gates, and its units are counted by
the contexts in which they are on.

Gradient descent on all examples, in float64. Trees of features differ between contexts, so that
pathways have no modes in common and the scalar race is not exact; how far from it is told.

Presets:
    quick: 6 s on one core; 3 random starts
    full: (estimated) 30 s on one core; 10 random starts
"""

import dataclasses
import itertools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import gated_contexts_plots, relu_networks, silent
from experiments.claims import Claim
from experiments.report import Result, Table
from jaxrobust import gated

TOUR = False
LEVELS = 3  # of the tree of features: 8 items
CONTEXTS = 3
ALL = tuple(range(CONTEXTS))
EACH = tuple((c,) for c in ALL)
BUT_ONE = tuple(itertools.combinations(ALL, CONTEXTS - 1))
GATINGS = {
    "one for all": (ALL,),
    "one each": EACH,
    "one for all, one each": (ALL, *EACH),
    "one for all, one off in each": (ALL, *BUT_ONE),
}
SCALE = 1e-3  # of normal weights
RATE, STEPS, EVERY = 0.05, 5_000, 20
HIDDEN, UNITS = 24, 192  # of each pathway, and of the ReLU network
LARGE = 0.05  # of the largest product of weights: units above it are counted
RACE = "Saxe, Sodhani & Lewallen 2022 (arXiv:2207.10430), slides"
HASTE = (
    "a summary of Jarvis et al., Make haste slowly (arXiv:2503.06181), which was not read: the "
    "gates that ReLU networks end with"
)
OWN = "this library: measured, no paper"


@dataclasses.dataclass(frozen=True)
class Config:
    """Random starts."""

    seeds: int = 3
    """Random starts of every network."""
    steps: int = STEPS
    """Of gradient descent."""

    def __post_init__(self):
        for name, least in (("seeds", 1), ("steps", EVERY)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


PRESETS = {"full": Config(seeds=10)}


def targets() -> list[np.ndarray]:
    """Features ``(items, ..)`` of every context: common ones, then a block for each context.

    The common ones are those of a tree of all items; in its own block a context has a tree over
    the items in another order, elsewhere zeros.
    """
    tree = gated.hierarchy_targets(LEVELS)
    items, size = tree.shape
    found = []
    for context in ALL:
        # Items that were next to each other come apart: every context has neighbours of its own.
        order = np.random.default_rng(context).permutation(items)
        blocks = [tree[order] if k == context else np.zeros((items, size)) for k in ALL]
        found.append(np.concatenate([tree, *blocks], axis=1))
    return found


def run(config: Config, progress=silent) -> Result:
    """Gated networks with several sets of gates, and ReLU networks."""
    begin = time.perf_counter()
    found: dict[str, Any] = {"gatings": {}}
    with jax.enable_x64(True):
        for number, (name, sets) in enumerate(GATINGS.items()):
            progress(0.6 * number / len(GATINGS), name)
            found["gatings"][name] = with_gates(config, sets)
        progress(0.6, "ReLU")
        found["relu"] = of_relu(config)
    found["times"] = np.arange(config.steps // EVERY + 1) * EVERY * RATE
    seconds = {"all": time.perf_counter() - begin}
    return Result(
        summary=summarise(found),
        claims=claims(config, found),
        series=found,
        tables=[gating_table(found), unit_table(found["relu"])],
        wall_time=seconds,
    )


def with_gates(config: Config, sets: tuple[tuple[int, ...], ...]) -> dict[str, Any]:
    """Losses ``(seeds, T)`` from small random weights, and what theory needs."""
    graph, examples = gated.context_dataset(targets(), sets, HIDDEN, with_context=True)
    known = gated.moments(graph, examples)
    train = lambda key: gated.simulate(
        graph, gated.init_normal(key, graph, SCALE), known, rate=RATE, num_steps=config.steps,
        record_every=EVERY,
    ).losses  # fmt: skip
    losses = jnp.stack([train(jax.random.key(seed)) for seed in range(config.seeds)])
    modes = gated.diagonalize(graph, known)
    strongest = max(np.linalg.norm(np.asarray(block), 2) for block in _blocks(graph, known))
    return {
        "losses": np.asarray(losses),
        "least": least_loss(graph, known),
        "residual": modes.residual,
        "s": float(strongest),
    }


def _blocks(graph: gated.Graph, known: gated.Moments) -> list[Any]:
    return [gated.block(graph, known, path) for path in gated.find_paths(graph)]


def least_loss(graph: gated.Graph, known: gated.Moments) -> float:
    """The loss of the best linear maps on all pathways together."""
    (name,) = graph.outputs
    yx, xx = np.asarray(known.yx[name]), np.asarray(known.xx[name])
    best = np.linalg.lstsq(xx, yx.T, rcond=1e-12)[0].T
    left = float(known.yy - np.sum(best * yx) + 0.5 * np.sum((best @ xx) * best))
    return max(left, 0.0)  # but for rounding errors


def of_relu(config: Config) -> dict[str, Any]:
    """Losses ``(seeds, T)``, and the share of what units contribute by where they are on."""
    _, examples = gated.context_dataset(targets(), [ALL], HIDDEN, with_context=True)
    x, y = jnp.asarray(examples.x["x"]), jnp.asarray(examples.y["y"])
    curves, shares, ends = [], [], []
    for seed in range(config.seeds):
        inner, outer = jax.random.split(jax.random.key(100 + seed))
        params = [
            SCALE * jax.random.normal(inner, (UNITS, x.shape[1])) / x.shape[1] ** 0.5,
            SCALE * jax.random.normal(outer, (y.shape[1], UNITS)) / UNITS**0.5,
        ]
        params, losses = relu_networks.descend(params, x, y, RATE, config.steps, EVERY)
        curves.append(np.asarray(losses))
        shares.append(by_contexts(params, x))
        ends.append(by_gates(params, x))
    return {"losses": np.stack(curves), "shares": np.stack(shares), "gates": ends}


def on_in(params: Any, x: Any) -> tuple[np.ndarray, np.ndarray]:
    """Where every large unit is on, ``(units, contexts, items)`` bool, and its product of lengths.

    The examples are all items in the first context, then in the next one.
    """
    inner, outer = (np.asarray(part) for part in params)
    size = np.linalg.norm(outer, axis=0) * np.linalg.norm(inner, axis=1)
    is_large = size > LARGE * size.max()
    before = inner[is_large] @ np.asarray(x).T
    on = before > 1e-9 * np.abs(before).max(axis=1, keepdims=True)
    return on.reshape(len(before), CONTEXTS, -1), size[is_large]


def by_contexts(params: Any, x: Any) -> np.ndarray:
    """Shares of the lengths of large units by the number of contexts 0, 1, .., ``(contexts + 2,)``.

    A unit counts as on in a context if it is for more than half of the items; the last number is of
    those that are on for all or none of the items in every context: the context alone gates them.
    """
    on, size = on_in(params, x)
    number = (on.mean(axis=2) > 0.5).sum(axis=1)
    alone = np.all(on.all(axis=2) | ~on.any(axis=2), axis=1)
    parts = [size[number == k].sum() for k in range(CONTEXTS + 1)]
    return np.asarray([*parts, size[alone].sum()]) / size.sum()


def by_gates(params: Any, x: Any) -> np.ndarray:
    """How many items each large unit is on for in each context, ``(units, contexts)``."""
    return on_in(params, x)[0].sum(axis=2)


def times_to(found: dict[str, Any], losses: np.ndarray, share: float) -> np.ndarray:
    """When each start has this share of its first loss, ``(seeds,)``; infinite if never."""
    times = [gated.crossing_times(found["times"], one, share * one[0])[0] for one in losses]
    return np.nan_to_num(times, nan=np.inf)


def apart(found: dict[str, Any], name: str) -> float:
    """How far mean losses are from those of ReLU networks, in time moved to half of the loss.

    The largest difference over the first loss, from half of the loss on.
    """
    curves = []
    grid = np.linspace(0, 0.6 * found["times"][-1], 600)
    for losses in (found["gatings"][name]["losses"], found["relu"]["losses"]):
        half = times_to(found, losses, 0.5)
        if not np.all(np.isfinite(half)):
            return np.inf
        curves.append(np.mean([np.interp(at + grid, found["times"], one / one[0])
                               for at, one in zip(half, losses, strict=True)], axis=0))  # fmt: skip
    return float(np.abs(curves[0] - curves[1]).max())


def claims(config: Config, found: dict[str, Any]) -> list[Claim]:
    """Which gates can do it, which are fast, which are those of ReLU networks."""
    every = found["gatings"]
    full = config.steps >= STEPS
    why = {"should_hold": full, "reason": "" if full else "fewer steps"}
    able = [name for name in GATINGS if name != "one for all"]
    slow = {name: times_to(found, every[name]["losses"], 0.05).mean() for name in able}
    relu = times_to(found, found["relu"]["losses"], 0.05).mean()
    nearest = min(able, key=lambda name: apart(found, name))
    start = every["one each"]["losses"][0, 0]
    return [
        Claim.at_least(
            RACE,
            "one pathway for all contexts cannot know all features (the least loss that it can "
            "have, over that of no answer)",
            every["one for all"]["least"] / start,
            0.05,
        ),
        Claim.at_most(
            RACE,
            "all other gates can (likewise)",
            [every[name]["least"] / start for name in able],
            1e-9,
        ),
        Claim.at_least(
            f"{HASTE}; that they are faster: {OWN}",
            "pathways that are off in one context learn faster than one for each (time to 5 % of "
            "the loss of the latter over that of the former)",
            slow["one each"] / slow["one for all, one off in each"],
            1.2,
            **why,
        ),
        Claim.at_most(
            OWN,
            "ReLU networks learn the task (loss in the end over that at first, mean over starts)",
            (found["relu"]["losses"][:, -1] / found["relu"]["losses"][:, 0]).mean(),
            0.02,
            **why,
        ),
        Claim.at_most(
            HASTE,
            "and as fast as the fastest of these gates (time to 5 % of the loss over the shortest "
            "of gated networks)",
            relu / min(slow.values()),
            1.25,
            should_hold=False,
            reason="a claim that we know from a summary; what was measured is told",
        ),
        Claim.at_most(
            HASTE,
            "the gates whose loss is nearest to that of ReLU networks are one for all and one off "
            f"in each context (distance of these less that of the nearest, {nearest!r})",
            apart(found, "one for all, one off in each") - apart(found, nearest),
            1e-12,
            should_hold=False,
            reason="a claim that we know from a summary; what was measured is told",
        ),
        Claim.at_least(
            f"{HASTE}; the size: {OWN}",
            "most of what large ReLU units contribute is on in all contexts but one (for most "
            "items; share of their products of lengths, every start)",
            found["relu"]["shares"][:, CONTEXTS - 1],
            0.5,
            should_hold=False,
            reason="a claim that we know from a summary; what was measured is told",
        ),
    ]


def summarise(found: dict[str, Any]) -> str:
    """What was found, in words and numbers."""
    told = lambda values: f"{np.mean(values):.0f}" if np.all(np.isfinite(values)) else "never"
    times = {name: times_to(found, one["losses"], 0.05) for name, one in found["gatings"].items()}
    parts = "; ".join(f"{name}: {told(values)}" for name, values in times.items())
    relu = times_to(found, found["relu"]["losses"], 0.05)
    shares = 100 * found["relu"]["shares"].mean(axis=0)
    return (
        f"Time to 5 % of the loss, by gates: {parts}; ReLU networks: {told(relu)}. Of what their "
        f"large units contribute, {shares[CONTEXTS]:.0f} % is on (for most items) in all "
        f"{CONTEXTS} contexts, {shares[CONTEXTS - 1]:.0f} % in all but one; {shares[-1]:.0f} % is "
        "gated by the context alone."
    )


def gating_table(found: dict[str, Any]) -> Table:
    """By set of gates."""
    told = lambda values: (
        f"{np.mean(values):.0f}" if np.all(np.isfinite(values)) else "never"
    )  # fmt: skip
    rows = []
    for name, one in found["gatings"].items():
        half, late = (times_to(found, one["losses"], share) for share in (0.5, 0.05))
        start = one["losses"][0, 0]
        rows.append(
            [name, one["s"], told(half), told(late), f"{one['least'] / start:.1%}",
             f"{one['residual']:.0e}", f"{apart(found, name):.3f}"]
        )  # fmt: skip
    relu = found["relu"]["losses"]
    rows.append(["ReLU", "-", *(told(times_to(found, relu, share)) for share in (0.5, 0.05)), "-",
                 "-", "0"])  # fmt: skip
    columns = ["pathways", "largest singular value", "time to half of the loss", "to 5 %",
               "least loss", "not diagonal", "distance from ReLU"]  # fmt: skip
    return Table(
        "Which gates win", columns, rows,
        "Times: rate times steps, means over starts. Least loss, and distances of losses in time "
        "moved to half of the loss: over the first loss. Not diagonal: what keeps the scalar race "
        "from being exact.",
    )  # fmt: skip


def unit_table(relu: dict[str, Any]) -> Table:
    """Where ReLU units are on."""
    names = [*(f"on in {k} of {CONTEXTS} contexts" for k in range(CONTEXTS + 1)),
             "gated by the context alone"]  # fmt: skip
    shares = relu["shares"]
    rows = [[name, 100 * float(shares[:, k].mean()), 100 * float(shares[:, k].std())]
            for k, name in enumerate(names)]  # fmt: skip
    return Table(
        "Large ReLU units in the end (% of their products of lengths)",
        ["units", "mean over starts", "standard deviation"],
        rows,
        "On in a context: for more than half of the items.",
    )


def plot(result: Result) -> dict:
    """Losses; where the units are on."""
    return {
        "losses": gated_contexts_plots.losses(result),
        "units": gated_contexts_plots.units(result),
    }
