"""Data sets on which gated networks show what they do, all of few examples."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrobust import trees
from jaxrobust.gated._graph import Graph, pathways, routing
from jaxrobust.gated._moments import Moments
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
    number = _checked_pairs(pairs)
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


def routing_moments(
    pairs: np.ndarray, x: np.ndarray, y: np.ndarray, *, weight: float | None = None
) -> Moments:
    r"""Moments of a :func:`routing` graph, of items that look different in every domain.

    Those of trained pairs of domains are :math:`c \sum_n y_n^{(o)} x_n^{(i)\top}` and
    :math:`c \sum_n x_n^{(i)} x_n^{(i)\top}`; inputs of two domains are never on together. No row is
    made for an item in a pair of domains, of which there may be millions.

    Args:
      pairs: ``(M, M)`` bool: trained pairs of input and output domain.
      x: ``(M, items, in)``: all items as they are in each input domain.
      y: ``(M, items, out)``: targets of the same items in each output domain.
      weight: what each item of a pair of domains counts, :math:`c`; by default 1 / (M^2 items), so
        that pairs count 1 / M^2, also if fewer are trained.

    Raises:
      ValueError: for shapes that do not fit, or if no pair is trained.
    """
    pairs, x, y = np.asarray(pairs, bool), np.asarray(x), np.asarray(y)
    number = _checked_pairs(pairs)
    for name, array in (("x", x), ("y", y)):
        if array.ndim != 3 or len(array) != number:
            raise ValueError(f"{name} must be ({number}, items, size), got {array.shape}")
    items, size = x.shape[1:]
    if y.shape[1] != items:
        raise ValueError(f"x and y must have the same items, got {items} and {y.shape[1]}")
    each = 1 / (number**2 * items) if weight is None else weight
    own = [each * part.T @ part for part in x]
    yx, xx, yy = {}, {}, 0.0
    for o in range(number):
        mixed, square = np.zeros((y.shape[2], number, size)), np.zeros((number, size) * 2)
        for i in np.flatnonzero(pairs[:, o]):
            mixed[:, i] = each * y[o].T @ x[i]
            square[i, :, i] = own[i]
            yy += 0.5 * each * float(np.sum(y[o] ** 2))
        yx[f"y{o}"] = jnp.asarray(mixed.reshape(-1, number * size), float)
        xx[f"y{o}"] = jnp.asarray(square.reshape(number * size, -1), float)
    return Moments(yx, xx, jnp.asarray(yy, float))


def _checked_pairs(pairs: np.ndarray) -> int:
    """How many domains there are."""
    number = len(pairs)
    if pairs.shape != (number, number) or not pairs.any():
        raise ValueError(f"pairs must be (M, M) with one that is trained, got {pairs.shape}")
    return number


def context_dataset(
    targets: Sequence[np.ndarray],
    pathway_sets: Sequence[Sequence[int]],
    size_hidden: int,
    *,
    with_context: bool = False,
) -> tuple[Graph, Dataset]:
    """The same items in several contexts, which ask for other features; pathways by context.

    Args:
      targets: ``(items, features)`` of each context, one or more.
      pathway_sets: for each pathway the contexts in which it is on.
      size_hidden: of every pathway.
      with_context: whether inputs tell the context too, one-hot, after the item: what a network
        without gates needs to know.

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
    context = np.repeat(np.arange(number), items)
    x = np.tile(np.eye(items), (number, 1))
    if with_context:
        x = np.concatenate([x, np.eye(number)[context]], axis=1)
    graph = pathways([x.shape[1], size_hidden, targets[0].shape[1]], len(pathway_sets))
    end = (lambda k: f"_{k}") if len(pathway_sets) > 1 else (lambda k: "")
    gates = {f"h1{end(k)}": np.isin(context, list(contexts)).astype(float)
             for k, contexts in enumerate(pathway_sets)}  # fmt: skip
    return graph, Dataset({"x": x}, {"y": np.concatenate(targets)}, Gates(node=gates))
