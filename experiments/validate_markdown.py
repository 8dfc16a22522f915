"""A validation as lines of Markdown tables, for docs/background/fidelity.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from experiments.fidelity import STATISTICS
from experiments.validate_screen import NAMES, name_statistic, say_percent

_COLUMNS = tuple(map(name_statistic, STATISTICS))
_HEAD = ("case", "times from", "off, %", *_COLUMNS, "each", "KS")
_BOUNDS_HEAD = ("case", "times from", "off, 95 %", *_COLUMNS)


def list_markdown(reports: list[dict[str, Any]]) -> Iterator[str]:
    """Errors of all cases in one table, their bounds in one, then one table for each budget."""
    yield _line(_HEAD)
    yield _rule(_HEAD)
    for first, told, metric in _list_rows(reports):
        yield _line((*first, *_cells(told, metric)))
    bounds = [(*first, *_bounds(told, metric)) for first, told, metric in _list_rows(reports)]
    if any(cell != "-" for row in bounds for cell in row[3:]):
        yield ""
        yield _line(_BOUNDS_HEAD)
        yield _rule(_BOUNDS_HEAD)
        yield from map(_line, bounds)
    for report in reports:
        if "budget" in report:
            yield ""
            yield from _list_budget(report)


def _list_rows(
    reports: list[dict[str, Any]],
) -> Iterator[tuple[tuple[str, str, str], Mapping[str, Any], str]]:
    """(case, times from, metric in words), the comparison, and the metric's key."""
    for report in reports:
        for told, source in _list_comparisons(report):
            for metric, name in NAMES.items():
                if metric in told["metrics"]:
                    yield (report["case"], source, name), told, metric


def _list_comparisons(report: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """(comparison, where its times come from), the honest ones first."""
    kind, fitted = report["latency"]["kind"], report["fitted"]
    if fitted is None:
        yield report, kind
    else:
        yield fitted["unfitted"], f"{kind}, unfitted"
        what = "launch" if "launch_ns" in fitted else "host"
        host = f"{what} {fitted[f'{what}_ns'] / 1e6:.2f} ms"
        yield fitted["second_half"], f"{kind}, {host}, second half"
        yield report, f"{kind}, {host}, all"
    for name, other in report["others"].items():
        if "second_half" in other:
            yield other["second_half"], f"{name}, second half"
            yield other, f"{name}, all"
        else:
            yield other, name


def _list_budget(report: Mapping[str, Any]) -> Iterator[str]:
    shown = [metric for metric in NAMES if metric in report["metrics"]]
    shown = [metric for metric in shown if metric != "ttft_from_queued_ms"]
    statistics = ("mean", "p50", "p99")
    heads = (f"{NAMES[metric]} {name_statistic(name)}" for metric in shown for name in statistics)
    columns = (report["case"], *heads, *(f"{NAMES[metric]} each" for metric in shown))
    yield _line(columns)
    yield _rule(columns)
    for row in ({"effect": "as above", **report}, *report["budget"]):
        if "refused" in row:
            yield _line((row["effect"], "refused", *("" for _ in columns[2:])))
            continue
        cells = [
            say_percent(row["metrics"][metric][name]["error_pct"])
            for metric in shown
            for name in statistics
        ]
        each = (f"{row['per_request_mape_pct'][metric]:.1f}" for metric in shown)
        yield _line((row["effect"], *cells, *each))


def _cells(told: Mapping[str, Any], metric: str) -> Iterator[str]:
    cells = told["metrics"][metric]
    yield from (say_percent(cells[name]["error_pct"]) for name in STATISTICS)
    yield f"{told['per_request_mape_pct'][metric]:.1f}"
    yield f"{cells['ks']:.3f}"


def _bounds(told: Mapping[str, Any], metric: str) -> Iterator[str]:
    for name in STATISTICS:
        low, high = (told["metrics"][metric][name][bound] for bound in ("low_pct", "high_pct"))
        yield "-" if low is None else f"{say_percent(low)} to {say_percent(high)}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(columns: Sequence[str]) -> str:
    return "|---" * len(columns) + "|"
