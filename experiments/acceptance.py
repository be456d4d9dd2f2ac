"""Do the figures that were measured before, of robust linear classifiers, all hold at once?

A list of what must come out, from our specification (section 9): numbers that another program and
another solver found on the same data, limits that theory predicts, and bounds that must never be
left. Each part is an experiment of its own, with less data; here they are run one after the other,
in a few minutes, as a check of the whole on a new machine or a new version of JAX.

Presets:
    quick: 100 s on 2 cores (a first run, which compiles: 3 min); one to three data sets of each
        part
"""

import concurrent.futures
import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments import (
    Progress,
    architecture,
    attack_quality,
    certificate,
    geometry,
    geometry_claims,
    geometry_suites,
    optimizer_zoo,
    plots,
    rates,
    regularisation_path,
    silent,
)
from experiments.claims import Claim
from experiments.report import Result, Table
from jaxrobust import attacks, data, linear, norms

TOUR = False
GOLDEN = (
    "CVXPY and CLARABEL on the data of the public code of Faghri et al., arXiv:2102.08868; the "
    "same digits are in its comments"
)
DEFECTS = "our specification of the public code of Faghri et al., arXiv:2102.08868"
OWN = "this library: measured, no paper"
# min ||w|| with all margins at least 1: 10 examples in 100 dimensions, and l1 also with 3. Of l4
# and l1.5 the comments have powers; these are the norms.
NORMS = {
    "linf": (norms.linf, 10, 0.0422),
    "l2": (norms.l2, 10, 0.3411),
    "l1": (norms.l1, 10, 1.8497),
    "Fourier-l1": (norms.fourier(norms.l1), 10, 1.9895),
    "l1, fewer examples": (norms.l1, 3, 0.6876),
    "l4": (norms.lp(4), 10, 0.12161),
    "l1.5": (norms.lp(1.5), 10, 0.65275),
}
THREATS = ("linf", "l2", "l1", "Fourier-linf", "Fourier-l1")
MOST_SECONDS = 180.0
DIGITS = 6e-5  # half of the last digit that was recorded, and a little
DIGITS_OF_CONES = 1e-3  # the solver warned that those with cones may be less exact
LONG = {  # parts with which to begin
    "attacks on linear classifiers",
    "newer optimizers",
    "regularisation path",
    "certificate during training",
}
_COMPILED: list[float] = []  # seconds of every program so far


def _count_compiling(event: str, duration_secs: float, **_: Any) -> None:
    if event.endswith("backend_compile_duration"):
        _COMPILED.append(duration_secs)


jax.monitoring.register_event_duration_secs_listener(_count_compiling)


