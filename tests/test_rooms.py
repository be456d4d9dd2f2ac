"""The architecture, enforced: who may import what, what a room shows, what an import costs."""

import ast
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import jaxrobust

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jaxrobust"
MAX_LINES = 400

# The rooms, and which other rooms each may import. Imports go only downward: a room sees rooms that
# stand above it here, and sees their public names only.
MAY_IMPORT: dict[str, set[str]] = {
    "trees": set(),
    "norms": {"trees"},
    "per_example": {"trees"},
    "clustering": {"trees", "per_example"},
    "sampling": {"trees", "per_example"},
    "optim": {"trees", "norms"},
    "contrastive": {"trees"},
    "linear": {"trees", "norms", "optim"},
    "attacks": {"trees", "norms"},
    "gated": {"trees"},
    "mixup": {"trees"},
    "classification": {"trees"},
    "data": {"trees"},
}
MAY_IMPORT["training"] = set(MAY_IMPORT)

# What every room may import, besides the standard library.
CORE_LIBRARIES = {"jax", "numpy", "optax", "chex"}
# Libraries that a user may not have, or that are slow to import: inside functions of these rooms.
LAZY_LIBRARIES = {
    "PIL",
    "diffrax",
    "flax",
    "matplotlib",
    "orbax",
    "scipy",
    "sklearn",
    "tensorflow",
    "tensorflow_datasets",
    "tqdm",
}
LAZY_ROOMS = {"data", "gated", "training"}

# The public part of a NamedTuple, underscores notwithstanding.
NAMED_TUPLE_API = {"_asdict", "_fields", "_make", "_replace"}


class Import(NamedTuple):
    """One imported thing."""

    target: str  # in full: `from jaxrobust.norms import l2` is "jaxrobust.norms.l2"
    alias: str  # the name it is bound to in the file
    bound: str  # what that name stands for: `import a.b` binds "a"
    line: int
    lazy: bool  # in a function, or for type checkers only


# Reading imports ----------------------------------------------------------------------------------


def read_imports(tree: ast.AST, package: str, lazy: bool = False) -> Iterator[Import]:
    """The imports below a node of a file in `package`, dynamic ones with a literal name too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                top = name.name.split(".")[0]
                yield Import(
                    name.name,
                    name.asname or top,
                    name.name if name.asname else top,
                    node.lineno,
                    lazy,
                )
        elif isinstance(node, ast.ImportFrom):
            module = absolute_module(node, package)
            for name in node.names:
                target = f"{module}.{name.name}"
                yield Import(target, name.asname or name.name, target, node.lineno, lazy)
        elif (target := dynamic_import(node)) is not None:
            yield Import(target, "", target, getattr(node, "lineno", 0), lazy)
        yield from read_imports(node, package, lazy or is_lazy(node))


def absolute_module(node: ast.ImportFrom, package: str) -> str:
    """The module after `from`, with leading dots resolved."""
    if not node.level:
        return node.module or ""
    parents = package.split(".")
    base = parents[: len(parents) - (node.level - 1)]
    return ".".join([*base, *([node.module] if node.module else [])])


def dynamic_import(node: ast.AST) -> str | None:
    """The module of `importlib.import_module("...")` or `__import__("...")`, else None."""
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        function = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
        name = function.id if isinstance(function, ast.Name) else function
        if name in ("import_module", "__import__"):
            return str(node.args[0].value)
    return None


def is_lazy(node: ast.AST) -> bool:
    """Whether the code below a node does not run when the file is imported."""
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def is_private(name: str) -> bool:
    """Whether a name has a leading underscore and is not a dunder or part of the NamedTuple API."""
    return name.startswith("_") and not name.startswith("__") and name not in NAMED_TUPLE_API


def private_attributes(tree: ast.AST, imports: list[Import]) -> Iterator[tuple[int, str]]:
    """Uses like `norms._lp`, where `norms` is a name that an import of this library has bound."""
    bound = {item.alias: item.bound for item in imports if item.bound.startswith("jaxrobust")}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            owner = ast.unparse(node.value)
            if owner.split(".")[0] in bound:
                yield node.lineno, f"{owner}.{node.attr}"


# The rules ----------------------------------------------------------------------------------------


def room_violations(path: str, source: str) -> list[str]:
    """What the file `path` (jaxrobust/...) imports against the table."""
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    room = module.split(".")[1]
    if room not in MAY_IMPORT:
        return [f"{path}: {room} is no room of the table"]
    package = module if path.endswith("/__init__.py") else module.rpartition(".")[0]
    tree = ast.parse(source)
    imports = list(read_imports(tree, package))
    found = [(item.line, import_violation(room, item)) for item in imports]
    others = [item for item in imports if not item.bound.startswith(f"jaxrobust.{room}")]
    found += [(line, f"{use} is private") for line, use in private_attributes(tree, others)]
    return [f"{path}:{line}: {problem}" for line, problem in found if problem]


def import_violation(room: str, item: Import) -> str | None:
    """What is wrong with one import in a room, or None."""
    top, *rest = item.target.split(".")
    if top == "jaxrobust":
        if not rest:
            return "import the room that you need, not the package"
        if rest[0] == room:
            return None
        if rest[0] not in MAY_IMPORT[room]:
            return f"{room} may not import {rest[0]}"
    if any(is_private(part) for part in rest):
        return f"{item.target} is private"
    if top in {"jaxrobust"} | CORE_LIBRARIES | sys.stdlib_module_names:
        return None
    if top not in LAZY_LIBRARIES or room not in LAZY_ROOMS:
        return f"{room} may not import {top}"
    return None if item.lazy else f"{top} may only be imported inside functions"


def user_violations(path: str, source: str) -> list[str]:
    """Where a file outside the package uses more than the public API."""
    tree = ast.parse(source)
    imports = list(read_imports(tree, path.rpartition("/")[0].replace("/", ".")))
    found = [
        (item.line, item.target)
        for item in imports
        if item.target.startswith("jaxrobust.") and any(map(is_private, item.target.split(".")))
    ]
    found += private_attributes(tree, imports)
    return [f"{path}:{line}: {use} is private" for line, use in found]


def notebook_source(text: str) -> str:
    """The code of a notebook, without the lines that are IPython's and not Python's."""
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    code = "\n".join("".join(cell["source"]) for cell in cells)
    return re.sub(r"^(\s*)[%!].*$", r"\1pass", code, flags=re.MULTILINE)


# The library as it is -----------------------------------------------------------------------------


def package_files() -> list[Path]:
    """Every Python file of the library."""
    return sorted(PACKAGE.rglob("*.py"))


def rooms_on_disk() -> set[str]:
    """The names directly in `jaxrobust/` that are not the package's own files."""
    names = {path.stem for path in PACKAGE.iterdir() if path.is_dir() or path.suffix == ".py"}
    return names - {"__init__", "__pycache__"}


