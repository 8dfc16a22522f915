"""`python -m experiments.capacity CONFIG` and `pagesim capacity`: how much load within the SLO?"""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer

from experiments.errors import ConfigError
from experiments.exits import exits, make_app

NOTHING_KEEPS = 1
LEAST_WITHIN = 0.002
"""Rates are said in four digits, and what keeps shall not read like what fails."""
_KEPT_RUNS = "finished runs are kept, and the next search takes them from there"


def read_share(text: str, *, option: str, least: float = 0.0) -> float:
    """A share as one writes it: 0.99 or 99%; above 0, and no less than the least. Raises
    ConfigError."""
    number, percent, rest = text.partition("%")
    try:
        # 99.9 / 100 is not the float 0.999, which 1,998 of 2,000 are.
        share = float(Decimal(number) / (100 if percent else 1))
    except (ValueError, ArithmeticError):
        share = 0.0
    if rest or not 0 < share <= 1 or share < least:
        low = f"{least:g}" if least else "above 0"
        raise ConfigError(f"{option}: found {text!r}; allowed: {low} to 1, as 0.99, or as 99%")
    return share


def capacity(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file, as in configs/.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a value: slo.ttft_ms=500."),
    ] = None,
    replicas: Annotated[
        bool,
        typer.Option("--replicas", help="Instead: how few replicas keep it at the trace's rate?"),
    ] = False,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            help="Requests/s to start from, and with --replicas to serve; else the trace's own.",
        ),
    ] = None,
    share: Annotated[
        str, typer.Option(metavar="SHARE", help="Of the requests, within all limits.")
    ] = "99%",
    within: Annotated[
        str, typer.Option(metavar="SHARE", help="How near the two rates shall come.")
    ] = "3%",
    out: Annotated[Path, typer.Option(help="Where results go, a folder for each run.")] = Path(
        "results"
    ),
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE.json", help="Also write all points there."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Run even what is there already.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print nothing but the result's folder.")
    ] = False,
) -> None:
    """Find the highest rate at which a config keeps its `slo`: a few runs of the same requests,
    faster and slower, until what keeps it and what fails are near each other.

    Exit code 1: nothing that was tried keeps it.
    """
    with exits(stopped=_KEPT_RUNS):
        # Not before: `--help` should not wait for pandas.
        from experiments.blocks_files import check_file
        from experiments.capacity_result import describe
        from experiments.capacity_screen import say_point, show_capacity
        from experiments.capacity_search import Trials, open_case, search_rate, search_replicas
        from experiments.config import load_config
        from experiments.files import complete
        from experiments.progress import watch_aloud
        from experiments.slo import Goal
        from experiments.terminal import open_screen

        check_file(json_file, option="--json", suffixes=(".json",))
        goal = Goal(
            share=read_share(share, option="--share"),
            within=read_share(within, option="--within", least=LEAST_WITHIN),
        )
        case = open_case(load_config(config, overrides=overrides or ()), place=str(config))
        trials = Trials(
            case,
            goal=goal,
            out=out,
            force=force,
            watch=lambda label: watch_aloud(label, quiet=quiet),
            tell=None if quiet else lambda point: typer.echo(say_point(point, goal), err=True),
        )
        found = (search_replicas if replicas else search_rate)(trials, rate=rate)
    with exits(stopped=f"the result is in {found.path}"):
        if json_file is not None:
            text = json.dumps(describe(found), indent=2, allow_nan=False)
            with complete(json_file) as unfinished:
                unfinished.write_text(text + "\n", encoding="utf-8")
        if quiet:
            typer.echo(found.path)
        else:
            show_capacity(found, open_screen())
    if found.kept is None:
        raise typer.Exit(NOTHING_KEEPS)


main = make_app(capacity)

if __name__ == "__main__":
    main()
