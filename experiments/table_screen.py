"""A latency table on a terminal: provenance, points, and errors of interpolation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from calibrate.leave_one_out import leave_one_out
from calibrate.table_schema import OPERATORS
from experiments.words import say_share, say_time

if TYPE_CHECKING:
    from calibrate.table import Table

_BAD = 0.1
"""An error of which more is shown in colour."""


def show_table(table: Table, console: Console) -> None:
    """Print a table of any number of models, made for 100 columns."""
    told = table.provenance
    parts: list[RenderableType] = [
        Text.assemble((told.source, "bold"), f", on {told.device}"),
        Text(", ".join(filter(None, (told.licence, told.date))), style="dim"),
        *(Text(f"! {note}", style="yellow") for note in told.notes),
    ]
    kinds = table.kinds()
    for what, kind in kinds.items():
        parts += ["", Text(what, style="bold cyan"), _list_points(kind), "", _list_errors(kind)]
    console.print(Group(*parts))


def _list_points(table: Table) -> Grid:
    grid = _grid("measured", "points", "calls a step", "fastest", "slowest", "range")
    for operator in OPERATORS:
        for points in table.of(operator):
            ranges = (
                f"{name.replace('_', ' ')} {axis.min():,}..{axis.max():,}"
                for name, axis in points.axes.items()
            )
            name = operator if points.variant == operator else f"{operator} {points.variant}"
            grid.add_row(
                name.replace("_", " "),
                f"{len(points.ns):,}",
                f"{points.calls:,}",
                *(say_time(float(ns) / 1e6) for ns in (points.ns.min(), points.ns.max())),
                ", ".join(ranges),
            )
    return grid


def _list_errors(table: Table) -> Grid:
    """Worst first."""
    grid = _grid("error between points", "left out", "region", "points", "median", "P90", "bias")
    errors: Any = leave_one_out(table).sort_values("p90", ascending=False)
    for row in errors.itertuples():
        grid.add_row(
            f"{row.operator} {row.variant}".replace("_", " "),
            row.axis.replace("_", " "),
            row.region,
            f"{row.points:,}",
            say_share(row.median),
            say_share(row.p90),
            say_share(row.bias),
            style="yellow" if row.p90 > _BAD else None,
        )
    return grid


def _grid(first: str, *others: str) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
    grid.add_column(first, no_wrap=True)
    for name in others:
        words = name in ("range", "left out", "region")
        grid.add_column(name, justify="left" if words else "right")
    return grid
