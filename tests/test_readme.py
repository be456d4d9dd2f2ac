"""What the README shows must run, and what it names must be there."""

import re
import shutil
import subprocess
from pathlib import Path

import equinox as eqx
import haiku as hk
import jax
import optax
import pytest
from flax import linen, nnx

from jaxrobust import per_example

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_example_runs_and_its_bounds_enclose_the_optimum(capsys):
    first, more, *_ = blocks("python")
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


def per_example_block(capsys) -> dict:
    """Runs it after the imports of the first one; its names."""
    first, _, block, *_ = blocks("python")
    lines = first.splitlines()
    names: dict = {}
    exec("\n".join(line for line in lines if line.startswith(("import", "from"))), names)
    exec(compile(block, "README.md", "exec"), names)
    assert names["s"].shape == (*names["sizes"].shape, 256)
    shown = capsys.readouterr().out
    assert "largest gradients" in shown
    assert "agree" in shown
    return names


def test_per_example_runs_after_the_first_example(capsys):
    per_example_block(capsys)


def test_pairs_run_after_the_first_example(capsys):
    first, _, _, _, block, *_ = blocks("python")
    names: dict = {}
    exec(
        "\n".join(line for line in first.splitlines() if line.startswith(("import", "from"))), names
    )
    names["digits"] = names["data"].digits()
    exec(compile(block, "README.md", "exec"), names)
    assert names["gradient"].shape == (32, 32)
    assert "R@1, 5 and 10" in capsys.readouterr().out


@pytest.mark.slow
def test_training_runs_after_it(capsys):
    names = per_example_block(capsys)
    exec(compile(blocks("python")[3], "README.md", "exec"), names)
    assert int(names["state"].step) == 500
    assert names["log"][0]["event"] == "refresh"
    assert names["log"][-1]["loss"] < 0.5 * names["log"][1]["loss"]
    assert "variance: " in capsys.readouterr().out


def linen_model():
    class Model(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(3)(linen.BatchNorm(use_running_average=True)(x))

    return Model()


def nnx_model():
    norm = nnx.BatchNorm(4, use_running_average=True, rngs=nnx.Rngs(0))
    return nnx.Sequential(norm, nnx.Linear(4, 3, rngs=nnx.Rngs(0)))


def haiku_model():
    return hk.without_apply_rng(hk.transform(lambda x: hk.Linear(3)(x)))


@pytest.mark.parametrize(
    ("number", "make", "size"),
    [
        (0, linen_model, 2 * 4 + 4 * 3 + 3),  # scale and shift, but not mean and variance
        (1, nnx_model, 2 * 4 + 4 * 3 + 3),
        (2, lambda: eqx.nn.Linear(4, 3, key=jax.random.key(0)), 4 * 3 + 3),
        (3, haiku_model, 4 * 3 + 3),
    ],
)
def test_the_adapters_take_parameters_only(number, make, size):
    adapter = blocks("python")[5].split("\n\n")[number]
    assert len([line for line in adapter.splitlines() if not line.startswith("#")]) <= 3
    loss = optax.softmax_cross_entropy_with_integer_labels
    x, y = jax.random.normal(jax.random.key(1), (5, 4)), jax.numpy.arange(5) % 3
    names: dict = {"model": make(), "x": x, "key": jax.random.key(0), "loss": loss}
    names |= {"jax": jax, "nnx": nnx, "eqx": eqx}
    exec(compile(adapter, "README.md", "exec"), names)
    assert sum(leaf.size for leaf in jax.tree.leaves(names["params"])) == size
    assert per_example.check(names["loss_fn"])(names["params"], (x, y)).ok


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
