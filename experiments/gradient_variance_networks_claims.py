"""What the experiment `gradient_variance_networks` claims, tells and tabulates."""

from typing import Any, NamedTuple

import numpy as np

from experiments.claims import Claim
from experiments.gradient_estimators import DOUBLE, GC, IMPORTANCE, SG, SVRG
from experiments.gradient_variance_claims import OWN
from experiments.gradient_variance_claims import WORDS as COMMON_WORDS
from experiments.report import Table

MNIST = "Faghri et al., arXiv:2007.04532, MNIST (read off figures, specification 5.1)"
CIFAR = "Faghri et al., arXiv:2007.04532, CIFAR-10 (read off figures, specification 5.1)"

PROBLEMS = ("digits", "mnist", "cifar10", "cifar10 with copies")
SKETCHED, SKETCHED_NEYMAN = "sketches, equal draws", "sketches, Neyman"
SKETCHED_BOTH = "sketches, Neyman + importance"
SKETCHED_PROPORTIONAL, SKETCHED_SVRG = "sketches, proportional", "sketches, equal draws + SVRG"
COLUMNS = (
    SG, DOUBLE, GC, SKETCHED, SKETCHED_PROPORTIONAL, SKETCHED_NEYMAN, SKETCHED_BOTH, IMPORTANCE,
    SVRG, SKETCHED_SVRG,
)  # fmt: skip

WORDS = {
    **COMMON_WORDS,
    "sketch": "A short random vector for every gradient, with about the same distances; clusters "
    "of these need one pass over the data.",
    "normalised variance": "Variance over second moment, in 0 to 1: 1 for pure noise.",
    "refresh": "Making the clusters and the snapshot anew.",
}


class Path(NamedTuple):
    """Variances along a trajectory, T measurements."""

    steps: np.ndarray  # (T,)
    loss: np.ndarray  # (T,): mean over all examples
    average: dict[str, np.ndarray]  # by estimator (T,): variance per weight
    normalised: dict[str, np.ndarray]  # by estimator (T,): variance over second moment


