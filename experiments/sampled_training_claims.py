"""What the experiment `sampled_training` claims and tabulates, from its curves."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.claims import Claim
from experiments.report import Result, Table
from experiments.sampled_training_runs import (
    AUTOMATIC,
    AUTOMATIC_SVRG,
    AUTOMATICS,
    DOUBLE,
    FOUND,
    NOISY,
    SVRG,
    UNBIASED,
    UNIFORM,
    Curve,
)

OWN = "this library: measured, no paper"
THESIS = (
    "Faghri, arXiv:2112.01423, abstract: a redundancy-aware change to sampling speeds up training"
)

# Of the uniform run's, to reach its final accuracy; a CNN's steps cost more, its detection too.
MOST_STEPS, MOST_SECONDS, MOST_SECONDS_CNN = 0.35, 0.6, 0.5
MOST_SECONDS_CLEAN = 1.05
MOST_AUTOMATIC = 1.05
LEAST_GAIN = 0.7  # of the time, in at least one setting that is limited by noise
LONG = 20_000  # steps of a run on digits in which an automatic mode sees that it pays

Runs = dict[float, list[Curve]]
# By setting (model and batch size), then by method.
ONE_RUN = (
    "Of uniform sampling, SVRG and the automatic modes the best time of several runs, in turn, for "
    "they are compared closely; of all others one run, which on a shared machine makes them look "
    "slower by some percent."
)
Unbiased = dict[str, dict[str, Runs]]


# Reaching a level ---------------------------------------------------------------------------------


def to_accuracy(curve: Curve, target: float) -> tuple[float, float]:
    """Steps and seconds until the accuracy on the test set is settled there; or infinite."""
    return _first_at(curve, -settled(-curve.values) >= target)


def to_loss(curve: Curve, target: float) -> tuple[float, float]:
    """Steps and seconds until the training loss is settled there; infinite if it never is."""
    return _first_at(curve, settled(curve.values) <= target)


def to_test_loss(curve: Curve, target: float) -> tuple[float, float]:
    """Steps and seconds until the test loss is settled there; infinite if it never is."""
    return _first_at(curve, settled(curve.test_losses) <= target)


def settled(values: np.ndarray) -> np.ndarray:
    """Medians of a tenth of the curve up to every point; infinite before there is as much.

    Noise moves a loss up and down: the more of it, the sooner a level is touched for a moment.
    """
    window = max(1, len(values) // 10)
    if len(values) < window:
        return np.full(len(values), np.inf)
    medians = np.median(np.lib.stride_tricks.sliding_window_view(values, window), axis=1)
    return np.concatenate([np.full(window - 1, np.inf), medians])


def _first_at(curve: Curve, reached: np.ndarray) -> tuple[float, float]:
    if not reached.any():
        return np.inf, np.inf
    place = int(np.argmax(reached))
    return float(curve.steps[place]), float(curve.seconds[place])


def final(curve: Curve, worst: float) -> float:
    """Where the values of a curve are settled in the end; ``worst`` if the run failed."""
    return float(settled(curve.values)[-1]) if curve.values.size else worst


def most_accurate(runs: Runs) -> float:
    """The rate with the best final accuracy, on average."""
    return max(runs, key=lambda rate: np.mean([final(c, 0.0) for c in runs[rate]]))


def best_reach(runs: Runs, reach, targets) -> tuple[float, np.ndarray]:
    """The rate that reaches the targets in the fewest steps (median), and (seeds, 2) of it.

    One at which all seeds get there, if there is one.
    """
    found = {
        rate: np.array([reach(curve, t) for curve, t in zip(curves, targets, strict=True)])
        for rate, curves in runs.items()
    }
    # The mean of those that get there decides between equal medians.
    order = lambda pairs: (
        np.isinf(pairs).any(), np.median(pairs[:, 0]), np.mean(np.minimum(pairs[:, 0], 1e9))
    )  # fmt: skip
    rate = min(found, key=lambda rate: order(found[rate]))
    return rate, found[rate]


# The result ---------------------------------------------------------------------------------------


def result(
    config: Any,
    series: dict[str, dict[str, Runs]],
    unbiased: Unbiased,
    compiling: dict[str, float],
) -> Result:
    """Claims, curves and tables."""
    ratios = {key: loss_ratios(methods) for key, methods in unbiased.items()}
    on_test = {
        key: loss_ratios(methods, least_test_losses, to_test_loss)
        for key, methods in unbiased.items()
    }
    switches = {
        key: {method: share_of_switches(methods, method) for method in AUTOMATICS}
        for key, methods in unbiased.items()
    }
    claims, tables, summary = [], [], []
    if series:
        gains, rows = redundancy_gains(series["copies"])
        claims += redundancy_claims(series["copies"], config.model, config.source)
        claims += clean_claims(series["clean"], config.source)
        tables.append(
            Table(
                "To the final accuracy of uniform sampling, with copies (medians over seeds)",
                ("method", "rate", "final accuracy", "steps", "seconds", "of them refreshes"),
                rows,
            )
        )
        steps, seconds = (float(np.median(gains[FOUND][:, i])) for i in (0, 1))
        summary.append(
            f"With 90 % copies in the data, {FOUND} reaches the final accuracy of uniform "
            f"sampling in {steps:.2f} times the steps and {seconds:.2f} times the seconds "
            "(medians)."
        )
    if ratios:
        winner, (setting, best) = best_sampler(ratios)
        summary.append(
            f"Of the samplers that are unbiased, {winner} is fastest: {best:.2f} times the seconds "
            f"of uniform sampling to the same training loss ({setting})."
        )
    return Result(
        summary=" ".join(summary),
        claims=[
            *claims,
            *unbiased_claims(ratios, on_test, switches, unbiased, config),
        ],
        series={
            "accuracy": {name: shown(methods) for name, methods in series.items()},
            **{
                title: {
                    name: {m: list(pair) for m, pair in found.items()} for name, found in of.items()
                }
                for title, of in (("unbiased", ratios), ("unbiased, test loss", on_test))
            },
            "refreshes": refresh_seconds(series, unbiased),
            "left uniform sampling": switches,
        },
        tables=[
            *tables,
            *unbiased_tables("training loss", ratios),
            *unbiased_tables("test loss, 1 % above the lowest of uniform sampling", on_test),
            Table(
                "Seconds of the first run beyond those of a second: compiling",
                ("method, model", "seconds"),
                [(name, f"{took:.1f}") for name, took in compiling.items()],
            ),
        ],
    )


def redundancy_gains(methods: dict[str, Runs]) -> tuple[dict[str, np.ndarray], list[tuple]]:
    """Steps and seconds over those of uniform sampling, (seeds, 2) by method; rows of a table."""
    base = most_accurate(methods[UNIFORM])
    targets = [final(curve, 0.0) for curve in methods[UNIFORM][base]]
    # Uniform sampling too may be there before its end, or sooner at another rate.
    found = {method: best_reach(runs, to_accuracy, targets) for method, runs in methods.items()}
    gains, rows = {}, []
    for method, runs in methods.items():
        rate, reached = found[method]
        gains[method] = reached / found[UNIFORM][1]
        accuracy = np.array([final(c, 0.0) for c in runs[rate]])
        refreshing = np.mean([c.refreshing for c in runs[rate]])
        rows.append(
            (
                method,
                f"{rate:g}",
                f"{accuracy.mean():.4f} ± {accuracy.std(ddof=1):.4f}",
                f"{np.median(reached[:, 0]):.0f}",
                f"{np.median(reached[:, 1]):.2f}",
                f"{refreshing:.2f}",
            )
        )
    return gains, rows


def redundancy_claims(methods: dict[str, Runs], model: str, source: str) -> list[Claim]:
    """Fewer steps, and less time."""
    gains, rows = redundancy_gains(methods)
    steps, seconds = (float(np.median(gains[FOUND][:, column])) for column in (0, 1))
    says = lambda what: (
        f"{FOUND}: {what} to the final test accuracy of uniform sampling, relative to its own, "
        "each at the rate at which it is settled there first (median over seeds)"
    )
    rate, plain = next((row[1], row) for row in rows if row[0] == UNIFORM)
    between = int(np.diff(methods[UNIFORM][float(rate)][0].steps[:2])[0])
    most = MOST_SECONDS_CNN if model == "cnn" else MOST_SECONDS
    return [
        Claim.at_most(
            THESIS,
            says("steps"),
            steps,
            MOST_STEPS,
            should_hold=source == "mnist",
            reason=f"claimed for MNIST; here uniform sampling is there after {plain[3]} steps, of "
            f"which the {between} between two points of a curve are a large part",
        ),
        Claim.at_most(
            THESIS,
            says("seconds, detection included,"),
            seconds,
            most,
            should_hold=source == "mnist",
            reason=f"claimed for MNIST; here {told_refreshing(methods, FOUND)}",
        ),
    ]


def told_refreshing(methods: dict[str, Runs], method: str) -> str:
    """What looks at the data take, beside whole runs of uniform sampling."""
    curves = lambda name: [c for runs in methods[name].values() for c in runs if c.seconds.size]
    looks = float(np.mean([c.refreshing for c in curves(method)]))
    whole = float(np.median([c.seconds[-1] for c in curves(UNIFORM)]))
    return (
        f"{method} takes {looks:.3f} s for looks at the data, {looks / whole:.0%} of the "
        f"{whole:.2f} s of a whole run of uniform sampling"
    )


def clean_claims(methods: dict[str, Runs], source: str) -> list[Claim]:
    """Nothing changes where there are no copies."""
    rate = most_accurate(methods[UNIFORM])
    ours, plain = (
        np.array([[final(c, 0.0), c.seconds[-1]] for c in methods[m][rate]])
        for m in (FOUND, UNIFORM)
    )
    error = np.hypot(*(part[:, 0].std(ddof=1) / np.sqrt(len(part)) for part in (ours, plain)))
    return [
        Claim.at_most(
            OWN,
            f"without copies, {FOUND}: difference of the mean final accuracy to uniform sampling, "
            "in standard errors",
            abs(ours[:, 0].mean() - plain[:, 0].mean()) / max(error, 1e-9),
            1.0,
        ),
        Claim.at_most(
            OWN,
            f"without copies, {FOUND}: seconds relative to uniform sampling (median over seeds)",
            float(np.median(ours[:, 1] / plain[:, 1])),
            MOST_SECONDS_CLEAN,
            should_hold=source == "mnist",
            reason=f"claimed for MNIST; here {told_refreshing(methods, FOUND)}",
        ),
    ]


def final_losses(runs: Runs) -> list[float]:
    """The loss at which runs are settled in the end, at the rate with the lowest, by seed."""
    last = {
        rate: [float(settled(c.values)[-1]) if c.values.size else np.inf for c in curves]
        for rate, curves in runs.items()
    }
    return min(last.values(), key=lambda losses: float(np.mean(losses)))


def least_test_losses(runs: Runs) -> list[float]:
    """By seed, 1 % above the lowest settled test loss, at the rate where these are lowest."""
    least = {
        rate: [1.01 * float(np.min(settled(c.test_losses), initial=np.inf)) for c in curves]
        for rate, curves in runs.items()
    }
    return min(least.values(), key=lambda losses: float(np.mean(losses)))


def loss_ratios(
    methods: dict[str, Runs], targets_of=final_losses, reach=to_loss
) -> dict[str, tuple[float, float]]:
    """Steps and seconds to the same training loss, over those of uniform sampling.

    The loss is the one at which uniform sampling, at its best rate and with the same seed, is
    settled in the end, see :func:`settled`. Or, with :func:`least_test_losses`, a test loss.
    Medians over seeds of the ratios of two runs of one seed; infinite if half of the runs do not
    get there.
    """
    targets = targets_of(methods[UNIFORM])
    found = {m: best_reach(runs, reach, targets)[1] for m, runs in methods.items()}
    ratios = {m: np.median(pairs / found[UNIFORM], axis=0) for m, pairs in found.items()}
    return {m: (float(steps), float(seconds)) for m, (steps, seconds) in ratios.items()}


TOLD = {
    "noise": "noise added to the loss",
    "progress": "which fell between two looks by",
    "noise_share": "the share of noise was",
    "ratio_ahead": "the ratio of variances that probes promised",
    "ratio": "that of refreshes",
}


def told_promise(methods: dict[str, Runs], method: str) -> str:
    """What looks of an automatic mode promised, over its runs at all rates."""
    curves = [c for runs in methods[method].values() for c in runs]
    reports = [r for curve in curves for r in curve.reports]
    looks = [r for r in reports if "gain_between" in r or "noise" in r]
    found = {name: [float(r[name]) for r in looks if name in r] for name in TOLD}
    told = [f"{TOLD[name]} {np.median(some):.2g}" for name, some in found.items() if some]
    left = sum(any(map(has_left, curve.reports)) for curve in curves)
    return (
        f"in {len(looks)} of {len(reports)} calls it looked whether noise is the limit"
        + (f"; in the median {', '.join(told)}" if told else "")
        + f"; {left} of {len(curves)} runs, at all rates, left uniform steps"
    )


def has_left(report: dict[str, Any]) -> bool:
    """Whether an automatic mode does something else than uniform steps, and no longer on trial."""
    has_gained = bool(report.get("snapshot")) and "fallen" in report
    return report.get("sampler", "uniform") != "uniform" or has_gained


def share_of_switches(methods: dict[str, Runs], method: str) -> float:
    """In how many of its runs an automatic mode left uniform steps, at the rate that is shown.

    Before it had the loss of uniform sampling; otherwise it would be uniform sampling itself.
    """
    targets = final_losses(methods[UNIFORM])
    rate, found = best_reach(methods[method], to_loss, targets)
    switched = [
        any(has_left(r) and r["step"] < step for r in curve.reports)
        for curve, step in zip(methods[method][rate], found[:, 0], strict=True)
    ]
    return float(np.mean(switched))


def methods_of(ratios: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Those that were compared, the same in every setting, in the order they are shown in."""
    compared = next(iter(ratios.values()))
    return [method for method in UNBIASED if method in compared]


