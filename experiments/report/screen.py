"""The run on the screen: how far it is, and a few lines for each experiment done.

On a terminal there is one progress bar over all experiments. Where standard error goes to a file or
a pipe, a bar would leave its carriage returns there: `Lines` writes whole lines instead, few enough
to read. What was found goes to standard output in both cases.
"""

import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from tqdm.auto import tqdm

from experiments import Progress
from experiments.claims import Claim
from experiments.report import render

WIDTH = 100  # characters of a line
PAUSE = 5.0  # seconds between two lines of progress in a file


def screen(num_experiments: int) -> "Bar | Lines":
    """What shows a run of so many experiments: a bar on a terminal, lines elsewhere."""
    return Bar(num_experiments) if sys.stderr.isatty() else Lines(num_experiments)


class Bar:
    """Shows progress on a terminal; a context manager that closes the bar."""

    def __init__(self, num_experiments: int):
        self._begun = 0
        self._bar = tqdm(
            total=num_experiments,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed}<{remaining}{postfix}",
            mininterval=0.2,
        )

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()

    def begin(self, name: str) -> Progress:
        """Names the experiment in the bar; returns the callback for its progress."""
        done = self._begun
        self._begun += 1
        self._bar.set_description_str(f"{self._begun}/{self._bar.total} {name}")

        def progress(*news: float | str) -> None:
            for item in news:
                if isinstance(item, str):
                    self._bar.set_postfix_str(item, refresh=False)
                else:
                    self._bar.update(done + _fraction(item) - self._bar.n)

        return progress

    def end(self, stored: Mapping[str, Any]) -> None:
        """Writes what the experiment found, with every claim that does not hold."""
        self._bar.set_postfix_str("", refresh=False)
        self._bar.update(self._begun - self._bar.n)
        for line in _found(stored):
            self._bar.write(line)


class Lines:
    """Shows progress in a log: a line per experiment, and one for news after a pause."""

    def __init__(self, num_experiments: int):
        self._total, self._begun = num_experiments, 0

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: Any) -> None: ...

    def begin(self, name: str) -> Progress:
        """Says which experiment begins; returns the callback for its progress."""
        self._begun += 1
        title, fraction, shown = f"{self._begun}/{self._total} {name}", 0.0, time.monotonic()
        _log(title)

        def progress(*news: float | str) -> None:
            nonlocal fraction, shown
            for item in news:
                if not isinstance(item, str):
                    fraction = _fraction(item)
                elif time.monotonic() - shown >= PAUSE:
                    shown = time.monotonic()
                    _log(f"{title}, {100 * fraction:.0f} % done: {item}")

        return progress

    def end(self, stored: Mapping[str, Any]) -> None:
        """Writes what the experiment found, with every claim that does not hold."""
        for line in _found(stored):
            print(line, flush=True)


def _log(text: str) -> None:
    """One entry of the log, as whole lines."""
    print(_wrapped(text), file=sys.stderr, flush=True)


def _fraction(item: float | str) -> float:
    """How much of an experiment is done, from 0 to 1."""
    return min(max(float(item), 0.0), 1.0)


def _found(stored: Mapping[str, Any]) -> Iterator[str]:
    """What an experiment found, as lines."""
    claims = [Claim.from_json(plain) for plain in stored["claims"]]
    verdicts = Counter(claim.verdict for claim in claims)
    counts = ", ".join(f"{number} {verdict}" for verdict, number in verdicts.items())
    duration = render.seconds(stored["wall_time"].get("total", 0.0))
    yield f"{stored['experiment']:14} {duration:>12}   claims: {counts or 'none'}"
    for claim in claims:
        if not claim.holds:
            yield _wrapped(f"  {render.SYMBOLS[claim.verdict]} {_sentence(claim)}")
    if stored["error"]:
        yield f"  ✗ stopped by an error:\n{stored['error']}"


def _wrapped(text: str) -> str:
    """The text on lines of at most `WIDTH` characters; later ones are indented."""
    return textwrap.fill(text, WIDTH, subsequent_indent="      ", break_long_words=False)


def _sentence(claim: Claim) -> str:
    """What a claim that does not hold said, and what was found."""
    values = f" ({render.how_many(claim)})" if claim.count > 1 else ""
    found = f"expected {claim.expected}, measured {render.measured(claim)}{values}"
    return f"{claim.verdict}: {claim.statement} ({found}) [{claim.source}]"
