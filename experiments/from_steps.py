"""`python -m calibrate.from_steps` and `pagesim calibrate from-steps`: a clock from a step log."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.exits import exits, make_app

if TYPE_CHECKING:
    from calibrate.step_fit import Fit
    from calibrate.step_log import StepLog


def from_steps(
    log: Annotated[
        Path, typer.Argument(metavar="STEPS.csv", help="A row for each step of an engine.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Keep the model there.")
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OURS=THEIRS,...",
            help="What the log calls a column: duration_ms=step_time,tokens=batch.",
        ),
    ] = None,
    holdout: Annotated[
        float, typer.Option(min=0.05, max=0.5, help="Share of the steps to try the model on.")
    ] = 0.3,
    seed: Annotated[int, typer.Option(min=0, help="Which steps are held out at random.")] = 0,
    skip: Annotated[
        int, typer.Option(min=0, metavar="N", help="Leave out the first N steps (warm-up).")
    ] = 0,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw predicted and measured.")
    ] = None,
    replay: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN", help="Predict a recorded run, and compare its requests."),
    ] = None,
) -> None:
    """Fit what a step costs to an engine's own step log, and say how far that is off."""
    with exits():
        from calibrate.step_fit import fit_steps
        from experiments.step_file import Options, StepFile, digest
        from experiments.steps_screen import show_fit
        from experiments.terminal import open_screen
        from experiments.validate_screen import show_comparison
        from experiments.validation import judge_clock

        _check_figure(figure)
        steps = _read(log, columns=_pair(columns or ()), skip=skip)
        fit = fit_steps(steps, holdout=holdout, seed=seed)
        options = Options(holdout=holdout, seed=seed, skip=skip)
        model = StepFile.of(fit, steps, sha256=digest(log), options=options)
        predictions = [judge_clock(run, model.build()) for run in replay or ()]
        if figure is not None:
            _draw(fit, steps, figure)
        if out is not None:
            model.write(out)
    screen = open_screen()
    show_fit(fit, steps, screen)
    for report in predictions:
        show_comparison(report, screen)
    if figure is not None:
        screen.print(f"figure: {figure}", highlight=False, markup=False, soft_wrap=True)
    if out is None:
        screen.print("Not kept; --out model.json writes the model.", style="yellow")
    else:
        use = f"use it: latency: {{kind: steps, path: {out}}}"
        screen.print(use, style="bold", highlight=False, markup=False, soft_wrap=True)


def _read(path: Path, *, columns: dict[str, str], skip: int) -> StepLog:
    from rich.console import Console
    from rich.progress import track

    from calibrate.step_log import read_step_log
    from traces.file import TraceFile

    console = Console(stderr=True)

    def watch(rows: Iterable[list[str]]) -> Iterable[list[str]]:
        return track(rows, "reading steps", console=console, transient=True)

    return read_step_log(
        TraceFile(path),
        columns=columns,
        skip=skip,
        watch=watch if console.is_terminal else iter,
    )


def _pair(assignments: Iterable[str]) -> dict[str, str]:
    """Raises ConfigError for what is no OURS=THEIRS, or names a column twice."""
    from experiments.errors import ConfigError

    pairs: dict[str, str] = {}
    for assignment in (each for listed in assignments for each in listed.split(",")):
        ours, equals, theirs = (part.strip() for part in assignment.partition("="))
        if not (ours and equals and theirs) or ours in pairs:
            raise ConfigError(
                f"--columns: found {assignment!r}; allowed: OURS=THEIRS, each of ours once, as in"
                " duration_ms=step_time"
            )
        pairs[ours] = theirs
    return pairs


def _check_figure(path: Path | None) -> None:
    from experiments.errors import ConfigError

    if path is not None and path.suffix != ".png":
        raise ConfigError(f"--figure: found {path}; allowed: a name that ends in .png")


def _draw(fit: Fit, log: StepLog, path: Path) -> None:
    from experiments.files import complete
    from experiments.steps_figure import draw_fit

    with complete(path) as unfinished:
        draw_fit(fit, log, unfinished)


main = make_app(from_steps)

if __name__ == "__main__":
    main()
