"""Pairs of two views of the same things: images and texts of Wikipedia articles."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxrobust.data import _locate
from jaxrobust.data._dataset import Info
from jaxrobust.data._locate import Layout

_LISTS = {part: f"{part}set_txt_img_cat.list" for part in ("train", "test")}
_LAYOUTS = (
    Layout("mat", {"features": ("raw_features.mat",)} | {p: (name,) for p, name in _LISTS.items()}),
)
_CLASSES = (
    "art", "biology", "geography", "history", "literature", "media", "music", "royalty", "sport",
    "warfare",
)  # fmt: skip


class Pairs(NamedTuple):
    """Two views of the same things, a pytree of arrays: row i of x belongs to row i of y."""

    x_train: jax.Array  # (num_train, x features) float32
    y_train: jax.Array  # (num_train, y features) float32
    labels_train: jax.Array  # (num_train,) int32 class 0..C-1
    x_test: jax.Array  # (num_test, x features)
    y_test: jax.Array  # (num_test, y features)
    labels_test: jax.Array  # (num_test,)
    info: Info  # no array; ``feature_shape`` is that of x


def wikipedia(path: str | os.PathLike | None = None) -> Pairs:
    """Images and texts of featured Wikipedia articles: 2,173 pairs to train, 693 to test.

    x is an image, by the shares of its SIFT features that fall on 128 visual words; y is the
    section of the article that goes with it, by its shares of 10 topics (LDA). The labels are the
    10 categories of the articles. Looks in ``path`` if given, there or nowhere; else in the folder
    of the environment variable ``JAXROBUST_DATA``: its subfolder ``wikipedia/``, then the folder
    itself.

    Args:
      path: folder with ``raw_features.mat``, ``trainset_txt_img_cat.list`` and
        ``testset_txt_img_cat.list``, or with a subfolder ``wikipedia/`` that has them.

    Returns:
      :class:`Pairs`; every row of x and of y is of shares with sum 1.

    Raises:
      FileNotFoundError: if the files are nowhere, or a folder holds a part of them.
      ValueError: if a file is damaged, or the sizes do not fit each other.

    Source: Rasiwasia et al., "A new approach to cross-modal multimedia retrieval", ACM Multimedia
    2010. The files number the categories 1..10; their names, in alphabetical order, are those
    that the paper gives, and not in the files.
    """
    other = "There is no second way: tensorflow-datasets does not have this set."
    found = _locate.files("The Wikipedia data set", path, "wikipedia", _LAYOUTS, other)
    features = _features(found.files["features"])
    arrays = []
    for part, short in (("train", "tr"), ("test", "te")):
        x, y = features[f"I_{short}"], features[f"T_{short}"]
        labels = _labels(found.files[part])
        if not len(x) == len(y) == len(labels):
            raise ValueError(
                f"{found.folder}: images, texts and labels to {part} must be as many, got "
                f"{len(x)}, {len(y)} and {len(labels)}"
            )
        arrays += [x.astype(np.float32), y.astype(np.float32), labels]
    info = Info("wikipedia", f"files in {found.folder}", (arrays[0].shape[1],), _CLASSES)
    x, y, labels, x_test, y_test, labels_test = jax.device_put(arrays)
    return Pairs(x, y, labels, x_test, y_test, labels_test, info)


def _features(path: Path) -> dict[str, np.ndarray]:
    from scipy import io  # which JAX needs as well; slow to import

    names = [f"{view}_{part}" for part in ("tr", "te") for view in "IT"]
    try:
        found = io.loadmat(path)
    except Exception as error:  # what scipy raises depends on where the file is damaged
        raise ValueError(f"{path} cannot be read as a MATLAB file: {error}") from error
    lacking = [name for name in names if name not in found]
    if lacking:
        raise ValueError(f"{path} lacks {lacking}")
    for name in names:
        array = found[name]
        if array.ndim != 2 or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise ValueError(f"{path}: {name} must be a matrix of finite numbers")
    if any(found[f"{v}_tr"].shape[1] != found[f"{v}_te"].shape[1] for v in "IT"):
        raise ValueError(f"{path}: features to train and to test must be as many")
    return {name: found[name] for name in names}


def _labels(path: Path) -> np.ndarray:
    """Categories 1..10 in the third column, as 0..9."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    rows = [line.split("\t") for line in lines if line.strip()]
    known = {str(number + 1): number for number in range(len(_CLASSES))}
    for number, row in enumerate(rows, 1):
        if len(row) != 3 or row[2].strip() not in known:
            raise ValueError(
                f"{path}, line {number}: must be text, image and category 1..10 with tabs between"
            )
    return np.array([known[row[2].strip()] for row in rows], np.int32)
