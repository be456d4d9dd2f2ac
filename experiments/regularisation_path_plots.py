"""The figures of the experiment `regularisation_path`."""

import numpy as np

from experiments import plots
from experiments.linear_training import FOURIER
from experiments.report import Result

WAYS = {"cold": "from zero, a fixed number of steps", "warm": "a path, each λ solved"}


def margins(result: Result, suite: str):
    """Margin over the optimum against the strength, from zero and along the path."""
    strengths = np.asarray(result.series["strengths"])
    figure, axes = plots.subplots(columns=2, width=10, height=4.2, sharey=True)
    for ax, (way, title) in zip(axes, WAYS.items(), strict=True):
        ax.set_xscale("log")
        ax.invert_xaxis()  # from strong to weak, as the path goes
        for index, (name, found) in enumerate(result.series["found"][suite].items()):
            share = np.asarray(found[way])
            band = share.min(axis=0), share.max(axis=0)
            plots.line(ax, strengths, share.mean(axis=0), label=name, index=index, band=band)
        plots.theory_line(ax, strengths, np.ones(len(strengths)), label="the largest margin")
        ax.set_ylim(-0.05, 1.08)
        plots.describe(ax, title=title, x="strength λ of the penalty", y="")
    axes[0].set_ylabel("margin / largest margin, in the norm of the penalty")
    plots.direct_labels(axes[1])
    several = np.asarray(next(iter(result.series["found"][suite].values()))["cold"]).shape[0] > 1
    over = " Lines: mean over data sets, bands: their range." if several else ""
    return plots.finish(figure), (
        f"How robust the minimiser of loss + λ‖w‖ is, {suite}: its margin over the largest one, in "
        f"the norm of the penalty.{over} Zero where the weights are. {FOURIER}"
    )
