"""The ensemble of attacks against AutoAttack on the same network, and what APGD costs; float32.

A small network on the images of digits, trained adversarially, so that attacks do not succeed on
all. Its weights go to PyTorch, in an environment of its own that `make bench` prepares
(JAXROBUST_TORCH_PYTHON names its Python).
"""

import functools
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import robust_networks
from experiments.benchmarks import timing
from experiments.robust_networks import predict
from jaxrobust import attacks, data, trees

RADII = {"linf": 0.15, "l2": 0.7}
TORCH_NAMES = {"linf": "Linf", "l2": "L2"}
NUMBER, QUICK_NUMBER = 500, 20  # examples that are attacked
STEPS, QUERIES, QUICK_QUERIES = 100, 5_000, 20
MOST_OFF = 1e-3  # of the scores of the same network in PyTorch, which are of order 10
POINTS = 0.5  # of accuracy, in %, that the ensemble may leave more than AutoAttack
LARGE_BATCH = 64  # images of 32x32 pixels
# Of networks for them. A gradient of the first takes 0.2 ms for each image on one core, of the
# second 2 ms, still less than those of usual networks for such images. What APGD does besides is
# some 0.1 ms for each.
WIDTHS = {"32x32": (64, 128, 128), "32x32, wide": (256, 384, 384)}
MOST_RATIO = 1.15  # APGD over so many gradients
VARIABLE = "JAXROBUST_TORCH_PYTHON"
SCRIPT = Path(__file__).with_name("attacks_torch.py")
ENSEMBLE, APGD, PGD = "ensemble", "APGD, 100 steps", "PGD, 100 steps"
PEERS = {"autoattack": "AutoAttack", "apgd": "torchattacks APGD", "pgd": "torchattacks PGD"}

ABOUT = """
Accuracy in % of {number} images of digits, clean {clean:.1f}, under attacks; in brackets seconds,
those of compilation apart (a second run).
"""
ABOUT_COST = """
Milliseconds of APGD with {steps} steps, and of as many gradients of the loss by the inputs.
"""


class Measured(NamedTuple):
    """Of one norm."""

    accuracy: dict[str, float]  # in %, by attack
    seconds: dict[str, float]
    compiling: dict[str, float]
    notes: list[str]
    off: float = 0.0  # by how much scores of the images differ from ours


def main(quick: bool) -> list[str]:
    """Prints the tables; returns what missed its bar."""
    params, x, y = problem(quick)
    missed, notes = [], set()
    peers = measure_peers(params, x, y)
    clean = 100 * float(np.mean(np.asarray(predict(params, x)).argmax(axis=1) == y))
    rows = []
    for norm, eps in RADII.items():
        found = measure(params, x, y, norm, eps, quick)
        other = peers.get(norm, Measured({}, {}, {}, []))
        notes |= set(other.notes)
        accuracy, seconds = found.accuracy | other.accuracy, found.seconds | other.seconds
        for name in (ENSEMBLE, APGD, PGD, *PEERS.values()):
            if name in accuracy:
                compiling = found.compiling.get(name)
                told = "-" if compiling is None else f"{compiling:.1f}"
                rows.append([norm, name, f"{accuracy[name]:.1f}", f"{seconds[name]:.2f}", told])
        missed += misses(norm, accuracy, other.off)
    print(ABOUT.format(number=len(x), clean=clean))
    print(timing.table(["norm", "attack", "accuracy, %", "seconds", "to compile"], rows))
    print("", *sorted(notes), sep="\n")
    missed += cost(params, x, y, quick)
    return [] if quick else missed


def misses(norm: str, accuracy: dict[str, float], off: float) -> list[str]:
    """Whether the ensemble leaves more than AutoAttack, or that is not known."""
    missed = [f"attacks: {norm}: {name} was not measured"
              for name in PEERS.values() if name not in accuracy]  # fmt: skip
    if off > MOST_OFF:
        missed.append(f"attacks: {norm}: scores in PyTorch are off by {off:.2g}: another network")
    theirs = accuracy.get(PEERS["autoattack"], np.inf)
    if accuracy[ENSEMBLE] > theirs + POINTS:
        missed.append(
            f"attacks: {norm}: {accuracy[ENSEMBLE]:.1f} % left, AutoAttack {theirs:.1f} %"
        )
    return missed


