"""The figures of the experiment `hard_negatives`."""

import numpy as np

from experiments import plots
from experiments.hard_negatives_runs import ALL, HARDEST, INFO_NCE, SOFT, WARM
from experiments.report import Result

SHOWN = (ALL, HARDEST, WARM, SOFT, INFO_NCE)
TITLES = {"views": "Views: pairs can be told apart", "digits": "Digits: many halves fit"}


def _draw(ax, by, methods, what: str) -> None:
    for index, method in enumerate(SHOWN):
        if method not in methods:
            continue
        values = np.asarray(by[method][what])
        mean, spread = values.mean(axis=0), values.std(axis=0, ddof=1)
        epochs = np.arange(1, values.shape[1] + 1)
        plots.line(ax, epochs, mean, label=method, index=index, band=(mean - spread, mean + spread))


def curves(result: Result):
    """Recall over epochs, on both problems."""
    figure, axes = plots.subplots(1, 2, width=11, height=4.2)
    for ax, (name, title) in zip(axes, TITLES.items(), strict=True):
        _draw(ax, result.series[name], SHOWN, "recall")
        plots.describe(ax, title=title, x="epochs", y="R@1 on test pairs (%)")
        ax.set_ylim(bottom=0)
        ax.autoscale_view()
        plots.direct_labels(ax)
    return plots.finish(figure), (
        "How often the partner is the first of all test items, after each epoch; bands: one "
        "standard deviation over seeds. Left, all negatives lead at first and the hardest "
        "overtake. Right, the hardest negative is often as good as the partner, and pushing it "
        "away hurts."
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
        "Eight hidden layers of 64: at the start all embeddings are alike. Under the hardest "
        "negative they become the same (dashed), every hinge is the margin, recall is chance. A "
        "warm-up of three epochs with all negatives, or the soft maximum, leads out of it."
    )
