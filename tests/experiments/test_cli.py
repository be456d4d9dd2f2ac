"""The command line before anything runs: what there is, and arguments that make no sense."""

import subprocess
import sys
from pathlib import Path

import pytest

import experiments
from experiments.cli import main

REAL = experiments.discover()


# Discovery ---------------------------------------------------------------------------------------


def test_an_experiment_is_described_by_its_file(fakes):
    assert list(fakes) == ["broken", "failing", "needy", "plotless", "ratio", "waiting"]
    ratio = fakes["ratio"]
    assert ratio.question == "Does the ratio reach one?"
    assert ratio.description.startswith("A sequence")
    assert "Presets" not in ratio.description
    assert dict(ratio.presets) == {
        "quick": "1 s on 1 core; three seeds, and a second line",
        "full": "2 s on 1 core; more steps",
    }
    assert ratio.quick_time == "1 s on 1 core"
    assert ratio.in_tour
    assert not fakes["waiting"].in_tour
    assert ratio.config("full").steps == 10_000


def test_reading_order_and_what_is_no_experiment(tmp_path: Path):
    for name in ("zebra", "certificate", "geometry"):
        (tmp_path / f"{name}.py").write_text("class Config: ...\ndef run(config): ...\n")
    (tmp_path / "helper.py").write_text("def run(config): ...\n")
    (tmp_path / "torn.py").write_text("def run(:\n")
    found = experiments.discover(tmp_path, "p")
    assert list(found) == ["geometry", "certificate", "torn", "zebra"]
    assert "not valid Python" in found["torn"].question


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("class Config: ...", "must be a dataclass"),
        ("@dataclass\nclass Config:\n    steps: int = 0", "a field seed or seeds"),
        ("@dataclass\nclass Config:\n    seed: int = 0\n    output: int = 0", "none of"),
    ],
)
def test_a_config_that_cannot_work_is_named(tmp_path, monkeypatch, config: str, message: str):
    name = f"odd_{abs(hash(config))}"
    code = f"from dataclasses import dataclass\n{config}\ndef run(config): ...\n"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TypeError, match=message):
        experiments.Experiment(name, name, "?").load()


@pytest.mark.parametrize("experiment", REAL.values(), ids=list(REAL))
def test_every_real_experiment_says_what_a_reader_needs(experiment: experiments.Experiment):
    assert experiment.question.endswith(("?", "."))
    assert len(experiment.question) <= 100
    assert experiment.quick_time, "the section `Presets:` needs a line `quick: <time>; <what>`"
    assert all(experiment.presets.values()), "every preset needs its expected time and hardware"


# Commands that run nothing -----------------------------------------------------------------------


@pytest.mark.parametrize("argument", ["--help", "list"])
def test_help_and_list_load_neither_jax_nor_matplotlib(argument: str):
    code = (
        "import sys; from experiments.cli import main; code = main([sys.argv[1]]);"
        "heavy = {'jax', 'jaxrobust', 'matplotlib', 'numpy', 'jinja2'} & set(sys.modules);"
        "sys.exit(code or sorted(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, argument], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_names_commands_and_experiments(fakes, capsys):
    assert main(["--help"], fakes) == 0
    shown = capsys.readouterr().out
    for text in (
        "tour",
        "all",
        "list",
        "report",
        "[FOLDER]",
        "--output",
        "--run",
        "--preset",
        "ratio",
    ):
        assert text in shown
    assert "Does the ratio reach one?" in shown


def test_list_is_a_table(fakes, capsys):
    assert main(["list"], fakes) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["experiment", "question", "quick", "time", "presets"]
    (ratio,) = (line for line in lines if line.startswith("ratio"))
    for text in ("Does the ratio reach one?", "1 s on 1 core", "quick, full"):
        assert text in ratio


def test_help_of_an_experiment_shows_its_config(fakes, capsys, cache_dir_restored):
    assert main(["ratio", "--help"], fakes) == 0
    shown = capsys.readouterr().out
    for text in ("Does the ratio reach one?", "--seeds", "How many seeds.", "--preset", "1000"):
        assert text in shown
    assert main(["ratio", "--preset", "full", "--seeds", "3", "--help"], fakes) == 0
    assert "10000" in capsys.readouterr().out  # the defaults are those of the preset


# Arguments that make no sense ---------------------------------------------------------------------


def test_an_unknown_experiment_is_named_with_the_known_ones(fakes, capsys):
    assert main(["raito", "--seeds", "3"], fakes) == 2
    message = capsys.readouterr().err
    assert "argument COMMAND: unknown experiment 'raito'" in message
    assert "Did you mean 'ratio'?" in message
    for name in (*fakes, "all", "list"):
        assert name in message


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["ratio", "--seeds", "0"], "seeds must be at least 1, got 0"),
        (["ratio", "--seeds", "many"], "--seeds"),
        (["ratio", "--sedes", "3"], "--sedes"),
        (["ratio", "--preset", "huge"], "argument --preset"),
        (["all", "--preset", "huge"], "argument --preset: no experiment has 'huge'"),
        (["all", "--sedes", "3"], "argument --sedes: an option of experiments"),
        (["--seeds", "3"], "first: python -m experiments broken --seeds ..."),
        (["--seeds=3"], "first: python -m experiments broken --seeds ..."),
        (["--seeds", "3", "ratio"], "first: python -m experiments ratio --seeds ..."),
        (["needy", "--needed"], "experiment needy: needed: the data are not here"),
        (["all", "--preset", "big"], "experiment needy: needed: the data are not here"),
        (["all", "extra"], "argument FOLDER"),
        (["report", "/no/such/folder"], "argument FOLDER: no results in"),
        (["ratio", "--run", "../up"], "argument --run"),
        (["ratio", "--run", "latest"], "argument --run"),
        (["ratio", "--run", ".."], "argument --run"),
    ],
)
def test_bad_arguments_end_with_2_and_are_named(
    fakes, capsys, tmp_path, monkeypatch, cache_dir_restored, argv, message
):
    monkeypatch.chdir(tmp_path)
    assert main(argv, fakes) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())  # nothing was begun


def test_results_that_cannot_be_read_are_found_before_a_run_is_added_to_them(
    fakes, capsys, tmp_path, cache_dir_restored
):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "old.json").write_text("{}")
    assert main(["ratio", "--output", str(tmp_path), "--run", "run"], fakes) == 2
    assert "argument --run: 'run' cannot be added to" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "run")], fakes) == 2
    assert "argument FOLDER: " in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*.*")] == ["old.json"]


@pytest.mark.parametrize("command", ["tour", "waiting"])
def test_an_unwritable_output_is_found_before_any_work(
    fakes, capsys, tmp_path, cache_dir_restored, command: str
):
    (tmp_path / "file").write_text("not a folder")
    assert main([command, "--output", str(tmp_path / "file" / "results")], fakes) == 2
    captured = capsys.readouterr()
    assert "argument --output: cannot write to" in captured.err
    assert "waiting" not in captured.out
