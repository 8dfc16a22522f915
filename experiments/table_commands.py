"""`pagesim table import` and `pagesim table show`: latency tables from others' measurements."""

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
    _show(table)
    typer.echo(f"\n{out}: use it with latency: {{kind: table, path: {out}}}")


def show(
    file: Annotated[Path, typer.Argument(metavar="FILE.parquet", help="A latency table.")],
) -> None:
    """Show what a latency table holds, and how well times between its points are guessed."""
    with exits():
        from calibrate.table import read_table

        table = read_table(file)
    _show(table)


def _show(table: Table) -> None:
    from rich.console import Console

    from experiments.table_screen import show_table

    show_table(table, Console(width=100))


main = make_app(
    show,
    name="table",
    help="Latency tables: make them of others' measurements, look into them.",
    no_args_is_help=True,
)
main.command("import")(import_profile)

if __name__ == "__main__":
    main()
