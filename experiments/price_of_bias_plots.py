"""The figure of the experiment `price_of_bias`."""

import numpy as np

from experiments import plots
from experiments.report import Result

SHOWN = ("gradient descent", "coordinate descent", "diagonal network")


def price(result: Result):
    """Robust accuracy on other examples, and what is lost from training to them."""
    shares = np.asarray(result.series["shares"])
    found = result.series["found"]
    figure, axes = plots.subplots(columns=2, width=10.5, height=4.2)
    for ax, title in zip(axes, ("on other examples", "training less others"), strict=True):
        for index, name in enumerate(SHOWN):
            row = {key: 100 * np.asarray(found[name][key]) for key in ("train", "test")}
            values = row["test"] if ax is axes[0] else row["train"] - row["test"]
            band = values.min(axis=0), values.max(axis=0)
            plots.line(ax, shares, values.mean(axis=0), label=name, index=index, band=band)
        for name, style in (("least l2 norm", "l2"), ("least l1 norm", "l1")):
            row = {key: 100 * np.asarray(found[name][key]) for key in ("train", "test")}
            values = row["test"] if ax is axes[0] else row["train"] - row["test"]
            plots.theory_line(
                ax, shares, values.mean(axis=0), label=f"theory: least {style} norm",
                linestyle=(0, (5, 3)) if style == "l2" else (0, (1, 1.5)),
            )  # fmt: skip
        plots.describe(ax, title=title, x="radius ε / the largest that can be separated", y="")
    axes[0].set_ylabel("robust accuracy (%)")
    axes[1].set_ylabel("gap (points)")
    plots.direct_labels(axes[1])
    return plots.finish(figure), (
        "Robust training against linf perturbations: accuracy under the worst of them, for linear "
        "classifiers. Black: the classifiers that theory says the optimizers tend to, computed "
        "apart. Lines: mean over data sets, bands: their range."
    )
