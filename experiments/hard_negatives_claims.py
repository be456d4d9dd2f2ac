"""What the experiment `hard_negatives` claims, and its answer in few sentences."""

from typing import Any

import numpy as np

from experiments import hard_negatives_batch_claims as in_batch
from experiments.claims import Claim
from experiments.hard_negatives_before import (
    BEFORE,
    DEEP_BEFORE,
    DEEP_EPOCHS,
    DEEP_LOSS_BEFORE,
    EARLY_BEFORE,
    EARLY_EPOCHS,
    LEADS_BEFORE,
    SEEDS_BEFORE,
    Before,
)
from experiments.hard_negatives_found import (
    AHEAD,
    COLLAPSED,
    COMPARED,
    COPIES,
    EARLY,
    FIVE,
    FIVE_VIEWS,
    LEAST_COMPARED,
    OWN,
    SIZE,
    SPEC,
    UNTRAINED,
    Found,
    ahead,
    gap,
    leads_from,
    named,
    off_by,
    reached,
    spread,
    surely,
)
from experiments.hard_negatives_problems import (
    CAPTIONS,
    DIGITS,
    IMAGES,
    TRANSLATIONS,
    VIEWS,
    WIKIPEDIA,
)
from experiments.hard_negatives_runs import (
    ALL,
    HARDEST,
    MARGIN,
    SOFT,
    WARM,
    Run,
)

VSE = "Faghri et al., arXiv:1707.05612 (remark on training time)"

WORDS = {
    "all": "The sum of the hinges of all negatives of the batch (SH, VSE0).",
    "hardest": "The hinge of the most similar negative of the batch alone (MH, VSE++).",
    "rsum": "The sum of recall at 1, 5 and 10, in both directions, in %: 600 at best.",
    "R@1": "The share of queries whose partner is the first of all test items, in %.",
    "mAP": "Mean average precision of the classes, in both directions: how well items of the class "
    "of the query are ranked before all others.",
    "collapse": "All embeddings are nearly the same: every hinge is the margin, and no "
    "gradient is left.",
}

SURE = "difference of rsum, less two standard errors over seeds"


def claims(config: Any, found: Found) -> list[Claim]:
    """Where the hardest negative teaches, and where it hurts."""
    made = []
    if VIEWS in found:
        made += _claims_of_views(config, found[VIEWS])
    if DIGITS in found:
        made += _claims_of_digits(found[DIGITS])
    if EARLY in found:
        made += _claims_of_early(found[EARLY])
    if "deep" in found:
        made += _claims_of_deep(found["deep"], config.epochs_of_deep == DEEP_EPOCHS)
    if DIGITS in found and config.epochs == BEFORE[DIGITS][0] and config.seeds >= LEAST_COMPARED:
        made += _as_before(DIGITS, BEFORE[DIGITS][1], found[DIGITS])
    if COMPARED in found:
        made += _as_before(VIEWS, BEFORE[VIEWS][1], found[COMPARED])
        made.append(_claim_of_gap(found[COMPARED], BEFORE[VIEWS][1]))
    made += _claims_of_files(config, found)
    if named(found, SIZE):
        made.append(in_batch.of_sizes(found))
    if named(found, COPIES):
        made += in_batch.of_copies(found)
    if FIVE in found:
        made += [*in_batch.of_five(found[FIVE]), in_batch.of_five_views(found[FIVE_VIEWS])]
    return [*made, *in_batch.duplicates()]


