"""What the README shows must run, and what it names must be there."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_example_runs_and_its_bounds_enclose_the_optimum(capsys):
    first, more = blocks("python")
    assert len([line for line in first.splitlines() if line.strip()]) <= 13
    names: dict = {}
    exec(compile(first, "README.md", "exec"), names)
    assert "lower" in capsys.readouterr().out
    exec(compile(more, "README.md", "exec"), names)
    bounds = names["linear"].certificate(names["w"], names["x"], names["y"], names["norms"].linf)
    assert 0 < float(bounds.lower) <= float(names["best"].upper_bound)
    assert float(names["best"].margin) <= float(bounds.upper)
    shown = capsys.readouterr().out
    assert "margin" in shown
    assert "reached: " in shown


def test_the_two_setup_commands_are_targets_of_the_makefile():
    commands = [line.split("#")[0].strip() for line in blocks("bash")[0].strip().splitlines()]
    assert commands == ["make demo", "make test"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in commands:
        assert re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_clean_needs_no_folder_and_keeps_environments_and_results(tmp_path: Path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    kept = [".venv/lib/__pycache__", ".venv-newest/__pycache__", "results/run/__pycache__"]
    gone = ["jaxrobust/linear/__pycache__", ".pytest_cache", ".jax_cache"]
    for folder in (*kept, *gone):
        (tmp_path / folder).mkdir(parents=True)
    done = subprocess.run(["make", "clean"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all((tmp_path / folder).exists() for folder in kept)
    assert not any((tmp_path / folder).exists() for folder in gone)


@pytest.mark.parametrize("path", re.findall(r"\]\((?!http)([^)]+)\)", README))
def test_every_file_it_links_to_is_there(path):
    assert (ROOT / path).is_file()


def test_the_tables_name_all_rooms_and_experiments():
    import experiments
    import jaxrobust

    for name in (*jaxrobust.__all__, *experiments.discover()):
        if not name.startswith("__"):
            assert f"| `{name}` |" in README, name
