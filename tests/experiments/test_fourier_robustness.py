"""The experiment `fourier_robustness`, and the networks that it shares with others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import fourier_robustness, plots, robust_networks
from experiments.fourier_robustness import BANDS, FRACTIONS, NORMS, PLAIN, Config
from experiments.robust_networks import Images
from jaxrobust import data


def measured():
    """As if: accuracies, bands and spectra."""
    names = (PLAIN, *NORMS)
    falling = np.linspace(0.8, 0.2, len(FRACTIONS))
    accuracies = {
        n: {norm: falling if n == norm else 0.5 * falling for norm in NORMS} for n in names
    }
    bands = {
        n: {b: {"accuracy": a, "energy": 0.9} for b, a in zip(BANDS, (0.2, 0.5, 0.8), strict=True)}
        for n in names
    }
    even, uneven = np.full((8, 8), 0.5), np.full((8, 8), 0.5)
    uneven[0, 0] = 0.05
    pictures = {
        n: {norm: {"spectrum": even if norm == "Fourier-linf" else uneven} for norm in NORMS}
        for n in names
    }
    return dict.fromkeys(names, 0.95), accuracies, bands, pictures


def failing(parts):
    return [c.statement for c in fourier_robustness.claims(*parts) if not c.holds]


def test_claims_hold_for_what_is_expected():
    assert failing(measured()) == []


def test_claims_fail_for_other_numbers():
    clean, accuracies, bands, pictures = measured()
    accuracies["l2"]["l2"] = accuracies[PLAIN]["l2"]
    assert len(failing((clean, accuracies, bands, pictures))) == 1
    clean, accuracies, bands, pictures = measured()
    bands[PLAIN] = dict.fromkeys(BANDS, {"accuracy": 0.5, "energy": 0.9})
    assert len(failing((clean, accuracies, bands, pictures))) == 1
    bands[PLAIN] = dict.fromkeys(BANDS, {"accuracy": 0.5, "energy": 0.1})
    assert len(failing((clean, accuracies, bands, pictures))) == 2
    clean, accuracies, bands, pictures = measured()
    pictures[PLAIN] |= {"l2": pictures[PLAIN]["Fourier-linf"]}
    assert len(failing((clean, accuracies, bands, pictures))) == 1
    clean, accuracies, bands, pictures = measured()
    accuracies["linf"]["l2"] = np.asarray([0.4, 0.1, 0.3, 0.2])
    assert len(failing((clean, accuracies, bands, pictures))) == 1


def test_bands_share_all_frequencies():
    numbers = [fourier_robustness.band_norm((8, 8, 1), name)[1] for name in BANDS]
    assert sum(numbers) == 64
    assert min(numbers) > 0


@pytest.fixture(scope="module")
def squares() -> Images:
    """Images that are bright on the left or on the right."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 0.3, size=(64, 8, 8, 1)).astype(np.float32)
    y = np.arange(64) % 2
    x[y == 0, :, :4] += 0.5
    x[y == 1, :, 4:] += 0.5
    x, y = jnp.asarray(x), jnp.asarray(y, jnp.int32)
    return Images(x[:48], y[:48], x[48:], y[48:])


@pytest.mark.parametrize("norm", [None, "linf"])
def test_networks_learn(squares, norm):
    params = robust_networks.init(jax.random.key(0), (8, 8, 1), widths=(4, 4), num_classes=2)
    assert robust_networks.predict(params, squares.x).shape == (48, 2)
    params = robust_networks.trained(
        squares, params, norm=norm, eps=0.05, num_steps=40, batch_size=16, learning_rate=1e-2
    )
    assert robust_networks.accuracy(params, squares.x_test, squares.y_test) > 0.9


def test_the_transform_perturbs_within_ball_and_bounds(squares):
    params = robust_networks.init(jax.random.key(0), (8, 8, 1), num_classes=2)
    harden = robust_networks.hardening("linf", 0.1)
    x, y = harden(jax.random.key(1), params, (squares.x, squares.y))
    assert 0.05 < float(jnp.max(jnp.abs(x - squares.x))) <= 0.1 + 1e-6
    assert float(jnp.min(x)) >= 0
    assert float(jnp.max(x)) <= 1
    np.testing.assert_array_equal(y, squares.y)


def test_test_images_are_drawn_from_all_classes():
    found = robust_networks.images(data.digits(), (8, 8, 1), num_test=100)
    assert found.x_test.shape == (100, 8, 8, 1)
    assert len(set(np.asarray(found.y_test).tolist())) == 10


@pytest.mark.slow
def test_a_short_run():
    config = Config(images=20, training_steps=60, steps=5)
    result = fourier_robustness.run(config)
    assert len(result.claims) == 8
    for figure, caption in fourier_robustness.plot(result).values():
        assert plots.png(figure)
        assert caption
