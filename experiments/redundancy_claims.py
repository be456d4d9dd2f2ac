"""What the experiment `redundancy` claims, tells and tabulates, from its measurements."""

from typing import Any, NamedTuple

import numpy as np

from experiments.claims import Claim
from experiments.report import Table

OWN = "this library: measured, no paper"
SPEC = "our specification, section 5.3 (measured before, on MNIST)"

INPUTS = "inputs"
COPIES = "copies of one image"
TO_COPIED = "distinct image to nearest copy"
TO_DISTINCT = "distinct image to nearest distinct"
USUAL = 0.02  # noise
ROUNDING = 1e-5  # a distance of exact copies, at most
EPOCH, SKETCHING = "epoch of plain training", "sketches of all gradients"
LEADERS, PROBES = "search, all leaders", "search, by probes"

WORDS = {
    "copies": "Images planted in the data several times, exactly or with pixel noise.",
    "precision": "Of the pairs of examples that are put in one group, the share that are copies of "
    "one image.",
    "recall": "Of the pairs of copies of one image, the share that are put in one group.",
    "sketch": "A short random vector for every gradient, with about the same angles.",
    "probes": "A faster search: groups are sought among some random examples, and all others join "
    "the mean of the group they are close to.",
}


class Detection(NamedTuple):
    """What was found at one tolerance."""

    precision: float  # with all leaders
    recall: float
    precision_of_probes: float
    recall_of_probes: float
    groups: int


Found = dict[float, dict[str, list[Detection]]]  # by noise, points, tolerance
Distances = dict[float, dict[str, dict[str, np.ndarray]]]  # by noise, points, kind of pair


class PlanFound(NamedTuple):
    """What the plan of training put together."""

    precision: float
    recall: float  # NaN where there is nothing to find
    groups: int
    tolerance: float  # that it chose; 0 for none


ByPlan = dict[float | None, PlanFound]  # by noise; None: without copies

# Quantiles (5, 50, 95 %) measured before, on MNIST with noise .02, after so many steps.
TABLE = {
    0: {COPIES: (0.020, 0.054, 0.115), TO_COPIED: (0.30, 0.58, 0.77),
        TO_DISTINCT: (0.13, 0.33, 0.53)},
    100: {COPIES: (0.010, 0.029, 0.096), TO_COPIED: (0.19, 0.41, 0.64),
          TO_DISTINCT: (0.09, 0.22, 0.38)},
    500: {COPIES: (0.010, 0.023, 0.095), TO_COPIED: (0.18, 0.38, 0.64),
          TO_DISTINCT: (0.08, 0.20, 0.36)},
}  # fmt: skip


def after(steps: int) -> str:
    """The name of the gradients at this time."""
    return f"gradients after {steps:,} steps" if steps else "gradients at the start"


def claims(
    config: Any, found: Found, distances: Distances, norms: dict[float, dict[str, float]]
) -> list[Claim]:
    """All claims, in the order of the report."""
    return [
        *exact_claims(config, found),
        *noise_claims(config, found),
        *distance_claims(config, distances),
        *norm_claims(config, distances, norms),
    ]


def at_tolerance(config: Any, found: list[Detection]) -> Detection:
    """The detection at the tolerance of the report."""
    return found[tolerances(config).index(config.tolerance)]


def tolerances(config: Any) -> list[float]:
    """At which copies are sought, ascending."""
    return sorted({1e-5, 0.001, 0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, config.tolerance})


def exact_claims(config: Any, found: Found) -> list[Claim]:
    """Exact copies have equal gradients."""
    if 0.0 not in found:
        return []
    place = tolerances(config).index(ROUNDING)
    values = [by[place][:4] for by in found[0.0].values()]
    return [
        Claim.close(
            OWN,
            "exact copies are all found, and nothing else, by the gradients at any time and by the "
            f"inputs (precision and recall over pairs, tolerance {ROUNDING:g}, all leaders and "
            "probes)",
            values,
            1.0,
        )
    ]


