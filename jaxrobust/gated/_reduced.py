r"""The neural race: one scalar network with the same graph for every mode.

On the manifold of `init_decoupled` the params are numbers :math:`b_e`, one for each edge and mode;
with :math:`\pi_p = \prod_{f \in p} b_f` the loss there is

.. math:: L(b) = \tfrac12\langle \|y\|^2\rangle - \sum_p s_p \pi_p
   + \tfrac12 \sum_{j,p} d_{jp} \pi_j \pi_p,

summed over modes, and gradient flow and descent stay on it.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust import trees
from jaxrobust.gated._graph import Graph, find_paths
from jaxrobust.gated._modes import Modes, check_applies

Strengths = dict[str, jax.Array]  # (r,) by edge
_MAX_STEPS = 1_000_000  # of the solver; diffrax stops after 4,096 if it is not told otherwise


class Trajectory(NamedTuple):
    """What happened over T times."""

    times: jax.Array  # (T,)
    params: Any  # leaves (T, ..): matrices or strengths by edge; None if they were not kept
    losses: jax.Array  # (T,)
    strengths: jax.Array | None = None  # (T, P, r): of every path, see `path_strengths`


def path_strengths(graph: Graph, b: Strengths) -> jax.Array:
    """The products of numbers along all paths, ``(P, r)``."""
    names = [name for name, _ in graph.edges]
    # Shorter paths go on with 1: all are looked up at once, in few operations however many there
    # are, for a step of the race is small.
    table = jnp.stack([*(b[name] for name in names), jnp.ones_like(b[names[0]])])
    return functools.reduce(jnp.multiply, [table[row] for row in _rows(graph, names)])


def _rows(graph: Graph, names: list[str]) -> np.ndarray:
    """``(depth, P)``: which edge is the first of every path, the second, ..; past its end none."""
    paths = find_paths(graph)
    rows = np.full((max(len(path.edges) for path in paths), len(paths)), len(names))
    for k, path in enumerate(paths):
        rows[: len(path.edges), k] = [names.index(edge) for edge in path.edges]
    return rows


def reduced_loss(graph: Graph, b: Strengths, modes: Modes) -> jax.Array:
    """The loss of the whole network, from its numbers."""
    return _loss_and_descent(graph, b, modes)[0]


def _loss_and_descent(graph: Graph, b: Strengths, modes: Modes) -> tuple[jax.Array, Strengths]:
    """With minus the gradient, in one pass."""
    _check_strengths(graph, b, modes)
    strengths, back = jax.vjp(lambda b: path_strengths(graph, b), b)
    s, d = (jnp.asarray(part, strengths.dtype) for part in (modes.s, modes.d))
    pulled = _pulled(d, strengths)
    loss = modes.yy - jnp.sum(strengths * (s - 0.5 * pulled))
    return loss, back(s - pulled)[0]


def _pulled(d: jax.Array, strengths: jax.Array) -> jax.Array:
    """What all paths together have of the targets of each, ``(P, r)``."""
    return jnp.einsum("jpr,pr->jr", d, strengths, precision=jax.lax.Precision.HIGHEST)


def reduced_flow(graph: Graph, b: Strengths, modes: Modes, tau: float = 1.0) -> Strengths:
    r"""How fast the numbers change, :math:`\dot b = -\nabla L(b) / \tau`.

    Source:
      Saxe, Sodhani & Lewallen, arXiv:2207.10430; as the gradient of a potential: derived.
    """
    return jax.tree.map(lambda g: g / tau, _loss_and_descent(graph, b, modes)[1])


def step_reduced(graph: Graph, b: Strengths, modes: Modes, rate: float) -> Strengths:
    """A step of gradient descent; the image of one of the whole network, at any rate."""
    flow = reduced_flow(graph, b, modes)
    return jax.tree.map(lambda value, f: value + rate * f, b, flow)


def stable_rate(graph: Graph, b: Strengths, modes: Modes) -> jax.Array:
    r"""The largest rate at which gradient descent is stable at such numbers.

    .. math:: 2 / \lambda_{\max}(\nabla^2 L(b)),

    infinite where no direction curves upwards. For paths that are alike, at their minimum, it is
    :func:`max_stable_rate`.
    """
    flat, as_strengths = jax.flatten_util.ravel_pytree(jax.tree.map(jnp.asarray, b))
    curvature = jax.hessian(lambda z: reduced_loss(graph, as_strengths(z), modes))(flat)
    top = jnp.linalg.eigvalsh(curvature)[-1]
    return jnp.where(top > 0, 2 / jnp.where(top > 0, top, 1), jnp.inf)


def simulate_reduced(
    graph: Graph,
    b: Strengths,
    modes: Modes,
    *,
    rate: float,
    num_steps: int,
    allow_residual: bool = False,
) -> Trajectory:
    """Gradient descent on the numbers, compiled: the image of :func:`simulate`, at any rate.

    Args:
      graph: nodes and edges.
      b: numbers ``(r,)`` by edge, at first.
      modes: of the data.
      rate: of a step.
      num_steps: how many.
      allow_residual: whether to go on where modes are not common to all paths.

    Returns:
      :class:`Trajectory`, whose times are steps, from 0 on; params are the last numbers.

    Raises:
      ValueError: where the reduction does not apply.
    """
    trees.check_count("num_steps", num_steps)
    check_applies(modes, graph, allow_residual)
    _check_strengths(graph, b, modes)
    # Where no two paths are on together they pull at nothing but themselves.
    is_alone = not isinstance(modes.d, Tracer) and not np.any(
        np.asarray(modes.d) * (1 - np.eye(len(modes.d)))[:, :, None]
    )
    start = jax.tree.map(jnp.asarray, b)
    last, losses = _descend(graph, start, modes, rate, num_steps, is_alone)
    return Trajectory(jnp.arange(num_steps + 1), last, losses)


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def _descend(
    graph: Graph, b: Strengths, modes: Modes, rate: Any, num_steps: int, is_alone: bool
) -> tuple[Strengths, jax.Array]:
    """Gradient descent, in as few operations as can be: each takes longer than what it computes.

    With all numbers in one table, and sums over the paths of an edge as a product of matrices.
    """
    names = [name for name, _ in graph.edges]
    rows = _rows(graph, names)  # (depth, P)
    # By edge, of which factors of which paths it is.
    counts = np.stack([(rows == k).reshape(-1) for k in range(len(names))])
    table = jnp.stack([b[name] for name in names])
    s, d = (jnp.asarray(part, table.dtype) for part in (modes.s, modes.d))
    own = jnp.einsum("ppr->pr", d)
    sums = jnp.asarray(counts, table.dtype)

    def look(table: jax.Array) -> tuple[jax.Array, list[jax.Array], jax.Array]:
        """The loss, the factors of all paths, and what is left of every path ``(P, r)``."""
        padded = jnp.concatenate([table, jnp.ones_like(table[:1])])
        factors = [padded[row] for row in rows]
        strengths = functools.reduce(jnp.multiply, factors)
        pulled = own * strengths if is_alone else _pulled(d, strengths)
        return modes.yy - jnp.sum(strengths * (s - 0.5 * pulled)), factors, s - pulled

    def step(table, _):
        loss, factors, left = look(table)
        pulls = [
            functools.reduce(jnp.multiply, [*factors[:k], *factors[k + 1 :], left])
            for k in range(len(factors))
        ]
        descent = jnp.matmul(sums, jnp.concatenate(pulls), precision=jax.lax.Precision.HIGHEST)
        return table + rate * descent, loss

    last, losses = jax.lax.scan(step, table, length=num_steps)
    return dict(zip(names, last, strict=True)), jnp.append(losses, look(last)[0])


def solve_reduced(
    graph: Graph,
    b: Strengths,
    modes: Modes,
    times: Any,
    *,
    tau: float = 1.0,
    rtol: float = 1e-10,
    allow_residual: bool = False,
) -> Trajectory:
    r"""Gradient flow of the numbers, by an adaptive method of order 8.

    Args:
      graph: nodes and edges.
      b: numbers ``(r,)`` by edge, at time 0.
      modes: of the data.
      times: ``(T,)``, rising, 0 or more.
      tau: the unit of time; gradient descent with rate :math:`\eta` makes :math:`\tau / \eta` steps
        in it.
      rtol: relative tolerance of every step; at single precision not below 1e-6.
      allow_residual: whether to go on where modes are not common to all paths.

    Raises:
      ValueError: where the reduction does not apply; for times that do not rise.
    """
    check_applies(modes, graph, allow_residual)
    _check_strengths(graph, b, modes)
    field = lambda b: reduced_flow(graph, b, modes, tau)
    found = solve(field, b, times, rtol)
    return Trajectory(
        jnp.asarray(times),
        found,
        jax.vmap(lambda b: reduced_loss(graph, b, modes))(found),
        jax.vmap(lambda b: path_strengths(graph, b))(found),
    )


def solve(field: Any, start: Any, times: Any, rtol: float) -> Any:
    """A tree at all times, by diffrax."""
    try:
        import diffrax  # only here, for it takes long to import
    except ImportError as error:
        raise ImportError(
            "gradient flow is solved by diffrax, which is not installed: "
            "pip install 'jaxrobust[theory]'"
        ) from error

    times = jnp.asarray(times)
    start = jax.tree.map(jnp.asarray, start)
    if times.ndim != 1 or len(times) < 1:
        raise ValueError(f"times must be (T,), T at least 1, got {times.shape}")
    trees.check_floating("times", times)
    if not isinstance(times, Tracer) and not (
        bool(jnp.all(jnp.diff(times) > 0)) and bool(times[0] >= 0)
    ):
        raise ValueError("times must rise, from 0 or more")
    least = jnp.finfo(jnp.result_type(*jax.tree.leaves(start))).eps * 8
    rtol = max(rtol, float(least))
    found = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: field(y)),
        diffrax.Dopri8(),
        t0=0.0,
        t1=times[-1] * (1 + 1e-12) + 1e-30,
        dt0=None,
        y0=start,
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=rtol * 1e-3),
        max_steps=_MAX_STEPS,
    )
    return found.ys


def _check_strengths(graph: Graph, b: Strengths, modes: Modes) -> None:
    names = {name for name, _ in graph.edges}
    if set(b) != names:
        raise ValueError(f"b must have the edges {sorted(names)}, got {sorted(b)}")
    for name, value in b.items():
        if jnp.shape(value) != (modes.s.shape[1],):
            raise ValueError(
                f"b[{name!r}] must have shape ({modes.s.shape[1]},), one number for each mode, "
                f"got {jnp.shape(value)}"
            )
