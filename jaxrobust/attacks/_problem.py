"""A model, examples and a threat, checked; and how scores and gradients are looked at."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust import trees
from jaxrobust.attacks import _losses as losses
from jaxrobust.attacks._threat import Threat, flat
from jaxrobust.norms import FourierBands, Lp, Norm, as_norm

Predict = Callable[[Any, jax.Array], jax.Array]
Bounds = tuple[Any, Any] | None


class Problem(NamedTuple):
    """What an attack is given; arrays alone."""

    params: Any
    x: jax.Array  # (B, *features)
    y: jax.Array  # (B,) int32
    threat: Threat
    bounds: Any  # None, or (lowest, highest) inputs, which broadcast against x
    eps: jax.Array  # (B,) float: radii; those of the threat leave room for the rounding of inputs
    is_entrywise: Any  # () for lp norms of entries, None for others; static

    @property
    def origin(self) -> jax.Array:
        """``(B, *features)``: no perturbation, in float32 at least."""
        return self.alike(jnp.zeros(self.x.shape, trees.accumulator(self.x.dtype)))

    def alike(self, state: Any, *others: Any) -> Any:
        """What a loop carries, as such that varies over devices as all that it is made of does.

        Under `shard_map`: params, inputs, radii and bounds, and what else is given, such as keys.
        """
        keys = [jax.random.key_data(k) if _is_key(k) else k for k in others]
        return trees.vary_like(state, (tuple(self), keys, state))

    def at(self, delta: jax.Array) -> jax.Array:
        """The perturbed inputs, as the model gets them: rounded to the dtype of x.

        For lp norms towards x: no feature moves further than it was to, and they are kept exactly.
        Of spectra that would be worse than to the nearest number, for its errors add up.
        """
        inputs = self.x + delta
        if self.bounds is not None:  # out of which the perturbation may be by rounding errors
            inputs = jnp.clip(inputs, *self.bounds)
        inputs = inputs.astype(self.x.dtype)
        is_out = jnp.zeros(inputs.shape, bool)
        if self.is_entrywise is not None:
            is_out |= jnp.abs(self.moved(inputs)) > jnp.abs(delta)
        if self.bounds is not None:  # which need not be numbers of this dtype
            is_out |= (inputs < self.bounds[0]) | (inputs > self.bounds[1])
        return jnp.where(is_out, jnp.nextafter(inputs, self.x), inputs)

    def moved(self, inputs: jax.Array) -> jax.Array:
        """How far inputs are from x ``(B, *features)``."""
        wide = trees.accumulator(self.x.dtype)
        return inputs.astype(wide) - self.x.astype(wide)


class Seen(NamedTuple):
    """A batch of points."""

    loss: jax.Array  # (B,)
    margin: jax.Array  # (B,): 0 or more where the attack succeeds
    gradient: jax.Array  # (B, *features), of the loss
    is_finite: jax.Array  # (B,) bool
    has_gradient: jax.Array  # (B,) bool: it is not zero


def scores(predict: Predict, problem: Problem, delta: jax.Array) -> jax.Array:
    """Logits ``(B, C)`` in float32 at least."""
    return trees.promote(predict(problem.params, problem.at(delta)))


def looker(
    predict: Predict, problem: Problem, loss: Any, target: jax.Array | None = None
) -> Callable[[jax.Array], Seen]:
    """A function that looks at perturbations; one forward and one backward pass."""
    of = losses.UNTARGETED.get(loss, loss) if target is None else losses.TARGETED[loss]
    more = () if target is None else (target,)

    def total(inputs):
        logits = trees.promote(predict(problem.params, inputs))
        values = of(logits, problem.y, *more)
        # Every example has scores of its own, so that the gradient of the sum is that of each.
        return jnp.sum(values), (values, losses.margins(logits, problem.y))

    def look(delta: jax.Array) -> Seen:
        # By the inputs: that of clipping them to their bounds is a half on a bound, and 0 beyond.
        # As varying over devices as params are, or gradients of several models would be added up.
        inputs = problem.alike(problem.at(delta))
        (_, (values, margin)), gradient = jax.value_and_grad(total, has_aux=True)(inputs)
        # One pass for both questions: small models are looked at in microseconds.
        largest = jnp.max(jnp.abs(flat(gradient)), axis=1)
        fine = jnp.isfinite(values) & jnp.isfinite(largest)
        # A gradient that is NaN in one feature would make the point so.
        gradient = jnp.where(jnp.isfinite(gradient), gradient, 0)
        values, margin, gradient = (z.astype(delta.dtype) for z in (values, margin, gradient))
        return Seen(values, margin, gradient, fine, largest != 0)

    return look


def problem_of(
    predict: Predict, params: Any, x: Any, y: Any, norm: Norm | str, eps: Any, bounds: Bounds
) -> tuple[Norm, Problem, int]:
    """Checks the arguments of an attack; with the norm, and the number of classes."""
    norm = as_norm(norm)
    x = _checked_inputs(x)
    number = len(x)
    wide = trees.accumulator(x.dtype)
    y = _checked_labels(y, number)
    radii = _checked_radii(eps, number).astype(wide)
    ends = _checked_bounds(bounds, x)
    _check_inside(x, bounds)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((x, eps, bounds))):
        x = _without_bad_rows(x, radii, ends)
    _check_norm(norm, x, bounds)
    is_entrywise = isinstance(norm, Lp)
    inner = radii if is_entrywise else jnp.maximum(radii - _rounding(norm, x), 0)
    threat = Threat(inner, *_room(x.astype(wide), ends))
    num_classes = _checked_scores(predict, params, x)
    # By NumPy, for under jit even the minimum of a known array of JAX is traced.
    known = None if isinstance(y, Tracer) else np.asarray(y)
    if known is not None and (known.min() < 0 or known.max() >= num_classes):
        raise ValueError(
            f"y must hold classes 0..{num_classes - 1}, as predict has {num_classes} scores, got "
            f"values from {known.min()} to {known.max()}"
        )
    # What is traced can be anything: such a label has no score, and its margin is NaN.
    labels = jnp.asarray(y, jnp.int32)
    labels = labels if known is not None else jnp.where(labels < 0, num_classes, labels)
    return (
        norm,
        Problem(params, x, labels, threat, ends, radii, () if is_entrywise else None),
        num_classes,
    )


# Compiled as one: the first call would be dozens of small programs.
@functools.partial(jax.jit, static_argnums=0)
def _rounding(norm: Norm, x: jax.Array) -> jax.Array:
    """``(B,)``: what rounding perturbed inputs may add to the norm of a spectrum, say.

    The norm of errors as large as they can be, of random signs: the errors themselves are anything
    up to that, and so at most as large together, but for a chance that is small.
    """
    wide = x.astype(trees.accumulator(x.dtype))
    signs = jax.random.rademacher(jax.random.key(0), x.shape[1:], wide.dtype)
    largest = jnp.finfo(x.dtype).eps / 2 * jnp.abs(wide)
    length = jax.vmap(norm.value)(largest * signs[None])
    # Where something must not be moved at all the length is infinite, and errors are not counted.
    return jnp.where(jnp.isfinite(length), length, 0)


def _is_key(array: Any) -> bool:
    return jnp.issubdtype(getattr(array, "dtype", np.dtype(int)), jax.dtypes.prng_key)


def _checked_inputs(x: Any) -> jax.Array:
    if not hasattr(x, "dtype"):
        raise TypeError(f"x must be a floating array, got {type(x).__name__}")
    trees.check_floating("x", x)
    _check_not_explicit("x", x)
    if x.ndim < 2 or len(x) < 1:
        raise ValueError(f"x must have shape (B, *features), B at least 1, got {x.shape}")
    if not isinstance(x, Tracer):
        broken = ~np.isfinite(np.asarray(x, np.float32)).reshape(len(x), -1).all(axis=1)
        if broken.any():
            rows = np.flatnonzero(broken)
            raise ValueError(
                f"x has NaN or infinite entries, in examples {rows[:5].tolist()} ({rows.size} in "
                "all)"
            )
    return jnp.asarray(x)


def _check_not_explicit(name: str, array: Any) -> None:
    if isinstance(array, jax.Array) and trees.is_sharded(array):
        raise ValueError(
            f"{name} must not be sharded over explicit mesh axes: make the mesh with "
            "AxisType.Auto, or use jax.shard_map, for every example is attacked on its own"
        )


def _checked_labels(y: Any, number: int) -> Any:
    if not hasattr(y, "dtype") or not jnp.issubdtype(y.dtype, jnp.integer):
        raise TypeError(f"y must hold integer classes, got {getattr(y, 'dtype', type(y).__name__)}")
    _check_not_explicit("y", y)
    if y.shape != (number,):
        raise ValueError(f"y must have shape ({number},), one label for each x, got {y.shape}")
    return y


def _checked_radii(eps: Any, number: int) -> jax.Array:
    _check_not_explicit("eps", eps)
    radii = jnp.asarray(eps)
    is_known = not isinstance(eps, Tracer)
    if not (jnp.issubdtype(radii.dtype, jnp.floating) or jnp.issubdtype(radii.dtype, jnp.integer)):
        raise TypeError(f"eps must be a number or one for each example, got {radii.dtype}")
    if radii.shape not in ((), (number,)):
        raise ValueError(f"eps must be a number or have shape ({number},), got {radii.shape}")
    # What was given: under jit even a known array becomes traced by what is done to it.
    if is_known and not np.all((np.asarray(eps) > 0) & np.isfinite(np.asarray(eps, float))):
        raise ValueError(f"eps must be positive and finite, got {eps}")
    return jnp.broadcast_to(radii, (number,))


def _checked_bounds(bounds: Bounds, x: jax.Array) -> Any:
    if bounds is None:
        return None
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise TypeError(f"bounds must be None or a pair (lowest, highest), got {bounds!r}")
    for end in bounds:
        _check_not_explicit("bounds", end)
    ends = tuple(jnp.asarray(end, trees.accumulator(x.dtype)) for end in bounds)
    for end in ends:
        if not trees.broadcasts_to(end.shape, x.shape):
            raise ValueError(f"bounds must broadcast to x, {x.shape}, got {end.shape}")
    return tuple(jnp.broadcast_to(end, x.shape) for end in ends)


def _check_inside(x: jax.Array, bounds: Bounds) -> None:
    """Raises where inputs are known to be out of bounds that are known."""
    if bounds is None or any(isinstance(part, Tracer) for part in (x, *bounds)):
        return
    low, high = (np.asarray(end, np.float64) for end in bounds)
    inputs = np.asarray(x, np.float64)
    slack = float(jnp.finfo(x.dtype).eps) * (1 + np.abs(inputs))  # an input on its bound, rounded
    is_inside = (inputs >= low - slack) & (inputs <= high + slack)
    is_inside = is_inside.reshape(len(x), -1).all(axis=1)
    rows = np.flatnonzero(~is_inside)
    if rows.size:
        raise ValueError(
            f"x must be within bounds, but examples {rows[:5].tolist()} ({rows.size} in all) are "
            "not"
        )


def _without_bad_rows(x: jax.Array, radii: jax.Array, ends: Any) -> jax.Array:
    """NaN where an example is out of bounds or its radius is none, of which nobody could be told.

    Bounds that were rounded to single precision may be less than an input that is on them.
    """
    is_good = (radii > 0) & jnp.isfinite(radii)
    if ends is not None:
        slack = jnp.finfo(x.dtype).eps * (1 + jnp.abs(x))
        is_good &= jnp.all(flat((x >= ends[0] - slack) & (x <= ends[1] + slack)), axis=1)
    return jnp.where(is_good.reshape(-1, *[1] * (x.ndim - 1)), x, jnp.nan)


def _room(x: jax.Array, ends: Any) -> tuple[Any, Any]:
    """Perturbations that reach the bounds."""
    if ends is None:
        return None, None
    # Bounds in single precision may be a rounding error within inputs that are on them.
    return jnp.minimum(ends[0] - x, 0), jnp.maximum(ends[1] - x, 0)


def _check_norm(norm: Norm, x: jax.Array, bounds: Bounds) -> None:
    """Whether the norm takes an example, such as one that has the axes of its transform."""
    one = jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
    if isinstance(norm, FourierBands) and norm.has_fixed and bounds is not None:
        raise ValueError(
            "norm must not have frequencies of radius 0 with bounds, for there is hardly anything "
            "in both: give them small radii; with a hundredth of those of the band attacks come "
            "within 1 % of the best perturbation"
        )
    try:
        jax.eval_shape(norm.value, one)
    except ValueError as error:
        raise ValueError(f"norm must fit examples of shape {x.shape[1:]}: {error}") from error
    axes = getattr(norm, "axes", None)
    for_images = "for images use norms.fourier(norms.linf, (0, 1))"
    if axes is not None and all(one.shape[axis] == 1 for axis in axes):
        raise ValueError(
            f"norm must transform more than one number, but axes {axes} of examples {one.shape} "
            f"have length 1: {for_images}"
        )
    if axes is not None and len(one.shape) == 3 and tuple(axes) == (-1,):
        raise ValueError(
            f"norm must not transform the channels of images, axis -1 of examples {one.shape}: "
            f"{for_images}, or name the axis, 2, if this is meant"
        )


def _checked_scores(predict: Predict, params: Any, x: jax.Array) -> int:
    """The number of classes."""
    if not callable(predict):
        raise TypeError(f"predict must be a function (params, x) -> scores, got {predict!r}")
    given = jax.eval_shape(predict, params, x)
    if not hasattr(given, "shape") or not jnp.issubdtype(given.dtype, jnp.floating):
        raise TypeError(f"predict must return an array of scores, got {given}")
    if len(given.shape) != 2 or given.shape[0] != len(x) or given.shape[1] < 2:
        raise ValueError(
            f"predict must return scores ({len(x)}, classes) of two classes or more, got "
            f"{given.shape}"
            + ("; for one score s return [-s, s]" if given.shape[1:] in ((), (1,)) else "")
        )
    return given.shape[1]


def told_bounds(bounds: Bounds) -> str:
    """In words."""
    if bounds is None:
        return "inputs of any size"
    if all(np.ndim(end) == 0 and not isinstance(end, Tracer) for end in bounds):
        return f"inputs in [{float(bounds[0]):.4g}, {float(bounds[1]):.4g}]"
    return "inputs within bounds"
