"""What the experiment `hard_negatives` claims and tabulates, from its runs."""

import numpy as np

from experiments.claims import Claim
from experiments.hard_negatives_runs import ALL, HARDEST, SOFT, WARM, Run
from experiments.report import Table

VSE = "Faghri et al., arXiv:1707.05612 (remark on training time)"
SPEC = "our specification, section 7.2 (measured before)"

WORDS = {
    "all": "The sum of the hinges of all negatives of the batch (SH, VSE0).",
    "hardest": "The hinge of the most similar negative of the batch alone (MH, VSE++).",
    "rsum": "The sum of recall at 1, 5 and 10, in both directions, in %: 600 at best.",
    "R@1": "The share of queries whose partner is the first of all test items, in %.",
    "collapse": "All embeddings are nearly the same: every hinge is the margin, and no "
    "gradient is left.",
}

Found = dict[str, dict[str, Run]]


def last(run: Run, what: str = "rsum") -> np.ndarray:
    """``(seeds,)``: in the end."""
    return np.asarray(getattr(run, what))[:, -1]


def claims(found: Found) -> list[Claim]:
    """Where the hardest negative teaches, and where it hurts."""
    views, digits, deep = (found[name] for name in ("views", "digits", "deep"))
    first = lambda run: np.asarray(run.recall)[:, 0].mean()
    ahead = last(views[HARDEST]).mean() - last(views[ALL]).mean()
    behind = last(digits[ALL]).mean() - last(digits[HARDEST]).mean()
    return [
        Claim.at_least(
            VSE,
            "pairs that can be told apart: the hardest negative is ahead of all negatives in the "
            "end (difference of the mean rsum; measured before: 7)",
            ahead,
            0.0,
        ),
        Claim.at_least(
            VSE,
            "and behind them after the first epoch (difference of the mean R@1, all less hardest)",
            first(views[ALL]) - first(views[HARDEST]),
            0.0,
        ),
        Claim.at_least(
            SPEC,
            "pairs that are ambiguous: the hardest negative is behind all negatives (difference of "
            "the mean rsum, all less hardest; measured before: 58)",
            behind,
            20.0,
        ),
        Claim.at_least(
            SPEC,
            "and there the soft maximum is ahead of the hardest (difference of the mean rsum)",
            last(digits[SOFT]).mean() - last(digits[HARDEST]).mean(),
            20.0,
        ),
        Claim.at_least(
            SPEC,
            "deep towers under the hardest negative collapse: mean cosine of different items, in "
            "the end (1: all embeddings are the same)",
            last(deep[HARDEST], "cosine"),
            0.95,
        ),
        Claim.at_least(
            SPEC,
            "a warm-up with all negatives, or the soft maximum, cures it: R@1 over that under the "
            "hardest negative",
            [
                last(deep[method], "recall").mean() / max(last(deep[HARDEST], "recall").mean(), 0.2)
                for method in (WARM, SOFT)
            ],
            3.0,
        ),
    ]


def summary(found: Found) -> str:
    """The answer in few sentences."""
    mean = lambda name, method: last(found[name][method]).mean()
    recall = lambda method: last(found["deep"][method], "recall").mean()
    return (
        f"Where pairs can be told apart the hardest negative reaches an rsum of "
        f"{mean('views', HARDEST):.0f}, all negatives {mean('views', ALL):.0f}; where many "
        f"negatives fit as well, {mean('digits', HARDEST):.0f} against {mean('digits', ALL):.0f}. "
        f"Deep towers collapse under it (R@1 {recall(HARDEST):.1f} %); after three epochs of all "
        f"negatives they do not ({recall(WARM):.1f} %). The soft maximum reaches an rsum of "
        f"{mean('views', SOFT):.0f} and {mean('digits', SOFT):.0f}, and an R@1 of "
        f"{recall(SOFT):.1f} % with deep towers."
    )


def tables(found: Found) -> list[Table]:
    """Recall and its sum in the end, mean and standard deviation over seeds."""
    show = lambda values: f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"
    columns = ("method", "views: R@1", "views: rsum", "digits: R@1", "digits: rsum")
    rows = [
        (method, *(show(last(found[name][method], what))
                   for name in ("views", "digits") for what in ("recall", "rsum")))
        for method in found["views"]
    ]  # fmt: skip
    deep = [
        (method, show(last(run, "recall")), f"{last(run, 'cosine').mean():.3f}")
        for method, run in found["deep"].items()
    ]
    return [
        Table("Retrieval of test pairs in the end, % (mean ± standard deviation over seeds)",
              columns, rows),
        Table("Deep narrow towers on views, in the end",
              ("method", "R@1, %", "mean cosine of different items"), deep),
    ]  # fmt: skip
