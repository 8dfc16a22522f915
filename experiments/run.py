"""`python -m experiments.run CONFIG` and `pagesim run CONFIG`: simulate, show, keep."""

from __future__ import annotations

import sys
from collections.abc import Mapping
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
    """Simulate the run that a config describes, or each of its variants, and keep tables, figures
    and summaries. --set comes before what a variant replaces."""
    with exits():
        # Not before: `--help` should not wait for pandas.
        from experiments.config import check_repeatable, parse_config, read_source
        from experiments.variants import read_variants

        source = read_source(config, overrides=overrides or ())
        description, variants = parse_config(source.values, source=source), read_variants(source)
        if verify:
            for each in (variants or {"": description}).values():
                check_repeatable(each, wanted_by="--verify")
    if variants:
        folder = _compare(description.name, variants, out=out, force=force, quiet=quiet)
    else:
        folder = _run(description, out=out, force=force, quiet=quiet)
    if verify:
        with exits(stopped=f"not verified, but the result is in {folder}"):
            sys.stdout.flush()
            _verify(variants or {"": description})


def _run(config: Config, *, out: Path, force: bool, quiet: bool) -> Path:
    """Simulate and show one config; returns the folder of the result."""
    with exits():
        from experiments.progress import watch_aloud
        from experiments.screen import show
        from experiments.simulate import simulate
        from experiments.terminal import open_screen

        outcome = simulate(config, out=out, force=force, watch=watch_aloud("", quiet=quiet))
    with exits(stopped=f"the result is in {outcome.result.path}"):
        if quiet:
            typer.echo(outcome.result.path)
            return outcome.result.path
        screen = open_screen()
        show(outcome.result.summary, screen, folder=outcome.result.path)
        for note in outcome.result.summary["run"]["notes"]:
            screen.print(f"Note: {note}", style="yellow", highlight=False)
        if outcome.reused:
            screen.print("This run was made before; --force makes it again.", style="yellow")
    return outcome.result.path


def _compare(
    name: str, variants: Mapping[str, Config], *, out: Path, force: bool, quiet: bool
) -> Path:
    """Simulate all variants and show how they compare; returns the folder of the comparison."""
    with exits(stopped="no comparison was written; runs that were finished are kept"):
        from experiments.progress import watch_aloud
        from experiments.study import run_study
        from experiments.study_screen import show_study
        from experiments.terminal import open_screen

        labels = {each: f"{each} ({at} of {len(variants)}):" for at, each in enumerate(variants, 1)}
        study = run_study(
            name,
            variants,
            out=out,
            force=force,
            watch=lambda variant: watch_aloud(labels[variant], quiet=quiet),
        )
    with exits(stopped=f"the comparison is in {study.path}"):
        if quiet:
            typer.echo(study.path)
        else:
            show_study(study, open_screen())
    return study.path


def _verify(configs: Mapping[str, Config]) -> None:
    """Say of each on stderr whether both loops agree; exit code 1 where some do not."""
    from experiments.verify import verify

    different = False
    for name, config in configs.items():
        whose = f"{name}: " if name else ""
        if (depth := config.engine.batches_in_flight) > 1:
            told = f"with {depth} batches in flight both loops decide every step by itself."
            typer.echo(f"{whose}Nothing to verify: {told}", err=True)
            continue
        result = verify(config)
        if result.difference is not None:
            typer.echo(f"{whose}The loops differ: {result.difference}", err=True)
            different = True
            continue
        typer.echo(
            f"{whose}Verified: {result.steps:,} steps run one by one leave behind what"
            f" {result.fast_decisions:,} decisions did.",
            err=True,
        )
    if different:
        raise typer.Exit(DIFFERENT)


main = make_app(run)

if __name__ == "__main__":
    main()
