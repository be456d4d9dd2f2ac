"""The figures of the experiment `per_example_cost`."""

import numpy as np

from experiments import plots
from experiments.report import Result

NUM_SHOWN = 10
HATCHES = ("", "///", "...", "xxx")


def cost(result: Result):
    """Bars of relative time by model and method."""
    relative = result.series["relative time"]
    names = [name for name in next(iter(relative.values())) if name != "mean gradient"]
    figure, ax = plots.subplots(width=8.5, height=3.6)
    ax.axvline(1.0, color="black", linestyle="--", linewidth=1.2, label="mean gradient alone")
    height = 0.8 / len(names)
    for index, name in enumerate(names):
        values = [float(by[name]) for by in relative.values()]
        places = np.arange(len(values)) + (index - (len(names) - 1) / 2) * height
        looks = {"color": plots.looks(index)["color"], "hatch": HATCHES[index]}
        bars = ax.barh(places, values, 0.9 * height, edgecolor="white", label=name, **looks)
        for text in ax.bar_label(bars, fmt="%.2f", padding=3, fontsize=8):
            text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    ax.set_yticks(range(len(relative)), list(relative))
    ax.invert_yaxis()
    ax.set_xlim(0, 1.12 * max(float(by[name]) for by in relative.values() for name in names))
    plots.describe(ax, title="Time of one pass", x="time relative to the mean gradient", y="")
    with plots.style():
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return plots.finish(figure), (
        "What a pass over a batch of digits takes, relative to the mean gradient alone (dashed), "
        "after compiling. Everything is exact but the sketches, which are unbiased."
    )


def examples(result: Result):
    """The images with the largest and the smallest gradient norm, with labels."""
    series = {
        name: np.asarray(values)
        for name, values in result.series.items()
        if name != "relative time"
    }
    order = np.argsort(-series["norms"])
    rows = {"largest": order[:NUM_SHOWN], "smallest": order[-NUM_SHOWN:][::-1]}
    figure, axes = plots.subplots(2, NUM_SHOWN, width=10, height=3.3)
    for row, (name, chosen) in zip(axes, rows.items(), strict=True):
        for ax, number in zip(row, chosen, strict=True):
            ax.imshow(series["images"][number], cmap="gray_r", vmin=0, vmax=1)
            ax.set_xticks([])
            ax.set_yticks([])
            ax.grid(visible=False)
            is_wrong = bool(series["wrong"][number])
            truth = f"\n(is a {series['truth'][number]})" if is_wrong else "\n"
            ax.set_title(
                f"label {series['labels'][number]}{truth}", fontsize=8, loc="center",
                fontweight="bold" if is_wrong else "normal",
            )  # fmt: skip
            ax.set_xlabel(f"{series['norms'][number]:.2g}", fontsize=8)
        row[0].set_ylabel(f"{name}\nnorms", fontsize=9)
    with plots.style():
        figure.suptitle("Digits with the largest and the smallest gradient norm")
    return plots.finish(figure), (
        "After training on partly wrong labels: the label that the network was given, in bold with "
        "the true class where it is wrong, and below the image the norm of its gradient."
    )


def norms(result: Result):
    """Histograms of the norms of examples with right and with wrong labels."""
    values, wrong = np.asarray(result.series["norms"]), np.asarray(result.series["wrong"])
    figure, ax = plots.subplots(width=7.5, height=3.4)
    edges = np.geomspace(max(values.min(), 1e-8), values.max(), 40)
    groups = {"right label": values[~wrong], "wrong label": values[wrong]}
    for index, (name, chosen) in enumerate(groups.items()):
        color = plots.looks(index)["color"]
        ax.hist(
            chosen, edges, weights=np.full(len(chosen), 100 / len(chosen)), color=color, alpha=0.6,
            hatch=HATCHES[index], edgecolor="white", label=f"{name} ({len(chosen)} examples)",
        )  # fmt: skip
    ax.set_xscale("log")
    plots.describe(
        ax,
        title="Gradient norms of training examples",
        x="norm of the example's gradient (logarithmic)",
        y="share of the group (%)",
    )
    plots.legend(ax, loc="upper left")
    return plots.finish(figure), (
        "Norms of the gradients of all training examples after training. Each group adds up to "
        "100 %."
    )
