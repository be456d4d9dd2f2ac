"""The figures of the experiment `attack_quality`."""

import numpy as np

from experiments import plots
from experiments.report import Result

FLOOR = 1e-16  # what is less is rounding


def lacking(result: Result):
    """What the worst example lacks of the closed form, by norm and attack, as powers of ten."""
    linear = result.series["linear"]
    columns = list(dict.fromkeys(name for row in reversed(linear.values()) for name in row))
    lack = lambda row, name: max(1 - np.min(row[name]), FLOOR) if name in row else np.nan
    lacks = np.asarray([[lack(row, c) for c in columns] for row in linear.values()])
    figure, ax = plots.subplots(width=10, height=5.0)
    plots.heat_table(
        ax, np.log10(lacks), rows=list(linear), columns=[c.replace(", ", ",\n") for c in columns],
        limits=(-16, -3), digits=0, colormap="Reds",
    )  # fmt: skip
    plots.describe(
        ax, title="What the worst example lacks of the worst perturbation", x="attack", y="norm"
    )
    return plots.finish(figure), (
        "Linear classifiers: one less the share of the closed form that the worst example reaches, "
        "as a power of ten (-6: one part in a million; -16: rounding in float64)."
    )


def losses(result: Result):
    """Mean loss on the network against the steps."""
    figure, axes = plots.subplots(columns=2, width=10, height=4.0)
    for ax, (name, rows) in zip(axes, result.series["losses"].items(), strict=True):
        for index, (attack, values) in enumerate(rows.items()):
            values = np.asarray(values)
            plots.line(ax, np.arange(len(values)), values, label=attack, index=index)
        plots.describe(ax, title=f"{name} perturbations", x="gradients", y="")
    axes[0].set_ylabel("cross-entropy, mean over images")
    plots.legend(axes[-1], loc="lower right")
    return plots.finish(figure), (
        "The loss of the current point, not of the best one, from one random start on a network of "
        "digits. APGD begins with steps of twice the radius and halves them where they do not help."
    )
