"""`python -m experiments.compare_served`: what real kernels took, against a latency table."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.exits import DIFFERENT, exits, make_app

if TYPE_CHECKING:
    from rich.table import Table

    from experiments.served import StepErrors


def compare_served(
    files: Annotated[list[Path], typer.Argument(metavar="FILE.jsonl...", help="Of serve_kernels.")],
    table: Annotated[str, typer.Option(metavar="TABLE", help="A .parquet, or a shipped name.")],
    host_ms: Annotated[
        float | None,
        typer.Option(min=0, help="Added to every step; none: what random steps say."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Keep all numbers there.")
    ] = None,
) -> None:
    """Serve the same traces with a table for a clock, and say how far that is from real kernels.

    Files of the same config repeat each other. The exit code is 0 only if every mean of TTFT,
    TPOT and E2E is off by no more than 5 %, or 1.5 times what two real runs differ by.
    """
    with exits():
        from experiments.blocks_files import check_file
        from experiments.files import complete
        from experiments.served import find_host, group_runs, judge, step_errors
        from experiments.served_log import read_served
        from experiments.terminal import open_screen
        from experiments.trials_command import tabulate_trials

        check_file(json_file, option="--json", suffixes=(".json",))
        screen, kept, good = open_screen(), [], True
        asked_ns = None if host_ms is None else round(host_ms * 1e6)
        for group in group_runs([read_served(file) for file in files]):
            host = find_host(group[0], table, asked_ns)
            report = judge(group, table, host)
            steps = step_errors(group[0], table, host)
            names = ", ".join(run.path.name for run in group)
            screen.print(
                f"{names}, on {group[0].machine.get('device', 'an unknown device')}",
                style="bold cyan",
            )
            screen.print(f"host time: {host.ns / 1e6:.2f} ms a step ({host.said})")
            screen.print("", _tabulate(steps), "", tabulate_trials([report]), "")
            if moving := group[0].moving:
                told = f"! {moving:,} steps copied or swapped blocks first: left out above"
                screen.print(told, style="yellow")
            if len(group) == 1:
                screen.print("! one run: how far two differ is not known", style="yellow")
            kept.append(report | {"step_errors": [asdict(each) for each in steps]})
            good = good and report["passed"]
        if json_file is not None:
            with complete(json_file) as unfinished:
                unfinished.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    raise typer.Exit(0 if good else DIFFERENT)


def _tabulate(found: list[StepErrors]) -> Table:
    from experiments.table_screen import make_grid
    from experiments.words import say_share, say_time

    grid = make_grid("steps", "count", "measured", "by the table", "exposed", "off with host time")
    for each in found:
        grid.add_row(
            f"{each.where}: {each.kind}",
            f"{each.steps:,}",
            *(say_time(ns / 1e6) for ns in (each.measured_ns, each.priced_ns, each.exposed_ns)),
            say_share(each.off),
        )
    return grid


main = make_app(compare_served)

if __name__ == "__main__":
    main()
