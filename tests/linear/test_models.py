"""Linear networks against loops over their layers, and against what gradient descent conserves."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import linear

EPS32 = float(np.finfo(np.float32).eps)
FEATURES, ROWS = 9, 5

MODELS = {
    "plain": linear.plain(FEATURES),
    **{
        f"{build.__name__}-{depth}": build(FEATURES, depth=depth)
        for build in (linear.fully_connected, linear.diagonal, linear.convolution)
        for depth in (1, 2, 3)
    },
    "fully_connected-narrow": linear.fully_connected(FEATURES, depth=3, width=4),
    "convolution-even": linear.convolution(10, depth=2),
}


def draw(model, dtype="float32", seed=0):
    """Parameters in general position, and examples."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = tuple(rng.normal(size=p.shape).astype(dtype) for p in shapes)
    return params, rng.normal(size=(ROWS, model.num_features)).astype(dtype)


def scores(model, params, x) -> np.ndarray:
    """What the documentation says, in loops of float64 NumPy."""
    params, x = [np.asarray(p, float) for p in params], np.asarray(x, float)
    if model.name == "diagonal":
        u, v = params
        return np.array([np.sum((u**model.depth - v**model.depth) * row) for row in x])
    for layer in params[:-1]:
        if model.name == "fully_connected":
            x = np.stack([layer @ row for row in x])
        else:
            x = np.stack([correlate(layer, row) for row in x])
    return x @ params[-1]


def correlate(kernel, signal) -> np.ndarray:
    """``D^-1/2 sum_k kernel[k] signal[(i + k) mod D]`` for every i."""
    size = len(signal)
    rolled = [sum(kernel[k] * np.roll(signal, -k)[i] for k in range(size)) for i in range(size)]
    return np.array(rolled) / np.sqrt(size)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MODELS)
def test_apply_and_predictor(name, dtype, x64):
    """Both compute the scores of the definition; the predictor is one vector."""
    model = MODELS[name]
    params, x = draw(model, dtype)
    expected = scores(model, params, x)
    found, predictor = jax.jit(lambda p, x: (model.apply(p, x), model.predictor(p)))(params, x)
    assert found.shape == (ROWS,)
    assert predictor.shape == (model.num_features,)
    assert found.dtype == predictor.dtype == dtype
    # At most three layers of sums of at most 10 products, numbers of order 1.
    atol = 200 * float(jnp.finfo(dtype).eps) * max(1, np.abs(expected).max())
    np.testing.assert_allclose(found, expected, atol=atol)
    np.testing.assert_allclose(
        np.asarray(x, float) @ np.asarray(predictor, float), expected, atol=atol
    )


@pytest.mark.parametrize("name", MODELS)
def test_init(name):
    model = MODELS[name]
    params = jax.eval_shape(model.init, jax.random.key(0))
    assert isinstance(params, tuple)
    assert {p.dtype for p in params} == {np.dtype("float32")}
    d, depth = model.num_features, model.depth
    if model.name == "fully_connected":
        width = 4 if "narrow" in name else d
        sizes = [d] + [width] * (depth - 1)
        shapes = [(width, size) for size in sizes[:-1]] + [(sizes[-1],)]
    else:
        shapes = [(d,)] * {"plain": 1, "diagonal": 2}.get(model.name, depth)
    assert [p.shape for p in params] == shapes


@pytest.mark.parametrize("name", ["plain", "fully_connected-2", "diagonal-2", "convolution-2"])
def test_scale(name):
    init = MODELS[name].init
    keys = jax.random.key(0), jax.random.key(1)
    half, full, other = jax.jit(lambda a, b: (init(a, scale=0.5), init(a, scale=1.0), init(b)))(
        *keys
    )
    for p, twice, q in zip(half, full, other, strict=True):
        np.testing.assert_allclose(2 * p, twice, rtol=4 * EPS32)
        assert name in ("plain", "diagonal-2") or np.all(p != q)


@pytest.mark.parametrize(
    ("model", "deviations"),
    [
        (linear.plain(4000), [0.0]),
        # scale / sqrt(fan-in), with the default scale 0.1
        (linear.fully_connected(60, depth=3, width=70), [0.1 / 60**0.5, 0.1 / 70**0.5, None]),
        (linear.convolution(4000, depth=3), [4000**-0.5] * 3),
    ],
)
def test_default_scales(model, deviations):
    params = jax.jit(model.init)(jax.random.key(0))
    for p, deviation in zip(params, deviations, strict=True):
        if deviation is not None:
            # 4000 numbers: the deviation has a standard error of 1.1 %, the mean one of 1.6 %.
            np.testing.assert_allclose(np.std(p), deviation, rtol=0.05)
            np.testing.assert_allclose(np.mean(p), 0, atol=0.07 * deviation)


def test_diagonal_starts_at_zero():
    for depth in (1, 2, 3):
        model = linear.diagonal(FEATURES, depth=depth)
        params = model.init(jax.random.key(0))
        np.testing.assert_array_equal(params[0], np.full(FEATURES, 0.01, np.float32))
        np.testing.assert_array_equal(model.predictor(params), np.zeros(FEATURES))


@pytest.mark.parametrize("size", [9, 10])
def test_spectrum_of_a_convolution_is_the_product_of_spectra(size, x64):
    """Of the unitary transforms, without a conjugate: the last layer's dot product undoes it."""
    model = linear.convolution(size, depth=3)
    params, _ = draw(model)
    k = np.arange(size)
    transform = np.exp(-2j * np.pi * np.outer(k, k) / size) / np.sqrt(size)
    product = np.prod([transform @ np.asarray(p, float) for p in params], axis=0)
    spectrum = transform @ np.asarray(model.predictor(params), float)
    np.testing.assert_allclose(spectrum, product, atol=50 * EPS32)


