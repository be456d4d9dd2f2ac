"""What the experiment `per_example_cost` claims, tells and tabulates, from its measurements."""

from typing import NamedTuple

import numpy as np

from experiments.claims import Claim
from experiments.report import Table
from jaxrobust.per_example import Explanation

OWN = "this library: exact up to rounding"
UNBIASED = "this library: unbiased by construction"
COUNTED = "this library: counted by XLA, no paper"
MEASURED = "this library: measured, no paper"

DIM = 256
MEAN, NORMS, FUSED = "mean gradient", "norms", "mean gradient and norms"
SKETCHES, SLOW = f"sketches of {DIM}", "norms by vmap(grad)"
OURS = (NORMS, FUSED, SKETCHES)

EXTRA_MEMORY = 0.1  # at most, relative to the gradients of all examples
SLOW_MEMORY = 0.5  # at least, for vmap(grad)
# At most, relative to the mean gradient. Without the products that give the mean gradient a pass
# makes about two thirds of its operations; the rest is what the statistic itself may cost.
OPERATIONS = {NORMS: 1.0, FUSED: 1.15, SKETCHES: 1.1}
MEMORISED = 200  # training steps after which the CNN knows some wrong labels by heart
SLOPE_ERROR = 0.005  # standard error at most: a bias of 3 % is 6 of them


class Cost(NamedTuple):
    """One method on one model."""

    seconds: float  # median of one pass
    operations: float  # additions, multiplications and the like of one pass
    memory: float  # temporary memory, relative to that of the gradients of all examples


class Slopes(NamedTuple):
    """Slopes of estimated against exact inner products, one for every key; mean 1 if unbiased."""

    values: np.ndarray  # (keys,)

    @property
    def mean(self) -> float:
        """Over keys."""
        return float(self.values.mean())

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return float(self.values.std(ddof=1) / np.sqrt(len(self.values)))


Costs = dict[str, dict[str, Cost]]  # by model and method
Ranked = dict[str, np.ndarray]


def relative_times(costs: Costs) -> dict[str, dict[str, float]]:
    """Times over that of the mean gradient, by model and method."""
    return {
        model: {name: cost.seconds / by[MEAN].seconds for name, cost in by.items()}
        for model, by in costs.items()
    }


def relative_operations(costs: Costs) -> dict[str, dict[str, float]]:
    """Operations over those of the mean gradient, by model and method."""
    return {
        model: {name: cost.operations / by[MEAN].operations for name, cost in by.items()}
        for model, by in costs.items()
    }


def extra_memory(costs: Costs) -> dict[str, dict[str, float]]:
    """Memory beyond that of the mean gradient, over that of the gradients of all examples."""
    return {
        model: {name: cost.memory - by[MEAN].memory for name, cost in by.items()}
        for model, by in costs.items()
    }


def claims(
    costs: Costs,
    errors: dict[str, np.ndarray],
    slopes: dict[str, Slopes],
    ranked: Ranked,
    steps: int,
    one_cpu: bool,
) -> list[Claim]:
    """All claims, in the order of the report; whether the programs are for a single CPU device."""
    return [
        *memory_claims(costs, one_cpu),
        *operation_claims(costs),
        *exactness_claims(errors),
        *sketch_claims(slopes),
        *ranking_claims(ranked, steps),
    ]


def memory_claims(costs: Costs, one_cpu: bool = True) -> list[Claim]:
    """Little memory for ours, and much for `vmap(grad)`."""
    extra = extra_memory(costs)
    ours = [
        Claim.at_most(
            COUNTED,
            f"{model}: norms, mean gradient and norms, and sketches need little memory more than "
            "the mean gradient (relative to the gradients of all examples)",
            [by[name] for name in OURS],
            EXTRA_MEMORY,
            should_hold=one_cpu or model != "CNN",
            reason="only on a single CPU device are the gradients of a kernel formed one by one",
        )
        for model, by in extra.items()
    ]
    slow = Claim.at_least(
        COUNTED,
        "vmap(grad) needs at least half the memory of the gradients of all examples more than the "
        "mean gradient, on each of the models",
        [by[SLOW] for by in extra.values()],
        SLOW_MEMORY,
    )
    return [*ours, slow]


def operation_claims(costs: Costs) -> list[Claim]:
    """About the operations of one pass."""
    relative = relative_operations(costs)
    return [
        Claim.at_most(
            COUNTED,
            f"{name}: floating-point operations of one pass, relative to those of the mean "
            f"gradient ({', '.join(relative)})",
            [by[name] for by in relative.values()],
            bound,
        )
        for name, bound in OPERATIONS.items()
    ]


def exactness_claims(errors: dict[str, np.ndarray]) -> list[Claim]:
    """Norms equal those of the slow twin."""
    return [
        Claim.at_most(
            OWN,
            f"{name}: the gradient norm of every example is that of vmap(grad) (relative error, "
            f"{len(found)} examples, float32)",
            found,
            1e-5,
        )
        for name, found in errors.items()
    ]


