"""Values as plain JSON, and files that are either whole or not there."""

import dataclasses
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.claims import number_to_json


def to_plain(value: Any, where: str = "value") -> Any:
    """`value` as what JSON can hold: arrays are nested lists, NaN is null, infinities are text.

    Args:
      value: nested mappings, sequences, dataclasses, NumPy or JAX arrays of a real dtype, paths,
        numbers, text, None.
      where: the name of `value`, for error messages.

    Raises:
      TypeError: if something has no plain form; the message says where it is.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return number_to_json(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_plain(v, f"{where}[{k!r}]") for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if hasattr(value, "__array__"):
        return _array_to_plain(value, where)
    raise TypeError(f"{where} cannot be stored as JSON: it is a {type(value).__name__}")


def _array_to_plain(value: Any, where: str) -> Any:
    """The nested lists of an array; a number for an array without axes."""
    try:
        array = np.asarray(value)
    except TypeError as error:  # a typed key of jax.random
        raise TypeError(f"{where} cannot be stored as JSON: {error}") from error
    if array.dtype.kind == "c":
        raise TypeError(f"{where} is complex: store its real and imaginary part, or its magnitude")
    if array.dtype.kind not in "biufOUS":  # bfloat16 and its kin, which NumPy does not know
        array = array.astype(np.float32)
    if array.dtype.kind == "f" and np.isfinite(array).all():
        return array.tolist()  # the fast way for long series
    return to_plain(array.tolist(), where)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as readable JSON, atomically."""
    text = json.dumps(to_plain(value, path.stem), indent=1, allow_nan=False, ensure_ascii=False)
    # A list of numbers on one line. Text is safe: JSON text contains no line break.
    text = re.sub(r'\[\n[^][{}"]*\n *\]', lambda m: re.sub(r"\n *", " ", m[0]), text)
    write_atomically(path, text.encode() + b"\n")


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file that is whole or not there, however the program ends."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes a file that only its owner can read
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    """The permissions this process withholds; they can only be read by setting them."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
