"""The conformance suite: one entry per transform, all checks for each (see `conformance.py`)."""

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxrobust import norms, optim
from tests.optim import conformance
from tests.optim.conformance import Entry

LOSS = {"value": lambda loss_fn, params: loss_fn(params)}
# Any two trees like the parameters will do; of these the difference acts as a weight decay.
SNAPSHOT = {
    "snapshot_gradient": lambda loss_fn, params: jax.tree.map(lambda p: p / 64, params),
    "snapshot_mean": lambda loss_fn, params: jax.tree.map(lambda p: p / 32, params),
}
# The suite's gradients are not those of its losses, and no search would find a step that fits them:
# a loss that is lower away from the params fits any. What the search does is tested elsewhere.
LOSS_FUNCTION = LOSS | {
    "value_fn": lambda loss_fn, params: jax.tree_util.Partial(lambda p: loss_fn(p) - 1e4)
}
CLUSTER = {"cluster": lambda loss_fn, params: jnp.int32(1)}
NOISE = {
    "trace": lambda loss_fn, params: jnp.float32(24),
    "signal": lambda loss_fn, params: jnp.float32(3),
}

# The learning rates are about 1 / (the curvature of the quadratic in the norm), which is 1 for l1
# and l2 and 32, the number of parameters, for linf.
ENTRIES = [
    Entry("scale_by_steepest", optim.scale_by_steepest, {"norm": norms.l1}, learning_rate=0.5),
    Entry(
        "scale_by_normalized_steepest",
        optim.scale_by_normalized_steepest,
        {"norm": "linf", "momentum": 0.5},
        learning_rate=0.02,
    ),
    Entry(
        "scale_by_inverse_loss",
        optim.scale_by_inverse_loss,
        {"bound": 2.0, "max_learning_rate": 5.0},
        extras=LOSS,
        learning_rate=0.5,
    ),
    Entry(
        "steepest_descent[l2,schedule]",
        optim.steepest_descent,
        {"learning_rate": optax.linear_schedule(0.5, 0.1, 100), "norm": norms.l2},
    ),
    Entry(
        "normalized_steepest_descent[schedule]",
        optim.normalized_steepest_descent,
        {"learning_rate": optim.inverse_sqrt(0.2), "norm": "linf"},
    ),
    Entry(
        "normalized_steepest_descent[momentum]",
        optim.normalized_steepest_descent,
        {"learning_rate": 0.05, "norm": norms.spectral, "momentum": 0.9, "nesterov": True},
    ),
    Entry(
        "loss_scaled_steepest_descent",
        optim.loss_scaled_steepest_descent,
        {"norm": "linf", "bound": 8.0},
        extras=LOSS,
    ),
    Entry(
        "proximal_gradient",
        optim.proximal_gradient,
        {"learning_rate": 0.5, "norm": norms.l1, "strength": 0.01},
        needs_params=True,
    ),
    Entry(
        "proximal_gradient[schedule]",
        optim.proximal_gradient,
        {
            "learning_rate": optax.linear_schedule(0.5, 0.1, 100),
            "norm": norms.spectral,
            "strength": 0.01,
            "accelerated": False,
        },
        needs_params=True,
    ),
    Entry(
        "mirror_descent",
        optim.mirror_descent,
        {"learning_rate": 0.2, "p": 2.5},  # the suite halves it
        needs_params=True,
    ),
    Entry(
        "mirror_descent[schedule]",
        optim.mirror_descent,
        {"learning_rate": optax.linear_schedule(0.5, 0.1, 100), "p": 3.0},
        needs_params=True,
    ),
    Entry(
        "fista",
        optim.fista,
        # An array, for the conformance suite would halve a float in the middle of a run; there it
        # has no say any more.
        {"norm": "linf", "strength": 0.01, "learning_rate": jnp.float32(0.5)},
        extras=LOSS_FUNCTION,
        needs_params=True,
        needs_all_params=True,
    ),
    Entry("svrg", optim.svrg, {"coefficient": 0.5}, extras=SNAPSHOT, learning_rate=0.5),
    Entry(
        "svrg[schedule]",
        optim.svrg,
        {"coefficient": optax.linear_schedule(1.0, 0.0, 100)},
        extras=SNAPSHOT,
        learning_rate=0.5,
    ),
    Entry(
        "cluster_control_variate",
        optim.cluster_control_variate,
        {"num_clusters": 3, "proportions": (0.25, 0.5, 0.25), "decay": 0.5},
        extras=CLUSTER,
        learning_rate=0.5,
    ),
    Entry(
        "scale_by_noise",
        optim.scale_by_noise,
        {"batch_size": 8.0, "decay": 0.5},
        extras=NOISE,
        learning_rate=1.0,
    ),
]


