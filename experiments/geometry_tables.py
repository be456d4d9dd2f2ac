"""The words and the tables of the experiment `geometry`."""

from collections.abc import Mapping

import numpy as np

from experiments.geometry_suites import (
    BREAST_CANCER,
    DIGITS,
    DIMENSIONS,
    GAUSSIAN,
    KHAN,
    WIDE,
    Found,
)
from experiments.linear_training import THREAT_NAMES, span, steps_needed
from experiments.report import Table

UNSEPARATED = "not separated"


def summarise(found: Mapping[str, Found], missing: str) -> str:
    """What was found, in words and numbers."""
    wide = found[GAUSSIAN].wide()
    compared = {
        f"Gaussian data with at least {WIDE} dimensions per example": wide,
        "pairs of digits": found[DIGITS],
        KHAN: found.get(KHAN),
    }
    compared = {name: f for name, f in compared.items() if f is not None}
    rest = [worst(compared), barely_separable(found[BREAST_CANCER])]
    if missing:
        rest.append(f"{KHAN} was left out: its files were not found (the last table says more).")
    return f"{headline(compared)} {radii(compared)}\n\n{' '.join(rest)}"


def headline(compared: Mapping[str, Found]) -> str:
    """In how many comparisons the predicted optimizer is the best."""
    wins = {name: (f.lead > 0).sum() for name, f in compared.items()}
    parts = [f"{wins[name]} of {f.lead.size} on {name}" for name, f in compared.items()]
    return (
        "Against each kind of perturbation, the optimizer that theory names reaches the largest "
        f"robust radius of all optimizers in {sum(wins.values())} of "
        f"{sum(f.lead.size for f in compared.values())} comparisons (one training set and one kind "
        f"of perturbation each): {', '.join(parts)}."
    )


def radii(compared: Mapping[str, Found]) -> str:
    """How close to the optimum the predicted ones and the others come, over single runs."""
    parts = [
        f"{percent(f.matched)} on {name}, where the others reach {percent(f.mismatched)}"
        for name, f in compared.items()
    ]
    return f"In single runs it reaches, of the largest possible radius, {'; '.join(parts)}."


def worst(compared: Mapping[str, Found]) -> str:
    """The run of a predicted optimizer that ends furthest from the optimum."""
    name, found = min(compared.items(), key=lambda item: item[1].matched.min())
    method, problem = np.unravel_index(found.matched.argmin(), found.matched.shape)
    return (
        f"The least of these is {100 * found.matched.min():.1f} %, by {found.methods[method]} on "
        f"{name} ({found.labels[problem]})."
    )


def barely_separable(found: Found) -> str:
    """What became of breast cancer."""
    separated = (found.matched > 0).sum()
    return (
        "Breast cancer, too, can be separated, but its largest margins are "
        f"{span(100 * found.share)} % of the largest example, which takes of the order of "
        f"{span(steps_needed(found.share))} steps: {separated or 'none'} of the "
        f"{found.matched.size} matched runs {'has' if separated < 2 else 'have'} separated it "
        f"after {found.steps:,}."
    )


def percent(ratio: np.ndarray) -> str:
    """The smallest and the largest ratio in percent."""
    return f"{100 * ratio.min():.1f} to {100 * ratio.max():.1f} %"


def tables(found: Mapping[str, Found], missing: str) -> list[Table]:
    """The ratios of every suite; for breast cancer, why there are none."""
    made = [gaussian_table(found[GAUSSIAN]), ratio_table("Pairs of digits", found[DIGITS])]
    if KHAN in found:
        made.append(ratio_table(KHAN, found[KHAN]))
    made.append(breast_cancer_table(found[BREAST_CANCER]))
    return [*made, missing_table(missing)] if missing else made


def gaussian_table(found: Found) -> Table:
    """Mean ratio for every number of dimensions per example."""
    labels = np.array(found.labels)
    rows = []
    for size in sorted(set(found.labels), key=int, reverse=True):
        means = found.ratio[:, :, labels == size].mean(axis=2)
        rows += [
            [int(size), DIMENSIONS / int(size), name, *map(cell, row)]
            for name, row in zip(found.methods, means, strict=True)
        ]
    return Table(
        "Gaussian data: reached over optimal robust radius",
        ["examples", "dimensions per example", "optimizer", *against(found)],
        rows,
        "Mean over the training sets of one size; 1 is the most robust linear classifier.",
    )


def ratio_table(title: str, found: Found) -> Table:
    """Mean, smallest and largest ratio over the problems of a suite."""
    kinds = {"mean": np.mean, "smallest": np.min, "largest": np.max}
    rows = [
        [name, kind, *(cell(value) for value in reduce(found.ratio[i], axis=1))]
        for i, name in enumerate(found.methods)
        for kind, reduce in kinds.items()
    ]
    return Table(
        f"{title}: reached over optimal robust radius",
        ["optimizer", "", *against(found)],
        rows,
        f"Over {len(found.labels)} training sets, {found.steps:,} steps; 1 is the most robust "
        f'linear classifier, "{UNSEPARATED}" means that training examples are misclassified.',
    )


def breast_cancer_table(found: Found) -> Table:
    """Why no optimizer gets there."""
    rows = [
        [
            name,
            found.correct[i, 0],
            found.share[i, 0],
            int(float(f"{steps_needed(found.share[i, 0]):.1e}")),
            cell(found.matched[i, 0]),
        ]
        for i, name in enumerate(found.methods)
    ]
    return Table(
        "Breast cancer: separable, but barely",
        [
            "optimizer",
            "training cases right",
            "optimal margin / largest example",
            "its inverse square",
            "reached over optimal radius",
        ],
        rows,
        f"After {found.steps:,} steps. The certified optimal margin is in the norm that the "
        "optimizer is predicted to be best for; its inverse square is the order of the number of "
        "steps that separating the data takes.",
    )


def missing_table(message: str) -> Table:
    """Which data set is not there, and how to get it, as the loader says it."""
    rows = [[line.strip()] for line in message.splitlines()]
    return Table(f"{KHAN}: left out", ["what the loader says"], rows)


def against(found: Found) -> list[str]:
    """Column heads."""
    return [f"against {THREAT_NAMES[name]}" for name in found.methods]


def cell(ratio: float) -> float | str:
    """The ratio; a negative one, of a classifier that does not separate, says nothing more."""
    return float(ratio) if ratio > 0 else UNSEPARATED
