"""Experiments that only tests have, and the command line over them."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import pytest

from experiments import Experiment, discover
from experiments.cli import main

HERE = Path(__file__).parent
FAKES = HERE / "fakes"
# The same command line in a process of its own: a program for `python -c`.
PROGRAM = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
from pathlib import Path
sys.path[:0] = [{str(HERE)!r}, {str(HERE.parents[1])!r}]
from experiments import discover
from experiments.cli import main
sys.exit(main(sys.argv[1:], discover(Path({str(FAKES)!r}), "fakes")))
"""


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Experiment]:
    """The experiments in the folder `fakes`."""
    monkeypatch.syspath_prepend(HERE)
    return discover(FAKES, "fakes")


@pytest.fixture
def cache_dir_restored() -> Iterator[None]:
    """Puts back JAX's setting of the compilation cache, which the command line sets."""
    before = jax.config.values["jax_compilation_cache_dir"]
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture
def run(fakes, tmp_path: Path, cache_dir_restored: None) -> Callable[..., int]:
    """Runs a command line over the fake experiments; results go to `tmp_path/run`."""

    def run(*argv: str) -> int:
        return main([*argv, "--output", str(tmp_path), "--run", "run"], fakes)

    return run


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a command line over the fake experiments in a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(*argv: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM, *argv]
        process = subprocess.Popen(command, stdout=-1, stderr=-1, text=True, encoding="utf-8")
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
