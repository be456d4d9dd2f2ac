"""Claims: what a source says, what was measured, and whether the one agrees with the other.

Whether a claim holds is computed from the measurement; no constructor accepts the answer. Every
claim is an interval: it holds if each measured number lies in `[low, high]`. NaN lies in none.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack

import numpy as np


class Expectation(TypedDict, total=False):
    """What every constructor of a claim accepts besides the measurement."""

    should_hold: bool  # False for a statement known not to be reproduced here
    reason: str  # why it does not hold; required with should_hold=False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """One statement held against a measurement. Made by `at_least`, `at_most`, `close`, ...

    Attributes:
      source: where the statement comes from: paper and theorem, or "this library".
      statement: a sentence that a reader understands without the source.
      measured: the smallest and the largest measured number (twice the same for a single one).
      low: the smallest number for which the claim holds, slack included.
      high: the largest number for which the claim holds, slack included.
      expected: what was expected, for the reader ("≥ 0.99").
      tolerance: the slack that `low` and `high` contain, for the reader; empty if there is none.
      count: how many numbers were measured; all of them must lie in the interval.
      parts: for `all_of`, the claims that must hold together; empty otherwise.
      should_hold: False for a statement known not to be reproduced here.
      reason: why the claim does not hold; required if `should_hold` is False and it does not.
    """

    source: str
    statement: str
    measured: tuple[float, float]
    low: float = -math.inf
    high: float = math.inf
    expected: str
    tolerance: str = ""
    count: int = 1
    parts: tuple["Claim", ...] = ()
    should_hold: bool = True
    reason: str = ""

    def __post_init__(self):
        for name in ("source", "statement"):
            if not getattr(self, name).strip():
                raise ValueError(f"{name} of a claim must not be empty, got {self!r}")
        if self.count < 1:
            raise ValueError(f"measured must not be empty: {self.statement!r} would hold vacuously")
        if math.isinf(self.low) and math.isinf(self.high):
            raise ValueError(f"low or high must be finite: any number passes {self.statement!r}")
        if not (self.should_hold or self.holds or self.reason.strip()):
            raise ValueError(f"reason must say why {self.statement!r} is known not to hold")

    @property
    def holds(self) -> bool:
        """Whether every measured number lies in the interval, and every part holds."""
        smallest, largest = self.measured
        return self.low <= smallest and largest <= self.high and all(p.holds for p in self.parts)

    @property
    def verdict(self) -> str:
        """`holds`, `does not hold`; with `should_hold=False`: `holds here`, `not reproduced`."""
        if self.should_hold:
            return "holds" if self.holds else "does not hold"
        return "holds here" if self.holds else "not reproduced"

    @classmethod
    def at_least(
        cls,
        source: str,
        statement: str,
        measured: Any,
        bound: float,
        *,
        tolerance: float = 0.0,
        **expectation: Unpack[Expectation],
    ) -> "Claim":
        """Holds if every number of `measured` is at least `bound - tolerance`.

        Args:
          source: paper and theorem, or "this library".
          statement: a sentence that a reader understands without the source.
          measured: a number or a non-empty array of any shape, of a real dtype.
          bound: the smallest number expected.
          tolerance: absolute slack, such as the rounding error of the measurement.
          **expectation: `should_hold` (default True) and `reason`.
        """
        interval = _interval(measured, bound, math.inf, _checked(tolerance))
        return cls(
            source=source,
            statement=statement,
            expected=f"≥ {_short(bound)}",
            **interval,
            **expectation,
        )

    @classmethod
    def at_most(
        cls,
        source: str,
        statement: str,
        measured: Any,
        bound: float,
        *,
        tolerance: float = 0.0,
        **expectation: Unpack[Expectation],
    ) -> "Claim":
        """Holds if every number of `measured` is at most `bound + tolerance`; see `at_least`."""
        interval = _interval(measured, -math.inf, bound, _checked(tolerance))
        return cls(
            source=source,
            statement=statement,
            expected=f"≤ {_short(bound)}",
            **interval,
            **expectation,
        )

    @classmethod
    def between(
        cls,
        source: str,
        statement: str,
        measured: Any,
        low: float,
        high: float,
        *,
        tolerance: float = 0.0,
        **expectation: Unpack[Expectation],
    ) -> "Claim":
        """Holds if all of `measured` is in `[low, high]` widened by `tolerance`; see `at_least`."""
        if low > high:
            raise ValueError(f"low must not exceed high, got low={low} and high={high}")
        interval = _interval(measured, low, high, _checked(tolerance))
        expected = f"{_short(low)} to {_short(high)}"
        return cls(source=source, statement=statement, expected=expected, **interval, **expectation)

    @classmethod
    def close(
        cls,
        source: str,
        statement: str,
        measured: Any,
        expected: float,
        *,
        atol: float = 0.0,
        rtol: float = 0.0,
        **expectation: Unpack[Expectation],
    ) -> "Claim":
        """Holds if all of `measured` is within `atol + rtol * abs(expected)` of `expected`."""
        slack = _checked(atol, "atol") + _checked(rtol, "rtol") * abs(expected)
        interval = _interval(measured, expected, expected, slack)
        return cls(
            source=source, statement=statement, expected=_short(expected), **interval, **expectation
        )

    @classmethod
    def all_of(
        cls,
        source: str,
        statement: str,
        claims: Sequence["Claim"],
        **expectation: Unpack[Expectation],
    ) -> "Claim":
        """Holds if every one of `claims` does; the report lists them under the statement."""
        parts = tuple(claims)
        if not parts:
            raise ValueError(f"claims must not be empty: {statement!r} would hold vacuously")
        interval = _interval(sum(p.holds for p in parts), len(parts), math.inf, 0.0)
        expected = f"all {len(parts)} parts"
        return cls(
            source=source,
            statement=statement,
            expected=expected,
            parts=parts,
            **interval,
            **expectation,
        )

    def to_json(self) -> dict[str, Any]:
        """The claim as plain JSON values, with `holds` and `verdict` for readers of the file."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain["measured"] = [number_to_json(v) for v in self.measured]
        plain["low"], plain["high"] = number_to_json(self.low), number_to_json(self.high)
        plain["parts"] = [p.to_json() for p in self.parts]
        return {**plain, "holds": self.holds, "verdict": self.verdict}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Claim":
        """The claim that `to_json` wrote; whether it holds is computed again.

        Raises:
          ValueError: if the stored `holds` does not follow from the stored measurement.
        """
        values = {f.name: plain[f.name] for f in dataclasses.fields(cls)}
        smallest, largest = plain["measured"]
        values["measured"] = (number_from_json(smallest), number_from_json(largest))
        values["low"], values["high"] = map(number_from_json, (plain["low"], plain["high"]))
        values["parts"] = tuple(cls.from_json(p) for p in plain["parts"])
        claim = cls(**values)
        if claim.holds != plain["holds"]:
            raise ValueError(f"holds={plain['holds']} does not follow from {claim!r}")
        return claim


