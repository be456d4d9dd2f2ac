"""What theory says of the optimizers of the experiment `optimizer_zoo`, held to what was found."""

from typing import Any, NamedTuple

import numpy as np

from experiments import optimizer_zoo_runs as runs
from experiments.claims import Claim

ADAM = "Zhang, Zou & Cao 2024 (arXiv:2406.10650), abstract"
SIGNUM = "Baek, Song & Yun 2025 (arXiv:2510.26303), abstract"
BATCHES = "arXiv:2602.11557, abstract: variance reduction restores the bias of full batches"
DECAYED = "Xie & Li 2024 (arXiv:2404.04454) and Chen et al. 2023 (arXiv:2310.05898), abstracts"
CLASSES = "Fan, Schmidt & Thrampoulidis 2025 (arXiv:2502.04664), abstract"
MIRROR = "Sun et al. 2022 (arXiv:2205.12808), abstract"
RICH = "Moroshko et al. 2020 (arXiv:2007.06738)"
FLOW = "Tsilivis et al. 2025 (arXiv:2410.22069)"
DUALITY = "minimax duality (exact)"
TABLE_SOURCE = "our specification, section 6.7 (measured before)"
TABLE_STEPS = 20_000
# Their learning rates were not written down.
NOT_COMPARED = ("AdaGrad", "momentum, β 0.9")


OWN = "this library: measured, no paper"
MUON = "Muon, β 0.9"  # with the singular vectors

# By what so many steps can add, to first order, a soft margin may fall. At kinks of the ReLU the
# next step takes back what one did; under l1, which moves one weight, up to three do (20 seeds, and
# as many of them for steps a quarter as long, so that it is nothing in the limit).
FEW_STEPS = 4.0


class Found(NamedTuple):
    """All that was measured; see the functions of these names."""

    binary: dict[str, dict[str, np.ndarray]]
    powers: dict[str, np.ndarray]
    boxes: dict[str, np.ndarray]
    batches: dict[str, dict[str, np.ndarray]]
    even: dict[str, dict[str, np.ndarray]]
    classes: dict[str, dict[str, np.ndarray]]
    diagonal: dict[str, np.ndarray]
    hidden: dict[str, dict[str, np.ndarray]]


def claims(config: Any, found: Found) -> list[Claim]:
    """In the order of the question."""
    short = config.steps < TABLE_STEPS
    limits = {
        "should_hold": not short,
        "reason": f"{config.steps:,} steps are few for limits" if short else "",
    }
    return [
        order_claim(found),
        table_claim(config, found),
        *adam_claims(found, limits),
        *margin_claims(found, limits),
        *box_claims(found, limits),
        *other_claims(found, limits),
    ]


def order_claim(found: Found) -> Claim:
    """lower <= optimum <= upper."""
    return Claim.at_most(
        DUALITY,
        "lower bound ≤ optimum ≤ upper bound at every look, whatever the optimizer (largest "
        "violation, relative to the optimum)",
        [max(np.max(r["lower"] - 1), np.max(1 - r["upper"])) for r in found.binary.values()],
        0.0,
        tolerance=1e-5,  # the gap of the optimum
    )


def table_claim(config: Any, found: Found) -> Claim:
    """The margins measured before, on the same data."""
    off = []
    for name, contender in runs.CONTENDERS.items():
        if contender.table and name not in NOT_COMPARED:
            ends = [found.binary[name][norm][0, -1] for norm in ("linf", "l2")]
            off += [end - before for end, before in zip(ends, contender.table, strict=False)]
    same = config.steps == TABLE_STEPS
    return Claim.close(
        TABLE_SOURCE,
        "another program found the same margins in linf and l2 on the same data, for sign descent, "
        f"Signum, Lion and Adam (difference over the optimum, {TABLE_STEPS:,} steps)",
        off,
        0.0,
        atol=0.02,
        should_hold=same,
        reason="" if same else f"this run makes {config.steps:,} steps",
    )


