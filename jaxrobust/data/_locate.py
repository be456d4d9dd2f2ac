"""Where the files of a data set are, and what to say when they are nowhere."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

VARIABLE = "JAXROBUST_DATA"


class Layout(NamedTuple):
    """One of the forms in which a data set may lie in a folder; all its files are needed."""

    form: str  # "idx", "npz", ...: which reader to use
    files: Mapping[str, tuple[str, ...]]  # role -> accepted file names, the preferred one first
    also: str = ""  # which other names are accepted, in words

    def __str__(self) -> str:
        preferred = ", ".join(names[0] for names in self.files.values())
        return f"{self.form}: {preferred}" + f" ({self.also})" * bool(self.also)


class Found(NamedTuple):
    """A complete set of files."""

    form: str  # of the layout
    folder: Path  # that holds them
    files: dict[str, Path]  # role -> file


def root() -> Path | None:
    """The folder in the environment variable JAXROBUST_DATA, None if it is not set or empty.

    Raises:
      FileNotFoundError: if it is set, but to no folder. A misspelt folder must not look like none.
    """
    value = os.environ.get(VARIABLE)
    if not value:
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"the environment variable {VARIABLE} names no folder: {folder}")
    return folder


def places(path: str | os.PathLike | None, subfolder: str) -> list[Path]:
    """The folders to look into: in ``path`` if given, else in JAXROBUST_DATA.

    Raises:
      FileNotFoundError: if ``path`` is not a folder.
    """
    if path is None:
        top = root()
        return [] if top is None else [top / subfolder, top]
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"path must be an existing folder, got {folder}")
    return [folder / subfolder, folder]


def first_complete(folders: Sequence[Path], layouts: Sequence[Layout]) -> Found | None:
    """The first folder with all files of a layout; None if no file of any is there.

    Raises:
      FileNotFoundError: if a folder holds a part of the files. Data found further on would then be
        another set than the one the user put there.
    """
    for folder in folders:
        partial = None
        for layout in layouts:
            present = {role: _existing(folder, names) for role, names in layout.files.items()}
            if all(present.values()):
                return Found(layout.form, folder, {r: p for r, p in present.items() if p})
            if any(present.values()):
                partial = partial or (layout, present)
        if partial:
            raise FileNotFoundError(_incomplete(folder, *partial))
    return None


def files(
    title: str,
    path: str | os.PathLike | None,
    subfolder: str,
    layouts: Sequence[Layout],
    other: str,
) -> Found:
    """The files of a data set that comes from files alone; ``other`` says what else one can do.

    Raises:
      FileNotFoundError: if they are nowhere, or a folder holds a part of them.
    """
    folders = places(path, subfolder)
    found = first_complete(folders, layouts)
    if found is None:
        raise missing(title, describe(path, folders), layouts, subfolder, other)
    return found


def missing(
    title: str, looked: Sequence[str], layouts: Sequence[Layout], subfolder: str, other: str
) -> FileNotFoundError:
    """The error that says what is missing, where it was looked for, and how to get it."""
    looked = "\n".join(f"  - {place}" for place in looked)
    forms = "\n".join(f"      {layout}" for layout in layouts)
    return FileNotFoundError(
        f"{title} was not found (synthetic data are never used instead). Looked in:\n{looked}\n"
        f"Ways to get it:\n"
        f"  1. A folder with these files (one of the lines):\n{forms}\n"
        f"     Pass the folder as path=..., or put it as {subfolder}/ into a folder that the "
        f"environment variable {VARIABLE} names.\n"
        f"  2. {other}"
    )


def describe(path: str | os.PathLike | None, folders: Sequence[Path]) -> list[str]:
    """One line for each place of :func:`places`, for :func:`missing`."""
    name = f"environment variable {VARIABLE}" if path is None else "argument path"
    if not folders:
        return ["argument path: not given", f"{name}: not set"]
    return [f"{name}: {folder}" for folder in folders]


def _existing(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _incomplete(folder: Path, layout: Layout, present: Mapping[str, Path | None]) -> str:
    lacking = [" or ".join(layout.files[role]) for role, file in present.items() if not file]
    return f"{folder} holds a part of the {layout.form} files only; missing: {', '.join(lacking)}"
