"""The figures of the experiment `geometry`."""

from collections.abc import Mapping

import numpy as np

from experiments import plots
from experiments.geometry_suites import DIGITS, DIMENSIONS, GAUSSIAN, KHAN, WIDE
from experiments.linear_training import FOURIER, METHODS, THREAT_NAMES
from experiments.report import Result

CERTIFIED = "most robust (certified)"


def ratios(result: Result):
    """Optimizer against threat, for Gaussian data with many dimensions and for real data."""
    panels = panels_of(result)
    columns = [values.shape[1] for values in panels.values()]
    figure, axes = plots.subplots(
        columns=len(panels), width=1.6 + 0.8 * sum(columns), height=4.2, width_ratios=columns
    )
    for number, (ax, (title, values)) in enumerate(zip(axes, panels.items(), strict=True)):
        threats = list(THREAT_NAMES.values())[: values.shape[1]]
        plots.heat_table(
            ax,
            values,
            rows=list(METHODS) if number == 0 else [""] * len(METHODS),
            columns=[threat.replace("-", "\n") for threat in threats],
            limits=(0.0, 1.0),
            outlined=[(i, i) for i in range(len(threats))],
        )
        plots.describe(ax, title=title, x="perturbations bounded in", y="")
    genes = " Genes have no order, so there is no Fourier transform (—)." if KHAN in panels else ""
    return plots.finish(figure), (
        "Robust radius of the trained classifier over the largest possible one, mean over data "
        "sets and seeds. Framed: where theory predicts 1. Rows: optimizers. Columns: the norm that "
        f"bounds the perturbation. {FOURIER}{genes}"
    )


def panels_of(result: Result) -> dict[str, np.ndarray]:
    """Title -> mean ratios ``(methods, threats)`` of the suites to show; NaN where not run."""
    ratio = {name: np.asarray(values) for name, values in result.series["ratio"].items()}
    per_example = np.array([DIMENSIONS / int(n) for n in result.series["labels"][GAUSSIAN]])
    wide = per_example >= WIDE
    title = f"{WIDE} or more dimensions per example" if wide.any() else "all sizes"
    panels = {
        f"Gaussian data,\n{title}": ratio[GAUSSIAN][:, :, wide if wide.any() else slice(None)],
        "Pairs of handwritten digits": ratio[DIGITS],
    }
    if KHAN in ratio:  # its optimizers are the first of all
        panels[KHAN] = np.pad(
            ratio[KHAN],
            ((0, len(METHODS) - len(ratio[KHAN])), (0, 0), (0, 0)),
            constant_values=np.nan,
        )
    return {name: values.mean(axis=2) for name, values in panels.items()}


def dimensions(result: Result):
    """One panel per threat: ratio against dimensions per example."""
    ratio = np.asarray(result.series["ratio"][GAUSSIAN])
    labels = np.array([int(label) for label in result.series["labels"][GAUSSIAN]])
    sizes = sorted(set(labels.tolist()), reverse=True)
    by_size = [ratio[:, :, labels == n] for n in sizes]
    x = [DIMENSIONS / n for n in sizes]
    figure, axes = plots.subplots(rows=2, columns=3, width=10, height=6.2, sharey=True, sharex=True)
    for panel, ax in enumerate(axes.flat[: len(METHODS)]):
        for index, name in enumerate(METHODS):
            rows = [values[index, panel] for values in by_size]
            band = [row.min() for row in rows], [row.max() for row in rows]
            means = [row.mean() for row in rows]
            plots.line(ax, x, means, label=name, index=index, band=band, markevery=1)
        plots.theory_line(ax, x, np.ones(len(x)), label="optimum (certified)")
        name_panel(ax, panel)
    name_lines(axes)
    return plots.finish(figure), dimensions_caption(x, by_size)


def name_panel(ax, panel: int) -> None:
    """Axes and title of the panel of one threat."""
    ax.set_xscale("log", base=2)
    ax.set_xticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"])
    ax.set_ylim(0, 1.08)
    name = list(METHODS)[panel]
    plots.describe(
        ax,
        title=f"against {THREAT_NAMES[name]}\n(predicted: {name})",
        x="dimensions per example d/n" if panel > 1 else "",  # below the first two is another
        y="radius / optimum" if panel % 3 == 0 else "",
    )


def name_lines(axes) -> None:
    """The legend, in the place of a sixth panel; the panel above it then needs its own ticks."""
    handles, names = axes.flat[0].get_legend_handles_labels()
    axes[0, -1].tick_params(labelbottom=True)
    last = axes.flat[-1]
    last.set_axis_off()
    last.set_title(" ")
    last.legend(handles, names, loc="center left", handlelength=3.2, frameon=False)


def dimensions_caption(x: list[float], by_size: list[np.ndarray]) -> str:
    """What the lines are, and where they begin and end."""
    own = np.eye(len(METHODS), dtype=bool)
    ends = []
    for d, values in ((x[0], by_size[0]), (x[-1], by_size[-1])):
        mean = values.mean(axis=2)
        ends.append(
            f"at d/n = {d:.3g} the predicted optimizers are at "
            f"{mean[own].min():.2f} to {mean[own].max():.2f}, all others at "
            f"{mean[~own].min():.2f} to {mean[~own].max():.2f}"
        )
    return (
        "Robust radius over the optimum as the data get wider, Gaussian data; lines are means, "
        f"bands the range over seeds. Of the means, {'; '.join(dict.fromkeys(ends))}."
    )


def accuracy(result: Result):
    """Accuracy on held-out digits against the radius of the attack, for three threats."""
    curves = result.series["robust accuracy"]
    chosen = ("coordinate descent", "gradient descent", "Fourier coordinate")
    figure, axes = plots.subplots(columns=3, width=10, height=4.2, sharey=True)
    for panel, (ax, name) in enumerate(zip(axes, chosen, strict=True)):
        radius = np.asarray(curves[name]["radius"])
        for index, other in enumerate(METHODS):
            plots.line(ax, radius, np.asarray(curves[name][other]), label=other, index=index)
        best = np.asarray(curves[name][CERTIFIED])
        plots.theory_line(ax, radius, best, label="most robust on the training set")
        plots.describe(
            ax,
            title=f"attacks in {THREAT_NAMES[name]}",
            x="radius (pixel units; 0 to 1 is black to white)",
            y="accuracy on held-out images" if panel == 0 else "",
        )
        ax.set_ylim(0, 1.03)
    handles, names = axes[0].get_legend_handles_labels()
    with plots.style():
        figure.legend(handles, names, loc="outside lower center", ncols=3, handlelength=3.2)
    return plots.finish(figure), accuracy_caption(curves, chosen)


def accuracy_caption(curves: Mapping, chosen: tuple[str, ...]) -> str:
    """What the curves are, and whether the best on the training set is the best here."""
    ranks = []
    for name in chosen:
        means = {o: np.mean(np.asarray(v)) for o, v in curves[name].items() if o != "radius"}
        dashed = means.pop(CERTIFIED)
        best = max(means, key=lambda other: means[other])
        ranks.append(f"against {THREAT_NAMES[name]} {best} {means[best]:.3f}, dashed {dashed:.3f}")
    return (
        f"Exact accuracy under the worst perturbation of each radius, digits {curves['pair']}, "
        "one split, images that were not trained on. Dashed: the classifier of the largest radius "
        "on the training set. Accuracy averaged over the radii shown, of the best optimizer and of "
        f"the dashed classifier: {'; '.join(ranks)}."
    )
