"""`pagesim calibrate show` and `import`: latency tables looked at, and made of others' profiles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.exits import exits, make_app

if TYPE_CHECKING:
    from calibrate.table import Table

_DEVICE_HELP = "A shipped GPU's name; for aiconfigurator."


def import_profile(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="llmservingsim, aiconfigurator or vidur.")
    ],
    path: Annotated[
        Path | None,
        typer.Argument(metavar="[FOLDER]", help="The profile; none: the installed wheel."),
    ] = None,
    *,
    model: Annotated[str, typer.Option(help="A shipped model's name, or a config.json.")],
    out: Annotated[Path, typer.Option(metavar="FILE.parquet", help="The table.")],
    device: Annotated[str | None, typer.Option(help=_DEVICE_HELP)] = None,
    tensor_parallel_size: Annotated[int, typer.Option(min=1, help="GPUs of one engine.")] = 1,
    dtype: Annotated[
        str | None, typer.Option(help="Of weights, for aiconfigurator: bfloat16 or fp8.")
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="Of vLLM, for aiconfigurator; none: the newest.")
    ] = None,
    modelled_attention: Annotated[
        bool, typer.Option(help="What aiconfigurator has not measured of FlashAttention-2.")
    ] = True,
) -> None:
    """Make a latency table of another project's measurements."""
    with exits():
        from calibrate.device import load_device
        from calibrate.model import load_model
        from experiments.build_table import import_table
        from experiments.explain import explain
        from experiments.files import complete
        from experiments.latency_config import ImportedLatency

        values = {
            "kind": "imported",
            "source": source,
            "path": None if path is None else str(path),
            "dtype": dtype,
            "version": version,
            "modelled_attention": modelled_attention,
        }
        with explain(values, None):
            options = ImportedLatency.model_validate(values)
        table = import_table(
            options,
            load_model(model),
            None if device is None else load_device(device),
            tensor_parallel_size=tensor_parallel_size,
        )
        with complete(out) as unfinished:
            table.write(unfinished)
        show_tables([table])
    typer.echo(f"\n{out}: use it with latency: {{kind: table, path: {out}}}")


def show(
    files: Annotated[list[Path], typer.Argument(metavar="TABLE...", help="Latency tables.")],
    device: Annotated[
        str | None, typer.Option(help="Hold times against this GPU's peaks; none: the table's own.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw times, rates, stairs.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE.json", help="All figures, all regions.")
    ] = None,
) -> None:
    """Show what tables hold, how well they are interpolated, and how near they come to the peak.

    Further tables are compared with the first, point by point.
    """
    with exits():
        from calibrate.table import read_table
        from experiments.blocks_files import check_file

        check_file(figure, option="--figure", suffixes=(".png",))
        check_file(json_file, option="--json", suffixes=(".json",))
        tables = [read_table(file) for file in files]
        show_tables(tables, device=device, figure=figure, json_file=json_file)


def show_tables(
    tables: list[Table],
    *,
    device: str | None = None,
    figure: Path | None = None,
    json_file: Path | None = None,
) -> None:
    """Print what tables hold, and write the figure and the JSON that are asked for."""
    from calibrate.device import load_device
    from experiments.files import complete
    from experiments.table_compare import show_against
    from experiments.table_report import as_json, hold_against, look_at, name_apart
    from experiments.table_screen import show_table
    from experiments.terminal import open_screen

    named = name_apart(tables)
    peaks = None if device is None else load_device(device)
    reports = [look_at(table, peaks) for table in named]
    pairs = [hold_against(named[0], other) for other in named[1:]]
    if figure is not None:
        from experiments.table_figure import draw_tables

        with complete(figure) as unfinished:
            draw_tables(reports, pairs, unfinished)
    if json_file is not None:
        with complete(json_file) as unfinished:
            unfinished.write_text(as_json(reports, pairs), encoding="utf-8")
    screen = open_screen()
    for report in reports:
        show_table(report, screen, several=len(reports) > 1)
    for pair in pairs:
        show_against(pair, screen)
    for what, written in (("figure", figure), ("json", json_file)):
        if written is not None:
            screen.print(f"{what}: {written}", highlight=False, markup=False, soft_wrap=True)


main = make_app(show)

if __name__ == "__main__":
    main()
