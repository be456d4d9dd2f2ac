"""Captions as arrays of word numbers."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

_WORD = re.compile(r"\w+")
# Numbers that are no words of the vocabulary: of padding, of all words that it does not have, and
# of the start of a caption and its end.
PADDING, RARE, START, END = range(4)


class Words(NamedTuple):
    """Captions: their words in order, then padding."""

    ids: Any  # (n, length) int32: START, words, END, padding
    # (n, length) float32: of a bag of words, 0 for what is no word; squares of their sums are 1
    weights: Any
    lengths: Any  # (n,) int32: words, start and end


class Vocabulary(NamedTuple):
    """Words by number, and how much each says."""

    numbers: dict[str, int]  # from 4 on
    # (size,): logarithm of the captions over those that have the word, plus 1; 0 for padding, start
    # and end, 1 for rare words
    rarity: np.ndarray

    @property
    def size(self) -> int:
        """With the numbers that are no words."""
        return len(self.rarity)


def words_of(caption: str) -> list[str]:
    """Letters and digits in a row, in lower case."""
    return _WORD.findall(caption.lower())


def vocabulary(captions: Iterable[str], least: int = 4) -> Vocabulary:
    """Of the words that so many captions have at least."""
    split = [set(words_of(caption)) for caption in captions]
    counts = Counter(word for words in split for word in words)
    kept = sorted(word for word, count in counts.items() if count >= least)
    numbers = {word: number for number, word in enumerate(kept, END + 1)}
    rarity = np.zeros(len(kept) + END + 1)
    rarity[END + 1 :] = [np.log(len(split) / counts[word]) + 1 for word in kept]
    rarity[RARE] = 1
    return Vocabulary(numbers, rarity)


def encode(captions: Sequence[str], known: Vocabulary, length: int = 26) -> Words:
    """The first words of every caption between start and end, ``length`` numbers at most.

    Weights are those of TF-IDF, of length 1.
    """
    ids = np.full((len(captions), length), PADDING, np.int32)
    lengths = np.zeros(len(captions), np.int32)
    for row, caption in enumerate(captions):
        words = words_of(caption)[: length - 2]
        numbers = [START, *(known.numbers.get(word, RARE) for word in words), END]
        ids[row, : len(numbers)] = numbers
        lengths[row] = len(numbers)
    weights = known.rarity[ids] * (ids != RARE)
    norms = np.sqrt(_bags(ids, weights, known.size).power(2).sum(axis=1))
    weights = weights / np.where(norms > 0, norms, 1)[:, None]
    return Words(ids, weights.astype(np.float32), lengths)


def similarities(x: Words, y: Words, size: int) -> np.ndarray:
    """Cosines of the TF-IDF vectors, ``(n, m)``: retrieval without training."""
    return (_bags(x.ids, x.weights, size) @ _bags(y.ids, y.weights, size).T).toarray()


def _bags(ids: np.ndarray, weights: np.ndarray, size: int) -> Any:
    """``(n, size)`` sums of the weights of every word."""
    from scipy import sparse

    rows = np.repeat(np.arange(len(ids)), ids.shape[1])
    return sparse.csr_array((weights.ravel(), (rows, ids.ravel())), shape=(len(ids), size))