def _claims_of_views(config: Any, views: dict[str, Run]) -> list[Claim]:
    return [
        Claim.at_least(
            VSE,
            "pairs that can be told apart: the hardest negative is ahead of all negatives in the "
            f"end ({SURE}; measured before: 7, without)",
            ahead(views[HARDEST], views[ALL]),
            AHEAD,
            should_hold=config.epochs >= 60,
            reason="it takes longer than this: over 8 seeds the difference was 1.2, with a "
            "standard error of 0.7, after 30 epochs, and 2.9 with 0.8 after 60",
        ),
        Claim.at_least(
            VSE,
            "and behind them after the first epoch (difference of R@1, all less hardest, less two "
            "standard errors over seeds)",
            ahead(views[ALL], views[HARDEST], "recall", first=True),
            AHEAD,
        ),
        Claim.at_least(
            VSE,
            "and it catches up (R@1, hardest less all, in the end less after the first epoch, less "
            "two standard errors over seeds)",
            surely(
                gap(views[HARDEST], views[ALL], "recall")
                - gap(views[HARDEST], views[ALL], "recall", first=True)
            ),
            3.0,
        ),
    ]


def _claims_of_digits(digits: dict[str, Run]) -> list[Claim]:
    return [
        Claim.at_least(
            SPEC,
            "pairs that are ambiguous: the hardest negative is behind all negatives "
            "(difference of rsum, mean over seeds, at least half of the 57 measured before)",
            gap(digits[ALL], digits[HARDEST]).mean(),
            28.5,
        ),
        Claim.at_least(
            SPEC,
            f"and all negatives and the soft maximum are surely ahead ({SURE})",
            [ahead(digits[method], digits[HARDEST]) for method in (ALL, SOFT)],
            20.0,
        ),
        Claim.at_least(
            OWN,
            "and under it different items are alike in the end, also after a warm-up, where under "
            "all negatives they are not (difference of the mean cosine of different items)",
            [
                reached(digits[method], "cosine").mean() - reached(digits[ALL], "cosine").mean()
                for method in (HARDEST, WARM)
            ],
            0.5,
        ),
        Claim.at_least(
            SPEC,
            "and there the soft maximum is ahead of the hardest (likewise, at least half of 68)",
            gap(digits[SOFT], digits[HARDEST]).mean(),
            34.0,
        ),
    ]


def _claims_of_early(early: dict[str, Run]) -> list[Claim]:
    """The learning curves of the first epochs, and who leads."""
    epoch = leads_from(early[HARDEST], early[ALL])
    pairs = ((HARDEST, ALL), (WARM, ALL), (WARM, HARDEST))
    reason = (
        "the cause is not known; before, it was one seed. The loss of the warm-up is a mean over "
        "pairs, as there. Differences of R@1 in the end, over "
        f"{len(early[ALL].recall)} seeds in pairs, with standard errors: "
    ) + ", ".join(
        f"{one} less {other} {told_gap(early[one], early[other], 'recall')}" for one, other in pairs
    )
    return [
        Claim.at_most(
            SPEC,
            f"views, {EARLY_EPOCHS} epochs: learning curves are those of before, of one seed and "
            f"other data (R@1, mean difference over the epochs in standard errors, by method)",
            [
                off_by(early[method].recall, EARLY_BEFORE[method], None, 1).mean()
                for method in EARLY_BEFORE
            ],
            2.5,
        ),
        Claim.at_most(
            SPEC,
            "and so are the differences between methods, of runs of one seed (hardest less all, "
            "warm-up less all, warm-up less hardest: likewise)",
            [
                off_by(
                    np.asarray(early[one].recall) - np.asarray(early[other].recall),
                    np.subtract(EARLY_BEFORE[one], EARLY_BEFORE[other]),
                    None,
                    1,
                ).mean()
                for one, other in pairs
            ],
            2.5,
            should_hold=False,
            reason=reason,
        ),
        Claim.between(
            SPEC,
            f"and all negatives lead in R@1 at first, the hardest soon (from which epoch on; means "
            f"over seeds; before {LEADS_BEFORE})",
            np.nan if epoch is None else epoch,
            2,
            2 * LEADS_BEFORE,
            should_hold=False,
            reason=reason,
        ),
        Claim.at_least(
            SPEC,
            "and the warm-up is ahead of both in the end (difference of R@1, less two standard "
            "errors over seeds; before 6 and 2)",
            [ahead(early[WARM], early[method], "recall") for method in (ALL, HARDEST)],
            AHEAD,
            should_hold=False,
            reason=reason,
        ),
    ]