def best_sampler(
    ratios: dict[str, dict[str, tuple[float, float]]],
) -> tuple[str, tuple[str, float]]:
    """The method that is fastest in its best setting, that setting, and its ratio of seconds.

    A batch of twice the size is no sampler: the others are held against it.
    """
    best = {
        method: min((found[method][1], name) for name, found in ratios.items())
        for method in methods_of(ratios)
        if method not in (UNIFORM, DOUBLE)
    }
    winner = min(best, key=lambda method: best[method])
    seconds, name = best[winner]
    return winner, (name, seconds)


Ratios = dict[str, dict[str, tuple[float, float]]]  # steps and seconds by setting and method


def unbiased_claims(
    ratios: Ratios,
    on_test: Ratios,
    switches: dict[str, dict[str, float]],
    unbiased: Unbiased,
    config: Any,
) -> list[Claim]:
    """The automatic modes lose nothing, and one acts where noise is the limit, and gains there.

    Args:
      ratios: of steps and of seconds, by setting and method, to a training loss.
      on_test: the same to a test loss.
      switches: share of the automatic runs that left uniform sampling, by setting and method.
      unbiased: the runs.
      config: of the experiment.
    """
    if not ratios:
        return []
    claims = [
        Claim.at_most(
            OWN,
            f"{method}: seconds to the same {loss} loss, relative to uniform sampling, in every "
            f"setting; in {sum(s[method] >= 0.5 for s in switches.values())} of {len(switches)} it "
            "left uniform steps before they had their training loss, in at least half of the runs",
            [found[method][1] for found in of.values()],
            MOST_AUTOMATIC,
        )
        for method in AUTOMATICS
        for loss, of in (("training", ratios), ("test", on_test))
    ]
    limited = {name: found for name, found in ratios.items() if NOISY in name}
    if not limited:
        return claims
    best = min(limited, key=lambda name: limited[name][SVRG][1])
    steps, seconds = limited[best][SVRG]
    return [
        *claims,
        Claim.at_most(
            OWN,
            f"{SVRG}: seconds to the same training loss, relative to uniform sampling, in the "
            f"noise-limited setting that is best for it ({best})",
            seconds,
            LEAST_GAIN,
            should_hold=config.source == "digits",
            reason=f"every step computes two gradients, and {steps:.2f} of the steps make "
            f"{seconds:.2f} of the seconds; {told_refreshing(unbiased[best], SVRG)}",
        ),
        *(
            claim
            for method in AUTOMATICS
            for claim in automatic_gains(method, limited, switches, unbiased, config)
        ),
    ]


