"""Every loss and its gradient at 16,384 items: memory as it is compiled, and some values."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import contrastive
from jaxrobust.contrastive._passes import chosen_block_size
from tests.contrastive.problems import embeddings
from tests.contrastive.test_edges import PAIRS, SETS

B, D = 16_384, 256
MEBIBYTE = 2**20
FAST = ("hardest", "all", "info_nce", "triplets, semi-hard")


def some_slow(names: Any) -> list[Any]:
    return [
        pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in sorted(names)
    ]


def temporary(grad: Any, *shapes: Any) -> float:
    """In MiB."""
    arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
    analysis: Any = jax.jit(grad).lower(*arrays).compile().memory_analysis()
    return analysis.temp_size_in_bytes / MEBIBYTE


def check(small: float, large: float) -> None:
    """A few blocks, and a few copies of the embeddings; a matrix of scores is 1,024 MiB.

    And twice the batch needs twice as much, not four times.
    """
    block = chosen_block_size(B, B, keep_scores=True)
    assert block == 32
    assert large <= (10 * B * block + 8 * B * D) * 4 / MEBIBYTE
    assert large <= 2.3 * small


@pytest.mark.parametrize("name", some_slow(PAIRS))
def test_pairs_need_no_matrix_of_scores(name):
    grad = jax.value_and_grad(lambda x, y: PAIRS[name](x, y), (0, 1))
    small, large = (temporary(grad, *[((n, D), jnp.float32)] * 2) for n in (B // 2, B))
    check(small, large)
    if name == "hardest":
        assert large <= 64


@pytest.mark.parametrize("name", some_slow(SETS))
def test_sets_need_no_matrix_of_scores(name):
    grad = jax.value_and_grad(SETS[name])
    check(*(temporary(grad, ((n, D), jnp.float32), ((n,), jnp.int32)) for n in (B // 2, B)))


@pytest.mark.parametrize("number", [B, pytest.param(B - 1, marks=pytest.mark.slow),
                                    pytest.param(16_000, marks=pytest.mark.slow)])  # fmt: skip
def test_the_hardest_of_a_batch_of_any_size_with_info(number):
    """What is returned beside the loss is computed, too; nothing is filled up."""

    def grad(x, y):
        of = lambda x, y: contrastive.hinge_loss(x, y, mining="hardest")
        return jax.value_and_grad(of, (0, 1), has_aux=True)(x, y)

    assert temporary(grad, *[((number, D), jnp.float32)] * 2) <= 64


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hardest", "all", "soft", "info_nce"])
def test_values_and_gradients_of_16384_pairs(name):
    """Against NumPy in float64, some anchors at a time."""
    x, y = (np.asarray(z, np.float64) for z in embeddings(number=B, dim=16))
    x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    losses: dict[str, Any] = {
        "hardest": lambda x, y: contrastive.hinge_loss(x, y, similarity="dot")[0],
        "all": lambda x, y: contrastive.hinge_loss(x, y, similarity="dot", mining="all")[0],
        "soft": lambda x, y: contrastive.hinge_loss(
            x, y, similarity="dot", mining=contrastive.soft(20.0)
        )[0],
        "info_nce": lambda x, y: contrastive.info_nce(x, y, similarity="dot", temperature=0.1),
    }
    found, gradients = jax.jit(jax.value_and_grad(losses[name], (0, 1)))(
        *(jnp.asarray(z, jnp.float32) for z in (x, y))
    )
    value, slopes = in_parts(name, x, y)
    np.testing.assert_allclose(found, value, rtol=1e-5)
    for gradient, slope in zip(gradients, slopes, strict=True):
        wrong = np.abs(gradient - slope).max(axis=1) > 1e-5 * np.abs(slope).max()
        # A hinge that is 0 up to rounding, or two negatives that are as hard, may go either way.
        assert wrong.mean() <= (1e-3 if name in ("hardest", "all") else 0)


def in_parts(name: str, x: np.ndarray, y: np.ndarray) -> Any:
    """The mean over pairs, of both directions, and its gradients."""
    total, slopes = 0.0, [np.zeros_like(x), np.zeros_like(y)]
    own = np.sum(x * y, axis=1)
    for anchors, candidates, first in ((x, y, 0), (y, x, 1)):
        for begin in range(0, B, 1024):
            rows = np.arange(begin, begin + 1024)
            scores = anchors[rows] @ candidates.T
            by = np.zeros_like(scores)  # the derivative by scores
            at = np.arange(1024), rows
            if name == "info_nce":
                exponents = scores / 0.1
                top = exponents.max(axis=1, keepdims=True)
                shares = np.exp(exponents - top)
                sums = shares.sum(axis=1, keepdims=True)
                losses = top[:, 0] + np.log(sums[:, 0]) - exponents[at]
                by += shares / sums
                by[at] -= 1
                by, losses = by / 0.1 / 2, losses / 2
            else:
                slack = 0.2 + scores - own[rows, None]
                slack[at] = -np.inf
                if name == "soft":
                    top = slack.max(axis=1, keepdims=True)
                    shares = np.exp(20 * (slack - top))
                    sums = shares.sum(axis=1, keepdims=True)
                    losses = top[:, 0] + np.log(sums[:, 0]) / 20
                    by += (losses > 0)[:, None] * shares / sums
                    losses = np.maximum(losses, 0)
                elif name == "hardest":
                    hardest = slack.argmax(axis=1)
                    losses = np.maximum(slack[at[0], hardest], 0)
                    by[at[0], hardest] = losses > 0
                else:
                    losses = np.maximum(slack, 0).sum(axis=1)
                    by += slack > 0
                by[at] -= by.sum(axis=1)
            total += losses.sum()
            slopes[first][rows] += by @ candidates
            slopes[1 - first] += by.T @ anchors[rows]
    return total / B, [slope / B for slope in slopes]
