"""Memory of every loss and its gradient at 16,384 items: compiled, not run."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxrobust import contrastive
from jaxrobust.contrastive._passes import chosen_block_size
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
    block = chosen_block_size(B, B, has_sums=True)
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
