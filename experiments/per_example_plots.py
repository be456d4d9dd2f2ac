"""The figures of the experiment `per_example_cost`."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from experiments import plots
from experiments.per_example_claims import EXTRA_MEMORY, MEAN, SLOW
from experiments.report import Result

NUM_SHOWN = 10
OURS_LOOK = {"color": plots.COLORS[0]}
SLOW_LOOK = {"color": plots.COLORS[1], "hatch": "///"}


def cost(result: Result):
    """Bars of relative time and extra memory, by model and method."""
    figure, (left, right) = plots.subplots(1, 2, width=10, height=4.4, sharey=True)
    bars(left, result.series["relative time"], "{:.2f}", 1.0, "mean gradient alone")
    plots.describe(
        left, title="Time of one pass", x="time relative to that of the mean gradient", y=""
    )
    percent = {
        model: {name: 100 * share for name, share in by.items()}
        for model, by in result.series["extra memory"].items()
    }
    bars(right, percent, "{:.0f} %", 100 * EXTRA_MEMORY, "claimed: at most 10 %")
    plots.describe(
        right,
        title="Memory beyond that of the mean gradient",
        x="share of the memory of all per-example gradients (%)",
        y="",
    )
    return plots.finish(figure), (
        "What a pass over a batch of digits takes after compiling: time, and temporary memory of "
        "the compiled program. Dashed: the mean gradient alone, and the most memory that is "
        "claimed. Hatched: vmap(grad), which forms the gradient of every example. Everything is "
        "exact but the sketches, which are unbiased."
    )


def bars(ax: Axes, values: dict[str, dict[str, float]], form: str, dashed: float, meaning: str):
    """A bar for every model and method, named at its left, and a dashed line with its meaning."""
    ticks: dict[float, str] = {}
    place = 0.0
    with plots.style():
        for model, by in values.items():
            ticks[place] = model
            for name in (name for name in by if name != MEAN):
                place += 1
                ticks[place] = name
                look: Any = SLOW_LOOK if name == SLOW else OURS_LOOK
                ax.barh(place, by[name], 0.8, edgecolor="white", **look)
                ax.annotate(
                    form.format(by[name]), (max(by[name], dashed), place), xytext=(4, 0),
                    textcoords="offset points", va="center", fontsize=8,
                )  # fmt: skip
            place += 1.4
        ax.axvline(dashed, color="black", linestyle=(0, (5, 3)), linewidth=1.2)
        ax.annotate(meaning, (dashed, 0), xytext=(4, 0), textcoords="offset points", va="center",
                    fontsize=8)  # fmt: skip
        ax.set_yticks(list(ticks), list(ticks.values()))
        for label in ax.get_yticklabels():
            if label.get_text() in values:
                label.set(fontweight="bold", color="black")
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(place - 0.7, -0.7)
        ax.grid(visible=False, axis="y")
        ax.margins(x=0.12)


def examples(result: Result):
    """The images with the largest and the smallest gradient norm, with labels."""
    series = {
        name: np.asarray(values)
        for name, values in result.series.items()
        if name not in ("relative time", "extra memory")
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
            ax.spines[:].set_visible(True)
            is_wrong = bool(series["wrong"][number])
            truth = f"\n(is a {series['truth'][number]})" if is_wrong else ""
            ax.set_title(
                f"label {series['labels'][number]}{truth}", fontsize=8, loc="center", pad=4,
                fontweight="bold" if is_wrong else "normal",
            )  # fmt: skip
            ax.set_xlabel(f"norm {series['norms'][number]:.2g}", fontsize=8)
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
    with plots.style():
        for index, (name, chosen) in enumerate(groups.items()):
            shares, _, _ = ax.hist(
                chosen, edges, weights=np.full(len(chosen), 100 / len(chosen)), edgecolor="white",
                alpha=0.7, **(OURS_LOOK, SLOW_LOOK)[index],
            )  # fmt: skip
            peak = int(np.argmax(shares))
            ax.annotate(
                f"{name}\n({len(chosen):,} examples)", (edges[peak], np.max(shares)),
                xytext=(-5, 4 if index == 0 else 0), textcoords="offset points", ha="right",
                va="bottom" if index == 0 else "top",
            )  # fmt: skip
        ax.margins(y=0.08)
    ax.set_xscale("log")
    plots.describe(
        ax,
        title="Gradient norms of training examples",
        x="norm of the example's gradient (logarithmic)",
        y="share of the group (%)",
    )
    return plots.finish(figure), (
        "Norms of the gradients of all training examples after training. Each group adds up to "
        "100 %."
    )
