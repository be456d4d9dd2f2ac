"""Attacks on small networks: independence of examples, programs, bad input, what is told."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import attacks, norms
from jaxrobust.attacks._apgd import checks, spans
from jaxrobust.attacks._square import layout_of, window_sides, windows
from tests.attacks.problems import network, relu_network

KEY = jax.random.key(0)
ATTACKS: dict[str, Any] = {
    "pgd": functools.partial(attacks.pgd, num_steps=10),
    "apgd": functools.partial(attacks.apgd, num_steps=12),
    "frank_wolfe": functools.partial(attacks.frank_wolfe, num_steps=10),
    "square": functools.partial(attacks.square, num_queries=50),
}
B = 8


@functools.cache
def problem(number=B):
    rng = np.random.default_rng(0)
    params = network(jax.random.key(1))
    x = rng.uniform(size=(number, 20)).astype(np.float32)
    y = np.asarray(relu_network(params, x).argmax(axis=1))
    return params, x, y


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l3", "fourier-l1"])
def test_points_are_allowed_and_as_told(name, norm):
    params, x, y = problem()
    eps = np.linspace(0.05, 0.4, B).astype(np.float32)
    found = ATTACKS[name](relu_network, params, x, y, norm=norm, eps=eps, key=KEY, bounds=(0, 1))
    inputs = np.asarray(found.inputs)
    assert np.all((inputs >= 0) & (inputs <= 1))
    length = jax.vmap(norms.as_norm(norm).value)(inputs - x)
    # The inputs are rounded, each number by up to 6e-8, of which the l1 norm adds up 20.
    np.testing.assert_array_less(length, eps * (1 + 1e-6) + 20 * 6e-8)
    logits = np.asarray(relu_network(params, inputs))
    margin = np.where(np.arange(3) == y[:, None], -np.inf, logits).max(1) - logits[np.arange(B), y]
    np.testing.assert_allclose(found.margin, margin, atol=1e-4)
    np.testing.assert_array_equal(found.success, logits.argmax(axis=1) != y)
    assert found.info.losses.shape[1] == B
    assert str(found).startswith(f"robust accuracy {100 * float(found.robust_accuracy):.1f} % of 8")
    assert f"({name}, {norms.as_norm(norm).name}, inputs in [0, 1]" in str(found)


@pytest.mark.parametrize("name", ["pgd", "apgd", "frank_wolfe"])
@pytest.mark.parametrize("norm", ["linf", "l1", "fourier-linf"])
def test_every_step_is_allowed_and_told(name, norm):
    params, x, y = problem()
    options: dict[str, Any] = {"norm": norm, "eps": 0.3, "key": KEY, "bounds": (0.0, 1.0)}
    attack = functools.partial(ATTACKS[name], relu_network, params, x, y, **options)
    plain, found = attack(), attack(check_steps=True)
    np.testing.assert_array_equal(found.inputs, plain.inputs)
    assert plain.info.beyond_radius_of_steps is None
    assert found.settings == plain.settings
    steps = found.info
    assert steps.beyond_radius_of_steps.shape == steps.losses.shape
    assert steps.out_of_bounds_of_steps.shape == steps.losses.shape
    assert np.all(np.asarray(steps.beyond_radius_of_steps) <= 1e-6)
    assert np.all(np.asarray(steps.out_of_bounds_of_steps) == 0)
    twice = attack(check_steps=True, num_restarts=2)
    assert np.all(np.asarray(twice.info.beyond_radius_of_steps) <= 1e-6)


def test_a_step_out_of_the_ball_would_be_told(monkeypatch):
    params, x, y = problem()
    far = lambda norm, threat, delta: delta
    monkeypatch.setattr("jaxrobust.attacks._threat.project", far)
    options: dict[str, Any] = {"norm": "linf", "eps": 0.3, "key": KEY}
    # Of a number of steps that no other test has, for the program is kept.
    found = attacks.pgd(relu_network, params, x, y, **options, num_steps=9, check_steps=True)
    assert np.all(np.asarray(found.info.beyond_radius_of_steps)[1] > 0.1)


@pytest.mark.parametrize("name", ["pgd", "apgd", "frank_wolfe"])
def test_attacks_raise_the_loss(name):
    params, x, y = problem()
    found = ATTACKS[name](relu_network, params, x, y, norm="l2", eps=0.5, key=KEY)
    losses = np.asarray(found.info.losses)
    assert np.all(losses[1:].max(axis=0) > losses[0])
    # Of one run the best point is the highest loss of those that succeed, or of all.
    assert np.all(np.asarray(found.loss) <= losses.max(axis=0) + 1e-5)
    assert np.mean(np.asarray(found.loss) >= losses.max(axis=0) - 1e-5) > 0.5


@pytest.mark.parametrize("name", ["pgd", "apgd", "frank_wolfe"])
def test_examples_do_not_depend_on_each_other(name):
    """With the same start, an example among others is attacked as it is alone."""
    params, x, y = problem()
    attack = functools.partial(
        ATTACKS[name], relu_network, params, norm="l2", eps=0.3, key=KEY, bounds=(0, 1)
    )
    twice = attack(np.concatenate([x, x[::-1]]), np.concatenate([y, y[::-1]]))
    scaled = attack(np.concatenate([x, 0 * x]), np.concatenate([y, y]))
    np.testing.assert_allclose(twice.inputs[:B], scaled.inputs[:B], atol=1e-5)


def test_one_program_for_one_shape():
    params, x, y = problem()
    traces = []

    def predict(params, x):
        traces.append(1)
        return relu_network(params, x)

    for name, attack in {**ATTACKS, "minimum_norm": attacks.minimum_norm}.items():
        options = {} if name == "minimum_norm" else {"eps": 0.1}
        attack(predict, params, x, y, norm="l2", key=KEY, **options)
        number = len(traces)
        more = {} if name == "minimum_norm" else {"eps": np.full(B, 0.2)}
        other = jax.tree.map(lambda leaf: 2 * leaf, params)
        attack(predict, other, x + 0.1, y, norm="l2", key=jax.random.key(1), **more)
        # The scores of the examples are looked at by shape alone, in every call.
        assert len(traces) - number <= 1, name


def test_under_jit_with_known_options():
    params, x, y = problem()
    attack = lambda params, x, y, eps, key: attacks.apgd(
        relu_network, params, x, y, norm="linf", eps=eps, key=key, num_steps=5, bounds=(0, 1)
    )
    found = jax.jit(attack)(params, x, y, 0.1, KEY)
    plain = attack(params, x, y, 0.1, KEY)
    np.testing.assert_allclose(found.inputs, plain.inputs, atol=1e-6)
    assert found.settings == plain.settings


def test_restarts_and_targets_are_never_worse():
    params, x, y = problem()
    attack = functools.partial(attacks.apgd, relu_network, params, x, y, norm="linf", eps=0.05)
    once = attack(key=KEY, num_steps=6)
    again = attack(key=KEY, num_steps=6, num_restarts=3)
    assert np.sum(again.success) >= np.sum(once.success)
    targeted = attack(key=KEY, num_steps=6, loss="targeted_margin")
    assert dict(targeted.settings.options)["num_targets"] == 2
    one = attack(key=KEY, num_steps=6, loss="targeted_margin", num_targets=1)
    assert np.sum(targeted.success) >= np.sum(one.success)


def test_halving_of_100_steps_is_as_published():
    """Checks at 22, 41, 57, ... of 100: the time between two gets shorter by 3, down to 6."""
    assert checks(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checks(1) == [1]
    assert checks(5) == [1, 2, 3, 4, 5]
    begins, ends, is_check = spans(100)
    np.testing.assert_array_equal(begins, [0, 22, 41, 57, 70, 80, 87, 93, 99])
    np.testing.assert_array_equal(ends, [*checks(100), 100])
    np.testing.assert_array_equal(is_check, [True] * 8 + [False])
    assert [part.tolist() for part in spans(1)] == [[0], [1], [True]]


def test_windows_of_random_search():
    assert layout_of((7,)) == (1, 7, 1)
    assert layout_of((5, 6)) == (5, 6, 1)
    assert layout_of((5, 6, 3)) == (5, 6, 3)
    sides = window_sides(10_000, 0.8, (28, 28, 1))
    assert sides[0] == round(np.sqrt(0.8 * 28 * 28))
    assert sides[-1] == max(round(np.sqrt(0.8 / 512 * 28 * 28)), 1)
    assert np.all(np.diff(sides) <= 0)
    for layout, side, area in (((5, 6, 3), 2, 4), ((1, 9, 1), 4, 4)):
        found = np.asarray(windows(KEY, 50, layout, jnp.int32(side)))
        assert found.shape == (50, *layout[:2], 1)
        np.testing.assert_array_equal(found.sum(axis=(1, 2, 3)), area)
        assert len({one.tobytes() for one in found}) > 3


def test_adversarial_training_is_more_robust():
    """Of the same small network, plainly and by what `adversary` returns."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(256, 20)).astype(np.float32)
    x[:, 0] *= 3
    y = (x[:, 0] + 0.3 * x[:, 1:].sum(axis=1) > 0).astype(int)
    adversary = attacks.adversary(relu_network, norm="linf", eps=0.3, num_steps=5)
    optimizer = optax.adam(0.01)

    def trained(transform):
        params = network(jax.random.key(5), (20, 32, 2))

        def step(carry, key):
            params, state = carry
            inputs = transform(key, params, x, y)
            loss = lambda p: optax.softmax_cross_entropy_with_integer_labels(
                relu_network(p, inputs), y
            ).mean()
            updates, state = optimizer.update(jax.grad(loss)(params), state)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(KEY, 150)
        return jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), keys)[0][0])(params)

    accuracy = {}
    for name, transform in (("plain", lambda key, params, x, y: x), ("robust", adversary)):
        params = trained(transform)
        found = attacks.apgd(
            relu_network, params, x, y, norm="linf", eps=0.3, key=KEY, num_steps=20
        )
        accuracy[name] = float(found.robust_accuracy)
    assert accuracy["robust"] > accuracy["plain"] + 0.05


