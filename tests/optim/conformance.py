"""What every Optax transform of the library must do, whatever it computes.

A transform joins by one :class:`Entry` in ``test_conformance.py`` and inherits every check below.
A check takes an entry and raises AssertionError; it knows nothing about single transforms. What a
transform computes is tested elsewhere, against an oracle.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.optim.problems import SHAPES, gradient_tree, logistic, quadratic, random_tree

# Two ways to compute the same float32 update differ by some hundred roundings, relative to its
# largest entry (an FFT or an SVD spreads the error over all entries).
TOLERANCE = 200 * float(np.finfo(np.float32).eps)


@dataclasses.dataclass(frozen=True, eq=False)  # compared, and cached, as an object
class Entry:
    """A transform, and the little that the suite has to know about it."""

    name: str
    factory: Callable[..., optax.GradientTransformation]
    kwargs: Mapping[str, Any]
    # Required keywords of `update`: name -> its value, given the loss function and the parameters.
    extras: Mapping[str, Callable[[Callable, Any], Any]] = dataclasses.field(default_factory=dict)
    # For a link, which ascends: the learning rate to put behind it where it has to descend.
    learning_rate: float | None = None
    needs_params: bool = False  # whether `update` without params is an error
    needs_all_params: bool = False  # whether it is an error to hide a part of them
    num_steps: int = 200  # after which the losses below have fallen

    def make(self) -> optax.GradientTransformation:
        return self.factory(**self.kwargs)

    def descending(self) -> optax.GradientTransformation:
        if self.learning_rate is None:
            return self.make()
        return optax.chain(self.make(), optax.scale_by_learning_rate(self.learning_rate))

    def extras_at(self, loss_fn: Callable, params: Any) -> dict[str, Any]:
        return {name: make(loss_fn, params) for name, make in self.extras.items()}


# --- helpers --------------------------------------------------------------------------------------


# Most checks call this and not the next: eagerly, every operation is compiled once for all checks,
# where each jit would compile all of them anew.
def _update(tx: Any, grad: Any, state: Any, params: Any, extras: dict[str, Any]) -> tuple[Any, Any]:
    return optax.with_extra_args_support(tx).update(grad, state, params, **extras)


def _jitted_update(tx: Any) -> Callable:
    return jax.jit(functools.partial(_update, tx))


def _inputs(entry: Entry, *, dtype: Any = jnp.float32) -> tuple[Any, Any, dict[str, Any]]:
    """Gradient, parameters and extras of one update; the extras belong to the quadratic."""
    problem = quadratic(dtype)
    extras = entry.extras_at(problem.loss_fn, problem.params)
    return gradient_tree(4, dtype=dtype), problem.params, extras


def _matrix_only(extras: dict[str, Any]) -> dict[str, Any]:
    """Extras that are trees like the parameters, without the bias."""
    return {
        name: {"matrix": value["matrix"]} if isinstance(value, dict) else value
        for name, value in extras.items()
    }


@functools.cache
def _first_update(entry: Entry) -> Any:
    """The first update of the bare transform on :func:`_inputs`, to compare others with."""
    grad, params, extras = _inputs(entry)
    tx = entry.make()
    return _jitted_update(tx)(grad, tx.init(params), params, extras)[0]


def _assert_close(actual: Any, expected: Any, tolerance: float = TOLERANCE) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    leaves = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(expected))
    for a, b in leaves:
        difference = np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))
        assert np.max(difference) <= tolerance * largest, (a, b)


def _avals(tree: Any) -> list[Any]:
    return [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(tree)]


def _all_finite(tree: Any) -> bool:
    return all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(tree))


# --- the interface --------------------------------------------------------------------------------


def check_jit(entry: Entry) -> None:
    """Eagerly the update is the compiled one, which is traced once for later and fresh states."""
    grad, params, extras = _inputs(entry)
    tx = entry.make()
    assert isinstance(tx, optax.GradientTransformationExtraArgs)
    traces = []

    @jax.jit
    def update(grad, state, params, extras):
        traces.append(None)
        return tx.update(grad, state, params, **extras)

    for _ in range(2):
        _, state = update(grad, tx.init(params), params, extras)
        update(grad, state, params, extras)
    assert len(traces) == 1
    eager, _ = tx.update(grad, tx.init(params), params, **extras)
    _assert_close(eager, _first_update(entry))


def check_unknown_extras_are_ignored(entry: Entry) -> None:
    grad, params, extras = _inputs(entry)
    tx = entry.make()
    update = _update(tx, grad, tx.init(params), params, extras | {"no_such_extra": 1.0})[0]
    _assert_close(update, _first_update(entry))


def check_missing_extras_are_errors(entry: Entry) -> None:
    grad, params, extras = _inputs(entry)
    tx = entry.make()
    for name in entry.extras:
        others = {key: value for key, value in extras.items() if key != name}
        with pytest.raises(TypeError, match=name):
            tx.update(grad, tx.init(params), params, **others)


def check_missing_params(entry: Entry) -> None:
    """Without params: the same update, or an error where they are needed."""
    grad, params, extras = _inputs(entry)
    tx = entry.make()
    if entry.needs_params:
        with pytest.raises(ValueError, match="params"):
            tx.update(grad, tx.init(params), None, **extras)
    else:
        update = _update(tx, grad, tx.init(params), None, extras)[0]
        _assert_close(update, _first_update(entry))


def check_state(entry: Entry) -> None:
    """NamedTuples (and chain's tuples) of JAX arrays, of the same types after an update."""
    grad, params, extras = _inputs(entry)
    tx = entry.make()
    state = tx.init(params)
    assert isinstance(state, tuple)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    new_state = jax.eval_shape(_jitted_update(tx), grad, state, params, extras)[1]
    assert jax.tree.structure(new_state) == jax.tree.structure(state)
    assert _avals(new_state) == _avals(state)


def check_map_params(entry: Entry) -> None:
    """Optax finds the parts of the state that are like the parameters, or a stack of them."""
    params = random_tree(0)
    tx = entry.make()
    state = tx.init(params)

    def is_like(leaf, name):
        return (
            leaf.ndim - len(SHAPES[name]) in (0, 1)
            and leaf.shape[-len(SHAPES[name]) :] == (SHAPES[name])
        )

    named = optax.tree_utils.tree_map_params(
        tx, lambda _, name: name, state, {n: n for n in SHAPES}, transform_non_params=lambda _: ""
    )
    leaves = zip(jax.tree.leaves(named), jax.tree.leaves(state), strict=True)
    for name, leaf in leaves:
        assert is_like(leaf, name) if name else not any(is_like(leaf, n) for n in SHAPES)


# --- dtypes ---------------------------------------------------------------------------------------


def check_dtypes(entry: Entry) -> None:
    """Updates have the gradient's structure, shapes and dtypes, also when those are mixed."""
    tx = entry.make()
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        for bias_dtype in (dtype, jnp.float32):
            grad, params, extras = _inputs(entry, dtype=dtype)
            grad["bias"] = grad["bias"].astype(bias_dtype)
            params["bias"] = params["bias"].astype(bias_dtype)
            state = tx.init(params)
            update, new_state = jax.eval_shape(_jitted_update(tx), grad, state, params, extras)
            assert jax.tree.structure(update) == jax.tree.structure(params)
            assert [(u.shape, u.dtype) for u in jax.tree.leaves(update)] == [
                (p.shape, p.dtype) for p in jax.tree.leaves(params)
            ]
            assert [s.dtype for s in jax.tree.leaves(new_state)] == [
                s.dtype for s in jax.tree.leaves(state)
            ]


def check_bfloat16(entry: Entry) -> None:
    """The computation is in float32: only the result is rounded (and a learning rate's product)."""
    grad, params, _ = _inputs(entry, dtype=jnp.bfloat16)
    _, _, extras = _inputs(entry)
    tx = entry.make()
    update = _update(tx, grad, tx.init(params), params, extras)[0]
    # Each of at most three links rounds by eps/2 of the entry; a schedule rounds its value, too.
    _assert_close(update, _first_update(entry), 2 * float(jnp.finfo(jnp.bfloat16).eps))


def check_x64(entry: Entry) -> None:
    """Under x64 float64 stays, and so does float32; state dtypes do not move."""
    for dtype in (jnp.float32, jnp.float64):
        grad, params, extras = _inputs(entry, dtype=dtype)
        tx = entry.make()
        state = tx.init(params)
        update, new_state = jax.eval_shape(_jitted_update(tx), grad, state, params, extras)
        assert {leaf.dtype for leaf in jax.tree.leaves(update)} == {jnp.dtype(dtype)}
        assert _avals(new_state) == _avals(state)
    _assert_close(_jitted_update(tx)(grad, state, params, extras)[0], _first_update(entry))


# --- inside Optax's wrappers ----------------------------------------------------------------------


def check_chain(entry: Entry) -> None:
    grad, params, extras = _inputs(entry)
    tx = optax.chain(optax.identity(), entry.make(), optax.scale(2.0))
    update = _update(tx, grad, tx.init(params), params, extras)[0]
    _assert_close(update, jax.tree.map(lambda u: 2 * u, _first_update(entry)))


def check_masked(entry: Entry) -> None:
    """The masked leaf passes through; the other gets what it would get alone."""
    grad, params, extras = _inputs(entry)
    tx, alone = optax.masked(entry.make(), {"matrix": True, "bias": False}), entry.make()
    if entry.needs_all_params:
        with pytest.raises(ValueError, match="params must be whole"):
            _update(tx, grad, tx.init(params), params, extras)
        return
    update = _update(tx, grad, tx.init(params), params, extras)[0]
    grad_alone, params_alone = {"matrix": grad["matrix"]}, {"matrix": params["matrix"]}
    extras_alone = _matrix_only(extras)
    expected = _update(alone, grad_alone, alone.init(params_alone), params_alone, extras_alone)[0]
    _assert_close(update, expected | {"bias": grad["bias"]})


def check_partition(entry: Entry) -> None:
    """The same with another optimizer for the other leaf, and a label that nothing bears."""
    grad, params, extras = _inputs(entry)
    if entry.needs_all_params:
        return  # as in `check_masked`
    alone = entry.make()
    labels = {"matrix": "this", "bias": "sgd"}
    tx = optax.partition(
        {"this": entry.make(), "sgd": optax.sgd(0.5), "nothing": entry.make()}, labels
    )
    update = _update(tx, grad, tx.init(params), params, extras)[0]
    grad_alone, params_alone = {"matrix": grad["matrix"]}, {"matrix": params["matrix"]}
    extras_alone = _matrix_only(extras)
    expected = _update(alone, grad_alone, alone.init(params_alone), params_alone, extras_alone)[0]
    _assert_close(update, expected | {"bias": -0.5 * grad["bias"]})


def check_inject_hyperparams(entry: Entry) -> None:
    """Float hyperparameters may be arrays in the state, and changed there; dtypes stay."""
    names = {name for name, value in entry.kwargs.items() if isinstance(value, float)}
    grad, params, extras = _inputs(entry)
    tx = optax.inject_hyperparams(entry.factory)(**entry.kwargs)
    state: Any = tx.init(params)
    assert names <= set(state.hyperparams)
    _assert_close(_update(tx, grad, state, params, extras)[0], _first_update(entry))
    for name in names:
        changed = {**state.hyperparams, name: state.hyperparams[name] / 2}
        other = _update(tx, grad, state._replace(hyperparams=changed), params, extras)[0]
        rebuilt = dataclasses.replace(entry, kwargs={**entry.kwargs, name: entry.kwargs[name] / 2})
        _assert_close(other, _first_update(rebuilt))
    # A float32 hyperparameter must not promote a bfloat16 leaf.
    grad["bias"], params["bias"] = (t["bias"].astype(jnp.bfloat16) for t in (grad, params))
    mixed = jax.eval_shape(_jitted_update(tx), grad, tx.init(params), params, extras)[0]
    assert mixed["bias"].dtype == jnp.bfloat16


def check_multi_steps(entry: Entry) -> None:
    """Two accumulated gradients give nothing, then the update of their mean."""
    grad, params, extras = _inputs(entry)
    # Used as an object: its `gradient_transformation()` loses extras (optax 0.2.8).
    tx = optax.MultiSteps(entry.make(), every_k_schedule=2)
    update = jax.jit(lambda grad, state, params, extras: tx.update(grad, state, params, **extras))
    halves = [jax.tree.map(lambda g, f=factor: f * g, grad) for factor in (0.5, 1.5)]
    nothing, state = update(halves[0], tx.init(params), params, extras)
    _assert_close(nothing, jax.tree.map(jnp.zeros_like, grad))
    _assert_close(update(halves[1], state, params, extras)[0], _first_update(entry))


def check_apply_if_finite(entry: Entry) -> None:
    """A gradient that is not finite changes neither parameters nor state."""
    grad, params, extras = _inputs(entry)
    tx = optax.apply_if_finite(entry.make(), max_consecutive_errors=3)
    update = _jitted_update(tx)
    broken = grad | {"bias": grad["bias"].at[0].set(jnp.nan)}
    nothing, state = update(broken, tx.init(params), params, extras)
    _assert_close(nothing, jax.tree.map(jnp.zeros_like, grad))
    _assert_close(update(grad, state, params, extras)[0], _first_update(entry))


# --- inside JAX's transformations -----------------------------------------------------------------


def check_vmap(entry: Entry) -> None:
    """A batch of runs is the runs one by one: no quantity is shared between them."""
    tx, loss_fn = entry.make(), quadratic().loss_fn
    update = optax.with_extra_args_support(tx).update
    singles = [(gradient_tree(10 + i), random_tree(20 + i)) for i in range(3)]

    def run(grad, params):
        return update(grad, tx.init(params), params, **entry.extras_at(loss_fn, params))[0]

    grads, params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *singles)
    together = jax.jit(jax.vmap(run))(grads, params)
    for i, single in enumerate(singles):
        _assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], together), run(*single))