def test_every_transform_has_an_entry():
    """Every public function is in the list, except those that make a schedule."""
    schedules = {"inverse_sqrt"}
    functions = {name for name in optim.__all__ if name.islower()}
    assert {entry.factory.__name__ for entry in ENTRIES} == functions - schedules


@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__[6:])
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_conformance(entry: Entry, check, request: pytest.FixtureRequest):
    if check is conformance.check_x64:
        request.getfixturevalue("x64")
    check(entry)


# --- the suite itself: each mistake below is found by the check named beside it -------------------


def _stateless(function):
    return optax.with_extra_args_support(optax.stateless(lambda updates, _: function(updates)))


def _each(function):
    return lambda: _stateless(lambda updates: jax.tree.map(function, updates))


def _with_state(first, following):
    """Passes updates on; its state is ``first`` and then ``following`` of the one before."""

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        return updates, (following(state[0]),)

    return lambda: optax.GradientTransformationExtraArgs(lambda params: (first(),), update)


def _strict():
    return optax.GradientTransformationExtraArgs(
        optax.init_empty_state, lambda updates, state, params=None: (updates, state)
    )


def _forgiving():
    """Would have required `value`, had it not a default."""

    def update(updates, state, params=None, *, value=1.0, **extra_args):
        del params, extra_args
        return jax.tree.map(lambda u: u / value, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


MISTAKES = [
    ("no_extras", lambda: optax.scale(1.0), conformance.check_jit),
    ("refuses_extras", _strict, conformance.check_unknown_extras_are_ignored),
    ("default_for_required", _forgiving, conformance.check_missing_extras_are_errors),
    ("retraces", _with_state(lambda: jnp.asarray(1.0), jnp.float32), conformance.check_jit),
    ("python_state", _with_state(lambda: 0, lambda s: s + 1), conformance.check_state),
    ("drifting_state", _with_state(lambda: jnp.int32(0), jnp.float32), conformance.check_state),
    ("promotes", _each(lambda u: u * jnp.float32(1)), conformance.check_dtypes),
    ("float32_only", _each(lambda u: u.astype(jnp.float32)), conformance.check_dtypes),
    ("rounds_inside", _each(lambda u: (u + 64) - 64), conformance.check_bfloat16),
    ("ascends", lambda: _stateless(lambda u: u), conformance.check_descent),
    ("stands_still", _each(jnp.zeros_like), conformance.check_descent),
    ("hides_nan", _each(jnp.nan_to_num), conformance.check_nan_gradient),
    ("zero_by_zero", _each(lambda u: u / jnp.max(jnp.abs(u))), conformance.check_zero_gradient),
]


@pytest.mark.parametrize(("name", "factory", "check"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_the_suite_notices(name, factory, check):
    extras = LOSS if name == "default_for_required" else {}
    with pytest.raises((AssertionError, TypeError, pytest.fail.Exception)):
        check(Entry(name, factory, {}, extras=extras))


def test_the_suite_accepts():
    """The same checks pass for what is right, so that they fail above for the mistake alone."""
    entry = Entry("sgd", optax.sgd, {"learning_rate": 0.5, "momentum": 0.5})
    for check in {check for _, _, check in MISTAKES}:
        check(entry)
