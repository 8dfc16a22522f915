"""`python -m experiments.run CONFIG` and `pagesim run CONFIG`: simulate, show, keep."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.exits import DIFFERENT, exits, make_app

if TYPE_CHECKING:
    from experiments.config import Config


def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file, as in configs/.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a value: engine.block_size=32."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where results go, a folder for each run.")] = Path(
        "results"
    ),
    force: Annotated[
        bool, typer.Option("--force", help="Run even if the result is there already.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Run it again, step by step, and compare everything."),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print nothing but the result's folder.")
    ] = False,
) -> None:
    """Simulate the run that a config describes, and keep tables, figures and summary."""
    with exits():
        # Not before: `--help` should not wait for pandas.
        from rich.console import Console

        from experiments.config import load_config
        from experiments.progress import ProgressBar
        from experiments.screen import show
        from experiments.simulate import Survey, simulate
        from experiments.terminal import open_screen

        errors = Console(stderr=True, quiet=quiet)

        def watch(survey: Survey) -> ProgressBar:
            return ProgressBar(
                errors, requests=survey.requests, last_arrival_ns=survey.last_arrival_ns
            )

        description = load_config(config, overrides=overrides or ())
        outcome = simulate(
            description,
            out=out,
            force=force,
            watch=watch if errors.is_terminal and not quiet else None,
        )
    with exits(stopped=f"the result is in {outcome.result.path}"):
        if quiet:
            typer.echo(outcome.result.path)
        else:
            screen = open_screen()
            show(outcome.result.summary, screen, folder=outcome.result.path)
            for note in outcome.result.summary["run"]["notes"]:
                screen.print(f"Note: {note}", style="yellow", highlight=False)
            if outcome.reused:
                screen.print("This run was made before; --force makes it again.", style="yellow")
    if verify:
        with exits(stopped=f"not verified, but the result is in {outcome.result.path}"):
            sys.stdout.flush()
            _verify(description)


def _verify(config: Config) -> None:
    """Say on stderr whether both loops agree; exit code 1 where they do not."""
    if config.engine.scheduling_policy == "priority":
        typer.echo("Nothing to verify: priority is always run step by step.", err=True)
        return
    from experiments.verify import verify

    result = verify(config)
    if result.difference is not None:
        typer.echo(f"The loops differ: {result.difference}", err=True)
        raise typer.Exit(DIFFERENT)
    typer.echo(
        f"Verified: {result.steps:,} steps run one by one leave behind what"
        f" {result.fast_decisions:,} decisions did.",
        err=True,
    )


main = make_app(run)

if __name__ == "__main__":
    main()
