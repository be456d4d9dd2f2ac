"""The figures of the experiment `redundancy`."""

import numpy as np

from experiments import plots
from experiments.redundancy_claims import INPUTS, USUAL
from experiments.report import Result


def detection(result: Result):
    """Precision and recall over the tolerance, a panel for every noise."""
    found, x = result.series["detection"], result.series["tolerance"]
    figure, axes = plots.subplots(1, len(found), width=3.6 * len(found) + 2, height=4, sharey=True)
    axes = np.atleast_1d(np.asarray(axes))
    for ax, (noise, by) in zip(axes, found.items(), strict=True):
        ax.set_xscale("log")
        last = list(by)[-1]
        for index, name in enumerate((last, INPUTS)):
            precision, recall = np.array([d[:2] for d in by[name]]).T
            what = "inputs" if name == INPUTS else "gradients"
            plots.line(ax, x, precision, label=f"{what}, precision", index=2 * index, markevery=1)
            plots.line(ax, x, recall, label=f"{what}, recall", index=2 * index + 1, markevery=1)
        tolerance = result.config.tolerance if result.config is not None else None
        if tolerance is not None:
            ax.axvline(tolerance, color="black", linestyle=(0, (5, 3)), linewidth=1.2)
        plots.describe(ax, title=f"Pixel noise {float(noise):g}", x="tolerance, 1 - cos",
                       y="precision, recall over pairs" if ax is axes[0] else "")  # fmt: skip
        ax.set_ylim(-0.04, 1.06)
    plots.direct_labels(axes[-1])
    return plots.finish(figure), (
        "Groups of coinciding examples, held against the copies that were planted, over the "
        "largest distance within a group; by all leaders, with sketches of the gradients after "
        "training, and with the inputs. Dashed: the tolerance of the report."
    )


def distances(result: Result):
    """Intervals of the distances of the three kinds of pairs."""
    usual = result.series["distances"].get(str(USUAL))
    if usual is None:
        return None
    figure, ax = plots.subplots(1, 1, width=8.5, height=0.62 * len(usual) + 2)
    with plots.style():
        for row, by in enumerate(usual.values()):
            for index, (kind, (low, middle, high)) in enumerate(by.items()):
                place = row + 0.22 * (index - 1)
                look = plots.looks(index)
                ax.plot([max(low, 1e-4), high], [place, place], color=look["color"], marker="",
                        linestyle="-", linewidth=3)  # fmt: skip
                ax.plot([middle], [place], color=look["color"], marker=look["marker"], markersize=7,
                        markeredgecolor="black", linestyle="")  # fmt: skip
                if row == 0:
                    ax.annotate(kind, (high, place), xytext=(6, 0), textcoords="offset points",
                                va="center", fontsize=8)  # fmt: skip
        ax.set_yticks(range(len(usual)), list(usual))
        ax.set_xscale("log")
        ax.set_xlim(right=3)
        ax.invert_yaxis()
        ax.grid(visible=False, axis="y")
    plots.describe(ax, title=f"Distances of pairs, pixel noise {USUAL:g}", x="1 - cos", y="")
    return plots.finish(figure), (
        "From the 5 % to the 95 % quantile, the median marked: the distance of two copies of one "
        "image, of another image to the nearest copy, and of another image to the nearest other. "
        "Copies can be told apart where the first does not meet the other two."
    )


def largest_groups(result: Result):
    """Rows of images: members of one group each."""
    found = result.series["groups"]
    pixels, labels = np.asarray(found["pixels"]), np.asarray(found["labels"])
    rows, columns = labels.shape
    figure, axes = plots.subplots(rows, columns, width=0.72 * columns + 2.6, height=0.9 * rows + 1)
    for row in range(rows):
        for column in range(columns):
            ax = axes[row, column]
            ax.imshow(pixels[row, column], cmap="gray_r", vmin=0, vmax=1)
            ax.set_xticks([])
            ax.set_yticks([])
            ax.grid(visible=False)
            ax.set_title(str(labels[row, column]), fontsize=8, loc="center", pad=2,
                         fontweight="normal")  # fmt: skip
        axes[row, 0].set_ylabel(
            f"{found['sizes'][row]} members\n{100 * found['purity'][row]:.0f} % copies",
            fontsize=8, rotation=0, ha="right", va="center", labelpad=8,
        )  # fmt: skip
    with plots.style():
        figure.suptitle("Members of the largest groups (their labels above)")
    return plots.finish(figure), (
        f"Groups by {found['when']}: the first members of each, how many it has, and the share "
        "that are copies of one image."
    )