def test_an_adversary_tells_of_gradients_that_are_zero():
    """Scores of which only whole numbers are left cannot be attacked by their gradient."""
    params, x, y = problem()
    masked = lambda params, x: jnp.round(relu_network(params, x))
    for predict, share in ((masked, 1.0), (relu_network, 0.0)):
        adversary = attacks.adversary(predict, norm="linf", eps=1e-3, num_steps=3)
        found = jax.jit(adversary.attack)(KEY, params, x, y)
        still = ~np.asarray(found.success)
        assert still.any()
        assert np.asarray(found.info.has_zero_gradient)[still].mean() == share
        np.testing.assert_array_equal(found.inputs, jax.jit(adversary)(KEY, params, x, y))
    slope = jax.grad(lambda p: jnp.sum(adversary.attack(KEY, p, x, y).loss))(params)
    assert all(not leaf.any() for leaf in jax.tree.leaves(slope))


def test_constants_under_jit():
    """Arrays that a function closes over are known, and what is done to them there is traced."""
    params, x, y = problem()
    eps, ends = jnp.full(B, 0.1), (jnp.zeros(20), jnp.ones(20))
    closed = jax.jit(
        lambda x, key: attacks.pgd(
            relu_network, params, x, jnp.asarray(y), norm="l2", eps=eps, key=key, bounds=ends,
            num_steps=3,
        )
    )  # fmt: skip
    found = closed(x, KEY)
    plain = attacks.pgd(
        relu_network, params, x, y, norm="l2", eps=0.1, key=KEY, bounds=(0, 1), num_steps=3
    )
    np.testing.assert_allclose(found.inputs, plain.inputs, atol=1e-6)