@dataclasses.dataclass(frozen=True)
class Config:
    """Data sets and steps of the parts."""

    seeds: int = 1
    """Gaussian data sets of each part."""
    examples: int = 2
    """Examples of every linear classifier that is attacked."""
    steps: int = 10_000
    """Training steps, of `optimizer_zoo` twice and of `rates` three times as many."""

    def __post_init__(self):
        for name, least in (("seeds", 1), ("examples", 1), ("steps", 1_000)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


def run(config: Config, progress=silent) -> Result:
    """All parts."""
    begin, before = time.perf_counter(), sum(_COMPILED)
    found, seconds = side_by_side(config, progress)
    total = time.perf_counter() - begin
    compiling = sum(_COMPILED) - before
    progress(1.0)
    in_time = Claim.at_most(
        OWN,
        "all of this takes less than three minutes on two cores (seconds)",
        total,
        MOST_SECONDS,
        should_hold=(os.cpu_count() or 1) >= 2,
        reason=f"said of two cores; {compiling:.0f} s of all cores went to compiling",
    )
    return Result(
        summary=summarise(found, total),
        claims=[*(claim for claims in found.values() for claim in claims), in_time],
        series={
            "claims": {name: len(claims) for name, claims in found.items()},
            "hold": {name: sum(c.holds for c in claims) for name, claims in found.items()},
            "seconds": seconds,
        },
        tables=[table(found, seconds)],
        wall_time={"all parts, side by side": total},
    )


def side_by_side(
    config: Config, progress: Progress
) -> tuple[dict[str, list[Claim]], dict[str, float]]:
    """Claims and seconds of every part, a part for each core at a time.

    Most of the time XLA compiles, one program on one core, and Python waits for it.
    """
    seconds: dict[str, float] = {}

    def timed(name: str) -> list[Claim]:
        begin = time.perf_counter()
        claims = PARTS[name](config)
        seconds[name] = time.perf_counter() - begin
        progress(len(seconds) / len(PARTS), name)
        return claims

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as workers:
        # The longest first, so that none is left over at the end.
        names = sorted(PARTS, key=lambda name: name not in LONG)
        claims = dict(zip(names, workers.map(timed, names), strict=True))
    return {name: claims[name] for name in PARTS}, {name: seconds[name] for name in PARTS}


# Parts --------------------------------------------------------------------------------------------


def golden(config: Config) -> list[Claim]:
    """The smallest norms that separate data that others drew and solved."""
    del config
    values = smallest_norms()
    return [
        Claim.at_most(
            GOLDEN,
            f"the smallest norm of weights with all margins at least 1 is as recorded ({name}, "
            f"{number} examples in 100 dimensions, {expected:g}; difference)",
            abs(values[name] - expected),
            DIGITS_OF_CONES if norm.name.startswith("Fourier") else DIGITS,
        )
        for name, (norm, number, expected) in NORMS.items()
    ]


def smallest_norms() -> dict[str, float]:
    """By name, as they were recorded."""
    found = {}
    with jax.enable_x64(True):
        for name, (norm, number, _) in NORMS.items():
            drawn = data.logistic_gaussian(number, num_test=0, seed=0)
            x, y = (np.asarray(z, float) for z in (drawn.x_train, drawn.y_train))
            best = linear.max_margin(x, y, norm, tolerance=1e-6)
            if not best.converged:
                raise RuntimeError(f"{name}: {best}")
            found[name] = float(1 / best.margin)
    return found


def geometry_of_optimizers(config: Config) -> list[Claim]:
    """Every optimizer and its norm, on data with 8 dimensions for an example and more."""
    suite = geometry_suites.gaussian((12, 6, 3), config.seeds, config.steps)
    weights, optima = geometry.train(suite), geometry_suites.certified_optima(suite)
    found = geometry_suites.measure(suite, weights, optima).wide()
    assert found is not None
    return geometry_claims.gaussian_claims(found)


def attacks_on_linear(config: Config) -> list[Claim]:
    """Every attack and its closed form."""
    sizes = attack_quality.Config(threats=THREATS, examples=config.examples)
    return attack_quality.linear_claims(*attack_quality.on_linear(sizes))


def published_defects(config: Config) -> list[Claim]:
    """What the published code got wrong, on the data that show it."""
    del config
    rng = np.random.default_rng(0)
    key = jax.random.key(0)
    # Of very different lengths: a maximum over all examples would move one of them alone.
    signals = (rng.normal(size=(4, 10)) * [[1], [10], [100], [1000]]).astype(np.float32)
    w = rng.normal(size=10).astype(np.float32)
    in_l1 = attacks.apgd(
        attack_quality.scores_of_two, w, signals, (signals @ w > 0).astype(int), norm="l1", eps=0.5,
        key=key, num_steps=20, loss="margin",
    )  # fmt: skip
    l1_shares = np.abs(np.asarray(in_l1.perturbations) @ w) / (0.5 * np.abs(w).max())
    # White images: with the image in place of the last step, momentum leads far away from them.
    images, eps = np.ones((2, 32, 32, 1), np.float32), 8 / 255
    w = rng.normal(size=(32, 32, 1)).astype(np.float32)
    spectral = norms.fourier(norms.linf, (0, 1))
    given: Any = {"norm": spectral, "eps": eps, "key": key, "loss": "margin", "num_steps": 20}
    labels = np.array([0, 1])
    white = attacks.apgd(attack_quality.scores_of_two, w.ravel(), images, labels, **given)
    moved = np.einsum("bhwc,hwc->b", np.asarray(white.perturbations), w) * np.array([1, -1])
    white_shares = moved / (eps * np.abs(np.fft.fft2(w[..., 0], norm="ortho")).sum())
    # Black and white pixels: clipping to [0, 1] after the projection leaves the ball.
    images = rng.integers(0, 2, size=(2, 32, 32, 1)).astype(np.float32)
    boxed = attacks.apgd(
        attack_quality.scores_of_two, w.ravel(), images, labels, bounds=(0, 1), **given
    )
    inputs = np.asarray(boxed.inputs, np.float64)
    spectra = np.abs(np.fft.fft2((inputs - images)[..., 0], norm="ortho"))
    out = max(float(-inputs.min()), float(inputs.max() - 1), 0.0)
    return [
        Claim.at_least(
            f"{DEFECTS}, defect 1",
            "in l1 every example is attacked, however short beside others (the share of the closed "
            "form that APGD reaches)",
            l1_shares,
            1 - 1e-5,
        ),
        Claim.at_least(
            f"{DEFECTS}, defect 2",
            "momentum is of perturbations: white images are attacked in Fourier-linf as well as "
            "others (the share of the closed form that APGD reaches)",
            white_shares,
            1 - 1e-5,
        ),
        Claim.at_most(
            f"{DEFECTS}, section 2.5.8",
            "black and white images, in single precision, stay within the Fourier-linf ball and "
            "within [0, 1] (by which part of the radius the largest coefficient is above it, and "
            "how far a pixel is out of bounds)",
            [float(spectra.max() / eps - 1), out],
            1e-6,
        ),
        Claim.at_least(
            OWN,
            "and that not by standing still (largest coefficient of the spectrum over the radius)",
            spectra.max(axis=(1, 2)) / eps,
            0.9,
        ),
    ]


PARTS: dict[str, Callable[[Config], list[Claim]]] = {
    "numbers recorded by others": golden,
    "geometry of optimizers": geometry_of_optimizers,
    "rates": lambda config: list(
        rates.run(rates.Config(seeds=config.seeds, steps=3 * config.steps)).claims
    ),
    "certificate during training": lambda config: list(
        certificate.run(certificate.Config(seeds=config.seeds, steps=config.steps)).claims
    ),
    "architecture": lambda config: list(
        architecture.run(architecture.Config(seeds=config.seeds, steps=config.steps)).claims
    ),
    "regularisation path": lambda config: list(
        regularisation_path.run(regularisation_path.Config(seeds=config.seeds)).claims
    ),
    "attacks on linear classifiers": attacks_on_linear,
    "defects of the published code": published_defects,
    # Of hidden layers, some do not come to where their margin counts.
    "newer optimizers": lambda config: list(
        optimizer_zoo.run(
            optimizer_zoo.Config(seeds=config.seeds + 2, steps=2 * config.steps)
        ).claims
    ),
}

# What is told -------------------------------------------------------------------------------------


def table(found: dict[str, list[Claim]], seconds: dict[str, float]) -> Table:
    """Claims and seconds of every part."""
    counts = {
        name: (len(claims), sum(c.holds for c in claims),
               sum(c.should_hold and not c.holds for c in claims))
        for name, claims in found.items()
    }  # fmt: skip
    rows: list[tuple[Any, ...]] = [
        (name, *numbers, f"{seconds[name]:.0f}") for name, numbers in counts.items()
    ]
    total = [sum(numbers) for numbers in zip(*counts.values(), strict=True)]
    rows.append(("all", *total, f"{sum(seconds.values()):.0f}"))
    columns = ("part", "claims", "hold", "should hold and do not", "seconds")
    return Table(
        "What must come out, by part", columns, rows,
        "Seconds: of a part beside others, one for each core.",
    )  # fmt: skip


def summarise(found: dict[str, list[Claim]], seconds: float) -> str:
    """The answer in two sentences."""
    claims = [claim for part in found.values() for claim in part]
    failed = [c.statement for c in claims if c.should_hold and not c.holds]
    told = f"{sum(c.holds for c in claims)} of {len(claims)} claims hold" + (
        ", and no other one should." if not failed else f"; {len(failed)} should and do not."
    )
    return f"{told} All of it takes {seconds:.0f} s."


def plot(result: Result):
    """Claims of every part, and how many hold."""
    series = result.series
    names = list(series["claims"])
    places = np.arange(len(names))[::-1]
    number, hold = (np.asarray([series[of][name] for name in names]) for of in ("claims", "hold"))
    with plots.style():
        figure, ax = plots.subplots(width=9, height=4.2)
        ax.barh(places, number, color="0.85", edgecolor="0.3", label="claims")
        ax.barh(places, hold, height=0.4, color="0.35", label="that hold")
        for place, a, b in zip(places, hold, number, strict=True):
            ax.text(b + 0.2, place, f"{a} of {b}", va="center")
        ax.set_yticks(places, names)
        ax.set_xlim(0, 1.15 * number.max())
        plots.describe(ax, title="What must come out, by part", x="claims", y="")
        plots.legend(ax, loc="lower right")
    return {
        "parts": (
            plots.finish(figure),
            "Dark: claims that hold. Light: all claims of the part, also those that need not hold "
            "at this size, for which the reason is told.",
        )
    }
