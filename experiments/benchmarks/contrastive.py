"""Hard negatives against the dense loss in JAX and PyTorch, and pytorch-metric-learning; float32.

Loss and gradient of hardest mining in both directions, D = 256. All JAX programs of one batch size
take turns. The rivals in PyTorch run in an environment of their own that `make bench` prepares
(JAXROBUST_TORCH_PYTHON names its Python), after half of these turns and before the other half: not
in between them all, for threads that wait for work would take the cores from JAX.
"""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import timing
from jaxrobust import contrastive

DIM, MARGIN = 256, 0.2
SIZES, LARGE = (1024, 2048, 4096), 16_384
QUICK_SIZES, QUICK_LARGE = (128, 256), 512
OURS, DENSE, TORCH, METRIC_LEARNING = "hinge_loss", "dense JAX", "dense PyTorch", "batch-hard"
WITH_INFO, SWITCHED = "with Info", "switched"
PEERS = {TORCH: "dense", METRIC_LEARNING: "batch_hard"}  # as the other program calls them
BARS = {TORCH: 2.0, METRIC_LEARNING: 6.0}  # times faster, at least
MOST_MIB, MOST_RATIO = 64.0, 1.3
GALLERY, QUICK_GALLERY = (5_000, 25_000), (50, 250)  # images and captions
MOST_GALLERY_MIB = 1024.0
VARIABLE = "JAXROBUST_TORCH_PYTHON"
SCRIPT = Path(__file__).with_name("contrastive_torch.py")

ABOUT = f"""
Milliseconds of loss and gradient, D = {DIM}; in brackets how many times faster hinge_loss is.
batch-hard: miner and triplet loss of pytorch-metric-learning, in both directions. With Info:
hinge_loss together with what it tells of mining. Switched: mining=switch(..), after the switch.
"""
ABOUT_LARGE = f"""
A large batch, hardest mining. Temporary MiB: beyond inputs and gradients; of the dense loss as XLA
plans it, which is not run. Time relative to work: that of hinge_loss over that of {DENSE} at the
largest batch above, times the ratio of the squares of the batch sizes.
"""
ABOUT_GALLERY = f"""
Recall and ranks both ways, images by captions, D = {DIM}. Temporary MiB: beyond the embeddings.
"""


def main(quick: bool) -> list[str]:
    """Prints the tables; returns what missed its bar."""
    sizes, large = (QUICK_SIZES, QUICK_LARGE) if quick else (SIZES, LARGE)
    measured = {size: measure(size, turns=2 if quick else turns_of(size)) for size in sizes}
    names = (OURS, WITH_INFO, SWITCHED, DENSE, *BARS)
    rows = [[size, *(cell(found, name) for name in names)] for size, found in measured.items()]
    print(ABOUT)
    print(timing.table(["B", *names], rows))
    print("", *sorted({note for found in measured.values() for note in found.notes}), sep="\n")
    missed = [line for size, found in measured.items() for line in misses(size, found)]
    missed += large_batch(large, sizes[-1], measured[sizes[-1]].seconds, quick)
    missed += large_gallery(*(QUICK_GALLERY if quick else GALLERY))
    return [] if quick else missed


def turns_of(size: int) -> int:
    """More of those that are short: a median of few of them is not steady."""
    return max(5, 20 * SIZES[0] // size)


class Measured(NamedTuple):
    """Medians of one batch size."""

    seconds: dict[str, float]  # of those that could be measured
    notes: list[str]  # versions, and why others could not


def misses(size: int, found: Measured) -> list[str]:
    """Rivals that we are not as much faster than as we should be, or that were not measured."""
    lines = []
    for name, bar in BARS.items():
        if name not in found.seconds:
            lines.append(f"contrastive: B={size}: {name} was not measured")
        elif found.seconds[name] < bar * found.seconds[OURS]:
            ratio = found.seconds[name] / found.seconds[OURS]
            lines.append(f"contrastive: B={size}: {ratio:.1f} times faster than {name}, {bar}")
    return lines


def cell(found: Measured, name: str) -> str:
    """Milliseconds, and relative to ours."""
    if name not in found.seconds:
        return "-"
    seconds = found.seconds[name]
    shown = f"{1e3 * seconds:.3g}"
    return shown if name == OURS else f"{shown} ({seconds / found.seconds[OURS]:.1f})"


def losses() -> dict[str, Callable[[Any, Any], Any]]:
    """What is measured, by name."""

    def dense(x, y):
        x, y = (z / jnp.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
        scores = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
        own, pairs = jnp.diagonal(scores), jnp.eye(len(x), dtype=bool)
        rows = jnp.where(pairs, 0, jax.nn.relu(MARGIN + scores - own[:, None]))
        columns = jnp.where(pairs, 0, jax.nn.relu(MARGIN + scores - own[None, :]))
        return jnp.sum(jnp.max(rows, axis=1)) + jnp.sum(jnp.max(columns, axis=0))

    def ours(x, y, mining: Any = "hardest"):
        return contrastive.hinge_loss(x, y, margin=MARGIN, mining=mining, reduction="sum")

    return {OURS: lambda x, y: ours(x, y)[0], DENSE: dense}


def programs() -> dict[str, Callable[[Any, Any], Any]]:
    """Losses with their gradients, compiled; each returns a tuple that begins with both."""
    made = {name: jax.jit(jax.value_and_grad(f, (0, 1))) for name, f in losses().items()}

    def with_info(x, y):
        whole = lambda x, y: contrastive.hinge_loss(x, y, margin=MARGIN, reduction="sum")
        (value, info), gradient = jax.value_and_grad(whole, (0, 1), has_aux=True)(x, y)
        return value, gradient, info

    def switched(x, y, step):
        mining = contrastive.switch(100)(step)
        loss = lambda x, y: contrastive.hinge_loss(
            x, y, margin=MARGIN, mining=mining, reduction="sum"
        )[0]
        return jax.value_and_grad(loss, (0, 1))(x, y)

    later, step = jax.jit(switched), jnp.int32(100)
    return made | {WITH_INFO: jax.jit(with_info), SWITCHED: lambda x, y: later(x, y, step)}


def embeddings(size: int) -> list[jax.Array]:
    """Random pairs."""
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(size, DIM)), jnp.float32) for _ in range(2)]


