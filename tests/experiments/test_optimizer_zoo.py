"""The experiment `optimizer_zoo`: claims that can fail, what it computes by NumPy, a short run."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import optimizer_zoo, optimizer_zoo_claims, plots
from experiments import optimizer_zoo_runs as runs
from experiments.optimizer_zoo import Config
from experiments.optimizer_zoo_claims import Found
from jaxrobust import norms


def found() -> Found:
    """As if measured, on two data sets."""
    ends = lambda value: np.stack([np.linspace(0.1, value, 5)] * 2)
    binary = {}
    for name, contender in runs.CONTENDERS.items():
        linf, l2 = (*contender.table, 0.8, 0.9)[:2] if contender.table else (0.5, 0.99)
        binary[name] = {
            "l1": ends(0.4), "l2": ends(l2), "linf": ends(linf),
            "lower": ends(0.99), "upper": ends(0.99) + 0.2,
        }  # fmt: skip
        binary[name]["upper"] = np.maximum(binary[name]["upper"], 1.0)
    two = lambda value: np.full(2, value)
    return Found(
        binary=binary,
        powers={norms.lp(p).name: two(0.99) for p in runs.POWERS},
        boxes={
            name: np.asarray([[0.9, 0.01], [1.0, 0.02]])
            for name in (*runs.BOXED, optimizer_zoo.MUON)
        },
        batches={
            name: {
                "all": two(0.99),
                "one": two(0.8 if name == "sign descent" else 0.98),
                "one, SVRG": two(0.97),
            }
            for name in runs.SMALL_BATCHES
        },
        even={
            "all": {"l2": two(0.8), "linf": two(0.95)},
            "one": {"l2": two(0.95), "linf": two(0.5)},
        },
        classes={
            name: {
                of: two(0.9 if (name, of) == (runs.OPTAX_MUON, "spectral") else 0.98)
                for of in runs.MATRIX_NORMS
            }
            for name in runs.MATRIX_CONTENDERS
        },
        diagonal={"small": two(0.95), "large": two(0.75), "large, early": two(0.62)},
        hidden={name: {"fall": two(0.5), "other": two(100.0)} for name in runs.NORMS},
    )


def failing(made: Found, steps: int = 20_000):
    claims = optimizer_zoo_claims.claims(Config(steps=steps), made)
    return [c.statement for c in claims if c.should_hold and not c.holds]


def test_claims_hold_for_what_theory_says():
    assert failing(found()) == []


def spoil(part, value, *keys):
    """The same with one number changed."""
    made = found()
    rows = getattr(made, part)
    for key in keys[:-1]:
        rows = rows[key]
    rows[keys[-1]] = np.full_like(np.asarray(rows[keys[-1]]), value)
    return made


@pytest.mark.parametrize(
    ("made", "number"),
    [
        (lambda: spoil("binary", 1.1, "Adam, ε 0", "lower"), 1),
        (lambda: spoil("binary", 0.9, "sign descent", "upper"), 1),
        (lambda: spoil("binary", 0.5, "Adam, ε 0", "linf"), 4),
        (lambda: spoil("binary", 0.93, "Adam, ε 1e-8", "linf"), 2),
        (lambda: spoil("binary", 0.5, "Lion, no decay", "linf"), 2),
        (lambda: spoil("powers", 0.9, "l3"), 1),
        (lambda: spoil("boxes", 1.1, "Lion"), 2),
        (lambda: spoil("boxes", 1.1, "AdamW, ε 0"), 2),
        (lambda: spoil("batches", 0.5, "Signum, β 0.99", "one"), 1),
        (lambda: spoil("batches", 0.99, "sign descent", "one"), 1),
        (lambda: spoil("batches", 0.9, "sign descent", "one, SVRG"), 1),
        (lambda: spoil("even", 0.88, "one", "l2"), 1),
        (lambda: spoil("even", 0.95, "all", "l2"), 1),
        (lambda: spoil("even", 0.5, "all", "linf"), 1),
        (lambda: spoil("classes", 0.9, "spectral descent", "spectral"), 1),
        (lambda: spoil("diagonal", 0.95, "large"), 1),
        (lambda: spoil("diagonal", 0.74, "large, early"), 1),
        (lambda: spoil("hidden", 5.0, "l2", "fall"), 1),
        (lambda: spoil("hidden", np.nan, "l2", "fall"), 1),
    ],
)
def test_claims_fail_for_other_numbers(made, number):
    assert len(failing(made())) == number


def test_in_other_norms_margins_must_be_seen_to_fall():
    made = found()
    for row in made.hidden.values():
        row["other"] = np.full(2, 5.0)
    assert len(failing(made)) == 1


def test_the_fall_of_a_margin():
    soft = np.asarray([0.5, -1.0, -0.2, 0.2, 0.4, 0.3, 0.6])
    least = np.asarray([-1.0, -1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    length = np.linspace(2.0, 3.0, 7)
    fall = optimizer_zoo_claims.fall(soft * length**2, least, length)
    assert fall == pytest.approx(0.1 * length[5] ** 2 / runs.STEP)
    assert np.isnan(optimizer_zoo_claims.fall(soft, -np.ones(7), length))
    assert np.isnan(optimizer_zoo_claims.fall(-(soft**2), np.ones(7), length))


def test_the_gap_in_a_ball_bounds_what_is_left(x64):
    """By many projected steps to the least loss in the ball."""
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(6, 3))), jnp.asarray(rng.choice([-1.0, 1.0], 6))
    w = jnp.asarray(rng.normal(size=3))
    loss = lambda w: runs.logistic(w, x, y)[0]
    step = lambda _, v: norms.linf.project(v - 0.3 * jax.grad(loss)(v), 1 / runs.DECAY)
    least = loss(jax.lax.fori_loop(0, 5_000, step, w))
    size, gap = runs.gap_in_ball(runs.mean_logistic, w, x, y, norms.linf)
    assert size == pytest.approx(float(jnp.max(jnp.abs(w))) * runs.DECAY)
    assert gap * loss(w) >= loss(w) - least


@pytest.mark.parametrize("name", ["AdamW, ε 0", "Lion", "sign descent with decay"])
def test_weight_decay_leads_to_cvxpys_least_loss_in_the_box(name, x64):
    """min L(w), |w|_inf <= 1/decay: the weights and the loss of a conic solver."""
    x, y = runs.noisy(0)
    make, _ = runs.BOXED[name]
    start = jnp.full(x.shape[1], 3 / runs.DECAY)
    w = np.asarray(runs.descend_decayed(make, runs.mean_logistic, start, x, y, jnp.int32(20_000)))
    u = cp.Variable(x.shape[1])
    margins = cp.multiply(np.asarray(y), np.asarray(x) @ u)
    objective = cp.Minimize(cp.sum(cp.logistic(-margins)) / len(y))
    problem = cp.Problem(objective, [cp.norm_inf(u) <= 1 / runs.DECAY])
    problem.solve(solver=cp.CLARABEL)
    least, best = float(np.asarray(problem.value)), np.asarray(u.value)
    assert problem.status == cp.OPTIMAL
    free = cp.Problem(objective)
    free.solve(solver=cp.CLARABEL)
    assert least > 1.01 * float(np.asarray(free.value))  # the box matters
    left = float(runs.mean_logistic(jnp.asarray(w), x, y)) / least - 1
    size, gap = runs.gap_in_ball(runs.mean_logistic, jnp.asarray(w), x, y, norms.linf)
    assert size <= 1 + 1e-3
    assert -1e-3 <= left <= 1e-2
    assert left <= gap + 1e-6
    np.testing.assert_allclose(w, best, atol=0.1 / runs.DECAY)


def test_the_loss_of_classes_keeps_its_gradient_at_large_margins(x64):
    """That of the own class is minus the sum of the others, also at a margin of 60."""
    w = jnp.zeros((runs.NUM_CLASSES, 2)).at[1].set(jnp.asarray([60.0, 0.0]))
    x, y = jnp.asarray([[1.0, 0.5]]), jnp.asarray([1])
    gradient = jax.grad(runs.softmax_loss)(w, x, y)
    others = np.exp(-60.0) * np.asarray(x[0])
    np.testing.assert_allclose(gradient[0], others, rtol=1e-9)
    np.testing.assert_allclose(gradient[1], -3 * others, rtol=1e-9)


def test_batches_of_one_see_every_example_once_an_epoch(x64):
    """The sum of all gradients at zero, with steps too small to move away from there."""
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(6, 3))), jnp.asarray(rng.choice([-1.0, 1.0], 6))
    tiny = lambda: optax.sgd(1e-9)
    w = runs.descend_in_batches(tiny, 1, x, y, jnp.int32(6))
    np.testing.assert_allclose(1e9 * w, 0.5 * np.asarray(y) @ np.asarray(x), rtol=1e-6)


@pytest.mark.slow
def test_a_short_run():
    result = optimizer_zoo.run(Config(seeds=1, steps=500))
    assert not [c.statement for c in result.claims if c.should_hold and not c.holds]
    for figure, caption in optimizer_zoo.plot(result).values():
        assert plots.png(figure)
        assert caption
