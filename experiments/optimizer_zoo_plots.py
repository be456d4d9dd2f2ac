"""The figures of the experiment `optimizer_zoo`."""

import numpy as np

from experiments import optimizer_zoo_runs as runs
from experiments import plots
from experiments.report import Result

DRIFTING = ("sign descent", "Adam, ε 0", "Adam, ε 1e-8", "momentum, β 0.9")


def margins(result: Result):
    """Margins over the optimum: two classes, and several."""
    found = result.series["found"]
    figure, axes = plots.subplots(columns=2, width=11, height=5.2)
    parts = (
        ("two classes", found["binary"], tuple(runs.NORMS),
         {name: c.norm.name for name, c in runs.CONTENDERS.items() if c.norm}),
        (f"{runs.NUM_CLASSES} classes", found["classes"], tuple(runs.MATRIX_NORMS),
         runs.MATRIX_THEORY),
    )  # fmt: skip
    for ax, (title, by, columns, theory) in zip(axes, parts, strict=True):
        last = lambda z: np.asarray(z) if np.asarray(z).ndim == 1 else np.asarray(z)[:, -1]
        values = np.asarray([[last(row[of]).mean() for of in columns] for row in by.values()])
        outlined = [
            (at, columns.index(theory[name])) for at, name in enumerate(by) if name in theory
        ]
        plots.heat_table(
            ax, values, rows=list(by), columns=columns, limits=(0.4, 1.0), outlined=outlined
        )
        plots.describe(ax, title=title, x="norm of the weights", y="")
    return plots.finish(figure), (
        "Margin over the largest one in each norm, at the end of training, means over data sets. "
        "Framed: the norm whose margin theory says the optimizer maximises."
    )


def drift(result: Result):
    """Margins on the way."""
    times = np.asarray(result.series["steps"])
    figure, axes = plots.subplots(columns=2, width=10, height=4.2, sharey=True)
    for ax, norm in zip(axes, ("linf", "l2"), strict=True):
        ax.set_xscale("log")
        for index, name in enumerate(DRIFTING):
            share = np.asarray(result.series["found"]["binary"][name][norm])
            band = share.min(axis=0), share.max(axis=0)
            plots.line(ax, times, share.mean(axis=0), label=name, index=index, band=band)
        plots.theory_line(ax, times, np.ones(len(times)), label="the largest margin")
        ax.set_ylim(-0.1, 1.08)
        plots.describe(ax, title=f"margin in {norm}", x="training steps", y="")
    axes[0].set_ylabel("margin / largest margin")
    plots.direct_labels(axes[1])
    return plots.finish(figure), (
        "Adam begins like sign descent; where its ε is not negligible next to the gradients, which "
        "vanish, it goes on like gradient descent. Lines: mean over data sets, bands: range."
    )


def hidden(result: Result):
    """Soft margins of a ReLU network under steepest flow, of a seed that shows all of it."""
    found = result.series["found"]["hidden"]
    falls = np.asarray([np.asarray(row["fall"], float) for row in found.values()])
    seed = int(np.argmax(np.isfinite(falls).all(axis=0)))
    figure, axes = plots.subplots(columns=len(found), width=11, height=3.8)
    for index, (ax, (norm, row)) in enumerate(zip(axes, found.items(), strict=True)):
        soft, least = (np.asarray(row[key])[seed] for key in ("soft", "least"))
        steps = np.asarray(row["steps"])
        classified = np.flatnonzero((least > 0) & (soft > 0))
        ax.set_xscale("log")
        plots.line(ax, steps, soft, label="soft margin", index=index)
        if classified.size:
            first = steps[classified[0]]
            ax.axvline(first, color="0.4", linestyle=":", linewidth=1.2)
            ax.annotate(
                "all points\nclassified,\nloss below 1", (first, 0.96), xytext=(4, 0),
                xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=8,
                va="top",
            )  # fmt: skip
        shown = soft[max(classified[0] - 5, 0) :] if classified.size else soft
        ax.set_ylim(min(np.nanmin(shown), 0) * 1.05, np.nanmax(shown) * 1.1 + 1e-9)
        plots.describe(ax, title=f"steepest flow in {norm}", x="training steps", y="")
    axes[0].set_ylabel("-log(sum of exp(-margin)) / ‖params‖²")
    return plots.finish(figure), (
        "Soft margin of a ReLU network with one hidden layer, over the squared norm of its params, "
        f"in the norm of the descent, seed {seed}. From the dotted line on it must not fall."
    )
