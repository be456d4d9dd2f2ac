"""The SRBCT gene expression data of Khan et al.: few samples, many genes, separable."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from jaxrobust.data import _locate, _transform
from jaxrobust.data._dataset import Dataset, from_arrays
from jaxrobust.data._locate import Layout

_LAYOUTS = (
    Layout("text", {f"{a}{b}": (f"khan.{a}{b}",) for a in "xy" for b in ("train", "test")}),
)
# Alphabetical. The description that comes with the files lists EWS, RMS, NB, BL, which contradicts
# the published counts of the 83 labelled samples: 11 BL, 29 EWS, 18 NB, 25 RMS, in the files the
# counts of the labels 1, 2, 3, 4.
_CLASSES = ("BL", "EWS", "NB", "RMS")


def khan(path: str | os.PathLike | None = None, *, standardize: bool = False) -> Dataset:
    """Small round blue cell tumours: 63 training and 20 test samples, 2308 genes, 4 classes.

    The file of the test set has 25 samples, of which 5 carry no label (NA); they are dropped, and
    ``info.notes`` says how many. Looks in ``path`` if given, there or nowhere; else in the folder
    of the environment variable ``JAXROBUST_DATA``: its subfolder ``esl/``, then the folder itself.

    Args:
      path: folder with ``khan.xtrain, khan.ytrain, khan.xtest, khan.ytest``, or with a subfolder
        ``esl/`` that has them.
      standardize: whether to apply :func:`standardize` (training mean and standard deviation). All
        genes are log ratios, one unit, so the default leaves them alone.

    Returns:
      Features (n, 2308) float32, log expression ratios; labels int32: 0 Burkitt lymphoma, 1 Ewing
      sarcoma, 2 neuroblastoma, 3 rhabdomyosarcoma.

    Raises:
      FileNotFoundError: if the files are nowhere, or a folder holds a part of them.
      ValueError: if a file is damaged, or the sizes do not fit each other.

    Source: Khan et al., "Classification and diagnostic prediction of cancers using gene expression
    profiling and artificial neural networks", Nature Medicine 7, 2001; files of the web site of
    Hastie, Tibshirani, Friedman, "The Elements of Statistical Learning".
    """
    other = "There is no second way: tensorflow-datasets does not have this set."
    found = _locate.files("The Khan data set", path, "esl", _LAYOUTS, other)
    x_train, y_train, _ = _part(found.files["xtrain"], found.files["ytrain"])
    x_test, y_test, dropped = _part(found.files["xtest"], found.files["ytest"])
    dataset = from_arrays(
        x_train,
        y_train,
        x_test,
        y_test,
        name="khan",
        source=f"text files in {found.folder}",
        class_names=_CLASSES,
        notes=[f"{dropped} test samples without label dropped"],
    )
    return _transform.standardize(dataset) if standardize else dataset


def _part(x_path: Path, y_path: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Labelled samples in rows, their classes 0..3, and the number of samples without label."""
    words = np.array(y_path.read_text().split())
    labelled = words != "NA"
    if not np.isin(words[labelled], list("1234")).all():
        raise ValueError(f"{y_path} must hold labels 1..4 or NA, got {np.unique(words).tolist()}")
    samples = _table(x_path).T
    if len(samples) != len(words):
        raise ValueError(f"{x_path} has {len(samples)} columns, {y_path} has {len(words)} labels")
    return samples[labelled], words[labelled].astype(np.int32) - 1, int((~labelled).sum())


def _table(path: Path) -> np.ndarray:
    """(genes, samples); lines without numbers (khan.xtest begins with one) do not count."""
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    try:
        return np.loadtxt(lines, ndmin=2) if lines else np.zeros((0, 0))
    except ValueError as error:
        raise ValueError(f"{path} is no table of numbers: {error}") from error