def test_double_precision_params_of_single_precision_inputs(x64):
    params, x, y = problem()
    wide = [jnp.asarray(leaf, jnp.float64) for leaf in params]
    for attack in (*ATTACKS.values(), lambda *a, eps, **o: attacks.minimum_norm(*a, **o)):
        for norm in ("l2", "l1", "l3"):
            found = attack(
                relu_network, wide, jnp.asarray(x, jnp.float32), y, norm=norm, eps=0.1, key=KEY
            )
            assert found.perturbations.dtype == jnp.float32


def test_half_precision_inputs():
    params, x, y = problem()
    found = attacks.apgd(
        relu_network, params, jnp.asarray(x, jnp.bfloat16), y, norm="linf", eps=0.1, key=KEY,
        bounds=(0, 1), num_steps=5,
    )  # fmt: skip
    assert found.inputs.dtype == jnp.bfloat16
    assert found.perturbations.dtype == jnp.float32
    assert np.all(np.abs(found.perturbations) <= 0.1 + 1e-6)


def test_the_second_target_is_nearer():
    """Targets do not stand in each other's way."""

    def predict(params, x):
        one = jnp.ones(len(x))
        return jnp.stack([0 * one, -1 + 0.1 * x[:, 0], -2 + 2 * x[:, 1]], axis=1)

    found = attacks.minimum_norm(
        predict, None, np.zeros((3, 2), np.float32), np.zeros(3, int), norm="l2", key=KEY,
        loss="targeted_margin",
    )  # fmt: skip
    np.testing.assert_allclose(found.distance, 1, rtol=1e-4)


