"""What PyTorch and pytorch-metric-learning give, which `test_parity` holds ours against.

A program of its own, for an environment that has both (`make bench` makes one); what it prints is
kept in `parity.json`:

    .venv-torch/bin/python tests/contrastive/parity_torch.py > tests/contrastive/parity.json
"""

import importlib.metadata
import json

import torch  # pyright: ignore[reportMissingImports]
from pytorch_metric_learning import (  # pyright: ignore[reportMissingImports]
    distances,
    losses,
    miners,
    reducers,
)

B, D, MARGIN = 10, 6, 0.2
LABELS = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3, 4, 4])


def vse(x, y, hardest):
    """The loss of VSE++ as it is published: sums over both directions, the diagonal set to 0."""
    x, y = (torch.nn.functional.normalize(z) for z in (x, y))
    scores = x @ y.T
    own = scores.diag()
    pairs = torch.eye(len(x), dtype=torch.bool)
    rows = (MARGIN + scores - own[:, None]).clamp(min=0).masked_fill(pairs, 0)
    columns = (MARGIN + scores - own[None, :]).clamp(min=0).masked_fill(pairs, 0)
    if hardest:
        return rows.max(1)[0].sum() + columns.max(0)[0].sum()
    return rows.sum() + columns.sum()


def between(make_triplets, loss):
    """Of pairs: anchors x, candidates y."""

    def of(x, y):
        labels = torch.arange(len(x))
        others = labels.clone()  # with the same object, it would leave out the partners
        triplets = None if make_triplets is None else make_triplets(x, labels, y, others)
        return loss(x, labels, triplets, ref_emb=y, ref_labels=others)

    return of


def within(make_triplets, loss):
    """Of one set with labels."""

    def of(x, y):
        triplets = None if make_triplets is None else make_triplets(x, LABELS)
        return loss(x, LABELS, triplets) + 0 * y.sum()

    return of


def main():
    """All cases, in float64."""
    cosine = distances.CosineSimilarity()
    summed = reducers.SumReducer()
    triplet = losses.TripletMarginLoss(margin=MARGIN, distance=cosine, reducer=summed)
    hard = miners.BatchHardMiner(distance=cosine)
    cases = {
        "VSE++, all": lambda x, y: vse(x, y, False),
        "VSE++, hardest": lambda x, y: vse(x, y, True),
        "batch-hard between": between(hard, triplet),
        "NT-Xent between": between(None, losses.NTXentLoss(temperature=0.1, distance=cosine)),
        "batch-hard within": within(hard, triplet),
        "SupCon within": within(None, losses.SupConLoss(temperature=0.1, distance=cosine)),
    }
    torch.manual_seed(0)
    shared = torch.randn(B, D, dtype=torch.float64)
    x, y = (
        (shared + 0.8 * torch.randn(B, D, dtype=torch.float64)).requires_grad_() for _ in range(2)
    )
    found = {}
    for name, loss in cases.items():
        value = loss(x, y)
        gradients = torch.autograd.grad(value, (x, y), allow_unused=True)
        found[name] = {"value": value.item(), "gradients": [g.tolist() for g in gradients]}
    versions = {p: importlib.metadata.version(p) for p in ("torch", "pytorch-metric-learning")}
    inputs = {"x": x.tolist(), "y": y.tolist(), "labels": LABELS.tolist(), "margin": MARGIN}
    print(json.dumps({"versions": versions, **inputs, "cases": found}))


if __name__ == "__main__":
    main()
