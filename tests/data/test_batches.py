"""Batches of row numbers: every example once, static shapes, a function of key and epoch."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxrobust import data

SIZES = [(10, 3), (10, 5), (10, 10), (10, 1), (1, 1), (7, 6)]


def key(seed=0):
    return jax.random.key(seed)


@pytest.mark.parametrize(("num_examples", "batch_size"), SIZES)
def test_an_epoch_has_every_example_once(num_examples, batch_size):
    indices, mask = map(np.asarray, data.epoch_batches(key(), num_examples, batch_size))
    assert indices.shape == mask.shape == (-(-num_examples // batch_size), batch_size)
    assert indices.dtype == np.int32
    assert mask.dtype == bool
    np.testing.assert_array_equal(np.sort(indices[mask]), np.arange(num_examples))
    # Only the end of the last batch is padding, and padding is valid to gather with.
    assert bool(mask.reshape(-1)[:num_examples].all())
    assert np.all((indices >= 0) & (indices < num_examples))
    np.testing.assert_array_equal(indices[~mask], indices.reshape(-1)[: int((~mask).sum())])


@pytest.mark.parametrize(("num_examples", "batch_size"), SIZES)
def test_dropping_leaves_out_the_remainder_only(num_examples, batch_size):
    indices, mask = data.epoch_batches(key(), num_examples, batch_size, drop_remainder=True)
    assert indices.shape == mask.shape == (num_examples // batch_size, batch_size)
    assert bool(mask.all())
    assert len(np.unique(indices)) == indices.size


@pytest.mark.parametrize(("num_examples", "batch_size"), SIZES)
def test_padding_and_dropping_begin_alike(num_examples, batch_size):
    padded = np.asarray(data.epoch_batches(key(), num_examples, batch_size).indices)
    dropped = data.epoch_batches(key(), num_examples, batch_size, drop_remainder=True).indices
    np.testing.assert_array_equal(padded[: len(dropped)], dropped)


def test_jit_scan_and_x64_give_the_same_int32():
    eager = data.epoch_batches(key(), 11, 4)
    jitted = jax.jit(data.epoch_batches, static_argnums=(1, 2))
    jax.config.update("jax_enable_x64", True)
    for other in (jitted(key(), 11, 4), data.epoch_batches(key(), 11, 4)):
        chex.assert_trees_all_equal(eager, other)
        assert other.indices.dtype == np.int32
    x = jnp.arange(11.0)

    def step(total, batch):
        return total + jnp.sum(batch.mask * x[batch.indices]), None

    total, _ = jax.jit(lambda epoch: jax.lax.scan(step, jnp.zeros(()), epoch))(eager)
    assert total == 55


def test_vmap_over_keys_gives_one_epoch_each():
    keys = jax.random.split(key(), 3)
    together = jax.vmap(lambda k: data.epoch_batches(k, 9, 4))(keys)
    for number in range(3):
        chex.assert_trees_all_equal(
            jax.tree.map(lambda a, n=number: a[n], together), data.epoch_batches(keys[number], 9, 4)
        )


def test_raw_and_new_style_keys_agree():
    chex.assert_trees_all_equal(
        data.epoch_batches(key(5), 9, 4), data.epoch_batches(jax.random.PRNGKey(5), 9, 4)
    )


def test_an_explicit_mesh_gathers_with_out_sharding():
    mesh = jax.make_mesh((8,), ("rows",))
    with jax.set_mesh(mesh):
        x = jax.device_put(jnp.arange(32.0).reshape(16, 2), NamedSharding(mesh, P("rows")))

        @jax.jit
        def gather(x, random_key):
            indices = data.epoch_batches(random_key, 16, 8).indices
            return indices, x.at[indices[0]].get(out_sharding=P("rows"))

        indices, batch = gather(x, key())
    np.testing.assert_array_equal(batch[:, 0], 2 * indices[0])


@pytest.mark.parametrize(("num_examples", "batch_size"), SIZES)
def test_the_loop_visits_what_the_epochs_say(num_examples, batch_size):
    seen = list(data.batches(key(), num_examples, batch_size, num_epochs=2))
    per_epoch = -(-num_examples // batch_size)
    assert len(seen) == 2 * per_epoch
    assert {len(rows) for rows in seen[: per_epoch - 1]} <= {batch_size}
    for epoch in range(2):
        indices, mask = data.epoch_batches(
            jax.random.fold_in(key(), epoch), num_examples, batch_size
        )
        rows = np.concatenate(seen[epoch * per_epoch : (epoch + 1) * per_epoch])
        np.testing.assert_array_equal(rows, indices[mask])


def test_the_loop_drops_only_when_asked():
    kept = [len(rows) for rows in data.batches(key(), 10, 4)]
    dropped = [len(rows) for rows in data.batches(key(), 10, 4, drop_remainder=True)]
    assert (kept, dropped) == ([4, 4, 2], [4, 4])


def test_a_resumed_loop_goes_on_where_it_was():
    whole = list(data.batches(key(), 10, 4, num_epochs=5))
    resumed = list(data.batches(key(), 10, 4, start_epoch=3, num_epochs=2))
    chex.assert_trees_all_equal(whole[9:], resumed)


def test_epochs_differ_and_may_have_no_end():
    endless = data.batches(key(), 10, 10, num_epochs=None)
    first, second = itertools.islice(endless, 2)
    assert np.any(first != second)
    assert list(data.batches(key(), 10, 10, num_epochs=0)) == []


def test_every_example_is_equally_often_in_the_first_batch():
    keys = jax.random.split(key(), 4000)
    first = jax.vmap(lambda k: data.epoch_batches(k, 10, 3).indices[0])(keys)
    shares = np.bincount(first.reshape(-1), minlength=10) / 4000
    # Bernoulli(0.3) over 4000 keys: 4.5 standard errors.
    assert np.all(np.abs(shares - 0.3) < 4.5 * np.sqrt(0.3 * 0.7 / 4000))


@pytest.mark.parametrize("make", [data.epoch_batches, data.batches])
@pytest.mark.parametrize(
    ("num_examples", "batch_size", "message"),
    [
        (0, 1, r"num_examples must be in 1\.\..*, got 0"),
        (2**30 + 1, 1, "num_examples must be in"),
        (10, 0, r"batch_size must be in 1\.\.10, got 0"),
        (10, 11, r"batch_size must be in 1\.\.10, got 11"),
    ],
)
def test_bad_sizes_are_named_at_the_call(make, num_examples, batch_size, message):
    with pytest.raises(ValueError, match=message):
        make(key(), num_examples, batch_size)


def test_bad_epochs_are_named_at_the_call():
    with pytest.raises(ValueError, match="num_epochs must be at least 0, got -1"):
        data.batches(key(), 10, 5, num_epochs=-1)
    with pytest.raises(ValueError, match="start_epoch must be at least 0, got -2"):
        data.batches(key(), 10, 5, start_epoch=-2)


def test_sizes_must_be_whole():
    with pytest.raises(TypeError, match="batch_size must be a whole number, got 2.5"):
        data.epoch_batches(key(), 10, 2.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="num_examples must be a whole number"):
        jax.jit(data.epoch_batches, static_argnums=2)(key(), 10, 2)