def test_the_way_of_the_smallest_perturbation():
    """Losses and distances of every step, of the best of two runs; in a box."""
    params, x, y = problem()
    found = attacks.minimum_norm(
        relu_network, params, x, y, norm="l2", key=KEY, bounds=(-1, 2), num_steps=30,
        num_restarts=2,
    )  # fmt: skip
    info = found.info
    assert info.losses.shape == info.distances.shape == (30, B)
    assert np.all(np.isfinite(info.losses))
    assert np.all(np.diff(np.where(np.isinf(info.distances), 1e9, info.distances), axis=0) <= 0)
    # In the end the way from x is halved to where the class changes.
    there = np.asarray(found.success)
    assert there.any()
    assert np.all(found.distance[there] <= info.distances[-1][there] * (1 + 1e-4))
    assert np.all(info.out_of_bounds == 0)
    assert not np.any(info.has_zero_gradient[there])


def test_the_smallest_perturbation_without_a_gradient_at_x():
    """Scores are constant near x: then the first run begins elsewhere too."""

    def predict(params, x):
        rest = jax.nn.relu(jnp.sum(x, axis=1) - params)
        return jnp.stack([jnp.full(len(x), 0.5), rest], axis=1)

    x, y = np.zeros((8, 4), np.float32), np.zeros(8, int)
    find = lambda params: attacks.minimum_norm(
        predict, jnp.float32(params), x, y, norm="l2", key=KEY, num_steps=200
    )
    found = find(1.0)
    # About half of the starts are where the sum is negative, and there it is constant as well.
    there = np.asarray(found.success)
    assert there.any()
    np.testing.assert_allclose(found.distance[there], 0.75, rtol=1e-3)  # 1.5 over the root of 4
    assert np.array_equal(found.info.has_zero_gradient, ~there)
    nowhere = find(1e6)
    assert not np.any(nowhere.success)
    assert np.all(nowhere.info.has_zero_gradient)


def convolutions(params, x):
    """A network of one convolution, (B, 5, 5, 1) to three classes."""
    kernel, last = params
    dimensions = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))
    hidden = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", None, None, dimensions)
    return jax.nn.relu(hidden).reshape(len(x), -1) @ last


@pytest.mark.parametrize("name", [*ATTACKS, "minimum_norm"])
def test_a_network_with_convolutions(name, monkeypatch):
    """On a CPU its loops run in Python, but for those inside of `jit`: with the same result."""
    from jaxrobust.trees import _programs

    rng = np.random.default_rng(0)
    as_float = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    params, x = (as_float(3, 3, 1, 4), as_float(36, 3)), as_float(6, 5, 5, 1)
    y = jnp.argmax(convolutions(params, x), axis=1)
    attack: Any = {**ATTACKS, "minimum_norm": attacks.minimum_norm}[name]
    options: Any = {} if name == "minimum_norm" else {"eps": 0.3}
    run = lambda key, x: attack(convolutions, params, x, y, norm="l2", key=key, **options)
    cut = []
    pieces = _programs._pieces
    monkeypatch.setattr(_programs, "_pieces", lambda *given: cut.append(1) or pieces(*given))
    found = run(KEY, x)
    assert cut or jax.default_backend() != "cpu"
    number = len(cut)
    whole = jax.jit(run)(KEY, x)
    assert len(cut) == number
    # A choice between two points that are equally good may fall otherwise.
    same = (
        np.isclose(found.perturbations, whole.perturbations, atol=1e-4).reshape(6, -1).all(axis=1)
    )
    assert np.mean(same) >= 0.8
    np.testing.assert_array_equal(found.success, whole.success)


