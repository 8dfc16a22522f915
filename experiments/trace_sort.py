"""`pagesim trace sort FILE --out FILE`: rows by arrival."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from experiments.exits import exits, make_app
from traces.clock import UNITS


def sort(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A trace: CSV or JSON lines, also .gz.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="Where the sorted trace goes, FILE itself is allowed; gzipped if it ends in .gz."
        ),
    ],
    column: Annotated[
        str | None, typer.Option(help="The column with the arrival, if the format is your own.")
    ] = None,
    time_unit: Annotated[
        str | None, typer.Option(help="And its unit: s, ms, us, ns or datetime.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace another file.")] = False,
) -> None:
    """Sort a trace's rows by arrival; lines stay as they are, equal arrivals in their order."""
    if (column is None) != (time_unit is None):
        raise typer.BadParameter("--column and --time-unit go together: give both or none")
    units = (*UNITS, "datetime")
    if time_unit is not None and time_unit not in units:
        raise typer.BadParameter(f"--time-unit {time_unit}: allowed {', '.join(units)}")
    with exits():
        from rich.console import Console
        from rich.progress import Progress, TextColumn

        from experiments.errors import ConfigError
        from traces.sorting import sort_trace

        if out.exists() and not force and not (file.exists() and out.samefile(file)):
            raise ConfigError(f"--out {out}: exists; allowed: another name, FILE, or --force")
        errors = Console(stderr=True)
        rows = TextColumn("{task.completed:,} rows read and written")
        with Progress(rows, console=errors, transient=True, disable=not errors.is_terminal) as bar:
            task = bar.add_task("")
            done = sort_trace(
                file,
                out,
                column=column,
                time_unit=time_unit,
                watch=lambda more: bar.advance(task, more),
            )
    said = f"{done.rows:,} rows in {out}, {done.moved:,} of them moved up"
    if done.blank:
        said += f"; {done.blank:,} blank lines dropped"
    typer.echo(f"{said}. Run it with --set trace.path={quote(str(out))}")


main = make_app(sort)
