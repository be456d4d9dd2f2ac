"""Random orders without storing them: which member comes at which place of a pass.

A pass visits all members of a set once, in random order. Sampling needs single places of the orders
of many sets, of any sizes, so an order is a function, not an array: nothing has to be shuffled or
kept, and a sampler is resumed from two integers.
"""

import jax
import jax.numpy as jnp

# After r rounds the order is within about N^1.5 2^(-r/2) of a uniformly random one, as far as any
# two places can tell (Hoang, Morris and Rogaway, 2012, Theorem 2).
_ROUNDS = 24


def visit(
    key: jax.Array, stream: jax.Array, epoch: jax.Array, place: jax.Array, size: jax.Array
) -> jax.Array:
    """The member at a place of a pass over a set, all arguments but the key ``(n,)``.

    For fixed key, stream and epoch it is a permutation of ``0..size-1``, by the swap-or-not
    shuffle, moved on by a random offset. Other streams and epochs have independent ones. Every
    member is at every place with the same probability (up to ``size / 2**32``, relative).

    Args:
      key: PRNG key.
      stream: int32, which set.
      epoch: int32, which pass over it.
      place: int32 in ``0..size-1``.
      size: int32, members of the set, at least 1.

    Returns:
      ``(n,)`` int32 in ``0..size-1``.

    Source:
      Hoang, Morris and Rogaway, "An enciphering scheme based on a card shuffle", CRYPTO 2012.
    """
    seed = jax.random.bits(key, (3,), jnp.uint32)
    # One random number per set and pass, then one for every round: threefry for each would be the
    # most of the cost of a draw.
    pass_seed = _mix(_mix(stream.astype(jnp.uint32) + seed[0]) ^ (epoch.astype(jnp.uint32)))
    pass_seed = _mix(pass_seed + seed[1])

    def swap_or_not(number, place):
        word = _mix(pass_seed ^ _mix(seed[2] + jnp.uint32(number)))
        mirror = _to_range(word, size) - place
        mirror = jnp.where(mirror < 0, mirror + size, mirror)
        larger = jnp.maximum(place, mirror).astype(jnp.uint32)
        swap = _mix(larger ^ _mix(word + jnp.uint32(1))) >> 31
        return jnp.where(swap == 1, mirror, place)

    # A loop, not unrolled: it takes a third of a second less to compile.
    place = jax.lax.fori_loop(0, _ROUNDS, swap_or_not, place)
    moved = place + _to_range(_mix(pass_seed + jnp.uint32(_ROUNDS + 1)), size)
    # Without a sum that overflows: both are below size, at most 2**30.
    return jnp.where(moved >= size, moved - size, moved)


def _to_range(word: jax.Array, size: jax.Array) -> jax.Array:
    """``floor(word * size / 2**32)``, of 16-bit halves: a CPU does no division of many at once."""
    size = size.astype(jnp.uint32)
    high, low = word >> 16, word & 0xFFFF
    size_high, size_low = size >> 16, size & 0xFFFF
    middle = high * size_low + ((low * size_low) >> 16)  # below 2**32
    rest = low * size_high + (middle & 0xFFFF)  # likewise, for size_high is below 2**14
    return (high * size_high + (middle >> 16) + (rest >> 16)).astype(jnp.int32)


def _mix(word: jax.Array) -> jax.Array:
    """A bijection of 32-bit words in which every bit depends on all (constants: C. Wellons)."""
    word = word ^ (word >> 16)
    word = word * jnp.uint32(0x21F0AAAD)
    word = word ^ (word >> 15)
    word = word * jnp.uint32(0x735A2D97)
    return word ^ (word >> 15)
