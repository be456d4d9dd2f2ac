"""The figures of the experiment `gated_routing`."""

import numpy as np

from experiments import plots
from experiments.report import Result


def race(result: Result):
    """Losses over epochs, theory over them."""
    one = result.series["race"]
    epochs = np.asarray(one["epochs"])
    figure, ax = plots.subplots(width=7.5, height=4)
    random = np.asarray(one["random"])
    band = random.min(axis=0), random.max(axis=0)
    mean = random.mean(axis=0)
    plots.line(ax, epochs, mean, label="random weights", index=0, band=band)
    plots.line(ax, epochs, np.asarray(one["decoupled"]), label="decoupled weights", index=1)
    plots.theory_line(ax, epochs, np.asarray(one["theory"]), label="theory: closed form")
    for level, at in zip(("1st", "2nd", "3rd"), one["predicted"], strict=True):
        ax.axvline(at, color="0.8", linewidth=0.8, zorder=0)
        ax.text(at + 3, 0.93 * mean[0], f"{level} mode\n{at:.0f}", fontsize=8, color="0.35")
    plots.describe(ax, title="The race", x="epochs of gradient descent", y="loss")
    plots.legend(ax, loc="center right")
    return plots.finish(figure), (
        "Seven domains, each input trained with four outputs. The loss falls in steps, one for "
        "each singular value of the task, the largest first; grey: when theory has it between two "
        "of them. Random weights are small, orthogonal; line: mean over starts, band: their range."
    )


def pairs(result: Result):
    """Errors of all pairs of domains at the end, and which were trained."""
    one = result.series["race"]
    error = np.asarray(one["errors"]).mean(axis=0)
    trained = np.asarray(one["pairs"], bool)
    start = 0.5 * 244.0
    figure, axes = plots.subplots(columns=2, width=8.5, height=4)
    panels = (
        (axes[0], trained.astype(float), "trained pairs", "Greys", (0.0, 1.5)),
        (axes[1], np.log10(error / start), "log10 error / error of no answer", "Greys_r", None),
    )
    with plots.style():
        for ax, values, title, colours, limits in panels:
            options = {} if limits is None else {"vmin": limits[0], "vmax": limits[1]}
            shown = ax.imshow(values, cmap=colours, **options)
            ax.grid(visible=False)
            ax.set_xticks(range(len(values)), range(1, len(values) + 1))
            ax.set_yticks(range(len(values)), range(1, len(values) + 1))
            plots.describe(ax, title=title, x="output domain", y="input domain")
            if limits is None:
                figure.colorbar(shown, ax=ax, shrink=0.85)
    return plots.finish(figure), (
        "Left, dark: pairs of domains that were trained. Right: half squared error of all pairs in "
        "the end, on a scale of powers of ten: the others are right as well, if less exactly."
    )


def sweeps(result: Result):
    """Errors by trained outputs and by scale."""
    many, sizes = result.series["outputs"], result.series["scales"]
    figure, (left, right) = plots.subplots(columns=2, width=9.5, height=4)
    whole = (
        (left, many, many["outputs"], "outputs trained with each input, of 10"),
        (right, sizes, sizes["scales"], "gain of the first weights"),
    )
    titles = ("How many pairs are enough", "Rich and lazy")
    for (ax, found, x, label), title in zip(whole, titles, strict=True):
        for index, (name, told) in enumerate((("others", "never trained"), ("trained", "trained"))):
            values = np.asarray(found[name])
            band = values.min(axis=1), values.max(axis=1)
            plots.line(ax, np.asarray(x), values.mean(axis=1), label=told, index=index, band=band)
        ax.set_yscale("log")
        ax.set_ylim(bottom=1e-6)  # below it is as good as nothing
        plots.describe(ax, title=title, x=label, y="half squared error of a pair")
        plots.legend(ax)
    return plots.finish(figure), (
        "Left: from four of ten outputs on, pairs of domains that were never trained are learned "
        "as well. Right: only from small weights. Lines: means over starts, bands: their range."
    )
