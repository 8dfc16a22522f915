"""`pagesim calibrate compare`: a measured table against others, the GPU's ceilings and itself."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.exits import exits, make_app

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table as Grid

    from calibrate.ceilings import Decode
    from calibrate.device import Device
    from calibrate.table import Table
    from calibrate.table_seen import Seen

_MOST_ROWS = 15
_LEAST = "over the least time"


def compare_tables(
    files: Annotated[
        list[Path], typer.Argument(metavar="TABLE...", help="The measured one; then others.")
    ],
    *,
    device: Annotated[
        str | None, typer.Option(help="Whose ceilings; none: what the table was measured on.")
    ] = None,
    tb_per_s: Annotated[
        float | None, typer.Option(min=0.001, help="A copy's, as measured; none: the datasheet's.")
    ] = None,
    tflop_per_s: Annotated[
        float | None, typer.Option(min=0.001, help="Of matrices, likewise.")
    ] = None,
    decode: Annotated[
        str, typer.Option(metavar="BATCHxCONTEXT", help="Shown as a share of the bandwidth.")
    ] = "64x4096",
    beyond: Annotated[
        float, typer.Option(min=0, help="Percent off from another table, to be listed.")
    ] = 15.0,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE.csv", help="Every ratio of every point.")
    ] = None,
) -> None:
    """Hold a measured table against what the GPU can do, against itself, and against other tables.

    By operator and size: measured over the least possible time, small KV caches over 16 bits, and
    each other table over the first; then the points that are far off.
    """
    with exits():
        from calibrate.ceilings import compare_caches, far_off, make_ceiling
        from calibrate.table import read_table
        from experiments.blocks_files import check_file
        from experiments.table_compare import show_against
        from experiments.table_report import hold_against, name_apart
        from experiments.terminal import open_screen

        check_file(csv_file, option="--csv", suffixes=(".csv",))
        batch, context = _parse_decode(decode)
        first, *others = name_apart([read_table(file) for file in files])
        screen = open_screen()
        found = _find_device(first, device)
        kept: list[tuple[str, Sequence[Seen]]] = []
        screen.print(f"{first.name}: {first.provenance.source}", style="bold")
        if found is None:
            told = f"! {first.provenance.device} is no shipped device: no ceilings; --device names"
            screen.print(f"{told} one", style="yellow")
        else:
            ceiling = make_ceiling(
                found,
                bytes_per_s=None if tb_per_s is None else tb_per_s * 1e12,
                flop_per_s=None if tflop_per_s is None else tflop_per_s * 1e12,
            )
            kept += _hold(first, ceiling)
            screen.print(*_tabulate(kept, _LEAST), "")
            screen.print(_list_decodes(first, ceiling, batch, context), "")
        caches = [(each.what, each.ratios) for each in compare_caches(first)]
        if caches:
            screen.print(*_tabulate(caches, "KV cache"), "")
            kept += caches
        for other in others:
            pair = hold_against(first, other)
            show_against(pair, screen)
            for comparison in pair.found:
                what = f"{other.name} over {first.name}, {comparison.what}"
                kept.append((what, comparison.ratios))
                far = far_off(comparison.ratios, beyond / 100)
                screen.print(f"\nmore than {beyond:g} % off: {len(far):,} points", highlight=False)
                if far:
                    screen.print(_list_far(far), "")
        if csv_file is not None:
            _write(kept, csv_file)
            screen.print(f"csv: {csv_file}", highlight=False, markup=False, soft_wrap=True)


def _parse_decode(text: str) -> tuple[int, int]:
    from experiments.errors import ConfigError

    batch, by, context = text.partition("x")
    if not (by and batch.isascii() and batch.isdigit() and context.isascii() and context.isdigit()):
        raise ConfigError(f"--decode: found {text!r}; allowed: 64x4096, decodes and their context")
    return int(batch), int(context)


def _find_device(table: Table, name: str | None) -> Device | None:
    from calibrate.device import load_device
    from calibrate.table_peak import device_of

    return device_of(table) if name is None else load_device(name)


def _hold(table: Table, ceiling: Device) -> Iterator[tuple[str, Sequence[Seen]]]:
    """Of further KV caches attention only: the rest is the same."""
    from calibrate.ceilings import hold_against_ceiling

    bandwidth, flops = ceiling.bandwidth_bytes_per_s, ceiling.bf16_flop_per_s
    rates = f"{bandwidth / 1e12:g} TB/s, {flops / 1e12:g} TFLOP/s"
    for at, (what, kind) in enumerate(table.kinds().items()):
        seen = hold_against_ceiling(kind, ceiling)
        ratios = [each for each in seen if not at or each.operator.startswith("attention")]
        yield f"{what}\nmeasured over the least time at {rates}", ratios


def _tabulate(kept: Iterable[tuple[str, Sequence[Seen]]], what: str) -> Iterator[RenderableType]:
    """Below 1 a point is less than what it is held against: for a ceiling that cannot be."""
    from rich.text import Text

    from calibrate.table_seen import say_point, summarise
    from experiments.table_screen import make_grid, name_of, rows_of, say_size

    for title, ratios in kept:
        grid = make_grid(what, "size", "points", "least", "median", "most", "at")
        for row in rows_of(summarise(ratios)):
            grid.add_row(
                name_of(row.operator, row.variant),
                say_size(row),
                f"{row.points:,}",
                *(map(_say_ratio, (row.least, row.median, row.most))),
                say_point(row.most_at),
                style="yellow" if what == _LEAST and row.least < 1 else None,
            )
        yield Text(f"\n{title}", style="bold cyan")
        yield grid


def _say_ratio(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 100 else f"{ratio:,.0f}"


def _list_decodes(table: Table, ceiling: Device, batch: int, context: int) -> Grid:
    from calibrate.ceilings import find_decodes
    from experiments.table_screen import make_grid
    from experiments.words import say_share, say_time

    found: list[Decode] = find_decodes(table, ceiling, batch=batch, context=context)
    title = f"decode of {batch} x {context:,}, one layer"
    grid = make_grid(title, "time", "K and V", "TB/s", "of the bandwidth", "over the first")
    for each in found:
        grid.add_row(
            each.kv_dtype,
            say_time(each.ns / 1e6),
            f"{each.moved / 1e6:,.0f} MB",
            f"{each.moved / each.ns / 1e3:.2f}",
            say_share(each.share),
            f"{each.ns / found[0].ns:.2f}",
        )
    if not found:
        grid.add_row("not measured")
    return grid


def _list_far(far: list[Seen]) -> Grid:
    from calibrate.table_seen import say_point
    from experiments.table_screen import make_grid, name_of

    grid = make_grid("the farthest", "second / first", "at")
    for seen in far[:_MOST_ROWS]:
        grid.add_row(
            name_of(seen.operator, seen.variant), f"{seen.value:.2f}", say_point(seen.point)
        )
    if len(far) > _MOST_ROWS:
        grid.add_row(f"{len(far) - _MOST_ROWS:,} more; --csv FILE lists all")
    return grid


def _write(kept: Sequence[tuple[str, Sequence[Seen]]], path: Path) -> None:
    from experiments.files import complete

    axes = ("tokens", "rows", "batch", "context", "chunk", "chunk_context", "blocks")
    with (
        complete(path) as unfinished,
        unfinished.open("w", encoding="utf-8", newline="") as file,
    ):
        rows = csv.writer(file)
        rows.writerow(("comparison", "operator", "variant", *axes, "ratio"))
        for what, ratios in kept:
            for seen in ratios:
                place = [seen.point.get(axis, "") for axis in axes]
                rows.writerow((what, seen.operator, seen.variant, *place, f"{seen.value:.6g}"))


main = make_app(compare_tables)

if __name__ == "__main__":
    main()
