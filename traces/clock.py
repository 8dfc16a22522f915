"""Times as files write them, as whole nanoseconds: decimal arithmetic, never binary floats."""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache

from traces.ranges import check_positive

UNITS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
"""Nanoseconds of each unit."""
_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d{1,3})?", re.ASCII)
_STAMP = re.compile(
    r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?", re.ASCII
)
STAMP_FORM = "YYYY-MM-DD HH:MM:SS with up to 9 fractional digits"
_LONGEST_NUMBER = 60
_EPOCH = datetime(1970, 1, 1)
_LATEST = 2**63
"""Nanoseconds from 0, either way, that a file's clock may show."""


class Clock:
    """Reads one file's times, numbers of one unit. What is finer than a nanosecond is rounded
    half to even, and counted in `notes`.
    """

    def __init__(self, unit: str, notes: Counter[str]) -> None:
        self._notes = notes
        self._tick_ns: int | Decimal = UNITS[unit]
        self.allowed = f"a number of {_NAMES[unit]}"

    def read(self, value: object) -> int | None:
        """Nanoseconds, of an int or a Decimal; None where the value is no time."""
        number = value if type(value) is int else _finite(value)
        if number is None:
            return None
        exact = number * self._tick_ns
        whole_ns = round(exact)
        if whole_ns != exact:
            self._notes["arrivals rounded to whole nanoseconds"] += 1
        return whole_ns if -_LATEST < whole_ns < _LATEST else None

    def read_text(self, text: str) -> int | None:
        """The same of the text of a number."""
        # Decimal alone would take "1_000", " 7", "nan" and Arabic digits.
        fits = len(text) <= _LONGEST_NUMBER and _NUMBER.fullmatch(text)
        return self.read(Decimal(text)) if fits else None


class TickClock(Clock):
    """A clock of which one unit is so many seconds."""

    def __init__(self, seconds: float, notes: Counter[str]) -> None:
        super().__init__("s", notes)
        check_positive(seconds=seconds)
        # By its shortest text: 0.001 is a thousandth, which no binary float is.
        self._tick_ns = Decimal(repr(seconds)).scaleb(9)
        self.allowed = f"a number, in steps of {seconds} s"


class Calendar(Clock):
    """A clock that shows dates and hours, all with a time zone or all without."""

    def __init__(self, notes: Counter[str]) -> None:
        super().__init__("ns", notes)
        self.allowed = STAMP_FORM
        self._zoned: bool | None = None

    def read(self, value: object) -> int | None:
        return self.read_text(value) if isinstance(value, str) else None

    def read_text(self, text: str) -> int | None:
        parsed = parse_stamp(text)
        if parsed is None:
            return None
        time_ns, zoned = parsed
        if self._zoned is None:
            self._zoned = zoned
        elif zoned is not self._zoned:
            self.allowed = f"{STAMP_FORM}, all with a time zone or all without"
            return None
        return time_ns


def make_clock(unit: str, notes: Counter[str]) -> Clock:
    """For s, ms, us, ns, or datetime."""
    return Calendar(notes) if unit == "datetime" else Clock(unit, notes)


def parse_stamp(stamp: str) -> tuple[int, bool] | None:
    """(nanoseconds since 1970, whether a time zone is given); None for what is no time."""
    match = _STAMP.fullmatch(stamp)
    if match is None:
        return None
    day, hour, digits, zone = match.groups()
    seconds = _seconds(f"{day} {hour}", zone or "")
    if seconds is None:
        return None
    return seconds * 10**9 + int((digits or "0").ljust(9, "0")), zone is not None


@lru_cache(maxsize=1)  # many rows fall into the same second
def _seconds(stamp: str, zone: str) -> int | None:
    try:
        moment = datetime.fromisoformat(stamp + zone)
        if moment.tzinfo is not None:
            moment = moment.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):  # a 13th month; the year 1, east of Greenwich
        return None
    return (moment - _EPOCH) // timedelta(seconds=1)


def _finite(value: object) -> Decimal | None:
    """A Decimal that is no infinity, and no number that takes seconds to write out."""
    if isinstance(value, Decimal) and value.is_finite() and value.adjusted() < 30:
        return value
    return None
