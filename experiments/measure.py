"""`pagesim calibrate run` and `convert`: a latency table measured here, with real kernels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from experiments.exits import exits, make_app

_UNITS = {"": 1.0, "s": 1.0, "min": 60.0, "h": 3600.0}
_KV_HELP = "auto, fp8 or int8; several times, or with commas."


def measure_kernels(
    model: Annotated[str, typer.Option(help="A shipped model's name, or a config.json.")],
    device: Annotated[str, typer.Option(help="cuda, cuda:1 or cpu.")] = "cuda",
    provider: Annotated[
        str | None, typer.Option(help="Of kernels; none: triton on CUDA, torch elsewhere.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    kv_cache_dtype: Annotated[list[str] | None, typer.Option(metavar="KIND", help=_KV_HELP)] = None,
    budget: Annotated[
        str, typer.Option(metavar="TIME", help="What fits is measured: 90s, 5min, 1h.")
    ] = "4min",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.parquet", help="The table; what it is made of lies beside it."),
    ] = None,
    *,
    max_tokens: Annotated[int, typer.Option(help="Scheduled in one step.")] = 8192,
    max_batch: Annotated[int, typer.Option(help="Decodes in one step.")] = 256,
    max_context: Annotated[int, typer.Option(help="Of one sequence.")] = 32_768,
    pool_tokens: Annotated[
        int | None, typer.Option(help="Of the KV cache; none: what memory holds.")
    ] = None,
    block_size: Annotated[int, typer.Option(help="Tokens of a KV block.")] = 16,
    steps: Annotated[int, typer.Option(help="Whole steps to correct the table with.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the order, the steps and the numbers.")] = 0,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="PART", help="An operator, or steps; several times: no others."),
    ] = None,
) -> None:
    """Measure a latency table on this machine.

    A run that was stopped goes on where it was when the same is asked again.
    """
    table = out or Path(f"{Path(model).stem}-{device.replace(':', '-')}.parquet")
    lines = table.with_suffix(".jsonl")
    with exits(stopped=f"{lines} keeps what was measured; the same command goes on"):
        from calibrate.kernels.providers import load_kernels
        from experiments.blocks_files import check_file

        check_file(table, option="--out", suffixes=(".parquet",))
        load_kernels("torch")
        from calibrate.llama_shape import LlamaShape
        from calibrate.measure.session import Options, measure
        from calibrate.model import read_model

        caches = [name.strip() for each in kv_cache_dtype or ["auto"] for name in each.split(",")]
        options = Options(
            device=device,
            provider=provider,
            dtype=dtype,
            kv_cache_dtypes=tuple(caches),
            budget_s=parse_time(budget),
            max_tokens=max_tokens,
            max_batch=max_batch,
            max_context=max_context,
            pool_tokens=pool_tokens,
            block_size=block_size,
            steps=steps,
            seed=seed,
            only=tuple(only or ()),
        )
        shape = read_model(model, LlamaShape.from_config)
        with _bar() as watch:
            measure(shape, options, lines, watch=watch, announce=typer.echo)
        typer.echo(f"{lines}: what was measured, line by line")
        _convert([lines], table)


def convert(
    lines: Annotated[
        list[Path], typer.Argument(metavar="FILE.jsonl...", help="What `calibrate run` measured.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.parquet", help="The table; none: beside the first.")
    ] = None,
) -> None:
    """Make the latency table of a measurement, also of one that was stopped, or made in parts."""
    with exits():
        from experiments.blocks_files import check_file

        table = out or lines[0].with_suffix(".parquet")
        check_file(table, option="--out", suffixes=(".parquet",))
        _convert(lines, table)


def _convert(lines: list[Path], out: Path) -> None:
    from calibrate.measured import make_table
    from calibrate.measured_parts import read_parts
    from experiments.files import complete
    from experiments.table_commands import show_tables

    table = make_table(read_parts(lines))
    with complete(out) as unfinished:
        table.write(unfinished)
    show_tables([table])
    typer.echo(f"\n{out}: use it with latency: {{kind: table, path: {out}}}")


def parse_time(text: str) -> float:
    """Seconds of 90, 90s, 5min, 1.5h. Raises ConfigError."""
    from experiments.errors import ConfigError

    matched = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h|)", text.strip())
    if matched is None:
        raise ConfigError(f"--budget: found {text!r}; allowed: 90s, 5min, 1h")
    return float(matched[1]) * _UNITS[matched[2]]


@contextmanager
def _bar() -> Iterator[Callable[[int, int, str], None]]:
    """A bar with the time that is left, where stderr is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.completed:,} of {task.total:,}"),
        BarColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("left at most, {task.description}"),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=1)

        def watch(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        yield watch


main = make_app(measure_kernels)
convert_main = make_app(convert)

if __name__ == "__main__":
    main()