def adam_claims(found: Found, limits: dict[str, Any]) -> list[Claim]:
    """What its epsilon does."""
    without, with_it = (found.binary[f"Adam, ε {eps}"] for eps in ("0", "1e-8"))
    return [
        Claim.at_least(
            ADAM,
            "Adam without ε tends to the largest linf margin (over the optimum, at the end)",
            without["linf"][:, -1],
            0.9,
            **limits,
        ),
        Claim.at_least(
            ADAM,
            "and not to that of l2: its linf margin over the optimum less its l2 margin",
            without["linf"][:, -1] - without["l2"][:, -1],
            0.05,
            **limits,
        ),
        Claim.at_least(
            f"{TABLE_SOURCE}; what {ADAM} leaves out",
            "with ε 1e-8 it drifts away: its linf margin without ε less that with it",
            without["linf"][:, -1] - with_it["linf"][:, -1],
            0.03,
            **limits,
        ),
        Claim.at_least(
            f"{TABLE_SOURCE}; what {ADAM} leaves out",
            "towards that of l2: its l2 margin with ε less that without",
            with_it["l2"][:, -1] - without["l2"][:, -1],
            0.02,
            **limits,
        ),
    ]


def margin_claims(found: Found, limits: dict[str, Any]) -> list[Claim]:
    """Sign descent and its kin, several classes, p-GD."""
    sparse = [found.binary[n]["linf"][:, -1] for n in ("sign descent", "Signum, β 0.9")]
    made = [
        Claim.at_least(
            TABLE_SOURCE,
            "sign descent, with momentum and without, and Lion without decay come to the largest "
            "linf margin (over the optimum)",
            [*sparse, found.binary["Lion, no decay"]["linf"][:, -1]],
            0.97,
            **limits,
        )
    ]
    for name, of in runs.MATRIX_THEORY.items():
        if name == runs.OPTAX_MUON:
            continue
        made.append(
            Claim.at_least(
                CLASSES,
                f"{runs.NUM_CLASSES} classes: {name} comes to the largest margin in the {of} norm "
                "of the weights (over the optimum)",
                found.classes[name][of],
                0.97 if "Adam" not in name else 0.9,
                **limits,
            )
        )
    muon, of_optax = (found.classes[name] for name in (MUON, runs.OPTAX_MUON))
    made += [
        Claim.at_least(
            CLASSES,
            "and the Muon of Optax, with five Newton-Schulz steps in place of singular vectors, "
            "likewise",
            of_optax["spectral"],
            0.97,
            should_hold=False,
            reason="late gradients have singular values of very different sizes, and five steps "
            "leave the small ones small; with ten it has more of the spectral margin",
        ),
        Claim.at_least(
            OWN,
            "five Newton-Schulz steps turn Muon away from the largest spectral margin (that of "
            "Muon with singular vectors less that of Optax's, over the optimum)",
            muon["spectral"] - of_optax["spectral"],
            0.05,
            **limits,
        ),
        Claim.at_least(
            OWN,
            "and towards that of Frobenius (likewise, Optax's less ours)",
            of_optax["Frobenius"] - muon["Frobenius"],
            0.0,
            **limits,
        ),
    ]
    made += [
        Claim.at_least(
            MIRROR,
            f"mirror descent with the power of {name} comes to the largest {name} margin (over the "
            f"optimum; before {before})",
            share,
            before - 0.03,  # on one data set
            **limits,
        )
        for (name, share), before in zip(found.powers.items(), runs.POWERS.values(), strict=True)
    ]
    return made


def box_claims(found: Found, limits: dict[str, Any]) -> list[Claim]:
    """With weight decay."""
    adam = found.boxes["AdamW, ε 0"][:, 0]
    others = [both[:, 0] for name, both in found.boxes.items() if name != "AdamW, ε 0"]
    return [
        Claim.at_most(
            DECAYED,
            f"with decoupled weight decay {runs.DECAY:g} weights from outside come into the ball "
            "of radius 1 / decay, of linf for Lion and sign descent, of l2 for the normalised "
            "gradient, of the spectral norm for spectral descent (norm over the radius)",
            others,
            1.0,
            tolerance=1e-6,
        ),
        Claim.at_most(
            DECAYED,
            "AdamW, whose steps may be longer than the rate, comes into that of linf in the limit "
            "(norm over the radius)",
            adam,
            1.0,
            tolerance=1e-3,
            **limits,
        ),
        *(
            Claim.at_most(
                DECAYED,
                f"and {name} comes to the least loss in it (bound of what is left, by its own "
                "gradient, over the loss)",
                both[:, 1],
                0.1,
                **limits,
            )
            for name, both in found.boxes.items()
        ),
    ]


