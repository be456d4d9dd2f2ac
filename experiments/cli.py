"""The command line of `python -m experiments`.

Exit status: 0 if every claim that should hold does; 1 if one does not or an experiment fails; 2 for
arguments that make no sense, found before any folder is made; 130 after Ctrl-C, with what was
finished kept and reported.

The link `results/latest` points to the newest run in which at least one experiment came to its end.
A run that was interrupted before, or whose experiments all raised, keeps its folder but not that
name.
"""

import argparse
import dataclasses
import datetime
import difflib
import os
import re
import shlex
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from experiments import FOLDER, Experiment, discover

PROGRAM = "python -m experiments"
COMMANDS = {
    "tour": "one or two experiments per topic at quick size; what runs without a command",
    "all": "every experiment at quick size",
    "list": "the experiments: question, quick time, presets",
    "report": "[FOLDER]: make report.html of a run again, from its JSON and PNG files; "
    "FOLDER is that of the run (default: results/latest)",
}
OUTPUT_HELP = "folder of the runs, each in a folder of its own (default: results)"
RUN_HELP = "name of the run; one that exists is added to (default: the date and time)"
PRESET_HELP = "size of the run (default: quick)"


class UsageError(Exception):
    """An argument makes no sense; the message names it."""


def main(argv: Sequence[str], experiments: Mapping[str, Experiment] | None = None) -> int:
    """Runs a command line and returns its exit status.

    Args:
      argv: the arguments, without the program's name.
      experiments: name -> experiment; by default the files of this package.
    """
    experiments = discover() if experiments is None else experiments
    try:
        return _dispatch(list(argv), experiments)
    except UsageError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before or after the experiments; the runner handles its own
        print("Interrupted.", file=sys.stderr)
        return 130
    except SystemExit as stop:  # how argparse and tyro end after --help or a bad argument
        return stop.code if isinstance(stop.code, int) else 2


def _dispatch(argv: list[str], experiments: Mapping[str, Experiment]) -> int:
    """Hands the arguments to the command or the experiment they name."""
    known, rest = _arguments(experiments, add_help=False).parse_known_args(argv)
    name = known.command
    if name not in experiments:
        _refuse_options_of_experiments(name, argv, rest, experiments)
    if name not in (*COMMANDS, *experiments):
        raise UsageError(_unknown(name, [*experiments, *COMMANDS]))
    if name in experiments:
        argv.remove(name)
        return _one(experiments[name], argv)
    options = _arguments(experiments).parse_args(argv)
    if options.folder and name != "report":
        raise UsageError(f"argument FOLDER: only report takes a folder, got {options.folder!r}")
    if name == "list":
        print(_listing(experiments))
        return 0
    if name == "report":
        return _report(Path(options.folder or options.output / "latest"))
    chosen = [e for e in experiments.values() if name == "all" or e.in_tour]
    return _several(chosen, options, shlex.join([*PROGRAM.split(), *argv]))


def _refuse_options_of_experiments(
    name: str, argv: Sequence[str], rest: Sequence[str], experiments: Mapping[str, Experiment]
) -> None:
    """Raises if `rest`, what is left over, has an option, and `name` is a command or its value."""
    options = [word for word in rest if word.startswith("-") and word not in ("-h", "--help")]
    # In "raito --seeds 3" the name is wrong, not the option; in "--seeds 3" the name is its value.
    if not options or (name not in COMMANDS and argv.index(name) < argv.index(options[0])):
        return
    example = next((word for word in argv if word in experiments), next(iter(experiments)))
    option = options[0].partition("=")[0]
    raise UsageError(
        f"argument {option}: an option of experiments, perhaps, but none is named. Its name comes "
        f"first: {PROGRAM} {example} {option} ... ({PROGRAM} {example} --help lists its options)"
    )


