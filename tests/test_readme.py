"""What the README shows must run, and what it names must be there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_example_runs_and_its_bounds_enclose_the_optimum(capsys):
    (code,) = blocks("python")
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    bounds = names["linear"].certificate(names["w"], names["x"], names["y"], names["norms"].linf)
    best = names["linear"].max_margin(names["x"], names["y"], names["norms"].linf)
    assert 0 < float(bounds.lower) <= float(best.upper_bound)
    assert float(best.margin) <= float(bounds.upper)
    assert "margin" in capsys.readouterr().out


def test_the_two_setup_commands_are_targets_of_the_makefile():
    commands = [line.split("#")[0].strip() for line in blocks("bash")[0].strip().splitlines()]
    assert commands == ["make demo", "make test"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in commands:
        assert re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("path", re.findall(r"\]\((?!http)([^)]+)\)", README))
def test_every_file_it_links_to_is_there(path):
    assert (ROOT / path).is_file()


def test_the_tables_name_all_rooms_and_experiments():
    import experiments
    import jaxrobust

    for name in (*jaxrobust.__all__, *experiments.discover()):
        if not name.startswith("__"):
            assert f"| `{name}` |" in README, name
