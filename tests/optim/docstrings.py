"""The code that a docstring shows, so that a test can run it as it stands."""

import inspect
import textwrap
from collections.abc import Callable


def example(function: Callable) -> str:
    """The first literal block of a docstring: what is indented behind a text that ends in ::.

    It is to run as it stands; names that it takes for given are the test's to define.
    """
    lines = inspect.getdoc(function).splitlines()  # type: ignore[union-attr]
    opens = lambda line: line.endswith("::") and not line.startswith("..")  # no directive
    start = next(i for i, line in enumerate(lines) if opens(line)) + 1
    stop = next(i for i in range(start, len(lines)) if lines[i] and not lines[i].startswith(" "))
    return textwrap.dedent("\n".join(lines[start:stop])).strip()
