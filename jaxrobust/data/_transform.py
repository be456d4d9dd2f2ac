"""From one data set to another: two classes, fewer rows, other scale, other shape."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from jaxrobust.data import _checks, _split
from jaxrobust.data._dataset import Dataset, is_binary


def pair(dataset: Dataset, negative: int | str, positive: int | str) -> Dataset:
    """The binary problem of two classes: ``negative`` gets -1, ``positive`` +1, other rows go.

    Args:
      dataset: with class labels.
      negative: class number 0..C-1, or class name, that becomes -1.
      positive: the same for +1.

    Returns:
      The rows of the two classes in their old order, labels float32 in {-1, +1},
      ``info.class_names == (name of negative, name of positive)``.

    Raises:
      ValueError: if the data set is binary already, a class is unknown or has no training row, or
        both are the same class.
    """
    low, high = _class(dataset, "negative", negative), _class(dataset, "positive", positive)
    if low == high:
        raise ValueError(f"negative and positive must be two classes, got {positive!r} twice")
    names = dataset.info.class_names[low], dataset.info.class_names[high]
    title = f"{dataset.info.name}: {names[0]} vs {names[1]}"
    reduced = _keep(dataset, *(np.isin(y, (low, high)) for y in _label_arrays(dataset)))
    return _binary(reduced, high, title, names)


def one_vs_rest(dataset: Dataset, positive: int | str) -> Dataset:
    """The binary problem of one class (+1) against all others (-1); all rows stay.

    Args:
      dataset: with class labels.
      positive: class number 0..C-1, or class name, that becomes +1.

    Returns:
      The same rows, labels float32 in {-1, +1}, ``info.class_names == ("rest", name)``.

    Raises:
      ValueError: if the data set is binary already, or the class is unknown or has no training row.
    """
    high = _class(dataset, "positive", positive)
    name = dataset.info.class_names[high]
    return _binary(dataset, high, f"{dataset.info.name}: {name} vs rest", ("rest", name))


def subset(
    dataset: Dataset, num_train: int, num_test: int | None = None, *, seed: int = 0
) -> Dataset:
    """Fewer rows, chosen at random, every class in proportion, in their old order.

    Shares are rounded by largest remainders, so no class is off by one row or more. Use it instead
    of ``x_train[:n]``: some sets are stored class by class.

    Args:
      dataset: to choose from.
      num_train: training rows to keep, 1..all.
      num_test: test rows to keep, 0..all; None keeps all.
      seed: 0 <= seed < 2**32. The choice depends on labels and seed only, not on library versions.

    Returns:
      The smaller data set.

    Raises:
      ValueError: if a number is outside its range.
    """
    y_train, y_test = _label_arrays(dataset)
    _checks.whole("num_train", num_train, 1, len(y_train))
    num_test = _checks.whole(
        "num_test", len(y_test) if num_test is None else num_test, 0, len(y_test)
    )
    _checks.whole("seed", seed, 0, 2**32 - 1)
    return _keep(
        dataset,
        _split.stratified(y_train, num_train, seed),
        _split.stratified(y_test, num_test, seed),
    )


def standardize(dataset: Dataset) -> Dataset:
    """Each feature minus its training mean, divided by its training standard deviation.

    ``x -> (x - mean) / std`` with ``mean = sum_i x_i / n`` and ``std^2 = sum_i (x_i - mean)^2 / n``
    over the n *training* rows, computed in float64; the test rows get the same map. A feature that
    is constant over the training rows is only centred.

    Args:
      dataset: any.

    Returns:
      The data set with rescaled features.
    """
    x = np.asarray(dataset.x_train, np.float64)
    mean, spread = x.mean(axis=0), x.std(axis=0)
    # Zero is exact here: float64 holds the sum of up to 2**29 equal float32 numbers unrounded.
    scale = np.where(spread == 0, 1.0, spread)
    arrays = [
        ((np.asarray(part, np.float64) - mean) / scale).astype(np.float32)
        for part in (dataset.x_train, dataset.x_test)
    ]
    x_train, x_test = jax.device_put(arrays)
    note = "features standardised by training mean and standard deviation"
    return _noted(dataset, note)._replace(x_train=x_train, x_test=x_test)


def flatten(dataset: Dataset) -> Dataset:
    """Every example as one row of numbers: features (n, d) with d the product of their shape."""
    return _reshaped(dataset, (int(np.prod(dataset.info.feature_shape)),))


def images(dataset: Dataset) -> Dataset:
    """Every example in its natural shape ``info.feature_shape``, such as (n, 8, 8, 1)."""
    return _reshaped(dataset, dataset.info.feature_shape)


def _reshaped(dataset: Dataset, shape: tuple[int, ...]) -> Dataset:
    x_train, x_test = (x.reshape(len(x), *shape) for x in (dataset.x_train, dataset.x_test))
    return dataset._replace(x_train=x_train, x_test=x_test)


def _class(dataset: Dataset, argument: str, label: int | str) -> int:
    """The number of a class given by number or name, if it has training rows."""
    if is_binary(dataset):
        raise ValueError(f"dataset must have class labels, got the binary {dataset.info.name!r}")
    names = dataset.info.class_names
    if isinstance(label, str):
        if label not in names:
            raise ValueError(f"{argument} must be one of {names}, got {label!r}")
        label = names.index(label)
    number = _checks.whole(argument, label, 0, len(names) - 1)
    if not (np.asarray(dataset.y_train) == number).any():
        raise ValueError(f"{argument} must have training rows, class {names[number]!r} has none")
    return number


def _binary(dataset: Dataset, high: int, name: str, class_names: tuple[str, str]) -> Dataset:
    signs = [np.where(y == high, 1, -1).astype(np.float32) for y in _label_arrays(dataset)]
    y_train, y_test = jax.device_put(signs)
    info = dataclasses.replace(dataset.info, name=name, class_names=class_names)
    return dataset._replace(y_train=y_train, y_test=y_test, info=info)


def _keep(dataset: Dataset, train: np.ndarray, test: np.ndarray) -> Dataset:
    """The rows of two masks or two lists of row numbers."""
    x_train, y_train, x_test, y_test = map(np.asarray, dataset[:4])
    arrays = x_train[train], y_train[train], x_test[test], y_test[test]
    x_train, y_train, x_test, y_test = jax.device_put(arrays)
    return dataset._replace(x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)


def _noted(dataset: Dataset, note: str) -> Dataset:
    info = dataclasses.replace(dataset.info, notes=(*dataset.info.notes, note))
    return dataset._replace(info=info)


def _label_arrays(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(dataset.y_train), np.asarray(dataset.y_test)
