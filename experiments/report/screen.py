"""The run on the screen: one progress bar over all experiments, and a line for each one done."""

import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

from tqdm.auto import tqdm

from experiments import Progress
from experiments.claims import Claim
from experiments.report import render


class Terminal:
    """Shows progress on the screen; a context manager that closes the bar."""

    def __init__(self, num_experiments: int):
        self._begun = 0
        self._bar = tqdm(
            total=num_experiments,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed}<{remaining}{postfix}",
            mininterval=0.2 if sys.stderr.isatty() else 10,  # few lines in a log file
        )

    def __enter__(self) -> "Terminal":
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
                    self._bar.update(done + min(max(float(item), 0.0), 1.0) - self._bar.n)

        return progress

    def end(self, stored: Mapping[str, Any]) -> None:
        """Writes what the experiment found, with every claim that does not hold."""
        self._bar.set_postfix_str("", refresh=False)
        self._bar.update(self._begun - self._bar.n)
        claims = [Claim.from_json(plain) for plain in stored["claims"]]
        verdicts = Counter(claim.verdict for claim in claims)
        counts = ", ".join(f"{number} {verdict}" for verdict, number in verdicts.items())
        time = render.seconds(stored["wall_time"].get("total", 0.0))
        self._bar.write(f"{stored['experiment']:14} {time:>12}   claims: {counts or 'none'}")
        for claim in claims:
            if not claim.holds:
                self._bar.write(f"  {render.SYMBOLS[claim.verdict]} {_line(claim)}")
        if stored["error"]:
            self._bar.write(f"  ✗ stopped by an error:\n{stored['error']}")


def _line(claim: Claim) -> str:
    """One line about a claim that does not hold."""
    values = f" ({render.how_many(claim)})" if claim.count > 1 else ""
    found = f"expected {claim.expected}, measured {render.measured(claim)}{values}"
    return f"{claim.verdict}: {claim.statement} ({found}) [{claim.source}]"