def noise_claims(config: Any, found: Found) -> list[Claim]:
    """Copies with little noise, at the tolerance of the report."""
    if USUAL not in found:
        return []
    trained = [after(t) for t in config.times if t]
    by = {name: at_tolerance(config, d) for name, d in found[USUAL].items()}
    made = [
        Claim.at_least(
            OWN,
            f"with pixel noise of {USUAL:g}, and a tolerance of {config.tolerance:g}, what is put "
            "together by the gradients are copies (precision over pairs, all times, all leaders "
            "and probes)",
            [[d.precision, d.precision_of_probes] for n, d in by.items() if n != INPUTS],
            0.95,
        )
    ]
    if trained:
        made += [
            Claim.at_least(
                OWN,
                "and after some training nearly all copies are put together (recall over pairs, "
                "by probes, whose groups are about means)",
                [by[name].recall_of_probes for name in trained],
                0.95,
            ),
            Claim.at_least(
                OWN,
                "training makes copies no harder to tell (recall after training less that at the "
                "start, by probes)",
                [by[n].recall_of_probes - by[after(0)].recall_of_probes for n in trained],
                0.0,
                tolerance=0.01,
            ),
        ]
    return made


def distance_claims(config: Any, distances: Distances) -> list[Claim]:
    """Copies are closer than anything else, and as tabulated if the data are the same."""
    if USUAL not in distances:
        return []
    by = {name: found for name, found in distances[USUAL].items() if name != INPUTS}
    made = [
        Claim.at_least(
            SPEC,
            f"with pixel noise of {USUAL:g} copies are closer in angle than other images: 95 % of "
            "their pairs are closer than 95 % of the other images are to the nearest copy (5 % "
            "quantile over 95 % quantile, all times)",
            [found[TO_COPIED][0] / found[COPIES][2] for found in by.values()],
            1.0,
        )
    ]
    if config.dataset == "mnist":
        made.append(
            Claim.between(
                SPEC,
                "medians of the distances are as tabulated (measured over tabulated, three kinds "
                "of pairs, all times; other images, weights and sketches)",
                [
                    by[after(t)][kind][1] / values[1]
                    for t, kinds in TABLE.items()
                    if after(t) in by
                    for kind, values in kinds.items()
                ],
                0.5,
                2.0,
            )
        )
    return made


def norm_claims(
    config: Any, distances: Distances, norms: dict[float, dict[str, float]]
) -> list[Claim]:
    """Gradients shrink, angles stay."""
    late = max(config.times)
    if USUAL not in norms or late < 100:
        return []
    start, end = (norms[USUAL][after(t)] for t in (0, late))
    medians = [distances[USUAL][after(t)][COPIES][1] for t in config.times]
    return [
        Claim.at_least(
            SPEC,
            f"the gradients of copies shrink: their norm at the start over that after {late} steps "
            "(before: 20)",
            start / end,
            5.0,
        ),
        Claim.at_most(
            SPEC,
            "their angles do not: the largest over the smallest median distance 1 - cos of copies, "
            "over the times (so the tolerance is one of directions)",
            max(medians) / min(medians),
            3.0,
        ),
    ]


def plan_claims(config: Any, found: Found, by_plan: ByPlan) -> list[Claim]:
    """Found with a tolerance that nobody gave."""
    plan = (
        "`training.remove_redundancy`, which is given no tolerance and looks before the first step"
    )
    made = [
        Claim.at_least(
            OWN,
            f"{plan}: what it puts together are copies (precision over pairs, all noises)",
            [of.precision for noise, of in by_plan.items() if noise is not None],
            0.95,
        )
    ]
    if 0.0 in by_plan:
        made.append(
            Claim.at_least(
                OWN,
                "it finds exact copies (recall over pairs, without noise)",
                by_plan[0.0].recall,
                0.95,
            )
        )
    if None in by_plan:
        made.append(
            Claim.at_least(
                OWN,
                "and without copies it puts nothing together (groups over examples)",
                by_plan[None].groups / config.distinct,
                1.0,
            )
        )
    if USUAL in by_plan:
        recall = by_plan[USUAL].recall
        given = at_tolerance(config, found[USUAL][after(0)]).recall_of_probes
        made += [
            Claim.at_least(
                OWN,
                f"with noise of {USUAL:g} it finds as many pairs as with the tolerance of the "
                "report, chosen by hand (recall less that by probes)",
                recall - given,
                0.0,
            ),
            Claim.at_least(
                OWN,
                "and nearly all (recall over pairs)",
                recall,
                0.95,
                should_hold=config.dataset == "mnist",
                reason=f"it finds {100 * recall:.0f} %: images of 8x8 digits are close to each "
                "other, and of the copies with noise some are as far apart as different images",
            ),
        ]
    return made


