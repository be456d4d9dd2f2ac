"""Imports of optional packages, with an error that says how to get them."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str, package: str, purpose: str) -> ModuleType:
    """The module, or an ImportError naming the package, what needs it, and the extra to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'{purpose} needs {package}; install it with: pip install "jaxrobust[data]" ({error})'
        ) from error
