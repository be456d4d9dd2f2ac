"""What happened in a run, in memory and as JSON lines."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

Record = dict[str, Any]


class Log:
    """Collects records; appends each to a file at once, so that none is lost."""

    def __init__(self, path: str | Path | None):
        """``path``: the file, or None."""
        self.records: list[Record] = []
        self._path = None if path is None else Path(path)
        self._file: IO[str] | None = None
        self._start = time.perf_counter()

    def __enter__(self) -> "Log":
        """Opens the file."""
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_) -> None:
        """Closes it."""
        if self._file is not None:
            self._file.close()

    def add(self, event: str, step: int, content: Record, took: float) -> None:
        """One record."""
        seconds = time.perf_counter() - self._start
        record = {"event": event, "step": step, "seconds": seconds, **content, "took": took}
        self.records.append(record)
        if self._file is not None:
            self._file.write(json.dumps(_in_json(record), allow_nan=False) + "\n")
            self._file.flush()

    def timed(self, event: str, step: int, action: Callable[..., Record], *arguments: Any) -> None:
        """Does something and records what it returns, with its time."""
        start = time.perf_counter()
        content = action(*arguments)
        self.add(event, step, content, time.perf_counter() - start)


def _in_json(record: Record) -> Record:
    """With NaN and infinities, which JSON does not have, as words that ``float`` reads."""
    is_odd = lambda value: isinstance(value, float) and not math.isfinite(value)
    return {name: str(value) if is_odd(value) else value for name, value in record.items()}
