"""Sequential leaders: every point joins the first leader within a distance, or becomes one.

In blocks, with the result of the sequence: the first points without a group are taken at once, the
leaders among them found point by point, and then all other points joined to them. Close pairs come
from one product; each is checked by differences, for a product cannot tell copies from neighbours.
"""

import math

import jax
import jax.numpy as jnp

from jaxrobust.clustering._sums import squared_distances

_BLOCK = 256  # leaders sought at once
_ROWS = 2048  # points joined at once: their distances stay in the cache


def find_leaders(rows: jax.Array, limit: jax.Array, known: jax.Array | None = None) -> jax.Array:
    """The leader of every row, by its number, ``(N,)`` int32; that of a leader is itself.

    Rows with a ``known`` one keep it, and lead no others; ``known`` is N for those without.
    """
    num_rows = rows.shape[0]
    size = min(_BLOCK, num_rows)
    chunk = min(_ROWS, num_rows)
    middle = jnp.mean(rows, axis=0)

    def rows_at(places):
        return rows.at[places].get(mode="clip")

    def one_block(state):
        leaders, waiting, number = state
        block = waiting[:size]
        candidates = rows_at(block)
        own, leads = _leaders_among(candidates, jnp.minimum(number, size), limit)
        leaders = leaders.at[block].set(block[own], mode="drop")

        def join(index, leaders):
            places = jax.lax.dynamic_slice(waiting, (size + index * chunk,), (chunk,))
            found = _first_within(rows_at(places), candidates, leads, limit, middle)
            joined = jnp.where(found < size, block.at[found].get(mode="clip"), num_rows)
            return leaders.at[places].set(joined, mode="drop")

        rest = jnp.maximum(number - size, 0)
        leaders = jax.lax.fori_loop(0, -(-rest // chunk), join, leaders)
        return leaders, *_waiting(leaders, chunk)

    leaders = jnp.full(num_rows, num_rows, jnp.int32) if known is None else known
    state = (leaders, *_waiting(leaders, chunk))
    leaders, *_ = jax.lax.while_loop(lambda state: state[2] > 0, one_block, state)
    return leaders


def join_leaders(
    rows: jax.Array, leaders: jax.Array, number: jax.Array, limit: jax.Array
) -> jax.Array:
    """The first leader within the limit of every row, ``(N,)`` int32; ``len(leaders)`` for none.

    Args:
      rows: ``(N, d)``.
      leaders: ``(M, d)``, of which the first ``number`` count.
      number: () int.
      limit: () largest distance.
    """
    # Few at once: there may be few, and no work is done for blocks without any.
    num_leaders, size = len(leaders), min(64, len(leaders))
    middle = jnp.mean(rows, axis=0)
    padded = jnp.pad(leaders, ((0, -num_leaders % size), (0, 0)))

    def one_chunk(rows):
        def one_block(state):
            begin, joined = state
            block = jax.lax.dynamic_slice_in_dim(padded, begin, size)
            found = _first_within(rows, block, begin + jnp.arange(size) < number, limit, middle)
            here = (joined == num_leaders) & (found < size)
            return begin + size, jnp.where(here, begin + found, joined)

        start = (jnp.int32(0), jnp.full(len(rows), num_leaders, jnp.int32))
        return jax.lax.while_loop(lambda state: state[0] < number, one_block, start)[1]

    chunk = min(_ROWS, len(rows))
    chunks = jnp.pad(rows, ((0, -len(rows) % chunk), (0, 0))).reshape(-1, chunk, rows.shape[1])
    return jax.lax.map(one_chunk, chunks).reshape(-1)[: len(rows)]


def _waiting(leaders: jax.Array, chunk: int) -> tuple[jax.Array, jax.Array]:
    """The numbers of rows without a leader, then N and some more of that; and how many they are."""
    num_rows = leaders.size
    missing = leaders == num_rows
    padded = jnp.pad(numbers_where(missing), (0, chunk), constant_values=num_rows)
    return padded, jnp.sum(missing, dtype=jnp.int32)


def numbers_where(mask: jax.Array) -> jax.Array:
    """The numbers of true entries, then N for each of the others; int32."""
    # As jnp.nonzero, but a sort compiles ten times faster than running sums, and runs as fast.
    return jax.lax.sort(jnp.where(mask, jnp.arange(mask.size, dtype=jnp.int32), mask.size))


def _leaders_among(
    rows: jax.Array, number: jax.Array, limit: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The leader of each of the first ``number`` rows, and which are leaders; one by one."""

    def step(index, state):
        own, leads = state
        close = leads & _is_within(rows - rows[index][None, :], limit)
        joins = jnp.any(close)
        own = own.at[index].set(jnp.where(joins, jnp.argmax(close), index).astype(own.dtype))
        return own, leads.at[index].set(~joins)

    own = jnp.arange(len(rows), dtype=jnp.int32)
    return jax.lax.fori_loop(0, number, step, (own, jnp.zeros(len(rows), bool)))


def _first_within(
    rows: jax.Array, others: jax.Array, counts: jax.Array, limit: jax.Array, middle: jax.Array
) -> jax.Array:
    """The first of the others that count within the limit of every row; ``len(others)`` if none."""
    rows_about, others_about = rows - middle[None, :], others - middle[None, :]
    squared = squared_distances(rows_about, others_about)
    norms = jnp.sum(rows_about**2, axis=1)[:, None] + jnp.sum(others_about**2, axis=1)[None, :]
    # How far off distances by products are: by a few times sqrt(d) roundings of the squared norms.
    error = 4 * math.sqrt(rows.shape[1]) * float(jnp.finfo(rows.dtype).eps) * norms
    possible = counts[None, :] & (squared <= limit**2 + error)
    numbers = jnp.arange(len(others), dtype=jnp.int32)

    def check(state):
        possible, found, waits = state
        first = jnp.argmax(possible, axis=1).astype(jnp.int32)
        any_left = jnp.any(possible, axis=1)
        close = any_left & _is_within(rows - others[first], limit)
        possible = possible & (numbers[None, :] != first[:, None])
        return possible, jnp.where(close & waits, first, found), waits & any_left & ~close

    nothing = jnp.full(len(rows), len(others), jnp.int32)
    state = (possible, nothing, jnp.ones(len(rows), bool))
    return jax.lax.while_loop(lambda state: jnp.any(state[2]), check, state)[1]


def _is_within(differences: jax.Array, limit: jax.Array) -> jax.Array:
    """Whether differences ``(n, d)`` are at most so long."""
    squared = jnp.sum(differences**2, axis=1)
    # Squares underflow where differences do not.
    equal = jnp.all(differences == 0, axis=1)
    return jnp.where(limit > 0, squared <= limit**2, equal)
