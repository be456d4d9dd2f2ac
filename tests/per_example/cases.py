"""Losses that use their parameters in every way the room has a rule for, and in others.

Each case is a function without arguments that returns `(loss_fn, params, batch)`; batches have 5
examples. Sizes differ between axes, so that a mix-up of axes shows in a shape or a value.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

B = 5
Case = Callable[[], tuple[Any, Any, Any]]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


def normal(*shape: int, seed: int = 0) -> jax.Array:
    """Entries of about one half, different for different shapes and seeds."""
    return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape) / 2)


def integers(high: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng([high, *shape]).integers(0, high, size=shape))


@case
def dense_layers():
    def loss(p, x):
        return jnp.sum(jnp.tanh(jnp.tanh(x @ p["u"] + p["b"]) @ p["v"]) ** 2)

    return loss, {"u": normal(4, 6), "b": normal(6), "v": normal(6, 3)}, normal(B, 4)


@case
def dense_with_the_weights_on_the_left():
    return (
        lambda p, x: jnp.sum(jnp.tanh(p["w"] @ x) ** 2),
        {"w": normal(6, 4)},
        normal(B, 4, 3),
    )


@case
def sequence_short():  # fewer positions than weights: pairs of positions
    def loss(p, x):
        return jnp.sum(jnp.sin(x @ p["w"])) ** 2

    return loss, {"w": normal(12, 13)}, normal(B, 3, 12)


@case
def sequence_long():  # more positions than weights: the gradient is formed
    return lambda p, x: jnp.sum(jnp.sin(x @ p["w"])), {"w": normal(2, 3)}, normal(B, 4, 7, 2)


@case
def einsum_heads():
    def loss(p, x):  # (t, model) -> (t, head, dim) -> scores -> (t, model)
        q = jnp.einsum("tm,mhd->thd", x, p["q"])
        k = jnp.einsum("tm,hmd->thd", x, p["k"])
        scores = jax.nn.softmax(jnp.einsum("shd,thd->hst", q, k), axis=-1)
        mixed = jnp.einsum("hst,thd->shd", scores, q)
        return jnp.sum(jnp.einsum("shd,dhm->sm", mixed, p["o"]) ** 2)

    params = {"q": normal(6, 2, 3), "k": normal(2, 6, 3), "o": normal(3, 2, 6)}
    return loss, params, normal(B, 4, 6)


@case
def experts_with_a_batch_axis_in_the_weights():
    def loss(p, x):
        return jnp.sum(jnp.cos(jnp.einsum("etm,emf->etf", x, p["w"])) * 0.3)

    return loss, {"w": normal(3, 4, 5)}, normal(B, 3, 2, 4)


@case
def written_to_a_local_ref():
    def loss(p, x):
        seen, started = jax.new_ref(jnp.zeros(3)), jax.new_ref(x @ p["u"])
        started[...] = started[...] * 2 + p["b"]

        def step(carry, _):
            seen[...] += jnp.sin(x @ p["w"])
            return carry, None

        jax.lax.scan(step, 0.0, length=2)
        inside = jax.jit(lambda w: jax.new_ref(jnp.cos(x @ w))[...])
        return jnp.sum(seen[...] ** 2) + jnp.sum(started[...] ** 3) + jnp.sum(inside(p["w"]))

    return loss, {"w": normal(4, 3), "u": normal(4, 2), "b": normal(2)}, normal(B, 4)


@case
def low_rank_product_of_parameters():  # u @ v is made of parameters alone: no structure is seen
    def loss(p, x):
        return jnp.sum(jnp.tanh(x @ (p["u"] @ p["v"])) ** 2)

    return loss, {"u": normal(4, 2), "v": normal(2, 5)}, normal(B, 4)


def convolution(spatial, kernel, numbers, features=(2, 6), data_shape=None, **options):
    options = {"window_strides": (1,) * len(spatial), "padding": "SAME", **options}
    groups = options.get("feature_group_count", 1)
    sizes = dict(zip(numbers[1].replace("I", "").replace("O", ""), kernel, strict=True))
    sizes.update(I=features[0] // groups, O=features[1])
    weights = normal(*[sizes[axis] for axis in numbers[1]])
    data_sizes = dict(zip(numbers[0].replace("N", "").replace("C", ""), spatial, strict=True))
    data_sizes.update(N=2, C=features[0])
    data = normal(B, *[data_sizes[axis] for axis in numbers[0]])

    def loss(p, x):
        y = jax.lax.conv_general_dilated(x, p["w"], dimension_numbers=numbers, **options)
        return jnp.sum(jnp.sin(y) ** 2) + jnp.sum(y) * 0.1

    return loss, {"w": weights}, data


IMAGE = ("NHWC", "HWIO", "NHWC")


@case
def convolution_same():
    return convolution((5, 6), (3, 2), IMAGE)


@case
def convolution_valid_channels_first():
    return convolution((6, 5), (2, 3), ("NCHW", "OIHW", "NCHW"), padding="VALID")


@case
def convolution_strided_and_padded():
    return convolution((7, 8), (3, 2), IMAGE, window_strides=(2, 3), padding=((2, 1), (0, 3)))


@case
def convolution_negative_padding():
    return convolution((8, 8), (3, 2), IMAGE, padding=((-1, 2), (1, -2)))


@case
def convolution_dilated():
    return convolution((8, 9), (3, 2), IMAGE, rhs_dilation=(2, 3), padding=((1, 1), (2, 0)))


@case
def convolution_transposed():
    return convolution((3, 4), (3, 3), IMAGE, lhs_dilation=(2, 3), padding=((1, 2), (2, 1)))


@case
def convolution_grouped():
    return convolution((5, 4), (3, 3), IMAGE, features=(4, 6), feature_group_count=2)


@case
def convolution_depthwise():
    return convolution((5, 4), (3, 3), IMAGE, features=(3, 6), feature_group_count=3)


@case
def convolution_1d():
    return convolution((9,), (4,), ("NWC", "WIO", "NWC"), window_strides=(2,))


@case
def convolution_3d():
    return convolution((3, 4, 3), (2, 3, 2), ("NDHWC", "DHWIO", "NDHWC"))


@case
def convolution_few_positions():  # cheaper by pairs of positions than formed
    return convolution((2, 2), (3, 3), IMAGE, features=(9, 11))


@case
def convolution_odd_layouts():
    return convolution((5, 4), (3, 2), ("HNWC", "IHOW", "CWNH"))


@case
def convolution_used_twice():
    def loss(p, x):
        def layer(x):
            return jnp.tanh(
                jax.lax.conv_general_dilated(x, p["w"], (1, 1), "SAME", dimension_numbers=IMAGE)
            )

        return jnp.sum(layer(layer(x)) ** 2)

    return loss, {"w": normal(3, 3, 2, 2)}, normal(B, 1, 4, 4, 2)


@case
def kernel_and_matrix_in_one():  # rows by taps in the convolution, and flat in the product
    def loss(p, x):
        flat = x[:2, :2].reshape(1, -1) @ p["w"].reshape(-1, 5)
        y = jax.lax.conv_general_dilated(x[None], p["w"], (1, 1), "SAME", dimension_numbers=IMAGE)
        return jnp.sum(jnp.sin(flat)) + jnp.sum(y**2)

    return loss, {"w": normal(2, 2, 4, 5)}, normal(B, 3, 2, 4)


@case
def embedding():
    def loss(p, ids):
        return jnp.sum(jnp.sin(p["e"][ids]) ** 2)

    return loss, {"e": normal(7, 3)}, integers(7, B, 6)


@case
def embedding_taken_along_the_second_axis():
    def loss(p, ids):
        return jnp.sum(jnp.sin(jnp.take(p["e"], ids, axis=1)) ** 2)

    return loss, {"e": normal(3, 7, 2)}, integers(7, B, 2, 3)


@case
def embedding_out_of_range():
    def loss(p, ids):
        rows = jnp.take(p["e"], ids, axis=0, mode="fill", fill_value=0.5)
        clipped = jnp.take(p["e"], ids, axis=0, mode="clip")
        return jnp.sum(jnp.sin(rows)) + jnp.sum(clipped**2)

    return loss, {"e": normal(4, 3)}, integers(9, B, 6) - 2


@case
def embedding_of_one_token():
    return lambda p, token: jnp.sum(p["e"][token] ** 3), {"e": normal(7, 3)}, integers(7, B)


@case
def embedding_sliced():
    def loss(p, token):
        row = jax.lax.dynamic_index_in_dim(p["e"], token, axis=1, keepdims=False)
        return jnp.sum(row**3)

    return loss, {"e": normal(3, 7)}, integers(9, B)


@case
def embedding_tied():
    def loss(p, ids):
        x = jnp.tanh(p["e"][ids] @ p["w"])
        return -jnp.sum(jnp.diagonal(jax.nn.log_softmax(x @ p["e"].T)[:, ids]))

    return loss, {"e": normal(7, 4), "w": normal(4, 4)}, integers(7, B, 6)


@case
def embedding_one_hot_and_looked_up():
    def loss(p, ids):
        return jnp.sum((jax.nn.one_hot(ids, 7) @ p["e"]) ** 3) + jnp.sum(jnp.sin(p["e"][ids]))

    return loss, {"e": normal(7, 4)}, integers(7, B, 3)


@case
def weights_used_by_several_products():
    def loss(p, x):
        for _ in range(3):
            x = jnp.tanh(x @ p["w"])
        return jnp.sum(x @ p["w"].T)

    return loss, {"w": normal(4, 4)}, normal(B, 4)


@case
def weights_in_slices():
    def loss(p, x):
        q, k, v = jnp.split(x @ p["qkv"], 3, axis=-1)
        left, right = x @ p["w"][:, :2], x @ p["w"][:, 2:]
        top = x[..., :1] @ p["r"][:1] + x[..., 1:] @ p["r"][1:]
        return jnp.sum(jnp.tanh(q * k + v)) + jnp.sum(left) * jnp.sum(right**2) + jnp.sum(top**3)

    return loss, {"qkv": normal(4, 6), "w": normal(4, 5), "r": normal(4, 2)}, normal(B, 3, 4)


@case
def weights_in_overlapping_slices():
    def loss(p, x):
        return jnp.sum((x @ p["w"][:, :3]) ** 2) + jnp.sum(jnp.sin(x @ p["w"][:, 1:]))

    return loss, {"w": normal(4, 5)}, normal(B, 4)


@case
def weights_every_other_column():
    def loss(p, x):
        return jnp.sum((x @ p["w"][:, ::2]) ** 2) + jnp.sum(jnp.sin(x @ p["w"][:, 1::2]))

    return loss, {"w": normal(4, 5)}, normal(B, 4)


@case
def weights_concatenated():
    def loss(p, x):
        fused = jnp.concatenate([p["q"], -0.5 * p["k"], p["v"] / 2], axis=1)
        tall = jnp.concatenate([jnp.zeros((1, 3)), p["a"], p["b"]], axis=0)
        return jnp.sum(jnp.sin(x @ fused)) + jnp.sum((x @ tall) ** 2)

    shapes = {"q": (4, 2), "k": (4, 3), "v": (4, 1), "a": (1, 3), "b": (2, 3)}
    return loss, {name: normal(*shape) for name, shape in shapes.items()}, normal(B, 2, 4)


@case
def weights_stacked_padded_reversed():
    def loss(p, x):
        both = jnp.stack([p["a"], p["b"]])
        padded = jnp.pad(p["a"], ((1, 0), (0, 2)))
        return (
            jnp.sum(jnp.sin(jnp.einsum("ti,kio->kto", x, both)))
            + jnp.sum((x @ padded[1:]) ** 2)
            + jnp.sum(jnp.cos(x @ p["c"][::-1, ::-1]))
        )

    return loss, {"a": normal(4, 3), "b": normal(4, 3, seed=1), "c": normal(4, 2)}, normal(B, 2, 4)


@case
def weights_reshaped_transposed_cast():
    def loss(p, x):
        w = p["w"].reshape(2, 3, 4).transpose(1, 0, 2).reshape(6, 4)
        v = p["v"].T[None].reshape(1, 5, 4)[0].astype(x.dtype)
        return jnp.sum(jnp.tanh(x @ w) ** 2) + jnp.sum(jnp.sin(x @ w @ v.T))

    return loss, {"w": normal(6, 4), "v": normal(4, 5)}, normal(B, 3, 6)


@case
def weights_read_by_columns():  # a reshape that orders the axes itself
    def loss(p, x):
        flat = jax.lax.reshape(p["w"], (4, 6), dimensions=(2, 0, 1))
        square = p["v"].reshape(4, 4, order="F")
        return jnp.sum(jnp.sin(x @ flat)) + jnp.sum(jnp.cos(x @ square))

    return loss, {"w": normal(2, 3, 4), "v": normal(4, 4)}, normal(B, 9, 4)


@case
def kernels_mapped_over():
    def loss(p, x):
        convolve = lambda w: jax.lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=IMAGE
        )
        return jnp.sum(jnp.sin(jax.vmap(convolve)(p["w"])))

    return loss, {"w": normal(2, 2, 1, 3, 4)}, normal(B, 1, 3, 2, 3)


@case
def normalisation_and_positions():
    def loss(p, x):
        x = x + p["positions"]
        x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return jnp.sum(jnp.sin(x * p["scale"][None] + p["bias"][None])) + p[
            "temperature"
        ] * jnp.sum(x**3)

    params = {"positions": normal(3, 4), "scale": normal(4), "bias": normal(4, seed=1)}
    return loss, {**params, "temperature": normal()}, normal(B, 3, 4)


@case
def reparametrised_weights():
    def loss(p, x):
        direction = p["v"] / jnp.sqrt(jnp.sum(p["v"] ** 2, axis=0, keepdims=True))
        return jnp.sum(jnp.tanh(x @ (direction * jnp.exp(p["g"])[None, :])) ** 2)

    return loss, {"v": normal(4, 3), "g": normal(3)}, normal(B, 2, 4)


@case
def penalty_in_the_loss():
    def loss(p, x):
        return jnp.sum(jnp.tanh(x @ p["w"])) + 0.1 * jnp.sum(p["w"] ** 2) + jnp.sum(p["only"] ** 2)

    return loss, {"w": normal(4, 3), "only": normal(2)}, normal(B, 4)


@case
def complex_spectrum():  # real parameters, complex numbers on the way, a real loss
    def loss(p, x):
        filtered = jnp.fft.rfft(x) * p["filter"] + jnp.fft.fft(p["w"])[:4]
        return jnp.sum(jnp.abs(filtered) ** 2) + jnp.real(jnp.sum(jnp.exp(1j * p["phase"] * x)))

    return loss, {"filter": normal(4), "w": normal(6), "phase": normal(6)}, normal(B, 6)


@case
def complex_data():  # a product mixes it with real parameters as they are
    def loss(p, x):
        z = jnp.exp(1j * x)
        return jnp.sum(jnp.abs(z @ p["w"]) ** 2) + jnp.abs(jnp.sum(z * p["v"][None])) ** 2

    return loss, {"w": normal(4, 3), "v": normal(4)}, normal(B, 2, 4)


@case
def complex_weights():
    def loss(p, x):
        return jnp.sum(jnp.abs(x @ (p["real"] + 1j * p["imaginary"])) ** 2)

    return loss, {"real": normal(4, 3), "imaginary": normal(4, 3, seed=1)}, normal(B, 2, 4)


@case
def rows_out_of_range():  # plain indexing promises what is not kept: read, but no gradient
    def loss(p, ids):
        return jnp.sum(jnp.sin(p["table"][ids] @ p["w"]))

    ids = jnp.array([[0, 7, 2], [2, 2, 9], [-3, 1, 0], [-9, 2, 2], [8, 9, 1]])
    return loss, {"table": normal(3, 2), "w": normal(2, 4)}, ids


@case
def custom_vjp_region():  # with a rule of its own, which is not the derivative
    @jax.custom_vjp
    def clipped(x):
        return jnp.sin(x)

    def backward(x, cotangent):
        return (jnp.clip(cotangent, -0.5, 0.5) * jnp.cos(x) ** 2,)

    clipped.defvjp(lambda x: (jnp.sin(x), x), backward)

    def loss(p, x):
        return jnp.sum(clipped(clipped(x @ p["w"]) @ p["v"]) ** 2)

    return loss, {"w": normal(4, 5), "v": normal(5, 3)}, normal(B, 4)


@case
def recurrence():
    def loss(p, xs):
        def step(h, x):
            h = jnp.tanh(x @ p["in"] + h @ p["hidden"] + p["bias"])
            return h, h @ p["out"]

        last, outputs = jax.lax.scan(step, p["start"], xs)
        return jnp.sum(last**2) + jnp.sum(jnp.sin(outputs))

    params = {"in": normal(2, 9), "hidden": normal(9, 9), "bias": normal(9), "start": normal(9)}
    return loss, {**params, "out": normal(9, 3)}, normal(B, 4, 2)


@case
def recurrence_backwards_and_unrolled():
    def loss(p, xs):
        def step(h, x):
            return jnp.tanh(x + h @ p["w"]), None

        return jnp.sum(jax.lax.scan(step, xs[0], xs, reverse=True, unroll=2)[0] ** 2)

    return loss, {"w": normal(3, 3)}, normal(B, 5, 3)


@case
def layers_in_a_loop():
    def loss(p, x):
        def layer(x, weights):
            w, b = weights
            return jnp.tanh(x @ w + b[None]) @ p["shared"], None

        return jnp.sum(jax.lax.scan(layer, x, (p["w"], p["b"]))[0] ** 2)

    return loss, {"w": normal(3, 4, 5), "b": normal(3, 5), "shared": normal(5, 4)}, normal(B, 2, 4)


@case
def loops_in_loops():
    def loss(p, x):
        def outer(x, w):
            def inner(x, v):
                return jnp.tanh(x @ w @ v + x @ p["u"]), jnp.sum(x @ p["u"])

            x, seen = jax.lax.scan(inner, x, p["v"])
            return x, jnp.sum(seen**2)

        x, seen = jax.lax.scan(outer, x, p["w"])
        return jnp.sum(x**2) + jnp.sum(seen)

    return loss, {"w": normal(2, 3, 4), "v": normal(3, 4, 3), "u": normal(3, 3)}, normal(B, 3)


@case
def convolutions_in_a_loop():
    def loss(p, x):
        def layer(x, w):
            y = jax.lax.conv_general_dilated(
                x, w, (1, 1), "SAME", dimension_numbers=IMAGE, feature_group_count=2
            )
            return jnp.tanh(y), None

        return jnp.sum(jax.lax.scan(layer, x, p["w"])[0] ** 2)

    return loss, {"w": normal(3, 3, 2, 1, 2)}, normal(B, 1, 3, 4, 2)


@case
def weights_changed_by_a_loop():  # as in learning to learn: the weights are the loop's state
    def loss(p, xs):
        def step(w, x):
            return w - 0.1 * jnp.outer(x, jnp.tanh(x @ w)), None

        return jnp.sum(jax.lax.scan(step, p["w"], xs)[0] ** 2)

    return loss, {"w": normal(3, 2)}, normal(B, 4, 3)


@case
def checkpoint_and_jit():
    def loss(p, x):
        @jax.jit
        def block(w, x):
            return jnp.tanh(x @ w)

        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        x = jax.checkpoint(block, policy=policy)(p["w"], x)
        return jnp.sum(jax.checkpoint(lambda x: jnp.sin(block(p["w"], x) @ p["v"]))(x))

    return loss, {"w": normal(4, 4), "v": normal(4, 3)}, normal(B, 2, 4)


@case
def branches():
    def loss(p, x):
        y = jax.lax.cond(x[0] > 0, lambda x: x @ p["w"], lambda x: jnp.sin(x @ p["w"]), x)
        return jnp.sum(y * p["s"])

    return loss, {"w": normal(4, 3), "s": normal(3)}, normal(B, 4)


@jax.custom_vjp
def doubled_backwards(w, x):
    return x @ w


doubled_backwards.defvjp(
    lambda w, x: (x @ w, (w, x)),
    lambda saved, d: (2 * jnp.outer(saved[1], d), saved[0] @ d),
)


@case
def custom_vjp_of_the_weights():  # whose gradient is not that of the value
    return (
        lambda p, x: jnp.sum(jnp.sin(doubled_backwards(p["w"], x @ p["v"]))),
        {"w": normal(3, 2), "v": normal(4, 3)},
        normal(B, 4),
    )


@jax.custom_jvp
def softclip(x):
    return jnp.clip(x, -1, 1)


softclip.defjvp(lambda primals, tangents: (softclip(*primals), tangents[0] * 0.5))


@case
def custom_jvp_of_both():
    def loss(p, x):
        return jnp.sum(jax.nn.relu(x @ softclip(p["w"])) + softclip(x @ p["v"]) ** 2)

    return loss, {"w": normal(4, 3), "v": normal(4, 3, seed=1)}, normal(B, 4)


@case
def stopped_and_unused():
    def loss(p, x):
        y = jnp.sin(x @ p["w"]) * jax.lax.stop_gradient(jnp.sum(p["w"]))
        return jnp.sum(y) + (jnp.argmax(p["frozen"]) + jax.lax.stop_gradient(p["frozen"]) @ x[:2])

    return loss, {"w": normal(4, 3), "frozen": normal(2), "unused": normal(3)}, normal(B, 4)


@case
def dropout_by_a_key_in_the_example():
    def loss(p, example):
        keep = jax.random.bernoulli(example["key"], 0.5, (3,))
        return jnp.sum(jnp.where(keep, example["x"] @ p["w"], 0) ** 2) * example["weight"]

    keys = jax.random.split(jax.random.key(0), B)
    batch = {"key": keys, "x": normal(B, 4), "weight": jnp.arange(B)}
    return loss, {"w": normal(4, 3)}, batch


@case
def loss_of_parameters_alone():
    return lambda p, x: jnp.sum(p["w"] ** 2), {"w": normal(3)}, normal(B, 2)


@case
def the_weights_are_the_data_too():  # a product of two things that depend on the same leaf
    def loss(p, x):
        return jnp.sum((x @ p["w"]) @ p["w"].T @ p["w"])

    return loss, {"w": normal(3, 2)}, normal(B, 3)
