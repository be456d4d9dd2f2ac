"""What is stored is plain JSON, whole or not there, and says which commit it comes from."""

import json
import math
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.report import Table, plain, provenance


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.array(True), True),
        (jnp.ones((2, 1), jnp.bfloat16), [[1.0], [1.0]]),
        (np.array([np.nan, -np.inf]), [None, "-Infinity"]),
        ({1: (2, None), "p": Path("a/b")}, {"1": [2, None], "p": "a/b"}),
        (Table("t", ["a"], []), {"title": "t", "columns": ["a"], "rows": [], "caption": ""}),
        ([math.nan, [math.inf]], [None, ["Infinity"]]),
    ],
)
def test_values_become_plain(value, expected):
    found = plain.to_plain(value)
    assert found == expected
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    "value",
    [object(), np.array(1j), jax.random.key(0), np.ones, {"x": [{"y": {1.5, "z"}, "w": len}]}],
)
def test_values_without_a_plain_form_are_refused_by_name(value):
    with pytest.raises(TypeError, match=r"loss.*(stored|complex)"):
        plain.to_plain(value, "loss")


def test_numbers_of_a_list_stand_on_one_line_and_text_is_untouched(tmp_path: Path):
    value = {"x": [1, 2.5, None], "t": "a [\n 1,\n 2 ] b", "n": [[1], [2]]}
    plain.write_json(tmp_path / "v.json", value)
    text = (tmp_path / "v.json").read_text()
    assert json.loads(text) == value
    assert '"x": [ 1, 2.5, null ]' in text


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.json"
    plain.write_atomically(path, b"old")

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(plain.os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        plain.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_commit_is_that_of_the_checkout_only(tmp_path: Path):
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert provenance.commit(tmp_path) is None
    git("init", "--quiet")
    assert provenance.commit(tmp_path) is None  # nothing was committed yet
    git("commit", "--quiet", "--allow-empty", "-m", "first")
    assert provenance.commit(tmp_path) == {"id": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "installed").mkdir()
    assert provenance.commit(tmp_path / "installed") is None
    (tmp_path / "file").write_text("x")
    assert provenance.commit(tmp_path) == {"id": git("rev-parse", "HEAD"), "dirty": True}