def plan_table(found: ByPlan) -> Table:
    """By noise."""
    name = lambda noise: "no copies" if noise is None else f"noise {noise:g}"
    digits = lambda value: "" if np.isnan(value) else round(value, 3)
    return Table(
        "Found by `training.remove_redundancy`, before the first step",
        ["data", "precision", "recall", "groups", "tolerance that it chose"],
        [
            [name(noise), digits(of.precision), digits(of.recall), of.groups, digits(of.tolerance)]
            for noise, of in found.items()
        ],
    )


def tables(
    config: Any,
    found: Found,
    distances: Distances,
    norms: dict[float, dict[str, float]],
    report: dict[str, Any],
    seconds: dict[str, float],
) -> list[Table]:
    """Detection, distances beside those measured before, the largest groups, and times."""
    rows = [
        [f"{name}, noise {noise:g}", *at_tolerance(config, d)]
        for noise, by in found.items()
        for name, d in by.items()
    ]
    text = lambda values: ", ".join(f"{v:.3f}" for v in values)
    before = lambda name, kind: next(
        (text(kinds[kind]) for t, kinds in TABLE.items() if after(t) == name), None
    )
    usual = distances.get(USUAL, {})
    return [
        Table(
            f"Found at a tolerance of {config.tolerance:g}",
            ["points", "precision", "recall", "precision, probes", "recall, probes", "groups"],
            rows,
            f"Over pairs. Planted: {config.originals} images with {config.copies} copies each, "
            f"among {config.distinct:,} others: {config.originals + config.distinct:,} groups.",
        ),
        Table(
            f"Distances 1 - cos, noise {USUAL:g}: quantiles 5, 50, 95 %",
            ["points", "pairs", "here", "before, on MNIST"],
            [[name, kind, text(values), before(name, kind)]
             for name, by in usual.items() for kind, values in by.items()],
            "Images of 8x8 digits are closer to each other than those of MNIST: there a tolerance "
            "of 0.1 tells copies apart, here one of 0.02.",
        ),
        Table(
            "The largest groups",
            ["members", "share that are copies of one image"],
            [[int(n), float(p)] for n, p in
             zip(report["sizes"], report["purity"], strict=True)],
            f"By {report['when']}, tolerance {config.tolerance:g}: {report['num_groups']:,} groups "
            f"of {report['num_examples']:,} examples; in truth {report['truth']:,}.",
        ),
        Table(
            "Time of a search (milliseconds)",
            ["", "time", "epochs of training"],
            [[name, 1e3 * s, s / seconds[EPOCH]] for name, s in seconds.items()],
            "Compiled before. The search needs no model, so it weighs less the larger the model.",
        ),
    ]  # fmt: skip


def summarise(config: Any, found: Found, report: dict[str, Any]) -> str:
    """What was found, in words and numbers."""
    usual = found.get(USUAL, next(iter(found.values())))
    late = at_tolerance(config, usual[after(max(config.times))])
    best = lambda by, name: max(min(d.precision, d.recall) for d in by[name])
    noisy, last = max(found), after(max(config.times))
    return (
        f"Among {report['num_examples']:,} examples, of which {config.originals} images have "
        f"{config.copies} copies each with little pixel noise, one pass and a search by the angle "
        f"between gradients put {100 * late.recall_of_probes:.0f} % of the pairs of copies "
        f"together, and {100 * late.precision_of_probes:.0f} % of what it puts together are "
        "copies. Exact copies are found without an error."
        "\n\nWith the best tolerance for each, precision and recall are both at least "
        f"{best(usual, last):.2f} by the gradients and {best(usual, INPUTS):.2f} by the inputs; "
        f"with pixel noise of {noisy:g} {best(found[noisy], last):.2f} and "
        f"{best(found[noisy], INPUTS):.2f}."
    )