def _claims_of_deep(deep: dict[str, Run], as_before: bool) -> list[Claim]:
    half = [(DEEP_BEFORE[method] - DEEP_BEFORE[HARDEST]) / 2 for method in (WARM, SOFT)]
    made = [
        Claim.at_least(
            SPEC,
            "deep towers under the hardest negative collapse: mean cosine of different items, in "
            "the end (1: all embeddings are the same)",
            reached(deep[HARDEST], "cosine"),
            COLLAPSED,
        ),
        Claim.close(
            SPEC,
            "and their loss stays at two margins a pair (mean over seeds, of the last epoch; "
            f"before {DEEP_LOSS_BEFORE})",
            reached(deep[HARDEST], "loss").mean(),
            2 * MARGIN,
            rtol=0.01,
        ),
        *(
            Claim.at_least(
                SPEC,
                f"{name} cures it: R@1 (%) above that under the hardest negative, less two "
                "standard errors over seeds, is at least half of the difference before",
                ahead(deep[method], deep[HARDEST], "recall"),
                least,
            )
            for name, method, least in zip(
                ("a warm-up of three epochs with all negatives", "the soft maximum"),
                (WARM, SOFT), half, strict=True,
            )
        ),
    ]  # fmt: skip
    if as_before:
        made.append(
            Claim.at_most(
                SPEC,
                "R@1 of deep towers is as measured before, with one seed and other draws of the "
                "data (difference in standard errors, by method)",
                [
                    off_by(reached(deep[method], "recall"), DEEP_BEFORE[method], None, 1)
                    for method in DEEP_BEFORE
                ],
                2.5,
                should_hold=False,
                reason="of one seed the spread is not known, and how weights were scaled was not "
                f"noted; here: {spread(deep, 'recall', DEEP_BEFORE)}",
            )
        )
    return made


def told_gap(one: Run, other: Run, what: str = "rsum") -> str:
    """The mean difference, with its standard error."""
    values = gap(one, other, what)
    return f"{values.mean():.1f} ± {values.std(ddof=1) / np.sqrt(len(values)):.1f}"


def _as_before(name: str, before: dict[str, Before], by: dict[str, Run]) -> list[Claim]:
    """R@1 and rsum of every method, in standard errors."""

    chosen = ", pixels scaled as fits best of seven ways" if name == DIGITS else ""

    def off(what: str) -> list[float]:
        noted = lambda method: before[method].deviation if what == "recall" else None
        return [
            float(
                off_by(
                    reached(by[method], what), getattr(before[method], what), noted(method),
                    SEEDS_BEFORE,
                )
            )
            for method in before
            if method in by
        ]  # fmt: skip

    return [
        Claim.at_most(
            SPEC,
            f"{name}: {shown} of every method is as measured before, with another program and "
            f"other draws of the data{chosen} (difference in standard errors, by method)",
            off(what),
            2.5,
        )
        for what, shown in (("recall", "R@1"), ("rsum", "rsum"))
    ]


def _claim_of_gap(views: dict[str, Run], before: dict[str, Before]) -> Claim:
    """The lead of the hardest negative on views, next to what it was."""
    lead = before[HARDEST].rsum - before[ALL].rsum
    return Claim.at_least(
        SPEC,
        "views: the hardest negative is ahead of all negatives by at least half of what was "
        f"measured before (difference of rsum, mean over seeds; before {lead:.0f})",
        gap(views[HARDEST], views[ALL]).mean(),
        lead / 2,
        should_hold=False,
        reason="in pairs of runs of one seed, with the standard error, it is "
        f"{told_gap(views[HARDEST], views[ALL])}; before, seeds were not noted in pairs, and each "
        "of the two had a standard error of the size of the lead",
    )


