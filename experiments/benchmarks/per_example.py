"""`per_example` against the mean gradient, `vmap(grad)`, Opacus and BackPACK; float32.

All ratios are to the mean gradient of the same library in the same run, and the calls of one model
take turns, so that a machine that is slow for a while is slow for all. `vmap(grad)` runs after all
others: it fills the caches with its gradients, and what came next would look slow. The norms are
compared with those of `vmap(grad)` on a few examples of every model. Opacus and BackPACK run in an
environment of their own that `make bench` prepares (JAXROBUST_TORCH_PYTHON names its Python).
"""

import json
import os
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.benchmarks import timing
from experiments.benchmarks.per_example_models import Model, models
from jaxrobust import per_example, trees

DIM = 256
COMPILE_BAR = 2.5
ERROR_BAR = 1e-5
NUM_CHECKED = 4
PLAIN, FUSED, NORMS, SKETCHES = "mean gradient", "value_grad_and_norms", "norms", "sketches"
SLOW = "vmap(grad)"
OURS = (FUSED, NORMS, SKETCHES)
RIVALS = {"opacus_ghost": "Opacus ghost", "backpack_l2": "BackPACK"}
SHORT = {FUSED: "grad+norms"}  # in the tables, which are wide enough without it
VARIABLE = "JAXROBUST_TORCH_PYTHON"
SCRIPT = Path(__file__).with_name("per_example_torch.py")

ABOUT_TIME = f"""
Each cell: time relative to the mean gradient (value and gradient of the mean loss) of the same
library, and in brackets the ms of one pass. Columns JAX and PyTorch: those mean gradients, in ms;
right of each stands what is relative to it. grad+norms: {FUSED}. Sketches: of
{DIM} numbers. Opacus ghost: mean gradient and norms, without the second pass that clips. BackPACK:
mean gradient and BatchL2Grad.
"""
ABOUT_COMPILING = f"""
Seconds to trace and lower the mean gradient, and to compile it; those of the others relative to
them (trace / compile). Extra MB: temporary memory of norms or sketches, the larger, beyond that of
the mean gradient; then relative to the gradients of all examples. Norm error: the largest relative
error of the norms of {NUM_CHECKED} examples, against vmap(grad).
"""


class Measured(NamedTuple):
    """One function on one model."""

    trace_seconds: float  # tracing and lowering
    compile_seconds: float
    seconds: float
    temporary: int  # bytes, beyond inputs and outputs


class Peers(NamedTuple):
    """What PyTorch's libraries need on their twin of a model."""

    seconds: dict[str, float]  # by name: "plain" and those of RIVALS that can do it
    notes: list[str]  # why others cannot


def main(quick: bool) -> list[str]:
    """Prints the tables; returns what missed its bar."""
    repeats, missed, times, costs, notes = (3 if quick else 9), [], [], [], []
    for name, build in models(quick).items():
        model = build()
        found, error = measure(model, repeats)
        peers = measure_peers(name, model.torch_name)
        times.append(time_row(name, found, peers))
        costs.append(cost_row(name, model, found, error))
        notes += [note for note in peers.notes if note not in notes]
        missed += misses(name, model, found, error)
        print(".", end="", flush=True)
    print(ABOUT_TIME)
    names = [SHORT.get(key, key) for key in OURS]
    print(timing.table(["model", "JAX", *names, SLOW, "PyTorch", *RIVALS.values()], times))
    print("", *notes, sep="\n")
    print(ABOUT_COMPILING)
    columns = ["model", "trace s", "compile s", *names, "extra MB", "of (B, params)", "norm error"]
    print(timing.table(columns, costs))
    return missed


def functions(model: Model) -> dict[str, Callable[[Any, Any], Any]]:
    """What is measured, by name."""
    loss_fn = model.loss_fn

    def mean_gradient(params, batch):
        return jax.value_and_grad(lambda p: jax.vmap(loss_fn, (None, 0))(p, batch).mean())(params)

    def norms_by_vmap(params, batch):
        gradients = jax.vmap(jax.grad(loss_fn), (None, 0))(params, batch)
        return jax.vmap(trees.l2_norm)(gradients)

    return {
        PLAIN: mean_gradient,
        FUSED: per_example.value_grad_and_norms(loss_fn),
        NORMS: per_example.norms(loss_fn),
        SKETCHES: per_example.sketches(loss_fn, key=jax.random.key(1), dim=DIM),
        SLOW: norms_by_vmap,
    }


def measure(model: Model, repeats: int) -> tuple[dict[str, Measured], float]:
    """Compiles all functions, then runs them in turns; and the error of the norms."""
    compiled, trace_seconds, compile_seconds = {}, {}, {}
    lower = lambda function: jax.jit(function).lower(model.params, model.batch)
    for function in functions(model).values():  # the first to be traced would pay for the others:
        lower(function)  # JAX keeps the traces of what they have in common
    for name, function in functions(model).items():
        trace_seconds[name], lowered = timing.once(lambda function=function: lower(function))
        compile_seconds[name], compiled[name] = timing.once(lowered.compile)
    seconds = {name: [] for name in compiled}
    for names in ((PLAIN, *OURS), (SLOW,)):
        for repeat in range(repeats + 1):
            for name in names:
                run = lambda name=name: compiled[name](model.params, model.batch)
                took, _ = timing.once(run)
                if repeat:  # the first finds the caches full of what ran before
                    seconds[name].append(took)
    found = {
        name: Measured(
            trace_seconds[name],
            compile_seconds[name],
            statistics.median(seconds[name]),
            int(program.memory_analysis().temp_size_in_bytes),
        )
        for name, program in compiled.items()
    }
    return found, norm_error(model, compiled)


