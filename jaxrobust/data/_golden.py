"""Separable Gaussian data, the same numbers on every machine, JAX version and configuration."""

from __future__ import annotations

import numpy as np

from jaxrobust.data import _checks, _threefry
from jaxrobust.data._dataset import Dataset, from_arrays


def logistic_gaussian(
    num_train: int,
    *,
    num_features: int = 100,
    num_test: int = 500,
    radius: float = 1.0,
    temperature: float = 1e-4,
    seed: int = 0,
) -> Dataset:
    """Gaussian inputs with logistic labels: x ~ N(0, I), P(y=+1) = sigmoid(-w*.x / temperature).

    w* is uniform on the sphere of radius ``radius``. Note the minus sign: at a small temperature
    almost surely ``y = -sign(w*.x)``, so ``-true_weights`` is the predictor that separates. With
    num_features >= num_train the training set is separable whatever the labels.

    The data are *defined* by one random stream: threefry2x32 in its original (not partitionable)
    layout, in float32. Keys: seed -> split 3 -> [1] data -> split 3 -> w*, train, test; each of the
    last two -> split 3 -> [0] inputs, drawn as (num_features, n), and [1] labels. So neither x64,
    ``jax_threefry_partitionable``, the PRNG implementation nor the backend changes them, and the
    minimal norms ``min ||w|| s.t. y_i w.x_i >= 1`` are the same four decimals everywhere.

    Args:
      num_train: n, number of training rows, at least 1.
      num_features: d, at least 1.
      num_test: number of test rows, 0 allowed. Does not change the training rows.
      radius: Euclidean norm of w*, above 0.
      temperature: above 0; the larger, the more label noise.
      seed: 0 <= seed < 2**32.

    Returns:
      Data set with features (n, d) float32, labels (n,) float32 in {-1, +1}, and ``true_weights``
      (d,) float32, which is w*.

    Raises:
      ValueError: if a number is outside its range, or a set would have 2**32 numbers or more.
      TypeError: if a count or the seed is not a whole number, or another argument no real one.

    Source: the data model of Faghri et al., arXiv 2102.08868 (their public code).
    """
    num_features = _checks.whole("num_features", num_features, 1)
    # The stream has 32-bit counters: beyond 2**32 numbers per array it would repeat.
    most = (2**32 - 1) // num_features
    num_train = _checks.whole("num_train", num_train, 1, most)
    num_test = _checks.whole("num_test", num_test, 0, most)
    seed = _checks.whole("seed", seed, 0, 2**32 - 1)
    radius = _checks.positive("radius", radius)
    temperature = _checks.positive("temperature", temperature)
    weights_key, train_key, test_key = _data_keys(seed)
    weights = _direction(weights_key, num_features) * np.float32(radius)
    return from_arrays(
        *_rows(train_key, num_train, weights, temperature),
        *_rows(test_key, num_test, weights, temperature),
        name="logistic_gaussian",
        source=f"threefry2x32, {seed=}, {num_train=}, {num_features=}, {radius=}, {temperature=}",
        true_weights=weights,
    )


def _data_keys(seed: int) -> np.ndarray:
    """Keys of w*, training and test rows; the branches [0] and [2] were model and training."""
    _, data, _ = _threefry.split(_threefry.seed_key(seed), 3)
    return _threefry.split(data, 3)


def _direction(key: np.ndarray, num_features: int) -> np.ndarray:
    normal = _threefry.normal(key, num_features)
    return normal / np.linalg.norm(normal)


def _rows(key: np.ndarray, num_rows: int, weights: np.ndarray, temperature: float):
    x_key, y_key, _ = _threefry.split(key, 3)
    x = _threefry.normal(x_key, len(weights) * num_rows).reshape(len(weights), num_rows).T
    # Double, so that the order of a sum cannot flip a label; tanh, because exp would overflow.
    scores = x.astype(np.float64) @ weights.astype(np.float64)
    chances = 0.5 - 0.5 * np.tanh(scores / temperature / 2)
    y = np.where(_threefry.uniform(y_key, num_rows) < chances, 1, -1)
    return np.ascontiguousarray(x), y.astype(np.float32)
