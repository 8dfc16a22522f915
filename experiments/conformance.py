"""`python -m experiments.conformance RUN...`: does pagesim decide what a real engine did?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from experiments.exits import DIFFERENT, exits, make_app


def conformance(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of recorded runs.")],
    loop: Annotated[
        Literal["plain", "fast"] | None,
        typer.Option(help="How the simulator steps; the usual way if not given."),
    ] = None,
) -> None:
    """Replay recorded runs of real engines and compare every decision."""
    with exits():
        from rich.console import Console

        from experiments.comparison import compare
        from experiments.recorded import read_run

        console = Console(highlight=False, soft_wrap=True)
        recorded = [read_run(folder) for folder in runs]
        differ = 0
        for run in recorded:
            verdict = compare(run, loop=loop)
            differ += verdict.difference is not None
            style = "red" if verdict.difference else "green"
            blocks = f"{verdict.identical_block_rows}/{verdict.block_rows}"
            console.print(
                f"{verdict.name:28} {verdict.identical_steps}/{verdict.steps} steps,"
                f" {blocks if verdict.block_rows else 'no'} block rows,"
                f" {verdict.identical_requests}/{verdict.requests} requests identical",
                style=style,
            )
            if verdict.difference:
                console.print(verdict.difference, markup=False)
    raise typer.Exit(DIFFERENT if differ else 0)


main = make_app(conformance)

if __name__ == "__main__":
    main()
