"""The figures of the experiment `hard_negatives`."""

import numpy as np

from experiments import hard_negatives_before as past
from experiments import hard_negatives_claims as told
from experiments import hard_negatives_found as seen
from experiments import plots
from experiments.hard_negatives_problems import (
    CAPTIONS,
    DIGITS,
    IMAGES,
    TRANSLATIONS,
    VIEWS,
    WIKIPEDIA,
)
from experiments.hard_negatives_runs import ALL, HARDEST, INFO_NCE, SOFT, WARM
from experiments.hard_negatives_tables import chance_of_a_hard_one, expected_pairs
from experiments.report import Result

SHOWN = (ALL, HARDEST, WARM, SOFT, INFO_NCE)
TITLES = {
    VIEWS: "Views: pairs can be told apart",
    DIGITS: "Digits: many halves fit",
    IMAGES: "Digits, convolutional towers",
    WIKIPEDIA: "Wikipedia: images and texts",
    TRANSLATIONS: "Captions and translations",
    CAPTIONS: "Captions of one image",
}


def _draw(ax, by, methods, what: str) -> None:
    for index, method in enumerate(SHOWN):
        if method not in methods:
            continue
        values = np.asarray(by[method][what])
        mean, spread = values.mean(axis=0), values.std(axis=0, ddof=1)
        epochs = np.arange(1, values.shape[1] + 1)
        plots.line(ax, epochs, mean, label=method, index=index, band=(mean - spread, mean + spread))


def curves(result: Result):
    """Recall over epochs, on every problem."""
    names = [name for name in TITLES if name in result.series]
    figure, axes = plots.subplots(1, len(names), width=5.5 * len(names), height=4.2)
    for ax, name in zip(np.atleast_1d(axes), names, strict=True):
        # So few are found at the first place that only all recalls together tell.
        what = "rsum" if name == WIKIPEDIA else "recall"
        _draw(ax, result.series[name], result.series[name], what)
        label = "sum of recalls on test pairs (%)" if what == "rsum" else "R@1 on test pairs (%)"
        plots.describe(ax, title=TITLES[name], x="epochs", y=label)
        if seen.UNTRAINED in result.series[name]:
            by = result.series[name]
            level = float(np.asarray(by[seen.UNTRAINED][what])[0, -1])
            length = np.asarray(by[ALL]["recall"]).shape[1]
            plots.theory_line(ax, [1, length], [level, level], label=seen.UNTRAINED)
        ax.autoscale_view()
        ax.set_ylim(bottom=0)
        plots.direct_labels(ax)
    text = (
        "R@1: how often the partner is the first of all test items, after each epoch; bands: one "
        "standard deviation over seeds."
    )
    if DIGITS in names:
        by = result.series[DIGITS]
        cosine = lambda method: np.asarray(by[method]["cosine"])[:, -1].mean()
        text += (
            " Where many halves fit, the hardest negative is often as good as the partner. The "
            f"mean cosine of different digits is {cosine(HARDEST):.2f} under it in the end, "
            f"{cosine(ALL):.2f} under all negatives."
        )
    return plots.finish(figure), text


def early(result: Result):
    """The first epochs of views, and the same as measured before."""
    by = result.series[seen.EARLY]
    figure, axes = plots.subplots(1, len(past.EARLY_BEFORE), width=14, height=4)
    for ax, (method, before) in zip(axes, past.EARLY_BEFORE.items(), strict=True):
        _draw(ax, by, (method,), "recall")
        plots.theory_line(ax, np.arange(1, len(before) + 1), before, label="before, one seed")
        plots.describe(ax, title=f"Views: {method}", x="epochs", y="R@1 on test pairs (%)")
        ax.autoscale_view()
        ax.set_ylim(bottom=0)
        plots.direct_labels(ax)
    epoch = seen.leads_from(seen.of(by[HARDEST]), seen.of(by[ALL]))
    return plots.finish(figure), (
        "Runs of 12 epochs, with a tenth of the learning rate from the middle on; bands: one "
        "standard deviation over seeds. Dashed: as measured before, with one seed, other draws of "
        "the data and another program. The hardest negative "
        + ("never leads for good." if epoch is None else f"leads from epoch {epoch} on.")
    )


def overtaking(result: Result):
    """Of runs on views, how far the hardest negative is ahead of all."""
    by = result.series[VIEWS]
    figure, ax = plots.subplots(1, 1, width=7.5, height=4.2)
    for index, method in enumerate((HARDEST, WARM, SOFT)):
        gaps = np.asarray(by[method]["recall"]) - np.asarray(by[ALL]["recall"])
        mean, error = gaps.mean(axis=0), gaps.std(axis=0, ddof=1) / np.sqrt(len(gaps))
        epochs = np.arange(1, len(mean) + 1)
        plots.line(ax, epochs, mean, label=f"{method} less all", index=index,
                   band=(mean - error, mean + error))  # fmt: skip
    plots.theory_line(ax, [1, len(mean)], [0, 0], label="as all negatives")
    plots.describe(ax, title="Views: who is ahead of all negatives", x="epochs",
                   y="difference of R@1 (percentage points)")  # fmt: skip
    ax.autoscale_view()
    plots.direct_labels(ax)
    epoch = seen.leads_from(seen.of(by[HARDEST]), seen.of(by[ALL]))
    return plots.finish(figure), (
        "Differences between runs of one seed, which have the same pairs, weights and order of "
        "batches; bands: one standard error over seeds. The hardest negative "
        + ("never leads for good." if epoch is None else f"leads from epoch {epoch} on.")
    )


