"""The figures of the experiment `architecture`."""

from collections.abc import Sequence

import numpy as np

from experiments import plots
from experiments.linear_training import FOURIER
from experiments.report import Result


def ratios(result: Result, outlined: Sequence[tuple[int, int]]):
    """Architecture against threat, one panel per number of examples; `outlined`: the predicted."""
    sizes = np.asarray(result.series["sizes"])
    shown = sorted(set(sizes.tolist()), reverse=True)[-3:]
    found = result.series["ratio"]  # threat -> architecture -> one number per data set
    threats, models = list(found), list(next(iter(found.values())))
    figure, axes = plots.subplots(columns=len(shown), width=3.6 + 2.6 * len(shown), height=4.0)
    for number, (ax, size) in enumerate(zip(np.atleast_1d(axes), shown, strict=True)):
        values = [
            [np.asarray(found[threat][name])[sizes == size].mean() for threat in threats]
            for name in models
        ]
        plots.heat_table(
            ax,
            values,
            rows=models if number == 0 else [""] * len(models),
            columns=[threat.replace("-", "\n") for threat in threats],
            limits=(0.0, 1.0),
            outlined=outlined,
        )
        plots.describe(
            ax, title=f"{size} examples, 100 features", x="perturbations bounded in", y=""
        )
    return plots.finish(figure), (
        "Robust radius of the trained predictor over the largest possible one, mean over data "
        "sets. Framed: where theory predicts 1. For three convolutions it predicts no robustness. "
        f"{FOURIER}"
    )


def spectra(result: Result):
    """Sorted spectra of the predictors: how many frequencies each uses."""
    figure, ax = plots.subplots(width=8, height=3.8)
    used = []
    for index, (name, found) in enumerate(result.series["spectrum"].items()):
        values = np.sort(np.asarray(found))[::-1]
        values = values / values[0]
        plots.line(ax, np.arange(1, len(values) + 1), values, label=name, index=index)
        used.append(f"{name} {np.sum(values >= 0.01)}")
    ax.set_yscale("log")
    ax.set_ylim(1e-4, 1.5)
    plots.describe(
        ax,
        title=f"Spectrum of the predictor, {result.series['sizes'][0]} examples",
        x="frequencies, strongest first",
        y="modulus (relative to the strongest)",
    )
    plots.legend(ax, loc="lower left", bbox_to_anchor=(0.42, 0.05))
    return plots.finish(figure), (
        f"Modulus of the {len(values)} Fourier coefficients of each trained predictor, first data "
        f"set. Frequencies of at least 1 % of the strongest: {'; '.join(used)}."
    )
