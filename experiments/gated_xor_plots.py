"""The figures of the experiment `gated_xor`."""

import numpy as np

from experiments import plots
from experiments.report import Result


def losses(result: Result):
    """Aligned in time, and random ones around half of the loss."""
    one = result.series["aligned"]
    figure, (left, right) = plots.subplots(columns=2, width=9.5, height=3.9)
    times = np.asarray(one["times"])
    for index, (rate, values) in enumerate(one["losses"].items()):
        values = np.asarray(values)
        own = np.linspace(0, times[-1], len(values))
        plots.line(left, own, values, label=f"gated, rate {rate}", index=index)
    plots.theory_line(left, times, np.asarray(one["theory"]), label="closed form")
    plots.describe(left, title="Aligned weights", x="time (rate times steps)", y="loss")
    plots.legend(left)
    for index, (name, label) in enumerate((("gated", "gated"), ("relu", "ReLU"))):
        found = result.series[name]
        rows = np.asarray(found["losses"])
        band = rows.min(axis=0), rows.max(axis=0)
        grid = np.asarray(found["grid"])
        plots.line(right, grid, rows.mean(axis=0), label=label, index=index, band=band)
    plots.theory_line(right, grid, np.asarray(found["theory"]), label="closed form")
    plots.describe(right, title="Small random weights", x="time from half of the loss", y="loss")
    plots.legend(right)
    return plots.finish(figure), (
        "XoR of two signs. Left: weights along the points, two rates. Right: random weights, moved "
        "in time so that all have half of the loss at 0. Lines: means over starts, bands: ranges."
    )


def units(result: Result):
    """Where the large units of the ReLU networks point in the end."""
    figure, ax = plots.subplots(width=4.6, height=4.4)
    whole = np.concatenate([np.asarray(one["weights"]) for one in result.series["units"]])
    far = 1.15 * np.abs(whole).max()
    with plots.style():
        for sign in (1, -1):
            label = "theory: along the points" if sign > 0 else None
            ends = [-sign * far, sign * far]
            ax.plot([-far, far], ends, color="black", linestyle="--", marker="", label=label)
        ax.scatter(whole[:, 0], whole[:, 1], s=18, color=plots.COLORS[0], zorder=3, label="units")
        ax.set_xlim(-far, far)
        ax.set_ylim(-far, far)
        ax.set_aspect("equal")
        plots.describe(ax, title="ReLU units in the end", x="weight of the first input",
                       y="weight of the second")  # fmt: skip
        plots.legend(ax, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    return plots.finish(figure), (
        "Weights of all units above 5 % of the largest, in units of the root of what they "
        "contribute: all lie on the diagonals, on which the four points are."
    )