def test_far_from_the_boundary_the_entropy_still_counts():
    """In single precision the difference of two sums would be 0 for all points."""
    w = np.array([[1.0, 0.5, -0.25]], np.float32)
    predict = lambda w, x: jnp.concatenate([-x @ w.T, x @ w.T], axis=1)
    x = np.array([[10.0, 8, 0]], np.float32)
    found = attacks.pgd(predict, w, x, np.array([1]), norm="l2", eps=0.5, key=KEY, num_steps=20)
    unit = w[0] / np.linalg.norm(w)
    np.testing.assert_allclose(found.perturbations[0], -0.5 * unit, atol=1e-4)


# An ensemble --------------------------------------------------------------------------------------


def test_the_ensemble_is_at_least_as_strong_as_its_parts():
    params, x, y = problem(21)
    y = y.copy()
    y[0] = (y[0] + 1) % 3  # misclassified
    options: dict[str, Any] = {"norm": "linf", "eps": 0.06, "bounds": (0, 1)}
    found = attacks.ensemble(
        relu_network, params, x, y, key=KEY, batch_size=8, num_steps=10, num_queries=100, **options
    )
    assert found.found_by[0] == -2
    assert found.clean_accuracy == pytest.approx(20 / 21)
    assert np.all(np.diff([found.clean_accuracy, *found.accuracies]) <= 0)
    assert found.robust_accuracy == pytest.approx(found.accuracies[-1])
    alone = attacks.apgd(relu_network, params, x, y, key=KEY, num_steps=10, **options)
    assert found.robust_accuracy <= float(alone.robust_accuracy) + 1 / 21
    again = np.asarray(relu_network(params, found.inputs)).argmax(axis=1)
    np.testing.assert_array_equal(again != y, found.success)
    assert np.abs(found.perturbations).max() <= 0.06 * (1 + 1e-6)
    np.testing.assert_array_equal(found.inputs[~found.success], x[~found.success])
    assert "stages" in str(found)
    assert "% after square" in str(found)


BANDS = norms.fourier_bands(norms.linf, np.where(norms.frequencies(20) < 0.2, 1.0, 0.3))


@pytest.mark.parametrize("norm", ["fourier-linf", "l1", "l3", "fourier-l1", BANDS])
def test_ensembles_in_other_norms(norm):
    """Within ball and box, misclassified where it says so, and no weaker than a part alone."""
    params, x, y = problem()
    norm = norms.as_norm(norm)
    eps = {"l1": 1.0, "l3": 0.3, "Fourier-l1": 1.0}.get(norm.name, 0.15) * np.linspace(0.02, 1, B)
    given: dict[str, Any] = {"norm": norm, "eps": eps, "key": KEY, "bounds": (0, 1)}
    found = attacks.ensemble(
        relu_network, params, x, y, num_steps=12, num_queries=50, batch_size=8, **given
    )
    assert 0 < found.success.sum() < B
    length = np.asarray(jax.vmap(norm.value)(jnp.asarray(found.inputs - x)))
    np.testing.assert_array_less(length, eps * (1 + 1e-6) + 20 * 6e-8)
    assert found.inputs.min() >= 0
    assert found.inputs.max() <= 1
    wrong = np.asarray(relu_network(params, found.inputs)).argmax(axis=1) != y
    np.testing.assert_array_equal(wrong, found.success)
    alone = attacks.apgd(relu_network, params, x, y, num_steps=12, **given)
    assert found.robust_accuracy <= alone.robust_accuracy


def test_stages_are_only_given_what_is_left():
    params, x, y = problem(10)
    seen = []

    def spy(predict, params, x, y, **options):
        seen.append((len(x), np.unique(np.asarray(x), axis=0).shape[0], options["eps"].shape))
        return attacks.pgd(predict, params, x, y, num_steps=3, **options)

    stages = tuple(attacks.Stage(name, spy) for name in ("first", "second"))
    found = attacks.ensemble(
        relu_network, params, x, y, norm="l2", eps=0.3, key=KEY, batch_size=4, stages=stages
    )
    assert found.stages == ("first", "second")
    sizes = [rows for _, rows, _ in seen]
    assert all(number == 4 for number, _, _ in seen)
    assert sizes[:3] == [4, 4, 2]
    assert sum(sizes[3:]) == 10 - np.sum(found.found_by == 0)


