"""Losses of pairs by loops over anchors in float64 NumPy; nothing of jaxrobust."""

import numpy as np


def negatives_of(number, ids=None, mask=None, valid=None):
    """``(B, B)``: whether y_j is a negative of x_i."""
    ids = np.arange(number) if ids is None else np.asarray(ids)
    negative = ids[:, None] != ids[None, :]
    if mask is not None:
        negative &= ~np.asarray(mask) & ~np.eye(number, dtype=bool)
    valid = np.ones(number, bool) if valid is None else np.asarray(valid)
    return negative & valid[:, None] & valid[None, :]


def slopes_of_anchor(scores, positive, margins, negative, mining, **options):
    """Loss of one anchor, and its derivatives by its scores (n,) and by that of its positive."""
    slope = np.zeros(len(scores))
    (places,) = np.nonzero(negative)
    if places.size == 0:
        return 0.0, slope, 0.0
    slack = margins + scores - positive
    # Hardest first; of equal ones the lowest number.
    order = places[np.lexsort((places, -(margins + scores)[places]))]
    if mining == "all":
        chosen = order
    elif mining == "hardest":
        chosen = order[:1]
    elif mining == "top_k":
        chosen = order[: options["k"]]
    elif mining == "semi_hard":
        below = [j for j in places[np.lexsort((places, -scores[places]))] if scores[j] < positive]
        easiest = places[np.lexsort((places, scores[places]))][:1]
        chosen = below[:1] or (easiest if options.get("otherwise") != "nothing" else [])
    elif mining == "soft":
        return _soft(scores, positive, margins, places, options["beta"])
    else:  # a mean over all negatives, the hardest, or something between
        every = _hinges(slack, places, np.full(len(places), 1 / len(places)), slope.copy())
        one = _hinges(slack, order[:1], np.ones(1), slope.copy())
        if mining == "selective":
            share = float(abs(scores[order[0]] - positive) >= options["epsilon"])
        else:
            share = options["weight"]
            if not options.get("mean", True):
                every = _hinges(slack, places, np.ones(len(places)), slope.copy())
        return tuple((1 - share) * a + share * b for a, b in zip(every, one, strict=True))
    return _hinges(slack, np.asarray(chosen, int), np.ones(len(chosen)), slope)


def _hinges(slack, chosen, counts, slope):
    active = slack[chosen] > 0
    slope[chosen] = counts * active
    return float(np.sum(counts * np.maximum(slack[chosen], 0))), slope, -float(slope.sum())


def _soft(scores, positive, margins, places, beta):
    exponents = beta * (margins + scores)[places]
    top = exponents.max()
    total = np.exp(exponents - top).sum()
    value = (top + np.log(total)) / beta - positive
    slope = np.zeros(len(scores))
    if value > 0:
        slope[places] = np.exp(exponents - top) / total
    return max(value, 0.0), slope, -float(value > 0)


def hinge_loss(scores, mining, margin=0.2, directions="both", weights=None, **options):
    """The sum over anchors, and its derivative by the scores ``(B, B)``."""
    scores = np.asarray(scores, np.float64)
    number = len(scores)
    known = {name: options.pop(name, None) for name in ("ids", "mask", "valid")}
    negative = negatives_of(number, **known)
    margins = np.broadcast_to(np.asarray(margin, np.float64), scores.shape)
    weights = np.ones(number) if weights is None else np.asarray(weights, np.float64)
    total, slopes = 0.0, np.zeros_like(scores)
    for name, flip in (("x_to_y", False), ("y_to_x", True)):
        if directions not in ("both", name):
            continue
        s, m, n, g = (a.T if flip else a for a in (scores, margins, negative, slopes))
        for i in range(number):
            loss, slope, own = slopes_of_anchor(s[i], s[i, i], m[i], n[i], mining, **options)
            total += weights[i] * loss
            g[i] += weights[i] * slope
            g[i, i] += weights[i] * own
    return total, slopes


def normalized(z):
    """Rows of length 1, and zeros."""
    z = np.asarray(z, np.float64)
    length = np.linalg.norm(z, axis=1, keepdims=True)
    return np.divide(z, length, out=np.zeros_like(z), where=length > 0)


def through_cosine(x, y, slopes):
    """Gradients by x and y of a function of their cosines, from that by the cosines."""
    found = []
    for a, b, g in ((x, y, slopes), (y, x, slopes.T)):
        a = np.asarray(a, np.float64)
        length = np.linalg.norm(a, axis=1, keepdims=True)
        unit, direct = normalized(a), g @ normalized(b)
        tangent = direct - unit * np.sum(unit * direct, axis=1, keepdims=True)
        found.append(np.divide(tangent, length, out=np.zeros_like(a), where=length > 0))
    return found