def measure(size: int, turns: int) -> Measured:
    """Median seconds of every loss with its gradient; ours and the dense one must agree."""
    pairs = embeddings(size)
    compiled = programs()
    results = [timing.once(lambda f=f: f(*pairs))[1][:2] for f in compiled.values()]
    for a, *others in zip(*map(jax.tree.leaves, results), strict=True):
        for b in others:
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    taken = {name: [] for name in compiled}

    def take_turns():
        for _ in range(turns):
            for name, program in compiled.items():
                run = lambda program=program: program(*pairs)
                timing.once(run)  # as after itself, which is how the rivals are timed
                taken[name].append(timing.once(run)[0])

    take_turns()
    peers = measure_peers(size)
    take_turns()
    ours = {name: float(np.median(seconds)) for name, seconds in taken.items()}
    return Measured(ours | peers.seconds, peers.notes)


def measure_peers(size: int) -> Measured:
    """What PyTorch needs, or why it was not asked."""
    python = os.environ.get(VARIABLE, "")
    if not Path(python).is_file():
        return Measured({}, [f"PyTorch not run: {VARIABLE} names no Python with PyTorch"])
    command = [python, str(SCRIPT), str(DIM), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Measured({}, [f"PyTorch not run: {why}"])
    return read_peers(json.loads(done.stdout))


def read_peers(found: dict[str, Any]) -> Measured:
    """From what the other program prints."""
    notes = [
        f"PyTorch {found['torch']}, {found['threads']} threads; pytorch-metric-learning "
        f"{found['metric_learning']}"
    ]
    seconds = {}
    for name, key in PEERS.items():
        if isinstance(found[key], float):
            seconds[name] = found[key]
        else:
            notes.append(f"{name} cannot, at B={found['size']}: {found[key]}")
    return Measured(seconds, notes)


def large_batch(size: int, before: int, seconds: dict[str, Any], quick: bool) -> list[str]:
    """Memory and time where the matrix of scores does not fit."""
    pairs = embeddings(size)
    plans = {
        name: jax.jit(jax.value_and_grad(f, (0, 1))).lower(*pairs).compile()
        for name, f in losses().items()
    }
    mib = {name: temporary_mib(plan) for name, plan in plans.items()}
    run = lambda: plans[OURS](*pairs)
    timing.once(run)
    took = timing.median(run, 1 if quick else 3)
    ratio = took / (seconds[DENSE] * (size / before) ** 2)
    print(ABOUT_LARGE)
    columns = ["B", "seconds", "relative to work", "temporary MiB", "dense, MiB"]
    print(timing.table(columns, [[size, took, ratio, mib[OURS], mib[DENSE]]]))
    missed = []
    if mib[OURS] > MOST_MIB:
        missed.append(f"contrastive: B={size}: {mib[OURS]:.0f} MiB, {MOST_MIB:g}")
    if ratio > MOST_RATIO:
        missed.append(f"contrastive: B={size}: {ratio:.2f} times the work, {MOST_RATIO}")
    return missed


def temporary_mib(plan: Any) -> float:
    """Of a compiled program, beyond its arguments and results."""
    return plan.memory_analysis().temp_size_in_bytes / 2**20


def large_gallery(num_images: int, num_captions: int) -> list[str]:
    """Time and memory of retrieval metrics."""
    rng = np.random.default_rng(0)
    x, y = (
        jnp.asarray(rng.normal(size=(number, DIM)), jnp.float32)
        for number in (num_images, num_captions)
    )
    groups = jnp.arange(num_captions, dtype=jnp.int32) * num_images // num_captions
    rows, missed = [], []
    for average_precision in (False, True):
        metrics = lambda x, y, wanted=average_precision: contrastive.retrieval_metrics(
            x, y, groups, average_precision=wanted
        )
        plan = jax.jit(metrics).lower(x, y).compile()
        timing.once(lambda plan=plan: plan(x, y))
        mib, took = temporary_mib(plan), timing.median(lambda plan=plan: plan(x, y), 3)
        rows.append([num_images, num_captions, "yes" if average_precision else "no", took, mib])
        if mib > MOST_GALLERY_MIB:
            missed.append(f"contrastive: gallery: {mib:.0f} MiB, {MOST_GALLERY_MIB:g}")
    print(ABOUT_GALLERY)
    columns = ["images", "captions", "average precision", "seconds", "temporary MiB"]
    print(timing.table(columns, rows))
    return missed