def sizes(result: Result):
    """Retrieval over the batch size at equal steps, and the sampling argument."""
    names = sorted(seen.named(result.series, seen.SIZE), key=seen.number_in)
    numbers = [seen.number_in(name) for name in names]
    figure, (left, right) = plots.subplots(1, 2, width=11, height=4.2)
    for index, method in enumerate(SHOWN):
        if method in result.series[names[0]]:
            values = np.array([np.asarray(result.series[n][method]["rsum"])[:, -1] for n in names])
            mean, spread = values.mean(axis=1), values.std(axis=1, ddof=1)
            plots.line(left, numbers, mean, label=method, index=index,
                       band=(mean - spread, mean + spread))  # fmt: skip
    batch = np.arange(2, max(numbers) + 1)
    for index, share in enumerate((0.1, 0.01, 0.001)):
        plots.line(right, batch, chance_of_a_hard_one(share, batch), index=index, marker="",
                   label=f"hardest {100 * share:g} %")  # fmt: skip
    plots.describe(left, title="Equal steps: retrieval", x="pairs in a batch", y="rsum (%)")
    plots.describe(
        right, title="Is a hard one among them?", x="pairs in a batch",
        y="probability of a negative from the",
    )  # fmt: skip
    for ax in (left, right):
        plots.doubling(ax, numbers)
        plots.direct_labels(ax)
    return plots.finish(figure), (
        "Left: the sum of recalls after as many steps with every batch size; bands: one standard "
        "deviation over seeds. Right: how likely a random batch has, for a given query, a negative "
        "from the hardest share of all items, 1 − q^(M−1)."
    )


def copies(result: Result):
    """Retrieval over the number of views of each thing."""
    names = sorted(seen.named(result.series, seen.COPIES), key=seen.number_in)
    pairs = [expected_pairs(result.series["batch"], seen.number_in(name)) for name in names]
    figure, ax = plots.subplots(1, 1, width=7, height=4.2)
    for index, method in enumerate(result.series[names[0]]):
        values = np.array([np.asarray(result.series[n][method]["rsum"])[:, -1] for n in names])
        mean, spread = values.mean(axis=1), values.std(axis=1, ddof=1)
        plots.line(ax, pairs, mean, label=method, index=index, band=(mean - spread, mean + spread))
    plots.describe(ax, title="Negatives that are views of the same thing", y="rsum (%)",
                   x="pairs of one thing in a batch (mean)")  # fmt: skip
    ax.autoscale_view()
    plots.direct_labels(ax)
    return plots.finish(figure), (
        "Views of fewer and fewer things, as many in all; test things are other ones. Fewer things "
        "teach less, which can lower all curves; what the false negatives do is the gap between "
        "being told and not. Bands: one standard deviation over seeds."
    )


def retrieved(result: Result):
    """Left halves, and the right halves that are most similar."""
    found = result.series["examples"][DIGITS]
    queries, items, right = (np.asarray(found[name]) for name in ("queries", "found", "right"))
    rows, columns = right.shape
    figure, axes = plots.subplots(rows, columns + 1, width=0.8 * columns + 2.4, height=0.9 * rows)
    for row in range(rows):
        for column in range(columns + 1):
            ax = axes[row, column]
            image = queries[row] if column == 0 else items[row, column - 1]
            whole = image if column == 0 else np.concatenate([queries[row], image], axis=1)
            ax.imshow(whole, cmap="gray_r")
            ax.set_xticks([])
            ax.set_yticks([])
            ax.grid(visible=False)
            if column and right[row, column - 1]:
                for spine in ax.spines.values():
                    spine.set(visible=True, linewidth=2.5, color="black")
            if row == 0:
                ax.set_title("query" if column == 0 else f"{column}.", fontsize=9, loc="center")
    with plots.style():
        figure.suptitle("Left halves, completed by the right halves that they retrieve")
    return plots.finish(figure), (
        "Each row: the left half of a digit, and beside it the five right halves that are most "
        "similar by the soft maximum, of 500. Framed: the half that belongs to it, where it is "
        "among them. Judge by the eye how many of the others would fit as well."
    )


def collapse(result: Result):
    """Recall, and how alike all embeddings are, of deep towers."""
    figure, axes = plots.subplots(1, 2, width=11, height=4.2)
    by = result.series["deep"]
    for ax, what, title, label in (
        (axes[0], "recall", "Deep narrow towers: recall", "R@1 on test pairs (%)"),
        (axes[1], "cosine", "And their collapse", "mean cosine of different items"),
    ):
        _draw(ax, by, by, what)
        if what == "cosine":
            length = np.asarray(by[HARDEST][what]).shape[1]
            plots.theory_line(ax, [1, length], [1, 1], label="all embeddings equal")
        plots.describe(ax, title=title, x="epochs", y=label)
        ax.set_ylim(bottom=0)
        ax.autoscale_view()
        plots.direct_labels(ax)
    return plots.finish(figure), (
        "Eight hidden layers of 64: at the start all embeddings are alike. Where they become the "
        f"same (dashed), every hinge is the margin, and recall is chance. {told.of_deep(by)}"
    )
