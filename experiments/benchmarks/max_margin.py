"""`linear.max_margin` against CVXPY with CLARABEL: same data, same run, same certified gap of 1e-4.

CLARABEL runs twice, with the tolerance 1e-4 and with its own, finer ones. The faster of the runs
that reach the gap counts, and of it only the solver's time, without CVXPY's compilation; if none
does, the run with CLARABEL's own tolerances counts. All weights are certified in the same way:
their margin against the upper bound that `max_margin` proves.
"""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import timing
from jaxrobust import data, linear, norms
from jaxrobust.norms import Norm

SIZES = ((50, 100), (200, 1000), (500, 2000))
NORMS = {"l1": norms.l1, "l2": norms.l2, "linf": norms.linf, "Fourier-l1": norms.fourier(norms.l1)}
GAP = 1e-4
# At the largest size: at least so many times faster than CLARABEL.
BARS = {"l1": 1.0, "l2": 5.0, "linf": 1.0, "Fourier-l1": 1.0}
INACCURATE = "Solution may be inaccurate"  # how CVXPY's warning begins
COLUMNS = (
    "n x d", "norm", "compile s", "run s", "gap", "CLARABEL s", "tolerance", "its gap",
    "times faster",
)  # fmt: skip


class Rival(NamedTuple):
    """One run of CLARABEL."""

    tolerance: str  # "default" or a number
    seconds: float  # of the solver alone
    gap: float  # certified relative gap
    warned: bool  # whether CVXPY called the solution inaccurate

    @property
    def reached(self) -> bool:
        """Whether the run is an answer to the question asked."""
        return self.gap <= GAP


class Comparison(NamedTuple):
    """Both solvers on one problem."""

    size: tuple[int, int]
    norm: str
    compile_seconds: float
    seconds: float
    gap: float
    rivals: Sequence[Rival]  # the one with default tolerances first

    @property
    def counted(self) -> Rival:
        """The run of CLARABEL to compare with."""
        reached = [rival for rival in self.rivals if rival.reached]
        return min(reached, key=lambda rival: rival.seconds, default=self.rivals[0])

    @property
    def times_faster(self) -> float:
        """The rival's time over ours."""
        return self.counted.seconds / self.seconds

    @property
    def title(self) -> str:
        """Which problem it is."""
        return f"{self.size[0]} x {self.size[1]} {self.norm}"


def main(quick: bool) -> list[str]:
    """Prints the table; returns what missed its bar."""
    found = []
    for size in SIZES[:1] if quick else SIZES:
        for name in NORMS:
            found.append(compare(size, name))
            print(".", end="", flush=True)
    print(f"\nmaximum margin to a certified relative gap of {GAP:.0e}")
    print(timing.table(COLUMNS, [row(comparison) for comparison in found]))
    print("\n".join(notes(found)))
    return [line for comparison in found for line in missed(comparison)]


def compare(size: tuple[int, int], name: str) -> Comparison:
    """Solves one problem in the norm of that name, with both solvers."""
    problem = data.logistic_gaussian(size[0], num_features=size[1], num_test=1)
    x, y = problem.x_train, problem.y_train

    def solve():
        return linear.max_margin(x, y, NORMS[name], tolerance=GAP)

    first, result = timing.once(solve)
    seconds = timing.median(solve, 5)
    rivals = []
    for tolerance in (None, GAP):
        rival_seconds, w, warned = clarabel(name, np.asarray(x), np.asarray(y), tolerance)
        gap = certified_gap(w, x, y, NORMS[name], result)
        label = "default" if tolerance is None else f"{tolerance:.0e}"
        rivals.append(Rival(label, rival_seconds, gap, warned))
    return Comparison(size, name, first - seconds, seconds, float(result.gap), rivals)


def certified_gap(w: np.ndarray, x, y, norm: Norm, result: linear.MaxMargin) -> float:
    """How far the margin of weights is, at most, from the best one."""
    margin = linear.margin(jnp.asarray(w, jnp.float32), x, y, norm)
    return 1 - float(margin) / float(result.upper_bound)


def row(found: Comparison) -> list[Any]:
    """One line of the table."""
    n, d = found.size
    rival = found.counted
    ours = [f"{n} x {d}", found.norm, found.compile_seconds, found.seconds, f"{found.gap:.1e}"]
    return [*ours, rival.seconds, rival.tolerance, f"{rival.gap:.1e}", found.times_faster]


def notes(found: Sequence[Comparison]) -> list[str]:
    """What the table does not say: CLARABEL's runs that do not count, and CVXPY's warnings."""
    short = [
        f"not reached by CLARABEL with {rival.tolerance} tolerance: {comparison.title}, "
        f"gap {rival.gap:.1e} in {rival.seconds:.3g} s"
        f"{' (counted: no run reached it)' if rival is comparison.counted else ' (not counted)'}"
        for comparison in found
        for rival in comparison.rivals
        if not rival.reached
    ]
    runs = [rival for comparison in found for rival in comparison.rivals]
    warned = sum(rival.warned for rival in runs)
    return [*short, f"CVXPY warned of an inaccurate solution in {warned} of {len(runs)} runs."]


def missed(found: Comparison) -> list[str]:
    """The bars that were missed on one problem."""
    lines = []
    if found.gap > GAP:
        lines.append(f"max_margin {found.title}: gap {found.gap:.1e}, bar {GAP}")
    if found.size == SIZES[-1] and found.times_faster < BARS[found.norm]:
        bar = BARS[found.norm]
        lines.append(f"max_margin {found.title}: {found.times_faster:.2f} times faster, bar {bar}")
    return lines


def clarabel(
    name: str, x: np.ndarray, y: np.ndarray, tolerance: float | None
) -> tuple[float, np.ndarray, bool]:
    """Solver seconds and weights of "least norm for margin 1", and whether CVXPY warned."""
    import cvxpy as cp

    signed = np.asarray(x, np.float64) * np.asarray(y, np.float64)[:, None]
    w = cp.Variable(signed.shape[1])
    program = cp.Problem(cp.Minimize(norm_of(w, name)), [signed @ w >= 1])
    names = ("tol_gap_rel", "tol_gap_abs", "tol_feas")
    options = {} if tolerance is None else dict.fromkeys(names, tolerance)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        program.solve(solver=cp.CLARABEL, **options)
    warned = [str(warning.message).startswith(INACCURATE) for warning in caught]
    for warning, expected in zip(caught, warned, strict=True):
        if not expected:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    stats, solution = program.solver_stats, w.value
    if stats is None or stats.solve_time is None or solution is None:
        raise RuntimeError(f"CLARABEL found no solution for {name}: {program.status}")
    return float(stats.solve_time), solution, any(warned)


def norm_of(w: Any, name: str) -> Any:
    """The norm of a CVXPY variable, as an expression."""
    import cvxpy as cp

    if name != "Fourier-l1":
        return {"l1": cp.norm1, "l2": cp.norm2, "linf": cp.norm_inf}[name](w)
    # Real and imaginary part of every independent coefficient, times its multiplicity.
    transform = np.fft.rfft(np.eye(w.size), norm="ortho", axis=0)
    count = np.full(len(transform), 2.0)
    count[0] = 1
    if w.size % 2 == 0:
        count[-1] = 1
    parts = cp.vstack([transform.real @ w, transform.imag @ w])
    return cp.sum(cp.multiply(count, cp.norm(parts, 2, axis=0)))
