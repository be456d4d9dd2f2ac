"""Where a number comes from: versions, commit, machine."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

PROJECT_ROOT = Path(__file__).resolve().parents[2]


def versions() -> dict[str, Any]:
    """Versions of what the numbers depend on, and the machine they were measured on."""
    import jax  # here, so that reading and showing results needs no JAX

    packages = ("jax", "jaxlib", "optax", "jaxrobust")
    return {
        "python": platform.python_version(),
        **{name: _installed_version(name) for name in packages},
        "numpy": np.__version__,
        "platform": platform.platform(terse=True),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "processor": _processor(),
        "cpu_count": _usable_cores(),
        "x64": bool(jax.config.values["jax_enable_x64"]),
    }


def commit(root: Path = PROJECT_ROOT) -> dict[str, Any] | None:
    """`{"id", "dirty"}` of the checkout that `root` is the top of; None outside of one."""
    top = _git(root, "rev-parse", "--show-toplevel")
    identifier = _git(root, "rev-parse", "HEAD")
    # An installed copy may lie inside a checkout of something else, whose commit says nothing.
    if not top or not identifier or Path(top).resolve() != root.resolve():
        return None
    return {"id": identifier, "dirty": _git(root, "status", "--porcelain") != ""}


def _git(root: Path, *arguments: str) -> str | None:
    """The output of a git command; None if it fails or there is no git."""
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _installed_version(package: str) -> str | None:
    """The version of an installed package; None for a bare checkout that is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _usable_cores() -> int | None:
    """How many cores this process may use: fewer than the machine has, in a container."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _processor() -> str:
    """The name of the processor; on Linux `platform.processor()` often knows nothing."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
