"""How near to the worst perturbation is what an attack finds?

On a linear classifier the worst perturbation is known in closed form, in any norm: it lowers the
margin by ε times the dual norm of the weights. What attacks find is held against that, example by
example, for lp norms and for norms of the Fourier spectrum (of signals, and of images channel by
channel), with two classes and with ten, and within the bounds of inputs where that has a closed
form. On a small convolutional network nothing is known; there Auto-PGD, which has no step size to
tune, is held against plain PGD with many restarts and the best of several step sizes,
and the ensemble against both.

Gaussian data; the network on the digits (8x8 images), trained adversarially against linf.

Presets:
    quick: 170 s beside other work; 4 norms, 4 examples, 60 images, 3 restarts
    full: (estimated) 30 min on 2 cores; 8 norms, 128 examples, all 359 test images, 50 restarts
"""

import dataclasses
import functools
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import attack_quality_plots, robust_networks, silent
from experiments.claims import Claim
from experiments.report import Result, Table
from experiments.robust_networks import BOUNDS
from jaxrobust import attacks, data, norms
from jaxrobust.norms import Norm

TOUR = False
CLOSED_FORM = "the dual norm (exact)"
OWN = "this library: measured, no paper"
SIGNAL, IMAGE = (32,), (4, 4, 3)
THREATS: dict[str, tuple[Norm, tuple[int, ...]]] = {
    "linf": (norms.linf, SIGNAL),
    "l2": (norms.l2, SIGNAL),
    "l1": (norms.l1, SIGNAL),
    "l1.5": (norms.lp(1.5), SIGNAL),
    "Fourier-linf": (norms.fourier(norms.linf), SIGNAL),
    "Fourier-l1": (norms.fourier(norms.l1), SIGNAL),
    "Fourier-linf, images": (norms.fourier(norms.linf, (0, 1)), IMAGE),
    "Fourier-l1, images": (norms.fourier(norms.l1, (0, 1)), IMAGE),
}
# Most of the time at quick size is that of compiling seven programs for each. The experiment
# `acceptance` has others, the tests have all of them.
QUICK_THREATS = ("linf", "l2", "l1", "Fourier-linf, images")
EXACT, CLOSE = 1 - 1e-6, 1 - 1e-4
LEAST = {"APGD": EXACT, "Frank-Wolfe": EXACT, "PGD": CLOSE, "minimum norm": CLOSE, "Square": CLOSE}
NUM_CLASSES = 10
RADII = {"linf": 0.15, "l2": 0.7}  # of the network
STEP_SIZES = (0.5, 0.05)  # of plain PGD, in units of eps, besides falling ones
PLAIN_STEPS, STEPS, RESTARTS = 200, 100, 3
# Of Square, for each feature. In l1 of the spectrum all depends on which frequency is the best one,
# and the estimate of the gradient must tell it from the next.
QUERIES, QUERIES_L1 = 60, 1_000
APGD = "APGD"


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes."""

    seed: int = 0
    """Of data, network and attacks."""
    threats: tuple[str, ...] = QUICK_THREATS
    """Norms of the linear classifiers."""
    examples: int = 4
    """Examples of every linear classifier."""
    images: int = 60
    """Images that the network is attacked on."""
    restarts: int = 3
    """Of plain PGD, for every step size."""
    training_steps: int = 600
    """Of the network."""

    def __post_init__(self):
        for name in ("examples", "images", "restarts", "training_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.threats or set(self.threats) - set(THREATS):
            raise ValueError(f"threats must be of {tuple(THREATS)}, got {self.threats}")


PRESETS = {"full": Config(threats=tuple(THREATS), examples=128, images=359, restarts=50)}


def run(config: Config, progress=silent) -> Result:
    """Attacks linear classifiers and a network."""
    begin = time.perf_counter()
    linear, feasible = on_linear(config, progress)
    seconds = {"linear classifiers": time.perf_counter() - begin}
    progress(0.6, "network")
    begin = time.perf_counter()
    network, starts, beyond = of_network(config, progress)
    seconds["network"] = time.perf_counter() - begin
    return Result(
        summary=summarise(linear, network),
        claims=[*linear_claims(linear, feasible), *network_claims(network, beyond, config.images)],
        series={"linear": linear, "network": network, "losses": starts},
        tables=[linear_table(linear), network_table(network)],
        wall_time=seconds,
    )


def on_linear(
    config: Config, progress=silent
) -> tuple[dict[str, dict[str, np.ndarray]], list[float]]:
    """Of several threats, in double precision; see :func:`of_linear`."""
    linear: dict[str, dict[str, np.ndarray]] = {}
    feasible: list[float] = []
    with jax.enable_x64(True):
        for number, name in enumerate(config.threats):
            progress(0.6 * number / len(config.threats), f"linear, {name}")
            linear[name], beyond = of_linear(*THREATS[name], config)
            feasible += beyond
    return linear, feasible


def scores_of_two(w: jax.Array, x: jax.Array) -> jax.Array:
    """Of a linear classifier of two classes: its score and the negative, half each."""
    score = x.reshape(len(x), -1) @ w
    return jnp.stack([-score, score], axis=1) / 2


def scores(w: jax.Array, x: jax.Array) -> jax.Array:
    """Of several classes, weights ``(classes, D)``."""
    return x.reshape(len(x), -1) @ w.T


def of_linear(
    norm: Norm, shape: tuple[int, ...], config: Config
) -> tuple[dict[str, np.ndarray], list[float]]:
    """What attacks reach of the closed form, per example, and by how much they leave the ball."""
    number, rng = config.examples, np.random.default_rng(config.seed)
    x, size = rng.normal(size=(number, *shape)), math.prod(shape)
    w, several = rng.normal(size=size), rng.normal(size=(NUM_CLASSES, size))
    y = (x.reshape(number, -1) @ w > 0).astype(np.int32)
    labels = np.argmax(x.reshape(number, -1) @ several.T, axis=1).astype(np.int32)
    eps = rng.uniform(0.5, 2.0, number)  # far from the boundary and beyond it
    given: Any = {"norm": norm, "key": jax.random.key(config.seed)}
    length = float(norm.dual.value(jnp.asarray(w.reshape(shape))))
    two, many = (scores_of_two, w, x, y), (scores, several, x, labels)
    queries = QUERIES_L1 if norm.name.startswith("Fourier-l1") else QUERIES
    options = given | {"eps": eps, "loss": "margin"}
    found = {
        "APGD": attacks.apgd(*two, num_steps=STEPS, **options),
        "Frank-Wolfe": attacks.frank_wolfe(*two, num_steps=STEPS, **options),
        "PGD": attacks.pgd(*two, num_steps=STEPS, **options),
        "Square": attacks.square(*two, eps=eps, num_queries=queries * size, **given),
    }
    clean = np.abs(x.reshape(number, -1) @ w)
    ratios = {
        name: (np.asarray(result.margin) + clean) / (eps * length) for name, result in found.items()
    }
    nearest = attacks.minimum_norm(*two, **given)
    ratios["minimum norm"] = (clean / length) / np.asarray(nearest.distance)
    best, spread = closed_form(norm, shape, several, x, labels, eps)
    for name, attack in (("APGD", attacks.apgd), ("Frank-Wolfe", attacks.frank_wolfe)):
        result = attack(*many, num_steps=STEPS, **given, eps=eps, loss="targeted_margin")
        found[f"{name}, {NUM_CLASSES} classes"] = result
        ratios[f"{name}, {NUM_CLASSES} classes"] = 1 - (best - np.asarray(result.margin)) / spread
    beyond = [float(np.max(result.info.beyond_radius)) for result in found.values()]
    if norm is norms.linf:  # where the worst perturbation within bounds is known as well
        ratios["APGD, bounds"] = within_bounds(w, x, eps, given)
    return ratios, beyond


def within_bounds(w: np.ndarray, x: np.ndarray, eps: np.ndarray, given: Any) -> np.ndarray:
    """The share of what linf perturbations can do where inputs must be in [-1, 1]."""
    inside = np.clip(x, -1, 1)
    score = inside.reshape(len(x), -1) @ w
    y = (score > 0).astype(np.int32)
    pull = (1 - 2 * y)[:, None] * w
    room = np.where(pull > 0, 1 - inside, inside + 1)
    best = np.sum(np.minimum(eps[:, None], room) * np.abs(w), axis=1)
    found = attacks.apgd(
        scores_of_two, w, inside, y, num_steps=STEPS, eps=eps, loss="margin", bounds=(-1, 1),
        **given,
    )  # fmt: skip
    return (np.asarray(found.margin) + np.abs(score)) / best


def closed_form(norm, shape, w, x, labels, eps) -> tuple[np.ndarray, np.ndarray]:
    """The largest margin of another class that perturbations reach, and how far they move it."""
    value = jax.vmap(lambda v: norm.dual.value(v.reshape(shape)))
    apart = w[None, :, :] - w[labels][:, None, :]  # (B, classes, D)
    moved = eps[:, None] * np.asarray(value(jnp.asarray(apart.reshape(-1, w.shape[1])))).reshape(
        len(x), -1
    )
    reach = np.einsum("bcd,bd->bc", apart, x.reshape(len(x), -1)) + moved
    own = np.arange(NUM_CLASSES)[None, :] == labels[:, None]
    return np.where(own, -np.inf, reach).max(axis=1), np.where(own, 0, moved).max(axis=1)


def of_network(config: Config, progress) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Robust accuracies in % by norm and attack, mean losses of APGD and PGD on the way.

    And by how much inputs, in float32, leave the ball (by norm and attack).
    """
    found = robust_networks.images(data.digits(), (8, 8, 1), num_test=config.images)
    params = robust_networks.init(jax.random.key(config.seed), (8, 8, 1))
    params = robust_networks.trained(
        found, params, norm="linf", eps=RADII["linf"], num_steps=config.training_steps
    )
    x, y = found.x_test, found.y_test
    rows: dict[str, dict[str, float]] = {}
    losses: dict[str, Any] = {}
    beyond: dict[str, dict[str, float]] = {}
    for number, (name, eps) in enumerate(RADII.items()):
        progress(0.7 + 0.3 * number / len(RADII), f"network, {name}")
        given: Any = {"norm": name, "eps": eps, "bounds": BOUNDS}
        given["key"] = jax.random.key(config.seed + 1)
        attack = functools.partial(attacks.pgd, robust_networks.predict, params, x, y, **given)
        plain = [
            attack(num_steps=PLAIN_STEPS, num_restarts=config.restarts, step_size=size)
            for size in (None, *STEP_SIZES)
        ]
        auto = attacks.apgd(
            robust_networks.predict, params, x, y, num_steps=STEPS, num_restarts=RESTARTS, **given
        )
        whole = attacks.ensemble(
            robust_networks.predict, params, x, y, batch_size=len(x), num_queries=1_000, **given
        )
        percent = lambda result: 100 * float(result.robust_accuracy)
        rows[name] = {
            "no attack": 100 * float(robust_networks.accuracy(params, x, y)),
            "PGD, falling steps": percent(plain[0]),
            **{f"PGD, step {s}": percent(r) for s, r in zip(STEP_SIZES, plain[1:], strict=True)},
            "PGD, best of all": 100 * float(np.mean(~np.any([r.success for r in plain], axis=0))),
            APGD: percent(auto),
            "ensemble": percent(whole),
        }
        short = attack(num_steps=STEPS, step_size=STEP_SIZES[0])
        several = {"PGD": short, APGD: auto, "ensemble": whole}
        beyond[name] = {of: outside(name, eps, x, r.inputs) for of, r in several.items()}
        losses[name] = {
            "APGD": np.asarray(auto.info.losses).mean(axis=1),
            f"PGD, step {STEP_SIZES[0]}": np.asarray(short.info.losses).mean(axis=1),
        }
    return rows, losses, beyond


