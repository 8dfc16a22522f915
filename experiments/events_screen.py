"""Recorded events beside simulated ones, on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_SHOWN = 20


def show_events(events: Mapping[str, Any], screen: Console) -> None:
    """The share that happens in its step, those that do not, and what steps took."""
    share = 100 * events["same"] / events["events"]
    screen.print(
        Text(
            f"\nWith {events['instants']:,} recorded instants as ends of steps, {events['same']:,}"
            f" of {events['events']:,} events ({share:.1f} %) happen to the same requests in the"
            " same step, the same others running."
        )
    )
    screen.print(
        Text(
            f"{events['steps']:,} steps; time settled {events['gaps_by_clock']:,} of"
            f" {events['instants'] - 1:,} gaps between instants, and speaks against"
            f" {events['gaps_contradicted']:,} of the others; answers that contradict each other:"
            f" {events['requests_contradicted']:,}.",
            style="dim",
        )
    )
    if not events["settled"]:
        said = (
            "! the numbers of steps did not settle: another engine or clock than the recorded one?"
        )
        screen.print(Text(said, style="yellow"))
    if events["different"]:
        screen.print(_tabulate_different(events["different"]))
    screen.print(Text("\nTime of a step between these instants"))
    screen.print(_tabulate_steps(events["step_times"]))


def _tabulate_different(different: list[dict[str, Any]]) -> Table:
    table = _table(
        "at, s", "event", "of requests", "steps late", "also simulated", "running differs"
    )
    for each in different[:_SHOWN]:
        others = sorted({*each["simulated"]} - {*each["recorded"]})
        late = (_say_late(steps) for steps in each["late_steps"].values())
        table.add_row(
            f"{each['at_s']:.3f}",
            each["event"],
            " ".join(each["recorded"]),
            " ".join(late),
            " ".join(others) or "-",
            " ".join(each["running_differs"]) or "-",
        )
    if len(different) > _SHOWN:
        table.caption = f"and {len(different) - _SHOWN:,} more: --json FILE has all"
    return table


def _say_late(steps: int | None) -> str:
    return "never" if steps is None else f"{steps:+d}"


def _tabulate_steps(rows: list[dict[str, Any]]) -> Table:
    table = _table("up to decodes", "", "steps", "real, ms", "priced, ms", "off, %")
    for row in rows:
        table.add_row(
            f"{row['most_decodes']:,}",
            "and a chunk" if row["chunks"] else "alone",
            f"{row['steps']:,}",
            f"{row['real_ms']:.2f}",
            f"{row['priced_ms']:.2f}",
            f"{row['error_pct']:+.1f}",
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False, padding=(0, 1)
    )
    for name in columns:
        table.add_column(name, justify="right")
    return table