def check_descent(entry: Entry) -> None:
    """Inside `lax.scan`, its state keeps its types, and a quadratic and a logistic loss fall.

    Half the way to the minimum is asked for, which no wrong sign and no zero step reaches.
    """
    for problem, minimum in ((quadratic(), 1.0), (logistic(), 0.0)):
        tx = optax.with_extra_args_support(entry.descending())

        def step(carry, _, tx=tx, loss_fn=problem.loss_fn):
            params, state = carry
            extras = entry.extras_at(loss_fn, params)
            update, state = tx.update(jax.grad(loss_fn)(params), state, params, **extras)
            return (optax.apply_updates(params, update), state), None

        start = (problem.params, tx.init(problem.params))
        end, _ = jax.lax.scan(step, start, None, length=entry.num_steps)
        assert _avals(end) == _avals(start)
        before, after = problem.loss_fn(start[0]) - minimum, problem.loss_fn(end[0]) - minimum
        assert after <= 0.5 * before


def check_sharded(entry: Entry) -> None:
    """Over 8 devices, with Auto and with Explicit axes, the update is that of one device."""
    if len(jax.devices()) < 8:
        pytest.skip("needs 8 devices: XLA_FLAGS=--xla_force_host_platform_device_count=8")
    grad, params, extras = _inputs(entry)
    expected = _first_update(entry)
    tx = entry.make()
    P, modes = jax.sharding.PartitionSpec, jax.sharding.AxisType
    for mode in (modes.Auto, modes.Explicit):
        with jax.set_mesh(jax.make_mesh((8,), ("model",), axis_types=(mode,))):
            specs = {"matrix": P(None, "model"), "bias": P("model")}
            placed = [jax.tree.map(jax.device_put, tree, specs) for tree in (grad, params)]
            state = tx.init(placed[1])
            update, _ = _jitted_update(tx)(placed[0], state, placed[1], extras)
            _assert_close(jax.device_get(update), expected)


# --- hard inputs ----------------------------------------------------------------------------------


def check_zero_gradient(entry: Entry) -> None:
    grad, params, extras = _inputs(entry)
    tx = entry.make()
    zeros = jax.tree.map(jnp.zeros_like, grad)
    update = _update(tx, zeros, tx.init(params), params, extras)[0]
    assert _all_finite(update)


def check_nan_gradient(entry: Entry) -> None:
    """A NaN is passed on: it must not turn into a step that looks valid.

    Compiled, because XLA simplifies products with a mask to a selection, which can lose a NaN.
    """
    grad, params, extras = _inputs(entry)
    tx = entry.make()
    broken = grad | {"bias": grad["bias"].at[0].set(jnp.nan)}
    update = _jitted_update(tx)(broken, tx.init(params), params, extras)[0]
    assert not _all_finite(update)


CHECKS = [value for name, value in list(globals().items()) if name.startswith("check_")]