def outside(norm: str, eps: float, x: Any, inputs: Any) -> float:
    """By which part of the radius inputs are outside of the ball; infinite if out of bounds."""
    low, high = BOUNDS
    if np.min(inputs) < low or np.max(inputs) > high:
        return float("inf")
    moved = (np.asarray(inputs, np.float64) - np.asarray(x, np.float64)).reshape(len(x), -1)
    order = np.inf if norm == "linf" else 2
    return float(np.linalg.norm(moved, order, axis=1).max() / eps - 1)


def linear_claims(linear: dict[str, dict[str, np.ndarray]], beyond: list[float]) -> list[Claim]:
    """Per example, all norms."""
    made = []
    for attack in columns_of(linear):
        made.append(
            Claim.at_least(
                CLOSED_FORM,
                f"{attack}: the worst perturbation of a linear classifier is reached (what it "
                "lowers the margin by, over the most possible; every example, "
                f"{sum(attack in row for row in linear.values())} norms)",
                np.concatenate([row[attack] for row in linear.values() if attack in row]),
                LEAST[attack.split(",")[0]],
            )
        )
    made.append(
        Claim.at_most(
            CLOSED_FORM,
            "no attack reaches more than there is (the same)",
            np.concatenate([share for row in linear.values() for share in row.values()]),
            1.0,
            tolerance=1e-9,
        )
    )
    made.append(
        Claim.at_most(
            OWN,
            "what is returned is in the ball (by which part of the radius it is outside)",
            beyond,
            1e-6,
        )
    )
    return made