def fresh(code: str) -> str:
    """What `code` prints in a new process, where warnings are errors."""
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_imports_go_only_downward():
    order = list(MAY_IMPORT)
    for room, above in MAY_IMPORT.items():
        assert above <= set(order[: order.index(room)]), room


def test_rooms_import_what_they_may():
    found = []
    for path in package_files():
        if path != PACKAGE / "__init__.py":  # its imports are the loading of the rooms
            found += room_violations(path.relative_to(ROOT).as_posix(), path.read_text())
    assert not found, "\n".join(found)


@pytest.mark.parametrize("folder", ["experiments", "colab"])
def test_users_see_only_the_public_api(folder):
    found = []
    for path in sorted((ROOT / folder).rglob("*")):
        name = path.relative_to(ROOT).as_posix()
        if path.suffix == ".py":
            found += user_violations(name, path.read_text())
        elif path.suffix == ".ipynb" and ".ipynb_checkpoints" not in path.parts:
            found += user_violations(name, notebook_source(path.read_text()))
    assert not found, "\n".join(found)


def test_files_are_short():
    lengths = {path.name: len(path.read_text().splitlines()) for path in package_files()}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_listed_rooms_are_the_rooms_there():
    assert set(jaxrobust.__all__) == rooms_on_disk()
    assert rooms_on_disk() <= set(MAY_IMPORT)


@pytest.mark.parametrize("name", jaxrobust.__all__)
def test_room_lists_and_documents_its_public_names(name):
    room = importlib.import_module(f"jaxrobust.{name}")
    assert room.__doc__, f"{name} has no docstring"
    public = room.__all__
    assert list(public) == sorted(set(public)), f"{name}.__all__ is not sorted, or repeats a name"
    assert not [item for item in public if item.startswith("_")]
    missing = [item for item in public if not hasattr(room, item)]
    assert not missing, f"in {name}.__all__ but not there: {missing}"
    bare = [item for item in public if not is_documented(getattr(room, item))]
    assert not bare, f"without a docstring in {name}: {bare}"


def is_documented(thing: object) -> bool:
    """Whether a class or function has a docstring that a person wrote; other objects pass."""
    if not (inspect.isroutine(thing) or inspect.isclass(thing)):
        return True
    doc = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
    # NamedTuple and dataclass write one themselves: "Name(field, field)".
    return bool(doc) and not doc.startswith(f"{thing.__name__}(")


def test_version_has_its_entry_in_the_changelog():
    assert f"\n## [{jaxrobust.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


# What importing costs -----------------------------------------------------------------------------


def test_import_loads_nothing_but_the_standard_library():
    # This says more than that flax, TensorFlow, matplotlib, scikit-learn and SciPy are not loaded.
    loaded = fresh("""
        import sys
        before = set(sys.modules)
        import jaxrobust
        print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
    """)
    assert set(loaded.split()) - sys.stdlib_module_names == {"jaxrobust"}


def test_rooms_load_when_touched():
    fresh("""
        import sys
        import jaxrobust
        loaded = lambda: {name for name in sys.modules if name.startswith("jaxrobust.")}
        assert not loaded(), loaded()
        assert set(jaxrobust.__all__) <= set(dir(jaxrobust))
        assert not loaded(), "dir() loads rooms"
        assert jaxrobust.norms is sys.modules["jaxrobust.norms"]
        assert not {"jaxrobust.linear", "jaxrobust.data"} & loaded(), loaded()
    """)


