"""The figures of the experiment `gated_images`."""

import numpy as np

from experiments import plots
from experiments.report import Result

SIZES = ("small weights", "large weights")


def race(result: Result):
    """Strengths of modes over epochs, theory over them."""
    one = result.series["race"]
    epochs, s = np.asarray(one["epochs"]), np.asarray(one["s"])
    strengths, theory = np.asarray(one["strengths"]), np.asarray(one["theory"])
    end = min(1.6 * float(np.nanmax(one["predicted"])), float(epochs[-1]))
    shown = epochs <= end
    figure, ax = plots.subplots(width=7.5, height=4.2)
    with plots.style():
        for k in range(len(s)):
            label = "network, small random weights" if k == 0 else None
            shade = 0.1 + 0.6 * k / len(s)
            ax.plot(epochs[shown], strengths[shown, k], color=plots.COLORS[0], alpha=1 - shade,
                    linewidth=2, linestyle="-", marker="", label=label)  # fmt: skip
            label = "theory: the race, its start fitted to the first mode" if k == 0 else None
            ax.plot(epochs[shown], theory[shown, k], color="black", linestyle="--", linewidth=1,
                    marker="", label=label)  # fmt: skip
        plots.describe(ax, title="Modes of real images", x="epochs of gradient descent",
                       y="strength of the mode")  # fmt: skip
        plots.legend(ax, loc="upper left", bbox_to_anchor=(0, -0.16), ncols=2)
    return plots.finish(figure), (
        "Squared error of whitened images in ten input and ten output domains. Each line is one of "
        "the nine modes that all trained pairs share, the largest singular value first."
    )


def outputs(result: Result):
    """Shares over trained outputs."""
    whole = {"squared error": result.series["squared"]} | {
        f"cross-entropy, {kind}": found for kind, found in result.series["entropy"].items()
    }
    swept = np.asarray(result.series["outputs"])
    figure, axes = plots.subplots(columns=len(whole), width=11, height=3.9, sharey=True)
    for ax, (title, found) in zip(axes, whole.items(), strict=True):
        for size, name in enumerate(SIZES):
            values = 100 * np.asarray(found[name])
            for which, kind in ((1, "never trained"), (0, "trained")):
                index = 2 * size + 1 - which
                band = values[:, :, which].min(axis=1), values[:, :, which].max(axis=1)
                plots.line(ax, swept, values[:, :, which].mean(axis=1), index=index,
                           label=f"{kind}, {name}", band=band)  # fmt: skip
        ax.axhline(10, color="0.6", linewidth=0.8, zorder=0)
        ax.text(swept[-1], 11, "chance", ha="right", fontsize=8, color="0.4")
        ax.set_ylim(0, 102)
        plots.describe(ax, title=title[0].upper() + title[1:],
                       x="K: trained outputs of each input, of 10",
                       y="test images named right (%)" if ax is axes[0] else "")  # fmt: skip
    with plots.style():
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4,
                      handlelength=3.2)  # fmt: skip
    return plots.finish(figure), (
        "Pairs of domains that were trained, and that never were. From small weights the change is "
        "at few outputs. Lines: means over starts, bands: their range."
    )


def pairs(result: Result):
    """Shares of all pairs of domains."""
    matrices = result.series["squared"]["matrices"]
    figure, axes = plots.subplots(columns=2, width=9, height=4)
    with plots.style():
        for ax, name in zip(axes, SIZES, strict=True):
            values = 100 * np.asarray(matrices[name])
            shown = ax.imshow(values, cmap="Greys_r", vmin=0, vmax=100)
            ax.grid(visible=False)
            ticks = range(len(values))
            ax.set_xticks(ticks, [k + 1 for k in ticks])
            ax.set_yticks(ticks, [k + 1 for k in ticks])
            plots.describe(ax, title=f"From {name}", x="output domain", y="input domain")
            figure.colorbar(shown, ax=ax, shrink=0.85, label="test images named right (%)")
    return plots.finish(figure), (
        "All pairs of domains in the end, squared error. Each input was trained with 4 outputs "
        "next to each other: the bright band of the right picture."
    )


def scales(result: Result):
    """Shares and movement over the scale of the first weights."""
    found = result.series["scales"]
    gains = np.asarray(found["scales"])
    shares, moved = 100 * np.asarray(found["shares"]), np.asarray(found["moved"])
    figure, (left, right) = plots.subplots(columns=2, width=9.5, height=3.9)
    for index, (which, name) in enumerate(((1, "never trained"), (0, "trained"))):
        values = shares[:, :, which]
        plots.line(left, gains, values.mean(axis=1), label=name, index=index,
                   band=(values.min(axis=1), values.max(axis=1)))  # fmt: skip
    left.set_ylim(0, 102)
    plots.describe(left, title="Pairs of domains", x="gain of the first weights",
                   y="test images named right (%)")  # fmt: skip
    plots.legend(left, loc="lower left")
    plots.line(right, gains, moved.mean(axis=1), label="all weights", index=2,
               band=(moved.min(axis=1), moved.max(axis=1)))  # fmt: skip
    right.set_yscale("log")
    right.axhline(1, color="0.6", linewidth=0.8, zorder=0)
    plots.describe(right, title="Rich and lazy", x="gain of the first weights",
                   y="how far weights moved, of their length")  # fmt: skip
    for ax in (left, right):
        ax.set_xscale("log")
    return plots.finish(figure), (
        "Squared error. From small weights (rich) features are learned, and serve all pairs; from "
        "large ones (lazy) weights hardly move, and pairs that were not trained are not learned."
    )
