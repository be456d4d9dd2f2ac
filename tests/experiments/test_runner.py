"""Runs: what is kept, what is shown, and how they end."""

import json
import os
import re
import signal
from pathlib import Path

import jax
import pytest

import experiments
from experiments.cli import main


def stored(folder: Path, name: str) -> dict:
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def test_a_run_leaves_json_pictures_and_a_report(run, tmp_path, capsys):
    assert run("ratio", "--seeds", "2") == 0
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == {
        "ratio.json", "ratio-ratio.png", "run.json", "report.html",
    }  # fmt: skip
    result = stored(folder, "ratio")
    assert result["config"] == {"seeds": 2, "steps": 1000}
    assert result["seed"] == 2
    assert result["preset"] == "quick"
    assert [claim["verdict"] for claim in result["claims"]] == ["holds", "not reproduced"]
    assert set(result["wall_time"]) == {"total", "loop"}
    assert result["error"] == ""
    command = stored(folder, "run")["command"]
    assert command.startswith("python -m experiments ratio --seeds 2")
    shown = capsys.readouterr()
    assert str(folder / "report.html") in shown.out
    assert "1/1 ratio" in shown.err
    assert (tmp_path / "latest" / "report.html").samefile(folder / "report.html")


def test_a_preset_is_the_default_that_options_change(run, tmp_path):
    assert run("ratio", "--preset", "full", "--seeds", "5") == 0
    result = stored(tmp_path / "run", "ratio")
    assert result["config"] == {"seeds": 5, "steps": 10_000}
    assert result["preset"] == "full"


def test_options_may_stand_before_the_name(fakes, tmp_path, cache_dir_restored):
    assert main(["--output", str(tmp_path), "ratio", "--run", "x"], fakes) == 0
    assert (tmp_path / "x" / "ratio.json").exists()


def test_runs_without_a_name_do_not_overwrite_each_other(fakes, tmp_path, cache_dir_restored):
    for _ in range(2):
        assert main(["ratio", "--output", str(tmp_path)], fakes) == 0
    runs = [path for path in tmp_path.iterdir() if not path.is_symlink()]
    assert len(runs) == 2
    assert (tmp_path / "latest").resolve() in [path.resolve() for path in runs]


def test_latest_is_a_run_in_which_something_came_to_its_end(fakes, tmp_path, cache_dir_restored):
    def run(*argv: str) -> bool:
        main([*argv, "--output", str(tmp_path), "--run", argv[0]], fakes)
        latest = tmp_path / "latest"
        return latest.exists() and latest.samefile(tmp_path / argv[0])

    assert not run("broken")  # raised
    assert not (tmp_path / "latest").exists()
    assert run("failing")  # a claim that does not hold is a result
    assert not run("waiting")  # interrupted
    assert not run("plotless")
    assert (tmp_path / "latest").samefile(tmp_path / "failing")
    assert (tmp_path / "broken" / "report.html").exists()


def test_a_named_run_is_added_to(run, tmp_path):
    run("ratio")
    run("failing")
    html = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert 'id="ratio"' in html
    assert 'id="failing"' in html


def test_a_claim_that_should_hold_and_does_not_ends_with_1(run, tmp_path, capsys):
    assert run("failing") == 1
    shown = capsys.readouterr().out
    assert "does not hold: The value is one (expected ≥ 1, measured 0.5) [Fake 2022]" in shown
    assert run("failing", "--value", "1.0") == 0


def test_a_failing_experiment_does_not_stop_the_others(run, tmp_path, capsys):
    assert run("tour") == 1
    shown = capsys.readouterr().out
    folder = tmp_path / "run"
    broken = stored(folder, "broken")
    assert "RuntimeError: the experiment <broke> here" in broken["error"]
    assert "RuntimeError: the experiment <broke> here" in shown
    assert broken["config"] == {"seed": 0}
    assert broken["claims"] == []
    assert stored(folder, "ratio")["error"] == ""
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "the experiment &lt;broke&gt; here" in html
    assert not (folder / "waiting.json").exists()  # not part of the tour