def late(values: np.ndarray) -> float:
    """Mean of the second half of the measurements."""
    return float(np.mean(values[len(values) // 2 :]))


def early(values: np.ndarray) -> float:
    """Mean of the first quarter of the measurements."""
    return float(np.mean(values[: max(1, len(values) // 4)]))


def over(path: Path, name: str, other: str) -> float:
    """Mean variance of the second half of training, over that of another estimator."""
    return late(path.average[name]) / late(path.average[other])


def shares(path: Path, name: str) -> np.ndarray:
    """The variance over that of plain batches: first, in the middle, and last."""
    whole = path.average[name] / path.average[SG]
    return whole[[0, len(whole) // 2, -1]]


def claims(found: dict[str, Path]) -> list[Claim]:
    """All claims, in the order of the report."""
    made = []
    for name, path in found.items():
        if name in ("digits", "mnist"):
            made += mlp_claims(name, path)
        elif name == "cifar10":
            made += cnn_claims(path)
        else:
            made += copies_claims(path)
        made += our_claims(name, path)
    return made


def mlp_claims(name: str, path: Path) -> list[Claim]:
    """The published order and trend for MNIST."""
    return [
        Claim.at_most(
            MNIST,
            f"{name}: GC is below SG-2B (ratio of the means over the second half of training; "
            "published: 0.56)",
            over(path, GC, DOUBLE),
            1.0,
        ),
        Claim.at_most(
            MNIST,
            f"{name}: SVRG is below GC (likewise; published: 0.5)",
            over(path, SVRG, GC),
            1.0,
        ),
        Claim.at_most(
            MNIST,
            f"{name}: the average variance falls during training (SG-B in the second half over the "
            "first quarter)",
            late(path.average[SG]) / early(path.average[SG]),
            0.5,
        ),
        Claim.at_least(
            MNIST,
            f"{name}: normalised variances are in the order SG-B, SG-2B, GC, SVRG (least ratio of "
            "one to the next, second half)",
            min(
                late(path.normalised[a]) / late(path.normalised[b])
                for a, b in ((SG, DOUBLE), (DOUBLE, GC), (GC, SVRG))
            ),
            1.0,
        ),
    ]


def cnn_claims(path: Path) -> list[Claim]:
    """The published observations for CIFAR-10, as far as a small network can show them."""
    return [
        Claim.at_least(
            CIFAR,
            "cifar10: the average variance grows during training (SG-B in the second half over the "
            "first quarter; published: 3)",
            late(path.average[SG]) / early(path.average[SG]),
            1.0,
        ),
        Claim.between(
            CIFAR,
            "cifar10: GC is between SG-2B and SG-B while its clusters are not too old (GC over "
            "SG-B, second half)",
            over(path, GC, SG),
            0.5,
            1.0,
        ),
        Claim.at_least(
            CIFAR,
            "cifar10: batch gradients become nearly pure noise (normalised variance of SG-B, last "
            "measurement; published: 0.97)",
            path.normalised[SG][-1],
            0.8,
        ),
    ]


def copies_claims(path: Path) -> list[Claim]:
    """With copies GC pays."""
    return [
        Claim.at_most(
            CIFAR,
            "cifar10 with copies: GC is far below SG-B (ratio, second half; published: 0.16)",
            over(path, GC, SG),
            0.3,
        ),
        Claim.at_most(
            CIFAR,
            "cifar10 with copies: and below SG-2B (ratio, second half; published: 0.33)",
            over(path, GC, DOUBLE),
            0.6,
        ),
    ]


def our_claims(name: str, path: Path) -> list[Claim]:
    """Clusters of sketches."""
    return [
        Claim.at_most(
            OWN,
            f"{name}: clusters of sketches, from one pass over the data, have a lower variance "
            "than the published ones (equal draws, ratio, second half)",
            over(path, SKETCHED, GC),
            1.0,
        ),
        Claim.at_most(
            OWN,
            f"{name}: and lower than importance sampling by norms at hand, which needs a pass at "
            "every step (ratio, second half)",
            over(path, SKETCHED, IMPORTANCE),
            1.0,
            should_hold=name != "mnist",
            reason="nearly a tie, for norms tell ever more as gradients of most examples vanish: "
            "first, in the middle and last sketches have "
            + " / ".join(f"{share:.2f}" for share in shares(path, SKETCHED))
            + " of the variance of plain batches, importance sampling "
            + " / ".join(f"{share:.2f}" for share in shares(path, IMPORTANCE))
            + "; it has the norms of the very weights, and the clusters are old",
        ),
    ]


def tables(config: Any, found: dict[str, Path]) -> list[Table]:
    """Relative, average and normalised variances."""
    return [
        Table(
            "Variance relative to SG-B, second half of training",
            ["data", *COLUMNS[1:]],
            [[name, *(over(p, c, SG) for c in COLUMNS[1:])] for name, p in found.items()],
            f"Batches of {config.batch}, as many clusters; clusters and snapshots up to "
            f"{config.refresh} steps old, norms of the weights at hand. Draws in fractions; Neyman "
            "draws by the spreads of the last refresh, a tenth of them in proportion.",
        ),
        Table(
            "Normalised variance, second half of training",
            ["data", *COLUMNS],
            [[name, *(late(p.normalised[c]) for c in COLUMNS)] for name, p in found.items()],
            "Variance over second moment.",
        ),
        Table(
            "Average variance of SG-B",
            ["data", "first measurement", "last measurement", "loss at first", "at last"],
            [[name, float(p.average[SG][0]), float(p.average[SG][-1]), float(p.loss[0]),
              float(p.loss[-1])] for name, p in found.items()],
            "Variance per weight; loss: mean over all examples.",
        ),
    ]  # fmt: skip


def summarise(found: dict[str, Path]) -> str:
    """What was found, in words and numbers."""
    return "\n\n".join(
        f"On {name}, over the second half of training, the published clusters have "
        f"{over(path, GC, SG):.2f} of the variance of plain batches, clusters of sketches "
        f"{over(path, SKETCHED, SG):.2f}, importance sampling {over(path, IMPORTANCE, SG):.2f} and "
        f"SVRG {over(path, SVRG, SG):.2f} (twice the batch: 0.50). The average variance of plain "
        f"batches goes from {path.average[SG][0]:.1e} to {path.average[SG][-1]:.1e}, the "
        f"normalised one from {path.normalised[SG][0]:.2f} to {path.normalised[SG][-1]:.2f}."
        for name, path in found.items()
    )
