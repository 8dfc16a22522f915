"""Two latency tables point by point, on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from calibrate.table_seen import say_point, summarise
from experiments.table_screen import make_grid, name_of, rows_of, say_size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as Grid

    from calibrate.table_compare import Comparison
    from experiments.table_report import Against

_FAR = 1.25
"""A factor between the two of which more is shown in colour."""


def show_against(pair: Against, screen: Console) -> None:
    """Made for 100 columns."""
    screen.print(
        Text.assemble((pair.second.name, "bold cyan"), " against ", (pair.first.name, "bold cyan"))
    )
    if pair.nothing is not None:
        screen.print(Text(f"! nothing to compare: {pair.nothing}", style="yellow"))
    for comparison in pair.found:
        screen.print(Text(comparison.what))
        if comparison.ratios:
            screen.print(_tabulate(comparison))
        for operator, count in comparison.outside.items():
            if count:
                said = f"{name_of(operator, operator)}: {count:,} points of the first not compared"
                screen.print(Text(f"! {said}, beyond those of the second", style="yellow"))
        if comparison.lacking:
            screen.print(Text(f"! not in both: {', '.join(comparison.lacking)}", style="yellow"))


def _tabulate(comparison: Comparison) -> Grid:
    grid = make_grid("second / first", "size", "points", "P10", "median", "P90", "worst", "at")
    for row in rows_of(summarise(comparison.ratios)):
        up = row.most * row.least >= 1
        worst, at = (row.most, row.most_at) if up else (row.least, row.least_at)
        grid.add_row(
            name_of(row.operator, row.variant),
            say_size(row),
            f"{row.points:,}",
            *(f"{ratio:.2f}" for ratio in (row.p10, row.median, row.p90, worst)),
            say_point(at),
            style="yellow" if not 1 / _FAR <= row.median <= _FAR else None,
        )
    return grid
