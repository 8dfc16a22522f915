"""Numbers as one would say them; the same on the screen, in sentences and in figures."""

from __future__ import annotations

from typing import Any

_ROUNDING = 1e-9
"""Percent: what sums of floats leave of nothing."""


def say_share(share: float | None) -> str:
    """71 %, 0.4 %, <0.1 % where that would be nothing; a dash where there is no share."""
    if share is None:
        return "-"
    percent = share * 100
    if abs(percent) <= _ROUNDING:
        return "0 %"
    if abs(percent) < 0.05:
        return "<0.1 %" if percent > 0 else ">-0.1 %"
    return f"{percent:.1f} %" if 0.05 <= abs(percent) < 0.95 else f"{percent:.0f} %"


def say_whole(share: float) -> str:
    """99.1 %, 99.97 %: never 100 % where something is missing."""
    for digits in (1, 2, 3, 4):
        said = f"{share * 100:.{digits}f}"
        if float(said) < 100 or share >= 1:
            return f"{said} %"
    return "> 99.9999 %"


def say_time(ms: float | None) -> str:
    """12 ns, 340 µs, 4.2 ms, 13.9 s, 2.5 min; a dash where there is no time."""
    if ms is None:
        return "-"
    if ms == 0:
        return "0"
    for unit, size_ms, from_ms in (("h", 3.6e6, 7.2e6), ("min", 6e4, 1.2e5), ("s", 1e3, 1e3)):
        if abs(ms) >= from_ms:
            return f"{_three_digits(ms / size_ms)} {unit}"
    if abs(ms) < 1e-3:
        return f"{_three_digits(ms * 1e6)} ns"
    return f"{_three_digits(ms)} ms" if abs(ms) >= 1 else f"{_three_digits(ms * 1e3)} µs"


def say_count(count: float) -> str:
    """4.47, 9,218, 8.49 M."""
    if abs(count) >= 1e6:
        return f"{_three_digits(count / 1e6)} M"
    return f"{count:,.0f}" if abs(count) >= 99.95 else _three_digits(count)


def say_source(about: dict[str, Any]) -> str:
    """Where the times come from; begins with *modelled* where no measurement stands behind."""
    source = str(about["latency"])
    if about["modelled"] and not source.startswith("modelled"):
        return f"modelled: {source}"
    return source


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.3g}"
