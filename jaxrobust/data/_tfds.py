"""Sets prepared by tensorflow-datasets, read once into arrays, without TensorFlow."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxrobust.data import _extra, _files, _locate

_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def folders(data_dir: str | os.PathLike | None) -> list[Path]:
    """Where prepared sets may be: ``data_dir`` if given, else JAXROBUST_DATA/tfds and the default.

    Raises:
      FileNotFoundError: if ``data_dir`` is not a folder.
    """
    if data_dir is not None:
        if not Path(data_dir).expanduser().is_dir():
            raise FileNotFoundError(f"data_dir must be an existing folder, got {data_dir}")
        return [Path(data_dir).expanduser()]
    top = _locate.root()
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    return [*([] if top is None else [top / "tfds"]), Path(default).expanduser()]


def prepared(name: str, data_dirs: Sequence[Path]) -> Path | None:
    """The newest ``<data_dir>/<name>/<version>/dataset_info.json``'s folder, first folder first."""
    for data_dir in data_dirs:
        versions = [file.parent for file in (data_dir / name).glob("*/dataset_info.json")]
        if versions:
            return max(versions, key=lambda folder: _version(folder.name))
    return None


def read(folder: Path, cache_dir: str | os.PathLike | None) -> _files.Images:
    """Images and labels of both splits as uint8 and integer arrays, from cache if there is one.

    Args:
      folder: of :func:`prepared`.
      cache_dir: folder for ``<name>-<version>-<place>.npz``, made if it does not exist; None: no
        cache. ``<place>`` stands for the folder, for other folders may hold other records.

    Raises:
      OSError: if there is no cache yet, and ``cache_dir`` cannot be written to.
      ImportError: if tensorflow-datasets or an image decoder is missing.
      ValueError: if the set was prepared in a format without random access.
    """
    cache = None if cache_dir is None else Path(cache_dir).expanduser() / _cache_name(folder)
    if cache is not None and cache.is_file():
        x_train, y_train, x_test, y_test = _files.npz(cache, _ARRAYS)
        return x_train, y_train, x_test, y_test
    if cache is not None:
        _check_writable(cache.parent)  # before minutes of decoding, not after
    arrays = (*_split(folder, "train"), *_split(folder, "test"))
    if cache is not None:
        _save(cache, arrays)
    return arrays


def advice(name: str) -> str:
    """How to prepare a set, for the message of a missing one."""
    return (
        f"tensorflow-datasets. Prepare it once (this needs tensorflow and importlib_resources):\n"
        f'       pip install "jaxrobust[data]" tensorflow\n'
        f'       python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', file_format='array_record').download_and_prepare()\"\n"
        f"     Reading it afterwards needs tensorflow-datasets and Pillow, but no TensorFlow, so\n"
        f'     "jaxrobust[data]" is enough. Prepared elsewhere (data_dir=... there): pass that\n'
        f"     data_dir=... here too, or name it {_locate.VARIABLE}/tfds or by TFDS_DATA_DIR."
    )


def _split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    source = _source(folder, split)
    records = [source[number] for number in range(len(source))]
    images = np.stack([record["image"] for record in records])
    return images, np.array([record["label"] for record in records], np.int32)


def _source(folder: Path, split: str):
    file_format = json.loads((folder / "dataset_info.json").read_text()).get("fileFormat")
    if file_format not in ("array_record", "parquet"):
        raise ValueError(
            f"{folder} was prepared as {file_format}, which cannot be read without TensorFlow; "
            f"prepare it with file_format='array_record'"
        )
    tfds = _extra.require(
        "tensorflow_datasets", "tensorflow-datasets", f"reading the prepared set {folder}"
    )
    if not any(importlib.util.find_spec(module) for module in ("PIL", "cv2")):
        _extra.require("PIL", "Pillow", f"decoding the images of {folder}")
    name = f"{folder.parent.name}:{folder.name}"
    return tfds.data_source(name, split=split, data_dir=folder.parent.parent, download=False)


def _version(name: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else -1 for part in name.split("."))


def _cache_name(folder: Path) -> str:
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    return f"{folder.parent.name}-{folder.name}-{place}.npz"


def _check_writable(cache_dir: Path) -> None:
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache_dir):
            pass
    except OSError as error:
        raise OSError(
            f"cache_dir must be a folder to write to, got {cache_dir}: {error}"
        ) from error


def _save(cache: Path, arrays: _files.Images) -> None:
    # Written aside and moved, so that a run that is stopped leaves no half of a file behind.
    aside = cache.with_name(f"{cache.stem}.{os.getpid()}.part.npz")
    np.savez(aside, **dict(zip(_ARRAYS, arrays, strict=True)))
    aside.replace(cache)