# Softmax and sigmoid ------------------------------------------------------------------------------


def _log_sum(values):
    values = np.asarray(values, np.float64)
    if values.size == 0:
        return -np.inf
    top = values.max()
    return top + np.log(np.exp(values - top).sum())


def info_nce(scores, temperature, negative, weights=None, directions=("x_to_y", "y_to_x")):
    """The mean over anchors, and over directions."""
    number = len(scores)
    weights = np.ones(number) if weights is None else weights
    found = []
    for name in directions:
        s, n = (scores, negative) if name == "x_to_y" else (scores.T, negative.T)
        losses = [
            _log_sum(np.append(s[i][n[i]], s[i, i]) / temperature) - s[i, i] / temperature
            for i in range(number)
        ]
        found.append(np.mean(weights * losses))
    return np.mean(found)


def multi_positive(scores, temperature, positive, candidate, directions=("x_to_y", "y_to_x")):
    """Cross-entropy with all positives as likely; the mean over anchors that have one."""
    found = []
    for name in directions:
        s, p, c = (a if name == "x_to_y" else a.T for a in (scores, positive, candidate))
        losses = [
            _log_sum(s[i][c[i]] / temperature) - np.mean(s[i][p[i]]) / temperature
            for i in range(len(s))
            if p[i].any()
        ]
        found.append(np.mean(losses))
    return np.mean(found)


def hard_negative_nce(scores, temperature, negative, beta, rate):
    """As the published code writes it, with exponentials."""
    found = []
    for s, n in ((scores, negative), (scores.T, negative.T)):
        for i in range(len(s)):
            e = np.exp(s[i][n[i]] / temperature)
            positive = np.exp(s[i, i] / temperature)
            weights = e**beta / np.mean(e**beta)
            total = (np.sum(weights * e) - rate * len(e) * positive) / (1 - rate)
            total = max(total, len(e) * np.exp(-1 / temperature))
            found.append(-np.log(positive / (positive + total)))
    return np.mean(found)


def sigmoid_loss(scores, scale, bias, positive, candidate):
    """The sum over pairs, over the number of rows with candidates."""
    signs = np.where(positive, 1, -1)
    losses = np.log1p(np.exp(-signs * (scale * scores + bias)))
    return np.sum(losses * candidate) / np.sum(candidate.any(axis=1))


# Triplets -----------------------------------------------------------------------------------------


def triplets(scores, labels, mining):
    """``(anchor, positive, negative)`` of all that are mined."""
    number, found = len(labels), []
    for a in range(number):
        positives = [p for p in range(number) if p != a and labels[p] == labels[a]]
        negatives = [n for n in range(number) if labels[n] != labels[a]]
        if not positives or not negatives:
            continue
        hardest_first = sorted(negatives, key=lambda n: (-scores[a, n], n))
        if mining == "hardest":
            found.append((a, min(positives, key=lambda p: (scores[a, p], p)), hardest_first[0]))
            continue
        for p in positives:
            below = [n for n in hardest_first if scores[a, n] < scores[a, p]]
            easiest = min(negatives, key=lambda n: (scores[a, n], n))
            found.append((a, p, below[0] if below else easiest))
    return found


# Retrieval ----------------------------------------------------------------------------------------


def orders_of_ties(scores, match, ties, rng, draws=400):
    """Rankings of the items of one query: lists of whether each is a match, best first."""
    if ties == "expected":
        for _ in range(draws):
            noise = rng.permutation(len(scores))
            yield match[np.lexsort((noise, -scores))]
        return
    last = match if ties == "pessimistic" else ~match
    yield match[np.lexsort((last, -scores))]


def ranking(scores, match, ks, ties, rng):
    """Recalls in %, mean rank, and mean average precision, over queries with a match."""
    hits, ranks, precisions = [], [], []
    for row, own in zip(scores, match, strict=True):
        if not own.any():
            continue
        found = [
            (np.argmax(order), np.mean((np.cumsum(order) / np.arange(1, len(order) + 1))[order]))
            for order in orders_of_ties(row, own, ties, rng)
        ]
        first = np.array([rank for rank, _ in found])
        hits.append([np.mean(first < k) for k in ks])
        ranks.append(np.mean(first))
        precisions.append(np.mean([precision for _, precision in found]))
    return 100 * np.mean(hits, axis=0), np.mean(ranks) + 1, np.mean(precisions), np.array(ranks)
