"""The same key gives the same maps: sketches of all batches, and of all lengths, fit together."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import per_example
from tests.per_example.cases import B, normal

LONGEST, FEATURES, SHORT = 6, 8, 2
# How many of the rows, columns or blocks of a leaf are used depends on the length of the example.
SLICES = {
    "rows": ((LONGEST, 7), lambda w, x: x.T @ w[: len(x)]),
    "columns": ((7, LONGEST), lambda w, x: w[:, : len(x)] @ x),
    "rows_from_the_end": ((LONGEST, 7), lambda w, x: x.T @ w[::-1][: len(x)]),
    "every_other_row": ((2 * LONGEST, 5), lambda w, x: x.T @ w[1 : 2 * len(x) : 2]),
    "blocks": ((LONGEST, FEATURES, 3), lambda w, x: jnp.einsum("tm,tmf->tf", x, w[: len(x)])),
    "rows_of_two_axes": (
        (LONGEST, FEATURES, 3),
        lambda w, x: x.reshape(-1) @ w[: len(x)].reshape(-1, 3),
    ),
    "layers": (
        (LONGEST, FEATURES, 3),
        lambda w, x: jax.lax.map(lambda wx: wx[1] @ wx[0], (w[: len(x)], x)),
    ),
}


def assert_same_sketches(first, second):
    """Of two pairs of a loss and a batch that have the same gradients."""
    found = []
    for loss, params, batch in (first, second):
        rows = per_example.explain(loss)(params, batch).rows
        assert {row.method for row in rows} <= {"factors", "instantiate"}
        sketch = per_example.sketches(loss, key=jax.random.key(0), dim=16)
        found.append(jax.jit(sketch)(params, batch))
    # Sums of up to 72 products of numbers of order 1, in another order.
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-4)


def test_lengths_of_examples_do_not_change_the_maps():
    # Zeros behind the example change nothing of its gradient, so they may change nothing of the
    # sketch: neither by a leaf that is sliced nor by the leaves after it.
    def loss(p, x):
        sliced = [jnp.sum(use(p[name], x)) for name, (_, use) in SLICES.items()]
        return sum(sliced) + jnp.sum(jnp.sin(x @ p["whole"]))

    params = {name: normal(*shape) for name, (shape, _) in SLICES.items()}
    params["whole"] = normal(FEATURES, 9)
    x = normal(B, SHORT, FEATURES)
    longer = jnp.pad(x, ((0, 0), (0, 3), (0, 0)))
    assert_same_sketches((loss, params, x), (loss, params, longer))


WAYS = {
    "columns": lambda w, x: [x @ w[:, :3], x @ w[:, 3:]],
    "rows": lambda w, x: [x[:, :3] @ w[:3] + x[:, 3:] @ w[3:]],
    "every_other_column": lambda w, x: [x @ w[:, ::2], x @ w[:, 1::2]],
    "backwards": lambda w, x: [x[:, ::-1] @ w[::-1, ::-1]],
    "transposed": lambda w, x: [w.T[2:] @ x.T, w.T[:2] @ x.T],
}


def test_slices_of_a_leaf_are_parts_of_one_map():
    def in_parts(p, x):
        return sum(jnp.sum(jnp.sin(y)) for name, way in WAYS.items() for y in way(p[name], x))

    def in_one(p, x):
        return sum(jnp.sum(jnp.sin(x @ w)) for w in p.values())

    params = {name: normal(FEATURES, 5) for name in WAYS}
    x = normal(B, 2, FEATURES)
    assert_same_sketches((in_parts, params, x), (in_one, params, x))
