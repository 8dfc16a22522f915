"""A latency table on a terminal: provenance, coverage, spread, errors, share of the peak."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from calibrate.table_seen import say_point
from experiments.screen import FULL_COLUMNS
from experiments.words import say_share, say_time

if TYPE_CHECKING:
    from calibrate.table import Table
    from experiments.table_report import KindReport, TableReport

_BAD = 0.1
"""An error or a spread of which more is shown in colour."""
_MOST_ROWS = 12
_WORDS = ("range", "left out", "region", "size", "at")


def show_table(report: TableReport, screen: Console, *, several: bool = False) -> None:
    """Print a table of any number of models, made for 80 columns or more; its file's name where
    `several` are shown."""
    table = report.table
    told = table.provenance
    parts: list[RenderableType] = [
        *([Text(f"{table.name}", style="bold cyan")] if several else []),
        Text.assemble((told.source, "bold"), f", on {told.device}"),
        Text(", ".join(filter(None, (told.licence, told.date))), style="dim"),
        *(Text(f"! {note}", style="yellow") for note in (*told.notes, *_list_corrections(table))),
    ]
    for kind in report.kinds:
        parts += ["", Text(kind.what, style="bold cyan"), _list_points(kind)]
        parts += _tell_spread(kind)
        parts += ["", *_list_errors(kind), "", *_list_shares(kind)]
    if screen.width < FULL_COLUMNS:
        for part in parts:
            if isinstance(part, Grid):
                _fold_words(part)
    screen.print(Group(*parts, *([""] if several else [])))


def name_of(operator: str, variant: str) -> str:
    """The two in words; once where the second says nothing new."""
    name = operator if operator.startswith(variant) else f"{operator} {variant}"
    return name.replace("_", " ")


def say_size(row: Any) -> str:
    """The region of a row of `summarise`."""
    return f"{row.region} {row.axis}"


def _list_corrections(table: Table) -> Iterator[str]:
    for operator, factor in table.provenance.factors.items():
        yield f"a step takes {factor:.3g} times what is measured here of {operator}"
    told = table.provenance
    if told.step_ns:
        yield f"and {say_time(told.step_ns / 1e6)} beside its operators"
    if told.chunks_apart:
        yield "several chunks in a step take the sum of their times"
    if told.residuals:
        listed = ", ".join(f"{name} {value:+.1%}" for name, value in told.residuals.items())
        yield f"whole steps kept aside, predicted against measured: {listed}"


def _list_points(kind: KindReport) -> Grid:
    grid = make_grid("measured", "points", "holes", "calls a step", "fastest", "slowest", "range")
    for each in kind.coverage:
        ranges = (
            f"{name.replace('_', ' ')} {low:,}..{high:,}"
            for name, (low, high) in each.ranges.items()
        )
        holes = (
            " + ".join(f"{n:,}" for n in (each.holes, each.beyond))
            if each.beyond
            else (f"{each.holes:,}")
        )
        grid.add_row(
            name_of(each.operator, each.variant),
            f"{each.points:,}",
            holes,
            f"{each.calls:,}",
            *(say_time(ns / 1e6) for ns in (each.fastest_ns, each.slowest_ns)),
            ", ".join(ranges),
        )
    return grid


def _tell_spread(kind: KindReport) -> Iterator[RenderableType]:
    yield ""
    if kind.spread.empty:
        yield Text("Spread of the passes: not in the table.", style="dim")
        return
    grid = make_grid("spread of passes", "size", "points", "median", "P90", "worst", "at")
    rows, left = _worst(kind.spread, "most")
    for row in rows:
        grid.add_row(
            name_of(row.operator, row.variant),
            say_size(row),
            f"{row.points:,}",
            *map(say_share, (row.median, row.p90, row.most)),
            say_point(row.most_at),
            style="yellow" if row.most > _BAD else None,
        )
    yield grid
    yield from left


def _list_errors(kind: KindReport) -> Iterator[RenderableType]:
    """Worst first."""
    grid = make_grid(
        "error between points", "left out", "region", "points", "median", "P90", "bias"
    )
    rows, left = _worst(kind.errors, "p90")
    for row in rows:
        grid.add_row(
            name_of(row.operator, row.variant),
            row.axis.replace("_", " "),
            row.region,
            f"{row.points:,}",
            *map(say_share, (row.median, row.p90, row.bias)),
            style="yellow" if row.p90 > _BAD else None,
        )
    yield grid
    yield from left


def _list_shares(kind: KindReport) -> Iterator[RenderableType]:
    """By operator and size; what is faster than the peak below it."""
    if kind.peak is None:
        name = kind.table.provenance.device
        yield Text(f"Share of the peak: {name} is no shipped device; --device names one.")
        return
    grid = make_grid("share of peak", "size", "points", "median", "most", "at")
    for row in rows_of(kind.shares):
        grid.add_row(
            name_of(row.operator, row.variant),
            say_size(row),
            f"{row.points:,}",
            *map(say_share, (row.median, row.most)),
            Text(say_point(row.most_at) + (" cache-warm?" if row.most > 1 else "")),
            style="yellow" if row.most > 1 else None,
        )
    yield grid
    yield Text(f"The peak is {kind.peak.device.name}'s datasheet, without efficiencies.", "dim")
    if kind.too_fast:
        yield Text(
            f"! points that are faster than the peak allows: {kind.too_fast:,}; their data may have"
            " been in a cache",
            style="yellow",
        )


def _worst(frame: Any, column: str) -> tuple[Iterable[Any], list[Text]]:
    """The rows with the largest values, and what to say of the others."""
    frame = frame.sort_values(column, ascending=False, kind="stable")
    left = len(frame) - _MOST_ROWS
    if left <= 0:
        return rows_of(frame), []
    most = say_share(frame[column].iloc[_MOST_ROWS])
    said = f"{left} more, of {most} and less; --json FILE lists them."
    return rows_of(frame.head(_MOST_ROWS)), [Text(said, style="dim")]


def rows_of(frame: Any) -> Iterable[Any]:
    """Of a pandas frame, as named tuples."""
    rows: Iterable[Any] = frame.itertuples()
    return rows


def _fold_words(grid: Grid) -> None:
    """All of them, so that the last column is not left with a character."""
    for column in grid.columns:
        column.no_wrap = column.justify == "right"


def make_grid(first: str, *others: str) -> Grid:
    """The first column is words, and those that are named so."""
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
    grid.add_column(first, no_wrap=True)
    for name in others:
        grid.add_column(
            name, justify="left" if name in _WORDS else "right", no_wrap=name not in ("range", "at")
        )
    return grid
