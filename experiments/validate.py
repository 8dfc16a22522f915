"""`python -m experiments.validate` and `pagesim validate`: predictions beside real engine runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.case_clock import KINDS, Choice
from experiments.exits import exits, make_app

if TYPE_CHECKING:
    from collections.abc import Sequence

    from experiments.validation import Validation

_NS_PER_MS = 1e6


def validate(
    cases: Annotated[
        list[Path],
        typer.Argument(
            metavar="CASE...",
            help="Folders of recorded runs: engine.json or options.json, and what requests took.",
        ),
    ],
    latency: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help=f"Where step times come from: {', '.join(KINDS)}; else the case's profile, or its"
            " own steps.",
        ),
    ] = None,
    steps_of: Annotated[
        Path | None, typer.Option(metavar="CASE", help="Fit a step model on this case's steps.")
    ] = None,
    tables: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The unpacked wheel of aiconfigurator-core."),
    ] = None,
    host_ms: Annotated[
        float | None,
        typer.Option(min=0, max=1000, help="Host time of every step, instead of what is known."),
    ] = None,
    fitting: Annotated[
        bool,
        typer.Option(
            "--fit-host", help="Fit it on the first half of the requests; the second half judges."
        ),
    ] = False,
    launching: Annotated[
        bool,
        typer.Option(
            "--fit-launch",
            help="Fit what steps take longer that no graph replays, likewise.",
        ),
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Replace a value: engine.enable_prefix_caching=false"
        ),
    ] = None,
    budget: Annotated[
        bool, typer.Option("--budget", help="Predict again with one effect off at a time.")
    ] = False,
    events: Annotated[
        bool,
        typer.Option(
            "--events", help="Compare who is scheduled, first and last in every recorded instant."
        ),
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Keep all numbers there.")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print tables of errors in Markdown, and no more.")
    ] = False,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Draw figures there.")] = None,
) -> None:
    """Replay what a real engine was sent, and show how far off every latency is."""
    with exits():
        from experiments.terminal import count_aloud, open_screen
        from experiments.validate_markdown import list_markdown
        from experiments.validate_screen import show_validation
        from experiments.validation import Asked, validate_case

        choice = _choose(
            latency,
            steps_of,
            tables,
            host_ms,
            fitting=fitting,
            launching=launching,
            overrides=overrides or (),
        )
        asked = Asked(fitting=fitting or launching, budget=budget, events=events)
        done = [
            validate_case(case, choice, asked)
            for case in count_aloud(cases, "predicting", total=len(cases))
        ]
        figures = [] if out is None else _draw(done, out)
        if json_file is not None:
            _write([each.report for each in done], json_file)
    if markdown:
        for line in list_markdown([each.report for each in done]):
            typer.echo(line)
        return
    screen = open_screen()
    for each in done:
        show_validation(each.report, screen)
    for path in (*figures, *([json_file] if json_file else ())):
        screen.print(f"written: {path}", highlight=False, markup=False, soft_wrap=True)


def _choose(
    latency: str | None,
    steps_of: Path | None,
    tables: Path | None,
    host_ms: float | None,
    *,
    fitting: bool,
    launching: bool,
    overrides: Sequence[str],
) -> Choice:
    from calibrate.naming import did_you_mean
    from experiments.errors import ConfigError

    kind = next((each for each in KINDS if each == latency), None)
    if latency is not None and kind is None:
        known: dict[str, str] = {name: name for name in KINDS}
        raise ConfigError(f"--latency: found {latency!r}; {did_you_mean(latency, known)}")
    if fitting and launching:
        raise ConfigError("--fit-launch: found it beside --fit-host; allowed: one of them")
    if fitting and (host_ms is not None or kind == "replay"):
        beside = "--host-ms" if host_ms is not None else "--latency replay"
        raise ConfigError(f"--fit-host: found it beside {beside}; allowed: one of them")
    if tables is not None and kind != "aiconfigurator":
        raise ConfigError("--tables: allowed: with --latency aiconfigurator")
    return Choice(
        kind=kind,
        steps_of=steps_of,
        tables=tables,
        host_ns=None if host_ms is None else round(host_ms * _NS_PER_MS),
        fitted="launch_ns" if launching else "host_ns",
        overrides=tuple(overrides),
    )


def _draw(done: Sequence[Validation], folder: Path) -> list[Path]:
    from experiments.errors import ResultError
    from experiments.validate_figures import draw_validation  # seaborn is slow to import

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultError(f"{folder}: cannot be made ({error.strerror})") from None
    return [path for each in done for path in draw_validation(each, folder)]


def _write(reports: list[dict[str, Any]], path: Path) -> None:
    import json

    from experiments.files import complete

    with complete(path) as unfinished:
        unfinished.write_text(json.dumps(reports, indent=1, allow_nan=False) + "\n")


main = make_app(validate)

if __name__ == "__main__":
    main()