def test_stages_of_others_are_told_and_looked_at():
    """Successes that are classified well, or too far, do not count."""
    params, x, y = problem(10)
    given: dict[str, Any] = {"norm": "l2", "eps": 0.3, "key": KEY, "bounds": (-9.0, 9.0)}
    honest = functools.partial(attacks.pgd, num_steps=3)

    def claims(predict, params, x, y, **options):
        found = honest(predict, params, x, y, **options)
        return dataclasses.replace(found, success=jnp.ones(len(x), bool))

    def reaches(predict, params, x, y, **options):
        return honest(predict, params, x, y, **options | {"eps": 30 * options["eps"]})

    def leaves(predict, params, x, y, **options):
        return attacks.pgd(predict, params, x + 100, y, num_steps=3, **{**options, "bounds": None})

    told = attacks.ensemble(
        relu_network, params, x, y, stages=(attacks.Stage("mine", honest),), **given
    )
    assert dict(told.settings.options)["mine"] == "pgd(num_steps=3)"
    for attack in (claims, reaches, leaves):
        with pytest.warns(UserWarning, match="mine: .* calls a success are classified well, or"):
            found = attacks.ensemble(
                relu_network, params, x, y, stages=(attacks.Stage("mine", attack),), **given
            )
        wrong = np.asarray(relu_network(params, found.inputs)).argmax(axis=1) != y
        assert np.all(wrong[found.success])
        assert np.all(np.linalg.norm(found.inputs - x, axis=1) <= 0.3 * (1 + 1e-3))
        assert np.all(np.abs(found.inputs) <= 9 + 1e-3)
        assert np.sum(found.success) <= np.sum(told.success) + 1

    def short(predict, params, x, y, **options):
        found = honest(predict, params, x, y, **options)
        return dataclasses.replace(found, inputs=found.inputs[:2])

    with pytest.raises(ValueError, match=r"stages must return inputs \(10, 20\)"):
        attacks.ensemble(relu_network, params, x, y, stages=(attacks.Stage("s", short),), **given)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_ensembles_of_any_number_of_classes(classes):
    params = network(jax.random.key(2), (20, 8, classes))
    x = problem()[1]
    y = np.asarray(relu_network(params, x).argmax(axis=1))
    found = attacks.ensemble(
        relu_network, params, x, y, norm="l2", eps=0.2, key=KEY, num_steps=3, num_queries=10
    )
    middle = {2: "APGD, margin", 3: "APGD, dlr", 5: "APGD, targeted_dlr"}[classes]
    assert found.stages == ("APGD, cross-entropy", middle, "minimum norm", "square")


# Bad input ----------------------------------------------------------------------------------------


def attack(**changes):
    params, x, y = problem()
    given: dict[str, Any] = {
        "predict": relu_network, "params": params, "x": x, "y": y, "norm": "l2", "eps": 0.1,
        "key": KEY, "num_steps": 2,
    }  # fmt: skip
    return attacks.apgd(**(given | changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"eps": 0.0}, ValueError, "eps must be positive and finite, got 0.0"),
        ({"eps": -1}, ValueError, "eps must be positive"),
        ({"eps": np.nan}, ValueError, "eps must be positive"),
        ({"eps": np.ones(3)}, ValueError, r"eps must be a number or have shape \(8,\)"),
        ({"bounds": (0.5, 1.0)}, ValueError, "x must be within bounds, but examples"),
        ({"bounds": 1.0}, TypeError, "bounds must be None or a pair"),
        ({"bounds": (0, np.ones(3))}, ValueError, r"bounds must broadcast to x, \(8, 20\)"),
        ({"y": np.full(8, 3)}, ValueError, r"y must hold classes 0\.\.2, .* from 3 to 3"),
        ({"y": np.zeros(8)}, TypeError, "y must hold integer classes"),
        ({"y": np.zeros(3, int)}, ValueError, r"y must have shape \(8,\)"),
        ({"x": np.full((8, 20), np.nan)}, ValueError, "x has NaN or infinite entries, in examples"),
        ({"x": np.zeros(8)}, ValueError, r"x must have shape \(B, \*features\)"),
        ({"x": np.zeros((8, 20), int)}, TypeError, "x must"),
        (
            {"predict": lambda p, x: relu_network(p, x)[:, :1]}, ValueError,
            r"predict must return scores \(8, classes\) of two classes or more, got \(8, 1\); for",
        ),
        ({"predict": lambda p, x: relu_network(p, x)[0]}, ValueError, "predict must return scores"),
        (
            {"predict": lambda p, x: jnp.sqrt(relu_network(p, x) - 1e6)}, ValueError,
            "predict must return finite scores, but those of examples",
        ),
        ({"predict": None}, TypeError, "predict must be a function"),
        ({"norm": norms.fourier(norms.linf, (0, 1))}, ValueError, "norm must fit examples of sha"),
        ({"loss": lambda logits, y: jnp.mean(logits)}, ValueError, "loss must return one number"),
        ({"eps": [0.1] * 3}, ValueError, r"eps must be a number or have shape \(8,\)"),
        ({"norm": "l7half"}, ValueError, "unknown norm"),
        ({"loss": "hinge"}, ValueError, "loss must be a function or one of"),
        ({"loss": "targeted_dlr"}, ValueError, "needs scores of at least 4 classes, got 3"),
        ({"num_targets": 2}, ValueError, "num_targets must be None with loss='cross_entropy'"),
        ({"loss": "targeted_margin", "num_targets": 3}, ValueError, "num_targets must be"),
        ({"num_steps": 0}, ValueError, "num_steps must be"),
        ({"num_restarts": 0}, ValueError, "num_restarts must be"),
    ],
)  # fmt: skip
def test_bad_input(changes, error, message):
    with pytest.raises(error, match=message):
        attack(**changes)