def number_to_json(value: float) -> float | str | None:
    """A float as JSON, which has no NaN and no infinity: NaN is null, infinities are text."""
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")


def number_from_json(value: float | str | None) -> float:
    """The inverse of `number_to_json`."""
    return math.nan if value is None else float(value)


def _interval(measured: Any, low: float, high: float, slack: float) -> dict[str, Any]:
    """The fields of a claim that every number of `measured` lies in [low, high] but for slack."""
    numbers = np.asarray(measured)
    if numbers.dtype.kind in "cSUOmM":  # complex numbers and text have no order
        raise TypeError(f"measured must be real numbers, got {measured!r}")
    numbers = numbers.astype(np.float64)
    # The extremes of numbers with a NaN among them are NaN: one NaN is enough not to hold.
    extremes = (numbers.min(), numbers.max()) if numbers.size else (math.nan, math.nan)
    return {
        "measured": (float(extremes[0]), float(extremes[1])),
        "count": int(numbers.size),
        "low": float(low) - slack,
        "high": float(high) + slack,
        "tolerance": _short(slack) if slack else "",
    }


def _checked(tolerance: float, name: str = "tolerance") -> float:
    """The tolerance; a negative one or NaN is a mistake in the experiment, not a failed claim."""
    if not tolerance >= 0:
        raise ValueError(f"{name} must be a number >= 0, got {tolerance}")
    return float(tolerance)


def _short(value: float) -> str:
    """A number as the reader sees it."""
    return f"{float(value):.6g}"
