"""`python -m traces.generate` and `pagesim trace generate`: a config's trace as a file."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.exits import exits, make_app

if TYPE_CHECKING:
    from rich.table import Table

    from experiments.config import Config
    from sim.request import Request

_ENDINGS = (".jsonl", ".jsonl.gz")
_DEFAULT_REQUESTS = 1000


def generate(
    config: Annotated[
        Path | None,
        typer.Argument(
            metavar="[CONFIG]",
            help="A YAML file with a trace, and transforms and a seed if you like; what it says"
            " of engines is not read. Left out: 1,000 requests with the rate and the lengths of"
            " Azure's conversation trace.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="A new file: .jsonl, or .jsonl.gz.")
    ] = Path("trace.jsonl"),
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a value: trace.arrivals.rate=20."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Write the requests that a config describes as a trace file in pagesim's own format."""
    with exits():
        import time

        from experiments.build_trace import build_trace
        from experiments.errors import ConfigError

        _check_output(out, force=force)
        described = _load(config, overrides or ())
        trace = build_trace(described)
        seen = _Seen()
        started_s = time.perf_counter()
        try:
            _write(out, seen.watch(trace), described)
        except OSError as error:
            raise ConfigError(f"--out {out}: cannot be written ({error.strerror})") from None
        took_s = time.perf_counter() - started_s
        _show(seen, trace.notes, out=out, took_s=took_s)


def _show(seen: _Seen, notes: Mapping[str, int], *, out: Path, took_s: float) -> None:
    import yaml
    from rich.text import Text

    from experiments.terminal import open_screen

    screen = open_screen()
    screen.print(seen.tabulate())
    for what, number in notes.items():
        screen.print(Text(f"! {what}: {number:,}", "yellow"))
    requests = len(seen.arrivals_ns)
    speed = f"{requests:,} requests in {took_s:.1f} s, {requests / took_s:,.0f} a second"
    screen.print(Text(speed, "dim"))
    screen.print(Text.assemble("written: ", (str(out), "bold cyan")), soft_wrap=True)
    section = {"kind": "native", "path": str(out)}
    flow = yaml.safe_dump(
        section, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6
    )
    screen.print(Text(f"replay it with trace: {flow.strip()}", "dim"), soft_wrap=True)


def _check_output(out: Path, *, force: bool) -> None:
    """Before the work: the file must have a place."""
    from experiments.errors import ConfigError

    if not out.name.endswith(_ENDINGS):
        allowed = " or ".join(_ENDINGS)
        raise ConfigError(f"--out {out}: found {out.name!r}; allowed: a name in {allowed}")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: no such folder: {out.parent}")
    if out.exists() and not force:
        raise ConfigError(f"--out {out}: exists; allowed: another name, or --force to replace it")


def _load(path: Path | None, overrides: Iterable[str]) -> Config:
    import yaml

    from experiments.config import load_config, parse_config
    from experiments.source import Source
    from experiments.workload_config import SyntheticTrace

    if path is not None:
        return load_config(path, overrides=overrides)
    # Spelled out, so that --set may replace any part of it.
    default = SyntheticTrace(kind="synthetic", requests=_DEFAULT_REQUESTS)
    values = {"trace": default.model_dump(mode="json", exclude_none=True)}
    source = Source("the default trace", text=yaml.safe_dump(values))
    for assignment in overrides:
        source.override(assignment)
    return parse_config(source.values, source=source)


def _write(out: Path, requests: Iterable[Request], config: Config) -> None:
    from experiments.terminal import count_aloud
    from traces.native import write_trace

    total = None if config.transforms else getattr(config.trace, "requests", None)
    write_trace(out, count_aloud(requests, f"writing {out.name}", total=total))


class _Seen:
    """What went by: eight bytes for each number, so that quantiles are exact."""

    def __init__(self) -> None:
        self.arrivals_ns = array("q")
        self._prompts = array("q")
        self._outputs = array("q")

    def watch(self, requests: Iterable[Request]) -> Iterator[Request]:
        for request in requests:
            self.arrivals_ns.append(request.arrival_ns)
            self._prompts.append(request.prompt_tokens)
            self._outputs.append(request.output_tokens)
            yield request

    def tabulate(self) -> Table:
        import numpy as np

        from experiments.screen import make_table
        from experiments.words import say_count, say_time

        gaps_s = np.diff(np.array(self.arrivals_ns)) / 1e9
        span_s = float(gaps_s.sum())
        table = make_table(f"{len(self.arrivals_ns):,} requests in {span_s:,.1f} s")
        for column in ("mean", "CV", "p50", "p99", "max"):
            table.add_column(column, justify="right")
        columns = (
            ("gaps between arrivals", gaps_s * 1e3, say_time),
            ("prompt tokens", np.array(self._prompts), say_count),
            ("answer tokens", np.array(self._outputs), say_count),
        )
        for label, values, say in columns:
            if not len(values):
                continue
            mean = values.mean()
            shown = [mean, *np.percentile(values, (50, 99)), values.max()]
            cells = [say(float(value)) for value in shown]
            cv = f"{values.std() / mean:.2f}" if mean else "-"
            table.add_row(label, cells[0], cv, *cells[1:])
        return table


main = make_app(generate)

if __name__ == "__main__":
    main()
