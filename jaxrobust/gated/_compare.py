"""One call: the network simulated, its reduction, a closed form if there is one, a verdict."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.gated._closed_forms import deep, routing_modes, two_layer
from jaxrobust.gated._graph import Graph, Path, find_paths
from jaxrobust.gated._modes import TOLERANCE, Modes, diagonalize, effective_singular_values
from jaxrobust.gated._modes import init_decoupled as decoupled
from jaxrobust.gated._moments import Moments, moments
from jaxrobust.gated._network import Dataset, Params, init_normal, init_orthogonal
from jaxrobust.gated._reduced import Trajectory, solve_reduced, stable_rate
from jaxrobust.gated._simulate import simulate

INITS = ("decoupled", "orthogonal", "normal")
_ALIKE = 1e-6  # up to which singular values of several paths are the same
_SMALL = 0.05  # of the change of the loss: a gap up to this is called small


class Comparison(NamedTuple):
    """Curves over the same T steps, and what to think of them."""

    graph: Graph
    modes: Modes
    simulated: Trajectory  # gradient descent of the whole network
    reduced: Trajectory | None  # gradient flow of the numbers; None if modes are not common
    closed_form: np.ndarray | None  # (T, P, r): strengths of paths; None if none is known
    # The largest distance of losses, simulated and reduced, over the change of the loss; NaN
    # without a reduction. Of steep curves most of it is a shift in time.
    gap: float
    # The largest distance of strengths, reduced and in closed form, over the largest; NaN likewise.
    closed_form_gap: float
    applies: bool  # whether theory describes what was simulated
    reasons: tuple[str, ...]  # why, or why not

    def __str__(self) -> str:
        """The verdict."""
        verdict = "the theory applies" if self.applies else "the theory does not apply"
        return f"{verdict}: {'; '.join(self.reasons)}"


def compare(
    graph: Graph,
    data: Dataset | Moments,
    *,
    key: jax.Array,
    scale: float,
    rate: float,
    num_steps: int,
    record_every: int = 1,
    init: str = "decoupled",
    start: float | None = None,
) -> Comparison:
    r"""Trains a gated network, and says what theory makes of it.

    Args:
      graph: nodes and edges.
      data: examples, with gates, or their moments.
      key: of the initial params.
      scale: of these: the numbers b of every edge on the manifold where the reduction is exact; or
        the gain of orthogonal, or the scale of normal matrices.
      rate: of gradient descent; the time of the theory is ``rate`` times steps.
      num_steps: of it.
      record_every: steps between two records.
      init: ``"decoupled"``, ``"orthogonal"`` or ``"normal"``, see `init_decoupled`,
        `init_orthogonal`, `init_normal`.
      start: numbers that the reduction begins with, all edges alike; by default ``scale`` if
        decoupled, else the root mean square over paths and modes of what the params have, to the
        power 1 / depth.

    Returns:
      :class:`Comparison`.

    Raises:
      ValueError: for an unknown init, and as :func:`simulate` and :func:`moments`. There is a
        warning before the run if ``rate`` is not stable where the reduction ends.
    """
    if init not in INITS:
        raise ValueError(f"init must be one of {INITS}, got {init!r}")
    known = data if isinstance(data, Moments) else moments(graph, data)
    modes = diagonalize(graph, known)
    reasons, paths = [modes.describe(graph)], find_paths(graph)
    params = _initial(init, key, graph, modes, scale)
    options: dict[str, Any] = {"rate": rate, "num_steps": num_steps, "record_every": record_every}
    if modes.residual > TOLERANCE:
        simulated, nan = simulate(graph, params, known, **options), float("nan")
        return Comparison(graph, modes, simulated, None, None, nan, nan, False, tuple(reasons))
    if start is None:
        start = scale if init == "decoupled" else _typical(graph, params, modes, paths)
    b = {name: jnp.full(modes.s.shape[1], start) for name, _ in graph.edges}
    times = np.arange(num_steps // record_every + 1) * record_every * rate
    reduced = solve_reduced(graph, b, modes, times)
    end = {name: values[-1] for name, values in reduced.params.items()}
    simulated = simulate(
        graph, params, known, **options, warn_above=float(stable_rate(graph, end, modes))
    )
    change = float(simulated.losses[0] - jnp.min(simulated.losses))
    gap = float(jnp.max(jnp.abs(simulated.losses - reduced.losses))) / (change or 1.0)
    reasons.append(_told_gap(gap, init))
    solution, told = closed_form(graph, modes, start, times)
    closed_form_gap = float("nan")
    if solution is not None:
        assert reduced.strengths is not None
        found = np.asarray(reduced.strengths)
        closed_form_gap = float(np.abs(found - solution).max() / np.abs(solution).max())
    reasons.append(told)
    return Comparison(
        graph, modes, simulated, reduced, solution, gap, closed_form_gap, gap <= _SMALL,
        tuple(reasons),
    )  # fmt: skip


def _initial(init: str, key: jax.Array, graph: Graph, modes: Modes, scale: float) -> Params:
    if init == "decoupled":
        return decoupled(key, graph, modes, scale)
    return (init_orthogonal if init == "orthogonal" else init_normal)(key, graph, scale)


def _typical(graph: Graph, params: Params, modes: Modes, paths: tuple[Path, ...]) -> float:
    strengths, _ = effective_singular_values(graph, params, modes)
    depth = float(np.mean([len(path.edges) for path in paths]))
    return float(np.sqrt(np.mean(np.asarray(strengths) ** 2)) ** (1 / depth))


def _told_gap(gap: float, init: str) -> str:
    told = f"losses of the network and of the reduction differ by {gap:.1%} of their change"
    if gap <= _SMALL:
        return told
    why = {
        "decoupled": "steps are so long that gradient descent is not gradient flow",
        "orthogonal": "params are not on the manifold of the reduction: smaller ones align first",
        "normal": "params are not on the manifold of the reduction: smaller ones align first",
    }
    return f"{told}, as {why[init]}"


def closed_form(
    graph: Graph, modes: Modes, start: float, times: np.ndarray
) -> tuple[np.ndarray | None, str]:
    """Strengths of all paths ``(T, P, r)`` if all numbers begin alike, and which form it is.

    None where no closed form is known: where paths see each other's inputs, or share edges in other
    ways than those of equal pathways.
    """
    paths = find_paths(graph)
    number, top = len(paths), np.abs(modes.s).max()
    crossed = modes.d * (1 - np.eye(number))[:, :, None]
    if np.abs(crossed).max(initial=0.0) > _ALIKE * np.abs(modes.d).max():
        return None, "no closed form: paths are on together"
    if modes.s.min() < -_ALIKE * top:
        return None, "no closed form from numbers of one sign: some singular values are negative"
    trained = modes.s.max(axis=1) > _ALIKE * top
    counts = {tuple(_shared(path, paths, trained))
              for path, is_on in zip(paths, trained, strict=True) if is_on}  # fmt: skip
    own = np.maximum(np.einsum("ppr->pr", modes.d), 0)
    if counts <= {(1,) * len(count) for count in counts} and trained.all():
        whole = [_race(times, modes.s[k], own[k], start, len(path.edges))
                 for k, path in enumerate(paths)]  # fmt: skip
        return np.stack(whole, axis=1), "closed form: pathways on their own"
    off = max(np.ptp(part[trained], axis=0).max() for part in (modes.s, own))
    if len(counts) > 1 or off > _ALIKE * max(top, own.max()):
        return None, "no closed form: paths share edges, and differ"
    (count,), first = counts, int(np.argmax(trained))
    s, d = modes.s[first], own[first]
    if len(set(count)) == 1:
        one, told = _race(times, s, d, start, len(count), count[0]), "equal pathways"
    elif len(count) == 3 and count[0] == count[2] and (d > 0).all() and (s > 0).all():
        domains = count[1] / count[0]
        parts = [np.prod(routing_modes(times, a / b, domains, count[0], start, b), axis=0)
                 for a, b in zip(s, d, strict=True)]  # fmt: skip
        one, told = np.stack(parts, axis=1), "a shared edge in the middle"
    else:
        return None, "no closed form: edges of a path have different numbers of paths"
    return np.repeat(one[:, None, :], number, axis=1), f"closed form: {told}"


def _shared(path: Path, paths: tuple[Path, ...], trained: np.ndarray) -> list[int]:
    """How many trained paths each edge of a path is on."""
    return [
        sum(edge in other.edges for other, is_on in zip(paths, trained, strict=True) if is_on)
        for edge in path.edges
    ]


def _race(
    times: np.ndarray, s: np.ndarray, d: np.ndarray, start: float, depth: int, count: int = 1
) -> np.ndarray:
    """Strengths ``(T, r)`` of modes of equal numbers: u' = n L u^(2-2/L) (s - d u)."""
    found, u0, t = np.empty((len(times), len(s))), start**depth, count * times
    for mode, (a, b) in enumerate(zip(s, d, strict=True)):
        if b <= 0:  # nothing is seen of it
            found[:, mode] = u0
        elif a <= _ALIKE * b and depth > 1:  # forgotten: u' = -d L u^(3-2/L)
            power = 2 - 2 / depth
            found[:, mode] = (u0**-power + b * depth * power * t) ** (-1 / power)
        elif depth == 1:
            found[:, mode] = a / b + (u0 - a / b) * np.exp(-b * t)
        elif depth == 2:
            found[:, mode] = two_layer(t, a, u0, b)
        else:
            found[:, mode] = deep(t, a / b, u0, depth, b)
    return found
