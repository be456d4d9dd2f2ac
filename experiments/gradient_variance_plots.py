"""The figures of the experiment `gradient_variance`."""

import numpy as np

from experiments import gradient_variance_claims as told
from experiments import plots
from experiments.gradient_estimators import (
    BOTH,
    DOUBLE,
    GC,
    HARTIGAN,
    IMPORTANCE,
    NEYMAN,
    PROPORTIONAL,
    SG,
    SVRG,
)
from experiments.report import Result

SHOWN = (PROPORTIONAL, GC, IMPORTANCE, NEYMAN, HARTIGAN, BOTH, SVRG)
LOOKS = {name: index for index, name in enumerate((SG, DOUBLE, GC, SVRG, IMPORTANCE, HARTIGAN))}


def table(result: Result):
    """Variance relative to SG-B, a panel for every row of the table."""
    rows = result.series["table"]
    figure, axes = plots.subplots(1, len(rows), width=13.5, height=3.9, sharey=True)
    tabulated: dict[str, dict[str, float]] = {
        row.title: dict(zip(told.COLUMNS, values, strict=True))
        for row, values in told.TABLE.items()
    }
    for ax, (title, found) in zip(axes, rows.items(), strict=True):
        places = np.arange(len(SHOWN))
        means = np.array([np.mean(found[name]) for name in SHOWN])
        with plots.style():
            ax.barh(places, means, 0.7, color=plots.COLORS[3], edgecolor="#555555", linewidth=0.6)
            for place, name, mean in zip(places, SHOWN, means, strict=True):
                before = tabulated[title].get(name)
                end = max(mean, before or 0)
                ax.annotate(f"{mean:.2f}", (end, place), xytext=(5, 0), va="center",
                            textcoords="offset points", fontsize=8,
                            bbox={"fc": "white", "ec": "none", "pad": 0.6})  # fmt: skip
                if before is not None:
                    ax.plot(
                        [before] * 2,
                        [place - 0.42, place + 0.42],
                        color="black",
                        lw=1.6,
                        marker="",
                        linestyle="-",
                    )
            ax.axvline(0.5, color="black", linestyle=(0, (5, 3)), linewidth=1.2)
            ax.annotate("SG-2B", (0.5, -0.7), xytext=(3, 0), textcoords="offset points",
                        fontsize=8, va="center")  # fmt: skip
            ax.set_yticks(places, SHOWN)
            ax.set_ylim(len(SHOWN) - 0.4, -1.0)
            ax.set_xlim(0, 0.92)
            ax.grid(visible=False, axis="y")
            ax.tick_params(axis="y", length=0)
        head, _, rest = title.partition(", ")
        plots.describe(ax, title=f"{head},\n{rest}", x="variance / SG-B", y="")
    return plots.finish(figure), (
        "Exact variances at fixed weights after 4000 steps of SGD, relative to plain batches of 10 "
        "(mean over seeds), for random features. Black "
        "strokes: tabulated before, by another program on other draws. Dashed: a batch of twice "
        "the size."
    )


def sweep(result: Result):
    """Average variance over the features per example, a panel for every step size."""
    found = list(result.series["sweep"].values())
    grid = [one for one in found if not one["duplicated"] and one["teacher"] == told.TEACHER]
    rates = sorted({one["learning_rate"] for one in grid}, reverse=True)
    figure, axes = plots.subplots(1, len(rates) + 1, width=13, height=4.2, sharey=False)
    for ax, rate in zip(axes, rates, strict=False):
        chosen = sorted((one for one in grid if one["learning_rate"] == rate),
                        key=lambda one: one["ratio"])  # fmt: skip
        draw(ax, [one["ratio"] for one in chosen], chosen)
        name_ratios(ax, chosen)
        plots.describe(ax, title=f"Without copies,\nstep {rate:g}", x="features per example",
                       y="variance per weight" if ax is axes[0] else "")  # fmt: skip
    usual = told.USUAL
    copied = sorted(
        (one for one in found if one["teacher"] == told.TEACHER and one["ratio"] == usual.ratio
         and one["learning_rate"] == usual.learning_rate),
        key=lambda one: one["duplicated"],
    )  # fmt: skip
    draw(axes[-1], [100 * one["duplicated"] for one in copied], copied)
    plots.describe(
        axes[-1],
        title=f"{usual.ratio:g} features per example,\nstep {usual.learning_rate:g}",
        x="copies (%)",
        y="",
    )
    plots.direct_labels(axes[-1])
    return plots.finish(figure), (
        "Variance per weight along training (mean over seeds and measured steps), "
        "with clusters and snapshots made 500 steps before. Left: over "
        "the number of features per example, for each step size. Right: over the share of the "
        "examples that are copies of 5 points."
    )