def problem(quick: bool) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Params after adversarial training in linf, and test images with labels."""
    number = QUICK_NUMBER if quick else NUMBER
    found = robust_networks.images(data.digits(), (8, 8, 1), num_test=number)
    params = robust_networks.trained(
        found, robust_networks.init(jax.random.key(0), (8, 8, 1)),
        norm="linf", eps=RADII["linf"], num_steps=20 if quick else 600,
    )  # fmt: skip
    return params, np.asarray(found.x_test), np.asarray(found.y_test)


def measure(params: Any, x: Any, y: Any, norm: str, eps: float, quick: bool) -> Measured:
    """Every attack twice: the second time nothing is compiled."""
    options: dict[str, Any] = {
        "norm": norm, "eps": eps, "bounds": (0.0, 1.0), "key": jax.random.key(0)
    }  # fmt: skip
    given = predict, params, x, y
    queries = QUICK_QUERIES if quick else QUERIES
    programs = {
        ENSEMBLE: lambda: attacks.ensemble(
            *given, batch_size=len(x), num_queries=queries, **options
        ),
        APGD: lambda: attacks.apgd(*given, num_steps=STEPS, **options),
        PGD: lambda: attacks.pgd(*given, num_steps=STEPS, **options),
    }
    accuracy, seconds, compiling = {}, {}, {}
    for name, program in programs.items():
        first, _ = timing.once(program)
        seconds[name], found = timing.once(program)
        accuracy[name] = 100 * float(found.robust_accuracy)
        compiling[name] = first - seconds[name]
    return Measured(accuracy, seconds, compiling, [])


def cost(params: Any, x: Any, y: Any, quick: bool) -> list[str]:
    """APGD next to the gradients that it needs, both looped over in the same way.

    Of the network that was attacked, of which a gradient takes 1 us for each image, and of larger
    ones, of random weights, for images of 32x32 pixels.
    """
    rng = np.random.default_rng(0)
    shape = (32, 32, 3)
    images = rng.uniform(size=(8 if quick else LARGE_BATCH, *shape)).astype(np.float32)
    networks = {"digits": (params, x, y)}
    for network, widths in list(WIDTHS.items())[: 1 if quick else None]:
        large = robust_networks.init(
            jax.random.key(0), shape, widths=widths[:1] if quick else widths
        )
        networks[network] = large, images, np.asarray(predict(large, images).argmax(axis=1))
    rows, missed = [], []
    for network, given in networks.items():
        for norm, eps in RADII.items():
            attack = functools.partial(
                attacks.apgd, predict, *given, norm=norm, eps=eps, bounds=(0.0, 1.0),
                key=jax.random.key(0), num_steps=STEPS,
            )  # fmt: skip
            plain = functools.partial(gradients(STEPS), *map(jnp.asarray, given[1:]), given[0])
            for run in (attack, plain):
                timing.once(run)
            repeats = 1 if quick else {"digits": 7, "32x32": 3}.get(network, 1)
            ours, theirs = timing.median(attack, repeats), timing.median(plain, repeats)
            ratio = ours / theirs
            rows.append([network, norm, 1e3 * ours, 1e3 * theirs, ratio])
            if ratio > MOST_RATIO:
                told = f"attacks: {network}, {norm}: APGD takes {ratio:.2f} of its gradients"
                missed.append(f"{told}, {MOST_RATIO}")
    print(ABOUT_COST.format(steps=STEPS))
    print(timing.table(["network", "norm", "APGD", "gradients", "ratio"], rows))
    return missed


def gradients(number: int):
    """So many gradients of the cross-entropy by the inputs, each where the last one leads to."""

    def loss(x, params, y):
        return jnp.sum(optax.softmax_cross_entropy_with_integer_labels(predict(params, x), y))

    def run(x, y, params):
        step = lambda x, _: (x + 1e-3 * jax.grad(loss)(x, params, y), None)
        return jax.lax.scan(step, jnp.asarray(x), length=number)[0]

    return trees.compiled(run, num_static=0)  # convolutions in compiled loops are slow on a CPU


def measure_peers(params: Any, x: Any, y: Any) -> dict[str, Measured]:
    """What PyTorch finds, by norm; or why it was not asked."""
    python = os.environ.get(VARIABLE, "")
    why = f"PyTorch not run: {VARIABLE} names no Python with PyTorch"
    if Path(python).is_file():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.npz"
            scores = np.asarray(predict(params, x))
            np.savez(path, images=x, labels=y, scores=scores, steps=STEPS, **RADII, **params)
            command = [python, str(SCRIPT), str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
            return dict(read_peers(json.loads(line.removeprefix("FOUND "))) for line in lines)
        why = "PyTorch not run: " + (done.stderr.strip().splitlines() or ["no message"])[-1]
    return {norm: Measured({}, {}, {}, [why]) for norm in RADII}


def read_peers(found: dict[str, Any]) -> tuple[str, Measured]:
    """From what the other program prints."""
    norm = {other: name for name, other in TORCH_NAMES.items()}[found["norm"]]
    accuracy, seconds = {}, {}
    notes = [f"PyTorch {found['torch']}, {found['threads']} threads"]
    for key, name in PEERS.items():
        if isinstance(found[key], list):
            accuracy[name], seconds[name] = 100 * found[key][0], found[key][1]
        else:
            notes.append(f"{name} cannot, {norm}: {found[key]}")
    return norm, Measured(accuracy, seconds, {}, notes, found["off"])
