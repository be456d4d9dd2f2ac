"""Exact distributions of sampled batches by enumeration, in float64 NumPy; no jaxrobust."""

import itertools
import math
from collections.abc import Iterator

import numpy as np


def shares_of(assignments, batch_size, allocation, spread=None, uniform_share=0.0, cover=False):
    """Expected share of the draws of every cluster, from the definitions."""
    sizes = np.bincount(assignments).astype(float)
    there = sizes > 0
    if allocation == "equal":
        return there / there.sum()
    proportional = sizes / sizes.sum()
    if allocation == "proportional":
        return proportional
    wanted = np.sqrt(sizes * spread)
    wanted = wanted / wanted.sum() if wanted.sum() > 0 else proportional
    shares = (1 - uniform_share) * wanted + uniform_share * proportional
    if cover and there.sum() <= batch_size:
        needed = there.sum() / batch_size
        shares = needed * there / there.sum() + (1 - needed) * shares
    return shares


def systematic(shares, batch_size) -> Iterator[tuple[float, np.ndarray]]:
    """Every vector of counts that systematic sampling gives, with its probability."""
    edges = np.cumsum(shares) * batch_size
    edges = np.where(abs(edges - edges.round()) < 1e-9, edges.round(), edges)
    steps = np.unique(np.concatenate([[0.0, 1.0], edges % 1]))
    for low, high in itertools.pairwise(steps):
        ticks = np.arange(batch_size) + (low + high) / 2
        found = np.searchsorted(edges, ticks, side="right")
        yield high - low, np.bincount(found, minlength=len(shares))


def batches(assignments, batch_size, shares, scores=None, replacement=True):
    """All batches: (probability, indices, weights), by enumeration of counts and members."""
    num_examples = len(assignments)
    members = [np.nonzero(assignments == k)[0] for k in range(len(shares))]
    scores = np.ones(num_examples) if scores is None else scores
    chances = scores / np.bincount(assignments, scores)[assignments]  # within the cluster
    for chance, counts in systematic(shares, batch_size):
        of_clusters = [
            list(_draws(inside, chances, int(count), replacement))
            for inside, count in zip(members, counts, strict=True)
        ]
        for pick in itertools.product(*of_clusters):
            probability, indices, weights = chance, [], []
            for (of_drawn, drawn), share in zip(pick, shares, strict=True):
                probability *= of_drawn
                expected = batch_size * share
                number = len(drawn) if expected >= 1 - 1e-12 else expected
                indices += drawn
                weights += [batch_size / number / (num_examples * chances[i]) for i in drawn]
            yield probability, np.array(indices), np.array(weights)


def _draws(inside, chances, count, replacement):
    """All ordered draws from one cluster: (probability, members)."""
    if replacement:
        for drawn in itertools.product(inside, repeat=count):
            yield math.prod(chances[i] for i in drawn), list(drawn)
        return
    if count == 0:
        yield 1.0, []
        return
    size = len(inside)
    now = min(count, size)  # the rest is of the next pass
    for drawn in itertools.permutations(inside, now):
        for probability, rest in _draws(inside, chances, count - now, replacement):
            yield probability / math.perm(size, now), [*drawn, *rest]


def mean_and_variance(gradients, all_batches):
    """Mean, and trace of the covariance, of the weighted mean gradient."""
    total, mean, square = 0.0, np.zeros(gradients.shape[1]), 0.0
    for probability, indices, weights in all_batches:
        estimate = (weights[:, None] * gradients[indices]).mean(axis=0)
        total += probability
        mean = mean + probability * estimate
        square += probability * (estimate**2).sum()
    assert abs(total - 1) < 1e-9
    return mean, square - (mean**2).sum()