def network_claims(
    network: dict[str, dict[str, float]], beyond: dict[str, dict[str, float]], images: int
) -> list[Claim]:
    """Where no closed form is known."""
    auto = [row[APGD] - row["PGD, best of all"] for row in network.values()]
    whole = [row["ensemble"] - min(row["PGD, best of all"], row[APGD]) for row in network.values()]
    return [
        Claim.at_most(
            OWN,
            f"on a network APGD ({RESTARTS} times {STEPS} steps) leaves no more robust accuracy "
            f"than plain PGD with restarts and {1 + len(STEP_SIZES)} step sizes together, "
            f"but for one image of {images} (difference in points)",
            auto,
            100 / images,
            tolerance=1e-6,
        ),
        Claim.at_most(
            OWN, "the ensemble leaves no more than all of these (difference in points)", whole, 0.5
        ),
        Claim.at_least(
            OWN,
            "the attacks matter: accuracy without one less that under the ensemble, in points",
            [row["no attack"] - row["ensemble"] for row in network.values()],
            10.0,
        ),
        Claim.at_most(
            OWN,
            "inputs are in ball and box, in single precision (by which part of the radius they are "
            "outside of the ball)",
            [value for by in beyond.values() for value in by.values()],
            1e-6,
        ),
    ]


def summarise(
    linear: dict[str, dict[str, np.ndarray]], network: dict[str, dict[str, float]]
) -> str:
    """What was found, in words and numbers."""
    short = {a: max(1 - row[a].min() for row in linear.values()) for a in LEAST}
    told = ", ".join(f"{name} {short[name]:.0e}" for name in short)
    nets = "; ".join(
        f"{name}: {row['no attack']:.1f} % without an attack, {row['PGD, best of all']:.1f} % "
        f"under all of PGD, {row[APGD]:.1f} % under APGD, {row['ensemble']:.1f} "
        "% under the ensemble"
        for name, row in network.items()
    )
    return (
        "On linear classifiers all attacks come to the worst perturbation; what the worst example "
        f"of {len(linear)} norms lacks: {told}.\n\nOn a network of digits ({nets})."
    )


