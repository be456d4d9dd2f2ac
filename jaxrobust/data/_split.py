"""Stratified choice of rows, the same for ever: it uses no library's generator."""

from __future__ import annotations

import numpy as np

from jaxrobust.data import _threefry


def stratified(labels: np.ndarray, num_chosen: int, seed: int) -> np.ndarray:
    """(num_chosen,) increasing row numbers, random, every class in proportion.

    A class of n_c rows out of n gets ``num_chosen * n_c / n`` rows, rounded down; the rows left
    over go to the largest remainders (ties: the first class), so no class is off by one or more.
    """
    classes, counts = np.unique(labels, return_counts=True)
    # Whole numbers throughout: quotient and remainder of num_chosen * n_c by n, no rounding error.
    shares, remainders = np.divmod(num_chosen * counts, max(len(labels), 1))
    left_over = num_chosen - shares.sum()
    shares[np.argsort(-remainders, kind="stable")[:left_over]] += 1
    keys = _threefry.split(_threefry.seed_key(seed), max(len(classes), 1))
    chosen = [
        np.flatnonzero(labels == label)[_threefry.permutation(key, count)[:share]]
        for label, count, share, key in zip(classes, counts, shares, keys, strict=False)
    ]
    return np.sort(np.concatenate([*chosen, np.zeros(0, np.int64)]).astype(np.int64))


def train_test(
    labels: np.ndarray, test_fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Increasing row numbers (train, test); round(test_fraction * n) of n rows are test rows."""
    num_test = round(test_fraction * len(labels))
    if num_test >= len(labels):
        raise ValueError(
            f"test_fraction must leave at least one of {len(labels)} rows to train on, "
            f"got {test_fraction}"
        )
    test = stratified(labels, num_test, seed)
    return np.setdiff1d(np.arange(len(labels)), test), test
