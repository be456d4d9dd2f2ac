"""`Result`: everything an experiment found, and its files."""

import dataclasses
import datetime
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.claims import Claim
from experiments.report import provenance
from experiments.report.plain import to_plain, write_atomically, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the report; a cell is text, a number, or None for "nothing to show"."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""

    def __post_init__(self):
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"rows of table {self.title!r} must have {len(self.columns)} cells, as columns "
                    f"has; row {number} has {len(row)}"
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What `run(config)` of an experiment returns. The fields below the line are the runner's.

    Attributes:
      summary: the answer in two or three plain sentences, for a reader who does not know the
        paper; more may follow in paragraphs of their own. The first result's answer and figure
        open the page.
      claims: what was expected, what was measured, whether it holds.
      series: nested mappings of arrays: the numbers behind the figures. Thin out long ones.
      tables: tables for the report.
      figures: name -> figure, or name -> (figure, caption).
      words: name -> meaning of terms that only this experiment uses; the report explains the
        common ones (`experiments/glossary.py`).
      wall_time: seconds, split as the experiment sees fit ({"compile": 3.1, "train": 8.0}).
      experiment: name of the experiment.
      question: the first line of the experiment's docstring.
      description: the rest of it.
      preset: the name of the size that was run.
      config: the experiment's Config.
      seed: its field `seed` or `seeds`.
      versions: of Python and the packages, and the machine.
      commit: {"id", "dirty"} of the checkout, or None.
      finished: when, in ISO 8601 with the offset from UTC.
      error: the traceback, if the experiment did not come to its end.
    """

    summary: str = ""
    claims: Sequence[Claim] = ()
    series: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tables: Sequence[Table] = ()
    figures: "Mapping[str, Figure | tuple[Figure, str]]" = dataclasses.field(default_factory=dict)
    words: Mapping[str, str] = dataclasses.field(default_factory=dict)
    wall_time: Mapping[str, float] = dataclasses.field(default_factory=dict)
    # ---
    experiment: str = ""
    question: str = ""
    description: str = ""
    preset: str = ""
    config: Any = None
    seed: Any = None
    versions: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    commit: Mapping[str, Any] | None = None
    finished: str = ""
    error: str = ""

    def signed(self, experiment: str, config: Any, **fields: Any) -> "Result":
        """A copy that says which experiment, configuration, versions and commit it comes from."""
        return dataclasses.replace(
            self,
            experiment=experiment,
            config=config,
            seed=getattr(config, "seed", getattr(config, "seeds", None)),
            versions=provenance.versions(),
            commit=provenance.commit(),
            finished=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            **fields,
        )

    def to_json(self) -> dict[str, Any]:
        """The result as plain JSON values; a figure is the name of its file and its caption."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain["claims"] = [c.to_json() for c in self.claims]
        plain["figures"] = [
            {"name": name, "file": self._file_of(name), "caption": _captioned(figure)[1]}
            for name, figure in self.figures.items()
        ]
        # What a reader of the file looks for first stands first.
        first = ("experiment", "question", "config", "seed", "versions", "commit", "claims")
        ordered = {name: plain.pop(name) for name in first} | plain
        return to_plain(ordered, self.experiment)

    def save(self, folder: Path | str) -> Path:
        """Writes the figures as PNG and then the rest as `<experiment>.json`; returns its path."""
        folder = Path(folder)
        plain = self.to_json()
        for name, figure in self.figures.items():
            from experiments import plots  # here: without figures, Matplotlib is not needed

            write_atomically(folder / self._file_of(name), plots.png(_captioned(figure)[0]))
        write_json(folder / f"{self.experiment}.json", plain)
        return folder / f"{self.experiment}.json"

    def _file_of(self, figure_name: str) -> str:
        """The file of a figure."""
        if not re.fullmatch(r"[\w-]+", figure_name):
            raise ValueError(f"a figure's name must be letters, digits, _ and -: {figure_name!r}")
        return f"{self.experiment}-{figure_name}.png"


def _captioned(figure: "Figure | tuple[Figure, str]") -> "tuple[Figure, str]":
    """The figure and its caption, which may be empty."""
    return figure if isinstance(figure, tuple) else (figure, "")
