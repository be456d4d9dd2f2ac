"""Data sets on which gated networks show what they do, all of few examples."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrobust import trees
from jaxrobust.gated._graph import Graph, pathways, routing
from jaxrobust.gated._network import Dataset, Gates


def xor_dataset(size_hidden: int = 8, dtype: Any = float) -> tuple[Graph, Dataset]:
    """XoR of two signs: four pathways of two layers, each on for one point alone."""
    x = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype)
    y = -np.prod(x, axis=1, keepdims=True)
    graph = pathways([2, size_hidden, 1], 4)
    gates = Gates(node={f"h1_{k}": np.eye(4, dtype=dtype)[k] for k in range(4)})
    return graph, Dataset({"x": x}, {"y": y}, gates)


def hierarchy_targets(num_levels: int, dtype: Any = float) -> np.ndarray:
    """``(2^L items, 2^L - 1 + ..)``: what items of a binary tree have, a feature for each node.

    Item i has the features of all nodes on its way from the root: items that part late share more.
    """
    trees.check_count("num_levels", num_levels)
    items = np.arange(2**num_levels)
    levels = [np.eye(2**level, dtype=dtype)[items >> (num_levels - level)]
              for level in range(num_levels + 1)]  # fmt: skip
    return np.concatenate(levels, axis=1)


def routing_targets(dtype: Any = float) -> np.ndarray:
    """``(4 items, 7 features)`` of the routing figure, singular values 13.6, 6.4, 3, 3.

    One feature of all, two of two items each, one of each alone, of 6, 4, 4 and 3.
    """
    y = np.zeros((4, 7), dtype)
    y[:, 0] = 6
    y[:2, 1] = y[2:, 2] = 4
    y[:, 3:] = 3 * np.eye(4)
    return y


def band(num_domains: int, num_trained: int) -> np.ndarray:
    """``(M, M)`` bool: which outputs each input is trained with, K next to each other, cyclic."""
    trees.check_count("num_domains", num_domains)
    trees.check_count("num_trained", num_trained, most=num_domains)
    first = -((num_trained - 1) // 2)
    pairs = np.zeros((num_domains, num_domains), bool)
    for i in range(num_domains):
        pairs[i, (i + first + np.arange(num_trained)) % num_domains] = True
    return pairs


def routing_dataset(
    pairs: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    size_hidden: int,
    *,
    weight: float | None = None,
) -> tuple[Graph, Dataset]:
    """Items in several domains of inputs and outputs; some pairs of domains are trained.

    Args:
      pairs: ``(M, M)`` bool: trained pairs of input and output domain.
      x: ``(items, in)``, the same in all domains.
      y: ``(items, out)``.
      size_hidden: of both shared nodes.
      weight: what each pair of domains counts, its items being summed; 1 / M^2 by default, also if
        fewer pairs are trained.

    Returns:
      A :func:`routing` graph, and examples: the items of each trained pair.
    """
    pairs = np.asarray(pairs, bool)
    number = len(pairs)
    if pairs.shape != (number, number) or not pairs.any():
        raise ValueError(f"pairs must be (M, M) with one that is trained, got {pairs.shape}")
    each = 1 / number**2 if weight is None else weight
    trained = np.argwhere(pairs)
    graph = routing(number, x.shape[1], size_hidden, y.shape[1])
    from_of, to_of = (np.repeat(trained[:, side], len(x)) for side in (0, 1))
    whole_x, whole_y = np.tile(x, (len(trained), 1)), np.tile(y, (len(trained), 1))
    only = lambda array, of, k: array * (of == k)[:, None]
    nodes = {f"y{o}": (to_of == o).astype(x.dtype) for o in range(number)}
    return graph, Dataset(
        {f"x{i}": only(whole_x, from_of, i) for i in range(number)},
        {f"y{o}": only(whole_y, to_of, o) for o in range(number)},
        Gates(node=nodes),
        np.full(len(whole_x), each, x.dtype),
    )


def context_dataset(
    targets: Sequence[np.ndarray], pathway_sets: Sequence[Sequence[int]], size_hidden: int
) -> tuple[Graph, Dataset]:
    """The same items in several contexts, which ask for other features; pathways by context.

    Args:
      targets: ``(items, features)`` of each context, one or more.
      pathway_sets: for each pathway the contexts in which it is on.
      size_hidden: of every pathway.

    Returns:
      Pathways of two layers from items, one-hot, to features; examples: all items in the first
      context, then in the next one.
    """
    number, items = len(targets), len(targets[0])
    for k, contexts in enumerate(pathway_sets):
        if not contexts or not set(contexts) <= set(range(number)):
            raise ValueError(
                f"pathway_sets[{k}] must name contexts 0..{number - 1}, got {contexts}"
            )
    graph = pathways([items, size_hidden, targets[0].shape[1]], len(pathway_sets))
    context = np.repeat(np.arange(number), items)
    end = (lambda k: f"_{k}") if len(pathway_sets) > 1 else (lambda k: "")
    gates = {f"h1{end(k)}": np.isin(context, list(contexts)).astype(float)
             for k, contexts in enumerate(pathway_sets)}  # fmt: skip
    x = np.tile(np.eye(items), (number, 1))
    return graph, Dataset({"x": x}, {"y": np.concatenate(targets)}, Gates(node=gates))