def other_claims(found: Found, limits: dict[str, Any]) -> list[Claim]:
    """Small batches, a diagonal network, a hidden layer."""
    slow = found.batches["Signum, β 0.99"]
    return [
        Claim.at_least(
            SIGNUM,
            "one example in a batch: Signum with β 0.99 keeps the linf margin of full batches "
            "(ratio of the two)",
            slow["one"] / slow["all"],
            0.95,
            **limits,
        ),
        Claim.at_least(
            SIGNUM,
            "sign descent without momentum does not (linf margin of full batches less that of "
            "single examples, over the optimum)",
            found.batches["sign descent"]["all"] - found.batches["sign descent"]["one"],
            0.05,
            **limits,
        ),
        Claim.at_least(
            BATCHES,
            "but it does if the variance is taken out: single examples corrected by SVRG (ratio to "
            "full batches)",
            found.batches["sign descent"]["one, SVRG"] / found.batches["sign descent"]["all"],
            0.95,
            **limits,
        ),
        Claim.at_least(
            SIGNUM,
            "examples whose entries are of one size: with one of them in a batch Adam without ε "
            "comes to the largest l2 margin (over the optimum)",
            found.even["one"]["l2"],
            0.9,
            **limits,
        ),
        Claim.at_least(
            SIGNUM,
            "and with all of them to that of linf, each far from the other's (l2 margin of one "
            "less that of all, and linf margin of all less that of one, over the optima)",
            [
                found.even["one"]["l2"] - found.even["all"]["l2"],
                found.even["all"]["linf"] - found.even["one"]["linf"],
            ],
            0.05,
            **limits,
        ),
        Claim.at_least(
            RICH,
            "a diagonal network comes nearer to the largest l1 margin from small weights than "
            "from large ones (difference over the optimum)",
            found.diagonal["small"] - found.diagonal["large"],
            0.05,
            **limits,
        ),
        Claim.at_least(
            RICH,
            "and from large weights the nearer the lower the loss is (l1 margin in the end less "
            "that after a twentieth of the steps, over the optimum)",
            found.diagonal["large"] - found.diagonal["large, early"],
            0.05,
            **limits,
        ),
        Claim.at_most(
            FLOW,
            "a ReLU network with one hidden layer under steepest flow (l1, l2, linf): once all "
            "points are classified and its loss is below 1 its soft margin does not fall, but for "
            "what a few steps, which are not infinitesimal, can do (largest fall, over what one "
            "step may add)",
            [seen(row["fall"]) for row in found.hidden.values()],
            FEW_STEPS,
            **limits,
        ),
        Claim.at_least(
            FLOW,
            "and in other norms than that of the descent it may fall (largest fall of all runs, "
            "likewise)",
            np.nanmax([seen(row["other"]) for row in found.hidden.values()]),
            10 * FEW_STEPS,
            **limits,
        ),
    ]


def seen(falls: np.ndarray) -> float:
    """The largest one of the runs in which there was something to see; NaN if in none."""
    there = np.asarray(falls)[np.isfinite(falls)]
    return float(there.max()) if there.size else float("nan")


def fall(value: np.ndarray, least: np.ndarray, length: np.ndarray) -> float:
    """The largest fall of a soft margin, value over squared length, once all is classified.

    In units of what one step adds to it, to first order: ``STEP`` over the squared length. NaN if
    points are never all classified: then nothing was seen.
    """
    classified = np.flatnonzero((least > 0) & (value > 0))
    if not classified.size:
        return float("nan")
    value, squared = value[classified[0] :], length[classified[0] :] ** 2
    soft = value / squared
    return float(np.max((np.maximum.accumulate(soft) - soft) * squared) / runs.STEP)


def summarise(config: Any, found: Found) -> str:
    """What was found, in words and numbers."""
    end = lambda name, norm: float(found.binary[name][norm][:, -1].mean())
    spectral = found.classes["spectral descent"]["spectral"].mean()
    return (
        f"After {config.steps:,} steps sign descent has {end('sign descent', 'linf'):.3f} of the "
        f"largest linf margin, Adam without ε {end('Adam, ε 0', 'linf'):.3f}, with ε 1e-8 "
        f"{end('Adam, ε 1e-8', 'linf'):.3f}: its ε turns it towards l2, where it has "
        f"{end('Adam, ε 1e-8', 'l2'):.3f} (without: {end('Adam, ε 0', 'l2'):.3f}). Spectral "
        f"descent has {spectral:.3f} of the largest spectral margin of "
        f"{runs.NUM_CLASSES} classes. A diagonal network has "
        f"{found.diagonal['small'].mean():.2f} of the largest l1 margin from small weights, "
        f"{found.diagonal['large'].mean():.2f} from large ones."
    )