def copies(result: Result):
    """Variance relative to SG-B over the features per example, by share of copies."""
    usual = told.USUAL
    found = [
        one
        for one in result.series["sweep"].values()
        if one["learning_rate"] == usual.learning_rate and one["teacher"] == usual.teacher
    ]
    figure, axes = plots.subplots(1, len(told.SHARES), width=11, height=4.0, sharey=True)
    for ax, share in zip(axes, told.SHARES, strict=True):
        chosen = sorted((one for one in found if one["duplicated"] == share),
                        key=lambda one: one["ratio"])  # fmt: skip
        draw(ax, [one["ratio"] for one in chosen], chosen, relative=True)
        name_ratios(ax, chosen)
        plots.describe(ax, title=f"{100 * share:.0f} % copies", x="features per example",
                       y="variance / SG-B" if ax is axes[0] else "")  # fmt: skip
    plots.direct_labels(axes[-1])
    return plots.finish(figure), (
        f"Variance relative to plain batches of 10, step {usual.learning_rate:g}, over the number "
        "of features per example (mean over seeds and measured steps, with clusters and "
        "snapshots made 500 steps before), where a share of the examples are copies of 5 points."
    )


def name_ratios(ax, settings) -> None:
    """A logarithmic axis with the ratios of the settings on it, as many as have room."""
    ratios = sorted({one["ratio"] for one in settings})
    named = ratios[:1]
    for ratio in ratios[1:]:
        if ratio > 1.6 * named[-1]:
            named.append(ratio)
    ax.set_xscale("log")
    ax.set_xticks(named, [f"{ratio:g}" for ratio in named])
    ax.minorticks_off()


def draw(ax, x, settings, relative: bool = False) -> None:
    """Variances of some settings, on a logarithmic axis."""
    ax.set_yscale("log")
    for name in (SG, DOUBLE, GC, SVRG):
        of = lambda one, name=name: np.mean(one["average variance"][name])
        means = [of(one) / (of(one, SG) if relative else 1) for one in settings]
        plots.line(ax, x, means, label=name, index=LOOKS[name], markevery=1)
    ax.autoscale_view()  # now, for the heights of labels follow from the limits


def regression(result: Result):
    """Average variance over training steps, with copies and without."""
    found = result.series["regression"]
    columns = 3
    rows = -(-len(found) // columns)
    figure, axes = plots.subplots(rows, columns, width=3.8 * columns, height=3.0 * rows,
                                  sharey=True, sharex=True)  # fmt: skip
    axes = np.asarray(axes).ravel()
    for ax in axes[len(found) :]:
        ax.set_visible(False)
    for ax, (name, series) in zip(axes, found.items(), strict=False):
        ax.set_yscale("log")
        for estimator in (SG, DOUBLE, GC, HARTIGAN, IMPORTANCE, SVRG):
            plots.line(ax, series["steps"], series[estimator], label=estimator,
                       index=LOOKS[estimator])  # fmt: skip
        ax.autoscale_view()
        last = int(np.max(series["steps"]))
        ax.set_xticks([0, last // 2, last], [f"{at:,}" for at in (0, last // 2, last)])
        plots.describe(ax, title=name[0].upper() + name[1:], x="training steps",
                       y="variance per weight" if ax in axes[::columns] else "")  # fmt: skip
    plots.direct_labels(axes[len(found) - 1])
    return plots.finish(figure), (
        "Linear regression with 500 Gaussian points in 1000 dimensions and some more points that "
        "are there many times; signal to noise (SNR) 10 unless told otherwise; batches of 10, "
        "clusters and snapshots up to 1000 steps old."
    )
