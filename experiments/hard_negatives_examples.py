"""What was retrieved: queries and the best five of all test items, for a person to look at."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.hard_negatives_problems import DIGITS, Problem, Texts, digit_pixels
from experiments.hard_negatives_runs import INFO_NCE, SOFT, scored
from experiments.report import Table
from jaxrobust import contrastive, data

FIRST = 5  # items that are shown for a query
NUM_IMAGES, NUM_TEXTS = 8, 6
RIGHT, ALIKE = "✓ ", "• "


class Shown(NamedTuple):
    """For the report; either may be empty."""

    images: Any  # of digits: queries (q, 8, 4), retrieved (q, FIRST, 8, 4), right (q, FIRST)
    tables: list[Table]


def show(name: str, problem: Problem, texts: Texts | None, embedded: dict[str, Any]) -> Shown:
    """By the soft maximum if it was trained, of queries spread over the test set of seed 0."""
    method = SOFT if SOFT in embedded else INFO_NCE
    x, y = embedded[method]
    groups = np.asarray(problem.test.groups)
    number = NUM_IMAGES if name == DIGITS else NUM_TEXTS
    queries = np.linspace(0, len(x) - 1, number).astype(int)
    best, right = first_items(method, x, y, groups, queries)
    if name == DIGITS:
        left, right_half = digit_pixels(0)
        return Shown({"queries": left[queries], "found": right_half[best], "right": right}, [])
    if problem.labels is not None:
        classes, names = np.asarray(problem.labels[1]), data.wikipedia().info.class_names
        of_x = of_y = [names[number] for number in classes]
        what = "categories of the image and of the retrieved texts"
    elif texts is not None:
        of_x, of_y, what = texts.x_test, texts.y_test, "retrieved captions"
    else:
        return Shown(None, [])
    rows = []
    for query, items, marks in zip(queries, best, right, strict=True):
        alike = ["" if texts else ALIKE * (of_y[item] == of_x[query]) for item in items]
        shown = [
            (RIGHT if mark else other) + of_y[item]
            for item, mark, other in zip(items, marks, alike, strict=True)
        ]
        rows.append((of_x[query], *shown))
    columns = ("query", *(f"{place + 1}." for place in range(FIRST)))
    note = f"By {method}, of the first seed. ✓: belongs to the query."
    if texts is None:
        note += " •: of the same category. The files have features of images and texts, no texts."
    return Shown(None, [Table(f"{name}: {what}", columns, rows, note)])


def first_items(
    method: str, x: Any, y: Any, groups: np.ndarray, queries: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The most similar items of each query, ``(q, FIRST)``, and which belong to it."""
    x, y, similarity = scored(method, jnp.asarray(x), jnp.asarray(y))
    if similarity != "cosine":
        raise ValueError(f"method must compare by cosine, got {method!r}")
    x, y = (np.asarray(contrastive.normalized(z), np.float64) for z in (x, y))
    best = np.argsort(-x[queries] @ y.T, axis=1, kind="stable")[:, :FIRST]
    return best, groups[best] == queries[:, None]
