"""The pairs of `hard_negatives`: synthetic views, halves of digits, and real pairs from files."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import captions
from jaxrobust import data

VIEWS, DIGITS, IMAGES = "views", "digits", "digits as images"
WIKIPEDIA, TRANSLATIONS, CAPTIONS = "wikipedia", "translations", "captions"
NUM_CENTERS, SPREAD, NOISE = 100, 0.35, 0.25


class Pair(NamedTuple):
    """Two views."""

    x: Any
    y: Any


class Gallery(NamedTuple):
    """What is retrieved from what."""

    x: Any
    y: Any
    groups: jax.Array  # (m,) int32: the row of x that each y belongs to


class Problem(NamedTuple):
    """Two views of the same things; a view is a pytree of arrays with one row for each item."""

    x_train: Any
    y_train: Any
    pairs: jax.Array  # (P, 2) int32: rows of x and y that belong together
    things: jax.Array  # (P,) int32: what they show; pairs of one thing are no negatives
    test: Gallery
    # By which the number of epochs is chosen; without it, all of them are done.
    validation: Gallery | None = None
    # (n,) and (m,) int32: classes of the test set; None where there are none.
    labels: tuple[jax.Array, jax.Array] | None = None


def views(
    seed: int, train: int = 4_000, test: int = 1_000, copies: int = 1, same_x: bool = False
) -> Problem:
    """Noisy views of points around 100 centers: every pair can be told from the others.

    Of every point that is trained on there are so many views, ``train`` in all; with ``same_x``
    their x is one and the same, as an image with several captions.
    """
    rng = np.random.default_rng(seed)
    number = train // copies + test
    centers = rng.normal(size=(NUM_CENTERS, 16))
    points = centers[rng.integers(0, NUM_CENTERS, number)] + SPREAD * rng.normal(size=(number, 16))
    things = np.concatenate(
        [np.repeat(np.arange(train // copies), copies), np.arange(train // copies, number)]
    )
    found: list[Any] = []
    for features in (64, 48):
        mixed = np.tanh(points @ rng.normal(size=(16, features)) / 4)[things]
        noise = NOISE * rng.normal(size=mixed.shape)
        if same_x and not found:  # that of the first of each thing
            noise = noise[np.searchsorted(things, things)]
        found.append(mixed + noise)
    problem = of_arrays(found[0], found[1], len(things) - test)
    return problem._replace(things=jnp.asarray(things[: len(things) - test], jnp.int32))


def digit_halves(seed: int, test: int = 500) -> Problem:
    """Left and right halves of handwritten digits: many right halves fit a left one.

    Pixels have mean 0 and variance 1, all of the training set together. Each on its own, or not at
    all, is another problem: what all images have in common is most of every embedding, or nothing.
    """
    images = _digits_in_order(seed)
    train = len(images) - test
    images = (images - images[:train].mean()) / images[:train].std()
    left, right = (half.reshape(-1, 32) for half in _halves(images))
    return of_arrays(left, right, train)


def digit_pixels(seed: int, test: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """The halves of the test set as they are, ``(test, 8, 4)`` each, to be looked at."""
    return _halves(_digits_in_order(seed)[-test:])


def _digits_in_order(seed: int) -> np.ndarray:
    dataset = data.digits(test_fraction=0.0)
    order = np.random.default_rng(seed).permutation(len(dataset.x_train))
    return np.asarray(dataset.x_train).reshape(-1, 8, 8)[order]


def _halves(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return images[:, :, :4], images[:, :, 4:]


def digit_images(seed: int) -> Problem:
    """The same halves as images of 8 by 4 pixels, for towers that are convolutional."""
    problem = digit_halves(seed)
    as_images = lambda half: half.reshape(-1, 8, 4, 1)
    return problem._replace(
        x_train=as_images(problem.x_train),
        y_train=as_images(problem.y_train),
        test=problem.test._replace(x=as_images(problem.test.x), y=as_images(problem.test.y)),
    )


def of_arrays(x: Any, y: Any, train: int) -> Problem:
    """Row i of x belongs to row i of y; the first ones are trained on."""
    x, y = (jnp.asarray(view, jnp.float32) for view in (x, y))
    own = np.arange(len(x))
    test = _gallery(Pair(x[train:], y[train:]), own[: len(x) - train])
    return _problem(Pair(x[:train], y[:train]), _same(train), test)


def untold(problem: Problem) -> Problem:
    """Nobody says which pairs show one thing: other pairs of it are taken for negatives."""
    return problem._replace(things=jnp.arange(len(problem.pairs), dtype=jnp.int32))


def wikipedia(seed: int) -> Problem:
    """Images and texts of Wikipedia articles; features are roots of shares. One set for all seeds.

    Of shares the root has a variance that does not depend on the share, and inner products of roots
    are a similarity (Bhattacharyya). Then features have mean 0 and variance 1.
    """
    del seed
    found = data.wikipedia()
    views = []
    for train, test in ((found.x_train, found.x_test), (found.y_train, found.y_test)):
        roots = jnp.sqrt(jnp.maximum(train, 0))
        mean, deviation = (np.array(of(roots, axis=0)) for of in (jnp.mean, jnp.std))
        scale = lambda z, m=mean, s=deviation: (np.sqrt(np.maximum(z, 0)) - m) / (s + 1e-6)
        views.append((scale(train), scale(test)))
    (x, x_test), (y, y_test) = views
    test = _gallery(Pair(x_test, y_test), np.arange(len(x_test)))
    problem = _problem(Pair(x, y), _same(len(x)), test)
    return problem._replace(labels=(found.labels_test, found.labels_test))


class Texts(NamedTuple):
    """Captions, and what they were made of."""

    problem: Problem
    sizes: tuple[int, int]  # of the vocabularies of x and y
    x_test: list[str]
    y_test: list[str]
    untrained: np.ndarray | None  # (n, m): cosines of TF-IDF, where both have one vocabulary


def translations(images: int) -> Texts:
    """English captions and their German translations, of the first images and all test images."""
    found = data.multi30k(("en", "de"))
    side = lambda rows, column: [row[column] for row in rows]
    train = found.train[:images]
    known = [captions.vocabulary(side(train, column)) for column in (0, 1)]
    encode = lambda rows: Pair(*(captions.encode(side(rows, c), k) for c, k in enumerate(known)))
    gallery = lambda rows: _gallery(encode(rows), np.arange(len(rows)))
    problem = _problem(encode(train), _same(len(train)), gallery(found.test), gallery(found.val))
    sizes = (known[0].size, known[1].size)
    return Texts(problem, sizes, side(found.test, 0), side(found.test, 1), None)


def several_captions(images: int) -> Texts:
    """The first of five captions of an image as x, the four others as y: several positives."""
    found = data.multi30k([f"{number}.en" for number in range(1, 6)])
    train = found.train[:images]
    known = captions.vocabulary(caption for row in train for caption in row)
    firsts = lambda rows: [row[0] for row in rows]
    others = lambda rows: [caption for row in rows for caption in row[1:]]
    encode = lambda rows: Pair(*(captions.encode(of(rows), known) for of in (firsts, others)))
    of_image = lambda rows: np.repeat(np.arange(len(rows)), 4)
    gallery = lambda rows: _gallery(encode(rows), of_image(rows))
    pairs = np.stack([of_image(train), np.arange(4 * len(train))], axis=1)
    test = gallery(found.test)
    problem = _problem(encode(train), pairs, test, gallery(found.val))
    untrained = captions.similarities(test.x, test.y, known.size)
    sizes = (known.size, known.size)
    return Texts(problem, sizes, firsts(found.test), others(found.test), untrained)


def _same(number: int) -> np.ndarray:
    """Row i to row i."""
    return np.stack([np.arange(number)] * 2, axis=1)


def _problem(
    views: Pair, pairs: np.ndarray, test: Gallery, validation: Gallery | None = None
) -> Problem:
    x, y = jax.tree.map(jnp.asarray, views)
    numbers = jnp.asarray(pairs, jnp.int32)
    return Problem(x, y, numbers, numbers[:, 0], test, validation)


def _gallery(views: Pair, groups: np.ndarray) -> Gallery:
    x, y = jax.tree.map(jnp.asarray, views)
    return Gallery(x, y, jnp.asarray(groups, jnp.int32))
