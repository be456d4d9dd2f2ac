"""The figures of the experiment `sampled_training`."""

import numpy as np

from experiments import plots
from experiments.report import Result
from experiments.sampled_training_claims import methods_of
from experiments.sampled_training_runs import FOUND, KNOWN, UNIFORM

LOOKS = {UNIFORM: 0, FOUND: 1, KNOWN: 2}


def redundancy(result: Result):
    """Test accuracy against steps and seconds, with and without copies."""
    figure, axes = plots.subplots(2, 2, width=10, height=6.6, sharey="row")
    titles = {"copies": "90 % of the training set are copies", "clean": "No copies"}
    for row, (name, methods) in zip(axes, result.series["accuracy"].items(), strict=True):
        for ax, axis, label in (
            (row[0], "steps", "training steps"),
            (row[1], "seconds", "time, detection included (s)"),
        ):
            for method, curve in methods.items():
                mean, spread = (np.asarray(curve[key]) for key in ("accuracy", "deviation"))
                plots.line(
                    ax, curve[axis], 100 * mean, label=f"{method} (rate {curve['rate']:g})",
                    index=LOOKS[method], band=(100 * (mean - spread), 100 * (mean + spread)),
                )  # fmt: skip
            level = 100 * float(np.asarray(methods[UNIFORM]["accuracy"])[-1])
            with plots.style():
                ax.axhline(level, color="black", linestyle=(0, (5, 3)), linewidth=1.0)
                best = max(float(np.max(curve["accuracy"])) for curve in methods.values())
                ax.set_ylim(100 * best - 12, 100 * best + 1)
            plots.describe(ax, title=titles[name], x=label, y="test accuracy (%)")
        plots.legend(row[0], loc="lower right")
    return plots.finish(figure), (
        "Accuracy on clean test images, each method at its best rate; bands: one standard "
        "deviation over seeds. Dashed: what uniform sampling reaches in the end. Compilation is "
        "not counted."
    )


def unbiased(result: Result):
    """Ratios of seconds by method and setting."""
    found = result.series["unbiased"]
    rows = [method for method in methods_of(found) if method != UNIFORM]
    values = np.array([[np.asarray(by[method])[1] for by in found.values()] for method in rows])
    steps = np.array([[np.asarray(by[method])[0] for by in found.values()] for method in rows])
    # Side by side while there is room, then one below the other.
    few = len(found) <= 4
    size = (
        {"width": 10, "height": 4.2} if few else {"width": 2.4 + 1.02 * len(found), "height": 8.4}
    )
    figure, axes = plots.subplots(1 if few else 2, 2 if few else 1, **size)
    for ax, numbers, what in ((axes[0], steps, "Steps"), (axes[1], values, "Seconds")):
        finite = np.where(np.isfinite(numbers), numbers, np.nan)
        plots.heat_table(ax, finite, rows=rows, columns=[n.replace(", ", "\n") for n in found],
                         limits=(0.5, 2.0))  # fmt: skip
        plots.describe(ax, title=f"{what} to the same training loss", x="", y="")
    return plots.finish(figure), (
        "Relative to uniform sampling, medians over seeds, each method at its best rate. Below 1 "
        "is faster; — means that a method did not get there. Seconds include refreshes, not "
        "compilation."
    )
