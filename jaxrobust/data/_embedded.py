"""Real data sets that come inside scikit-learn: no network, no files of one's own."""

from __future__ import annotations

import numpy as np

from jaxrobust.data import _checks, _extra, _split, _transform
from jaxrobust.data._dataset import Dataset, from_arrays


def digits(*, test_fraction: float = 0.2, seed: int = 0) -> Dataset:
    """Handwritten digits, 1797 images of 8x8 grey values, 10 classes.

    Args:
      test_fraction: share of test rows, in [0, 1); round(test_fraction * 1797) rows, every class in
        proportion. 0 puts all rows into the training set.
      seed: of the split, 0 <= seed < 2**32; the split is the same for every version of any library.

    Returns:
      Features (n, 64) float32 in [0, 1] (counts 0..16 divided by 16), labels int32 0..9,
      ``info.feature_shape == (8, 8, 1)``; rows keep scikit-learn's order.

    Raises:
      ImportError: if scikit-learn is missing.
      ValueError: if an argument is outside its range.
      TypeError: if ``test_fraction`` is no real number, or ``seed`` no whole one.

    Source: UCI "Optical recognition of handwritten digits", test part, as scikit-learn ships it.
    """
    raw = _scikit_learn("digits")
    return _split_set(
        np.asarray(raw.data) / 16,
        np.asarray(raw.target),
        test_fraction,
        seed,
        name="digits",
        source="scikit-learn load_digits",
        feature_shape=(8, 8, 1),
    )


def breast_cancer(
    *, test_fraction: float = 0.2, seed: int = 0, standardize: bool = True
) -> Dataset:
    """Breast cancer Wisconsin (diagnostic): 569 tumours, 30 measurements, malignant or benign.

    Args:
      test_fraction: share of test rows, in [0, 1), as in :func:`digits`.
      seed: of the split, 0 <= seed < 2**32.
      standardize: whether to apply :func:`standardize` (training mean and standard deviation). The
        raw measurements differ in size by a factor of about 1e5.

    Returns:
      Features (n, 30) float32, labels float32: malignant -1 (212 rows in all), benign +1 (357).

    Raises:
      ImportError: if scikit-learn is missing.
      ValueError: if an argument is outside its range.
      TypeError: if ``test_fraction`` is no real number, or ``seed`` no whole one.

    Source: UCI "Breast cancer Wisconsin (diagnostic)", as scikit-learn ships it.
    """
    raw = _scikit_learn("breast_cancer")
    dataset = _split_set(
        np.asarray(raw.data),
        np.asarray(raw.target) * 2.0 - 1,
        test_fraction,
        seed,
        name="breast_cancer",
        source="scikit-learn load_breast_cancer",
        class_names=[str(name) for name in raw.target_names],
    )
    return _transform.standardize(dataset) if standardize else dataset


def _scikit_learn(name: str):
    datasets = _extra.require("sklearn.datasets", "scikit-learn", f"data.{name}")
    return getattr(datasets, f"load_{name}")()


def _split_set(x: np.ndarray, y: np.ndarray, test_fraction: float, seed: int, **info) -> Dataset:
    test_fraction = _checks.fraction("test_fraction", test_fraction)
    seed = _checks.whole("seed", seed, 0, 2**32 - 1)
    train, test = _split.train_test(y, test_fraction, seed)
    return from_arrays(x[train], y[train], x[test], y[test], **info)
