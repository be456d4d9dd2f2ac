"""MNIST and CIFAR-10 from a folder of files, or as prepared by tensorflow-datasets."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxrobust.data import _files, _locate, _tfds
from jaxrobust.data._dataset import Dataset, from_arrays
from jaxrobust.data._locate import Found, Layout

# Images and labels to train, images and labels to test, by the place a message names.
Arrays = Mapping[str, np.ndarray]

_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
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
        for each prepared set, and from which they are read next time; None: no cache.

    Returns:
      Features (n, 28, 28, 1) float32 in [0, 1] (grey values divided by 255), labels int32 0..9.

    Raises:
      FileNotFoundError: if the data are nowhere (the message says where it looked, and how to get
        them), a folder given is missing or has no data, or a folder holds a part of the files.
      ValueError: if a file is damaged, shapes or labels are wrong, a prepared set has no random
        access, or both ``path`` and ``data_dir`` are given.
      OSError: if ``cache_dir`` has to be written to and cannot be.
      ImportError: if a prepared set was found, but not the packages to read it.

    Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits".
    """
    found = _resolve("MNIST", "mnist", _MNIST, path, data_dir)
    arrays = _mnist_arrays(found) if isinstance(found, Found) else _prepared(found, cache_dir)
    # The files have no axis for the one channel.
    arrays = {
        place: array[..., None] if array.ndim == 3 else array for place, array in arrays.items()
    }
    return _image_set("mnist", arrays, _source(found), tuple(map(str, range(10))), channels=1)


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
      OSError: as for :func:`mnist`.
      ImportError: as for :func:`mnist`.

    Source: Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """
    found = _resolve("CIFAR-10", "cifar10", _CIFAR10, path, data_dir)
    arrays = _cifar_arrays(found) if isinstance(found, Found) else _prepared(found, cache_dir)
    return _image_set("cifar10", arrays, _source(found), _CIFAR10_CLASSES, channels=3, whole=50_000)


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


def _source(found: Found | Path) -> str:
    if isinstance(found, Found):
        return f"{found.form} files in {found.folder}"
    return f"TFDS {found}"


def _prepared(folder: Path, cache_dir: str | os.PathLike | None) -> dict[str, np.ndarray]:
    arrays = _tfds.read(folder, cache_dir)
    return dict(zip([f"{folder}: {name}" for name in _ARRAYS], arrays, strict=True))


def _mnist_arrays(found: Found) -> dict[str, np.ndarray]:
    if found.form == "npz":
        return _npz_arrays(found.files["all"], _ARRAYS)
    roles = [f"{part} {kind}" for part in ("train", "test") for kind in ("images", "labels")]
    places = [str(found.files[role]) for role in roles]
    return dict(zip(places, _files.idx_images(found.files), strict=True))


def _cifar_arrays(found: Found) -> dict[str, np.ndarray]:
    if found.form == "npz":
        train, test = (
            _npz_arrays(found.files[part], ("images", "labels")) for part in ("train", "test")
        )
        return train | test
    batches = [_files.cifar_binary(found.files[name]) for name in _BINARY]
    images, labels = (np.concatenate(parts) for parts in zip(*batches[:5], strict=True))
    train, test = f"{found.folder}/data_batch_1.bin to 5", str(found.files["test_batch.bin"])
    kinds = [f"{place}: {kind}" for place in (train, test) for kind in ("images", "labels")]
    return dict(zip(kinds, (images, labels, *batches[5]), strict=True))


def _npz_arrays(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    return {
        f"{path}: {name}": array for name, array in zip(names, _files.npz(path, names), strict=True)
    }


def _image_set(
    name: str,
    arrays: Arrays,
    source: str,
    class_names: Sequence[str],
    *,
    channels: int,
    whole: int | None = None,
) -> Dataset:
    """uint8 images to float32 in [0, 1]; ``whole`` is the size of the complete training set."""
    for number, (place, array) in enumerate(arrays.items()):
        if number % 2 == 0:
            _check_images(place, array, channels)
        else:
            _check_labels(place, array, len(class_names))
    x_train, y_train, x_test, y_test = arrays.values()
    notes = ["values 0..255 divided by 255"]
    if whole is not None and len(x_train) != whole:
        notes.append(f"training set: {len(x_train)} of {whole} images")
    try:
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
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _check_images(place: str, images: np.ndarray, channels: int) -> None:
    if images.dtype != np.uint8:
        raise ValueError(f"{place}: images must be uint8, got {images.dtype}")
    if images.ndim != 4 or images.shape[-1] != channels:
        shape = f"(n, height, width, {channels})"
        raise ValueError(f"{place}: images must have shape {shape}, got {images.shape}")


def _check_labels(place: str, labels: np.ndarray, num_classes: int) -> None:
    # A cast would turn the label 0.5 into a 0.
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
        got = f"{labels.dtype} of shape {labels.shape}"
        raise ValueError(f"{place}: labels must be (n,) whole numbers, got {got}")
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if wrong.size:
        raise ValueError(f"{place}: labels must be in 0..{num_classes - 1}, got {wrong[0]}")