def automatic_gains(
    method: str,
    limited: Ratios,
    switches: dict[str, dict[str, float]],
    unbiased: Unbiased,
    config: Any,
) -> list[Claim]:
    """What an automatic mode does, and what it brings, where noise limits training."""
    setting = min(limited, key=lambda name: limited[name][method][1])
    most = max(limited, key=lambda name: switches[name][method])
    steps, seconds = limited[setting][method]
    is_long = config.source == "digits" and config.unbiased_steps >= LONG
    why = {
        AUTOMATIC: "it leaves them if that promises more than it costs, with strata that are "
        "hardly worse than uniform draws wherever training goes",
        AUTOMATIC_SVRG: "it leaves them when looks and a trial are a small share of the steps",
    }
    must = method == AUTOMATIC_SVRG and is_long
    return [
        Claim.at_least(
            OWN,
            f"{method}: share of the runs that left uniform steps before they had their loss, in "
            f"the noise-limited setting where it most often did ({most})",
            switches[most][method],
            0.5,
            should_hold=must,
            reason=f"{why[method]}; {told_promise(unbiased[most], method)}",
        ),
        Claim.at_most(
            OWN,
            f"{method}: seconds to the same training loss, relative to uniform sampling, in the "
            f"noise-limited setting that is best for it ({setting})",
            seconds,
            LEAST_GAIN,
            should_hold=must,
            reason=f"{why[method]}; {told_promise(unbiased[setting], method)}; {steps:.2f} of the "
            f"steps, {seconds:.2f} of the seconds",
        ),
    ]


