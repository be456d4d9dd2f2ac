"""The figures of the experiment `certificate`."""

from collections.abc import Collection, Mapping

import numpy as np

from experiments import plots
from experiments.linear_training import FOURIER
from experiments.report import Result


def bounds(result: Result, shown: Mapping[str, str]):
    """Bounds against steps on Gaussian data, seed 0, of the runs `title: how it fits the threat`.

    The threat is linf, whose optimum is in the result.
    """
    times, best = np.asarray(result.series["steps"]), float(result.series["optimum against linf"])
    figure, axes = plots.subplots(columns=len(shown), width=9.5, height=4.0, sharey=True)
    for ax, (title, fit) in zip(axes, shown.items(), strict=True):
        both = result.series["bounds"]["Gaussian data"][title]
        lower, upper = (best * np.asarray(both[side])[0] for side in ("lower", "upper"))
        ax.set_xscale("log")
        ax.fill_between(times, lower, upper, color="0.6", alpha=0.25, linewidth=0)
        plots.line(ax, times, upper, label="upper bound", index=1)
        plots.line(ax, times, lower, label="lower bound: the model's radius", index=0)
        plots.theory_line(ax, times, np.full(len(times), best), label="optimum, computed apart")
        ax.set_ylim(-0.5 * best, 2.6 * best)
        plots.describe(ax, title=f"{title} ({fit})", x="training steps", y="")
    axes[0].set_ylabel("robust radius, linf")
    plots.legend(axes[-1], loc="lower right")
    return plots.finish(figure), (
        "What training proves about the largest robust radius (linf) of any linear classifier: it "
        "lies in the shaded band. Gaussian data, seed 0, best bounds so far; a radius below 0 "
        "means that an example is misclassified."
    )


def gaps(result: Result, shown: Collection[str]):
    """The certified relative gap of the runs of these titles, on both kinds of data."""
    times = np.asarray(result.series["steps"])
    figure, axes = plots.subplots(columns=2, width=10, height=4.4, sharey=True)
    for ax, (data_name, runs) in zip(axes, result.series["bounds"].items(), strict=True):
        ax.set_xscale("log")
        ax.set_yscale("log")
        for index, title in enumerate(title for title in runs if title in shown):
            lower, upper = (np.asarray(runs[title][side]) for side in ("lower", "upper"))
            gap = (upper - lower) / upper
            band = gap.min(axis=0), gap.max(axis=0)
            plots.line(ax, times, gap.mean(axis=0), label=title, index=index, band=band)
        ax.set_ylim(3e-3, 10)
        plots.describe(ax, title=data_name, x="training steps", y="")
    axes[0].set_ylabel("certified gap: (upper - lower) / upper")
    handles, names = axes[0].get_legend_handles_labels()
    with plots.style():  # the names are long: beside the curves they would leave them no room
        figure.legend(handles, names, loc="outside lower center", ncols=3, handlelength=3.2)
    return plots.finish(figure), (
        "How far from the most robust classifier a matched run is at most, proved by its own "
        "gradients. Lines: mean over data sets, bands: their range. Named: the optimizer and the "
        f"norm of the perturbations. {FOURIER}"
    )
