"""Experiments: each holds statements of theory against models that were really trained.

An experiment is one file `experiments/<question>.py` (`python -m experiments list`). It has

- a docstring: the question in the first line, then what is measured, and a section `Presets:` with
  one line per size, such as `quick: 40 s on 2 cores; digits, 3 seeds`;
- `Config`, a frozen dataclass with a field `seed` or `seeds`; its defaults are the quick run, on
  embedded data. `__post_init__` refuses senseless values with a `ValueError` that names the field;
  an optional method `check()` raises `ValueError` or `OSError` if a data set that the values ask
  for is missing. Both happen before any folder is made;
- `run(config, progress=silent) -> Result`;
- optionally `PRESETS: dict[str, Config]` (the larger sizes), `plot(result)` which returns
  `{name: figure or (figure, caption)}`, and `TOUR = False` to stay out of the tour.

This file imports nothing heavy, so that `--help` and `list` answer at once.
"""

import ast
import dataclasses
import importlib
import os
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

# progress(0.4) moves the bar, progress("seed 3") sets its message, progress(0.4, "seed 3") both.
Progress = Callable[..., None]

FOLDER = Path(__file__).resolve().parent
# Told as one story: what is reached, how fast, what the architecture changes, how to be sure.
READING_ORDER = (
    "geometry",
    "rates",
    "architecture",
    "certificate",
    "regularisation_path",
    "optimizer_zoo",
    "price_of_bias",
    "attack_quality",
    "fourier_robustness",
    "acceptance",
    "gated_xor",
    "gated_routing",
    "gated_contexts",
    "gated_images",
    "per_example_cost",
    "gradient_variance",
    "gradient_variance_networks",
    "clustering_quality",
    "sampled_training",
    "redundancy",
    "hard_negatives",
)
RESERVED_FIELDS = {"preset", "output", "run"}  # options of the command line


def silent(*_: float | str) -> None:
    """The progress callback that shows nothing: the default of every `run`."""


def keep_blas_to_one_thread() -> None:
    """Sets OPENBLAS_NUM_THREADS to 1 unless it is set; call it before NumPy or JAX is imported.

    The threads of the OpenBLAS under JAX's LAPACK calls compete with XLA's own for the cores and
    wait by spinning, which on a busy machine makes a factorisation many times slower.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What is known of an experiment before it is imported.

    Attributes:
      name: the name of its file.
      module: the name to import it by.
      question: the first line of its docstring.
      description: the rest of the docstring, without the section `Presets:`.
      presets: name -> expected time; what it covers. "quick" is the default Config.
      in_tour: whether `python -m experiments` runs it.
    """

    name: str
    module: str
    question: str
    description: str = ""
    presets: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"quick": ""})
    in_tour: bool = True

    @property
    def quick_time(self) -> str:
        """Expected time of the quick run, in the words of the docstring; empty if it has none."""
        return self.presets["quick"].partition(";")[0]

    def load(self) -> ModuleType:
        """Imports the experiment and checks that its Config is one."""
        module = importlib.import_module(self.module)
        config = getattr(module, "Config", None)
        if not dataclasses.is_dataclass(config):
            raise TypeError(f"{self.module}: Config must be a dataclass, got {config!r}")
        fields = {f.name for f in dataclasses.fields(config)}
        if not fields & {"seed", "seeds"} or fields & RESERVED_FIELDS:
            raise TypeError(
                f"{self.module}: Config must have a field seed or seeds, and none of "
                f"{sorted(RESERVED_FIELDS)}; its fields are {sorted(fields)}"
            )
        return module

    def config(self, preset: str = "quick") -> Any:
        """The configuration of a preset; "quick" is `Config()` unless `PRESETS` has its own."""
        module = self.load()
        return {"quick": module.Config(), **getattr(module, "PRESETS", {})}[preset]


def discover(folder: Path = FOLDER, package: str = "experiments") -> dict[str, Experiment]:
    """The experiments in a folder: its files that define `Config` and `run`, in reading order.

    Nothing is imported: parsing takes milliseconds where importing JAX takes seconds.
    """
    found = {}
    for path in sorted(folder.glob("*.py")):
        module = f"{package}.{path.stem}"
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        except SyntaxError as error:  # listed all the same, and the others still run
            found[path.stem] = Experiment(path.stem, module, f"(not valid Python: {error})")
            continue
        if {"Config", "run"} <= {getattr(node, "name", None) for node in tree.body}:
            found[path.stem] = _describe(path.stem, module, tree)
    first = [name for name in READING_ORDER if name in found]
    return {name: found[name] for name in first + [n for n in found if n not in first]}


def _describe(name: str, module: str, tree: ast.Module) -> Experiment:
    """An experiment as its parsed file describes it."""
    question, _, rest = (ast.get_docstring(tree) or name).partition("\n")
    description, presets = _split_presets(rest)
    constants = dict(_constants(tree))
    in_code = constants.get("PRESETS")
    keys = in_code.keys if isinstance(in_code, ast.Dict) else []
    named = {str(key.value): "" for key in keys if isinstance(key, ast.Constant)}
    tour = constants.get("TOUR")
    return Experiment(
        name=name,
        module=module,
        question=question.strip(),
        description=description,
        presets={"quick": "", **named, **presets},
        in_tour=not (isinstance(tour, ast.Constant) and tour.value is False),
    )


def _constants(tree: ast.Module) -> Iterator[tuple[str, ast.expr | None]]:
    """The names assigned at the top of a module, and what is assigned to them."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name):
                yield target.id, getattr(node, "value", None)


def _split_presets(text: str) -> tuple[str, dict[str, str]]:
    """The description without its section `Presets:`, and that section as a mapping."""
    match = re.search(r"^Presets:[ \t]*\n((?:[ \t]+\S.*\n?)+)", text, re.MULTILINE)
    if not match:
        return text.strip(), {}
    # A line that is indented further continues the one before.
    entries = re.sub(r"\n[ \t]+", " ", textwrap.dedent(match[1])).strip().splitlines()
    pairs = (entry.partition(":") for entry in entries)
    presets = {name.strip(" `-"): what.strip() for name, _, what in pairs}
    return (text[: match.start()] + text[match.end() :]).strip(), presets
