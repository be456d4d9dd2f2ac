"""What the experiment `hard_negatives` tabulates, from its runs."""

from typing import Any

import numpy as np

from experiments import hard_negatives_before as past
from experiments import hard_negatives_found as seen
from experiments import hard_negatives_problems as problems
from experiments.hard_negatives_found import Found, chosen, named, number_in, reached
from experiments.hard_negatives_runs import Run
from experiments.report import Table

# R@1 from x to y of random embeddings, in %: 1,000, 500 and 693 items; for captions 4 of 4,000.
CHANCE = {
    problems.VIEWS: 0.1,
    problems.DIGITS: 0.2,
    problems.IMAGES: 0.2,
    problems.WIKIPEDIA: 0.14,
    problems.TRANSLATIONS: 0.1,
    problems.CAPTIONS: 0.1,
}
TOP_SHARE = 0.01  # of all items, that count as the hardest


def chance_of_a_hard_one(share: Any, batch: Any) -> Any:
    r"""How likely one of the negatives of a batch is from the hardest share, :math:`1-q^{M-1}`.

    With :math:`q=1-` share, for a batch of M drawn at random from many items, for a given query.
    """
    return 1 - (1 - share) ** (batch - 1)


def show(values: np.ndarray) -> str:
    """Mean and standard deviation over seeds."""
    return f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"


def tables(config: Any, found: Found) -> list[Table]:
    """Recall and its sum in the end, mean and standard deviation over seeds."""
    made = [_table_of(config, name, found[name]) for name in found if name in config.problems]
    if seen.COMPARED in found:
        epochs, before = past.BEFORE[problems.VIEWS]
        rows = [
            (
                method, show(reached(run, "recall")), f"{before[method].recall:g}",
                show(reached(run)), f"{before[method].rsum:g}",
            )
            for method, run in found[seen.COMPARED].items()
        ]  # fmt: skip
        columns = ("method", "R@1, %", "R@1 before, three seeds", "rsum, %", "rsum before")
        made.append(Table(f"Views after {epochs} epochs, and as measured before", columns, rows))
    if "deep" in found:
        rows = [
            (
                method, show(reached(run, "recall")), f"{reached(run, 'cosine').mean():.3f}",
                f"{reached(run, 'loss').mean():.4f}", f"{past.DEEP_BEFORE[method]:g}",
            )
            for method, run in found["deep"].items()
        ]  # fmt: skip
        columns = (
            "method", "R@1, %", "mean cosine of different items", "loss of a pair",
            f"R@1 before, {past.DEEP_EPOCHS} epochs, one seed",
        )  # fmt: skip
        made.append(Table("Deep narrow towers on views, in the end", columns, rows))
    if sizes := sorted(named(found, seen.SIZE), key=number_in):
        made.append(_table_of_sizes(config, found, sizes))
    if copies := sorted(named(found, seen.COPIES), key=number_in):
        methods = list(found[copies[0]])
        rows = [
            (number_in(name), f"{expected_pairs(config.batch, number_in(name)):.1f}",
             *(show(reached(found[name][method])) for method in methods))
            for name in copies
        ]  # fmt: skip
        columns = ("views of each thing", "pairs of one thing in a batch", *methods)
        made.append(
            Table(
                "Negatives that are none: rsum on views, test things are other ones", columns, rows
            )
        )
    for name in (seen.FIVE, seen.FIVE_VIEWS):
        if name in found:
            before = past.FIVE_BEFORE if name == seen.FIVE else {}
            rows = [
                (method, show(reached(run)), f"{before[method]:g}" if before else "-")
                for method, run in found[name].items()
            ]
            columns = ("method", "rsum", "rsum before, two seeds")
            made.append(Table(f"{name}, after {past.FIVE_EPOCHS} epochs", columns, rows))
    return made


def expected_pairs(batch: int, copies: int, number: int = 4_000) -> float:
    """Of ``number`` rows with so many of each thing: pairs of one thing in a random batch."""
    return batch * (batch - 1) / 2 * (copies - 1) / (number - 1)


def _table_of(config: Any, name: str, by: dict[str, Run]) -> Table:
    columns: dict[str, list[str]] = {
        "method": list(by),
        "R@1, %": [show(reached(run, "recall")) for run in by.values()],
        "rsum, %": [show(reached(run)) for run in by.values()],
        "after the first epoch: R@1, %": [_mean(run.recall[:, 0], 1) for run in by.values()],
        "mean cosine of different items": [_mean(reached(run, "cosine"), 3) for run in by.values()],
        "mAP": [_mean(reached(run, "precision"), 3) for run in by.values()],
    }
    title = f"{name}: retrieval of test pairs after {config.epochs} epochs"
    note = f"Chance, from x to y: R@1 of {CHANCE[name]} %. A mean cosine of 1: all embeddings are "
    note += "the same. Seeds: "
    if name in (problems.WIKIPEDIA, problems.TRANSLATIONS, problems.CAPTIONS):
        note += "of the weights and the order of batches; the data are the same."
    else:
        note += "of data, weights and batches."
    if any(np.isfinite(run.validated).any() for run in by.values()):
        title = f"{name}: retrieval of test pairs, {config.epochs} epochs at most"
        columns["epoch"] = [_mean(chosen(run) + 1, 1) for run in by.values()]
        note += " Every run is taken at the epoch that is best on the validation set."
    epochs, before = past.BEFORE.get(name, (0, {}))
    if epochs == config.epochs:
        known = lambda what: [str(getattr(before.get(m), what, "")) for m in by]
        columns |= {"R@1 before": known("recall"), "rsum before": known("rsum")}
        note += " Before: as we measured it earlier, over 3 seeds."
    kept = {title: column for title, column in columns.items() if any(column)}
    rows = list(zip(*kept.values(), strict=True))
    return Table(f"{title} (mean ± standard deviation over seeds)", tuple(kept), rows, note)


def _mean(values: np.ndarray, digits: int) -> str:
    """Nothing where there is none."""
    mean = np.mean(values)
    return "" if np.isnan(mean) else f"{mean:.{digits}f}"


def _table_of_sizes(config: Any, found: Found, sizes: list[str]) -> Table:
    methods = list(found[sizes[0]])
    rows = [
        (number_in(name), f"{chance_of_a_hard_one(TOP_SHARE, number_in(name)):.3f}",
         *(show(reached(found[name][method])) for method in methods))
        for name in sizes
    ]  # fmt: skip
    columns = ("batch", "1 − q^(M−1), q = 0.99", *(f"rsum: {method}" for method in methods))
    return Table(
        f"Batch size on views, after {config.equal_steps:,} steps",
        columns,
        rows,
        "1 − q^(M−1): how likely a batch of M has a negative from the hardest 1 % of all, for a "
        "given query. The steps are as many for all sizes, so that large batches see more pairs.",
    )
