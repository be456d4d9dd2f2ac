"""Norms by name, for command lines and configuration files."""

import difflib
import math
import re

from jaxrobust.norms._base import Norm
from jaxrobust.norms._fourier import fourier
from jaxrobust.norms._lp import lp
from jaxrobust.norms._schatten import schatten

_NAMED = {
    "l1": lp(1),
    "l2": lp(2),
    "linf": lp(math.inf),
    "spectral": schatten(math.inf),
    "nuclear": schatten(1),
    "fourier-l1": fourier(lp(1)),
    "fourier-l2": fourier(lp(2)),
    "fourier-linf": fourier(lp(math.inf)),
}


_FAMILIES = {"l": lp, "schatten-": schatten, "fourier-l": lambda p: fourier(lp(p))}


def names() -> tuple[str, ...]:
    """The names that :func:`as_norm` knows; ``"l1.5"``, ``"fourier-l3"``, ... work as well."""
    return tuple(_NAMED)


def as_norm(norm: Norm | str, *, argument: str = "norm") -> Norm:
    """Gives back a norm object unchanged, or the norm of that name (case does not matter).

    Args:
      norm: a :class:`Norm`, or one of :func:`names`, or ``"l"``, ``"fourier-l"`` or ``"schatten-"``
        and a number of at least 1.
      argument: what the caller's argument is called, for the message.

    Raises:
      ValueError: if there is no norm of that name. TypeError: if it is neither a norm nor a string.
    """
    if isinstance(norm, Norm):
        return norm
    if not isinstance(norm, str):
        raise TypeError(f"{argument} must be a Norm such as norms.l2 or its name, got {norm!r}")
    key = norm.lower()
    if key in _NAMED:
        return _NAMED[key]
    parsed = re.fullmatch(r"(l|schatten-|fourier-l)(\d+(?:\.\d+)?)", key)
    if parsed and (p := float(parsed[2])) >= 1:
        return _FAMILIES[parsed[1]](p)
    close = difflib.get_close_matches(key, _NAMED, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    known = f"Known: {', '.join(_NAMED)}, and 'l<p>' such as 'l1.5'."
    raise ValueError(f"{argument}: unknown norm {norm!r}{hint} {known}")
