"""The tables and the summary of the experiment `gradient_variance`."""

import numpy as np

from experiments.gradient_estimators import (
    BOTH,
    DOUBLE,
    GC,
    HARTIGAN,
    HARTIGAN_NEYMAN,
    IMPORTANCE,
    NEYMAN,
    PROPORTIONAL,
    SG,
    STRATA_SVRG,
    SVRG,
)
from experiments.gradient_variance_claims import (
    FRESH,
    USUAL,
    Measured,
    Regression,
    Sweep,
    mean_ratio,
)
from experiments.report import Table


def tables(table: Measured, sweep: Sweep, regression: Regression) -> list[Table]:
    """All numbers of the table, and means over training of the others."""
    shown = (GC, PROPORTIONAL, NEYMAN, BOTH, HARTIGAN, HARTIGAN_NEYMAN, IMPORTANCE, SVRG)
    samplers = [name for name in next(iter(table.values())) if "sampler" in name]
    along = (SG, DOUBLE, IMPORTANCE, GC, PROPORTIONAL, NEYMAN, HARTIGAN, SVRG, STRATA_SVRG)
    mean = lambda values: float(np.mean(values))
    return [
        Table(
            "Variance relative to SG-B after 4000 steps",
            ["setting", *shown],
            [[row.title, *(mean(found[name]) for name in shown)] for row, found in table.items()],
            "Exact, mean over seeds. Draws in fractions, as the formulas have them; clusters of "
            "the weights at hand, the snapshot of SVRG 1000 steps old. SG-2B is 0.5.",
        ),
        Table(
            "The same with whole draws",
            ["setting", *samplers],
            [[row.title, *(mean(found[n]) for n in samplers)] for row, found in table.items()],
            "What `sampling.stratified` has, relative to SG-B of the same batch. In a batch of 10 "
            "a cluster with a share below one draw is left out of some batches, which costs.",
        ),
        Table(
            "Average variance along training, random features",
            ["setting", *along, "noise share of SG-B"],
            [
                [row.title, *(mean(v.average[n]) for n in along), mean(v.normalised[SG])]
                for row, v in sweep.items()
            ],
            "Variance per weight, mean over seeds and over the steps 1500, 2500, 3500 and 4500, "
            f"with clusters (3 passes; Hartigan's to the end) and snapshots made {FRESH} steps "
            "before, and Neyman draws by the spreads at hand; and variance over second moment.",
        ),
        Table(
            "Linear regression: variance relative to SG-B",
            ["data", DOUBLE, IMPORTANCE, GC, HARTIGAN, SVRG],
            [
                [name, *(mean(found[n] / found[SG])
                         for n in (DOUBLE, IMPORTANCE, GC, HARTIGAN, SVRG))]
                for name, found in regression.items()
            ],
            "Mean over the measured steps; clusters, Hartigan's too, and snapshots are 1000 steps "
            "old.",
        ),
    ]  # fmt: skip


def summarise(table: Measured, sweep: Sweep) -> str:
    """What was found, in words and numbers."""
    plain = [found for row, found in table.items() if not row.duplicated]
    copies = [found for row, found in table.items() if row.duplicated]
    span = lambda rows, value: f"{min(map(value, rows)):.2f} to {max(map(value, rows)):.2f}"
    mean = lambda name: lambda found: float(found[name].mean())
    return (
        "The published gradient clustering lowers the variance of a mini-batch gradient to "
        f"{span(plain, mean(GC))} of that of plain batches, about what twice the batch does. "
        f"Better clusters, by Hartigan's method, come to {span(plain, mean(HARTIGAN))}; "
        f"importance sampling by norm, without clusters, to {span(plain, mean(IMPORTANCE))}. Where "
        f"90 % of the data are copies the figures are {span(copies, mean(GC))}, "
        f"{span(copies, mean(HARTIGAN))} and {span(copies, mean(IMPORTANCE))}."
        "\n\nAlong training the published orderings are found again, but for those marked below: "
        f"GC at {mean_ratio(sweep[USUAL], GC):.2f} and SVRG at {mean_ratio(sweep[USUAL], SVRG):.2f}"
        f" of SG-B with {USUAL.title}."
    )