def _claims_of_files(config: Any, found: Found) -> list[Claim]:
    made = []
    for name in (IMAGES, WIKIPEDIA, CAPTIONS):
        if name in found:
            by = found[name]
            made.append(
                Claim.at_least(
                    OWN,
                    f"{name}, where several items fit: the soft maximum is ahead of the hardest "
                    f"negative ({SURE})",
                    ahead(by[SOFT], by[HARDEST]),
                    AHEAD,
                )
            )
    if TRANSLATIONS in found:
        by = found[TRANSLATIONS]
        made.append(
            Claim.at_least(
                VSE,
                "translations, which can be told apart: the hardest negative is ahead of all "
                f"negatives ({SURE})",
                ahead(by[HARDEST], by[ALL]),
                AHEAD,
                should_hold=False,
                reason="rsum of 600 is "
                f"{reached(by[ALL]).mean():.0f} and {reached(by[HARDEST]).mean():.0f}, the "
                f"difference {told_gap(by[HARDEST], by[ALL])}; the mean cosine of different items "
                f"under the hardest negative is {reached(by[HARDEST], 'cosine').mean():.2f} (1: "
                "collapsed)",
            )
        )
    if UNTRAINED in found.get(CAPTIONS, {}):
        by = found[CAPTIONS]
        made.append(
            Claim.at_least(
                OWN,
                "captions: towers trained with the soft maximum retrieve better than the words "
                f"that captions have in common ({SURE})",
                ahead(by[SOFT], by[UNTRAINED]),
                AHEAD,
                should_hold=config.encoder == "bag",
                reason="recurrent towers learn too little from so few captions: rsum "
                f"{reached(by[SOFT]).mean():.0f} against {reached(by[UNTRAINED]).mean():.0f} after "
                f"{config.epochs} epochs of {config.images:,} images",
            )
        )
    return made


def of_deep(deep: dict[str, Any]) -> str:
    """What became of deep towers, in a sentence."""
    value = lambda method, what: np.asarray(deep[method][what])[:, -1]
    collapse = value(HARDEST, "cosine").min() >= COLLAPSED
    recall = {method: f"{value(method, 'recall').mean():.1f} %" for method in DEEP_BEFORE}
    return (
        f"Deep towers {'collapse' if collapse else 'do not all collapse'} under the hardest "
        f"negative (R@1 {recall[HARDEST]}); after three epochs of all negatives they reach "
        f"{recall[WARM]}, with the soft maximum {recall[SOFT]}, with all negatives {recall[ALL]}."
    )


def summary(found: Found) -> str:
    """The answer in few sentences."""
    mean = lambda name, method: reached(found[name][method]).mean()
    parts = []
    if VIEWS in found and DIGITS in found:
        parts.append(
            f"Where pairs can be told apart the hardest negative reaches an rsum of "
            f"{mean(VIEWS, HARDEST):.0f}, all negatives {mean(VIEWS, ALL):.0f}; where many "
            f"negatives fit as well, {mean(DIGITS, HARDEST):.0f} against {mean(DIGITS, ALL):.0f}. "
            f"The soft maximum reaches {mean(VIEWS, SOFT):.0f} and {mean(DIGITS, SOFT):.0f}."
        )
        epoch = leads_from(found[VIEWS][HARDEST], found[VIEWS][ALL])
        parts.append(
            "There the hardest negative "
            + ("never leads for good." if epoch is None else f"leads from epoch {epoch} on.")
        )
    if "deep" in found:
        parts.append(of_deep({name: run._asdict() for name, run in found["deep"].items()}))
    for name in (WIKIPEDIA, TRANSLATIONS, CAPTIONS):
        if name in found:
            best = max(found[name], key=lambda method: mean(name, method))
            parts.append(
                f"{name.capitalize()}: rsum {mean(name, ALL):.0f} with all negatives, "
                f"{mean(name, HARDEST):.0f} with the hardest, {mean(name, SOFT):.0f} with the soft "
                f"maximum; the most has {best}, {mean(name, best):.0f}."
            )
    return " ".join(parts)
