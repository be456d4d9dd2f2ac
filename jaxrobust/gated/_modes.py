r"""Modes that all paths share, if there are any: when the dynamics fall apart into numbers.

The reduction needs orthogonal :math:`U_v` at outputs and :math:`V_v` at inputs with
:math:`\Sigma^{yx}(p) = U S(p) V^\top` and :math:`\Sigma^x(j, p) = V D(j, p) V^\top`, S and D
diagonal, for all paths at once.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.gated._graph import Graph, Path, find_paths
from jaxrobust.gated._moments import Moments, columns, path_product
from jaxrobust.gated._network import Params, check_params, product

TOLERANCE = 1e-6  # of the residual, up to which the reduction is said to apply
_ZERO = 1e-9  # of the largest: what counts as no link between two nodes


class Modes(NamedTuple):
    """Shared singular vectors and what they leave; r is the smallest size of inputs and outputs."""

    u: dict[str, np.ndarray]  # by output (size, r)
    v: dict[str, np.ndarray]  # by input (size, r)
    s: np.ndarray  # (P, r): of each path, in the order of `find_paths`; any sign
    d: np.ndarray  # (P, P, r): of pairs of paths; 0 where they end in different outputs
    yy: float  # half the squared targets
    # What is not diagonal, as a share of the moments' length: of all, and of each path (P,).
    residual: float
    residuals: np.ndarray

    def describe(self, graph: Graph) -> str:
        """Whether the reduction applies, and where it does worst."""
        told = f"{len(self.s)} paths, {self.s.shape[1]} modes: {self.residual:.1e} is not diagonal"
        if self.residual <= TOLERANCE:
            return f"{told}: the reduction applies"
        worst = find_paths(graph)[int(np.argmax(self.residuals))]
        return f"{told}: the reduction does not apply, least of all to {' '.join(worst.edges)}"


def diagonalize(graph: Graph, moments: Moments, *, seed: int = 0) -> Modes:
    """Modes of the moments, which fit as well as any can if there are common ones.

    An input's vectors are those of a random combination of what must be diagonal there, in which
    singular values that are equal on one path are told apart by the others; those of the other
    nodes follow along the paths. On the host, in float64.

    Args:
      graph: nodes and edges.
      moments: of the data.
      seed: of the combination.

    Returns:
      :class:`Modes`; its residual says whether there are common ones.
    """
    paths = find_paths(graph)
    where = columns(graph, paths)
    yx = [np.asarray(moments.yx[p.target], np.float64)[:, at]
          for p, at in zip(paths, where, strict=True)]  # fmt: skip
    whole = {name: np.asarray(part, np.float64) for name, part in moments.xx.items()}
    xx = lambda j, p: whole[paths[j].target][where[j], where[p]]
    pairs = [(j, p) for j in range(len(paths)) for p in range(len(paths))
             if paths[j].target == paths[p].target]  # fmt: skip
    rank = min(graph.sizes[name] for name in (*graph.inputs, *graph.outputs))
    u, v = _vectors(graph, paths, yx, xx, pairs, np.random.default_rng(seed))
    u, v = ({name: basis[:, :rank] for name, basis in of.items()} for of in (u, v))
    s = np.stack([_diagonal(u[p.target], m, v[p.source]) for p, m in zip(paths, yx, strict=True)])
    d = np.zeros((len(paths), len(paths), rank))
    for j, p in pairs:
        d[j, p] = _diagonal(v[paths[j].source], xx(j, p), v[paths[p].source])
    # What is left if what is diagonal is taken out, of the whole blocks.
    left = np.zeros(len(paths))
    length = np.zeros(len(paths))
    for k, (path, m) in enumerate(zip(paths, yx, strict=True)):
        left[k] += np.sum((m - u[path.target] * s[k] @ v[path.source].T) ** 2)
        length[k] += np.sum(m**2)
    squared_d, length_d = np.zeros(len(paths)), np.zeros(len(paths))
    for j, p in pairs:
        m = xx(j, p)
        inside = v[paths[j].source].T @ m @ v[paths[p].source]
        squared_d[p] += np.sum((inside - np.diag(np.diag(inside))) ** 2)
        squared_d[p] += np.sum((m @ v[paths[p].source] - v[paths[j].source] @ inside) ** 2)
        length_d[p] += np.sum(m**2)
    share = lambda part, of: np.sqrt(part / np.where(of > 0, of, 1))
    residuals = np.maximum(share(left, length), share(squared_d, length_d))
    residual = max(share(left.sum(), length.sum()), share(squared_d.sum(), length_d.sum()))
    return Modes(u, v, s, d, float(moments.yy), float(residual), residuals)


def _diagonal(left: np.ndarray, matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.einsum("ia,ij,ja->a", left, matrix, right)


def _vectors(
    graph: Graph, paths: tuple[Path, ...], yx: Any, xx: Any, pairs: Any, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Bases of outputs and inputs, in one order and with signs that agree."""
    links: dict[tuple[str, str], list[np.ndarray]] = {}

    scale = max(np.linalg.norm(matrix) for matrix in yx)

    def link(one: str, other: str, matrix: np.ndarray) -> None:
        if np.linalg.norm(matrix) <= _ZERO * scale:  # a path that no example trains
            return
        links.setdefault((one, other), []).append(matrix)
        links.setdefault((other, one), []).append(matrix.T)

    for path, matrix in zip(paths, yx, strict=True):
        link(path.target, path.source, matrix)
    for j, p in pairs:
        link(paths[j].source, paths[p].source, xx(j, p))
    found: dict[str, np.ndarray] = {}
    for begin in graph.inputs:  # of a part of the graph that nothing leads to yet
        if begin in found:
            continue
        found[begin] = _eigenvectors(_combined(begin, graph.sizes[begin], links, rng))
        waiting = [begin]
        while waiting:
            node = waiting.pop(0)
            for (one, other), matrices in links.items():
                if other != node or one in found:
                    continue
                own = _combined(one, graph.sizes[one], links, rng)
                found[one] = _followed(matrices, found[node], own)
                waiting.append(one)
    for name in graph.outputs:
        found.setdefault(name, np.eye(graph.sizes[name]))
    return {n: found[n] for n in graph.outputs}, {n: found[n] for n in graph.inputs}


