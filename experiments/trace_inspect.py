"""`python -m traces.inspect FILE` and `pagesim trace inspect FILE`: what a trace is like."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.exits import exits, make_app

if TYPE_CHECKING:
    from rich.console import Console

    from traces.schema import Trace
    from traces.statistics import Columns

_CONFIGS = (".yaml", ".yml")


def inspect(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A trace file, or a config, for the trace it names."),
    ],
    kind: Annotated[
        str, typer.Option(help="The file's format; auto: as its first line shows.")
    ] = "auto",
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the numbers there.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Also draw them, as PNG.")
    ] = None,
    block_size: Annotated[
        int, typer.Option(min=1, help="Tokens per block of the cache that keeps whole blocks.")
    ] = 16,
) -> None:
    """Show how bursty a trace is, how long its requests are, and how much of it repeats."""
    with exits():
        from dataclasses import asdict

        from rich.console import Console
        from rich.text import Text

        from experiments.files import complete
        from experiments.terminal import open_screen
        from experiments.trace_screen import show_trace
        from traces.statistics import describe

        _check_outputs(json, figure)
        trace, form = _open(file, kind)
        columns = _read(trace, Console(stderr=True))
        statistics = describe(trace, columns, block_size=block_size)
        if json is not None:
            _write_json(json, {"format": form, **asdict(statistics)})
        if figure is not None:
            from experiments.trace_figure import draw_trace

            with complete(figure) as unfinished:
                draw_trace(statistics, columns, unfinished)
        screen = open_screen()
        show_trace(statistics, screen, form=form)
        for path in (json, figure):
            if path is not None:
                screen.print(Text.assemble("written: ", (str(path), "bold cyan")), soft_wrap=True)


def _open(file: Path, kind: str) -> tuple[Trace, str]:
    """The trace, and how its format is called."""
    from experiments.errors import ConfigError
    from traces.reader import FORMATS, open_trace

    if file.suffix in _CONFIGS:
        from experiments.build_trace import build_trace
        from experiments.config import load_config

        if kind != "auto":
            raise ConfigError(f"--kind {kind}: {file} is a config, which says the kind itself")
        config = load_config(file)
        return build_trace(config), f"{config.trace.kind}, as {file} describes it"
    try:
        trace = open_trace(file, kind=kind)
    except ValueError as error:
        if kind == "auto" or kind in FORMATS:
            raise
        raise ConfigError(f"--kind: {error}") from None
    return trace, trace.kind


def _check_outputs(json: Path | None, figure: Path | None) -> None:
    """Before the work: what is to be written must have a place."""
    from experiments.errors import ConfigError

    for option, path in (("--json", json), ("--figure", figure)):
        if path is not None and not path.parent.is_dir():
            raise ConfigError(f"{option} {path}: no such folder: {path.parent}")
    if figure is not None and figure.suffix != ".png":
        raise ConfigError(f"--figure {figure}: found {figure.suffix!r}; allowed: .png")


def _write_json(path: Path, content: dict[str, object]) -> None:
    from json import dumps

    from experiments.files import complete

    with complete(path) as unfinished:
        unfinished.write_text(dumps(content, indent=2) + "\n", encoding="utf-8")


def _read(trace: Trace, errors: Console) -> Columns:
    """One pass, with a count of requests on a terminal."""
    from rich.progress import track

    from traces.statistics import read_columns

    watched = track(
        trace,
        description=f"reading {trace.name}",
        console=errors,
        transient=True,
        disable=not errors.is_terminal,
    )
    return read_columns(watched)


main = make_app(inspect)

if __name__ == "__main__":
    main()
