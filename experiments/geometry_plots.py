"""The figures of the experiment `geometry`."""

import numpy as np

from experiments import plots
from experiments.linear_training import METHODS, THREATS
from experiments.report import Result


def ratios(result: Result):
    """Optimizer against threat, for Gaussian data with many dimensions and for digits."""
    ratio = result.series["ratio"]
    labels = np.array([int(label) for label in result.series["labels"]["Gaussian data"]])
    wide = 100 / labels >= 8
    panels = {
        "Gaussian data, 8 or more\ndimensions per example": ratio["Gaussian data"][
            :, :, wide if wide.any() else slice(None)
        ],
        "Pairs of handwritten digits\n": ratio["digit pairs"],
    }
    figure, axes = plots.subplots(columns=2, width=10, height=4.2)
    for number, (ax, (title, values)) in enumerate(zip(axes, panels.items(), strict=True)):
        plots.heat_table(
            ax,
            values.mean(axis=2),
            rows=list(METHODS) if number == 0 else [""] * len(METHODS),
            columns=[norm.name.replace("-", "\n") for norm in THREATS.values()],
            limits=(0.0, 1.0),
            outlined=[(i, i) for i in range(len(METHODS))],
        )
        plots.describe(ax, title=title, x="perturbations bounded in", y="")
    return plots.finish(figure), (
        "Robust radius of the trained classifier over the largest possible one, mean over data "
        "sets "
        "and seeds. Framed: where theory predicts 1. Rows: optimizers. Columns: the norm that "
        "bounds "
        "the perturbation."
    )


def dimensions(result: Result):
    """One panel per threat: ratio against dimensions per example."""
    ratio = np.asarray(result.series["ratio"]["Gaussian data"])
    sizes = np.array([int(label) for label in result.series["labels"]["Gaussian data"]])
    figure, axes = plots.subplots(rows=2, columns=3, width=10, height=6.2, sharey=True, sharex=True)
    for panel, (ax, norm) in enumerate(zip(axes.flat, THREATS.values(), strict=False)):
        for index, name in enumerate(METHODS):
            groups = [ratio[index, panel, sizes == n] for n in sorted(set(sizes), reverse=True)]
            x = [100 / n for n in sorted(set(sizes), reverse=True)]
            band = [g.min() for g in groups], [g.max() for g in groups]
            plots.line(
                ax, x, [g.mean() for g in groups], label=name, index=index, band=band, markevery=1
            )
        plots.theory_line(ax, x, np.ones(len(x)), label="optimum (certified)")
        ax.set_xscale("log", base=2)
        ax.set_xticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"])
        ax.set_ylim(0, 1.08)
        winner = list(METHODS)[panel]
        plots.describe(
            ax,
            title=f"against {norm.name}\n(predicted: {winner})",
            x="dimensions per example d/n",
            y="radius / optimum" if panel % 3 == 0 else "",
        )
    handles, names = axes.flat[0].get_legend_handles_labels()
    axes[0, -1].tick_params(labelbottom=True)  # below it there is only the legend
    last = axes.flat[-1]
    last.set_axis_off()
    last.set_title(" ")
    last.legend(handles, names, loc="center left", handlelength=3.2, frameon=False)
    return plots.finish(figure), (
        "Robust radius over the optimum as the data get wider, Gaussian data; lines are means, "
        "bands "
        "the range over seeds. The matched optimizer rises to 1, the others fall away."
    )


def accuracy(result: Result):
    """Accuracy on held-out digits against the radius of the attack, for three threats."""
    curves = result.series["robust accuracy"]
    chosen = ("coordinate descent", "gradient descent", "Fourier coordinate")
    figure, axes = plots.subplots(columns=3, width=10, height=4.2, sharey=True)
    for panel, (ax, name) in enumerate(zip(axes, chosen, strict=True)):
        found = dict(curves[name])
        radius = np.asarray(found.pop("radius"))
        best = found.pop("most robust (certified)")
        for index, other in enumerate(METHODS):
            plots.line(ax, radius, np.asarray(found[other]), label=other, index=index)
        plots.theory_line(ax, radius, np.asarray(best), label="most robust on the training set")
        plots.describe(
            ax,
            title=f"attacks in {THREATS[name].name}",
            x="radius (pixel units; 0 to 1 is black to white)",
            y="accuracy on held-out images" if panel == 0 else "",
        )
        ax.set_ylim(0, 1.03)
    handles, names = axes[0].get_legend_handles_labels()
    with plots.style():
        figure.legend(handles, names, loc="outside lower center", ncols=3, handlelength=3.2)
    return plots.finish(figure), (
        f"Exact accuracy under the worst perturbation of each radius, digits {curves['pair']}, "
        "images "
        "that were not trained on. Robustness of the training set carries over."
    )
