"""The rivals of `contrastive` in PyTorch: the dense loss, and pytorch-metric-learning's batch-hard.

A program of its own, for an environment of its own (`make bench` makes it): it prints one JSON
object per batch size, with the median seconds of loss and gradient.

    python contrastive_torch.py DIM [batch size ...]
"""

import importlib.metadata
import json
import statistics
import sys
import time

import torch  # pyright: ignore[reportMissingImports]

MARGIN, REPEATS = 0.2, 7


def embeddings(number, dim):
    """Random pairs, of which gradients are wanted."""
    torch.manual_seed(0)
    return [torch.randn(number, dim, requires_grad=True) for _ in range(2)]


def dense(x, y):
    """The maximum of hinges in both directions, through the whole matrix of scores."""
    x, y = (torch.nn.functional.normalize(z) for z in (x, y))
    scores = x @ y.T
    own = scores.diag()
    pairs = torch.eye(len(x), dtype=torch.bool)
    rows = (MARGIN + scores - own[:, None]).clamp(min=0).masked_fill(pairs, 0)
    columns = (MARGIN + scores - own[None, :]).clamp(min=0).masked_fill(pairs, 0)
    return rows.max(1)[0].sum() + columns.max(0)[0].sum()


def batch_hard():
    """pytorch-metric-learning: miner and triplet loss, once for each direction."""
    from pytorch_metric_learning import (  # pyright: ignore[reportMissingImports]
        distances,
        losses,
        miners,
    )

    cosine = distances.CosineSimilarity()
    miner = miners.BatchHardMiner(distance=cosine)
    loss = losses.TripletMarginLoss(margin=MARGIN, distance=cosine)

    def both(x, y):
        labels = torch.arange(len(x))
        others = labels.clone()  # with the same object, it would leave out the partners
        total = 0
        for a, b in ((x, y), (y, x)):
            triplets = miner(a, labels, b, others)
            total = total + loss(a, labels, triplets, ref_emb=b, ref_labels=others)
        return total

    return both


def median(loss, x, y):
    """Median seconds of loss and gradient."""
    seconds = []
    for repeat in range(REPEATS + 1):
        x.grad = y.grad = None
        begin = time.perf_counter()
        loss(x, y).backward()
        if repeat:
            seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def main():
    """Prints what was measured, or why it could not be."""
    dim, *sizes = map(int, sys.argv[1:])
    about = {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "metric_learning": importlib.metadata.version("pytorch-metric-learning"),
    }
    rivals = {"dense": lambda: dense, "batch_hard": batch_hard}
    for size in sizes:
        found = {"size": size, **about}
        for name, make in rivals.items():
            try:
                found[name] = median(make(), *embeddings(size, dim))
            except Exception as error:  # a rival that cannot do it is a result
                found[name] = f"{type(error).__name__}: {error}"[:200]
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