def sketch_claims(slopes: dict[str, Slopes]) -> list[Claim]:
    """Sketches are unbiased, shown with enough keys to see a bias of 3 %."""
    return [
        Claim.all_of(
            UNBIASED,
            f"{name}: inner products of sketches of {DIM} numbers have the mean of those of the "
            f"gradients",
            [
                Claim.close(
                    UNBIASED,
                    "slope of the estimates against the exact inner products, mean over "
                    f"{len(found.values):,} keys, within 4 standard errors of 1",
                    found.mean,
                    1.0,
                    atol=4 * found.error,  # a normal one exceeds it once in 16,000
                ),
                Claim.at_most(
                    MEASURED,
                    "standard error of that mean: a bias of 3 % would be seen",
                    found.error,
                    SLOPE_ERROR,
                ),
            ],
        )
        for name, found in slopes.items()
    ]


def ranking_claims(ranked: Ranked, steps: int) -> list[Claim]:
    """Wrong labels stand out by their gradient norm."""
    wrong, norms = ranked["wrong"], ranked["norms"]
    top = np.argsort(-norms)[: wrong.sum()]
    return [
        Claim.at_least(
            MEASURED,
            f"examples with a wrong label have larger gradients after {steps:,} steps "
            "(share of pairs of a wrong and a right one in this order)",
            separation(norms, wrong),
            0.95,
            should_hold=steps <= MEMORISED,
            reason="the network has had time to learn the wrong labels by heart",
        ),
        Claim.at_least(
            MEASURED,
            f"of the {wrong.sum()} examples with the largest gradients most have a wrong label "
            "(share)",
            wrong[top].mean(),
            0.5,
            should_hold=steps <= MEMORISED,
            reason="the network has had time to learn the wrong labels by heart",
        ),
    ]


def separation(scores: np.ndarray, positive: np.ndarray) -> float:
    """Share of pairs (positive, negative) that the scores put in order: the area under the ROC."""
    order = np.argsort(np.argsort(scores)) + 1
    num_positive = positive.sum()
    rank_sum = order[positive].sum() - num_positive * (num_positive + 1) / 2
    return float(rank_sum / (num_positive * (~positive).sum()))


def tables(costs: Costs) -> list[Table]:
    """Time, operations and memory of all methods."""
    names = [*OURS, SLOW]
    times, operations = relative_times(costs), relative_operations(costs)
    memory = extra_memory(costs)
    return [
        Table(
            "Time of one pass over a batch, relative to the mean gradient",
            ["model", f"{MEAN} (ms)", *names],
            [
                [model, 1e3 * costs[model][MEAN].seconds, *(by[name] for name in names)]
                for model, by in times.items()
            ],
            "Medians, taken in turns but for vmap(grad), which would slow down what comes next. "
            "Its time goes not into operations (next table) but into the gradients of all "
            "examples, which it writes and reads: the more parameters per position, the more it "
            "costs. A transformer uses its parameters at 63 "
            "positions of every example, an MLP at one. For larger models see make bench.",
        ),
        Table(
            "Floating-point operations of one pass, relative to the mean gradient",
            ["model", f"{MEAN} (millions)", *names],
            [
                [model, 1e-6 * costs[model][MEAN].operations, *(by[name] for name in names)]
                for model, by in operations.items()
            ],
            "As XLA counts them before it optimises, loops with all their turns.",
        ),
        Table(
            "Temporary memory beyond that of the mean gradient, relative to the gradients of all "
            "examples",
            ["model", *names],
            [[model, *(by[name] for name in names)] for model, by in memory.items()],
            "Of the compiled programs. Less than zero: less than the mean gradient alone. The "
            "random maps of the sketches take the same for a batch of any size: for a very small "
            "one, more than is claimed here.",
        ),
    ]


def rule_table(model: str, explanation: Explanation) -> Table:
    """What `explain` says of a model."""
    return Table(
        f"How the gradient norms of the {model}'s parameters are found",
        ["leaf", "shape", "method", "used by", "multiply-adds per example"],
        [
            [r.leaf, str(r.shape), r.method, ", ".join(r.sites) or r.reason, r.cost]
            for r in explanation.rows
        ],
        "From per_example.explain. factors: from inner products of pairs of positions; "
        "instantiate: one example's gradient at a time; expand: a copy of the leaf for every "
        "example.",
    )


def summarise(costs: Costs, ranked: Ranked) -> str:
    """What was found, in words and numbers."""
    times, memory = relative_times(costs), extra_memory(costs)
    fused, slow = ([by[name] for by in times.values()] for name in (FUSED, SLOW))
    most = max(by[name] for by in memory.values() for name in OURS)
    least = min(by[SLOW] for by in memory.values())
    top = np.argsort(-ranked["norms"])[: ranked["wrong"].sum()]
    return (
        "The gradient norm of every example, exact, together with the mean gradient took "
        f"{min(fused):.2f} to {max(fused):.2f} times as long as the mean gradient alone; "
        f"vmap(grad) took {min(slow):.1f} to {max(slow):.1f} times as long for the norms. Beyond "
        f"the mean gradient, norms and sketches needed at most {100 * most:.0f} % of the memory of "
        f"all gradients, vmap(grad) at least {100 * least:.0f} %. In a CNN trained on digits with "
        f"{ranked['wrong'].sum()} wrong labels, {ranked['wrong'][top].sum()} of them are among as "
        "many examples with the largest gradients."
    )
