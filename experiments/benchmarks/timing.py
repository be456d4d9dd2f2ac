"""Timing, and tables of timings."""

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax


def once(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of one call, results awaited, and what it returned."""
    begin = time.perf_counter()
    result = jax.block_until_ready(function())
    return time.perf_counter() - begin, result


def median(function: Callable[[], Any], repeats: int) -> float:
    """Median seconds of `repeats` calls; call `once` before, so that nothing compiles in here."""
    return statistics.median(once(function)[0] for _ in range(repeats))


def machine() -> str:
    """One line that says what the figures were measured on."""
    device = jax.devices()[0]
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
    return (
        f"{platform.machine()}, {os.cpu_count()} CPU cores, {device.platform} "
        f"({device.device_kind}), Python {platform.python_version()}, "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Aligned text; numbers with three significant digits."""
    cells = [list(columns)] + [[_text(value) for value in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
