"""What the experiment `clustering_quality` claims, tells and tabulates."""

from typing import Any, NamedTuple

import numpy as np

from experiments.claims import Claim
from experiments.report import Table

OWN = "this library: measured, no paper"
FIGURES = "Faghri et al., arXiv:2007.04532, distortion against clusters (read off figures)"

HARTIGAN, RANDOM = "Hartigan, all inner products, one by one", "random, of equal sizes"
REFINED = "sketch of 256, then one exact pass"
PLAIN = "sketch of 256, no landmarks"
SHORT = "sketch of 96 with 16 landmarks, to 1 %"
WARM = "sketch of 128, one pass from the last clusters"
EXACT, RANK_ONE = "exact means and reassignments", "rank one (published)"
WITHIN = 1.05

WORDS = {
    "J": "The sum of the squared distances of all pairs of gradients within clusters: N² times the "
    "variance of a batch that takes one example of each cluster.",
    "D0": "J of a single cluster of all examples. A batch of K random examples has the variance "
    "that belongs to D0/K, twice the batch D0/2K.",
    "sketch": "A short vector for every gradient, with about the same distances. A quarter of its "
    "numbers are exact, if nothing else is said: what the gradient has in common with those of "
    "random examples, the landmarks. The others are random sums of the rest.",
    "rank one": "The published method: the center of a cluster is a product of two vectors for "
    "every layer; 10 rounds, each of which reads the data twice.",
    "Hartigan": "Examples move between clusters while a move lowers J, by its exact change.",
    "refresh": "Finding the clusters anew, for the weights at hand.",
}


def sketched(dim: int) -> str:
    """The name of the method with sketches of this length."""
    return f"sketch of {dim:,}"


class Quality(NamedTuple):
    """J for one number of clusters, over that of the best Hartigan run."""

    ratios: dict[str, np.ndarray]  # by method: (seeds,)
    guide: float  # D0/K


class Times(NamedTuple):
    """What a refresh costs."""

    examples: int
    clusters: int
    epoch: float  # seconds of an epoch of plain training in batches of 128
    seconds: dict[str, float]  # by method
    # By method: its time over that of epochs before and after it, for a machine has slow phases.
    epochs: dict[str, float]
    # J of the gradients with `SHORT`, of all these examples, over that with sketches of 256.
    short: float


Found = dict[int, Quality]


def claims(config: Any, found: Found, times: Times) -> list[Claim]:
    """All claims, in the order of the report."""
    return [*sketch_claims(config, found), *guide_claims(found), *time_claims(config, times)]


def mean_ratios(found: Found, name: str) -> list[float]:
    """Of a method, mean over seeds, for every number of clusters that has it."""
    return [float(q.ratios[name].mean()) for q in found.values() if name in q.ratios]


def sketch_claims(config: Any, found: Found) -> list[Claim]:
    """How near to the reference one pass comes."""
    numbers = ", ".join(str(count) for count in found)
    made = [
        Claim.at_most(
            OWN,
            f"sketches of {dim} numbers, from one pass over the data: J is within 5 % of the best "
            f"of {config.starts} runs on all inner products (ratio, {numbers} clusters, mean over "
            "seeds)",
            mean_ratios(found, sketched(dim)),
            WITHIN,
        )
        for dim in (128, 256)
    ]
    made.append(
        Claim.at_most(
            OWN,
            "and so it is with fewer landmarks, and passes only as long as they gain 1 % "
            f"({SHORT}; ratio, the same)",
            mean_ratios(found, SHORT),
            WITHIN,
        )
    )
    made.append(
        Claim.at_least(
            OWN,
            "without landmarks, all 256 numbers random, J is further above (difference of the "
            "ratios, the same)",
            np.subtract(mean_ratios(found, PLAIN), mean_ratios(found, sketched(256))),
            0.0,
        )
    )
    made.append(
        Claim.at_most(
            OWN,
            f"J is within 5 % after a refresh, too ({WARM}, which were found half of the "
            f"{config.steps} steps before; ratio, the same)",
            mean_ratios(found, WARM),
            WITHIN,
            should_hold=False,
            reason="after so many steps, early in training, one pass from old clusters is not "
            f"enough; a new start ({SHORT}) is",
        )
    )
    if any(REFINED in q.ratios for q in found.values()):
        made.append(
            Claim.at_most(
                OWN,
                "and by sketches of 256 followed by one pass with the gradients themselves (ratio, "
                f"at most {config.exact} clusters, mean over seeds)",
                mean_ratios(found, REFINED),
                WITHIN,
            )
        )
    made.append(
        Claim.at_least(
            OWN,
            "the published method ends well above the sketches (its J over that of sketches of "
            "256, means over seeds)",
            np.divide(mean_ratios(found, RANK_ONE), mean_ratios(found, sketched(256))),
            1.3,
        )
    )
    return made


