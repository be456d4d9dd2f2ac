"""What a clustering should be, in NumPy, by definition and by enumeration."""

import itertools
from collections.abc import Iterator

import numpy as np


def pairwise(points, assignments):
    """Sum over clusters of the squared distances of all pairs, each pair once."""
    total = 0.0
    for i, j in itertools.combinations(range(len(points)), 2):
        if assignments[i] == assignments[j]:
            total += np.sum((points[i] - points[j]) ** 2)
    return total


def kmeans(points, assignments):
    """Sum of squared distances to the means."""
    groups = [points[assignments == k] for k in np.unique(assignments)]
    return sum(np.sum((group - group.mean(0)) ** 2) for group in groups)


OBJECTIVES = {"pairwise": pairwise, "kmeans": kmeans}


def partitions(num_points: int, num_clusters: int) -> Iterator[np.ndarray]:
    """All partitions into at most so many clusters, each once."""

    def extend(prefix, used):
        if len(prefix) == num_points:
            yield np.array(prefix)
            return
        for cluster in range(min(used + 1, num_clusters)):
            yield from extend([*prefix, cluster], max(used, cluster + 1))

    return extend([0], 1)


def best(points, num_clusters, objective):
    """The smallest value over all partitions."""
    value = OBJECTIVES[objective]
    return min(value(points, partition) for partition in partitions(len(points), num_clusters))


def contiguous_kmeans(values, num_clusters):
    """The optimum of k-means in one dimension, by dynamic programming over contiguous clusters."""
    values = np.sort(values)
    cost = lambda i, j: np.sum((values[i:j] - values[i:j].mean()) ** 2)
    table = {(0, 0): 0.0}
    for k in range(1, num_clusters + 1):
        for j in range(1, len(values) + 1):
            before = [i for i in range(j) if (k - 1, i) in table]
            if before:  # else there are fewer points than clusters
                table[k, j] = min(table[k - 1, i] + cost(i, j) for i in before)
    return table[num_clusters, len(values)]


def leaders(points, tolerance, metric="euclidean"):
    """The leader of every point, one point after the other."""
    points = np.asarray(points, np.float64)
    found = []
    for i, point in enumerate(points):
        close = [
            j for j in range(i) if found[j] == j and distance(point, points[j], metric) <= tolerance
        ]
        found.append(close[0] if close else i)
    return np.array(found)


def distance(x, y, metric):
    """Euclidean, or 1 - cos, with zero at the same place as zero only."""
    if metric == "euclidean":
        return np.linalg.norm(x - y)
    lengths = np.linalg.norm(x) * np.linalg.norm(y)
    if lengths == 0:
        return 0.0 if np.array_equal(x, y) else np.inf
    return 1 - x @ y / lengths