def columns_of(linear: dict[str, dict[str, np.ndarray]]) -> list[str]:
    """All attacks, those that not all norms have at the end."""
    return list(dict.fromkeys(name for row in reversed(linear.values()) for name in row))


def linear_table(linear: dict[str, dict[str, np.ndarray]]) -> Table:
    """What the worst example lacks."""
    columns = columns_of(linear)
    lack = lambda row, name: f"{max(1 - row[name].min(), 0):.0e}" if name in row else "—"
    return Table(
        "Linear classifiers: what the worst example lacks of the closed form",
        ["norm", *columns],
        [[name, *(lack(row, c) for c in columns)] for name, row in linear.items()],
        f"One less the share reached. PGD, APGD and Frank-Wolfe with {STEPS} gradients, Square "
        f"with {QUERIES} queries for each feature, in Fourier-l1 {QUERIES_L1}.",
    )  # fmt: skip


def network_table(network: dict[str, dict[str, float]]) -> Table:
    """Robust accuracies."""
    names = list(network)
    return Table(
        "Robust accuracy of the network (%)",
        ["attack", *(f"{name}, eps {RADII[name]}" for name in names)],
        [[row, *(float(network[name][row]) for name in names)] for row in network[names[0]]],
        f"PGD: {PLAIN_STEPS} steps, many restarts for each step size (in units of eps). APGD: "
        f"{STEPS} steps, {RESTARTS} restarts.",
    )


def plot(result: Result) -> dict:
    """What is lacking on linear classifiers; losses on the network."""
    return {
        "linear": attack_quality_plots.lacking(result),
        "losses": attack_quality_plots.losses(result),
    }
