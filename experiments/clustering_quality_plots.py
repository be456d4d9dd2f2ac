"""The figures of the experiment `clustering_quality`."""

import numpy as np

from experiments import plots
from experiments.clustering_quality_claims import (
    EXACT,
    HARTIGAN,
    PLAIN,
    RANDOM,
    RANK_ONE,
    sketched,
)
from experiments.report import Result

LINES = (RANDOM, RANK_ONE, EXACT, PLAIN, sketched(256), HARTIGAN)


def objective(result: Result):
    """J relative to D0/K, over the number of clusters; and near the reference."""
    ratios, guides = result.series["J"], result.series["guide"]
    counts = [int(count) for count in ratios]
    figure, (left, right) = plots.subplots(1, 2, width=12, height=4.4)
    for index, name in enumerate(LINES):
        has = [c for c in counts if name in ratios[str(c)]]
        values = [np.mean(ratios[str(c)][name]) / guides[str(c)] for c in has]
        plots.line(left, has, values, label=name, index=index, markevery=1)
    for height, name in ((1.0, "D0/K: plain batches"), (0.5, "D0/2K: twice the batch")):
        plots.theory_line(left, counts, [height] * len(counts), label=f"_{name}")
        left.annotate(name, (counts[-1], height), xytext=(0, 4), ha="right",
                      textcoords="offset points", fontsize=8)  # fmt: skip
    sketches = [name for name in ratios[str(counts[0])] if name.startswith("sketch of")]
    for index, name in enumerate([*sketches, HARTIGAN]):
        has = [c for c in counts if name in ratios[str(c)]]
        values = [100 * (np.asarray(ratios[str(c)][name]) - 1) for c in has]
        band = ([v.min() for v in values], [v.max() for v in values])
        means = [v.mean() for v in values]
        plots.line(right, has, means, label=name, index=index, band=band, markevery=1)
    plots.theory_line(right, counts, [5.0] * len(counts), label="_within")
    right.annotate("5 %", (counts[-1], 5), xytext=(0, 3), ha="right", textcoords="offset points",
                   fontsize=8)  # fmt: skip
    plots.describe(left, title="J of clusters, relative to D0/K", x="clusters K", y="J / (D0/K)")
    plots.describe(
        right, title="Above the best on all inner products", x="clusters K", y="excess of J (%)"
    )
    for ax in (left, right):
        plots.doubling(ax, counts)
    left.set_ylim(0, 1.15)
    right.set_ylim(bottom=min(0, right.get_ylim()[0]))
    for ax in (left, right):
        plots.direct_labels(ax)
    return plots.finish(figure), (
        "Left: J on the true gradients, mean over seeds. Dashed: what plain batches of K examples "
        "and of 2K have as their variance. Right: how much J is above that of the best run on all "
        "inner products; bands: range over seeds."
    )


def members(result: Result):
    """Rows of images: members of one cluster each."""
    found = result.series["images"]
    pixels, labels = np.asarray(found["pixels"]), np.asarray(found["labels"])
    rows, columns = labels.shape
    figure, axes = plots.subplots(rows, columns, width=0.75 * columns + 2.6, height=0.92 * rows + 1)
    axes = np.asarray(axes).reshape(rows, columns)
    for row in range(rows):
        for column in range(columns):
            ax = axes[row, column]
            ax.imshow(pixels[row, column], cmap="gray_r", vmin=0, vmax=1)
            ax.set_xticks([])
            ax.set_yticks([])
            ax.grid(visible=False)
            ax.set_title(str(labels[row, column]), fontsize=8, loc="center", pad=2,
                         fontweight="normal")  # fmt: skip
        share = found["share of squared norm"][row]
        axes[row, 0].set_ylabel(
            f"{found['sizes'][row]} examples\n{100 * share:.0f} % common",
            fontsize=8, rotation=0, ha="right", va="center", labelpad=8,
        )  # fmt: skip
    with plots.style():
        figure.suptitle("Members of clusters of gradients (their labels above)")
    return plots.finish(figure), (
        "Each row: members at random of one of 64 clusters (or fewer) found by sketches of 256 "
        "numbers, from the largest cluster to a small one; how many members it has, and how much "
        "of the mean squared norm of their gradients lies in their common mean."
    )