def unbiased_tables(reached: str, ratios: dict[str, dict[str, tuple[float, float]]]) -> list[Table]:
    """Ratios of steps and seconds by method and setting."""
    if not ratios:
        return []
    settings = list(ratios)
    cell = lambda ratio: f"{ratio:.2f}" if np.isfinite(ratio) else "never"
    return [
        Table(
            f"{what} to the same {reached}, relative to uniform sampling (medians)",
            ("method", *settings),
            [
                (method, *(cell(ratios[setting][method][column]) for setting in settings))
                for method in methods_of(ratios)
            ],
            ONE_RUN if column else "",
        )
        for column, what in enumerate(("Steps", "Seconds"))
    ]


def refresh_seconds(series: dict[str, dict[str, Runs]], unbiased: Unbiased) -> dict[str, float]:
    """Seconds of all refreshes of a run, mean over runs, by data and method."""
    everything = {**series, **unbiased}
    return {
        f"{name}: {method}": float(
            np.mean([curve.refreshing for curves in runs.values() for curve in curves])
        )
        for name, methods in everything.items()
        for method, runs in methods.items()
    }


def shown(methods: dict[str, Runs]) -> dict[str, dict[str, Any]]:
    """Curves of every method at its best rate: mean and standard deviation over seeds."""
    found = {}
    for method, runs in methods.items():
        rate = most_accurate(runs)
        curves = runs[rate]
        accuracy = np.array([curve.values for curve in curves])
        found[method] = {
            "rate": rate,
            "steps": curves[0].steps,
            "seconds": np.mean([curve.seconds for curve in curves], axis=0),
            "accuracy": accuracy.mean(axis=0),
            "deviation": accuracy.std(axis=0, ddof=1),
        }
    return found
