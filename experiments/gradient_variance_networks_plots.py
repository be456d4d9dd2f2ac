"""The figures of the experiment `gradient_variance_networks`."""

from typing import Any

import numpy as np

from experiments import plots
from experiments.gradient_estimators import DOUBLE, GC, IMPORTANCE, SG, SVRG
from experiments.gradient_variance_networks_claims import SKETCHED

SHOWN = (SG, DOUBLE, GC, SVRG, IMPORTANCE, SKETCHED)
TITLES = {
    "mnist": "MNIST",
    "cifar10": "CIFAR-10",
    "cifar10 with copies": "CIFAR-10 with copies",
}


def path(name: str, series: dict[str, Any]):
    """Average variance, normalised variance, and the latter against the loss."""
    figure, (left, middle, right) = plots.subplots(1, 3, width=13, height=4.2)
    steps, loss = np.asarray(series["steps"]), np.asarray(series["loss"])
    for index, estimator in enumerate(SHOWN):
        average = np.asarray(series["average"][estimator])
        normalised = np.asarray(series["normalised"][estimator])
        plots.line(left, steps, average, label=estimator, index=index)
        plots.line(middle, steps, normalised, label=estimator, index=index)
        plots.line(right, loss, normalised, label=estimator, index=index)
    left.set_yscale("log")
    right.set_xscale("log")
    right.invert_xaxis()
    ticks = _ticks(loss)
    right.set_xticks(ticks, [f"{t:.3g}" for t in ticks])
    right.minorticks_off()
    title = TITLES.get(name, name[0].upper() + name[1:])
    plots.describe(left, title=f"{title}: average variance", x="training steps",
                   y="variance per weight")  # fmt: skip
    plots.describe(middle, title="Normalised variance", x="training steps",
                   y="variance / second moment")  # fmt: skip
    plots.describe(right, title="Against the training loss", x="training loss (falls to the right)",
                   y="variance / second moment")  # fmt: skip
    for ax in (middle, right):
        ax.set_ylim(0, 1)
    right.autoscale_view()  # now, for the heights of labels follow from the limits
    plots.direct_labels(right)
    return plots.finish(figure), (
        "Along one trajectory of SGD. Left: variance per weight. Middle and right: variance over "
        "second moment, over steps and over the loss; it jumps with the mean gradient, which is "
        "the same for all. Clusters and snapshots are made anew now and then, and grow old in "
        "between, which is seen most in SVRG."
    )


def _ticks(values: np.ndarray) -> list[float]:
    """Round numbers in the range of the values, three at least if there are so many."""
    found: list[float] = []
    for steps in ((1, 2, 5), range(1, 10), np.arange(10, 100) / 10):
        ticks = [m * 10.0**k for k in range(-6, 2) for m in steps]
        found = [t for t in ticks if values.min() <= t <= values.max()]
        if len(found) >= 3:
            break
    return found[:: max(1, len(found) // 6)]
