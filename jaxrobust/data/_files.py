"""Readers of the file formats: idx, npz, the CIFAR-10 binary. All sizes are checked."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

Images = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # x and y of train, x and y of test


def idx(path: Path) -> np.ndarray:
    """The uint8 array of an idx file, plain or gzipped (told by content, not by name).

    Bytes: 0, 0, 8 (uint8), number of axes; the axes as big-endian uint32; the entries.

    Raises:
      ValueError: if the file is truncated, too long, damaged, or no idx file of uint8.
    """
    raw = _unzipped(path)
    if len(raw) < 4 or raw[:3] != b"\0\0\x08" or not raw[3]:
        raise ValueError(
            f"{path} is no idx file of uint8: it must start with bytes 0 0 8 and the number of "
            f"axes, got {list(raw[:4])}"
        )
    header = 4 + 4 * raw[3]
    if len(raw) < header:
        raise ValueError(f"{path} is truncated: {len(raw)} bytes, its header alone has {header}")
    shape = [int(size) for size in np.frombuffer(raw, ">u4", raw[3], 4)]
    _check_size(path, len(raw), header + int(np.prod(shape, dtype=object)))
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def idx_images(files: Mapping[str, Path]) -> Images:
    """Images (n, height, width, 1) and labels (n,) uint8 from the four files of MNIST."""
    x_train, x_test = (_idx_axes(files[f"{part} images"], 3) for part in ("train", "test"))
    y_train, y_test = (_idx_axes(files[f"{part} labels"], 1) for part in ("train", "test"))
    return x_train[..., None], y_train, x_test[..., None], y_test


def npz(path: Path, names: tuple[str, ...]) -> list[np.ndarray]:
    """The named arrays of an npz file.

    Raises:
      ValueError: if the file is damaged, needs pickle, or lacks an array.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is truncated or no npz file")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            lacking = [name for name in names if name not in arrays]
            if lacking:
                raise ValueError(f"missing: {lacking}; it has {sorted(arrays)}")
            return [arrays[name] for name in names]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as npz: {error}") from error


def cifar_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 32, 32, 3) and labels (n,) uint8: records of a label byte and 3 planes of 32x32.

    Raises:
      ValueError: if the size of the file is no multiple of 3073 bytes.
    """
    raw = np.fromfile(path, np.uint8)
    if not len(raw) or len(raw) % 3073:
        raise ValueError(f"{path} is damaged: {len(raw)} bytes, not a multiple of 3073")
    records = raw.reshape(-1, 3073)
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0]


def _unzipped(path: Path) -> bytes:
    raw = path.read_bytes()
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is truncated or damaged: {error}") from error


def _idx_axes(path: Path, num_axes: int) -> np.ndarray:
    array = idx(path)
    if array.ndim != num_axes:
        raise ValueError(f"{path} must have {num_axes} axes, got shape {array.shape}")
    return array


def _check_size(path: Path, size: int, expected: int) -> None:
    if size != expected:
        problem = "truncated" if size < expected else "too long"
        raise ValueError(f"{path} is {problem}: {size} bytes, its header says {expected}")