def _combined(node: str, size: int, links: Any, rng: np.random.Generator) -> np.ndarray:
    """A symmetric matrix that the vectors of a node must diagonalise."""
    total = np.zeros((size, size))
    for (one, other), matrices in links.items():
        if one != node:
            continue
        for first in matrices:
            if other == node:
                total += rng.normal() * (first + first.T)
            # Products of two links tell modes of opposite sign apart.
            for second in matrices:
                mixed = first @ second.T
                total += rng.uniform(0.5, 1.5) * (mixed + mixed.T) / len(matrices)
    return total


def _eigenvectors(matrix: np.ndarray) -> np.ndarray:
    """The largest eigenvalue first."""
    _, vectors = np.linalg.eigh(matrix)
    return vectors[:, ::-1]


def _followed(matrices: Iterable[np.ndarray], basis: np.ndarray, own: np.ndarray) -> np.ndarray:
    """The vectors that a basis is mapped to; what it does not reach is filled up."""
    mapped = np.stack([matrix @ basis for matrix in matrices])  # (links, size, modes)
    lengths = np.linalg.norm(mapped, axis=1)
    strongest = lengths.argmax(axis=0)
    size = own.shape[0]
    vectors: list[np.ndarray | None] = []
    top = lengths.max(initial=0.0)
    for mode, k in enumerate(strongest[:size]):
        is_reached = lengths[k, mode] > _ZERO * top
        vectors.append(mapped[k, :, mode] / lengths[k, mode] if is_reached else None)
    vectors += [None] * (size - len(vectors))
    reached = [vector for vector in vectors if vector is not None]
    rest = iter(_complement(reached, own).T)
    whole = np.stack([next(rest) if vector is None else vector for vector in vectors], axis=1)
    # Where there are no common modes, these need not be orthogonal; bases must be.
    left, _, right = np.linalg.svd(whole)
    return left @ right


