"""Multi30k: captions of images, in several languages and several of one image."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxrobust.data import _locate
from jaxrobust.data._dataset import Info
from jaxrobust.data._locate import Layout

_TRANSLATIONS = ("en", "de", "fr", "cs")
_INDEPENDENT = tuple(f"{number}.{language}" for language in ("en", "de") for number in range(1, 6))
_ALL = ("train", "val", "test")
_TEST = {"task1": "test_2016_flickr", "task2": "test_2016"}


class Captions(NamedTuple):
    """Captions of images: of every image as many as columns were asked for, in their order."""

    train: tuple[tuple[str, ...], ...]  # (images, columns)
    val: tuple[tuple[str, ...], ...]
    test: tuple[tuple[str, ...], ...]
    columns: tuple[str, ...]
    info: Info


def multi30k(
    columns: str | Sequence[str] = ("en", "de"), path: str | os.PathLike | None = None
) -> Captions:
    """Captions of the images of Flickr30k: 29,000 to train, 1,014 to validate, 1,000 to test.

    Looks in ``path`` if given, there or nowhere; else in the folder of the environment variable
    ``JAXROBUST_DATA``: its subfolder ``multi30k/``, then the folder itself. Only the files of the
    columns asked for are read.

    Args:
      columns: what to have of every image, one or several. ``"en"``, ``"de"``, ``"fr"``, ``"cs"``
        are one caption and its translations (task 1); ``"1.en"`` to ``"5.en"`` and ``"1.de"`` to
        ``"5.de"`` are captions that were written independently (task 2). Both are of the same
        images in the same order, so that they can be asked for together.
      path: folder with ``task1/raw/train.en.gz``, ``task2/raw/train.1.en.gz`` and so on, or with a
        subfolder ``multi30k/`` that has them. Files may be unzipped, without ``.gz``.

    Returns:
      :class:`Captions`, of the test set of 2016. No image is left out, no caption changed.

    Raises:
      FileNotFoundError: if the files are nowhere, or a folder holds a part of them.
      ValueError: for unknown columns or none, one that is asked for twice, a damaged file, or files
        of different lengths.

    Source: Elliott et al., "Multi30K: Multilingual English-German Image Descriptions", 2016.
    """
    columns = (columns,) if isinstance(columns, str) else tuple(columns)
    known = _TRANSLATIONS + _INDEPENDENT
    if not columns or len(set(columns)) < len(columns) or set(columns) - set(known):
        raise ValueError(f"columns must be different ones of {known}, got {columns}")
    layout = Layout("text", {f"{part} {c}": _names(part, c) for part in _ALL for c in columns})
    other = "The repository multi30k/dataset has the files (GitHub)."
    found = _locate.files("Multi30k", path, "multi30k", [layout], other)
    parts = {}
    for part in _ALL:
        lines = [_lines(found.files[f"{part} {column}"]) for column in columns]
        if len({len(one) for one in lines}) > 1:
            raise ValueError(
                f"{found.folder}: the files to {part} must have as many lines, got "
                f"{[len(one) for one in lines]} for {columns}"
            )
        parts[part] = tuple(zip(*lines, strict=True))
    info = Info("multi30k", f"text files in {found.folder}", (), columns)
    return Captions(parts["train"], parts["val"], parts["test"], columns, info)


def _names(part: str, column: str) -> tuple[str, ...]:
    """The names that a file may have."""
    task = "task1" if column in _TRANSLATIONS else "task2"
    stem = f"{task}/raw/{_TEST[task] if part == 'test' else part}.{column}"
    return f"{stem}.gz", stem


def _lines(path: Path) -> list[str]:
    raw = path.read_bytes()
    try:
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        lines = raw.decode("utf-8").split("\n")  # and not where Unicode has other line ends
    except (EOFError, OSError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is truncated or damaged: {error}") from error
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]
