"""`per_example` against the mean gradient, `vmap(grad)`, Opacus and BackPACK; float32.

All ratios are to the mean gradient of the same library in the same run, and the calls of one model
take turns, so that a machine that is slow for a while is slow for all. Opacus and BackPACK run in
an environment of their own that `make bench` prepares (JAXROBUST_TORCH_PYTHON names its Python).
"""

import json
import os
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments.benchmarks import timing
from experiments.benchmarks.per_example_models import Model, models
from jaxrobust import per_example, trees

DIM = 256
COMPILE_BAR = 2.5
VARIABLE = "JAXROBUST_TORCH_PYTHON"
SCRIPT = Path(__file__).with_name("per_example_torch.py")


class Measured(NamedTuple):
    """One function on one model."""

    compile_seconds: float
    seconds: float
    temporary: int  # bytes, beyond inputs and outputs


def main(quick: bool) -> list[str]:
    """Prints the tables; returns what missed its bar."""
    repeats, missed, rows, costs, rivals = (3 if quick else 9), [], [], [], []
    for name, build in models(quick).items():
        model = build()
        found = measure(model, repeats)
        rows.append(ratio_row(name, found))
        costs.append(cost_row(name, model, found))
        rivals.append(torch_row(name, model.torch_name))
        missed += misses(name, model, found)
        print(".", end="", flush=True)
    print("\ntime relative to the mean gradient (value and gradient of the mean loss)")
    columns = [
        "model",
        "mean gradient ms",
        "value_grad_and_norms",
        "norms",
        "sketches",
        "vmap(grad)",
    ]
    print(timing.table(columns, rows))
    print("\ncompile time relative to the mean gradient's, and temporary memory")
    print(
        timing.table(["model", "mean gradient s", *COMPILED, "extra MB", "of (B, params)"], costs)
    )
    print("\nPyTorch, time relative to its own mean gradient")
    print(timing.table(["model", "mean gradient ms", "Opacus ghost norms", "BackPACK"], rivals))
    return missed


COMPILED = ("value_grad_and_norms", "norms", "sketches")


def functions(model: Model) -> dict[str, Callable[[Any, Any], Any]]:
    """What is measured, by name."""
    loss_fn = model.loss_fn

    def mean_gradient(params, batch):
        return jax.value_and_grad(lambda p: jax.vmap(loss_fn, (None, 0))(p, batch).mean())(params)

    def norms_by_vmap(params, batch):
        gradients = jax.vmap(jax.grad(loss_fn), (None, 0))(params, batch)
        return jax.vmap(trees.l2_norm)(gradients)

    return {
        "mean gradient": mean_gradient,
        "value_grad_and_norms": per_example.value_grad_and_norms(loss_fn),
        "norms": per_example.norms(loss_fn),
        "sketches": per_example.sketches(loss_fn, key=jax.random.key(1), dim=DIM),
        "vmap(grad)": norms_by_vmap,
    }


def measure(model: Model, repeats: int) -> dict[str, Measured]:
    """Compiles all functions, then runs them in turns."""
    compiled, compile_seconds = {}, {}
    for name, function in functions(model).items():
        lowered = jax.jit(function).lower(model.params, model.batch)
        compile_seconds[name], compiled[name] = timing.once(lowered.compile)
        timing.once(lambda name=name: compiled[name](model.params, model.batch))
    seconds = {name: [] for name in compiled}
    for _ in range(repeats):
        for name, program in compiled.items():
            run = lambda program=program: program(model.params, model.batch)
            seconds[name].append(timing.once(run)[0])
    return {
        name: Measured(
            compile_seconds[name],
            statistics.median(seconds[name]),
            int(program.memory_analysis().temp_size_in_bytes),
        )
        for name, program in compiled.items()
    }


def ratio_row(name: str, found: dict[str, Measured]) -> list[Any]:
    """Times of one model."""
    plain = found["mean gradient"].seconds
    ratios = [m.seconds / plain for key, m in found.items() if key != "mean gradient"]
    return [name, 1e3 * plain, *ratios]


def cost_row(name: str, model: Model, found: dict[str, Measured]) -> list[Any]:
    """Compile times and memory of one model."""
    plain = found["mean gradient"].compile_seconds
    extra = extra_memory(found)
    share = extra / per_example_bytes(model)
    return [
        name,
        plain,
        *(found[key].compile_seconds / plain for key in COMPILED),
        extra / 1e6,
        f"{100 * share:.1f} %",
    ]


def extra_memory(found: dict[str, Measured]) -> int:
    """Temporary bytes of norms and of sketches, the larger, beyond those of the mean gradient."""
    most = max(found[key].temporary for key in ("norms", "sketches"))
    return most - found["mean gradient"].temporary


def per_example_bytes(model: Model) -> int:
    """Bytes of all per-example gradients."""
    return 4 * jax.tree.leaves(model.batch)[0].shape[0] * trees.size(model.params)


def misses(name: str, model: Model, found: dict[str, Measured]) -> list[str]:
    """The bars that this model missed, in words."""
    plain, bars = found["mean gradient"], model.bars
    checks = [
        (f"{key} / mean gradient", found[key].seconds / plain.seconds, bar)
        for key, bar in (("value_grad_and_norms", bars[0]), ("sketches", bars[1]))
    ]
    checks += [
        (f"compile time of {key}", found[key].compile_seconds / plain.compile_seconds, COMPILE_BAR)
        for key in COMPILED
    ]
    if bars.memory is not None:
        share = extra_memory(found) / per_example_bytes(model)
        checks.append(("extra memory / (B, params)", share, bars.memory))
    return [
        f"per_example {name}: {what} {got:.2f}, bar {bar}" for what, got, bar in checks if got > bar
    ]


def torch_row(name: str, torch_name: str) -> list[Any]:
    """The rivals on their twin of the model."""
    python = os.environ.get(VARIABLE, "")
    if not Path(python).is_file():
        return [name, "not run", f"{VARIABLE} names no Python", ""]
    done = subprocess.run(
        [python, str(SCRIPT), torch_name], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return [name, f"failed: {done.stderr.strip().splitlines()[-1][:60]}", "", ""]
    found = json.loads(done.stdout)
    plain = found["plain"]
    if isinstance(plain, str):
        return [name, "no twin", "", ""]
    rivals = [found[key] for key in ("opacus_ghost", "backpack_l2")]
    cells = [
        f"{r / plain:.3g} ({1e3 * r:.3g} ms)" if isinstance(r, float) else f"cannot: {r[:40]}"
        for r in rivals
    ]
    return [name, 1e3 * plain, *cells]