def test_numbers_survive_an_error_in_the_plot(run, tmp_path):
    assert run("plotless") == 1
    result = stored(tmp_path / "run", "plotless")
    assert "ZeroDivisionError" in result["error"]
    assert result["series"] == {"ones": [1.0, 1.0]}
    assert result["claims"][0]["holds"]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("return None", "run must return a Result"),
        ("return Result(series={'f': len})", "cannot be stored as JSON"),
        ("raise SyntaxError('odd')", "SyntaxError: odd"),
    ],
)
def test_what_cannot_be_stored_is_an_error_of_its_experiment(
    tmp_path, monkeypatch, cache_dir_restored, body: str, error: str
):
    name = f"bad_{abs(hash(body))}"
    code = (
        "from dataclasses import dataclass\nfrom experiments.report import Result\n"
        f"@dataclass\nclass Config:\n    seed: int = 0\ndef run(config, progress):\n    {body}\n"
    )
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    found = {name: experiments.Experiment(name, name, "?")}
    assert main(["all", "--output", str(tmp_path), "--run", "r"], found) == 1
    assert error in stored(tmp_path / "r", name)["error"]


def test_x64_does_not_leak_into_the_next_experiment(fakes, run, monkeypatch, tmp_path):
    module = fakes["ratio"].load()
    original = module.run

    def run_in_x64(config, progress):
        jax.config.update("jax_enable_x64", True)
        return original(config, progress)

    monkeypatch.setattr(module, "run", run_in_x64)
    jax.config.update("jax_enable_x64", False)
    assert run("ratio") == 0
    assert not jax.config.values["jax_enable_x64"]
    assert stored(tmp_path / "run", "ratio")["versions"]["x64"] is True


def test_ctrl_c_keeps_what_is_finished(run, tmp_path, capsys):
    assert run("all") == 130
    folder = tmp_path / "run"
    assert stored(folder, "ratio")["claims"]
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert 'id="ratio"' in html
    assert "Without a result: waiting" in html
    shown = capsys.readouterr()
    assert "Interrupted" in shown.err
    assert "report.html" in shown.out


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send to one process")
def test_a_real_ctrl_c_in_a_process_of_its_own(start, tmp_path):
    process = start("waiting", "--wait", "600", "--output", str(tmp_path), "--run", "run")
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert str(tmp_path / "run" / "report.html") in out
    assert "Traceback" not in err


def test_report_is_made_again_from_the_files(run, fakes, tmp_path, capsys):
    run("tour")
    path = tmp_path / "run" / "report.html"
    before = path.read_bytes()
    path.unlink()
    assert main(["report", str(tmp_path / "run")], fakes) == 0
    assert path.read_bytes() == before
    assert str(path) in capsys.readouterr().out
    assert main(["report", "--output", str(tmp_path)], fakes) == 0  # the newest run


def test_the_compilation_cache_is_set_by_the_command_line_only(fakes, run, monkeypatch):
    jax.config.update("jax_compilation_cache_dir", None)
    for experiment in fakes.values():
        experiment.load()
    assert jax.config.values["jax_compilation_cache_dir"] is None
    run("ratio")
    assert str(jax.config.values["jax_compilation_cache_dir"]).endswith(".jax_cache")
    jax.config.update("jax_compilation_cache_dir", "/chosen/by/the/user")
    run("ratio")
    assert jax.config.values["jax_compilation_cache_dir"] == "/chosen/by/the/user"


def test_progress_takes_fractions_and_messages(capsys):
    from experiments.report.screen import Bar

    with Bar(2) as screen:
        progress = screen.begin("first")
        progress(0.5, "halfway")
        assert screen._bar.n == 0.5
        progress("seed 3")
        assert "seed 3" in str(screen._bar)
        progress(7.0)
        assert screen._bar.n == 1.0
        screen.begin("second")(-1.0)
        assert screen._bar.n == 1.0
    assert "2/2 second" in capsys.readouterr().err
    experiments.silent(0.5, "nothing happens")


def test_a_log_has_whole_lines_and_no_bar(run, capsys, monkeypatch):
    from experiments.report import screen

    monkeypatch.setattr(screen, "PAUSE", 0.0)
    assert run("tour") == 1
    shown = capsys.readouterr()
    assert "\r" not in shown.out + shown.err
    assert "|" not in shown.err
    begun = [line for line in shown.err.splitlines() if re.match(r"\d/4 ", line)]
    assert begun == [
        "1/4 broken", "2/4 failing", "3/4 plotless", "4/4 ratio", "4/4 ratio, 50 % done: halfway",
    ]  # fmt: skip


def test_long_claims_are_wrapped(capsys):
    from experiments.claims import Claim
    from experiments.report.screen import Lines

    claim = Claim.at_least("A source " * 20, "A statement " * 20, 0.0, 1.0)
    stored = {"experiment": "x", "claims": [claim.to_json()], "wall_time": {}, "error": ""}
    Lines(1).end(stored)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 4
    assert max(map(len, lines)) <= 100
