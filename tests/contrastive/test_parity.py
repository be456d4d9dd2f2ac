"""Against PyTorch and pytorch-metric-learning, where the definitions agree, in float64.

What they gave is in `parity.json`; `parity_torch.py` made it.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import contrastive

THEIRS = json.loads((Path(__file__).parent / "parity.json").read_text())
LABELS, MARGIN = np.array(THEIRS["labels"]), THEIRS["margin"]


def hinges(mining, **options):
    return lambda x, y: contrastive.hinge_loss(
        x, y, margin=MARGIN, mining=mining, reduction="sum", **options
    )[0]


OURS = {
    "VSE++, all": hinges("all"),
    "VSE++, hardest": hinges("hardest"),
    "batch-hard between": hinges("hardest", directions="x_to_y"),
    "NT-Xent between": lambda x, y: contrastive.info_nce(
        x, y, temperature=0.1, directions="x_to_y"
    ),
    "batch-hard within": lambda x, y: contrastive.triplet_loss(
        x, LABELS, margin=MARGIN, reduction="sum"
    ),
    "SupCon within": lambda x, y: contrastive.sup_con(x, LABELS, temperature=0.1),
}


@pytest.mark.parametrize("name", THEIRS["cases"])
def test_values_and_gradients_are_theirs(name, x64):
    theirs = THEIRS["cases"][name]
    x, y = (jnp.asarray(THEIRS[side], jnp.float64) for side in "xy")
    value, gradients = jax.value_and_grad(OURS[name], (0, 1))(x, y)
    assert theirs["value"] > 0.1
    np.testing.assert_allclose(value, theirs["value"], rtol=1e-10)
    for ours, wanted in zip(gradients, theirs["gradients"], strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-10)
    # In float32 to 1e-6, as it is used.
    value, gradients = jax.value_and_grad(OURS[name], (0, 1))(
        *(z.astype(jnp.float32) for z in (x, y))
    )
    np.testing.assert_allclose(value, theirs["value"], rtol=1e-6)
    for ours, wanted in zip(gradients, theirs["gradients"], strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-6)
