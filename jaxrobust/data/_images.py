"""MNIST and CIFAR-10 from a folder of files, or as prepared by tensorflow-datasets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxrobust.data import _files, _locate, _tfds
from jaxrobust.data._dataset import Dataset, from_arrays
from jaxrobust.data._locate import Found, Layout

_PARTS = {"train": "train", "test": "t10k"}
_MNIST = (
    Layout(
        "idx",
        {
            f"{part} {kind}": tuple(
                f"{prefix}-{kind}{dot}idx{axes}-ubyte{end}" for dot in "-." for end in (".gz", "")
            )
            for part, prefix in _PARTS.items()
            for kind, axes in (("images", 3), ("labels", 1))
        },
        "each also unzipped, without .gz, or with .idx for -idx",
    ),
    Layout("npz", {"all": ("mnist.npz",)}),
)
_BINARY = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
_CIFAR10 = (
    Layout(
        "npz",
        {
            "train": ("cifar10_train.npz", "cifar10_train_10k_stratified_seed0.npz"),
            "test": ("cifar10_test.npz", "cifar10_test_10k.npz"),
        },
        "also cifar10_train_10k_stratified_seed0.npz, cifar10_test_10k.npz",
    ),
    Layout(
        "bin",
        {name: (f"cifar-10-batches-bin/{name}", name) for name in _BINARY},
        "also without that folder",
    ),
)
_CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


def mnist(
    path: str | os.PathLike | None = None,
    *,
    data_dir: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Dataset:
    """MNIST: 60,000 training and 10,000 test images of digits, 28x28 grey values.

    Looks for the data in this order and takes the first place that has them:

    1. ``path`` or ``data_dir``, if given: there or nowhere.
    2. The folder in the environment variable ``JAXROBUST_DATA``: its subfolder ``mnist/``, then the
       folder itself. Files: the four original idx files, gzipped or not, or ``mnist.npz`` with
       ``x_train, y_train, x_test, y_test``.
    3. A set prepared by tensorflow-datasets: ``JAXROBUST_DATA/tfds``, then ``TFDS_DATA_DIR`` or
       ``~/tensorflow_datasets``. Read through ``tfds.data_source``: TensorFlow is not imported.

    Files of the same form (Fashion-MNIST) can be read by ``path``, but get the class names 0..9.
    tensorflow-datasets shuffles, so its rows come in another order than those of the files.

    Args:
      path: folder with the files, or with a subfolder ``mnist/``.
      data_dir: folder of tensorflow-datasets (the one that has ``mnist/<version>/``).
      cache_dir: folder in which arrays read through tensorflow-datasets are kept as one npz file
        and from which they are read next time; None: no cache.

    Returns:
      Features (n, 28, 28, 1) float32 in [0, 1] (grey values divided by 255), labels int32 0..9.

    Raises:
      FileNotFoundError: if the data are nowhere (the message says where it looked, and how to get
        them), a folder given is missing or has no data, or a folder holds a part of the files.
      ValueError: if a file is damaged, shapes or labels are wrong, a prepared set has no random
        access, or both ``path`` and ``data_dir`` are given.
      ImportError: if a prepared set was found, but not the packages to read it.

    Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits".
    """
    names = tuple(map(str, range(10)))
    found = _resolve("MNIST", "mnist", _MNIST, path, data_dir)
    if not isinstance(found, Found):
        return _image_set("mnist", _tfds.read(found, cache_dir), f"TFDS {found}", names)
    if found.form == "idx":
        arrays = _files.idx_images(found.files)
    else:
        arrays = _files.npz(found.files["all"], ("x_train", "y_train", "x_test", "y_test"))
    return _image_set("mnist", arrays, f"{found.form} files in {found.folder}", names)


def cifar10(
    path: str | os.PathLike | None = None,
    *,
    data_dir: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Dataset:
    """CIFAR-10: 32x32 colour images of 10 classes; 50,000 for training (or a part), 10,000 to test.

    The places are those of :func:`mnist`, with the subfolder ``cifar10/`` and these files:
    ``cifar10_train.npz`` or ``cifar10_train_10k_stratified_seed0.npz``, with ``cifar10_test.npz``
    or ``cifar10_test_10k.npz`` (arrays ``images`` (n, 32, 32, 3) uint8 and ``labels`` (n,)); or the
    six ``.bin`` files of the original binary version. The pickled version is not read: unpickling
    runs code.

    The 10k files are sorted by class, so ``x_train[:n]`` is one class only; see :func:`subset`.

    Args:
      path: folder with the files, or with a subfolder ``cifar10/``.
      data_dir: folder of tensorflow-datasets (the one that has ``cifar10/<version>/``).
      cache_dir: as for :func:`mnist`.

    Returns:
      Features (n, 32, 32, 3) float32 in [0, 1] (values divided by 255), labels int32 0..9.
      ``info.notes`` says so if the training set is not the whole one.

    Raises:
      FileNotFoundError: as for :func:`mnist`.
      ValueError: as for :func:`mnist`.
      ImportError: as for :func:`mnist`.

    Source: Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """
    found = _resolve("CIFAR-10", "cifar10", _CIFAR10, path, data_dir)
    if isinstance(found, Found):
        arrays, source = _cifar_arrays(found), f"{found.form} files in {found.folder}"
    else:
        arrays, source = _tfds.read(found, cache_dir), f"TFDS {found}"
    return _image_set("cifar10", arrays, source, _CIFAR10_CLASSES, whole=50_000)


def _resolve(
    title: str,
    name: str,
    layouts: Sequence[Layout],
    path: str | os.PathLike | None,
    data_dir: str | os.PathLike | None,
) -> Found | Path:
    """Files (:class:`Found`) or the folder of a prepared set; an error if there is neither."""
    if path is not None and data_dir is not None:
        raise ValueError("path and data_dir exclude each other, got both")
    looked, found = [], None
    if data_dir is None:
        folders = _locate.places(path, name)
        looked += _locate.describe(path, folders)
        found = _locate.first_complete(folders, layouts)
    if found is None and path is None:
        data_dirs = _tfds.folders(data_dir)
        looked += [f"tensorflow-datasets: {place / name}/<version>/" for place in data_dirs]
        found = _tfds.prepared(name, data_dirs)
    if found is None:
        raise _locate.missing(title, looked, layouts, name, _tfds.advice(name))
    return found


def _cifar_arrays(found: Found) -> list[np.ndarray]:
    if found.form == "npz":
        return [
            array
            for part in ("train", "test")
            for array in _files.npz(found.files[part], ("images", "labels"))
        ]
    batches = [_files.cifar_binary(found.files[name]) for name in _BINARY]
    images, labels = (np.concatenate(parts) for parts in zip(*batches[:5], strict=True))
    return [images, labels, *batches[5]]


def _image_set(
    name: str,
    arrays: Sequence[np.ndarray],
    source: str,
    class_names: Sequence[str],
    whole: int | None = None,
) -> Dataset:
    """uint8 images to float32 in [0, 1]; ``whole`` is the size of the complete training set."""
    x_train, y_train, x_test, y_test = arrays
    for x in (x_train, x_test):
        if x.dtype != np.uint8:
            raise ValueError(f"{source}: images must be uint8, got {x.dtype}")
    x_train, x_test = (x[..., None] if x.ndim == 3 else x for x in (x_train, x_test))
    notes = ["values 0..255 divided by 255"]
    if whole is not None and len(x_train) != whole:
        notes.append(f"training set: {len(x_train)} of {whole} images")
    return from_arrays(
        x_train.astype(np.float32) / np.float32(255),
        y_train.astype(np.int32),
        x_test.astype(np.float32) / np.float32(255),
        y_test.astype(np.int32),
        name=name,
        source=source,
        class_names=class_names,
        notes=notes,
    )