def test_bad_input_of_others():
    params, x, y = problem()
    args = relu_network, params, x, y
    with pytest.raises(ValueError, match="num_steps must be"):
        attacks.pgd(*args, norm="l2", eps=0.1, key=KEY, num_steps=0)
    with pytest.raises(ValueError, match="num_queries must be"):
        attacks.square(*args, norm="l2", eps=0.1, key=KEY, num_queries=0)
    image = np.zeros((8, 4, 5, 1), np.float32)
    with pytest.raises(ValueError, match=r"axes \(-1,\) of examples .* have length 1"):
        attacks.pgd(*args[:2], image, y, norm="fourier-linf", eps=0.1, key=KEY)
    image = np.zeros((8, 4, 5, 3), np.float32)
    with pytest.raises(ValueError, match="norm must not transform the channels of images, axis -1"):
        attacks.pgd(*args[:2], image, y, norm="fourier-linf", eps=0.1, key=KEY)
    bands = norms.fourier_bands(norms.linf, norms.frequencies(20) < 0.2)
    with pytest.raises(ValueError, match="norm must not have frequencies of radius 0 with bounds"):
        attacks.pgd(*args, norm=bands, eps=0.1, key=KEY, bounds=(0, 1))
    with pytest.raises(ValueError, match="step_size must be positive and finite, got 0"):
        attacks.pgd(*args, norm="l2", eps=0.1, key=KEY, step_size=0)
    with pytest.raises(ValueError, match="num_restarts must be 1 without random_start"):
        attacks.pgd(*args, norm="l2", eps=0.1, key=KEY, random_start=False, num_restarts=2)
    with pytest.raises(ValueError, match="loss must be 0 where the class changes"):
        attacks.minimum_norm(*args, norm="l2", key=KEY, loss="cross_entropy")
    with pytest.raises(ValueError, match="first_share must be at most 1"):
        attacks.square(*args, norm="l2", eps=0.1, key=KEY, first_share=2.0)
    with pytest.raises(ValueError, match="stages must name at least one attack"):
        attacks.ensemble(*args, norm="l2", eps=0.1, key=KEY, stages=())
    with pytest.raises(TypeError, match="ensemble cannot be traced"):
        jax.jit(lambda x: attacks.ensemble(relu_network, params, x, y, norm="l2", eps=1, key=KEY))(
            x
        )


