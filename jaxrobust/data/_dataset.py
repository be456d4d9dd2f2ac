"""The one type of this room: four arrays, and what a person wants to know about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Info:
    """What a data set is. Static for JAX: no array, compared by value, passes through ``jit``.

    Attributes:
      name: of the data set, with the classes kept if it was reduced to two.
      source: where the numbers came from: a package, files, or a generator with its arguments.
      feature_shape: the natural shape of one example, such as (8, 8, 1); its product is the number
        of features whatever the shape of ``x_train``.
      class_names: one per class, in label order; (name of -1, name of +1) for a binary set.
      notes: what was dropped, rescaled or is out of the ordinary.
    """

    name: str
    source: str
    feature_shape: tuple[int, ...]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()


class Dataset(NamedTuple):
    """A data set in memory, a pytree of arrays: ``jax.device_put(dataset, sharding)`` moves it.

    Multiclass labels are int32 in 0..C-1, binary labels are float32 in {-1, +1}.
    """

    x_train: jax.Array  # (num_train, *features) float32
    y_train: jax.Array  # (num_train,) int32 class 0..C-1, or float32 -1/+1 if binary
    x_test: jax.Array  # (num_test, *features) float32; num_test may be 0
    y_test: jax.Array  # (num_test,) as y_train
    info: Info  # no array: name, source, feature shape, class names, notes
    true_weights: jax.Array | None = None  # (num_features,) float32, of a generated set; else None


def from_arrays(
    x_train: ArrayLike,
    y_train: ArrayLike,
    x_test: ArrayLike | None = None,
    y_test: ArrayLike | None = None,
    *,
    name: str = "arrays",
    source: str = "arrays",
    class_names: Sequence[str] | None = None,
    feature_shape: Sequence[int] | None = None,
    notes: Sequence[str] = (),
    true_weights: ArrayLike | None = None,
) -> Dataset:
    """A :class:`Dataset` of your own arrays, checked and brought to the dtypes of the room.

    Args:
      x_train: (num_train, *features) real numbers, at least one row and one feature; becomes
        float32. Not rescaled.
      y_train: (num_train,) labels: integers 0..C-1 for classes, floats -1/+1 for a binary problem.
      x_test: (num_test, *features), or None for no test set.
      y_test: (num_test,) labels of the same kind, or None together with ``x_test``.
      name: of the data set.
      source: where it came from.
      class_names: one per class; None means "0", "1", ..., or "-1", "+1".
      feature_shape: natural shape of one example; None means the shape the rows have.
      notes: for :class:`Info`.
      true_weights: (num_features,) weights of the generator, if any.

    Returns:
      The data set, arrays on the default device.

    Raises:
      ValueError: if lengths, feature shapes or kinds of labels disagree, a label is not allowed, a
        feature or true weight is not finite, ``x_train`` has no row or no feature, or
        ``true_weights`` have another shape.
      TypeError: if labels are neither integers nor floats, or features are no real numbers.
    """
    x, y = _features("x_train", x_train), _labels("y_train", y_train)
    if not x.size:
        lacking = "feature" if len(x) else "row"
        raise ValueError(f"x_train must have at least one {lacking}, got shape {x.shape}")
    if (x_test is None) != (y_test is None):
        raise ValueError("x_test and y_test must be given together, got only one of them")
    x_other = x[:0] if x_test is None else _features("x_test", x_test)
    y_other = y[:0] if y_test is None else _labels("y_test", y_test)
    _check_pairing(x, y, x_other, y_other)
    names = _class_names(class_names, y, y_other)
    shape = tuple(x.shape[1:] if feature_shape is None else feature_shape)
    if np.prod(shape) != np.prod(x.shape[1:]):
        raise ValueError(f"feature_shape must have {x[0].size} entries in all, got {shape}")
    weights = None if true_weights is None else _weights(true_weights, x[0].size)
    info = Info(name, source, shape, names, tuple(notes))
    x, y, x_other, y_other, weights = jax.device_put((x, y, x_other, y_other, weights))
    return Dataset(x, y, x_other, y_other, info, weights)


def is_binary(dataset: Dataset) -> bool:
    """Whether the labels are -1/+1 (float32) rather than classes (int32)."""
    return np.issubdtype(dataset.y_train.dtype, np.floating)


def _features(name: str, x: ArrayLike) -> np.ndarray:
    array = _real(name, x)
    if array.ndim < 2:
        raise ValueError(f"{name} must be (num_examples, *features), got shape {array.shape}")
    _check_finite(name, array)
    return array


def _weights(true_weights: ArrayLike, num_features: int) -> np.ndarray:
    array = _real("true_weights", true_weights)
    if array.shape != (num_features,):
        raise ValueError(f"true_weights must have shape ({num_features},), got {array.shape}")
    _check_finite("true_weights", array)
    return array


def _real(name: str, values: ArrayLike) -> np.ndarray:
    try:
        array = np.asarray(values)
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite: not finite
            real = np.real(array).astype(np.float32)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be an array of real numbers: {error}") from error
    if np.iscomplexobj(array):
        raise TypeError(f"{name} must be real, got complex numbers")
    return real


def _check_finite(name: str, array: np.ndarray) -> None:
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity (in float32)")


def _labels(name: str, y: ArrayLike) -> np.ndarray:
    array = np.asarray(y)
    if array.ndim != 1:
        raise ValueError(f"{name} must be (num_examples,), got shape {array.shape}")
    if np.issubdtype(array.dtype, np.floating):
        if not np.isin(array, (-1, 1)).all():
            raise ValueError(f"{name}: float labels must be -1 or +1, got {np.unique(array)[:8]}")
        return array.astype(np.float32)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name} must hold integers or floats, got dtype {array.dtype}")
    if array.size and array.min() < 0:
        raise ValueError(
            f"{name}: integer labels must be 0..C-1, got {array.min()} (for -1/+1 pass floats)"
        )
    return array.astype(np.int32)


def _check_pairing(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> None:
    for part, rows, labels in (("train", x, y), ("test", x_test, y_test)):
        if len(rows) != len(labels):
            raise ValueError(
                f"x_{part} and y_{part} must have equal lengths, got {len(rows)} and {len(labels)}"
            )
    if x.shape[1:] != x_test.shape[1:]:
        raise ValueError(
            f"x_test must have the features of x_train, got {x_test.shape[1:]} and {x.shape[1:]}"
        )
    if y.dtype != y_test.dtype:
        raise ValueError(
            f"y_test must have the kind of labels of y_train, got {y_test.dtype} and {y.dtype}"
        )


def _class_names(names: Sequence[str] | None, y: np.ndarray, y_test: np.ndarray) -> tuple[str, ...]:
    if y.dtype == np.float32:
        num_classes, default = 2, ("-1", "+1")
    else:
        num_classes = int(np.concatenate([y, y_test]).max()) + 1
        default = tuple(map(str, range(num_classes)))
    names = default if names is None else tuple(names)
    if len(set(names)) != len(names):
        raise ValueError(f"class_names must differ from each other, got {names}")
    if len(names) < num_classes or (y.dtype == np.float32 and len(names) != 2):
        raise ValueError(f"class_names must name all {num_classes} classes, got {names}")
    return names