def guide_claims(found: Found) -> list[Claim]:
    """Where D0/K and D0/2K are."""
    many = {count: q for count, q in found.items() if count >= 32}
    made = [
        Claim.close(
            "Faghri et al., arXiv:2007.04532, guide lines (exact in expectation)",
            "random clusters of equal sizes are at D0/K, the variance of plain batches (their J "
            "over D0/K)",
            [float(q.ratios[RANDOM].mean()) / q.guide for q in found.values()],
            1.0,
            rtol=0.1,
        )
    ]
    if many:
        made.append(
            Claim.at_most(
                FIGURES,
                "from 32 clusters on the published method is below D0/2K, the variance of batches "
                "of twice the size (its J over D0/2K)",
                [float(q.ratios[RANK_ONE].mean()) / (q.guide / 2) for q in many.values()],
                1.0,
            )
        )
    return made


def time_claims(config: Any, times: Times) -> list[Claim]:
    """What a refresh costs; claimed for a set of the size where it matters."""
    if config.dataset != "mnist":
        return []
    what = (
        f"takes no longer than an epoch of plain training in batches of 128 ({times.examples:,} "
        f"examples, {times.clusters} clusters; ratio of the times, on this machine)"
    )
    return [
        Claim.at_most(
            OWN,
            f"of all {times.examples:,} examples, too, J is within 5 % ({SHORT}; J of the true "
            f"gradients over that with {sketched(256)} numbers and passes to the end)",
            times.short,
            WITHIN,
        ),
        Claim.at_most(
            OWN,
            f"a whole refresh with J within 5 % ({SHORT}) {what}",
            times.epochs[SHORT],
            1.0,
        ),
        Claim.at_most(
            OWN, f"a whole refresh from old clusters ({WARM}) {what}", times.epochs[WARM], 1.0
        ),
    ]


def tables(config: Any, found: Found, times: Times) -> list[Table]:
    """J by method and number of clusters, and times."""
    names = list(dict.fromkeys(name for q in found.values() for name in q.ratios))
    cell = lambda q, name: float(q.ratios[name].mean()) if name in q.ratios else None
    guides: list[list[Any]] = [
        ["D0/K", *(q.guide for q in found.values())],
        ["D0/2K", *(q.guide / 2 for q in found.values())],
    ]
    rows = [[name, *(cell(q, name) for q in found.values())] for name in names]
    return [
        Table(
            f"J over that of the best of {config.starts} runs on all inner products",
            ["method", *(f"{count} clusters" for count in found)],
            rows + guides,
            f"Of the true gradients of {config.examples:,} examples, mean over seeds. J over N² is "
            "the variance of a batch with one example of each cluster.",
        ),
        Table(
            f"Time of a refresh, {times.examples:,} examples, {times.clusters} clusters",
            ["method", "seconds", "epochs of plain training"],
            [[name, s, times.epochs[name]] for name, s in times.seconds.items()],
            f"Compiled before; an epoch in batches of 128 takes {times.epoch:.3g} s. The more a "
            "pass costs beside the clustering, that is the larger the network, the better the "
            "ratio.",
        ),
    ]


def summarise(found: Found, times: Times) -> str:
    """What was found, in words and numbers."""
    percent = lambda name: (
        f"{100 * (min(mean_ratios(found, name)) - 1):.0f} to "
        f"{100 * (max(mean_ratios(found, name)) - 1):.0f} %"
    )
    double = [float(q.ratios[sketched(256)].mean()) / (q.guide / 2) for q in found.values()]
    return (
        "One pass over the data finds clusters of gradients as good as those found with all inner "
        f"products: with sketches of 256 numbers, 64 of them by landmarks, J is "
        f"{percent(sketched(256))} above; with purely random ones {percent(PLAIN)}; the published "
        f"method is {percent(RANK_ONE)} above. The variance with these clusters is "
        f"{min(double):.2f} to {max(double):.2f} of that of batches of twice the size, the fewer "
        "the more clusters."
        f"\n\nA refresh of {times.examples:,} examples and {times.clusters} clusters ({SHORT}) "
        f"takes {times.seconds[SHORT]:.2g} s, {times.epochs[SHORT]:.1f} epochs of "
        f"plain training, on this machine; from old clusters on {times.seconds[WARM]:.2g} s, with "
        f"256 numbers to the end {times.seconds[sketched(256)]:.2g} s; the published method "
        f"{times.seconds[RANK_ONE]:.2g} s."
    )
