"""Running experiments one after the other, and keeping whatever is finished."""

import contextlib
import dataclasses
import datetime
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import jax

from experiments import Experiment, Progress
from experiments.report import Result
from experiments.report.plain import write_json
from experiments.report.render import RUN_FILE


@dataclasses.dataclass(frozen=True)
class Plan:
    """One experiment to run; without a config, the preset says which."""

    experiment: Experiment
    preset: str = "quick"
    config: Any = None


class Screen(Protocol):
    """Shows how far the run is."""

    def begin(self, name: str) -> Progress:
        """Announces an experiment; returns the callback for its progress."""
        ...

    def end(self, stored: Mapping[str, Any]) -> None:
        """Shows the result of the experiment begun last."""
        ...


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a run: the stored results in order, and whether it was interrupted."""

    results: Sequence[Mapping[str, Any]]
    interrupted: bool

    @property
    def any_finished(self) -> bool:
        """Whether at least one experiment came to its end."""
        return any(not result["error"] for result in self.results)

    @property
    def exit_code(self) -> int:
        """0; 1 after an error or if a claim that should hold does not; 130 after Ctrl-C."""
        if self.interrupted:
            return 130
        claims = [claim for result in self.results for claim in result["claims"]]
        failing = any(claim["should_hold"] and not claim["holds"] for claim in claims)
        return int(failing or any(result["error"] for result in self.results))


def run_all(plans: Sequence[Plan], folder: Path, command: str, screen: Screen) -> Outcome:
    """Runs experiments one after the other into an existing folder.

    Each result is on disk before the next experiment begins, so neither an error nor Ctrl-C loses
    one. `command` is the command line, for the report.
    """
    started, clock = _now(), time.perf_counter()
    results, interrupted = [], False
    try:
        for plan in plans:
            results.append(run_one(plan, folder, screen.begin(plan.experiment.name)))
            screen.end(results[-1])
            jax.clear_caches()  # a process has a limited number of mappings for programs
    except KeyboardInterrupt:
        interrupted = True
    record = {
        "command": command,
        "started": started,
        "seconds": time.perf_counter() - clock,
        "planned": [plan.experiment.name for plan in plans],
    }
    write_json(folder / RUN_FILE, record)
    return Outcome(results, interrupted)


def run_one(plan: Plan, folder: Path, progress: Progress) -> dict[str, Any]:
    """Runs and stores one experiment; an exception becomes the `error` of what is stored."""
    experiment, config, clock = plan.experiment, plan.config, time.perf_counter()
    result = Result()
    with _x64_restored():
        try:
            module = experiment.load()
            config = experiment.config(plan.preset) if config is None else config
            result = _checked(module.run(config, progress))
            result = _signed(result, plan, config, time.perf_counter() - clock)
            result.save(folder)  # the numbers first: an error in a plot must not lose them
            result = _with_plots(result, module)
        except Exception:
            result = _storable(result, error=traceback.format_exc())
            result = _signed(result, plan, config, time.perf_counter() - clock)
        result.save(folder)
        return result.to_json()


def _checked(result: Any) -> Result:
    """The result, if it is one."""
    if not isinstance(result, Result):
        raise TypeError(f"run must return a Result, got {result!r}")
    return result


def _with_plots(result: Result, module: ModuleType) -> Result:
    """The result with the figures of the experiment's `plot`, if it has one."""
    if not hasattr(module, "plot"):
        return result
    return dataclasses.replace(result, figures={**result.figures, **module.plot(result)})


def _storable(result: Result, error: str) -> Result:
    """As much of the result of a failed experiment as can be stored."""
    result = dataclasses.replace(result, figures={}, error=error)
    try:
        result.to_json()
    except (TypeError, ValueError):  # the error itself may be something JSON cannot hold
        result = dataclasses.replace(result, series={}, tables=(), wall_time={})
    return result


def _signed(result: Result, plan: Plan, config: Any, seconds: float) -> Result:
    """The result with its origin and the time it took."""
    return result.signed(
        plan.experiment.name,
        config,
        question=plan.experiment.question,
        description=plan.experiment.description,
        preset=plan.preset,
        wall_time={"total": seconds, **result.wall_time},
    )


@contextlib.contextmanager
def _x64_restored() -> Iterator[None]:
    """Keeps an experiment that switches to float64 from changing the numbers of the next one."""
    import jax

    before = jax.config.values["jax_enable_x64"]
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


def _now() -> str:
    """The time with its offset from UTC, in ISO 8601."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
