"""All that is shown of latency tables, for the screen, the figure and a JSON file."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from calibrate.leave_one_out import leave_one_out
from calibrate.table_compare import Comparison, compare, explain_nothing
from calibrate.table_coverage import Coverage, coverage_of
from calibrate.table_peak import Peak, device_of, share_of_peak
from calibrate.table_schema import TableError
from calibrate.table_seen import summarise
from calibrate.table_spread import spread_of

if TYPE_CHECKING:
    import pandas as pd

    from calibrate.device import Device
    from calibrate.table import Table


@dataclass(frozen=True, slots=True)
class KindReport:
    """One model, GPU count and pair of dtypes in a table."""

    what: str
    table: Table
    coverage: tuple[Coverage, ...]
    spread: pd.DataFrame
    """As `summarise` returns it; so are shares. Empty where points have no deviation."""
    errors: pd.DataFrame
    """As `leave_one_out` returns it."""
    peak: Peak | None
    """None where the device is not known."""
    shares: pd.DataFrame
    """Of the peak."""
    too_fast: int
    """Points that take less time than the peak allows."""


@dataclass(frozen=True, slots=True)
class TableReport:
    table: Table
    kinds: tuple[KindReport, ...]


@dataclass(frozen=True, slots=True)
class Against:
    """The first table and one of the others."""

    first: Table
    second: Table
    found: tuple[Comparison, ...]
    nothing: str | None
    """Why there is nothing to compare."""


def look_at(table: Table, device: Device | None) -> TableReport:
    """`device`: whose peaks to hold times against; None: what the provenance names.

    Raises TableError for a table without attention, which no clock can use.
    """
    device = device or device_of(table)
    kinds = table.kinds()
    if not kinds:
        raise TableError(f"{table.name}: found no points of attention; allowed: a whole model's")
    return TableReport(table, tuple(_look(what, kind, device) for what, kind in kinds.items()))


def _look(what: str, kind: Table, device: Device | None) -> KindReport:
    peak = None if device is None else Peak.of(kind, device)
    shares = list(share_of_peak(kind, peak)) if peak else []
    return KindReport(
        what,
        kind,
        tuple(coverage_of(kind)),
        summarise(spread_of(kind)),
        leave_one_out(kind),
        peak,
        summarise(shares),
        sum(seen.value > 1 for seen in shares),
    )


def hold_against(first: Table, second: Table) -> Against:
    found = tuple(compare(first, second))
    if not found:
        return Against(first, second, found, explain_nothing(first, second))
    if not any(comparison.ratios for comparison in found):
        return Against(first, second, found, "no point of the first lies within the second")
    return Against(first, second, found, None)


def name_apart(tables: Sequence[Table]) -> list[Table]:
    """The tables under the ends of their names that tell them apart."""
    parts = [table.name.split("/") for table in tables]
    depth = 1
    while len({tuple(each[-depth:]) for each in parts}) < len({*map(tuple, parts)}):
        depth += 1
    return [
        replace(table, name="/".join(each[-depth:]))
        for table, each in zip(tables, parts, strict=True)
    ]


def as_json(reports: Iterable[TableReport], pairs: Iterable[Against]) -> str:
    """Times in nanoseconds, shares and errors as fractions, ratios second over first."""
    tables = [
        {
            "name": report.table.name,
            "fingerprint": report.table.fingerprint(),
            "provenance": asdict(report.table.provenance),
            "kinds": [_describe(kind) for kind in report.kinds],
        }
        for report in reports
    ]
    compared = [
        {
            "first": pair.first.name,
            "second": pair.second.name,
            "nothing": pair.nothing,
            "kinds": [
                {
                    "kind": comparison.what,
                    "ratios": _rows(summarise(comparison.ratios)),
                    "outside": dict(comparison.outside),
                    "lacking": list(comparison.lacking),
                }
                for comparison in pair.found
            ],
        }
        for pair in pairs
    ]
    return json.dumps({"tables": tables, "compared": compared}, indent=2, allow_nan=False) + "\n"


def _describe(kind: KindReport) -> dict[str, Any]:
    return {
        "kind": kind.what,
        "device": None if kind.peak is None else kind.peak.device.name,
        "coverage": [each._asdict() for each in kind.coverage],
        "spread": _rows(kind.spread),
        "leave_one_out": _rows(kind.errors),
        "share_of_peak": _rows(kind.shares),
        "faster_than_peak": kind.too_fast,
    }


def _rows(frame: pd.DataFrame) -> list[dict[Hashable, Any]]:
    return frame.to_dict("records")