def test_unknown_room_is_named_with_those_there():
    with pytest.raises(AttributeError, match="no attribute 'norm'; its rooms are .*norms"):
        _ = jaxrobust.norm  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("rooms", [(), jaxrobust.__all__], ids=["package", "all rooms"])
def test_import_has_no_side_effects(rooms):
    # XLA reads its flags when the backend starts, so a later flag is obeyed only if it had not.
    libraries = LAZY_LIBRARIES - {"scipy"}  # parts of SciPy come with jax.scipy
    fresh(f"""
        import importlib, os, sys
        import jax
        before = dict(jax.config.values)
        import jaxrobust
        for room in {tuple(rooms)!r}:
            importlib.import_module("jaxrobust." + room)
        loaded = {libraries!r} & set(sys.modules)
        assert not loaded, loaded
        changed = [name for name in before if jax.config.values[name] != before[name]]
        assert not changed, changed
        os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=3"
        assert jax.device_count() == 3, "a JAX backend was started by the import"
    """)


# The checker itself -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "source", "problem"),
    [
        ("norms/_a.py", "from jaxrobust import linear", "norms may not import linear"),
        ("norms/_a.py", "import jaxrobust.linear as x", "norms may not import linear"),
        ("norms/_a.py", "from jaxrobust.optim import steepest_descent", "may not import optim"),
        ("norms/_a.py", "from ..linear import margin", "norms may not import linear"),
        ("norms/deep/_a.py", "from ...linear import margin", "norms may not import linear"),
        ("norms/__init__.py", "from .. import linear", "norms may not import linear"),
        ("norms.py", "def f():\n  from jaxrobust import linear", "norms.py:2: norms may not"),
        ("norms/_a.py", "import importlib as i\ni.import_module('jaxrobust.linear')", "_a.py:2:"),
        ("norms/_a.py", "__import__('flax')", "norms may not import flax"),
        ("norms/_a.py", "import jaxrobust", "not the package"),
        ("norms/_a.py", "from jaxrobust import *", "norms may not import *"),
        ("norms/_a.py", "from jaxrobust.trees._dtypes import promote", "is private"),
        ("norms/_a.py", "from jaxrobust import trees\ntrees._dtypes", "trees._dtypes is private"),
        ("norms/_a.py", "from jax._src import core", "jax._src.core is private"),
        ("norms/_a.py", "import requests", "norms may not import requests"),
        ("norms/_a.py", "def f():\n  import flax", "norms may not import flax"),
        ("data/_a.py", "import tensorflow_datasets as tfds", "only be imported inside functions"),
        ("data/_a.py", "try:\n  import sklearn\nexcept ImportError: pass", "inside functions"),
        ("trees/_a.py", "from jaxrobust import norms", "trees may not import norms"),
        ("extras/_a.py", "", "extras is no room of the table"),
        ("_checks.py", "", "_checks is no room of the table"),
    ],
)
def test_checker_finds_a_bad_import(path, source, problem):
    found = room_violations(f"jaxrobust/{path}", source)
    assert len(found) == 1
    assert problem in found[0]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("norms/_a.py", "from jaxrobust import trees\ntrees.dot\nclass A:\n  _b = 1\nA._b"),
        ("norms/_a.py", "from jaxrobust.trees import dot\nfrom jaxrobust.norms._b import x"),
        ("norms/_a.py", "from . import _b\nfrom ._b import _c\nfrom .. import trees\n_b._d"),
        ("norms/__init__.py", "from ._lp import lp\nfrom jaxrobust.norms import _lp\n_lp._x"),
        ("norms.py", "from __future__ import annotations\nimport math, jax.numpy as jnp, optax"),
        ("data/_a.py", "def f():\n  import sklearn.datasets\n  from PIL import Image"),
        ("data/_a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  import flax"),
        ("training/_a.py", "from jaxrobust import data, optim\noptim.State._replace"),
    ],
)
def test_checker_passes_a_good_import(path, source):
    assert room_violations(f"jaxrobust/{path}", source) == []


@pytest.mark.parametrize(
    "source",
    [
        "from jaxrobust.norms._lp import lp",
        "from jaxrobust.norms import _lp",
        "import jaxrobust.norms._lp",
        "import jaxrobust\njaxrobust.norms._lp.lp(3)",
        "from jaxrobust import norms as n\nn._lp.lp(3)",
    ],
)
def test_checker_finds_private_use(source):
    assert len(user_violations("experiments/a.py", source)) == 1
    cell = {"cell_type": "code", "source": [f"%pip install jax\n{source}\n", "!ls"]}
    notebook = json.dumps({"cells": [{"cell_type": "markdown", "source": ["#"]}, cell]})
    assert len(user_violations("colab/a.ipynb", notebook_source(notebook))) == 1


def test_checker_passes_public_use():
    source = "from jaxrobust import norms\nfrom experiments import _plots\nnorms.l2\n_plots._x"
    assert user_violations("experiments/a.py", source) == []
