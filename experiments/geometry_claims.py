"""The claims of the experiment `geometry`: what theory predicts, held against the ratios."""

from collections.abc import Mapping

import numpy as np

from experiments.claims import Claim
from experiments.geometry_suites import BREAST_CANCER, DIGITS, GAUSSIAN, KHAN, WIDE, Found
from experiments.linear_training import THREAT_NAMES, enough, why_short

THEOREM = (
    "Gunasekar et al. 2018 (optimization geometry), Theorem 5 as recalled; "
    "Faghri et al., arXiv:2102.08868"
)
OWN = "this library: measured, no paper"
BOUND_OF_GRADIENT_DESCENT = 0.70


def claims(found: Mapping[str, Found]) -> list[Claim]:
    """All claims, for the suites that were run."""
    wide = found[GAUSSIAN].wide()
    return [
        *(gaussian_claims(wide) if wide else []),
        duality_claim(found),
        *lead_claims(found[DIGITS], "on every pair of digits and every split"),
        near_claim(found[DIGITS]),
        *(khan_claims(found[KHAN]) if KHAN in found else []),
        breast_cancer_claim(found[BREAST_CANCER]),
    ]


def gaussian_claims(wide: Found) -> list[Claim]:
    """Where theory's limit is reached, and how far the most used optimizer is from another's."""
    where = f"Gaussian data, at least {WIDE} dimensions per example"
    near = [
        Claim.at_least(
            THEOREM,
            f"{name} comes within 1 % of the most robust classifier against {THREAT_NAMES[name]} "
            f"perturbations ({where}, every seed)",
            ratios,
            0.99,
        )
        for name, ratios in zip(wide.methods, wide.matched, strict=True)
    ]
    best = Claim.at_least(
        THEOREM,
        "every optimizer is the best of the five against the perturbations that it is predicted "
        f"to be best for (lead in the ratio; {where}, every seed)",
        wide.lead,
        0.0,
    )
    source = "Faghri et al., arXiv:2102.08868 (figure not seen; bound from our specification)"
    return [*near, best, gradient_descent_claim(wide, source, where)]


def gradient_descent_claim(found: Found, source: str, where: str) -> Claim:
    """Gradient descent is far from the best against linf."""
    return Claim.at_most(
        source,
        f"gradient descent, mismatched, reaches at most {100 * BOUND_OF_GRADIENT_DESCENT:.0f} % of "
        f"the optimal radius against linf perturbations ({where})",
        found.ratio[
            found.methods.index("gradient descent"), found.methods.index("coordinate descent")
        ],
        BOUND_OF_GRADIENT_DESCENT,
    )


def duality_claim(found: Mapping[str, Found]) -> Claim:
    """Nobody beats the optimum."""
    return Claim.at_most(
        "duality (exact)",
        "no run has a larger radius than the certified optimum, in any norm, on any data",
        np.concatenate([f.ratio.ravel() for f in found.values()]),
        1.0,
        tolerance=2e-5,  # gap of the optimum, and float32 weights
    )


def lead_claims(found: Found, where: str) -> list[Claim]:
    """Whether each optimizer is the best of all against its own threat, on every training set."""
    return [
        Claim.at_least(
            THEOREM,
            f"{where}, {name} is the best of the {len(found.methods)} optimizers against "
            f"{THREAT_NAMES[name]} perturbations after {found.steps:,} steps (lead in the ratio)",
            lead,
            0.0,
            should_hold=enough(found.steps, share),
            reason="" if enough(found.steps, share) else why_short(found.steps, share),
        )
        for name, lead, share in zip(found.methods, found.lead, found.share, strict=True)
    ]


def near_claim(found: Found) -> Claim:
    """Whether the limit is reached on digits as well."""
    return Claim.at_least(
        THEOREM,
        "on digits, too, the matched optimizer is within 1 % of the optimum after "
        f"{found.steps:,} steps",
        found.matched,
        0.99,
        should_hold=False,
        reason="the limit is the same but the way is longer: "
        + why_short(found.steps, found.share),
    )


def khan_claims(found: Found) -> list[Claim]:
    """The same on data with 37 times as many features as examples."""
    where = "Khan gene expression, each tumour class against the rest"
    return [
        *lead_claims(
            found, "on Khan gene expression, each of four tumour classes against the rest"
        ),
        gradient_descent_claim(found, f"{OWN}; the bound is that for Gaussian data", where),
    ]


def breast_cancer_claim(found: Found) -> Claim:
    """Whether training gets anywhere on data that are barely separable."""
    return Claim.at_least(
        THEOREM,
        "on breast cancer the matched optimizer separates the data after "
        f"{found.steps:,} steps (ratio of the radii)",
        found.matched,
        0.0,
        should_hold=False,
        reason=f"{why_short(found.steps, found.share)}; theory speaks of the limit only",
    )