def descend(model, params, step, num_steps):
    """Gradient descent with small steps on the exponential loss of one example per class."""
    x = jax.random.normal(jax.random.key(7), (4, model.num_features), jnp.float64)
    y = jnp.array([1.0, -1, 1, -1])

    @jax.jit
    def run(params):
        def one(params, _):
            loss = lambda p: jnp.mean(jnp.exp(-linear.margins(model.predictor(p), x, y)))
            value, gradient = jax.value_and_grad(loss)(params)
            return jax.tree.map(lambda p, g: p - step * g, params, gradient), value

        return jax.lax.scan(one, params, length=num_steps)

    return run(params)


def double(params):
    return jax.tree.map(lambda p: jnp.asarray(p, jnp.float64), params)


def test_fully_connected_layers_stay_balanced(x64):
    """W_l W_l^T - W_(l+1)^T W_(l+1) is constant under gradient flow."""
    model = linear.fully_connected(FEATURES, depth=3)
    start = double(model.init(jax.random.key(0), scale=1.0))
    end, losses = descend(model, start, 1e-3, 3000)
    assert losses[-1] < 0.5 * losses[0]

    def differences(params):
        *hidden, last = params
        layers = [np.asarray(p) for p in (*hidden, last[None])]
        return [a @ a.T - b.T @ b for a, b in zip(layers[:-1], layers[1:], strict=True)]

    moved = max(np.abs(a @ a.T - b @ b.T).max() for a, b in zip(start[:-1], end[:-1], strict=True))
    for before, after in zip(differences(start), differences(end), strict=True):
        # A step of size 1e-3 breaks it to second order: by 1e-3 of what moves.
        np.testing.assert_allclose(after, before, atol=5e-3 * moved)


def test_convolution_spectra_stay_balanced(x64):
    """|F w_1|^2 - |F w_2|^2 is constant at every frequency."""
    model = linear.convolution(FEATURES, depth=2)
    start = double(model.init(jax.random.key(0)))
    end, losses = descend(model, start, 1e-2, 3000)
    assert losses[-1] < 0.5 * losses[0]

    def powers(params):
        return [np.abs(np.fft.fft(np.asarray(p), norm="ortho")) ** 2 for p in params]

    before, after = powers(start), powers(end)
    moved = np.abs(after[0] - before[0]).max()
    assert moved > 0.05
    np.testing.assert_allclose(after[0] - after[1], before[0] - before[1], atol=5e-2 * moved)


def test_diagonal_entries_stay_balanced(x64):
    """u_j v_j is constant for depth 2."""
    model = linear.diagonal(FEATURES)
    start = double(model.init(jax.random.key(0), scale=0.1))
    (u, v), losses = descend(model, start, 1e-3, 3000)
    assert losses[-1] < 0.5 * losses[0]
    np.testing.assert_allclose(u * v, start[0] * start[1], rtol=1e-2)


def test_transformations():
    model = linear.convolution(FEATURES, depth=2)

    def run(key):
        params = model.init(key, scale=1.0)
        return model.predictor(params), jax.grad(lambda p: jnp.sum(model.predictor(p) ** 2))(params)

    predictors, gradients = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 3))
    assert predictors.shape == (3, FEATURES)
    assert all(np.all(np.isfinite(g)) and np.all(g != 0) for g in gradients)
    assert len(np.unique(predictors)) == predictors.size


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("build", [linear.fully_connected, linear.diagonal, linear.convolution])
def test_predictors_keep_the_dtype_of_the_parameters(build, dtype):
    model = build(FEATURES, depth=3)
    wide = model.init(jax.random.key(0), scale=1.0)
    narrow = jax.tree.map(lambda p: p.astype(dtype), wide)
    predictor, expected = model.predictor(narrow), model.predictor(wide)
    assert predictor.dtype == dtype
    # Each of three layers is rounded, and so may be each of the products.
    atol = 10 * float(jnp.finfo(dtype).eps) * float(jnp.abs(expected).max())
    np.testing.assert_allclose(predictor.astype(np.float32), expected, atol=atol)


def test_the_fft_of_narrow_parameters_is_rounded_once():
    model = linear.convolution(FEATURES, depth=3)
    params = model.init(jax.random.key(0))
    narrow = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    exact = model.predictor(jax.tree.map(lambda p: p.astype(np.float32), narrow))
    np.testing.assert_array_equal(model.predictor(narrow), exact.astype(jnp.bfloat16))


def test_repr():
    model = linear.fully_connected(FEATURES, depth=3)
    assert repr(model) == "linear.fully_connected(num_features=9, depth=3)"
    assert repr(linear.plain(2)) == "linear.plain(num_features=2, depth=1)"


@pytest.mark.parametrize("size", [0, -1, 2.0, "3", True])
def test_bad_sizes(size):
    builders = {
        "num_features": [linear.plain, linear.fully_connected, linear.diagonal, linear.convolution],
        "depth": [linear.fully_connected, linear.diagonal, linear.convolution],
        "width": [linear.fully_connected],
    }
    for name, models in builders.items():
        for build in models:
            arguments = {"num_features": FEATURES, name: size}
            with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1, got"):
                build(**arguments)


def test_sizes_of_numpy():
    size: Any = np.int64(3)
    assert linear.diagonal(size).init(jax.random.key(0))[0].shape == (3,)