@pytest.mark.parametrize("name", [*ATTACKS, "minimum_norm"])
def test_bad_input_that_is_traced_is_nan_and_told(name):
    """A label that there is not, an input out of bounds, and radii; the rest is not touched."""
    params, x, y = problem()
    attack = ATTACKS.get(name, functools.partial(attacks.minimum_norm, num_steps=10))
    options: dict[str, Any] = {} if name == "minimum_norm" else {"eps": np.full(B, 0.2)}

    @jax.jit
    def run(x, y, options):
        options = {"norm": "linf", "key": KEY, "bounds": (0, 1), **options}
        return attack(relu_network, params, x, y, **options)

    good = run(x, y, options)
    assert not good.info.has_nan.any()
    x_bad, y_bad, bad = x.copy(), y.copy(), {2, 4, 5}
    x_bad[2, 0], y_bad[4], y_bad[5] = 1.2, -1, 3
    if options:
        options = {"eps": np.array([0.2, 0.2, 0.2, 0.2, 0.2, 0.2, -0.1, np.inf])}
        bad |= {6, 7}
    found = run(x_bad, y_bad, options)
    rows = sorted(set(range(B)) - bad)
    assert found.info.has_nan[np.array(sorted(bad))].all()
    assert not found.info.has_nan[np.array(rows)].any()
    assert not found.success[np.array(sorted(bad))].any()
    assert not np.isfinite(found.inputs[2]).any()
    np.testing.assert_array_equal(found.inputs[np.array(rows)], good.inputs[np.array(rows)])


def test_the_ensemble_tells_of_masked_gradients():
    """Also of examples that an attack without gradients has succeeded on."""
    params, x, y = problem()
    masked = lambda params, x: jax.lax.stop_gradient(relu_network(params, x))
    found = attacks.ensemble(
        masked, params, x, y, norm="linf", eps=0.4, key=KEY, num_steps=5, num_queries=200
    )
    by_square = found.found_by == found.stages.index("square")
    assert by_square.any()
    assert found.has_zero_gradient[by_square].all()
    seen = attacks.ensemble(
        relu_network, params, x, y, norm="linf", eps=0.4, key=KEY, num_steps=5, num_queries=20
    )
    assert not seen.has_zero_gradient.any()


@pytest.mark.parametrize("name", ATTACKS)
def test_no_perturbation_is_always_allowed(name):
    """Of examples that are misclassified, but nowhere near them."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0.3, 0.7, size=(6, 20)).astype(np.float32)

    def predict(centers, x):
        is_there = jnp.max(jnp.abs(x - centers), axis=1) < 1e-3
        return jnp.stack([jnp.where(is_there, 0.0, 1.0), jnp.where(is_there, 1.0, 0.0)], axis=1)

    for norm in ("linf", "l2"):
        found = ATTACKS[name](predict, x, x, np.zeros(6, int), norm=norm, eps=0.2, key=KEY)
        assert found.robust_accuracy == 0
        np.testing.assert_array_equal(found.inputs, x)


@pytest.mark.parametrize("norm", ["l1", "linf", "l2"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float16])
def test_inputs_are_rounded_into_ball_and_box(norm, dtype):
    """Of the inputs that are returned, which is what counts, and not of what was added."""
    params, x, y = problem()
    x = jnp.asarray(x, dtype)
    bounds = (0.1, 0.9)  # between numbers of half precision
    x = jnp.clip(x, 0.125, 0.875)
    y = np.asarray(relu_network(params, x).argmax(axis=1))
    eps = {"linf": 0.1, "l2": 0.3, "l1": 1.0}[norm]
    for name in ("pgd", "apgd"):
        found = ATTACKS[name](
            relu_network, params, x, y, norm=norm, eps=eps, key=KEY, bounds=bounds
        )
        assert found.inputs.dtype == dtype
        inputs, before = np.asarray(found.inputs, np.float64), np.asarray(x, np.float64)
        length = jax.vmap(norms.as_norm(norm).value)(inputs - before)
        assert np.max(length) <= eps * (1 + 1e-6)
        assert np.max(length) > 0.9 * eps
        assert inputs.min() >= 0.1
        assert inputs.max() <= 0.9
        np.testing.assert_allclose(found.info.beyond_radius, 0, atol=1e-6)


def test_nan_on_the_way_is_told_and_never_wins():
    """Scores that are NaN away from the examples."""
    params, x, y = problem()

    def predict(params, x):
        there, inputs = params
        far = jnp.abs(x - there).max(axis=1, keepdims=True) > 0.05
        return jnp.where(far, jnp.nan, relu_network(inputs, x))

    given = (jnp.asarray(x), params)
    found = attacks.pgd(
        predict, given, x, y, norm="linf", eps=0.1, key=KEY, random_start=False, num_steps=10
    )
    assert np.all(found.info.has_nan)
    assert np.all(np.isfinite(found.inputs))
    assert np.all(np.isfinite(found.loss))
    assert np.all(np.abs(found.perturbations) <= 0.05 + 1e-6)
