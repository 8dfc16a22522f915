"""`python -m traces.inspect FILE` and `pagesim trace inspect FILE`: what a trace is like."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.exits import exits, make_app

if TYPE_CHECKING:
    from experiments.config import Config
    from traces.schema import Trace

_CONFIGS = (".yaml", ".yml")


def inspect(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A trace file, or a config, for the trace it names."),
    ],
    kind: Annotated[
        str, typer.Option(help="The file's format; auto: as its first line shows.")
    ] = "auto",
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="How to read it, as a config says it: trace.jitter_grid_ms=3000.",
        ),
    ] = None,
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

        from rich.text import Text

        from experiments.files import complete
        from experiments.terminal import count_aloud, open_screen
        from experiments.trace_screen import show_trace
        from traces.statistics import describe, read_columns

        _check_outputs(json, figure)
        trace, form = _open(file, kind, overrides or ())
        columns = read_columns(count_aloud(trace, f"reading {trace.name}"))
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


def _open(file: Path, kind: str, overrides: Iterable[str]) -> tuple[Trace, str]:
    """The trace, and how its format is called."""
    from experiments.build_trace import build_trace
    from experiments.config import load_config
    from experiments.errors import ConfigError

    if file.suffix in _CONFIGS:
        if kind != "auto":
            raise ConfigError(f"--kind {kind}: {file} is a config, which says the kind itself")
        config = load_config(file, overrides=overrides)
        return build_trace(config), f"{config.trace.kind}, as {file} describes it"
    config = _describe(file, kind, overrides)
    form: str = config.trace.kind
    if getattr(config.trace, "at_once", False):
        form += ", which has no arrival times: all at once (trace.arrivals_per_second=N spreads it)"
    return build_trace(config), form


def _describe(file: Path, kind: str, overrides: Iterable[str]) -> Config:
    """A config of this file: the section of its kind, and what the command line adds."""
    from experiments.config import parse_config
    from experiments.errors import ConfigError
    from experiments.source import Source
    from traces.file import TraceFile
    from traces.reader import FORMATS, lacks_times, recognise

    if kind == "auto":
        kind = recognise(TraceFile(file))
    if kind not in FORMATS:
        raise ConfigError(f"--kind {kind}: allowed: auto, {', '.join(FORMATS)}")
    # The file stands where a config would, which has no lines here to point at.
    source = Source(file, text="{}")
    trace: dict[str, object] = {"kind": kind, "path": str(file)}
    source.values["trace"] = trace
    for assignment in overrides:
        source.override(assignment)
    if lacks_times(kind) and "arrivals_per_second" not in trace:
        trace.setdefault("at_once", True)
    return parse_config(source.values, source=source)


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


main = make_app(inspect)

if __name__ == "__main__":
    main()