def _unknown(name: str, known: Sequence[str]) -> str:
    """The message for an experiment or command that does not exist."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"argument COMMAND: unknown experiment {name!r}.{hint} Known: {', '.join(known)}."


def _arguments(experiments: Mapping[str, Experiment], add_help: bool = True):
    """The arguments that all commands share; those of one experiment follow from its Config."""
    names = [_entry(name, e.question) for name, e in experiments.items()]
    commands = [_entry(name, what) for name, what in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        PROGRAM,
        usage=f"{PROGRAM} [COMMAND or EXPERIMENT] [options]\n       {PROGRAM} report [FOLDER]",
        description="Statements of theory held against trained models, with a report to read.",
        epilog="\n".join(
            ["commands:", *commands, "", "experiments (each has its own --help):", *names]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=add_help,
        allow_abbrev=False,
    )
    parser.add_argument("command", nargs="?", default="tour", help=argparse.SUPPRESS)
    parser.add_argument("folder", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument(
        "--output", metavar="FOLDER", type=Path, default=Path("results"), help=OUTPUT_HELP
    )
    parser.add_argument("--run", metavar="NAME", default="", help=RUN_HELP)
    parser.add_argument("--preset", metavar="NAME", help=f"{PRESET_HELP}, for those that have it")
    return parser


def _entry(name: str, what: str) -> str:
    """A name and what it is, for the help; the text stands in a column of its own."""
    indent = " " * 16
    first = f"  {name:14}" if len(name) < 14 else f"  {name}\n{indent}"
    return first + textwrap.fill(what, 82, subsequent_indent=indent)


def _listing(experiments: Mapping[str, Experiment]) -> str:
    """The table of experiments, as wide as the terminal."""
    names = max([len(n) for n in experiments] + [10]) + 2
    times = max([len(e.quick_time) for e in experiments.values()] + [10]) + 2
    width = max(30, shutil.get_terminal_size((110, 24)).columns - names - times - 16)
    lines = [f"{'experiment':{names}}{'question':{width}}{'quick time':{times}}presets"]
    for name, e in experiments.items():
        first, *rest = textwrap.wrap(e.question, width - 2) or [""]
        time, presets = e.quick_time or "?", ", ".join(e.presets)
        lines.append(f"{name:{names}}{first:{width}}{time:{times}}{presets}")
        lines += [" " * names + line for line in rest]
    return "\n".join(lines)


def _several(chosen: Sequence[Experiment], options: argparse.Namespace, command: str) -> int:
    """Runs several experiments, each with the wanted preset if it has it."""
    from experiments.runner import Plan

    wanted = options.preset or "quick"
    known = {preset for e in chosen for preset in e.presets}
    if wanted not in known:
        raise UsageError(
            f"argument --preset: no experiment has {wanted!r}; known are {', '.join(sorted(known))}"
        )
    plans = [Plan(e, wanted if wanted in e.presets else "quick") for e in chosen]
    return _run(plans, options.output, options.run, command)


def _one(experiment: Experiment, argv: list[str]) -> int:
    """Runs one experiment with the options that its Config defines."""
    import tyro

    from experiments.runner import Plan

    peek = argparse.ArgumentParser(f"{PROGRAM} {experiment.name}", add_help=False)
    peek.allow_abbrev = False
    peek.add_argument("--preset", choices=list(experiment.presets), default="quick")
    preset = peek.parse_known_args(argv)[0].preset
    _prepare_jax()
    config = experiment.config(preset)  # its values are the defaults that --help shows
    command = dataclasses.make_dataclass(
        "Command",
        [
            ("config", tyro.conf.OmitArgPrefixes[type(config)], config),
            ("preset", _option(Literal[tuple(experiment.presets)], PRESET_HELP), preset),
            ("output", _option(Path, OUTPUT_HELP, metavar="FOLDER"), Path("results")),
            ("run", _option(str, RUN_HELP, metavar="NAME"), ""),
        ],
    )
    sizes = "\n".join(f"  {name}: {what}" for name, what in experiment.presets.items())
    about = f"{experiment.question}\n\n{experiment.description}\n\nPresets:\n{sizes}"
    prog = f"{PROGRAM} {experiment.name}"
    chosen: Any = tyro.cli(command, args=argv, prog=prog, description=about)
    plan = Plan(experiment, preset, chosen.config)
    return _run([plan], chosen.output, chosen.run, shlex.join([*prog.split(), *argv]))


def _option(kind: Any, text: str, **settings: Any) -> Any:
    """The type of a field together with its help."""
    import tyro

    return Annotated[kind, tyro.conf.arg(help=text, help_behavior_hint="", **settings)]


def _run(plans: Sequence[Any], output: Path, run: str, command: str) -> int:
    """Runs the plans, writes the report, and says where it is."""
    _check_run(output, run)
    _prepare_jax()
    for plan in plans:
        _check_plan(plan)
    folder = _make_folder(output, run)
    from experiments import report, runner
    from experiments.report.screen import screen

    with screen(len(plans)) as shown:
        outcome = runner.run_all(plans, folder, command, shown)
    if outcome.interrupted:
        print("\nInterrupted. What was finished is kept.", file=sys.stderr)
    path = report.write(folder)
    latest = _point_latest_to(folder) if outcome.any_finished else None
    print(f"\nReport: {path}")
    if latest:
        print(f"  also: {latest / path.name}, until the next run")
    return outcome.exit_code


def _check_run(output: Path, run: str) -> None:
    """Raises if the name of the run is none, or if results stand there that cannot be read."""
    if not run:
        return
    if not re.fullmatch(r"[\w.-]+", run) or run.strip(".") in ("", "latest"):
        raise UsageError(f"argument --run: a name of letters, digits, _ - . is needed, got {run!r}")
    from experiments import report

    try:
        if any((output / run).glob("*.json")):
            report.read_run(output / run)  # one report is made of these results and the new ones
    except (OSError, ValueError) as error:
        raise UsageError(f"argument --run: {run!r} cannot be added to: {error}") from error


def _check_plan(plan: Any) -> None:
    """Raises if the configuration says that something it needs is missing, such as a data set."""
    try:
        config = plan.config
        config = plan.experiment.config(plan.preset) if config is None else config
    except Exception:  # an experiment that cannot be imported: the runner reports it, and goes on
        return
    try:
        getattr(config, "check", lambda: None)()
    except (OSError, ValueError) as error:
        raise UsageError(f"experiment {plan.experiment.name}: {error}") from error


def _report(folder: Path) -> int:
    """Makes the report of a run again."""
    from experiments import report

    try:
        print(f"Report: {report.write(folder)}")
    except (OSError, ValueError) as error:
        raise UsageError(f"argument FOLDER: {error}") from error
    return 0


def _make_folder(output: Path, run: str) -> Path:
    """The folder of the run, made and found writable."""
    folder = output / (run or _unused_name(output))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"argument --output: cannot write to {str(folder)!r}: {error}") from error
    return folder


def _unused_name(output: Path) -> str:
    """The date and time, with a number if there is such a run already."""
    now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    names = [now, *(f"{now}_{i}" for i in range(2, 100))]
    return next(name for name in names if not os.path.lexists(output / name))


def _point_latest_to(folder: Path) -> Path | None:
    """Makes the link `latest` next to the run point to it; None where links cannot be made."""
    latest, new = folder.parent / "latest", folder.parent / f".latest.{os.getpid()}"
    try:
        new.symlink_to(folder.name, target_is_directory=True)
        os.replace(new, latest)
    except OSError:  # no symbolic links on this system, or a real folder of that name
        new.unlink(missing_ok=True)
        return None
    return latest


def _prepare_jax() -> None:
    """Keeps compiled programs between runs; a choice of the command line, not of the library."""
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(FOLDER.parent / ".jax_cache"))
