"""The rivals of `per_example` in PyTorch: Opacus' ghost norms and BackPACK's BatchL2Grad.

A program of its own, for an environment of its own (`make bench` makes it): it prints one JSON
object per model, with the median seconds of the plain mean gradient and of each rival.

    python per_example_torch.py [name of a model ...]
"""

import json
import statistics
import sys
import time
import warnings

import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

warnings.filterwarnings("ignore")
NUM_CLASSES, REPEATS = 10, 9


class Block(nn.Module):
    """A residual block with GroupNorm."""

    def __init__(self, before, after, stride):
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.first_norm, self.second_norm = nn.GroupNorm(8, after), nn.GroupNorm(8, after)
        self.short = nn.Conv2d(before, after, 1, stride, bias=False) if stride > 1 else None

    def forward(self, x):
        y = torch.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        return torch.relu((x if self.short is None else self.short(x)) + y)


class TransformerBlock(nn.Module):
    """Pre-norm attention with 4 heads, and an MLP."""

    def __init__(self, width):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv = nn.ModuleList([nn.Linear(width, width) for _ in range(3)])
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x):
        h = self.norms[0](x)
        q, k, v = (f(h).unflatten(-1, (4, -1)).transpose(1, 2) for f in self.qkv)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norms[1](x))


class Transformer(nn.Module):
    """Two blocks of width 256 on 64 of 256 tokens; logits of all tokens of the batch."""

    def __init__(self, width=256, num_tokens=256, length=64):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(num_tokens, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(TransformerBlock(width), TransformerBlock(width))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, num_tokens))

    def forward(self, tokens):
        place = torch.arange(tokens.shape[1]).repeat(len(tokens), 1)
        x = self.blocks(self.tokens(tokens) + self.positions(place))
        return self.head(x).flatten(0, 1)


def build(name):
    """A model with its input and labels, the sizes as in `per_example_models`."""
    torch.manual_seed(0)
    kind, *sizes = name.split()
    if kind == "mlp":
        widths = list(map(int, sizes))
        layers = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(before, after), nn.ReLU()]
        batch = 8 if widths[0] == 20 else 256 if widths[1] == 512 else 128
        return nn.Sequential(*layers[:-1]), torch.randn(batch, widths[0])
    if kind == "cnn":
        layers = []
        for before in (3, *[64] * 5):
            layers += [nn.Conv2d(before, 64, 3, 1, 1), nn.ReLU()]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, NUM_CLASSES)]
        return nn.Sequential(*layers, *head), torch.randn(128, 3, 32, 32)
    if kind == "resnet":
        stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.GroupNorm(8, 16), nn.ReLU()]
        blocks = [Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2)]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, NUM_CLASSES)]
        return nn.Sequential(*stem, *blocks, *head), torch.randn(64, 3, 32, 32)
    if kind == "transformer":
        return Transformer(), torch.randint(256, (32, 64))
    raise ValueError(f"no PyTorch twin of {name!r}")


def labels_for(x):
    """A class per image, or a token per token."""
    return x.roll(-1, 1).flatten() if x.dtype == torch.long else torch.arange(len(x)) % NUM_CLASSES


def medians(steps):
    """Median seconds of every step, in turns, after half a second each to warm up."""
    for step in steps.values():
        start = time.perf_counter()
        while time.perf_counter() - start < 0.5:
            step()
    seconds = {name: [] for name in steps}
    for _ in range(REPEATS):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(found) for name, found in seconds.items()}


def plain(name):
    """The mean gradient."""
    model, x = build(name)
    labels = labels_for(x)
    loss = nn.CrossEntropyLoss()

    def step():
        model.zero_grad()
        loss(model(x), labels).backward()

    return step


def opacus_ghost(name):
    """Gradient norms by ghost clipping's hooks, without the second pass that clips."""
    from opacus.grad_sample import (  # pyright: ignore[reportMissingImports]
        GradSampleModuleFastGradientClipping,
    )

    model, x = build(name)
    labels = labels_for(x)
    wrapped = GradSampleModuleFastGradientClipping(
        model, max_grad_norm=1.0, use_ghost_clipping=True, loss_reduction="mean"
    )
    loss = nn.CrossEntropyLoss()

    def step():
        wrapped.zero_grad()
        loss(wrapped(x), labels).backward()
        return wrapped.get_norm_sample()

    return step


def backpack_l2(name):
    """Gradient and squared norms of every layer's gradients."""
    from backpack import backpack, extend  # pyright: ignore[reportMissingImports]
    from backpack.extensions import BatchL2Grad  # pyright: ignore[reportMissingImports]

    model, x = build(name)
    if not all(isinstance(m, nn.Sequential) or not list(m.children()) for m in model.modules()):
        raise ValueError("BackPACK extends sequences of its own layers only")
    labels = labels_for(x)
    model, loss = extend(model), extend(nn.CrossEntropyLoss())

    def step():
        model.zero_grad()
        with backpack(BatchL2Grad()):
            loss(model(x), labels).backward()
        return sum(p.batch_l2 for p in model.parameters())

    return step


def measure(name):
    """Medians of the mean gradient and the rivals on a model, or why one cannot do it."""
    steps, cannot = {}, {}
    for rival in (plain, opacus_ghost, backpack_l2):
        try:
            step = rival(name)
            step()  # what it cannot do may show only here
            steps[rival.__name__] = step
        except Exception as error:  # a rival that cannot do it is a result
            cannot[rival.__name__] = f"{type(error).__name__}: {error}"[:200]
    return {**medians(steps), **cannot}


def main():
    """Prints what was measured, or why it could not be."""
    for name in sys.argv[1:]:
        about = {"model": name, "threads": torch.get_num_threads(), "torch": torch.__version__}
        print(json.dumps({**about, **measure(name)}), flush=True)


if __name__ == "__main__":
    main()