def norm_error(model: Model, compiled: dict[str, Any]) -> float:
    """Largest relative error of the norms of a few examples, by the programs that were timed."""
    few = jax.tree.map(lambda leaf: leaf[:NUM_CHECKED], model.batch)
    exact = np.asarray(jax.jit(functions(model)[SLOW])(model.params, few), np.float64)
    found = [compiled[NORMS](model.params, model.batch)]
    found += [compiled[FUSED](model.params, model.batch)[2]]
    return max(float(np.max(np.abs(np.asarray(f)[:NUM_CHECKED] / exact - 1))) for f in found)


def time_row(name: str, found: dict[str, Measured], peers: Peers) -> list[str]:
    """Times of one model."""
    plain = found[PLAIN].seconds
    ours = [ratio(found[key].seconds, plain) for key in (*OURS, SLOW)]
    rival_plain = peers.seconds.get("plain")
    if rival_plain is None:
        return [name, milliseconds(plain), *ours, *["-"] * (1 + len(RIVALS))]
    rivals = [
        ratio(peers.seconds[key], rival_plain) if key in peers.seconds else "-" for key in RIVALS
    ]
    return [name, milliseconds(plain), *ours, milliseconds(rival_plain), *rivals]


def ratio(seconds: float, plain: float) -> str:
    """A cell: relative to the mean gradient, and absolute."""
    return f"{seconds / plain:.2f} ({milliseconds(seconds)})"


def milliseconds(seconds: float) -> str:
    """Three digits, and no exponent."""
    return f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:.0f}"


def cost_row(name: str, model: Model, found: dict[str, Measured], error: float) -> list[Any]:
    """Time to trace and compile, memory and errors of one model."""
    plain, extra = found[PLAIN], extra_memory(found)
    return [
        name,
        plain.trace_seconds,
        plain.compile_seconds,
        *(
            f"{found[key].trace_seconds / plain.trace_seconds:.2f} / "
            f"{found[key].compile_seconds / plain.compile_seconds:.2f}"
            for key in OURS
        ),
        extra / 1e6,
        f"{100 * extra / per_example_bytes(model):.1f} %",
        f"{error:.1e}",
    ]


def extra_memory(found: dict[str, Measured]) -> int:
    """Temporary bytes of norms and of sketches, the larger, beyond those of the mean gradient."""
    return max(found[key].temporary for key in (NORMS, SKETCHES)) - found[PLAIN].temporary


def per_example_bytes(model: Model) -> int:
    """Bytes of all per-example gradients."""
    return 4 * jax.tree.leaves(model.batch)[0].shape[0] * trees.size(model.params)


def misses(name: str, model: Model, found: dict[str, Measured], error: float) -> list[str]:
    """The bars that this model missed, in words."""
    plain, bars = found[PLAIN], model.bars
    checks = [
        (f"{key} / mean gradient", found[key].seconds / plain.seconds, bar)
        for key, bar in ((FUSED, bars.value_grad_and_norms), (SKETCHES, bars.sketches))
    ]
    checks += [
        (f"compile time of {key}", found[key].compile_seconds / plain.compile_seconds, COMPILE_BAR)
        for key in OURS
    ]
    if bars.memory is not None:
        share = extra_memory(found) / per_example_bytes(model)
        checks.append(("extra memory / (B, params)", share, bars.memory))
    checks.append(("relative error of norms", error, ERROR_BAR))
    return [
        f"per_example {name}: {what} {got:.3g}, bar {bar}"
        for what, got, bar in checks
        if not got <= bar  # so that NaN misses too
    ]


def measure_peers(name: str, torch_name: str) -> Peers:
    """The rivals on their twin of the model."""
    python = os.environ.get(VARIABLE, "")
    if not Path(python).is_file():
        return Peers({}, [f"PyTorch not run: {VARIABLE} names no Python"])
    done = subprocess.run(
        [python, str(SCRIPT), torch_name], capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        return Peers({}, [f"PyTorch failed on {name}: {said[-1][:100]}"])
    return read_peers(name, json.loads(done.stdout))


def read_peers(name: str, found: dict[str, Any]) -> Peers:
    """What the script printed of one model."""
    if isinstance(found["plain"], str):
        return Peers({}, [f"no twin of {name} in PyTorch: {found['plain']}"])
    notes = [f"PyTorch {found['torch']}, {found['threads']} threads"]
    notes += [
        f"{rival} cannot, on {name}: {found[key]}"
        for key, rival in RIVALS.items()
        if isinstance(found[key], str)
    ]
    seconds = {key: found[key] for key in ("plain", *RIVALS) if not isinstance(found[key], str)}
    return Peers(seconds, notes)
