"""What every test runs under.

- The CPU shows itself as 8 devices, so that sharding is tested everywhere. Timed on 2 cores, this
  costs the tests that use one device nothing.
- Implicit rank promotion raises, and (in pyproject.toml) warnings are errors.
- Whether x64 is on is put back after every test, and chex counts traces anew in each.
- Compiled programs are let go before the process has as many memory mappings as Linux allows.
- `--one-in=N` leaves one in N cases of every parametrised test.
- Hypothesis draws the same examples in every run, so that a red test stays red;
  `--hypothesis-profile=thorough` draws many more.
"""

import collections
import os
from collections.abc import Iterator
from pathlib import Path

import chex
import hypothesis
import jax
import pytest

NUM_DEVICES = 8
# Every compiled program is mapped into memory in several pieces. Linux allows 65,530 of them to a
# process (vm.max_map_count), and XLA ends the process at the next program that does not fit.
MOST_MAPPINGS = 25_000
MAPPINGS = Path("/proc/self/maps")  # Linux alone has both the file and the limit
# The tests of one file alone may come to 45,000. Counting takes up to 20 ms: not after every test.
TESTS_BETWEEN_COUNTS = 5
TESTS_DONE = pytest.StashKey[int]()
DEVICES_FLAG = "--xla_force_host_platform_device_count"

# XLA reads the flags when the backend starts, that is at the first use of a device and not at
# `import jax`. Both variables also reach the processes that tests start.
if DEVICES_FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES_FLAG}={NUM_DEVICES}"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile(
    "quick", derandomize=True, deadline=None, max_examples=25, print_blob=True
)
hypothesis.settings.register_profile(
    "thorough", hypothesis.settings.get_profile("quick"), max_examples=1000
)
hypothesis.settings.load_profile("quick")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--one-in`."""
    about = "of the cases of every parametrised test, run the first and each Nth after it"
    parser.addoption("--one-in", type=int, default=1, metavar="N", help=about)


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Iterator[None]:
    """Marks every test that uses `data_dir` as `data`, so that `-m data` selects them all.

    And leaves out what `--one-in` says, of those that are left after `-m` and `-k`.
    """
    for item in items:
        if "data_dir" in getattr(item, "fixturenames", ()) and not item.get_closest_marker("data"):
            item.add_marker(pytest.mark.data)
    yield
    every = int(config.getoption("--one-in") or 1)
    cases: collections.Counter[object] = collections.Counter()
    kept, left_out = [], []
    for item in items:
        test = item.parent, getattr(item, "originalname", item.name)
        (left_out if cases[test] % every else kept).append(item)
        cases[test] += 1
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


@pytest.hookimpl(trylast=True)  # after the fixtures of the file
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Lets compiled programs go if there are too many, between two files and every few tests.

    Not after every test, for tests of one file share them.
    """
    done = item.session.stash.setdefault(TESTS_DONE, 0) + 1
    item.session.stash[TESTS_DONE] = done
    last_of_file = nextitem is None or nextitem.path != item.path
    if (last_of_file or done % TESTS_BETWEEN_COUNTS == 0) and num_mappings() > MOST_MAPPINGS:
        jax.clear_caches()


def num_mappings() -> int:
    """Pieces of memory that are mapped into this process; 0 where that is not known."""
    return MAPPINGS.read_bytes().count(b"\n") if MAPPINGS.exists() else 0


@pytest.fixture(autouse=True)
def _x64_restored() -> Iterator[None]:
    """Puts the x64 switch back to what it was before the test."""
    before = jax.config.read("jax_enable_x64")
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def x64(_x64_restored: None) -> None:
    """Turns x64 on for one test."""
    jax.config.update("jax_enable_x64", True)


@pytest.fixture(autouse=True)
def _trace_counter_cleared() -> None:
    """Lets `chex.assert_max_traces` count from zero in every test."""
    chex.clear_trace_counter()


@pytest.fixture
def data_dir(request: pytest.FixtureRequest) -> Path:
    """The folder of the data sets, which has the folders named by the test's `data` marker.

    A test without its data is skipped and says what is missing; a wrong JAXROBUST_DATA is an error.
    """
    if not (value := os.environ.get("JAXROBUST_DATA")):
        pytest.skip("no data sets: JAXROBUST_DATA is not set to the folder that holds them")
    folder = Path(value)
    if not folder.is_dir():
        raise FileNotFoundError(f"JAXROBUST_DATA={value}: no such folder")
    marker = request.node.get_closest_marker("data")
    missing = [name for name in (marker.args if marker else ()) if not (folder / name).exists()]
    if missing:
        pytest.skip(f"no {', '.join(missing)} in JAXROBUST_DATA={value}")
    return folder


@pytest.fixture(autouse=True)
def _data_of_marked_tests(request: pytest.FixtureRequest) -> None:
    """Holds a test that is only marked `data` to the same condition."""
    if request.node.get_closest_marker("data"):
        request.getfixturevalue("data_dir")