def _complement(reached: list[np.ndarray], own: np.ndarray) -> np.ndarray:
    """An orthonormal basis of what is orthogonal to vectors, in which ``own`` is diagonal."""
    size = own.shape[0]
    if not reached:
        return _eigenvectors(own)
    basis = np.linalg.svd(np.stack(reached), full_matrices=True)[2][len(reached) :].T
    return basis @ _eigenvectors(basis.T @ own @ basis) if size > len(reached) else basis


def init_decoupled(
    key: jax.Array, graph: Graph, modes: Modes, scale: Any, dtype: Any = float
) -> Params:
    r"""Params on the manifold where the reduction is exact, :math:`W_e = R_t B_e R_s^\top`.

    R are the modes at inputs and outputs and random orthonormal frames at hidden nodes.

    Args:
      key: of the frames.
      graph: nodes and edges.
      modes: of the data.
      scale: of all B, or by edge: a number or ``(r,)``.
      dtype: of the params.

    Raises:
      ValueError: if a hidden node is smaller than the number of modes.
    """
    frames = _frames(key, graph, modes, dtype)
    found = {}
    for name, (source, target) in graph.edges:
        own = scale[name] if isinstance(scale, dict) else scale
        scaled = frames[target] * jnp.broadcast_to(jnp.asarray(own, dtype), (1, modes.s.shape[1]))
        found[name] = product(scaled, frames[source].T)
    return found


def _frames(key: jax.Array, graph: Graph, modes: Modes, dtype: Any) -> dict[str, jax.Array]:
    number = modes.s.shape[1]
    frames = {name: jnp.asarray(basis, dtype) for name, basis in (modes.u | modes.v).items()}
    orthogonal = jax.nn.initializers.orthogonal()
    for own, node in zip(jax.random.split(key, len(graph.nodes)), graph.order, strict=True):
        if node in frames:
            continue
        size = graph.sizes[node]
        if size < number:
            raise ValueError(f"node {node!r} has size {size}, less than the {number} modes")
        frames[node] = orthogonal(own, (size, number), dtype)
    return frames


def effective_singular_values(
    graph: Graph, params: Params, modes: Modes
) -> tuple[jax.Array, jax.Array]:
    r"""How strong every path has each mode, ``(P, r)``: :math:`u_\alpha^\top W_p v_\alpha`.

    With the share of each path's product that is not in them ``(P,)``: 0 on the manifold of
    :func:`init_decoupled`.
    """
    check_params(graph, params)
    strengths, left = [], []
    for path in find_paths(graph):
        whole = path_product(graph, params, path)
        u, v = (jnp.asarray(b, whole.dtype) for b in (modes.u[path.target], modes.v[path.source]))
        strength = jnp.einsum("ia,ij,ja->a", u, whole, v, precision=jax.lax.Precision.HIGHEST)
        rest = jnp.sum((whole - product(u * strength[None, :], v.T)) ** 2)
        square = jnp.sum(whole**2)
        strengths.append(strength)
        left.append(jnp.sqrt(rest / jnp.where(square > 0, square, 1)))
    return jnp.stack(strengths), jnp.stack(left)


def check_applies(modes: Modes, graph: Graph, allow_residual: bool) -> None:
    """Raises where the reduction is wrong, unless that is allowed."""
    if modes.residual > TOLERANCE and not allow_residual:
        raise ValueError(
            f"modes must be common to all paths for the reduction: {modes.describe(graph)}; "
            "allow_residual=True goes on all the same"
        )
