"""The figures of the experiment `gated_contexts`."""

import numpy as np

from experiments import plots
from experiments.report import Result


def losses(result: Result):
    """Of all gates and of ReLU networks."""
    times = np.asarray(result.series["times"])
    figure, ax = plots.subplots(width=8, height=4.2)
    every = {**result.series["gatings"], "ReLU network": result.series["relu"]}
    for index, (name, found) in enumerate(every.items()):
        rows = np.asarray(found["losses"])
        rows = rows / rows[:, :1]
        plots.line(ax, times, rows.mean(axis=0), label=name, index=index,
                   band=(rows.min(axis=0), rows.max(axis=0)))  # fmt: skip
    ax.set_yscale("log")
    ax.set_ylim(1e-3, 1.3)
    plots.describe(ax, title="Losses by gates", x="time (rate times steps)",
                   y="loss over the first loss")  # fmt: skip
    plots.direct_labels(ax)
    return plots.finish(figure), (
        "Eight items in three contexts, from small random weights. Names: pathways of gated linear "
        "networks, by the contexts in which each is on. Lines: means over starts, bands: ranges."
    )


def units(result: Result):
    """For how many items large units are on in each context."""
    gates = np.concatenate([np.asarray(one) for one in result.series["relu"]["gates"]])
    order = np.lexsort([*gates.T, (gates > 0).sum(axis=1)])[::-1]
    figure, ax = plots.subplots(width=8, height=2.6)
    with plots.style():
        shown = ax.imshow(gates[order].T, cmap="Greys", aspect="auto", vmin=0,
                          interpolation="nearest")  # fmt: skip
        ax.grid(visible=False)
        number = gates.shape[1]
        ax.set_yticks(range(number), [f"context {k + 1}" for k in range(number)])
        plots.describe(ax, title="Where ReLU units are on in the end",
                       x="large units of all starts, in order of contexts", y="")  # fmt: skip
        figure.colorbar(shown, ax=ax, label="items")
    return plots.finish(figure), (
        "Each column is a unit; how dark: for how many of the eight items it is on in a context."
    )
